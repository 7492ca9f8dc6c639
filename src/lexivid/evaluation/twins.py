"""Calibration by twins: the run's recipe once more for each part of its base classes, trained without that part.

What a twin makes of classes that it never saw is what the run will make of novel ones, so the offset that balances
the twins is right for any model, also for one whose novel path was trained, such as one of sound alone, where
`fit_held_out` is blind. Two twins cost about one training more. No novel class is touched.

    run folder + data -> twins/0, twins/1, ... (runs of their own) -> Calibration
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lexivid.data.dataset import Clip
from lexivid.data.loading import ClipSamples
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.evaluation import calibration as cal
from lexivid.evaluation.collected import Collected, collect, score
from lexivid.labels import LabelBank, load_templates

if TYPE_CHECKING:
    from lexivid.training.log import Progress


def calibrate_with_twins(
    run: str | Path,
    data: str | Path,
    *,
    num_twins: int = 2,
    device: str = "auto",
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> cal.Calibration:
    """Train the twins of a run, or find them trained, and fit the offset on them.

    Args:
        run: a folder of `lexivid train`. data: what it was trained on. num_twins: parts of the base classes.
        on_progress: called with steps done and to do, of all twins.

    Raises:
        LexividError: too few base classes, no clips were held out of training, or as training.
    """
    from lexivid.models.trained import TrainedModel
    from lexivid.training.clips import sample_spec, select_clips
    from lexivid.training.recipe import load_recipe
    from lexivid.training.run import train

    run = Path(run)
    recipe = load_recipe(run / "recipe.yaml")
    kept, held_out, split = select_clips(recipe, data)
    if not held_out:
        raise LexividError("this run kept no clips back: train with data.held_out above 0 to calibrate")
    folds, backbone = [], None
    for place, left_out in enumerate(cal.class_folds(split.base, num_folds=num_twins, seed=recipe.data.split_seed)):
        folder = run / "twins" / str(place)
        rest = tuple(name for name in split.base if name not in left_out)
        folder.mkdir(parents=True, exist_ok=True)
        ClassSplit(rest, left_out, None, f"twin {place} of {run.name}").save(folder / "classes.json")
        own = replace(recipe, data=replace(recipe.data, class_split=str((folder / "classes.json").resolve())))
        if not (folder / "run" / "config.json").is_file():
            train(
                own, data, folder / "run", resume=(folder / "run").exists(), device=device, backbone=backbone,
                on_progress=partial(_show, on_progress, place, num_twins),
            )  # fmt: skip
        model = TrainedModel.from_pretrained(folder / "run", device=device, backbone=backbone)
        backbone = model.backbone
        clips = pseudo_novel_clips(kept, held_out, left_out)
        spec = sample_spec(own, backbone.images, train=False)
        collected = collect(
            model, ClipSamples(clips, spec, classes=split.base), classes=split.base, num_workers=num_workers
        )
        bank, templates = LabelBank(backbone), load_templates(model.templates)
        folds.append(fold_of(collected, bank.embed(split.base, templates), left_out))
    return cal.fit_classes_out(folds)


def _show(on_progress: Callable[[int, int], None] | None, place: int, num_twins: int, now: Progress) -> None:
    if on_progress and now.total:
        on_progress(place * now.total + now.step, num_twins * now.total)


def pseudo_novel_clips(kept: Sequence[Clip], held_out: Sequence[Clip], left_out: Sequence[str]) -> list[Clip]:
    """Clips that the twin did not train on: the held-out ones of its classes, and all of those left out."""
    novel = set(left_out)
    return [clip for clip in (*kept, *held_out) if clip.labels[0] in novel] + [
        clip for clip in held_out if clip.labels[0] not in novel
    ]


def fold_of(collected: Collected, vectors: Tensor, left_out: Sequence[str]) -> cal.Fold:
    """A twin's scores over all base classes of the run: vectors (p, D) in the order of `collected.classes`."""
    base, novel = score(collected, vectors, path="base"), score(collected, vectors, path="novel")
    is_base = np.array([name not in set(left_out) for name in collected.classes])
    return cal.Fold(base, novel, collected.targets, is_base)
