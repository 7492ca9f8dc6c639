"""A world's clips as the rows of a table see them: made as files, decoded once, then held as tensors.

    make_world --MP4 files--> ClipSamples (decoding, TV-L1, log mel) --> PackedClips, one safetensors file
                                            frozen tower, label vectors --> WorldFeatures, another

Every row reads the same two files, so nothing is decoded or encoded twice. Nothing about a clip is drawn at random but
which of its moments a training epoch shows: the world is drawn afresh for every clip, and a mirror would turn "moving
left" into "moving right".

Shapes: n clips, T moments kept of each, S side in pixels, F mel bins, D embedding width, K labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lexivid.backbones import Backbone
from lexivid.backbones.preprocess import ImageProcessing
from lexivid.base.storage import write_atomically
from lexivid.data.augment import spec_augment
from lexivid.data.formats import read_dataset
from lexivid.data.loader import load_batches
from lexivid.data.sampling import ClipSamples, SampleSpec, label_rows
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError, MissingExtraError
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import PromptCache
from lexivid.media.flow import ZERO_FLOW
from lexivid.media.modalities import MODALITIES
from lexivid.models.towers import make_frozen_tower
from lexivid.synthetic.world.files import World, make_world
from lexivid.synthetic.world.multilabel import LabelSets, make_label_world
from lexivid.synthetic.world.sheet import contact_sheet
from lexivid.synthetic.world.words import ATTRIBUTES, WorldClass, WorldKind, pool_of

NUM_MOMENTS = 8  # T: every second frame of a clip
CLIP_S = 2.0
_CLIPS_SHOWN = 3
FLOW_SIZE = 64  # the clips' own
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
        targets: (n,) int64, a place in `split.classes`; or where several hold, (n, K) bool over these, what is true and
            not what a captioner says. parts: "train", "held-out" or "test" of each clip.
        paths: relative to the world's folder.
        failures: (path, reason) of clips that could not be read, which are not among the n.
        seconds: wall time by stage.
        synthetic: of each clip; empty where no clip has any.
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
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        split = ClassSplit(tuple(about["base"]), tuple(about["novel"]), about["seed"], about["source"])
        return cls(
            found["video"], found.get("flow"), found.get("sound"), found["targets"], tuple(about["parts"]),
            tuple(about["paths"]), split, tuple((a, b) for a, b in about["failures"]), about["seconds"],
            tuple(tuple(own) for own in about.get("synthetic", ())),  # files of earlier versions have none
        )  # fmt: skip

    @staticmethod
    def about(path: Path) -> dict[str, Any]:
        """What a file holds beside its tensors: "parts", "paths", "failures", "seconds", "base", "novel"."""
        with safe_open(path, framework="pt") as file:
            return dict(json.loads(file.metadata()["about"]))

    def places(self, *parts: str) -> list[int]:
        """The clips of these parts."""
        return [i for i, part in enumerate(self.parts) if part in parts]

    def rows(self, classes: Sequence[str]) -> Tensor:
        """(n, K) bool: which of these hold for each clip: of the split's classes what is true, of others what is said.

        Raises:
            LexividError: a name that is neither a class nor a synthetic label of any clip.
        """
        names, said = self.split.classes, self.synthetic or ((),) * len(self.paths)
        if unknown := set(classes) - set(names) - {label for own in said for label in own}:
            raise LexividError(f"{min(unknown)!r} is neither a class of these clips nor a synthetic label")
        true = [row.nonzero()[:, 0].tolist() if self.targets.ndim == 2 else [int(row)] for row in self.targets]
        words = [[word for word in own if word not in names] for own in said]
        return label_rows([[*(names[k] for k in own), *more] for own, more in zip(true, words, strict=True)], classes)


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

    Motion is not computed for worlds of sound, nor sound for worlds of motion: no row would look at it.

    Args:
        folder: of the files. images: what the backbone wants.
        num_workers: processes. sheet: a file for pictures of some clips.
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
    """The same for clips of several labels (`lexivid.synthetic.world.multilabel`), with pictures, motion and sound.

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
        images=images, modalities=modalities, train=False, num_frames=NUM_MOMENTS, stride=None, flow="tvl1",
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
            kept = x[:, 0] if name == "video" else x[:, 0, :, :2] if name == "flow" else x[:, 0, 0].half()
            rows.setdefault(name, []).append(kept.clone())
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


@dataclass(frozen=True)
class WorldFeatures:
    """What a backbone makes of a world, once for all rows.

    Attributes:
        frames: (n, T, D) float32, the frozen tower's features of every moment.
        labels: (K, D), vectors of `split.classes`.
        nothing: names of nothing, for calibration (see `world_distractor_labels`), and their vectors (N, D).
        temperature: the backbone's own. num_layers: of its picture tower.
        seconds: that the features took.
    """

    frames: Tensor
    labels: Tensor
    distractor_labels: tuple[str, ...]
    nothing: Tensor
    temperature: float
    num_layers: int
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """One file, whole or not at all."""
        about = {"temperature": repr(self.temperature), "num_layers": str(self.num_layers)}
        about |= {"seconds": repr(self.seconds), "names_of_nothing": json.dumps(self.distractor_labels)}
        write_atomically(path, save({"frames": self.frames, "labels": self.labels, "nothing": self.nothing}, about))

    @classmethod
    def load(cls, path: Path) -> WorldFeatures:
        """What `save` wrote."""
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            frames, labels, nothing = (file.get_tensor(key) for key in ("frames", "labels", "nothing"))
        return cls(
            frames, labels, tuple(json.loads(about["names_of_nothing"])), nothing, float(about["temperature"]),
            int(about["num_layers"]), float(about["seconds"]),
        )  # fmt: skip


