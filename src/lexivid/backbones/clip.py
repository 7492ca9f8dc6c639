"""CLIP-family backbones (CLIP, MetaCLIP, LAION CLIP, SigLIP, SigLIP 2) through transformers, which defines the towers.

In: crops (N, 3, S, S) uint8, sentences. Out: unit-length embeddings (N, D), (K, D) float32.
A model comes from the Hugging Face Hub, from its cache on this machine, or from a folder in the same format.
Weights are read from safetensors only, never from pickle files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones.host import quiet_transformers
from lexivid.backbones.hub import commit_of, is_hub_name, locate
from lexivid.backbones.preprocess import ImageProcessing
from lexivid.errors import ModelError

# The families whose two towers share one space and take fixed-size pictures.
FAMILIES = ("clip", "siglip", "metaclip_2")
_SIGLIP_LIKE = ("siglip",)
_IMAGE_BATCH = 32
_TEXT_BATCH = 64
_SMALL_FILE = 16 << 20
# torch's fused attention gains nothing on so few, and on a CPU its way back through bfloat16 is slow: a training step
# of the world's tower takes 103 ms with it and 32 ms without (128 pictures, 16 patches, one core with AVX-512-BF16).
_FEW_PATCHES = 64
# PIL's numbers, as preprocessor_config.json stores them.
_RESAMPLE = {2: "bilinear", 3: "bicubic"}


class ClipBackbone:
    """A CLIP-family model as a `Backbone`."""

    english_only = False  # unknown for a model of the Hub: no warning is better than a wrong one

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        images: ImageProcessing,
        *,
        name: str,
        fingerprint: str,
        commit: str | None = None,
    ) -> None:
        """model: of transformers (CLIPModel, SiglipModel ...); it is frozen here and set to evaluation mode.

        commit: of a model of the Hub.
        """
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.images = images
        self.name, self.commit = name, commit
        self.family: str = self.model.config.model_type
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.fingerprint = f"{fingerprint}-{str(self.dtype).removeprefix('torch.')}"
        # A checkpoint of this project may name its own; no other name is taken from a file that a stranger wrote.
        is_world = getattr(self.model.config, "lexivid_templates", None) == "world"
        self.default_templates = "world" if is_world else "clip-video"
        self.temperature = float((-self.model.logit_scale.detach().float()).exp())
        text_config: Any = self.model.config.text_config
        self.max_text_tokens = int(text_config.max_position_embeddings)
        self.embedding_dim = int(
            (getattr(text_config, "projection_size", 0) or text_config.hidden_size)
            if self.family in _SIGLIP_LIKE
            else self.model.config.projection_dim
        )

    @classmethod
    @quiet_transformers()
    def load(
        cls, name: str, *, device: torch.device, dtype: torch.dtype = torch.float32, folder: Path | None = None
    ) -> ClipBackbone:
        """Load "owner/name", "owner/name@revision" or a folder.

        Args:
            folder: where the model lies, for one whose name does not say so.

        Raises:
            ModelError: not found, not downloadable, no safetensors, or a model of another kind.
        """
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        source, _, revision = name.partition("@") if not Path(name).exists() else (name, "", "")
        source, revision = (str(folder), "") if folder else (source, revision)
        where = _locate(source, revision or None)
        try:
            config = AutoConfig.from_pretrained(source, **where)
            if commit := commit_of(source, revision or None):
                where["revision"] = commit  # of one state all, also where it changes meanwhile
            if config.model_type not in FAMILIES:
                raise ModelError(
                    f"model {name!r} is of the kind {config.model_type!r}; Lexivid needs one whose pictures and texts "
                    f"share a space: {', '.join(FAMILIES)}"
                )
            model = AutoModel.from_pretrained(source, **where, use_safetensors=True, dtype=dtype)
            if device.type == "cpu" and _num_patches(config) <= _FEW_PATCHES:
                model.set_attn_implementation("eager")
            tokenizer = AutoTokenizer.from_pretrained(source, **where)
            images = _read_image_processing(source, where, config)
        except ModelError:
            raise
        except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"model {name!r} could not be loaded: {reason}. It must hold config.json, model.safetensors "
                "(no pickle is read), a tokenizer and preprocessor_config.json."
            ) from error
        fingerprint = _fingerprint(source, commit)
        return cls(model.to(device), tokenizer, images, name=name, fingerprint=fingerprint, commit=commit)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 -> (N, D) float32 on the CPU, unit length."""
        parts = []
        for batch in pixels.split(_IMAGE_BATCH):
            values = self.images.normalise(batch.to(self.device)).to(self.dtype)
            parts.append(F.normalize(_features(self.model.get_image_features(pixel_values=values)).float(), dim=-1))
        return torch.cat(parts).cpu() if parts else torch.empty(0, self.embedding_dim)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """K sentences -> (K, D) float32 on the CPU, unit length.

        CLIP reads its sentence up to the end token with causal attention, so a batch is padded to its longest
        sentence only; SigLIP was trained on sentences padded to full length, so it gets those.
        """
        features = torch.empty(len(texts), self.embedding_dim)
        siglip = self.family in _SIGLIP_LIKE
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _TEXT_BATCH):
            chosen = order[start : start + _TEXT_BATCH]
            tokens = self.tokenizer(
                [texts[i] for i in chosen],
                padding="max_length" if siglip else True,
                truncation=True,
                max_length=self.max_text_tokens,
                return_tensors="pt",
            )
            inputs = {"input_ids": tokens["input_ids"].to(self.device)}
            if not siglip and "attention_mask" in tokens:
                inputs["attention_mask"] = tokens["attention_mask"].to(self.device)
            batch = F.normalize(_features(self.model.get_text_features(**inputs)).float(), dim=-1)
            features[torch.tensor(chosen)] = batch.cpu()
        return features

    def is_truncated(self, text: str) -> bool:
        """Whether the text encoder reads only the beginning of this sentence."""
        return len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"]) > self.max_text_tokens

    def unknown_words(self, text: str) -> list[str]:
        """Words that the tokenizer has no token for, so that the model cannot tell them from any other such word."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown == self.tokenizer.eos_token_id:  # CLIP's own reads every letter
            return []
        words = dict.fromkeys(text.split())
        return [word for word in words if unknown in self.tokenizer(word, add_special_tokens=False)["input_ids"]]


def _features(output: Any) -> Tensor:
    """transformers 4 returns the projected features themselves, transformers 5 an object that holds them."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _num_patches(config: Any) -> int:
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


