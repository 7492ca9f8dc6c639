"""What it is worth that pictures and flow share their random crop: `lite-mov` and `lite-score-fusion` on ucf6.

    python -m benchmarks.ucf6_crop.measure --data DIR --labels DIR [--stop-after SECONDS] [--report]

Beside cached frozen features Lexivid used to draw the crop of flow from the flow's own size (up to version ba6c178), so
that pictures and flow of a clip showed different places. ucf6 has no random crops and never had this fault; these
two recipes had it. Every row trains one by `lexivid.training.run.train`, twice from the same pictures and seeds:

    own      the crop of flow is drawn from the flow's own size, as it was
    shared   it is that of the pictures, as it is

Classes, lists and vocabularies as in ucf6: three complementary pairs of base and novel classes, official lists 2 and
3, base classes by the base path, novel ones by the novel path, among the 3 names of their side and among all 101.

All settings are the recipes' but for two, which let one CPU do it: 4 frames a clip in place of 8, and 2 looks at each
clip in place of 4. A shortcut that changes no result but rounding: what the flow tower's frozen first 11 blocks make of
a look is computed once (float16), and a clip has the same looks in every row. The recipes' held-out clips stay out of
training and choose nothing. Started again, the script goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.tools import real_media as media
from lexivid.backbones.lite import LiteBackbone
from lexivid.base.storage import write_atomically
from lexivid.data import sampling
from lexivid.data.cache import ClipCache
from lexivid.data.formats import read_dataset
from lexivid.data.naming import class_name
from lexivid.data.sampling import ClipSamples
from lexivid.data.splits import complementary_splits, hold_out
from lexivid.metrics import single_label
from lexivid.models.towers import LiteTower, make_frozen_tower, make_tower
from lexivid.models.trained import TrainedModel
from lexivid.scoring.features import collect, score
from lexivid.training.clips import TrainingClips, sample_spec
from lexivid.training.recipe import load_recipe
from lexivid.training.run import train

RECIPES = ("lite-mov", "lite-score-fusion")
CROPS = ("own", "shared")
FRAMES, LOOKS = 4, 2
TEST = LOOKS  # the number of the look at a test clip
FOLDER = media.CACHE / "ucf6-crop"
Key = tuple[str, int, int]  # recipe, list, choice of base classes


class Footage:
    """All clips with their looks, each made when it is first needed and kept."""

    def __init__(self, data: Path, labels: Path) -> None:
        self.data, self.labels = data, labels
        self.backbone = LiteBackbone.load()
        self.clips = {n: read_dataset(data, kind="ucf101", list_number=n, lists=labels).clips for n in (2, 3)}
        self.classes = read_dataset(data, kind="ucf101", list_number=2, lists=labels).classes
        self.place = {clip.path: i for i, clip in enumerate(sorted(self.clips[2], key=lambda clip: clip.path))}
        paths = sorted(self.place)
        self.recipe = load_recipe(RECIPES[0], {"data.num_frames": FRAMES})
        self.frozen = make_frozen_tower(self.backbone)
        self.tower = make_tower(self.backbone, modality="flow", trainable_layers=self.recipe.model.trainable_layers)
        by_path = {clip.path: clip for clip in self.clips[2]}
        self.samples = {
            (train_, inputs): ClipSamples(
                [by_path[path] for path in paths],
                replace(sample_spec(self.recipe, self.backbone.images, train=train_), inputs=inputs),
                classes=self.classes,
                cache=ClipCache(media.CACHE / "clips"),
            )
            for train_ in (True, False)
            for inputs in (("video",), ("flow",))
        }

    def look(self, path: str, number: int, crop: str) -> dict[str, Tensor]:
        """One look -> video (T, D) and low (T, C, h, w)."""
        index = self.place[path]
        video = self._kept(f"{index}-{number}-video", lambda: self._video(index, number))
        low = self._kept(
            f"{index}-{number}-{'shared' if number == TEST else crop}", lambda: self._low(index, number, crop)
        )
        return {"video": video, "flow": low.float()}

    def _kept(self, name: str, make: Any) -> Tensor:
        path = FOLDER / "looks" / f"{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with torch.no_grad():
                np.save(path.with_suffix(".tmp.npy"), make().numpy())
            path.with_suffix(".tmp.npy").replace(path)
        return torch.from_numpy(np.load(path))

    def sample(self, index: int, number: int, name: str) -> Tensor:
        """One stream of a look: (T, 3, S, S) uint8."""
        samples = self.samples[number != TEST, (name,)]
        samples.set_epoch(number)
        found = samples[index]
        assert found.get("failed") is None, found
        return found[name][0] if number == TEST else found[name]

    def _video(self, index: int, number: int) -> Tensor:
        return self.frozen(self.backbone.images.normalise(self.sample(index, number, "video"))).float()

    def flow(self, index: int, number: int, crop: str) -> Tensor:
        """The flow of a look: (T, 3, S, S) uint8."""
        with mock.patch.object(sampling, "read_parts", own_size if crop == "own" else sampling.read_parts):
            return self.sample(index, number, "flow")

    def _low(self, index: int, number: int, crop: str) -> Tensor:
        pictures = self.backbone.images.normalise(self.flow(index, number, crop))
        return media.lower_blocks(self.tower, pictures).half()


def own_size(*args: Any, read: Any = sampling.read_parts, **settings: Any) -> Any:
    """`read_parts` as it used to be used: the size that the crop is drawn from is the flow's."""
    parts, warnings = read(*args, **settings)
    return parts | {"picture_size": torch.tensor(parts["flow"].shape[-2:])}, warnings


