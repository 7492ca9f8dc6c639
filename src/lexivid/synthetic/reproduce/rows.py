"""One row of the tables: a system is trained on a world's base classes and run over its test clips, once. Its features
are stored (`Collected`), and every table is scored from them.

    recipe + WorldSamples --train()--> run folder --TrainedModel, collect()--> Collected, one npz file

Training is `lexivid.training.train`. The run folder is removed once the features are stored.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lexivid.backbones import Backbone, load_backbone
from lexivid.metrics import single_label
from lexivid.models.system import System
from lexivid.models.trained import TrainedModel
from lexivid.scoring.features import Collected, collect, score
from lexivid.synthetic.reproduce.packed_clips import PackedClips
from lexivid.synthetic.reproduce.plan import OTHER, Scale, TableRow, TableSystem, systems
from lexivid.synthetic.reproduce.world_samples import WorldFeatures, WorldSamples
from lexivid.synthetic.world.words import WorldKind
from lexivid.training import train
from lexivid.training.clips import TrainingClips
from lexivid.training.recipe import Recipe, load_recipe
from lexivid.training.run import trained_model

TEST, HELD_OUT = "test", "held-out"
_BATCH = 32


@dataclass(frozen=True)
class Workplace:
    """Where the files of a reproduction lie."""

    out: Path

    def clips(self, kind: WorldKind, seed: int) -> Path:
        """The folder of a world's video files."""
        return self.out / "clips" / f"{kind}-{seed}"

    def sheet(self, kind: WorldKind) -> Path:
        """An image that shows some clips of a world."""
        return self.out / "clips" / f"{kind}.png"

    def packed(self, kind: WorldKind, seed: int) -> Path:
        """Its decoded clips."""
        return self.out / "tensors" / f"{kind}-{seed}.safetensors"

    def features(self, kind: WorldKind, seed: int) -> Path:
        """The backbone's features of its clips."""
        return self.out / "tensors" / f"{kind}-{seed}-features.safetensors"

    def row(self, row: TableRow, *, control: bool = False) -> Path:
        """A system's features of its test clips."""
        return self.out / "rows" / f"{row.kind}-{row.seed}" / f"{row.system}{'-control' if control else ''}.npz"


def recipe_of(row: TableRow, scale: Scale, *, clip: str, num_layers: int) -> Recipe | None:
    """The recipe of a row, with everything that this run sets; None: nothing is trained."""
    system = systems(row.kind, num_layers)[row.system]
    if system.recipe is None:
        return None
    recipe = load_recipe(system.recipe, system.settings)
    epochs = max(1, round(recipe.training.epochs * scale.epochs))
    return recipe.with_settings(
        {"model.backbone": clip, "training.epochs": epochs, "training.seed": row.seed, "data.num_workers": 0}
    )


def is_done(row: TableRow, place: Workplace, scale: Scale, *, clip: str, num_layers: int) -> bool:
    """Whether the row exists and was made by the present recipe."""
    path = place.row(row)
    if not path.is_file():
        return False
    recipe = recipe_of(row, scale, clip=clip, num_layers=num_layers)
    return bool(Collected.load(path).facts.get("recipe") == (recipe.to_dict() if recipe else None))


def run_row(row: TableRow, place: Workplace, scale: Scale, *, clip: str) -> dict[str, float]:
    """Make a row -> seconds of one core by stage ("training", "scoring"). Its file appears when all is done."""
    began = time.process_time()
    backbone = _backbone(clip)
    packed, features = _world(place.packed(row.kind, row.seed), place.features(row.kind, row.seed))
    system = systems(row.kind, features.num_layers)[row.system]
    recipe = recipe_of(row, scale, clip=clip, num_layers=features.num_layers)
    bench = _Bench(row, backbone, packed, features)
    if recipe is None:
        collected = bench.collect(backbone)
        seconds = {"training": 0.0, "scoring": time.process_time() - began}
        facts: dict[str, Any] = {"recipe": None}
    else:
        with tempfile.TemporaryDirectory(dir=_make_folder(place.out), prefix=".training-") as folder:
            run, curve, curve_s = _train(bench, recipe, system, Path(folder) / "run", scale)
            trained = time.process_time()
            model = TrainedModel.from_pretrained(run, device="cpu", backbone=backbone)
        collected = bench.collect(model)
        if system.control:
            bench.collect(model, shuffled=OTHER[row.kind]).save(place.row(row, control=True))
        if system.curve:
            curve.append({"epoch": recipe.training.epochs, **bench.accuracies(collected)})
        seconds = {
            "training": trained - began - curve_s,
            "scoring": time.process_time() - trained + curve_s,
        }
        facts = {"recipe": recipe.to_dict(), "curve": curve}
    collected.facts = {**facts, "row": asdict(row), "backbone": backbone.name, "seconds": seconds}
    collected.save(place.row(row))
    return seconds


