"""Fitting the calibration of a head: logistic regression on clips whose labels are known (Platt, 1999).

In: log odds (n, K), truth (n, K). Out: `Calibration` with its calibration error on clips that the fit had not seen.
The unit is the clip, or the recording: a clip's pairs are never on both sides. Shapes: n clips, K labels.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files

import numpy as np
import torch

from lexivid.errors import LexividError
from lexivid.metrics.multi_label import bootstrap_calibration_error
from lexivid.models.calibration import Calibration, posterior
from lexivid.models.mov import HEADS
from lexivid.models.trained import TrainedModel
from lexivid.scoring.features import Collected, clip_log_odds
from lexivid.scoring.log_odds import log_odds_vectors

_MOST_FOLDS = 50  # of cross-validation: up to so many clips, each is left out by itself
_STEPS = 100
# A quadratic penalty on the slope, in pairs: it decides nothing but separable data, whose slope would be infinite.
_PENALTY = 1e-3


# The log odds as they are, as the log ratio that a softmax over pairs learns. It is no fit: models are often too
# sure (`lite`'s slope is 0.6), and it has been checked on no CLIP.
ASSUMED = Calibration(1.0, 0.0, "assumed: the model's softmax against everyday words, taken at its word; not fitted")


def calibration_for(weights: str) -> Calibration:
    """What was fitted for the model of these weights (`lexivid.backbones.base.weights_of`), or else `ASSUMED`."""
    return _stored().get(weights, ASSUMED)


@cache
def _stored() -> dict[str, Calibration]:
    text = (files("lexivid.scoring") / "background" / "evidence.json").read_text(encoding="utf-8")
    return {weights: Calibration.from_dict(values) for weights, values in json.loads(text).items()}


def fit_calibration(
    log_odds: np.ndarray,
    truth: np.ndarray,
    *,
    method: str,
    judged: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[Calibration, np.ndarray]:
    """Fit slope and intercept, and measure them on left-out clips.

    Args:
        method: what it was fitted on, in words.
        judged: (n, K) bool, pairs that count; None: all.
        groups: (n,) recordings that clips come from; None: every clip is one.

    Returns:
        The calibration, and left-out log likelihood ratios (n, K): of each clip by a fit without its group.

    Raises:
        LexividError: shapes that do not fit, fewer than two groups with and without a label that holds, or labels that
            hold have lower log odds than others.
    """
    log_odds, truth = np.asarray(log_odds, dtype=np.float64), np.asarray(truth, dtype=bool)
    judged = np.ones(truth.shape, dtype=bool) if judged is None else np.asarray(judged, dtype=bool)
    if log_odds.ndim != 2 or not log_odds.shape == truth.shape == judged.shape:
        raise LexividError(f"log odds and truth are (n, K) alike; got {log_odds.shape} and {truth.shape}")
    _, group = np.unique(np.arange(len(truth)) if groups is None else groups, return_inverse=True)
    group = group.ravel()
    for holds, words in ((truth & judged, "holds"), (~truth & judged, "does not hold")):
        if len(np.unique(group[holds.any(axis=1)])) < 2:
            raise LexividError(f"a calibration needs two clips with a label that {words}")
    folds = _folds(group, (truth & judged).any(axis=1), (~truth & judged).any(axis=1))
    left_out, p = np.full(truth.shape, np.nan), np.full(truth.shape, np.nan)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        use = judged & ~out[:, None]
        slope, intercept, share = _fit(log_odds[use], truth[use])
        left_out[out] = slope * log_odds[out] + intercept
        p[out] = posterior(torch.from_numpy(left_out[out]), share).numpy()
    error = bootstrap_calibration_error(p, truth, judged=judged, groups=group)
    slope, intercept, share = _fit(log_odds[judged], truth[judged])
    calibration = Calibration(
        slope, intercept, method, num_clips=len(truth), num_pairs=int(judged.sum()), fitted_prevalence=share,
        error=round(error.value, 5), error_low=round(error.low, 5), error_high=round(error.high, 5),
    )  # fmt: skip
    return calibration, left_out


FEWEST_RECORDINGS = 5
"""A fit on fewer is not stored: of fits on five clips, nine in ten are less than 0.1 from the fit on all 44
(benchmarks/calibration_size, mean difference of probabilities); of fits on two, they are up to 0.17 off."""


def fit_model_calibrations(model: TrainedModel, collected: Collected) -> tuple[dict[str, Calibration], dict[str, str]]:
    """Fit a calibration for each head of a trained model, on held-out clips of its base classes.

    The novel head is fitted on base classes too, as there are no others. If flow or audio was trained, it knows base
    classes better than novel ones, so its probabilities of novel ones are too high.

    Returns:
        "base", "novel" -> calibration; and reasons for what is missing ("evidence base" -> why). A head is missing if
        the clips do not suffice; both are for a softmax over a backbone that has no background labels.
    """
    names = list(model.base_classes)
    place = {name: i for i, name in enumerate(collected.classes)}
    truth = truth_of(collected)[:, [place[name] for name in names]]
    labels, background = log_odds_vectors(model, names)
    if model.scales is None and background is None:
        return {}, {"evidence": f"backbone {model.backbone.name!r} knows no everyday words to compare labels with"}
    if (num_recordings := len(set(collected.groups))) < FEWEST_RECORDINGS:
        why = f"{num_recordings} held-out recordings; a calibration needs {FEWEST_RECORDINGS}: raise data.held_out"
        return {}, {f"evidence {head}": why for head in HEADS}
    calibrations: dict[str, Calibration] = {}
    reasons: dict[str, str] = {}
    for head in HEADS:
        odds = clip_log_odds(collected, labels, head=head, background=background)
        method = f"fitted on {len(truth)} held-out clips of {len(names)} base classes, {head} path"
        try:
            calibrations[head] = fit_calibration(odds, truth, method=method, groups=np.array(collected.groups))[0]
        except LexividError as error:
            reasons[f"evidence {head}"] = str(error)
    return calibrations, reasons


def truth_of(collected: Collected) -> np.ndarray:
    """(n, C) bool: which of the classes hold."""
    if collected.targets.ndim == 2:
        return collected.targets.astype(bool)
    return collected.targets[:, None] == np.arange(len(collected.classes))


def _fit(log_odds: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """(n,), (n,) -> slope, intercept and prevalence: Newton's method on the log-likelihood of sigmoid(slope s + b).

    The intercept is b less the prior's log odds.
    """
    y = truth.astype(np.float64)
    prevalence = float(y.mean())
    if not 0 < prevalence < 1:
        raise LexividError("evidence needs labels that hold and labels that do not")
    prior = math.log(prevalence / (1 - prevalence))
    design = np.stack([log_odds, np.ones_like(log_odds)], axis=1)
    penalty = np.diag([_PENALTY, 0.0])
    w = np.array([0.0, prior])

    def loss(w: np.ndarray) -> float:
        logits = design @ w
        return float(np.sum(np.logaddexp(0.0, logits) - y * logits) + 0.5 * w @ penalty @ w)

    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-design @ w))
        gradient = design.T @ (p - y) + penalty @ w
        hessian = (design * (p * (1 - p))[:, None]).T @ design + penalty + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-6 and loss(w - scale * step) > loss(w):
            scale /= 2
        w = w - scale * step
        if np.abs(scale * step).max() < 1e-10:
            break
    if w[0] <= 0:
        raise LexividError(f"labels that hold stand no higher than others (slope {w[0]:.3g}): there is nothing to fit")
    return float(w[0]), float(w[1] - prior), prevalence


def _folds(group: np.ndarray, holds: np.ndarray, does_not: np.ndarray) -> np.ndarray:
    """Which fold each clip is left out in, (n,) int: whole groups, at most 50 folds of about equal size.

    Two groups or more have a label that holds, and two or more one that does not; groups are dealt out in such an order
    that neither are all in one fold, so that every fit sees both.

    Args:
        group: (n,) int from 0. holds, does_not: (n,) bool, whether a clip has such a label.
    """
    num_groups = int(group.max()) + 1
    has = np.stack([np.bincount(group, weights=x, minlength=num_groups) > 0 for x in (holds, does_not)])
    # those with labels that hold alone, with both kinds, with labels that do not: each kind is a run of neighbours
    kind = np.where(has[0] & has[1], 1, np.where(has[0], 0, np.where(has[1], 2, 3)))
    fold_of_group = np.empty(num_groups, dtype=np.int64)
    fold_of_group[np.argsort(kind, kind="stable")] = np.arange(num_groups) % _MOST_FOLDS
    return fold_of_group[group]
