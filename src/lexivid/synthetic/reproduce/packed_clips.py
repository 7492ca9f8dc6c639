"""The clips of a world, made as files, decoded once and held as tensors.

    make_world --MP4 files--> ClipSamples (decoding, TV-L1, log mel) --> PackedClips, one safetensors file

Every row of a table reads the same file, so no clip is decoded twice.

Shapes: n clips, T frames kept of each, S side in pixels, F mel bins, D embedding width, K labels.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.base.storage import write_atomically
from lexivid.data.formats import read_dataset
from lexivid.data.loader import load_batches
from lexivid.data.sampling import ClipSamples, SampleSpec, label_rows
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError, MissingExtraError
from lexivid.media.modalities import MODALITIES
from lexivid.synthetic.world.files import World, make_world
from lexivid.synthetic.world.multilabel import LabelSets, make_label_world
from lexivid.synthetic.world.sheet import contact_sheet
from lexivid.synthetic.world.words import WorldKind

NUM_SAMPLED_FRAMES = 8  # T: every second frame of a clip
CLIP_S = 2.0
_CLIPS_SHOWN = 3
FLOW_SIZE = 64  # as large as the clips
OnCount = Callable[[int, int], None]


@dataclass(frozen=True)
class WorldSize:
    """How many classes and clips: of a base class to train on, to calibrate on and to test on; of a novel one, to test
    on. held_out: share of the novel classes that show a shape which no base class has (see `draw_classes`)."""

    num_base: int = 40
    num_novel: int = 30
    train_clips: int = 20
    held_out_clips: int = 2
    test_clips: int = 10
    held_out: float = 1.0


@dataclass(frozen=True)
class PackedClips:
    """All clips of a world.

    Attributes:
        video: (n, T, 3, S, S) uint8. flow: (n, T, 2, S, S) uint8, or None. sound: (n, F, steps) float16, normalised, or
            None.
        targets: (n,) int64, index into `split.classes`; with several labels a clip, (n, K) bool over these: the true
            labels, not a captioner's. parts: "train", "held-out" or "test" of each clip.
        paths: relative to the world's folder.
        failures: (path, reason) of clips that could not be read, which are not among the n.
        seconds: wall time by stage.
        synthetic: a captioner's labels of each clip; empty if no clip has any.
    """

    video: Tensor
    flow: Tensor | None
    sound: Tensor | None
    targets: Tensor
    parts: tuple[str, ...]
    paths: tuple[str, ...]
    split: ClassSplit
    failures: tuple[tuple[str, str], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    synthetic: tuple[tuple[str, ...], ...] = ()

    def save(self, path: Path) -> None:
        """One file, whole or not at all."""
        tensors = {"video": self.video, "flow": self.flow, "sound": self.sound, "targets": self.targets}
        about = {
            "parts": self.parts, "paths": self.paths, "failures": self.failures, "base": self.split.base,
            "novel": self.split.novel, "seed": self.split.seed, "source": self.split.source, "seconds": self.seconds,
            "synthetic": self.synthetic,
        }  # fmt: skip
        data = save({k: x for k, x in tensors.items() if x is not None}, {"about": json.dumps(about)})
        write_atomically(path, data)

    @classmethod
    def load(cls, path: Path) -> PackedClips:
        """What `save` wrote."""
        about = cls.about(path)
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        split = ClassSplit(tuple(about["base"]), tuple(about["novel"]), about["seed"], about["source"])
        return cls(
            tensors["video"], tensors.get("flow"), tensors.get("sound"), tensors["targets"], tuple(about["parts"]),
            tuple(about["paths"]), split, tuple((a, b) for a, b in about["failures"]), about["seconds"],
            tuple(tuple(captions) for captions in about.get("synthetic", ())),  # files of earlier versions have none
        )  # fmt: skip

    @staticmethod
    def about(path: Path) -> dict[str, Any]:
        """The metadata of a file: "parts", "paths", "failures", "seconds", "base", "novel"."""
        with safe_open(path, framework="pt") as file:
            return dict(json.loads(file.metadata()["about"]))

    def indices(self, *parts: str) -> list[int]:
        """The clips of these parts."""
        return [i for i, part in enumerate(self.parts) if part in parts]

    def rows(self, classes: Sequence[str]) -> Tensor:
        """(n, K) bool: which labels hold for each clip: true ones of the split's classes, a captioner's other words.

        Raises:
            LexividError: a name that is neither a class nor a synthetic label of any clip.
        """
        names, captions = self.split.classes, self.synthetic or ((),) * len(self.paths)
        if unknown := set(classes) - set(names) - {label for labels in captions for label in labels}:
            raise LexividError(f"{min(unknown)!r} is neither a class of these clips nor a synthetic label")
        true = [row.nonzero()[:, 0].tolist() if self.targets.ndim == 2 else [int(row)] for row in self.targets]
        words = [[word for word in labels if word not in names] for labels in captions]
        return label_rows(
            [[*(names[k] for k in labels), *more] for labels, more in zip(true, words, strict=True)], classes
        )


def pack_world(
    folder: Path,
    *,
    kind: WorldKind,
    seed: int,
    size: WorldSize,
    pool: str,
    images: ImageProcessing,
    num_workers: int,
    sheet: Path | None = None,
    on_count: OnCount | None = None,
) -> PackedClips:
    """Make the files of a world, as far as they are missing, and decode them.

    Flow is not computed for worlds of sound, nor audio for worlds of motion: no row uses it.

    Args:
        folder: of the files. images: the backbone's preprocessing.
        num_workers: processes. sheet: an image file that shows some clips.
        on_count: called with steps done and steps in all; a clip is two, made and decoded.
    """
    modalities = ("video", *(name for name, other in (("flow", "sound"), ("audio", "motion")) if kind != other))
    world = make_world(
        folder, kind=kind, clips_per_class=size.train_clips + size.held_out_clips, test_clips_per_class=size.test_clips,
        seed=seed, num_base=size.num_base, num_novel=size.num_novel, held_out=size.held_out, pool=pool,
        num_workers=num_workers, on_progress=_first_half(on_count),
    )  # fmt: skip
    packed = _decode(world, size.train_clips, modalities, images, num_workers=num_workers, on_count=on_count)
    if sheet is not None:
        with contextlib.suppress(MissingExtraError):  # colours for flow come with an extra
            contact_sheet(world, sheet, num_clips=_CLIPS_SHOWN)
    return packed


def pack_label_world(
    folder: Path,
    *,
    sets: LabelSets,
    seed: int,
    num_train: int,
    num_held_out: int,
    num_test: int,
    images: ImageProcessing,
    num_workers: int,
    on_count: OnCount | None = None,
) -> PackedClips:
    """The same for clips of several labels (`lexivid.synthetic.world.multilabel`), with frames, flow and audio.

    Args:
        folder, images, num_workers, on_count: as `pack_world`.
        sets, seed: what the labels are, and which clips.
        num_train, num_held_out, num_test: clips of each part in all. Held-out ones are the last training clips.
    """
    world = make_label_world(
        folder, sets, num_train=num_train + num_held_out, num_test=num_test, seed=seed, num_workers=num_workers,
        on_progress=_first_half(on_count),
    )  # fmt: skip
    return _decode(world, num_train, MODALITIES, images, num_workers=num_workers, on_count=on_count)


def _first_half(on_count: OnCount | None) -> OnCount | None:
    return None if on_count is None else lambda done, total: on_count(done, 2 * total)


def _decode(
    world: World, num_train: int, modalities: tuple[str, ...], images: ImageProcessing, *, num_workers: int,
    on_count: OnCount | None,
) -> PackedClips:  # fmt: skip
    """Read the files of a world; num_train: see `_part`. The second half of the steps."""
    began = time.monotonic()
    folder = Path(world.path)
    dataset = read_dataset(folder, kind="csv")
    spec = SampleSpec(
        images=images, modalities=modalities, train=False, num_frames=NUM_SAMPLED_FRAMES, stride=None, flow="tvl1",
        flow_size=FLOW_SIZE, audio_s=CLIP_S,
    )  # fmt: skip
    several = any(clip.own_labels for clip in world.clips)
    true = [replace(clip, synthetic=()) for clip in dataset.clips]
    samples = ClipSamples(true, spec, classes=world.split.classes, multi_label=several)
    lists = [list(range(start, min(start + 32, len(samples)))) for start in range(0, len(samples), 32)]
    rows: dict[str, list[Tensor]] = {}
    targets: list[Tensor] = []
    order: list[int] = []
    failures: list[tuple[str, str]] = []
    for number, batch in enumerate(load_batches(samples, lists, num_workers=num_workers if num_workers > 1 else 0)):
        failures += batch.failures
        for name, x in batch.streams.items():
            sampled = x[:, 0] if name == "video" else x[:, 0, :, :2] if name == "flow" else x[:, 0, 0].half()
            rows.setdefault(name, []).append(sampled.clone())
        if len(batch.indices):  # of a batch without clips, targets have no columns
            targets.append(batch.targets)
        order += batch.indices.tolist()
        if on_count:
            on_count(len(samples) + min(len(samples), 32 * (number + 1)), 2 * len(samples))
    if not order:
        raise LexividError(f"none of the clips in {str(folder)!r} can be read; the first: {failures[0][1]}")
    packed = {name: torch.cat(x) for name, x in rows.items()}
    paths = tuple(str(Path(dataset.clips[i].path).resolve().relative_to(folder.resolve())) for i in order)
    return PackedClips(
        packed["video"], packed.get("flow"), packed.get("audio"), torch.cat(targets),
        tuple(_part(path, num_train) for path in paths), paths, world.split, tuple(failures),
        {"making clips": world.wall_s, "decoding clips, optical flow": time.monotonic() - began},
        tuple(dataset.clips[i].synthetic for i in order) if several else (),
    )  # fmt: skip


def _part(path: str, num_train: int) -> str:
    """The last training clips, of each class where they are numbered so, are held out."""
    split, *_, name = path.split("/")
    return "held-out" if split == "train" and int(name.partition(".")[0]) >= num_train else split
