"""A label encoder by name, with what identifies it: prompt ensembles and soft attributes behind one call.

open_encoder("openai/clip-vit-base-patch16")   the backbone's text encoder with its templates
open_encoder("runs/soft")                      a folder that `SoftAttributeEncoder.save` wrote
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lexivid.backbones import load_backbone
from lexivid.errors import LabelError
from lexivid.labels.bank import LabelBank
from lexivid.labels.soft_attributes import CONFIG_FILE, SoftAttributeEncoder
from lexivid.labels.templates import load_templates


@dataclass(frozen=True)
class EncoderIdentity:
    """What made label vectors. Vectors may stand side by side only where `fingerprint` is the same.

    Args:
        kind: "prompts" or "soft_attributes".
        model: as the user named it. templates: name of the sentences around a label; of "prompts" alone.
        fingerprint: of all weights and sentences that decide a vector.
    """

    kind: Literal["prompts", "soft_attributes"]
    model: str
    templates: str | None
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    def describe(self) -> str:
        """For people."""
        return f"{self.model} (soft attributes)" if self.templates is None else f"{self.model}, {self.templates}"


@dataclass(frozen=True)
class LabelEncoder:
    """`encode`: K labels -> (K, D) float32 on the CPU, unit length."""

    identity: EncoderIdentity
    encode: Callable[[Sequence[str]], Tensor]


def open_encoder(model: str, *, templates: str | None = None, device: str = "auto") -> LabelEncoder:
    """Load what turns labels into vectors.

    Args:
        model: a backbone's name (see `load_backbone`), or a folder with soft attributes.
        templates: of a backbone; None: what suits it.

    Raises:
        ModelError: no such model. LabelError: templates for soft attributes, which have none.
    """
    if (Path(model) / CONFIG_FILE).is_file():
        if templates is not None:
            raise LabelError(f"{model!r} makes soft attributes, which need no templates: leave them out")
        from lexivid.backbones.base import choose_device

        encoder = SoftAttributeEncoder.load(model, device=choose_device(device))

        def encode(labels: Sequence[str]) -> Tensor:
            with torch.inference_mode():
                return encoder(labels).float().cpu()

        return LabelEncoder(EncoderIdentity("soft_attributes", model, None, encoder.fingerprint), encode)
    # In float32 on every machine, or vectors made on one could not be added to those of another.
    backbone = load_backbone(model, device=device, dtype="float32")
    chosen = load_templates(templates or backbone.default_templates)
    bank = LabelBank(backbone)
    sentences = hashlib.sha256("\n".join(chosen.templates).encode()).hexdigest()[:16]
    identity = EncoderIdentity("prompts", model, chosen.name, f"{backbone.fingerprint}-{sentences}")
    return LabelEncoder(identity, lambda labels: bank.embed(labels, chosen))
