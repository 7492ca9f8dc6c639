"""Labels judged one by one: how far each stands for a clip, in every stream, and over the paths of the model.

A *standing* is a logarithm of odds. Of a model trained with a sigmoid it is that sigmoid's logit, s / tau + b. Of one
trained by softmax, whose scores are shares, it is the label's weight against unrelated words
(`lexivid.labels.background`): s / tau less the log of the mean weight of 300 everyday phrases. What a standing is worth
is fitted on held-out clips (`lexivid.labels.evidence`).

    base   labels that were trained: v_m, and where a clip has no pictures the mean of its other streams (eq. 10); of
           score fusion the streams' mean probability
    novel  others: the streams' probabilities mixed as in eq. 12, with the frozen v

Shapes: B clips, D embedding width, K labels, J phrases, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.errors import ModelError
from lexivid.labels.background import standing as standing_above
from lexivid.models.mov import MOVFeatures, log_mean, shares, similarity

Path_ = Literal["base", "novel"]
PATHS: tuple[Path_, ...] = ("base", "novel")
_NOTHING_SEEN = math.log(1e-12)
Scales = Mapping[str, Sequence[float]]
"""Stream -> 1 / tau and b of a sigmoid."""


def standing(
    features: MOVFeatures,
    labels: Tensor,
    settings: Mapping[str, Any],
    *,
    path: Path_,
    background: Tensor | None = None,
) -> Tensor:
    """Log odds of each label by itself: (B, K) float64.

    Args:
        labels: (K, D), and for a model trained by softmax background (J, D), in the same sentences.
        settings: as `lexivid.models.trained.TrainedModel.settings` gives them.
    """
    scales: Scales | None = settings.get("scales")
    if path == "base":
        if scales is not None:
            return base_standing(features, labels, scales)
        assert background is not None
        own = {
            name: standing_above(x, labels, background, temperature=settings["tau"])
            for name, x in (("v_m", features.v_m), *features.x_m.items())
        }
        if settings.get("base_score") == "mean":  # score fusion
            return _mixed(own, features.mask.double() / features.mask.sum(dim=1, keepdim=True).clamp_min(1))
        return _base(own, features.mask)
    if scales is not None:
        own = _sigmoid({"v": features.v, **features.x_m}, labels, scales)
    else:
        assert background is not None
        taus = {"v": settings["tau_v"], **settings["tau_x"]}
        own = {
            name: standing_above(x, labels, background, temperature=taus[name])
            for name, x in (("v", features.v), *features.x_m.items())
        }
    weights = shares(1 - settings["beta"], len(features.x_m), features.mask, features.v)
    return _mixed(own, weights.double())  # eq. 12


def base_standing(features: MOVFeatures, labels: Tensor, scales: Scales) -> Tensor:
    """The base path of a model trained with a sigmoid: (B, K) float64."""
    return _base(_sigmoid({"v_m": features.v_m, **features.x_m}, labels, scales), features.mask)


def _mixed(own: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """Log odds of the streams' mean probability, with weights (B, M); -27.6 for a clip without any stream."""
    holds = log_mean([F.logsigmoid(x) for x in own.values()], weights)
    rest = log_mean([F.logsigmoid(-x) for x in own.values()], weights)
    return (holds - rest).nan_to_num(nan=_NOTHING_SEEN)


def _sigmoid(streams: Mapping[str, Tensor], labels: Tensor, scales: Scales) -> dict[str, Tensor]:
    found = {}
    for name, x in streams.items():
        scale, bias = scales.get(name, scales["v_m"])  # v is v_m where nothing follows the tower
        found[name] = similarity(x, labels).double() * scale + bias
    return found


def _base(own: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    video, *others = own.values()
    if not others:
        return video
    there = mask[:, 1:, None].double()
    mean = (torch.stack(others, dim=1) * there).sum(dim=1) / there.sum(dim=1).clamp_min(1)
    return torch.where(mask[:, :1], video, mean)


def no_evidence(path: str = "", *, not_fitted: Mapping[str, str]) -> ModelError:
    """What is said where labels cannot be judged one by one, because nothing was fitted (on that path).

    not_fitted: see `lexivid.models.trained.TrainedModel`.
    """
    where = f" on its {path} path" if path else ""
    why = not_fitted.get(f"evidence {path}") or not_fitted.get("evidence")
    because = f" ({why})" if why else ""
    return ModelError(
        f"this model cannot judge labels one by one: no held-out clips said what a label's standing{where} is worth"
        f"{because}; "
        "train with data.held_out above 0, or fit it now by `lexivid evaluate RUN --data DIR --protocol calibrate`"
    )
