"""Numbers about classifications: pure functions from arrays to arrays. Oracles: tests/metrics/test_single_label.py.

In: scores (n, K), higher is better; targets (n,) int, the right column. A tie counts against the classifier, so that a
constant answer scores nothing. Intervals are percentile bootstraps over what was sampled: clips, the groups
(recordings) that clips come from, or runs (seeds, splits) crossed with either.

Shapes: n clips, K labels, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lexivid.errors import LexividError

_CHUNK = 2_000_000  # weights held at a time: 16 MB


class Interval(NamedTuple):
    """An estimate, its bootstrap interval, and how many units (of the scarcest factor) were resampled."""

    value: float
    low: float
    high: float
    num_units: int

    def to_dict(self) -> dict[str, float | int]:
        """As JSON types, rounded to six places."""
        return {
            "value": round(self.value, 6), "low": round(self.low, 6), "high": round(self.high, 6),
            "num_units": self.num_units,
        }  # fmt: skip


def ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How many other labels score at least as high as the right one: (n, K), (n,) -> (n,) int, 0 for a hit.

    Raises:
        LexividError: the shapes do not fit, a target is no column, or a score is not a number.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise LexividError(f"scores are (n, K) and targets (n,); got {scores.shape} and {targets.shape}")
    if np.isnan(scores).any():
        raise LexividError("a score is not a number")
    if len(targets) and not (targets.min() >= 0 and targets.max() < scores.shape[1]):
        raise LexividError(f"targets must be 0 to {scores.shape[1] - 1}; got {targets.min()} to {targets.max()}")
    of_target = scores[np.arange(len(scores)), targets]
    return (scores >= of_target[:, None]).sum(axis=1) - 1


def hits(scores: np.ndarray, targets: np.ndarray, *, k: int = 1) -> np.ndarray:
    """Whether the right label is among the k best: (n, K), (n,) -> (n,) float64 of 0 and 1."""
    if k < 1:
        raise LexividError(f"k is at least 1; got {k}")
    return (ranks(scores, targets) < k).astype(np.float64)


def top_k_accuracy(scores: np.ndarray, targets: np.ndarray, *, k: int = 1) -> float:
    """The share of clips whose right label is among the k best; nan for no clips."""
    right = hits(scores, targets, k=k)
    return float(right.mean()) if len(right) else float("nan")


def confusion(targets: np.ndarray, predictions: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Counts (K, K) int64: row is the truth, column what was said.

    Raises:
        LexividError: a value is outside 0 to K - 1, or the lengths differ.
    """
    targets, predictions = np.asarray(targets, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    if targets.shape != predictions.shape or targets.ndim != 1:
        raise LexividError(f"targets and predictions must be (n,) alike; got {targets.shape} and {predictions.shape}")
    both = np.concatenate([targets, predictions])
    if len(both) and not (both.min() >= 0 and both.max() < num_classes):
        raise LexividError(f"classes must be 0 to {num_classes - 1}; got {both.min()} to {both.max()}")
    return np.bincount(targets * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(targets: np.ndarray, correct: np.ndarray, *, num_classes: int) -> np.ndarray:
    """The share of hits of each class (recall): (n,), (n,) of 0 and 1 -> (K,); nan for a class without clips."""
    counts = np.bincount(targets, minlength=num_classes)
    sums = np.bincount(targets, weights=correct, minlength=num_classes)
    return np.divide(sums, counts, out=np.full(num_classes, np.nan), where=counts > 0)


def harmonic_mean(base: float, novel: float) -> float:
    """2 b n / (b + n), and 0 where one is 0: the paper's one number for base and novel classes.

    Over several runs of one data set (seeds, splits) it is that of the two accuracies over all clips of all runs, and
    not the mean of the runs' harmonic means, which is lower the more the runs differ. (The seeds of the synthetic
    world are worlds with classes of their own: its report gives the mean over worlds, and says so.)
    """
    return 2 * base * novel / (base + novel) if base + novel > 0 else 0.0


def resampled_weights(
    factors: Sequence[Sequence[Any] | np.ndarray], *, num_resamples: int, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """How often each unit of each factor is drawn, with replacement, in each resample.

    Returns:
        For each factor its units' indices (n,) int, and the counts (B, units) int. A clip's weight in a resample is the
        product of its units' counts (the crossed bootstrap of Owen, 2007): clips that are seen in several runs are
        neither independent of each other nor of the run.
    """
    rng = np.random.default_rng(seed)
    indices, counts = [], []
    for factor in factors:
        _, index = np.unique(np.asarray(factor), return_inverse=True)
        num_units = int(index.max()) + 1 if len(index) else 0
        indices.append(index.ravel())
        counts.append(rng.multinomial(num_units, [1 / num_units] * num_units, size=num_resamples))
    return indices, counts


def resampled_means(
    values: np.ndarray, *factors: Sequence[Any] | np.ndarray, num_resamples: int = 2000, seed: int = 0
) -> np.ndarray:
    """Means of columns in each resample: (n, m), one (n,) sequence of unit names a factor -> (B, m).

    nan entries do not count, so that columns may have clips of their own (base and novel ones, with the same runs).
    No factor: every clip is a unit.

    Raises:
        LexividError: a factor of another length, or no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise LexividError(f"values must be (n, m) with n above 0; got {values.shape}")
    if any(len(factor) != len(values) for factor in factors):
        raise LexividError(f"{len(values)} values, but factors of {[len(factor) for factor in factors]}")
    indices, counts = resampled_weights(factors or [np.arange(len(values))], num_resamples=num_resamples, seed=seed)
    valid = ~np.isnan(values)
    filled = np.where(valid, values, 0.0)
    means = np.full((num_resamples, values.shape[1]), np.nan)
    step = max(1, _CHUNK // len(values))
    for start in range(0, num_resamples, step):
        part = slice(start, start + step)
        weights = np.prod([count[part][:, index] for index, count in zip(indices, counts, strict=True)], axis=0)
        total = weights @ valid.astype(np.float64)
        np.divide(weights @ filled, total, out=means[part], where=total > 0)
    return means


def bootstrap_mean(
    values: np.ndarray,
    *factors: Sequence[Any] | np.ndarray,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of (n,) values, such as `hits` or the paired difference of two systems' hits, with its interval.

    Args:
        factors: what was sampled, (n,) unit names each: none for clips, a group of every clip, or a group and a run.
    """
    values = np.asarray(values, dtype=np.float64)
    means = resampled_means(values[:, None], *factors, num_resamples=num_resamples, seed=seed)[:, 0]
    return _interval(float(values.mean()), means, len(values), factors, level)


def bootstrap_difference(
    first: np.ndarray, second: np.ndarray, *factors: Sequence[Any] | np.ndarray, **options: Any
) -> Interval:
    """Mean of first - second over the same clips in the same order: paired, so what makes a clip hard cancels out."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise LexividError(f"a paired difference needs the same clips; got {first.shape} and {second.shape}")
    return bootstrap_mean(first - second, *factors, **options)


def bootstrap_harmonic_mean(
    correct: np.ndarray,
    is_base: np.ndarray,
    *factors: Sequence[Any] | np.ndarray,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """`harmonic_mean` of the accuracies over all clips of all runs: hits (n,), is_base (n,) bool. Factors as in
    `bootstrap_mean`."""
    correct, is_base = np.asarray(correct, dtype=np.float64), np.asarray(is_base, dtype=bool)
    if is_base.all() or not is_base.any():
        raise LexividError("a harmonic mean needs base and novel clips")
    sides = np.stack([np.where(is_base, correct, np.nan), np.where(is_base, np.nan, correct)], axis=1)
    means = resampled_means(sides, *factors, num_resamples=num_resamples, seed=seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.where(means.sum(axis=1) > 0, 2 * means.prod(axis=1) / means.sum(axis=1), 0.0)
    value = harmonic_mean(float(correct[is_base].mean()), float(correct[~is_base].mean()))
    return _interval(value, drawn[~np.isnan(means).any(axis=1)], len(correct), factors, level)


def t_interval(values: Sequence[float] | np.ndarray, *, level: float = 0.95) -> Interval:
    """The mean of a few independent runs, such as seeds, with Student's interval: mean +- t s / sqrt(n).

    Of a handful of runs a percentile bootstrap is too narrow (of 5, by about a third). One run has no interval.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise LexividError(f"values must be (n,) with n above 0; got {x.shape}")
    if len(x) == 1:
        return Interval(float(x[0]), float("nan"), float("nan"), 1)
    half = student_quantile((1 + level) / 2, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def student_quantile(probability: float, degrees: int) -> float:
    """The value that Student's t with so many degrees of freedom stays below with this probability (0.5 to 1).

    With t = sqrt(degrees) tan(angle) the density is proportional to cos(angle)^(degrees - 1), summed here on a grid.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise LexividError(
            f"a probability from 0.5 to 1 and at least one degree of freedom; got {probability}, {degrees}"
        )
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(2 * probability - 1, area / area[-1], angles)))


def _interval(
    value: float, drawn: np.ndarray, num_clips: int, factors: Sequence[Sequence[Any] | np.ndarray], level: float
) -> Interval:
    if not 0 < level < 1:
        raise LexividError(f"level is between 0 and 1; got {level}")
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (np.nan, np.nan)
    units = min((len(np.unique(np.asarray(factor))) for factor in factors), default=num_clips)
    return Interval(value, float(low), float(high), units)