class Looks:
    """Samples of some clips: look `epoch` mod LOOKS in training."""

    def __init__(
        self, footage: Footage, clips: Sequence[Any], targets: Sequence[int], crop: str, *, test: bool
    ) -> None:
        self.clips, self.targets, self.number = clips, targets, TEST if test else 0
        numbers = (TEST,) if test else range(LOOKS)
        self.looks = {(i, n): footage.look(clip.path, n, crop) for i, clip in enumerate(clips) for n in numbers}

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Which look is taken."""
        self.number = TEST if self.number == TEST else epoch % LOOKS

    def __getitem__(self, index: int) -> dict[str, Any]:
        known = {"index": index, "path": self.clips[index].path, "target": self.targets[index], "audio": None}
        return {**known, "mask": torch.tensor([True, True]), **self.looks[index, self.number]}


def upper_or_all(tower: LiteTower, pictures: Tensor, whole: Any = LiteTower.forward) -> Tensor:
    """`LiteTower.forward`, which also goes on from what the frozen blocks made."""
    return whole(tower, pictures) if pictures.shape[1] == 3 else media.upper_blocks(tower, pictures)


def measure(footage: Footage, key: Key) -> dict[str, Any]:
    """Train and test a row with both crops -> hits of every test clip."""
    recipe, number, choice = key
    split = complementary_splits(footage.classes, num_pairs=3, seed=0, source="UCF101, six classes")[choice]
    base = [clip for clip in footage.clips[number] if clip.split == "train" and clip.labels[0] in split.base]
    kept, _ = hold_out(base, fraction=footage.recipe.data.held_out, seed=0)
    test = [clip for clip in footage.clips[number] if clip.split == "test"]
    lines = (footage.labels / "ucf101_names.txt").read_text().splitlines()
    names = [class_name(line.strip()) for line in lines if line.strip()]
    row: dict[str, Any] = {"base": split.base, "novel": split.novel, "trained on": len(kept)}
    tests = Looks(footage, test, [footage.classes.index(clip.labels[0]) for clip in test], "shared", test=True)
    for crop in CROPS:
        out = FOLDER / f"run-{'-'.join(map(str, key))}-{crop}"
        shutil.rmtree(out, ignore_errors=True)
        clips = Looks(footage, kept, [split.base.index(clip.labels[0]) for clip in kept], crop, test=False)
        settings = {
            "data.num_workers": 0, "data.num_frames": FRAMES, "training.checkpoint_every": 0,
            "training.micro_batch": 16,
        }  # fmt: skip
        with mock.patch.object(LiteTower, "forward", upper_or_all):
            train(recipe, TrainingClips(clips, None, split.base, split), out, set=settings, backbone=footage.backbone)
            model = TrainedModel.from_pretrained(out)
            collected = collect(
                model, tests, classes=footage.classes, num_workers=0, paths=[Path(clip.path).stem for clip in test],
                groups=[str(clip.group) for clip in test],
            )  # fmt: skip
        loss = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        found: dict[str, Any] = {"last loss": [line["loss"] for line in loss if "loss" in line][-1]}
        for side in ("base", "novel"):
            own = split.base if side == "base" else split.novel
            place = {name: i for i, name in enumerate(own)}
            targets = np.array([place.get(collected.classes[t], -1) for t in collected.targets])
            part, targets = collected.select(targets >= 0), targets[targets >= 0]
            row[f"{side} clips"], row[f"{side} groups"] = part.paths, part.groups
            for vocabulary in (own, [*own, *(name for name in names if name not in own)]):
                p = score(part, model.embed(list(vocabulary)), head=side)  # type: ignore[arg-type]
                found[f"{side} {len(vocabulary)}"] = single_label.hits(p, targets).tolist()
        row[crop] = found
        shutil.rmtree(out)
    return row


def pooled(rows: Mapping[Key, dict[str, Any]], crop: str, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Hits of all rows, and their factors: the group of recordings and the run."""
    side = name.split()[0]
    hits = np.concatenate([row[crop][name] for row in rows.values()])
    groups = np.concatenate([row[f"{side} groups"] for row in rows.values()])
    run = np.concatenate([np.full(len(row[crop][name]), i) for i, row in enumerate(rows.values())])
    return hits, [groups, run]


