"""Per-label scores: features of a clip -> each label's own probability, and that of "none of these".

    features (N, ...) --log odds, by the head of each label--> (N, K) --mean over views--> log likelihood ratios
    several labels may hold:  p_k = sigmoid(log ratio_k + logit prevalence)
    one label does:           p_k = softmax(log ratio)_k,   P(none) = 1 / (1 + mean_k ratio_k)

Labels that a model was trained on take its base head, others its novel head. Each head has its calibration, fitted on
held-out clips (`lexivid.scoring.calibration`), so both are on one scale and need no offset between them. The softmax
over log ratios is the probability of each label if exactly one holds and all are equally likely beforehand.

Where a view or a window has no stream at all, nothing is known: its log ratios are 0, and it counts in no mean.
Shapes: N views or windows, K labels, J unrelated phrases, D embedding width, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lexivid.backbones.base import Backbone, weights_of
from lexivid.errors import LexividError, ModelError
from lexivid.labels.prompt_cache import PromptCache
from lexivid.labels.templates import TemplateSet, load_templates, short_templates
from lexivid.models.calibration import Calibration, posterior
from lexivid.models.mov import HEADS, Head, MOVFeatures
from lexivid.models.trained import TrainedModel
from lexivid.scoring.background import background_vectors
from lexivid.scoring.calibration import calibration_for
from lexivid.scoring.features import Collected, clip_log_odds
from lexivid.scoring.log_odds import log_odds, log_odds_above, log_odds_vectors

LabelSplit = Literal["base", "novel", "mixed"]


@dataclass(frozen=True)
class TrainedPerLabelScorer:
    """Says of each label by itself whether a clip shows it.

    Attributes:
        model: whose heads and calibrations are used.
        labels, background: (K, D) and (J, D) or None, see `lexivid.scoring.log_odds.log_odds_vectors`.
        is_base: (K,) bool, labels that the model was trained on.
    """

    model: TrainedModel
    labels: Tensor
    background: Tensor | None
    is_base: Tensor

    @property
    def method(self) -> str:
        """What its probabilities rest on, in words."""
        return "; ".join(dict.fromkeys(calibration.method for calibration in self.model.calibrations.values()))

    @property
    def is_fitted(self) -> bool:
        """Whether anything was fitted at all; which paths it was, `check` says."""
        return bool(self.model.calibrations)

    def lacks(self, kind: LabelSplit) -> str | None:
        """The path that labels would take and nothing was fitted on; None: all is fitted."""
        return next((head for head in self._paths(kind) if head not in self.model.calibrations), None)

    def check(self, kind: LabelSplit) -> None:
        """Whether each label has a probability.

        Raises:
            ModelError: nothing was fitted on a path that labels take.
        """
        if (head := self.lacks(kind)) is not None:
            raise not_calibrated(head, not_fitted=self.model.not_fitted)

    def log_ratios(self, features: MOVFeatures, kind: LabelSplit, *, mean: bool) -> Tensor:
        """Log likelihood ratios, label holds against it does not: (N, K), or of the mean log odds (1, K); natural
        logarithm, float64, on the CPU.

        Of a model with a sigmoid and no calibration, its log odds: they order labels, but have no fitted offset.
        """
        log_odds, seen = self.log_odds(features, kind)
        if mean:
            log_odds = (log_odds * seen[:, None]).sum(dim=0, keepdim=True) / seen.sum().clamp_min(1)
            seen = seen.any(dim=0, keepdim=True)
        return self.log_ratios_of(log_odds, seen, kind)

    def log_odds(self, features: MOVFeatures, kind: LabelSplit) -> tuple[Tensor, Tensor]:
        """How far each label stands by itself (N, K), and whether a view has any stream (N,) bool; on the CPU."""
        device = features.v.device
        labels = self.labels.to(device)
        background = None if self.background is None else self.background.to(device)
        settings = self.model.settings()
        odds = self._by_head(
            kind, lambda head: log_odds(features, labels, settings, head=head, background=background).cpu()
        )
        return odds, features.mask.any(dim=1).cpu()

    def log_ratios_of(self, log_odds: Tensor, seen: Tensor, kind: LabelSplit) -> Tensor:
        """Log likelihood ratios of log odds (N, K), as `log_ratios`."""
        calibrations = self.model.calibrations if self.lacks(kind) is None else {}
        ratios = self._by_head(
            kind, lambda head: calibrations[head].log_ratio(log_odds) if head in calibrations else log_odds
        )
        return torch.where(seen[:, None], ratios, 0.0)

    def probabilities(self, log_ratios: Tensor, kind: LabelSplit) -> Tensor:
        """Each label by itself: (..., K) -> (..., K)."""
        return self._by_head(kind, lambda head: posterior(log_ratios, self.model.calibrations[head].prevalence))

    def _paths(self, kind: LabelSplit) -> tuple[Head, ...]:
        if kind != "mixed":
            return (kind,)
        return (*(("base",) if self.is_base.any() else ()), *(("novel",) if not self.is_base.all() else ()))

    def _by_head(self, kind: LabelSplit, of: Callable[[Head], Tensor]) -> Tensor:
        """`of` each path that labels take, (..., K), joined label by label."""
        first, *second = (of(head) for head in self._paths(kind))
        return torch.where(self.is_base, first, second[0]) if second else first


def of_one_stream(features: MOVFeatures, place: int) -> MOVFeatures:
    """As if a clip had this stream alone (its number in the model's modalities), with the features of the whole."""
    only = torch.zeros_like(features.mask)
    only[:, place] = features.mask[:, place]
    return features._replace(mask=only)


@dataclass(frozen=True)
class PerLabelScorer:
    """Says of each label by itself whether a clip shows it.

    Attributes:
        labels: (K, D), in the same sentences as background (J, D).
        temperature: of the model's softmax.
        calibration: what log odds are worth for this model.
    """

    labels: Tensor
    background: Tensor
    temperature: float
    calibration: Calibration

    @property
    def method(self) -> str:
        """What its probabilities rest on, in words."""
        return self.calibration.method

    @property
    def is_fitted(self) -> bool:
        """Whether they were fitted, or assumed."""
        return self.calibration.num_clips > 0

    def log_odds(self, features: Tensor) -> Tensor:
        """Clip features (N, D) -> log odds (N, K), see `lexivid.scoring.log_odds`."""
        return log_odds_above(features, self.labels, self.background, temperature=self.temperature)

    def probabilities(self, features: Tensor) -> Tensor:
        """Clip features (N, D) -> (N, K) float64, each label judged by itself."""
        return self.calibration.probability(self.log_odds(features))

    def log_ratios(self, features: Tensor) -> Tensor:
        """Clip features (N, D) -> log likelihood ratios (N, K) float64: label holds against it does not."""
        return self.calibration.log_ratio(self.log_odds(features))

    def none_of_these(self, features: Tensor) -> Tensor:
        """Clip features (N, D) -> (N,) float64: the probability that no label holds, where at most one can."""
        return self.calibration.none_of_these(self.log_odds(features))


def make_per_label_scorer(
    backbone: Backbone,
    prompt_cache: PromptCache,
    labels: Sequence[str],
    templates: TemplateSet,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> PerLabelScorer | None:
    """The per-label scorer of these labels. The background is embedded once for each model, then cached.

    None for a model that has no background.

    Args:
        templates: of the vocabulary; see `short_templates`.
        on_progress: as in `PromptCache.embed`.
    """
    short = short_templates(templates)
    background = background_vectors(backbone, prompt_cache, short, on_progress=on_progress)
    if background is None:
        return None
    vectors = prompt_cache.embed(labels, short, on_progress=on_progress)
    return PerLabelScorer(vectors, background, backbone.temperature, calibration_for(weights_of(backbone)))


def label_probabilities(
    model: TrainedModel | Backbone,
    collected: Collected,
    names: Sequence[str],
    seen: np.ndarray,
    *,
    prompt_cache: PromptCache | None = None,
    templates: TemplateSet | None = None,
) -> np.ndarray:
    """Calibrated probabilities of labels one by one: (n, K) float64.

    Args:
        prompt_cache, templates: what embeds labels; None: as the model was trained, or what suits the backbone.
        seen: (K,) bool, labels scored by the base head; the others by the novel head.

    Raises:
        LexividError: no calibration of a head that is asked for, or a backbone without background labels.
    """
    if not isinstance(model, TrainedModel):
        per_label = make_per_label_scorer(
            model, prompt_cache or PromptCache(model), names, templates or load_templates(model.default_templates)
        )
        if per_label is None:
            raise LexividError(f"model {model.name!r} has no background labels with which to compare labels one by one")
        odds = clip_log_odds(collected, per_label.labels, head="base", background=per_label.background)
        return per_label.calibration.probability(torch.from_numpy(odds)).numpy()
    labels, background = log_odds_vectors(model, names, prompt_cache=prompt_cache, templates=templates)
    p = np.zeros((len(collected), len(names)))
    for head, at in zip(HEADS, (seen, ~seen), strict=True):
        if not at.any():
            continue
        if head not in model.calibrations:
            raise not_calibrated(head, not_fitted=model.not_fitted)
        odds = clip_log_odds(collected, labels[at], head=head, background=background)
        p[:, at] = model.calibrations[head].probability(torch.from_numpy(odds)).numpy()
    return p


def not_calibrated(head: str = "", *, not_fitted: Mapping[str, str]) -> ModelError:
    """What is said where labels cannot be judged one by one, because nothing was fitted (on that path).

    not_fitted: see `lexivid.models.trained.TrainedModel`.
    """
    where = f" of its {head} head" if head else ""
    why = not_fitted.get(f"evidence {head}") or not_fitted.get("evidence")
    because = f" ({why})" if why else ""
    return ModelError(
        f"this model cannot score labels one by one: it has no calibration{where}{because}; "
        f""
        "train with data.held_out above 0, or fit it now by `lexivid evaluate RUN --data DIR --protocol calibrate`"
    )
