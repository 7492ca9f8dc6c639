"""The small interface that every vision-language model stands behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lexivid.backbones.preprocess import ImageProcessing


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
