"""The label vectors that a trained model compares clips with, by prompts or by its own label encoder; kept in a bank.

names (K strings) -> `label_bank` with `label_templates` -> (K, D)

Both ways a vector depends on no video and on no other label, so both are kept under what made them
(`lexivid.labels.bank`). Shapes: K labels, J unrelated phrases, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lexivid.labels.background import background_vectors, short_templates
from lexivid.labels.bank import LabelBank
from lexivid.labels.templates import NAME_ONLY, TemplateSet, load_templates
from lexivid.labels.trained_encoders import TrainedLabelEncoder

if TYPE_CHECKING:
    from lexivid.models.trained import TrainedModel


def label_bank(model: TrainedModel) -> LabelBank:
    """A bank of the model's label vectors, to be asked with `label_templates`."""
    encoder = model.label_encoder
    return LabelBank(model.backbone if encoder is None else _Texts(encoder, encoder.fingerprint))


def label_templates(model: TrainedModel) -> TemplateSet:
    """The sentences around a label: those of training, or none for a label encoder, which reads the name itself."""
    return load_templates(model.templates) if model.label_encoder is None else NAME_ONLY


def standing_vectors(
    model: TrainedModel,
    names: Sequence[str],
    *,
    bank: LabelBank | None = None,
    templates: TemplateSet | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What a trained model's standings are computed from (`lexivid.models.standing`).

    Args:
        bank, templates: None: those of the functions above.
        on_progress: as in `LabelBank.embed`.

    Returns:
        Labels (K, D) and unrelated phrases (J, D), both in the same few sentences or by the same label encoder. None in
        the second place for a model with a sigmoid, which needs no such phrases, and for one that knows none.
    """
    bank, templates = bank or label_bank(model), templates or label_templates(model)
    if model.scales is not None:
        return bank.embed(names, templates, on_progress=on_progress), None
    short = short_templates(templates)
    background = background_vectors(model.backbone, bank, short, on_progress=on_progress)
    return bank.embed(names, short, on_progress=on_progress), background


@dataclass
class _Texts:
    """A label encoder as a bank asks it."""

    encoder: TrainedLabelEncoder
    fingerprint: str

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            return self.encoder(list(texts)).float().cpu()