def report(rows: Mapping[Key, dict[str, Any]], about: Mapping[str, Any]) -> None:
    """Write result.json: each recipe with both crops, and their paired difference."""
    result: dict[str, Any] = dict(about)
    for recipe in RECIPES:
        own_rows = {key: row for key, row in rows.items() if key[0] == recipe}
        if not own_rows:
            continue
        found: dict[str, Any] = {"runs": [f"list {key[1]}, choice {key[2]}" for key in own_rows]}
        for name in ("base 3", "novel 3", "base 101", "novel 101"):
            (old, factors), (new, _) = (pooled(own_rows, crop, name) for crop in CROPS)
            found[name] = {
                "own": single_label.bootstrap_mean(old, *factors).to_dict(),
                "shared": single_label.bootstrap_mean(new, *factors).to_dict(),
                "difference": single_label.bootstrap_difference(new, old, *factors).to_dict(),
                "clips gained and lost": [int((new > old).sum()), int((old > new).sum())],
                "difference of each run": [
                    round(float(np.mean(row["shared"][name]) - np.mean(row["own"][name])), 4)
                    for row in own_rows.values()
                ],
            }
            cells = [found[name][crop]["value"] for crop in CROPS]
            cells += [found[name]["difference"][key] for key in ("value", "low", "high")]
            print(f"{recipe:18} {name:10}", *(f"{100 * x:6.1f}" for x in cells), found[name]["clips gained and lost"])
        result[recipe] = found
    write_atomically(Path(__file__).with_name("result.json"), json.dumps(result | media.provenance(), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True, help="folder of the official lists and names")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="start no row after so many seconds")
    parser.add_argument("--report", action="store_true", help="write JSON from the rows that are there")
    args = parser.parse_args()
    started = time.monotonic()
    plan: list[Key] = [(recipe, n, choice) for recipe in RECIPES for n in (2, 3) for choice in range(6)]
    files = {key: FOLDER / "rows" / "{}-list{}-choice{}.json".format(*key) for key in plan}
    if not args.report:
        footage = Footage(args.data, args.labels)
        for key, path in files.items():
            if not path.exists() and time.monotonic() - started > args.stop_after:
                break
            media.row(path.parent, path.stem, partial(measure, footage, key))
    rows = {key: json.loads(path.read_text()) for key, path in files.items() if path.exists()}
    report(rows, {
        "benchmark": "lite-mov and lite-score-fusion on ucf6: the crop of flow from its own size, or the pictures'",
        "protocol": "base-novel, among the 3 names of a side and among all 101; own and shared paired clip by clip",
        "prompts": {"templates": "lite"},
        "frames": FRAMES,
        "looks": LOOKS,
        "views": "one: frames spread over the clip, central crop",
        "split": "official lists 2 and 3; complementary_splits(num_pairs=3, seed=0); 10 % of groups held out",
        "training": "the recipes' (20 epochs), but for frames and looks; seed 0",
        "decoder": "lexivid.media (PyAV)",
        "command": "python -m benchmarks.ucf6_crop.measure --data ucf6 --labels labels",
    })  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