def _locate(source: str, revision: str | None) -> dict[str, Any]:
    """Where transformers shall look: keyword arguments of every `from_pretrained` call.

    A folder never touches the network, nor does a cached model (see `lexivid.backbones.hub`).
    """
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise ModelError(f"folder {source!r} holds no model: config.json is missing")
        return {"local_files_only": True}
    if Path(source).exists():
        raise ModelError(f"model {source!r} is a file; name the folder that holds config.json and model.safetensors")
    if not is_hub_name(source):
        raise ModelError(
            f'unknown model {source!r}: use "lite", a folder that exists, or a model of the Hugging Face Hub '
            'such as "openai/clip-vit-base-patch16"'
        )
    return locate(source, revision)


def _read_image_processing(source: str, where: dict[str, Any], config: Any) -> ImageProcessing:
    """preprocessor_config.json as numbers. The processors themselves would need torchvision or PIL."""
    from transformers.utils import cached_file

    path = cached_file(source, "preprocessor_config.json", **where)
    raw = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    size = raw.get("size", config.vision_config.image_size)
    crop = raw.get("crop_size", config.vision_config.image_size)
    if isinstance(crop, dict):
        crop = crop.get("height", config.vision_config.image_size)
    if isinstance(size, dict) and "shortest_edge" not in size:
        if size["height"] != size["width"]:
            raise ModelError(f"model {source!r} wants pictures of {size['height']} x {size['width']}, not square")
        resize_to, fit = int(size["height"]), "squash"
    else:
        resize_to, fit = int(size["shortest_edge"] if isinstance(size, dict) else size), "short_side"
    return ImageProcessing(
        resize_to=resize_to,
        crop_size=resize_to if fit == "squash" else int(crop),
        mean=tuple(raw["image_mean"]),
        std=tuple(raw["image_std"]),
        interpolation=_RESAMPLE.get(raw.get("resample", 3), "bicubic"),  # type: ignore[arg-type]
        fit=fit,  # type: ignore[arg-type]
    )


def _fingerprint(source: str, commit: str | None) -> str:
    """The Hub's commit, or for a folder a hash of the configuration and of samples of the weights.

    Reading gigabytes at each start would cost more than the label vectors it protects, so of each large weight file
    the size, the time of its last change and 64 KiB at 8 places count. A small one counts whole, wherever it lies.
    """
    if not Path(source).is_dir():
        return f"{source}@{commit}"
    digest = hashlib.sha256((Path(source) / "config.json").read_bytes())
    for file in sorted(Path(source).glob("*.safetensors")):
        size = file.stat().st_size
        if size <= _SMALL_FILE:
            digest.update(file.read_bytes())
            continue
        digest.update(f"{file.name} {size} {file.stat().st_mtime_ns}".encode())
        with file.open("rb") as stream:
            for part in range(8):
                stream.seek(size * part // 8)
                digest.update(stream.read(65536))
    for file in sorted(Path(source).glob("token*")) + sorted(Path(source).glob("vocab*")):
        digest.update(file.read_bytes())
    return f"folder-{digest.hexdigest()[:32]}"
