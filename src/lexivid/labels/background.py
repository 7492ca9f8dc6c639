"""What unrelated words score on a clip, and so how far a label stands above them.

A cosine of 0.2 means nothing by itself: it differs between models, between clips and with how much a clip shows. 300
phrases for whatever a video may show are scored beside the labels, and a label's *standing* is how its weight in a
softmax compares with theirs, at the model's own temperature and on this clip:

    s_k = v . t_k / tau - log mean_j exp(v . b_j / tau)

It does not depend on which other labels are asked for. For a model trained by softmax over pairs in a batch, as CLIP,
the best such score is the log of p(clip, label) / (p(clip) p(label)) up to a constant (van den Oord et al., 2018), so a
standing of 1 says "e times likelier than by chance". `lexivid.labels.evidence` says what it is worth for a given model.
Which phrases suit which model is decided in `background_for` alone: everyday ones (`background/everyday.txt`), or for a
CLIP of the synthetic world, which knows no others, phrases in the world's words (`background/world.txt`).
In: clip features (N, D), label vectors (K, D). Out: standings (N, K). Shapes: N clips or windows, J = 300 phrases.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import Backbone
from lexivid.backbones.base import weights_of
from lexivid.labels.bank import LabelBank
from lexivid.labels.evidence import Evidence, evidence_for
from lexivid.labels.templates import TemplateSet

# Sentences around a phrase. An ensemble of 28 would cost 8,400 sentences before the first answer of a new model; a mean
# over 300 phrases needs no ensemble, but labels must be compared in the same few sentences.
_MOST_TEMPLATES = 4


EVERYDAY, WORLD = "everyday", "world"


@cache
def background_phrases(name: str = EVERYDAY) -> tuple[str, ...]:
    """300 phrases, in the file's order: "everyday" ones, or those of the synthetic "world"."""
    text = (files("lexivid.labels") / "background" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def background_for(backbone: Backbone) -> tuple[str, ...] | None:
    """The phrases that stand for whatever a video may show to this model; None: its text encoder knows none of them."""
    phrases = background_phrases(WORLD if backbone.default_templates == WORLD else EVERYDAY)
    strange = sum(bool(backbone.unknown_words(phrase)) for phrase in phrases)
    return None if strange > len(phrases) / 2 else phrases


def short_templates(templates: TemplateSet) -> TemplateSet:
    """The few sentences of a set in which labels and background are compared: its first four."""
    if len(templates.templates) <= _MOST_TEMPLATES:
        return templates
    return TemplateSet(f"{templates.name}, first {_MOST_TEMPLATES}", templates.templates[:_MOST_TEMPLATES])


def standing(features: Tensor, labels: Tensor, background: Tensor, *, temperature: float) -> Tensor:
    """How far labels stand above unrelated words: (N, D), (K, D), (J, D) -> (N, K) float64, natural logarithm.

    The length of a feature plays no part.
    """
    features = F.normalize(features.double(), dim=-1) / temperature
    unrelated = torch.logsumexp(features @ background.double().T, dim=-1, keepdim=True) - math.log(len(background))
    return features @ labels.double().T - unrelated


@dataclass(frozen=True)
class Judge:
    """Says of each label by itself whether a clip shows it.

    Attributes:
        labels: (K, D), in the same sentences as background (J, D).
        temperature: of the model's softmax.
        evidence: what a standing is worth for this model.
    """

    labels: Tensor
    background: Tensor
    temperature: float
    evidence: Evidence

    @property
    def method(self) -> str:
        """What its probabilities rest on, in words."""
        return self.evidence.method

    @property
    def is_fitted(self) -> bool:
        """Whether they were fitted, or assumed."""
        return self.evidence.num_clips > 0

    def standing(self, features: Tensor) -> Tensor:
        """Clip features (N, D) -> standings (N, K), see `standing`."""
        return standing(features, self.labels, self.background, temperature=self.temperature)

    def probabilities(self, features: Tensor) -> Tensor:
        """Clip features (N, D) -> (N, K) float64, each label judged by itself."""
        return self.evidence.probability(self.standing(features))

    def none_of_these(self, features: Tensor) -> Tensor:
        """Clip features (N, D) -> (N,) float64: the probability that no label holds, where at most one can."""
        return self.evidence.none_of_these(self.standing(features))


def make_judge(
    backbone: Backbone,
    bank: LabelBank,
    labels: Sequence[str],
    templates: TemplateSet,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Judge | None:
    """The judge of these labels. The background is embedded once for each model, and then in the label bank.

    None for a model that has no background.

    Args:
        templates: of the vocabulary; see `short_templates`.
        on_progress: as in `LabelBank.embed`.
    """
    short = short_templates(templates)
    background = background_vectors(backbone, bank, short, on_progress=on_progress)
    if background is None:
        return None
    vectors = bank.embed(labels, short, on_progress=on_progress)
    return Judge(vectors, background, backbone.temperature, evidence_for(weights_of(backbone)))


def background_vectors(
    backbone: Backbone,
    bank: LabelBank,
    templates: TemplateSet,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor | None:
    """Vectors (J, D) of a model's background in these sentences (of `short_templates`); None where it has none."""
    shipped = _shipped(backbone, templates)
    if shipped is not None:
        return shipped
    phrases = background_for(backbone)
    return None if phrases is None else bank.embed(phrases, templates, on_progress=on_progress)


def write_background_vectors(backbone: Backbone, templates: TemplateSet, folder: Path) -> None:
    """Compute the vectors that travel with the package, as float16 with the key of what they are made of."""
    from lexivid.labels.bank import embed_labels

    vectors = embed_labels(backbone, background_phrases(), templates)
    save_file({"background": vectors.half()}, folder / f"{backbone.name}.safetensors", metadata={
        "key": _key(backbone, templates)
    })  # fmt: skip


def _key(backbone: Backbone, templates: TemplateSet) -> str:
    text = "\x00".join((backbone.fingerprint, *templates.templates, *background_phrases()))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _shipped(backbone: Backbone, templates: TemplateSet) -> Tensor | None:
    """(J, D) from the package; None for a model or sentences that it has no vectors of."""
    if backbone.name != "lite":
        return None
    with as_file(files("lexivid.labels") / "background" / "lite.safetensors") as path:
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as stored:
            if (stored.metadata() or {}).get("key") != _key(backbone, templates):
                return None
            return F.normalize(stored.get_tensor("background").float(), dim=-1)
