"""Fitting what a label's standing is worth (`lexivid.labels.evidence`): logistic regression on clips of known labels.

In: standings (n, K), truth (n, K). Out: `Evidence` with its calibration error on clips that the fit had not seen. The
unit is the clip, or the recording: a clip's pairs are never on both sides. Shapes: n clips, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from lexivid.backbones import Backbone
from lexivid.errors import LexividError
from lexivid.evaluation.collected import Collected, standings
from lexivid.evaluation.multilabel import bootstrap_calibration_error
from lexivid.labels import LabelBank, TemplateSet, load_templates
from lexivid.labels.background import make_judge
from lexivid.labels.evidence import Evidence, posterior
from lexivid.models.label_vectors import standing_vectors
from lexivid.models.standing import PATHS, no_evidence
from lexivid.models.trained import TrainedModel

_MOST_FOLDS = 50  # of cross-validation: up to so many clips, each is left out by itself
_STEPS = 100
# A quadratic penalty on the slope, in pairs: it decides nothing but separable data, whose slope would be infinite.
_PENALTY = 1e-3


def fit_evidence(
    standings: np.ndarray,
    truth: np.ndarray,
    *,
    method: str,
    judged: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[Evidence, np.ndarray]:
    """Fit slope and intercept, and measure them on left-out clips.

    Args:
        method: what it was fitted on, in words.
        judged: (n, K) bool, pairs that count; None: all.
        groups: (n,) recordings that clips come from; None: every clip is one.

    Returns:
        The evidence, and left-out log likelihood ratios (n, K): of each clip by a fit without its group.

    Raises:
        LexividError: shapes that do not fit, fewer than two groups with and without a label that holds, or labels that
            hold stand lower than others.
    """
    standings, truth = np.asarray(standings, dtype=np.float64), np.asarray(truth, dtype=bool)
    judged = np.ones(truth.shape, dtype=bool) if judged is None else np.asarray(judged, dtype=bool)
    if standings.ndim != 2 or not standings.shape == truth.shape == judged.shape:
        raise LexividError(f"standings and truth are (n, K) alike; got {standings.shape} and {truth.shape}")
    _, group = np.unique(np.arange(len(truth)) if groups is None else groups, return_inverse=True)
    group = group.ravel()
    for holds, words in ((truth & judged, "holds"), (~truth & judged, "does not hold")):
        if len(np.unique(group[holds.any(axis=1)])) < 2:
            raise LexividError(f"evidence needs two clips with a label that {words}")
    folds = _folds(group, (truth & judged).any(axis=1), (~truth & judged).any(axis=1))
    left_out, p = np.full(truth.shape, np.nan), np.full(truth.shape, np.nan)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        use = judged & ~out[:, None]
        slope, intercept, share = _fit(standings[use], truth[use])
        left_out[out] = slope * standings[out] + intercept
        p[out] = posterior(torch.from_numpy(left_out[out]), share).numpy()
    error = bootstrap_calibration_error(p, truth, judged=judged, groups=group)
    slope, intercept, share = _fit(standings[judged], truth[judged])
    evidence = Evidence(
        slope, intercept, method, num_clips=len(truth), num_pairs=int(judged.sum()), fitted_prevalence=share,
        error=round(error.value, 5), error_low=round(error.low, 5), error_high=round(error.high, 5),
    )  # fmt: skip
    return evidence, left_out


def fit_model_evidence(model: TrainedModel, collected: Collected) -> tuple[dict[str, Evidence], dict[str, str]]:
    """What standings of a trained model are worth on each of its paths, by held-out clips of its base classes.

    The novel path is fitted on base classes too, there being no others: where flow and sound were trained, it knows
    them better than it will know novel ones, and its evidence is too sure of those.

    Returns:
        "base", "novel" -> evidence; a path that these clips cannot say anything of is left out, and so are both for a
        softmax over a backbone that knows no unrelated words. And for what is left out, such as "evidence base": why.
    """
    names = list(model.base_classes)
    place = {name: i for i, name in enumerate(collected.classes)}
    truth = truth_of(collected)[:, [place[name] for name in names]]
    labels, background = standing_vectors(model, names)
    if model.scales is None and background is None:
        return {}, {"evidence": f"backbone {model.backbone.name!r} knows no everyday words to compare labels with"}
    found: dict[str, Evidence] = {}
    reasons: dict[str, str] = {}
    for path in PATHS:
        own = standings(collected, labels, path=path, background=background)
        method = f"fitted on {len(truth)} held-out clips of {len(names)} base classes, {path} path"
        try:
            found[path] = fit_evidence(own, truth, method=method, groups=np.array(collected.groups))[0]
        except LexividError as error:
            reasons[f"evidence {path}"] = str(error)
    return found, reasons


def label_probabilities(
    model: TrainedModel | Backbone,
    collected: Collected,
    names: Sequence[str],
    seen: np.ndarray,
    *,
    bank: LabelBank | None = None,
    templates: TemplateSet | None = None,
) -> np.ndarray:
    """Calibrated probabilities of labels one by one: (n, K) float64.

    Args:
        bank, templates: what embeds labels; None: as the model was trained, or what suits the backbone.
        seen: (K,) bool, labels judged by the base path; the others by the novel one.

    Raises:
        LexividError: no evidence of a path that is asked for, or a backbone that knows no unrelated words.
    """
    if not isinstance(model, TrainedModel):
        judge = make_judge(model, bank or LabelBank(model), names, templates or load_templates(model.default_templates))
        if judge is None:
            raise LexividError(f"model {model.name!r} knows no everyday words to judge labels by themselves against")
        own = standings(collected, judge.labels, path="base", background=judge.background)
        return judge.evidence.probability(torch.from_numpy(own)).numpy()
    labels, background = standing_vectors(model, names, bank=bank, templates=templates)
    p = np.zeros((len(collected), len(names)))
    for path, at in zip(PATHS, (seen, ~seen), strict=True):
        if not at.any():
            continue
        if path not in model.evidence:
            raise no_evidence(path, not_fitted=model.not_fitted)
        own = standings(collected, labels[at], path=path, background=background)
        p[:, at] = model.evidence[path].probability(torch.from_numpy(own)).numpy()
    return p


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


def truth_of(collected: Collected) -> np.ndarray:
    """(n, C) bool: which of the classes hold."""
    if collected.targets.ndim == 2:
        return collected.targets.astype(bool)
    return collected.targets[:, None] == np.arange(len(collected.classes))


def _fit(standings: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """(n,), (n,) -> slope, intercept and prevalence: Newton's method on the log-likelihood of sigmoid(slope s + b).

    The intercept is b less the prior's log odds.
    """
    y = truth.astype(np.float64)
    prevalence = float(y.mean())
    if not 0 < prevalence < 1:
        raise LexividError("evidence needs labels that hold and labels that do not")
    prior = math.log(prevalence / (1 - prevalence))
    design = np.stack([standings, np.ones_like(standings)], axis=1)
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
