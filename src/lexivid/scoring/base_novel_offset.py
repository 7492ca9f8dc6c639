"""One scale for base and novel classes, for when nobody says which a clip is of (ours; MOV leaves it open).

MOV has two paths: eq. 10 knows the base classes well and forgets the rest, eq. 11 and 12 keep the open vocabulary. Over
a mixed vocabulary each path is asked about all labels, base labels take their score from the first, the others from
the second plus an offset:

    s_k = log p_base(k)             k a base class of the model
    s_k = log p_novel(k) + offset   k any other label              p = softmax(s)

With one and the same path on both sides this is calibrated stacking (Chao et al., 2016). Logarithms come from the
models as such (`lexivid.scoring.features.log_score`): most probabilities of a small temperature are too small for
a number, and their labels would tie. The more views of a clip are averaged, the flatter the mean is, so an offset
belongs to the number of views that it was fitted with; `BaseNovelOffset.other_views` says where they differ. The
offset is found on base clips alone:

    fit_classes_out   the offset that balances the harmonic mean of models that were trained without some base classes,
                      which are novel to them (`lexivid.evaluation.leave_classes_out`): right for any model, for the
                      price of training again.
    fit_held_out      nothing is trained again: held-out clips of base classes, among their own names and names of
                      nothing (ImageNet's, which no clip is of and the model was not trained on), say how large an
                      offset costs them a twentieth of their accuracy. The more such names, the smaller it is, so it
                      is a table by their number. Base classes cannot play novel here: their names attract the model
                      that was trained on them.

Novel classes and their clips are never used. In: log probabilities. Out: `BaseNovelOffset`, small JSON.
Shapes: n clips, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lexivid.backbones.lite import imagenet_classes
from lexivid.errors import LexividError
from lexivid.metrics.single_label import harmonic_mean
from lexivid.models.calibration import BaseNovelOffset
from lexivid.models.mov import HEADS
from lexivid.scoring.features import Collected, log_score, of_classes

_FLOOR = -1e300  # of a log probability: where nothing is known, such as of a clip without streams


class Fold(NamedTuple):
    """Clips of base classes, some of which play novel.

    Attributes:
        base_path, novel_path: log probabilities (n, K) of eq. 10 and of eq. 12, each over all K labels.
        targets: (n,) int. is_base: (K,) bool, false for the labels that play novel.
    """

    base_path: np.ndarray
    novel_path: np.ndarray
    targets: np.ndarray
    is_base: np.ndarray


def combine(base_path: np.ndarray, novel_path: np.ndarray, is_base: np.ndarray, *, offset: float) -> np.ndarray:
    """Both paths' log probabilities over the same K labels -> probabilities: (..., K), (..., K), (K,) bool -> (..., K).

    Where all labels are base classes, or none is, the offset plays no part.
    """
    scores = _splice(base_path, novel_path, is_base, offset)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def best_offset(folds: Sequence[Fold]) -> tuple[float, float]:
    """The offset with the highest harmonic mean, averaged over folds, and that mean.

    Exact: a clip's answer changes at one offset at most, so the curve is constant between those; of the best
    stretch the middle is taken, of several the widest.

    Raises:
        LexividError: a fold has no base or no novel clips, or no clip of one side is ever right.
    """
    if not folds:
        raise LexividError("no folds to calibrate on")
    limits = [_limits(fold) for fold in folds]
    known = np.unique(np.concatenate([limit[np.isfinite(limit)] for pair in limits for limit in pair]))
    if not len(known):
        raise LexividError("no clip that calibration could use is ever classified right: train longer")
    ends = np.concatenate([[known[0] - 2.0], known, [known[-1] + 2.0]])
    middles = (ends[:-1] + ends[1:]) / 2
    curve = np.zeros(len(middles))
    for base_limit, novel_limit in limits:
        # base clips are right below their limit, novel ones above
        base = 1 - np.searchsorted(np.sort(base_limit), middles, side="right") / len(base_limit)
        novel = np.searchsorted(np.sort(novel_limit), middles, side="left") / len(novel_limit)
        curve += np.divide(2 * base * novel, base + novel, out=np.zeros(len(middles)), where=base + novel > 0)
    curve /= len(limits)
    best = np.flatnonzero(curve >= curve.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    run = max(runs, key=lambda r: ends[r[-1] + 1] - ends[r[0]])
    return float((ends[run[0]] + ends[run[-1] + 1]) / 2), float(curve.max())


def accuracies(fold: Fold, *, offset: float) -> tuple[float, float]:
    """Accuracy of base and of (pseudo-)novel clips over the whole vocabulary."""
    predicted = _splice(fold.base_path, fold.novel_path, fold.is_base, offset).argmax(axis=1)
    right, base_clip = predicted == fold.targets, fold.is_base[fold.targets]
    return float(right[base_clip].mean()), float(right[~base_clip].mean())


def fit_classes_out(folds: Sequence[Fold]) -> BaseNovelOffset:
    """From models that were each trained without the classes which their fold says are novel.

    Raises:
        LexividError: as `best_offset`.
    """
    offset, mean = best_offset(folds)
    sides = np.array([accuracies(fold, offset=offset) for fold in folds])
    before = float(np.mean([harmonic_mean(*accuracies(fold, offset=0.0)) for fold in folds]))
    base, novel = sides.mean(axis=0).tolist()
    return BaseNovelOffset(
        offset, method="classes-out", num_clips=sum(len(f.targets) for f in folds), num_folds=len(folds),
        base=base, novel=novel, harmonic_mean=mean, before=before,
    )  # fmt: skip


def fit_held_out(folds: Mapping[int, Sequence[Fold]], *, spare: float = 0.05) -> BaseNovelOffset:
    """The largest offset that costs held-out base clips no more than `spare` of their accuracy.

    Args:
        folds: number of names of nothing (`distractor_labels`), which are the labels that are not base -> the same
            clips of base classes among several draws of them.
        spare: share of the accuracy without such names.

    Raises:
        LexividError: no clip is ever right, a fold has no names of nothing, or spare is outside 0 to 1.
    """
    if not 0 < spare < 1:
        raise LexividError(f"spare is a share between 0 and 1; got {spare}")
    if not folds or any(fold.is_base.all() for draws in folds.values() for fold in draws):
        raise LexividError("calibration needs names that are no base classes")
    table = []
    for number, draws in sorted(folds.items()):
        limits = np.sort(np.concatenate([_base_limits(fold) for fold in draws]))
        limits = limits[np.isfinite(limits)]  # of the clips that are right at some offset
        if not len(limits):
            raise LexividError("no clip that calibration could use is ever classified right: train longer")
        lost = int(spare * len(limits))
        table.append((number, float((limits[max(0, lost - 1)] + limits[lost]) / 2) - 1e-9))
    first = next(iter(folds.values()))[0]
    fitted = BaseNovelOffset(
        offsets=tuple(table), method="held-out", num_clips=len(first.targets), num_folds=sum(map(len, folds.values()))
    )
    return replace(fitted, offset=fitted.offset_for(int(first.is_base.sum())))


def fit_offset(
    collected: Collected,
    embed: Callable[[Sequence[str]], Tensor],
    *,
    spare: float = 0.05,
    most: int = 256,
    num_draws: int = 8,
    seed: int = 0,
    nothing: Sequence[str] | None = None,
) -> BaseNovelOffset:
    """Fit the offsets on held-out clips of the model's base classes (`fit_held_out`).

    Args:
        spare: share of the base clips' accuracy that the offset may cost.
        most: names of nothing; offsets are fitted for 1, 2, 4, ... of them. num_draws: of each number.
        nothing: these names, which no clip is of; None: ImageNet's.

    Raises:
        LexividError: the model has no base classes, no clip is of them, or none is ever right.
    """
    if not collected.base_classes:
        raise LexividError("this model was not trained on base classes: there is nothing to calibrate")
    class_names = collected.base_classes
    part, targets = of_classes(collected, class_names)
    if not len(part):
        raise LexividError("no clip is of a base class of the model: there is nothing to calibrate it on")
    nothing = distractor_labels(most, seed=seed, exclude=class_names) if nothing is None else nothing[:most]
    vectors = embed([*class_names, *nothing])
    rng = np.random.default_rng(seed)
    folds: dict[int, list[Fold]] = {}
    number = 1
    while number <= len(nothing):
        for _ in range(num_draws if number < len(nothing) else 1):
            drawn = len(class_names) + rng.permutation(len(nothing))[:number]
            chosen = vectors[np.concatenate([np.arange(len(class_names)), drawn])]
            base, novel = (log_score(part, chosen, head=head) for head in HEADS)
            is_base = np.arange(len(chosen)) < len(class_names)
            folds.setdefault(number, []).append(Fold(base, novel, targets, is_base))
        number *= 2
    return replace(fit_held_out(folds, spare=spare), num_views=part.num_views)


def distractor_labels(num: int, *, seed: int, exclude: Sequence[str] = ()) -> list[str]:
    """Names that no clip is of: drawn from ImageNet's 1,000 classes, without those excluded and those that hold one."""
    taken = {name.lower() for name in exclude}
    names = [row[1].split(", ")[0] for row in imagenet_classes()]
    free = [name for name in dict.fromkeys(names) if not any(x in name.lower() or name.lower() in x for x in taken)]
    order = np.random.default_rng(seed).permutation(len(free))
    return [free[i] for i in order[:num]]


