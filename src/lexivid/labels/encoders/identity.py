"""A label encoder with what identifies it: prompt ensembles and trained label encoders behind one call.

`lexivid.models.label_encoders` opens one by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lexivid.backbones import Backbone
from lexivid.backbones.base import name_of, weights_of
from lexivid.labels.templates import TemplateSet

_LONG_LABEL_CHARACTERS = 100


@dataclass(frozen=True)
class EncoderIdentity:
    """What made label vectors. Vectors may stand side by side only where `fingerprint` is the same.

    Args:
        kind: "prompts", or that of a trained label encoder, such as "soft_attributes".
        model: what finds it again from anywhere: an absolute path, "owner/name@commit", or a name.
        templates: name of the sentences around a label; of "prompts" alone.
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
            (`lexivid.scoring.background`); None: there are no sentences.
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


def prompts_identity(backbone: Backbone, templates: TemplateSet) -> EncoderIdentity:
    """Of a backbone's own text encoder with these sentences."""
    sentences = hashlib.sha256("\n".join(templates.templates).encode()).hexdigest()[:16]
    weights, name = weights_of(backbone), name_of(backbone)
    return EncoderIdentity(
        "prompts", name, templates.name, f"{weights}-{sentences}", name, weights, templates.templates
    )
