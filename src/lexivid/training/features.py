"""The frozen video tower's features, computed once for K augmented looks at each clip and kept on disk.

The tower is frozen (MOV, section 3.3), so what it makes of a given look at a clip never changes: with K looks, an
epoch e takes look e mod K, and neither decodes nor encodes pictures. Flow is drawn as of look e mod K too: the same
moment through the same crop, which is drawn on the picture and not on what is kept of it. Sound, which has no crop to
share, is drawn anew in every epoch.

One file a clip and look: (T, D) float32 under a key of the clip's content, the way it is looked at, and the tower's
weights; (0, D) for a file without pictures. The folder is a `ClipCache`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lexivid.base.storage import cache_dir
from lexivid.data.cache import DEFAULT_MAX_BYTES, CacheEntry, ClipCache
from lexivid.data.loader import Samples, load_batches
from lexivid.data.sampling import Goals, goal_of
from lexivid.training.log import OnProgress, Progress, Rate

FeatureSample = Mapping[str, Any]
_HEADER_BYTES = 4096  # of a file, and what a file system adds
_FORMAT = 2  # raise it when the same look would come to mean another draw


class FeatureStore:
    """Features (T, D) by key, kept as decoded clips are: the least recently used go when the folder grows too large.

    Args:
        folder: None: `lexivid.base.storage.cache_dir()` / "features".
        max_bytes: of all features together, see `ClipCache`. Whoever needs more asks for it by `hold`.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._cache = ClipCache(folder or cache_dir() / "features", max_bytes=max_bytes)

    def path(self, key: str) -> Path:
        """Where the features of this key are, or would be."""
        return self._cache.path(key)

    def read(self, key: str) -> Tensor | None:
        """None where there is none, or it is damaged."""
        entry = self._cache.get(key)
        return None if entry is None else entry.tensors.get("video")

    def write(self, key: str, features: Tensor) -> None:
        """Whole or not at all; with several processes the last one wins, with the same content.

        Raises:
            LexividError: the folder cannot be written.
        """
        self._cache.write(key, CacheEntry({"video": features.detach().float().cpu()}, {}))

    def hold(self, keys: Iterable[str], *, num_bytes: int) -> list[bool]:
        """Which of these are there. They become the most recently used, and the limit makes room for all of them."""
        self._cache.max_bytes = max(self._cache.max_bytes, 2 * num_bytes)
        return [self._cache.touch(key) for key in keys]


class CachedVideo:
    """Samples whose video is (T, D) features from the store; the other streams come from samples without video.

    Args:
        clips: (path, identity) of each clip; identity says what its content is.
        goals: what is told of them, see `lexivid.data.sampling.clip_goals`.
        store: of the features.
        look: everything that decides how a clip is looked at, with the tower's fingerprint.
        num_looks: K.
        num_modalities: M.
        flow: the same clips, flow alone, drawn as of the look. sound: sound alone, drawn as of the epoch.
    """

    def __init__(
        self,
        clips: Sequence[tuple[str, str]],
        goals: Goals,
        store: FeatureStore,
        look: Mapping[str, Any],
        *,
        num_looks: int,
        num_modalities: int,
        flow: Samples | None = None,
        sound: Samples | None = None,
    ) -> None:
        self.clips, self.goals, self.store, self.look = list(clips), goals, store, dict(look)
        self.num_looks, self.num_modalities, self.flow, self.sound = num_looks, num_modalities, flow, sound
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Look `epoch` mod K."""
        self.epoch = epoch % self.num_looks
        if self.flow is not None:
            self.flow.set_epoch(self.epoch)
        if self.sound is not None:
            self.sound.set_epoch(epoch)

    def key(self, index: int, look: int) -> str:
        """The name of a file in the store. (The index counts: it seeds the augmentation.)"""
        text = json.dumps([_FORMAT, self.clips[index][1], index, look, self.look], sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()

    def __getitem__(self, index: int) -> FeatureSample:
        path = self.clips[index][0]
        known = {"index": index, "path": path}
        features = self.store.read(self.key(index, self.epoch))
        if features is None:
            why = "its pictures could not be read when their features were computed, or these are gone from the cache"
            return {**known, "failed": f"{path}: {why}"}
        mask = torch.zeros(self.num_modalities, dtype=torch.bool)
        made: dict[str, Any] = {"video": features if len(features) else None, "flow": None, "audio": None}
        mask[0] = len(features) > 0
        for name, samples in (("flow", self.flow), ("audio", self.sound)):
            if samples is not None:
                part = samples[index]
                if part.get("failed") is None:
                    made[name] = part[name]
                    mask |= part["mask"]
                elif not part.get("empty"):
                    return part
        if not mask.any():
            return {**known, "failed": f"{path!r} has none of the streams that are trained on", "empty": True}
        return {**known, **made, "mask": mask, **goal_of(self.goals, index)}


def cache_features(
    cached: CachedVideo,
    full: Samples,
    encode: Callable[[Tensor], Tensor],
    *,
    width: int,
    num_workers: int = 0,
    rank: int = 0,
    world: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, str]:
    """Compute what the store lacks -> path -> reason of clips whose pictures cannot be read.

    Each clip goes through the tower by itself, so that its features do not depend on which others were missing:
    a run that was killed while it computed them continues bit for bit.

    Args:
        full: samples of the same clips with video alone, (T, 3, S, S) uint8.
        encode: (T, 3, S, S) uint8 -> (T, D): the frozen tower. width: D.
        rank, world: which share of the clips this process computes.
    """
    num_frames = getattr(getattr(full, "spec", None), "num_frames", 0) or 1
    num_bytes = len(cached) * cached.num_looks * (num_frames * width * 4 + _HEADER_BYTES)
    missing = {}
    for look in range(cached.num_looks):
        of_rank = range(rank, len(cached), world)
        stored = cached.store.hold((cached.key(i, look) for i in of_rank), num_bytes=num_bytes)
        missing[look] = [i for i, known in zip(of_rank, stored, strict=True) if not known]
    total = sum(len(indices) for indices in missing.values())
    failures: dict[str, str] = {}
    rate, done = Rate(total), 0
    for look, indices in missing.items():
        if not indices:
            continue
        full.set_epoch(look)
        batches = load_batches(_EmptyIsFine(full), [[i] for i in indices], num_workers=num_workers)
        for number, batch in enumerate(batches, 1):
            failures |= dict(batch.failures)
            for place, index in enumerate(batch.indices.tolist()):
                has_pictures = "video" in batch.streams
                features = encode(batch.streams["video"][place]) if has_pictures else torch.zeros(0, width)
                cached.store.write(cached.key(index, look), features)
            done += 1
            speed, left_s = rate.update(done, 1)
            if on_progress:
                phase, epochs = "caching features", cached.num_looks
                on_progress(Progress(phase, number, len(indices), look + 1, epochs, clips_per_s=speed, eta_s=left_s))
    return failures


class _EmptyIsFine:
    """A file without pictures is no failure here: it has none to encode."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        self.samples.set_epoch(epoch)

    def __getitem__(self, index: int) -> FeatureSample:
        sample = self.samples[index]
        if not sample.get("empty"):
            return sample
        return {"index": index, "path": sample["path"], "mask": torch.zeros(1, dtype=torch.bool), "target": 0}