@torch.no_grad()
def encode_world(packed: PackedClips, backbone: Backbone, *, nothing: Sequence[str]) -> WorldFeatures:
    """The frozen tower over all moments of all clips, and the label vectors."""
    began = time.monotonic()
    tower = make_frozen_tower(backbone).to(backbone.device)
    parts = []
    for pictures in packed.video.flatten(0, 1).split(512):
        parts.append(tower(backbone.images.normalise(pictures.to(backbone.device))).float().cpu())
    prompt_cache, templates = PromptCache(backbone), load_templates(backbone.default_templates)
    vectors = prompt_cache.embed([*packed.split.classes, *nothing], templates).clone()
    num_labels = len(packed.split.classes)
    num_layers: Any = tower.tower.num_layers
    return WorldFeatures(
        torch.cat(parts).unflatten(0, packed.video.shape[:2]), vectors[:num_labels].clone(), tuple(nothing),
        vectors[num_labels:].clone(), backbone.temperature, int(num_layers), time.monotonic() - began,
    )  # fmt: skip


def world_distractor_labels(split: ClassSplit, kind: WorldKind, *, seed: int, pool: str, num: int = 64) -> list[str]:
    """Phrases of the world that are of no clip, for calibration: neither base classes nor, being of the other pool,
    possible novel ones."""
    rng = np.random.default_rng([seed, num])
    found: dict[str, None] = {}
    while len(found) < num:
        shape, colour, texture, motion, sound = (int(rng.integers(len(words))) for words in ATTRIBUTES.values())
        made = WorldClass(
            shape, colour, texture, None if kind == "sound" else motion, None if kind == "motion" else sound
        )
        if pool_of(made) != pool and made.name not in split.base:
            found[made.name] = None
    return list(found)


class WorldSamples:
    """Some of a world's clips as samples (see `lexivid.data.loader.Samples`).

    Args:
        places: which clips.
        modalities: of the model. inputs: those that are shown.
        frozen: (n, T, D), shown in place of the pictures; None: the pictures.
        num_moments: how many of the T are drawn in each epoch, in order; None: all, always.
        following: those drawn follow each other, so that motion can be seen from one to the next.
        views: all moments, as so many clips in time one after another (V, T / V, ...); for testing.
        seed: of that draw. spec_time, spec_mel: SpecAugment's longest masks; 0 and 0: none.
        shuffled: a modality that each clip takes from another one, drawn with the seed.
        classes: targets are rows (K,) bool over these, see `PackedClips.rows`, so that training is told what it may
            see alone; None: the clips' own targets.

    Raises:
        LexividError: a class that no clip could have.
    """

    def __init__(
        self,
        packed: PackedClips,
        places: Sequence[int],
        *,
        modalities: tuple[str, ...],
        inputs: tuple[str, ...],
        frozen: Tensor | None = None,
        num_moments: int | None = None,
        following: bool = False,
        views: int | None = None,
        seed: int = 0,
        spec_time: int = 0,
        spec_mel: int = 0,
        shuffled: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.targets = packed.targets if classes is None else packed.rows(classes)
        self.packed, self.places, self.frozen = packed, list(places), frozen
        self.modalities, self.inputs = modalities, inputs
        self.num_moments, self.seed, self.spec_time, self.spec_mel = num_moments, seed, spec_time, spec_mel
        self.following, self.views = following, views
        self.mask = torch.tensor([name in inputs for name in modalities])
        self.shuffled = shuffled
        self.others = _derangement(len(self.places), seed) if shuffled else list(range(len(self.places)))
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.places)

    def set_epoch(self, epoch: int) -> None:
        """Which moments are drawn."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        key = hashlib.blake2b(f"{self.seed} {self.epoch} {index}".encode(), digest_size=7).digest()
        draws = torch.Generator().manual_seed(int.from_bytes(key, "big"))
        num_moments = self.packed.video.shape[1]
        moments = torch.arange(num_moments)
        if self.num_moments is not None and self.following:
            start = int(torch.randint(num_moments - self.num_moments + 1, (), generator=draws))
            moments = torch.arange(start, start + self.num_moments)
        elif self.num_moments is not None:
            moments = torch.randperm(num_moments, generator=draws)[: self.num_moments].sort().values
        own, other = self.places[index], self.places[self.others[index]]
        made: dict[str, Any] = {}
        for name in self.inputs:
            place = other if name == self.shuffled else own
            if name == "video":
                made[name] = (self.packed.video if self.frozen is None else self.frozen)[place][moments]
            elif name == "flow":
                assert self.packed.flow is not None
                motion = self.packed.flow[place][moments]
                made[name] = torch.cat([motion, torch.full_like(motion[:, :1], ZERO_FLOW)], dim=1)
            else:
                assert self.packed.sound is not None
                sound = self.packed.sound[place].float().expand(3, -1, -1)
                if self.num_moments is not None and (self.spec_time or self.spec_mel):
                    sound = spec_augment(
                        sound, generator=draws, max_time_steps=self.spec_time, max_mel_bins=self.spec_mel
                    )
                made[name] = sound
        if self.views is not None:
            made |= {n: x.unflatten(0, (self.views, -1)) for n, x in made.items() if n != "audio"}
        target = self.targets[own]
        return {
            "index": index, "path": self.packed.paths[own], "target": target if target.ndim else int(target),
            "mask": self.mask, **made,
        }  # fmt: skip


def _derangement(num: int, seed: int) -> list[int]:
    """A random order in which no clip keeps its place: a cycle through all."""
    order = np.random.default_rng(seed).permutation(num)
    other = np.empty(num, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other.tolist()
