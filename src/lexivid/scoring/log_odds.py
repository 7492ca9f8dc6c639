"""Log odds of labels one by one, for every modality and for the two heads of a model.

Of a model trained with a sigmoid they are that sigmoid's logit, s / tau + b. Of one trained by softmax they are taken
against background labels (`lexivid.scoring.background`): s / tau less the log of the mean weight of 300 phrases. A
calibration turns them into probabilities (`lexivid.scoring.calibration`).

    base   labels that were trained: v_m, and where a clip has no pictures the mean of its other streams (eq. 10); of
           score fusion the modalities' mean probability
    novel  others: the modalities' probabilities mixed as in eq. 12, with the frozen v

Shapes: B clips, D embedding width, K labels, J phrases, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.labels.prompt_cache import PromptCache
from lexivid.labels.templates import TemplateSet, short_templates
from lexivid.models.label_vectors import label_templates, prompt_cache_of
from lexivid.models.mov import Head, MOVFeatures, base_weights, log_mean, modality_weights, similarity
from lexivid.models.trained import TrainedModel
from lexivid.scoring.background import background_vectors

_NOTHING_SEEN = math.log(1e-12)
Scales = Mapping[str, Sequence[float]]
"""Stream -> 1 / tau and b of a sigmoid."""


def log_odds(
    features: MOVFeatures,
    labels: Tensor,
    settings: Mapping[str, Any],
    *,
    head: Head,
    background: Tensor | None = None,
) -> Tensor:
    """Log odds of each label by itself: (B, K) float64.

    Args:
        labels: (K, D), and for a model trained by softmax background (J, D), in the same sentences.
        settings: as `lexivid.models.trained.TrainedModel.settings` gives them.
    """
    scales: Scales | None = settings.get("scales")
    if head == "base":
        if scales is not None:
            return base_log_odds(features, labels, scales)
        assert background is not None
        odds = {
            name: log_odds_above(x, labels, background, temperature=settings["tau"])
            for name, x in (("v_m", features.v_m), *features.x_m.items())
        }
        if settings.get("base_score") == "mean":  # score fusion
            return _mixed(odds, base_weights(features.mask, "mean"))
        return _base(odds, features.mask)
    if scales is not None:
        odds = _sigmoid({"v": features.v, **features.x_m}, labels, scales)
    else:
        assert background is not None
        taus = {"v": settings["tau_v"], **settings["tau_x"]}
        odds = {
            name: log_odds_above(x, labels, background, temperature=taus[name])
            for name, x in (("v", features.v), *features.x_m.items())
        }
    weights = modality_weights(1 - settings["beta"], len(features.x_m), features.mask, features.v)
    return _mixed(odds, weights.double())  # eq. 12


def base_log_odds(features: MOVFeatures, labels: Tensor, scales: Scales) -> Tensor:
    """The base path of a model trained with a sigmoid: (B, K) float64."""
    return _base(_sigmoid({"v_m": features.v_m, **features.x_m}, labels, scales), features.mask)


def _mixed(odds: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """Log odds of the streams' mean probability, with weights (B, M); -27.6 for a clip without any stream."""
    holds = log_mean([F.logsigmoid(x) for x in odds.values()], weights)
    rest = log_mean([F.logsigmoid(-x) for x in odds.values()], weights)
    return (holds - rest).nan_to_num(nan=_NOTHING_SEEN)


def _sigmoid(streams: Mapping[str, Tensor], labels: Tensor, scales: Scales) -> dict[str, Tensor]:
    odds = {}
    for name, x in streams.items():
        scale, bias = scales.get(name, scales["v_m"])  # v is v_m where nothing follows the tower
        odds[name] = similarity(x, labels).double() * scale + bias
    return odds


def _base(odds: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Eq. 10, of log odds."""
    return (torch.stack(list(odds.values()), dim=1) * base_weights(mask)[..., None]).sum(dim=1)


def log_odds_above(features: Tensor, labels: Tensor, background: Tensor, *, temperature: float) -> Tensor:
    """How far labels stand above unrelated words: (N, D), (K, D), (J, D) -> (N, K) float64, natural logarithm.

    The length of a feature plays no part.
    """
    features = F.normalize(features.double(), dim=-1) / temperature
    unrelated = torch.logsumexp(features @ background.double().T, dim=-1, keepdim=True) - math.log(len(background))
    return features @ labels.double().T - unrelated


def log_odds_vectors(
    model: TrainedModel,
    names: Sequence[str],
    *,
    prompt_cache: PromptCache | None = None,
    templates: TemplateSet | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The vectors from which a trained model's log odds are computed.

    Args:
        prompt_cache, templates: None: those of the functions above.
        on_progress: as in `PromptCache.embed`.

    Returns:
        Labels (K, D) and unrelated phrases (J, D), both in the same few sentences or by the same label encoder. None in
        the second place for a model with a sigmoid, which needs no such phrases, and for one that knows none.
    """
    prompt_cache, templates = prompt_cache or prompt_cache_of(model), templates or label_templates(model)
    if model.scales is not None:
        return prompt_cache.embed(names, templates, on_progress=on_progress), None
    short = short_templates(templates)
    background = background_vectors(model.backbone, prompt_cache, short, on_progress=on_progress)
    return prompt_cache.embed(names, short, on_progress=on_progress), background
