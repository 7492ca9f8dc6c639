"""What a backbone makes of a world's clips, and the clips as samples for training and testing.

    PackedClips --frozen tower, label vectors--> WorldFeatures, one safetensors file
    PackedClips, WorldFeatures --> WorldSamples

Every row of a table reads the same features, so no clip is encoded twice. The one random choice in training is which
frames an epoch shows: the world is drawn afresh for every clip, and a mirror would turn "moving left" into "moving
right".

Shapes: n clips, T frames kept of each, S side in pixels, D embedding width, K labels.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lexivid.backbones import Backbone
from lexivid.base.storage import write_atomically
from lexivid.data.augment import spec_augment
from lexivid.data.splits import ClassSplit
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import PromptCache
from lexivid.media.flow import ZERO_FLOW
from lexivid.models.towers import make_frozen_tower
from lexivid.synthetic.reproduce.packed_clips import PackedClips
from lexivid.synthetic.world.words import ATTRIBUTES, WorldClass, WorldKind, pool_of


@dataclass(frozen=True)
class WorldFeatures:
    """Features of a world's clips and labels, computed once for all rows.

    Attributes:
        frames: (n, T, D) float32, the frozen tower's features of every frame.
        labels: (K, D), vectors of `split.classes`.
        distractor_labels: for calibration (see `world_distractor_labels`). distractor_vectors: theirs, (N, D).
        temperature: the backbone's. num_layers: of its image tower.
        seconds: that the features took.
    """

    frames: Tensor
    labels: Tensor
    distractor_labels: tuple[str, ...]
    distractor_vectors: Tensor
    temperature: float
    num_layers: int
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """One file, whole or not at all."""
        about = {"temperature": repr(self.temperature), "num_layers": str(self.num_layers)}
        about |= {"seconds": repr(self.seconds), "names_of_nothing": json.dumps(self.distractor_labels)}
        write_atomically(
            path, save({"frames": self.frames, "labels": self.labels, "nothing": self.distractor_vectors}, about)
        )

    @classmethod
    def load(cls, path: Path) -> WorldFeatures:
        """What `save` wrote."""
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            frames, labels, distractor_vectors = (file.get_tensor(key) for key in ("frames", "labels", "nothing"))
        return cls(
            frames, labels, tuple(json.loads(about["names_of_nothing"])), distractor_vectors,
            float(about["temperature"]), int(about["num_layers"]), float(about["seconds"]),
        )  # fmt: skip


@torch.no_grad()
def encode_world(packed: PackedClips, backbone: Backbone, *, distractor_labels: Sequence[str]) -> WorldFeatures:
    """The frozen tower over all frames of all clips, and the label vectors."""
    began = time.monotonic()
    tower = make_frozen_tower(backbone).to(backbone.device)
    parts = []
    for frames in packed.video.flatten(0, 1).split(512):
        parts.append(tower(backbone.images.normalise(frames.to(backbone.device))).float().cpu())
    prompt_cache, templates = PromptCache(backbone), load_templates(backbone.default_templates)
    vectors = prompt_cache.embed([*packed.split.classes, *distractor_labels], templates).clone()
    num_labels = len(packed.split.classes)
    num_layers: Any = tower.tower.num_layers
    return WorldFeatures(
        torch.cat(parts).unflatten(0, packed.video.shape[:2]), vectors[:num_labels].clone(), tuple(distractor_labels),
        vectors[num_labels:].clone(), backbone.temperature, int(num_layers), time.monotonic() - began,
    )  # fmt: skip


def world_distractor_labels(split: ClassSplit, kind: WorldKind, *, seed: int, pool: str, num: int = 64) -> list[str]:
    """Phrases of the world that describe no clip, for calibration. They are of the other pool, so they are neither base
    classes nor possible novel ones."""
    rng = np.random.default_rng([seed, num])
    names: dict[str, None] = {}
    while len(names) < num:
        shape, colour, texture, motion, sound = (int(rng.integers(len(words))) for words in ATTRIBUTES.values())
        drawn = WorldClass(
            shape, colour, texture, None if kind == "sound" else motion, None if kind == "motion" else sound
        )
        if pool_of(drawn) != pool and drawn.name not in split.base:
            names[drawn.name] = None
    return list(names)


class WorldSamples:
    """Some of a world's clips as samples (see `lexivid.data.loader.Samples`).

    Args:
        indices: which clips.
        modalities: of the model. inputs: those that the model gets.
        frozen: (n, T, D) features in place of the frames; None: the frames.
        num_moments: how many of the T are drawn in each epoch, in order; None: all, always.
        following: the frames drawn follow each other, so that motion shows from one to the next.
        views: all frames, as so many clips in time one after another (V, T / V, ...); for testing.
        seed: of that draw. spec_time, spec_mel: SpecAugment's longest masks; 0 and 0: none.
        shuffled: a modality that each clip takes from another one, drawn with the seed.
        classes: targets are rows (K,) bool over these, see `PackedClips.rows`, so that training sees
            only the labels that it may see; None: the targets of the clips.

    Raises:
        LexividError: a class that no clip could have.
    """

    def __init__(
        self,
        packed: PackedClips,
        indices: Sequence[int],
        *,
        modalities: tuple[str, ...],
        inputs: tuple[str, ...],
        frozen: Tensor | None = None,
        num_frames: int | None = None,
        following: bool = False,
        views: int | None = None,
        seed: int = 0,
        spec_time: int = 0,
        spec_mel: int = 0,
        shuffled: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.targets = packed.targets if classes is None else packed.rows(classes)
        self.packed, self.indices, self.frozen = packed, list(indices), frozen
        self.modalities, self.inputs = modalities, inputs
        self.num_frames, self.seed, self.spec_time, self.spec_mel = num_frames, seed, spec_time, spec_mel
        self.following, self.views = following, views
        self.mask = torch.tensor([name in inputs for name in modalities])
        self.shuffled = shuffled
        self.others = _derangement(len(self.indices), seed) if shuffled else list(range(len(self.indices)))
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.indices)

    def set_epoch(self, epoch: int) -> None:
        """The epoch decides which frames are drawn."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        key = hashlib.blake2b(f"{self.seed} {self.epoch} {index}".encode(), digest_size=7).digest()
        draws = torch.Generator().manual_seed(int.from_bytes(key, "big"))
        num_frames = self.packed.video.shape[1]
        frames = torch.arange(num_frames)
        if self.num_frames is not None and self.following:
            start = int(torch.randint(num_frames - self.num_frames + 1, (), generator=draws))
            frames = torch.arange(start, start + self.num_frames)
        elif self.num_frames is not None:
            frames = torch.randperm(num_frames, generator=draws)[: self.num_frames].sort().values
        clip, other = self.indices[index], self.indices[self.others[index]]
        streams: dict[str, Any] = {}
        for name in self.inputs:
            source = other if name == self.shuffled else clip
            if name == "video":
                streams[name] = (self.packed.video if self.frozen is None else self.frozen)[source][frames]
            elif name == "flow":
                assert self.packed.flow is not None
                motion = self.packed.flow[source][frames]
                streams[name] = torch.cat([motion, torch.full_like(motion[:, :1], ZERO_FLOW)], dim=1)
            else:
                assert self.packed.sound is not None
                spectrogram = self.packed.sound[source].float().expand(3, -1, -1)
                if self.num_frames is not None and (self.spec_time or self.spec_mel):
                    spectrogram = spec_augment(
                        spectrogram, generator=draws, max_time_steps=self.spec_time, max_mel_bins=self.spec_mel
                    )
                streams[name] = spectrogram
        if self.views is not None:
            streams |= {n: x.unflatten(0, (self.views, -1)) for n, x in streams.items() if n != "audio"}
        target = self.targets[clip]
        return {
            "index": index, "path": self.packed.paths[clip], "target": target if target.ndim else int(target),
            "mask": self.mask, **streams,
        }  # fmt: skip


def _derangement(num: int, seed: int) -> list[int]:
    """A random order in which every clip moves: one cycle through all."""
    order = np.random.default_rng(seed).permutation(num)
    other = np.empty(num, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other.tolist()
