"""The generalised setting of benchmarks/ucf6: all six classes at once, by MOV, where nobody says which are novel.

Two calibrations on base classes alone. "held-out" trains nothing again (`fit_offset`). "twins" trains the
flow tower and the fusion again, three times a run, each time without one of the three base classes, whose clips then
play novel; the twin's own held-out clips are its base clips. What a twin makes of its clips is kept beside the rows.
Its offset is fitted twice: among the run's three names, as `lexivid evaluate --protocol calibrate --twins` does, and
("twins, wide") with names of nothing beside the class that plays novel, as many as the vocabulary will have. Both were
fixed before the first twin was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lexivid.data.splits import ClassSplit
from lexivid.evaluation import protocols
from lexivid.evaluation.leave_classes_out import fold_of
from lexivid.metrics import single_label
from lexivid.models.calibration import BaseNovelOffset
from lexivid.scoring import base_novel_offset
from lexivid.scoring.base_novel_offset import fit_offset
from lexivid.scoring.features import Collected, score

if TYPE_CHECKING:
    from benchmarks.ucf6.measure import Run

NUM_TWINS = 3  # two of the three base classes stay
NUM_DRAWS = 8  # of names of nothing
Embed = Callable[[Sequence[str]], Tensor]


def twin_file(rows: Path, run_key: str, place: int) -> Path:
    """Where a twin's features are."""
    return rows / "features" / f"{run_key}-twin{place}.npz"


def train_twins(run: Run, rows: Path) -> dict[str, Any]:
    """Write each twin's features of the clips that it did not train on -> what was left out."""
    folds = base_novel_offset.class_folds(run.split.base, num_folds=NUM_TWINS, seed=run.seed)
    for place, left_out in enumerate(folds):
        rest = tuple(name for name in run.split.base if name not in left_out)
        twin = copy(run)
        twin.split = ClassSplit(rest, left_out, None, f"twin {place} of {run.key}")
        twin.base_texts = run.footage.vectors(rest)
        twin.train = [(i, clip) for i, clip in run.train if clip.labels[0] in rest]
        twin.held_out = [(i, clip) for i, clip in run.held_out if clip.labels[0] in rest]
        twin.test = [(i, clip) for i, clip in (*run.train, *run.held_out) if clip.labels[0] in left_out]
        tokens = {"video": run.footage.rgb, "flow": twin.flow_tokens()}
        mov = twin.fit(tokens, ("video", "flow"))
        collected = twin.collected([*twin.held_out, *twin.test], mov, tokens, ("video", "flow"))
        collected.save(twin_file(rows, run.key, place))
    return {"base": run.split.base, "left out": folds}


def clips_of(collected: Collected, own: Sequence[str]) -> tuple[Collected, np.ndarray]:
    """The clips of some classes, and their places among them."""
    place = {name: i for i, name in enumerate(own)}
    targets = np.array([place.get(collected.classes[t], -1) for t in collected.targets])
    return collected.select(targets >= 0), targets[targets >= 0]


def fit_twins(twins: Sequence[Collected], base: Sequence[str], embed: Embed, *, others: int) -> BaseNovelOffset:
    """The offset for a vocabulary with so many names that are no base classes (1: the twins' own names alone)."""
    nothing = base_novel_offset.distractor_labels(256, seed=0, exclude=base)
    draws = [np.random.default_rng(seed).permutation(len(nothing))[: others - 1] for seed in range(NUM_DRAWS)]
    folds = []
    for twin in twins:
        left_out = [name for name in base if name not in twin.base_classes]
        for drawn in draws if others > 1 else draws[:1]:
            names = (*base, *(nothing[i] for i in drawn))
            part, targets = clips_of(twin, base)
            seen = replace(part, classes=names, targets=targets)
            folds.append(fold_of(seen, embed(names), [*left_out, *names[len(base) :]]))
    return base_novel_offset.fit_classes_out(folds)


def generalized(
    test: Collected, held_out: Collected, twins: Sequence[Collected], embed: Embed, all_names: Sequence[str]
) -> dict[str, Any]:
    """All six classes at once, among 6 and 101 names, by MOV and every rule."""
    base_names = list(test.base_classes)
    own = [*base_names, *(n for n in test.classes if n not in base_names)]
    fitted = {"held-out": fit_offset(held_out, embed)}
    if twins:
        fitted["twins"] = fit_twins(twins, base_names, embed, others=1)
    result: dict[str, Any] = {"calibration": {name: x.to_dict() for name, x in fitted.items()}}
    part, targets = clips_of(test, own)
    for names in (own, [*own, *(n for n in all_names if n not in own)]):
        vectors = embed(names)
        base, novel = (score(part, vectors, head=head) for head in ("base", "novel"))
        is_base = np.array([n in base_names for n in names])
        others = int((~is_base).sum())
        offsets = {"offset 0": 0.0} | {name: x.offset_for(others) for name, x in fitted.items()}
        if twins:
            offsets["twins, wide"] = fit_twins(twins, base_names, embed, others=others).offset
        rules = {"all-novel": novel, "all-base": base}
        rules |= {rule: protocols.joined(part, vectors, is_base, offset=offset) for rule, offset in offsets.items()}
        result[str(len(names))] = {rule: single_label.hits(x, targets).tolist() for rule, x in rules.items()}
        result[f"offsets among {len(names)}"] = offsets
    result["is_base"] = (targets < len(base_names)).tolist()
    result["groups"] = list(part.groups)
    return result
