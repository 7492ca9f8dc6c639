"""The label vectors that a trained model compares clips with, by prompts or by its own label encoder; cached.

names (K strings) -> `prompt_cache_of` with `label_templates` -> (K, D)

Both ways a vector depends on no video and on no other label, so both are kept under what made them
(`lexivid.labels.prompt_cache`). Shapes: K labels, J unrelated phrases, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lexivid.labels.encoders.base import TrainedLabelEncoder
from lexivid.labels.prompt_cache import PromptCache
from lexivid.labels.templates import NAME_ONLY, TemplateSet, load_templates

if TYPE_CHECKING:
    from lexivid.models.trained import TrainedModel


def prompt_cache_of(model: TrainedModel) -> PromptCache:
    """The cache of the model's label vectors, to be used with `label_templates`."""
    encoder = model.label_encoder
    return PromptCache(model.backbone if encoder is None else _Texts(encoder, encoder.fingerprint))


def label_templates(model: TrainedModel) -> TemplateSet:
    """The sentences around a label: those of training, or none for a label encoder, which reads the name itself."""
    return load_templates(model.templates) if model.label_encoder is None else NAME_ONLY


@dataclass
class _Texts:
    """A label encoder as a `PromptCache` uses it."""

    encoder: TrainedLabelEncoder
    fingerprint: str

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            return self.encoder(list(texts)).float().cpu()
