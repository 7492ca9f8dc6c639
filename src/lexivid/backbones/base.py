"""The small interface that every vision-language model stands behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lexivid.backbones.host import random_state_kept
from lexivid.backbones.preprocess import ImageProcessing
from lexivid.errors import ModelError

WORLD_BACKBONES = ("world", "world-1", "world-2")
"""Checkpoints that `lexivid pretrain` made, which come with the package; each is a folder beside this file."""

BUILT_IN = ("lite", *WORLD_BACKBONES)
"""Names that mean these models even where a folder is called so."""


class Backbone(Protocol):
    """A picture encoder and a text encoder that share one space.

    Attributes:
        name: as the user asked for it ("lite", "openai/clip-vit-base-patch16", a folder).
        fingerprint: identifies the weights; label vectors are cached under it.
        embedding_dim: D.
        temperature: the tau of softmax(cosine / tau) that suits this model.
        images: how it wants its pictures.
        default_templates: name of the template set that suits its text encoder (see `lexivid.labels`).
        english_only: true where the text encoder was trained on English alone.
    """

    name: str
    fingerprint: str
    embedding_dim: int
    temperature: float
    images: ImageProcessing
    default_templates: str
    english_only: bool
    device: torch.device
    dtype: torch.dtype

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 crops -> (N, D) float32, unit length, on the CPU."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """K sentences -> (K, D) float32, unit length, on the CPU."""
        ...

    def is_truncated(self, text: str) -> bool:
        """Whether the text encoder reads only the beginning of this sentence."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """Words that the text encoder has no notion of at all."""
        ...


def weights_of(backbone: Backbone) -> str:
    """Identifies the weights, in whatever precision they are computed with: the fingerprint without the precision.

    Two precisions of one model differ by rounding, so what was measured or computed with one holds for the other.
    """
    return backbone.fingerprint.removesuffix(f"-{str(backbone.dtype).removeprefix('torch.')}")


def lasting_name(name: str, commit: str | None = None) -> str:
    """A model's name that means the same from any working directory and later on.

    Args:
        name: as `load_backbone` takes it.
        commit: of a model of the Hub, where it is known.

    Returns:
        The absolute path of a folder, "owner/name@commit", or the name as it is.
    """
    if name in BUILT_IN:
        return name
    if Path(name).is_dir():
        return str(Path(name).resolve())
    source, _, revision = name.partition("@")
    return f"{source}@{commit or revision}" if commit or revision else source


def name_of(backbone: Backbone) -> str:
    """The `lasting_name` of a backbone that is loaded."""
    return lasting_name(backbone.name, getattr(backbone, "commit", None))


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto": CUDA, else Apple's MPS, else the CPU. Raises `ModelError` for a device that this machine lacks."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {str(device)!r} cannot be used ({reason}): choose auto, cpu, cuda or mps") from None
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """ "auto": half precision where the processor is faster with it, else float32.

    bfloat16 on CPUs with AVX-512-BF16 or AMX and on CUDA cards that have it, float16 on older cards and MPS.
    """
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype in named:
        return named[dtype]
    if dtype != "auto":
        raise ModelError(f"unknown dtype {dtype!r}: choose auto, {', '.join(named)}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "mps":
        return torch.float16
    # Private queries of torch: where a release has dropped them, float32 is the safe answer.
    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = any(getattr(torch.cpu, query, bool)() for query in queries)
    return torch.bfloat16 if fast else torch.float32


@random_state_kept()
def load_backbone(name: str, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> Backbone:
    """Load a backbone by name.

    Args:
        name: "lite", "world" (of the synthetic world alone; "world-1" and "world-2" are other seeds of it), a model of
            the Hugging Face Hub ("openai/clip-vit-base-patch16", optionally with "@revision"), or a folder in that
            format.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "bfloat16" or "float16".

    Raises:
        ModelError: unknown, not on this machine, or not of a supported family.
        MissingExtraError: `lite` without its weight packages.
    """
    chosen_device = choose_device(device)
    if name == "lite":
        from lexivid.backbones.lite import LiteBackbone

        # Its network is small and convolutional: bfloat16 gains nothing on a CPU.
        exact = torch.float32 if dtype == "auto" else choose_dtype(dtype, chosen_device)
        return LiteBackbone.load(device=chosen_device, dtype=exact)
    from lexivid.backbones.clip import ClipBackbone

    chosen_dtype = choose_dtype(dtype, chosen_device)
    folder = Path(__file__).parent / name if name in WORLD_BACKBONES else None
    return ClipBackbone.load(name, device=chosen_device, dtype=chosen_dtype, folder=folder)
