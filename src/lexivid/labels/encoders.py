"""A label encoder by name, with what identifies it: prompt ensembles and trained label encoders behind one call.

open_encoder("openai/clip-vit-base-patch16")   the backbone's text encoder with its templates
open_encoder("runs/soft")                      a folder of `lexivid train` with a trained label encoder
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lexivid.backbones import Backbone, load_backbone
from lexivid.backbones.base import weights_of
from lexivid.errors import LabelError
from lexivid.labels.background import short_templates
from lexivid.labels.bank import LabelBank
from lexivid.labels.templates import TemplateSet, load_templates
from lexivid.labels.trained_encoders import CONFIG_FILE, has_label_encoder, load_label_encoder

_LONG_LABEL_CHARACTERS = 100


@dataclass(frozen=True)
class EncoderIdentity:
    """What made label vectors. Vectors may stand side by side only where `fingerprint` is the same.

    Args:
        kind: "prompts", or that of a trained label encoder, such as "soft_attributes".
        model: as the user named it. templates: name of the sentences around a label; of "prompts" alone.
        fingerprint: of all weights and sentences that decide a vector.
        backbone: name of the vision-language model in whose space the vectors lie.
        backbone_weights: identifies it, see `lexivid.backbones.base.weights_of`.
        sentences: themselves, so that whoever has the vectors needs no file of templates.
    """

    kind: str
    model: str
    templates: str | None
    fingerprint: str
    backbone: str = ""
    backbone_weights: str = ""
    sentences: tuple[str, ...] = ()

    @property
    def template_set(self) -> TemplateSet | None:
        """Of "prompts"; else None."""
        return None if self.templates is None else TemplateSet(self.templates, self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"sentences": list(self.sentences)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderIdentity:
        """The reverse of `to_dict`. Raises KeyError or TypeError for what is none."""
        return cls(**{**values, "sentences": tuple(map(str, values["sentences"]))})

    def describe(self) -> str:
        """For people."""
        how = self.kind.replace("_", " ") if self.templates is None else f"sentences {self.templates!r}"
        return f"{self.model} ({how})"


@dataclass(frozen=True)
class LabelEncoder:
    """What turns labels into vectors.

    Attributes:
        encode: K labels -> (K, D) float32 on the CPU, unit length.
        encode_short: the same in the few sentences in which labels are compared with everyday words
            (`lexivid.labels.background`); None: there are no sentences.
        doubts: what of these labels is doubtful, for people; None: nothing is known.
    """

    identity: EncoderIdentity
    encode: Callable[[Sequence[str]], Tensor]
    encode_short: Callable[[Sequence[str]], Tensor] | None = None
    doubts: Callable[[Sequence[str]], list[str]] | None = None


def doubts(backbone: Backbone, labels: Sequence[str], templates: TemplateSet) -> list[str]:
    """Warnings of labels that a backbone's text encoder reads badly: too long for it, or words it was never taught."""
    warnings = []
    sentence = max(templates.templates, key=len)
    for label in labels:
        filled = sentence.replace("{}", label)
        if len(filled) > _LONG_LABEL_CHARACTERS and backbone.is_truncated(filled):
            warnings.append(f"label {label[:40]!r}... is longer than the model reads: its end is ignored")
    unknown = list(dict.fromkeys(word for label in labels for word in backbone.unknown_words(label)))
    if unknown:
        words = ", ".join(repr(word[:40]) for word in unknown[:10]) + (" ..." if len(unknown) > 10 else "")
        warnings.append(f"model {backbone.name!r} was never taught {words}: to it, all such words are the same one")
    return warnings


def open_encoder(model: str, *, templates: str | TemplateSet | None = None, device: str = "auto") -> LabelEncoder:
    """Load what turns labels into vectors.

    Args:
        model: a backbone's name (see `load_backbone`), a folder with a trained label encoder, or another run of
            `lexivid train`, whose backbone and templates then count.
        templates: of a backbone; None: what suits it.

    Raises:
        ModelError: no such model. LabelError: templates for a trained label encoder, which has none.
    """
    if has_label_encoder(model):
        if templates is not None:
            raise LabelError(f"{model!r} trained its label encoder, which needs no templates: leave them out")
        return _open_trained(model, device)
    if (run := _backbone_of_run(Path(model))) is not None:
        model, templates = run[0], templates or run[1]
    # In float32 on every machine, or vectors made on one could not be added to those of another.
    backbone = load_backbone(model, device=device, dtype="float32")
    chosen = load_templates(templates or backbone.default_templates)
    bank, short = LabelBank(backbone), short_templates(chosen)
    return LabelEncoder(
        prompts_identity(backbone, chosen),
        lambda labels: bank.embed(labels, chosen),
        lambda labels: bank.embed(labels, short),
        lambda labels: doubts(backbone, labels, chosen),
    )


def _backbone_of_run(folder: Path) -> tuple[str, str] | None:
    """Backbone and templates of a run of `lexivid train` that has no label encoder of its own; None for other names."""
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        inside = folder / "backbone"
        return str(inside if inside.is_dir() else about["backbone"]["name"]), str(about["templates"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prompts_identity(backbone: Backbone, templates: TemplateSet) -> EncoderIdentity:
    """Of a backbone's own text encoder with these sentences."""
    sentences = hashlib.sha256("\n".join(templates.templates).encode()).hexdigest()[:16]
    weights = weights_of(backbone)
    return EncoderIdentity(
        "prompts", backbone.name, templates.name, f"{weights}-{sentences}", backbone.name, weights, templates.templates
    )


def _open_trained(folder: str, device: str) -> LabelEncoder:
    from lexivid.backbones.base import choose_device

    encoder = load_label_encoder(folder, device=choose_device(device))
    backbone = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8"))["backbone"]

    def encode(labels: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            return encoder(labels).float().cpu()

    weights = encoder.text_encoder.backbone_weights
    identity = EncoderIdentity(encoder.kind, folder, None, encoder.fingerprint, backbone, weights)
    return LabelEncoder(identity, encode)
