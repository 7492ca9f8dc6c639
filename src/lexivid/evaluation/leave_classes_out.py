"""The base/novel offset from leave-classes-out models: a run's recipe once more for each part of its base classes,
trained without that part.

What such a model makes of classes that it never saw is what the run will make of novel ones. So the offset that
balances them is right for any model, also for one whose novel head was trained, such as one of sound alone, where
`fit_held_out` is blind. Two of them cost about one training more. No novel class is touched.

    run folder + its clips -> twins/KEY, twins/KEY, ... (runs of their own) -> BaseNovelOffset

Each lies under a key of the classes that it left out, the recipe, the clips and the backbone. So other parts, or a run
that was trained anew, find no model that is not theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lexivid.backbones import Backbone
from lexivid.backbones.base import weights_of
from lexivid.data.clips import Clip
from lexivid.data.recordings import recordings
from lexivid.data.run_clips import SPLIT_FILE, RunClips
from lexivid.data.sampling import ClipSamples
from lexivid.data.splits import ClassSplit
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import PromptCache
from lexivid.models.calibration import BaseNovelOffset
from lexivid.models.mov import HEADS
from lexivid.models.trained import TrainedModel
from lexivid.scoring import base_novel_offset
from lexivid.scoring.features import Collected, collect, log_score
from lexivid.training.clips import sample_spec
from lexivid.training.recipe import load_recipe
from lexivid.training.run import train

if TYPE_CHECKING:
    from lexivid.training.log import Progress
    from lexivid.training.recipe import Recipe


def fit_leaving_classes_out(
    model: TrainedModel,
    clips: RunClips,
    *,
    num_models: int = 2,
    device: str = "auto",
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> BaseNovelOffset:
    """Train a run's leave-classes-out models, or find them trained, and fit the offset on them.

    Each trains on the run's own training clips without those of the classes that it leaves out. So nothing is drawn
    anew, and a clip that the run kept back is kept back from these models too.

    Args:
        model: a run, read from its folder. clips: its clips where they lie now. num_models: parts of the base classes.
        on_progress: called with steps done and to do, of all of them.

    Raises:
        LexividError: too few base classes, a class without clips, or as training.
    """
    assert model.folder is not None
    recipe, base = load_recipe(model.folder / "recipe.yaml"), clips.split.base
    backbone, folds = model.backbone, []
    for place, left_out in enumerate(
        base_novel_offset.class_folds(base, num_folds=num_models, seed=recipe.data.split_seed)
    ):
        rest = tuple(name for name in base if name not in left_out)
        folder = model.folder / "twins" / _key(recipe, clips, backbone, left_out)
        run_recipe = replace(recipe, data=replace(recipe.data, class_split=str(folder.absolute() / SPLIT_FILE)))
        split = ClassSplit(rest, left_out, None, f"leaves classes of {model.folder.name} out")
        # A run of which training has ended is found, and nothing of it is done again.
        train(
            run_recipe, clips.only(split), folder, resume=folder.exists(), device=device, backbone=backbone,
            on_progress=partial(_show, on_progress, place, num_models),
        )  # fmt: skip
        model_without = TrainedModel.from_pretrained(folder, device=device, backbone=backbone)
        measured = pseudo_novel_clips(clips.train, clips.held_out, left_out)
        spec = sample_spec(run_recipe, backbone.images, train=False)
        collected = collect(
            model_without, ClipSamples(measured, spec, classes=base), classes=base, num_workers=num_workers
        )
        prompt_cache, templates = PromptCache(backbone), load_templates(model_without.templates)
        folds.append(fold_of(collected, prompt_cache.embed(base, templates), left_out))
    return base_novel_offset.fit_classes_out(folds)


def _key(recipe: Recipe, clips: RunClips, backbone: Backbone, left_out: Sequence[str]) -> str:
    """A model's folder: by what is left out, and by everything that it is trained from."""
    settings = {key: value for key, value in recipe.to_dict().items() if key not in ("name", "about")}
    settings["data"] = {k: v for k, v in settings["data"].items() if k not in ("num_workers", "cache_clips")}
    later = ("checkpoint_minutes", "delete_checkpoints")  # keys that earlier runs did not have, and that decide nothing
    settings["training"] = {k: v for k, v in settings["training"].items() if k not in later}
    parts = [sorted(left_out), settings, clips.digest, weights_of(backbone)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _show(on_progress: Callable[[int, int], None] | None, place: int, num_models: int, now: Progress) -> None:
    if on_progress and now.phase == "training" and now.total:
        on_progress(place * now.total + now.step, num_models * now.total)


def pseudo_novel_clips(kept: Sequence[Clip], held_out: Sequence[Clip], left_out: Sequence[str]) -> list[Clip]:
    """Clips that the model did not train on: the held-out ones of its classes, and those of classes left out, unless
    it trained on other clips of the same recording."""
    novel, clips = set(left_out), (*kept, *held_out)
    numbers = recordings(clips)
    trained_on = {number for number, clip in zip(numbers, kept, strict=False) if clip.labels[0] not in novel}
    unseen = [clip for number, clip in zip(numbers, clips, strict=True) if number not in trained_on]
    return [clip for clip in unseen if clip.labels[0] in novel] + [
        clip for clip in held_out if clip.labels[0] not in novel
    ]


def fold_of(collected: Collected, vectors: Tensor, left_out: Sequence[str]) -> base_novel_offset.Fold:
    """Its scores over all base classes of the run: vectors (p, D) as `collected.classes`."""
    base, novel = (log_score(collected, vectors, head=head) for head in HEADS)
    is_base = np.array([name not in set(left_out) for name in collected.classes])
    return base_novel_offset.Fold(base, novel, collected.targets, is_base)
