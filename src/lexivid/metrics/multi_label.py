"""Numbers about clips that show several things at once: pure functions, each beside scikit-learn in its tests.

In: scores (n, K), each label's own and higher for "holds"; truth (n, K) bool. Labels are not shares: any number of them
may hold. `judged` (n, K) bool leaves pairs out that nobody decided; None: all count.

A label that holds for no clip has no average precision and no F1 (0 / 0). It is left out of macro means, counted and
named by `labels_without_clips`; its false alarms still count in micro F1 and in the calibration error. (scikit-learn
would count it as 0.) Shapes: n clips, K labels, B resamples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lexivid.errors import LexividError
from lexivid.metrics.single_label import Interval, resampled_weights


class F1(NamedTuple):
    """F1 over all pairs (micro) and its mean over labels that hold somewhere (macro), at one threshold for all."""

    micro: float
    macro: float
    threshold: float


class Reliability(NamedTuple):
    """Probabilities against facts, in bins of equal width: each (bins,), nan where a bin is empty."""

    said: np.ndarray
    held: np.ndarray
    counts: np.ndarray


def average_precision(scores: np.ndarray, truth: np.ndarray, judged: np.ndarray | None = None) -> np.ndarray:
    """AP of each label: sum over thresholds of (recall's rise) x precision; ties are one step: (K,), nan without clips.

    Raises:
        LexividError: the shapes do not fit, or a score is not a number.
    """
    scores, truth, judged = _checked(scores, truth, judged)
    values = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        use = judged[:, k]
        label_scores, holds = scores[use, k], truth[use, k]
        if not holds.any():
            continue
        order = np.argsort(-label_scores, kind="stable")
        last_of_tie = np.append(np.diff(label_scores[order]) != 0, True)
        hits = np.cumsum(holds[order])[last_of_tie]
        shown = np.flatnonzero(last_of_tie) + 1
        values[k] = np.sum(np.diff(hits, prepend=0) * hits / shown) / hits[-1]
    return values


def mean_average_precision(scores: np.ndarray, truth: np.ndarray, judged: np.ndarray | None = None) -> float:
    """Macro mAP: the mean over labels that hold for a clip; nan where none does."""
    return _mean(average_precision(scores, truth, judged))


def labels_without_clips(truth: np.ndarray, judged: np.ndarray | None = None) -> np.ndarray:
    """(n, K) -> columns of labels that hold for no clip: no macro mean includes them."""
    truth = np.asarray(truth, dtype=bool)
    return np.flatnonzero(~(truth if judged is None else truth & judged).any(axis=0))


def f1(scores: np.ndarray, truth: np.ndarray, *, threshold: float, judged: np.ndarray | None = None) -> F1:
    """Micro and macro F1 of "score >= threshold"."""
    scores, truth, judged = _checked(scores, truth, judged)
    predicted = (scores >= threshold) & judged
    holds = truth & judged
    right, shown, true = (x.sum(axis=0) for x in (predicted & holds, predicted, holds))
    of_labels = _f1(right, shown, true)
    return F1(float(_f1(right.sum(), shown.sum(), true.sum())), _mean(np.where(true > 0, of_labels, np.nan)), threshold)


def best_f1(scores: np.ndarray, truth: np.ndarray, *, average: str, judged: np.ndarray | None = None) -> F1:
    """F1 at the one threshold for all labels that is best for the "micro" or the "macro" mean: an upper bound.

    Exact: every score is tried. Of equal thresholds the highest counts.

    Raises:
        LexividError: another average, no pair, or no label that holds.
    """
    if average not in ("micro", "macro"):
        raise LexividError(f"average {average!r}: choose micro or macro")
    scores, truth, judged = _checked(scores, truth, judged)
    rows, columns = np.nonzero(judged)
    flat, holds = scores[rows, columns], truth[rows, columns]
    if not holds.any():
        raise LexividError("no label holds for any clip: there is no F1")
    order = np.argsort(-flat, kind="stable")
    flat, holds, columns = flat[order], holds[order], columns[order]
    if average == "micro":
        curve = _f1(np.cumsum(holds), np.arange(1, len(flat) + 1), holds.sum())
    else:
        # A pair that passes the threshold changes the F1 of its own label alone: the mean is a running sum.
        change = np.zeros(len(flat))
        num = 0
        for k in range(scores.shape[1]):
            of_label = np.flatnonzero(columns == k)
            if holds[of_label].any():
                after = _f1(np.cumsum(holds[of_label]), np.arange(1, len(of_label) + 1), holds[of_label].sum())
                change[of_label] = np.diff(after, prepend=0.0)
                num += 1
        curve = np.cumsum(change) / num
    last_of_tie = np.flatnonzero(np.append(np.diff(flat) != 0, True))
    best = last_of_tie[np.argmax(np.round(curve[last_of_tie], 12))]
    return f1(scores, truth, threshold=float(flat[best]), judged=judged)


def reliability(
    probabilities: np.ndarray, truth: np.ndarray, *, num_bins: int = 10, judged: np.ndarray | None = None
) -> Reliability:
    """Mean probability and share of truths in bins of equal width; 1 belongs to the last bin.

    Raises:
        LexividError: a probability outside 0 to 1, or as `average_precision`.
    """
    place, probabilities, truth, judged = _binned(probabilities, truth, judged, num_bins)
    counts = np.bincount(place[judged], minlength=num_bins)
    sums = [np.bincount(place[judged], weights=x[judged], minlength=num_bins) for x in (probabilities, truth)]
    said, held = (np.divide(s, counts, out=np.full(num_bins, np.nan), where=counts > 0) for s in sums)
    return Reliability(said, held, counts)


def calibration_error(
    probabilities: np.ndarray, truth: np.ndarray, *, num_bins: int = 10, judged: np.ndarray | None = None
) -> float:
    """Expected calibration error: the mean over pairs of |said - held| of their bin; nan without pairs."""
    said, held, counts = reliability(probabilities, truth, num_bins=num_bins, judged=judged)
    return float(np.nansum(np.abs(said - held) * counts) / counts.sum()) if counts.sum() else float("nan")


def bootstrap_calibration_error(
    probabilities: np.ndarray,
    truth: np.ndarray,
    *,
    num_bins: int = 10,
    judged: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """`calibration_error` with its percentile interval over clips, or over `groups` (n,) of clips of one recording.

    The error is a mean of absolute values, so noise can only raise it: resamples lie above the estimate more often than
    below, and with few clips a perfectly calibrated model has an error above 0.

    Raises:
        LexividError: no pair is judged, or as `reliability`.
    """
    place, probabilities, truth, judged = _binned(probabilities, truth, judged, num_bins)
    if not judged.any():
        raise LexividError("no pair to measure a calibration error on")
    n = len(place)
    cells = (np.arange(n)[:, None] * num_bins + place)[judged]
    gaps = np.bincount(cells, weights=(probabilities - truth)[judged], minlength=n * num_bins).reshape(n, num_bins)
    pairs = judged.sum(axis=1)
    units = np.arange(n) if groups is None else groups
    indices, counts = resampled_weights([units], num_resamples=num_resamples, seed=seed)
    weights = counts[0][:, indices[0]].astype(np.float64)  # (B, n)
    total = weights @ pairs
    drawn = np.abs(weights @ gaps).sum(axis=1)[total > 0] / total[total > 0]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.abs(gaps.sum(axis=0)).sum() / pairs.sum()), float(low), float(high), counts[0].shape[1])


def report(
    probabilities: np.ndarray,
    truth: np.ndarray,
    *,
    threshold: float = 0.5,
    seen: np.ndarray | None = None,
    judged: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """All numbers for all labels and, where `seen` (K,) bool says which were trained on, for both parts.

    Every part keeps all clips: a clip without a label of a part is a negative of each of them. F1 is at the shared
    threshold and at the best one, which is chosen on these very clips and so an upper bound.

    Returns:
        "all", "seen", "unseen" (an empty part is left out) -> JSON types, None for what no clip can say.
    """
    probabilities, truth, judged = _checked(probabilities, truth, judged)
    parts = {"all": np.ones(truth.shape[1], dtype=bool)}
    if seen is not None:
        chosen = np.asarray(seen, dtype=bool)
        if chosen.shape != truth.shape[1:]:
            raise LexividError(f"seen must be ({truth.shape[1]},); got {chosen.shape}")
        parts |= {"seen": chosen, "unseen": ~chosen}
    return {
        name: _numbers(probabilities[:, at], truth[:, at], judged[:, at], threshold, groups)
        for name, at in parts.items()
        if at.any()
    }


def _numbers(
    p: np.ndarray, truth: np.ndarray, judged: np.ndarray, threshold: float, groups: np.ndarray | None
) -> dict[str, Any]:
    absent = labels_without_clips(truth, judged)
    shared = f1(p, truth, threshold=threshold, judged=judged)
    result: dict[str, Any] = {
        "labels": truth.shape[1],
        "labels_without_clips": len(absent),
        "clips": len(truth),
        "mean_average_precision": mean_average_precision(p, truth, judged),
        "f1_micro": shared.micro,
        "f1_macro": shared.macro,
        "threshold": threshold,
        "calibration_error": bootstrap_calibration_error(p, truth, judged=judged, groups=groups).to_dict(),
    }
    if len(absent) < truth.shape[1]:
        for average in ("micro", "macro"):
            best = best_f1(p, truth, average=average, judged=judged)
            result[f"best_f1_{average}"] = {"value": getattr(best, average), "threshold": best.threshold}
    for key, value in result.items():
        if isinstance(value, float):
            result[key] = None if np.isnan(value) else round(value, 6)
    return result


def _checked(
    scores: np.ndarray, truth: np.ndarray, judged: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    if scores.ndim != 2 or scores.shape != truth.shape:
        raise LexividError(f"scores and truth are (n, K) alike; got {scores.shape} and {truth.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise LexividError("truth must be 0 or 1")
    judged = np.ones(truth.shape, dtype=bool) if judged is None else np.asarray(judged, dtype=bool)
    if judged.shape != truth.shape:
        raise LexividError(f"judged is (n, K) as truth is; got {judged.shape} and {truth.shape}")
    if np.isnan(scores[judged]).any():
        raise LexividError("a score is not a number")
    return scores, truth.astype(bool), judged


def _binned(
    probabilities: np.ndarray, truth: np.ndarray, judged: np.ndarray | None, num_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    probabilities, truth, judged = _checked(probabilities, truth, judged)
    if num_bins < 1:
        raise LexividError(f"at least one bin; got {num_bins}")
    inside = probabilities[judged]
    if len(inside) and not (inside.min() >= 0 and inside.max() <= 1):
        raise LexividError(f"probabilities lie between 0 and 1; got {inside.min():g} to {inside.max():g}")
    place = np.minimum(np.where(judged, probabilities, 0.0) * num_bins, num_bins - 1).astype(np.int64)
    return place, probabilities, truth, judged


def _f1(right: Any, shown: Any, true: Any) -> Any:
    """2 right / (shown + true), and 0 where nothing is shown and nothing true."""
    both = np.asarray(shown, dtype=np.float64) + true
    return np.divide(2.0 * np.asarray(right), both, out=np.zeros(np.shape(both)), where=both > 0)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