def _train(
    bench: _Bench, recipe: Recipe, system: TableSystem, run: Path, scale: Scale
) -> tuple[Path, list[dict[str, float]], float]:
    """(run folder, points of the curve but the last, seconds that they took)."""
    curve: list[dict[str, float]] = []
    curve_s = 0.0

    def record_curve(system_now: System, epochs_done: int) -> None:
        nonlocal curve_s
        if not system.curve or epochs_done == recipe.training.epochs or epochs_done % scale.curve_every:
            return
        began = time.process_time()
        model = trained_model(recipe, bench.backbone, system_now, bench.packed.split.base)
        curve.append({"epoch": epochs_done, **bench.accuracies(bench.collect(model, parts=(TEST,)))})
        curve_s += time.process_time() - began

    data, model_ = recipe.data, recipe.model
    samples = WorldSamples(
        bench.packed, bench.packed.indices("train"), modalities=model_.modalities, inputs=recipe.inputs,
        frozen=bench.features.frames if model_.frozen_video else None, num_frames=data.num_frames,
        seed=recipe.training.seed, spec_time=data.spec_time, spec_mel=data.spec_mel,
    )  # fmt: skip
    clips = TrainingClips(samples, None, bench.packed.split.base, bench.packed.split)
    result = train(recipe, clips, run, device="cpu", backbone=bench.backbone, on_epoch=record_curve)
    return result.out, curve, curve_s


@dataclass
class _Bench:
    """A world and a backbone, on which any model is measured."""

    row: TableRow
    backbone: Backbone
    packed: PackedClips
    features: WorldFeatures

    def collect(
        self, model: TrainedModel | Backbone, *, parts: Sequence[str] = (TEST, HELD_OUT), shuffled: str | None = None
    ) -> Collected:
        """A model's features of all frames of the clips of these parts; the parts are the groups of the result."""
        indices = self.packed.indices(*parts)
        trained = model if isinstance(model, TrainedModel) else None
        frozen: Tensor | None = None
        if trained is not None and trained.mov.config.frozen_video:
            frozen = self.features.frames
        samples = WorldSamples(
            self.packed, indices, modalities=trained.mov.config.modalities if trained else ("video",),
            inputs=trained.inputs if trained else ("video",), frozen=frozen, seed=self.row.seed, shuffled=shuffled,
        )  # fmt: skip
        return collect(
            model, samples, classes=self.packed.split.classes, batch_size=_BATCH, num_workers=0,
            paths=[self.packed.paths[i] for i in indices], groups=[self.packed.parts[i] for i in indices],
        )  # fmt: skip

    def accuracies(self, collected: Collected) -> dict[str, float]:
        """Base and novel accuracy of the test clips, 0 to 1."""
        num_base = len(self.packed.split.base)
        test = np.array(collected.groups) == TEST
        accuracies = {}
        for side, of_side in (("base", collected.targets < num_base), ("novel", collected.targets >= num_base)):
            part = collected.select(test & of_side)
            labels = self.features.labels[:num_base] if side == "base" else self.features.labels[num_base:]
            targets = part.targets if side == "base" else part.targets - num_base
            accuracies[side] = single_label.top_k_accuracy(score(part, labels, head=side), targets)  # type: ignore[arg-type]
        return accuracies


@lru_cache(maxsize=3)
def _backbone(name: str) -> Backbone:
    return load_backbone(name, device="cpu", dtype="float32")


@lru_cache(maxsize=1)  # rows come world by world
def _world(packed: Path, features: Path) -> tuple[PackedClips, WorldFeatures]:
    return PackedClips.load(packed), WorldFeatures.load(features)


def _make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