def class_folds(classes: Sequence[str], *, num_folds: int = 2, seed: int = 0) -> list[tuple[str, ...]]:
    """The base classes cut into parts of about equal size, each of which is left out of one training.

    Raises:
        LexividError: fewer classes than leave two to train on.
    """
    if not 2 <= num_folds <= len(classes) or len(classes) - -(-len(classes) // num_folds) < 2:
        raise LexividError(
            f"{len(classes)} base classes cannot be left out in {num_folds} folds: two must stay, and one must go"
        )
    order = np.random.default_rng(seed).permutation(len(classes))
    return [tuple(classes[i] for i in sorted(order[fold::num_folds])) for fold in range(num_folds)]


def _splice(base_path: np.ndarray, novel_path: np.ndarray, is_base: np.ndarray, offset: float) -> np.ndarray:
    base_path, novel_path = np.asarray(base_path, dtype=np.float64), np.asarray(novel_path, dtype=np.float64)
    if base_path.shape != novel_path.shape or is_base.shape != base_path.shape[-1:]:
        raise LexividError(
            f"both paths must score the same labels; got {base_path.shape}, {novel_path.shape} and {is_base.shape}"
        )
    return np.maximum(np.where(is_base, base_path, novel_path + offset), _FLOOR)


def _limits(fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """Base clips: see `_base_limits`. Novel: the offset from which on they are right, inf for never."""
    on_base_side = fold.is_base[fold.targets]
    if on_base_side.all() or not on_base_side.any():
        raise LexividError("calibration needs clips of classes on both sides")
    of_target, best_base, best_novel = _best(fold)
    novel_limit = np.where(of_target >= best_novel, best_base - of_target, np.inf)[~on_base_side]
    return _base_limits(fold), novel_limit


def _base_limits(fold: Fold) -> np.ndarray:
    """Of each base clip the offset up to which it is right, -inf for never."""
    of_target, best_base, best_novel = _best(fold)
    return np.where(of_target >= best_base, of_target - best_novel, -np.inf)[fold.is_base[fold.targets]]


def _best(fold: Fold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (n,) at offset 0 of the right label, the best base one, the best other one."""
    scores = _splice(fold.base_path, fold.novel_path, fold.is_base, 0.0)
    of_target = scores[np.arange(len(scores)), fold.targets]
    best_base = np.where(fold.is_base, scores, -np.inf).max(axis=1)
    best_novel = np.where(fold.is_base, -np.inf, scores).max(axis=1)
    return of_target, best_base, best_novel
