"""A file as tokens for a trained model: all of it, by views, or in hops for a timeline.

    file --`read_file`--> frames, flow, log-mel --`view_tokens`: towers--> tokens of N views (N, T, D)
    file --`Hops.read`, 32 hops at a time: towers--> tokens of H hops (H, 4, D) --`Hops.windows`--> (W, T, D), mask

A hop is half a window, and is read and encoded once; a window is two neighbouring hops. Its sound is its own, repeated
or cut to the length of training. A video tower that looks along time (OVML's, `lexivid.models.ovml.VideoTower`) sees
the four frames of a hop together, and not those of its neighbour: it sees changes within half a window, and what takes
longer is left to the layers above it.

Shapes: N views, H hops, W windows, T frames, D width, M modalities.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lexivid.data.dataset import Clip
from lexivid.data.loading import SampleSpec, read_parts, test_views
from lexivid.errors import MediaError
from lexivid.media.decode import MediaInfo, probe
from lexivid.media.spectrogram import STEPS_PER_S, normalise, views_of
from lexivid.models.trained import TrainedModel
from lexivid.prediction import MODALITIES

_MAX_SOUND_VIEWS = 12  # windows of sound beside one view of the pictures
_HOPS_AT_ONCE = 32


@dataclass(frozen=True)
class FileParts:
    """A file before the towers: parts as `read_parts` gives them."""

    info: MediaInfo
    spec: SampleSpec
    parts: dict[str, Tensor]
    warnings: tuple[str, ...]


def read_file(path: str | Path, spec: SampleSpec) -> FileParts:
    """What is expensive about a file.

    Raises:
        MediaError: it is missing, broken, or has none of the streams.
    """
    info = probe(path)
    parts, warnings = read_parts(Clip(str(path), (), ""), spec, range(spec.num_clips))
    if not parts:
        raise MediaError(f"{str(path)!r} has none of: {', '.join(spec.reads)}")
    return FileParts(info, spec, parts, warnings)


def view_tokens(model: TrainedModel, read: FileParts) -> dict[str, Tensor]:
    """Streams that the file has -> tokens of N views (N, T, D), sound beside the pictures of its time."""
    spec, parts = read.spec, read.parts
    num_views = spec.num_clips * spec.num_crops
    if "log_mel" in parts:  # one window of sound beside each clip in time, or as many as the sound fills
        sound_s = parts["log_mel"].shape[-1] / STEPS_PER_S
        filled = min(_MAX_SOUND_VIEWS, max(1, math.ceil(sound_s / spec.audio_s - 0.1)))
        spec = replace(spec, num_audio_views=spec.num_clips if num_views > 1 else filled)
    views = test_views(parts, spec)
    tokens = {name: model.tokens(name, views[name]) for name in MODALITIES if name in views}
    if "audio" in tokens and num_views > 1:
        tokens["audio"] = tokens["audio"].repeat(spec.num_crops, 1, 1)  # the clips run fastest
    num = max(len(x) for x in tokens.values())
    return {name: x.expand(num, -1, -1) for name, x in tokens.items()}


class Hops:
    """The tokens of a file, hop by hop: pictures and flow (H, 4, D), log-mel of each hop, and which hops have them."""

    def __init__(self, model: TrainedModel, spec: SampleSpec, hop_s: float) -> None:
        self.model, self.spec, self.hop_s = model, spec, hop_s
        self.tokens: dict[str, list[Tensor | None]] = {name: [] for name in spec.reads if name != "audio"}
        self.sound: list[Tensor | None] = []
        self.warnings: list[str] = []
        self.num_hops = 0

    def read(self, info: MediaInfo, num_hops: int, num_thumbnails: int) -> tuple[tuple[float, Tensor], ...]:
        """Read the file in parts of 32 hops -> thumbnails. Stops where no more decodes."""
        at_once = max(1, min(_HOPS_AT_ONCE, int(600 / self.hop_s)))
        wanted = set(np.linspace(0, num_hops - 1, num_thumbnails).astype(int).tolist()) if num_thumbnails else set()
        kept: list[tuple[float, Tensor]] = []
        for start in range(0, num_hops, at_once):
            num = min(at_once, num_hops - start)
            end_s = info.duration_s if start + num == num_hops else (start + num) * self.hop_s
            spec = replace(self.spec, num_clips=num)
            try:
                parts, warnings = read_parts(Clip(info.path, (), "", start * self.hop_s, end_s), spec, range(num))
            except MediaError:
                if start == 0:
                    raise
                break  # the file declares more than decodes
            views = test_views({k: v for k, v in parts.items() if k != "log_mel"}, spec)
            for name, hops in self.tokens.items():
                hops += list(self.model.tokens(name, views[name])) if name in views else [None] * num
            if "audio" in spec.reads:
                self.sound += self._cut(parts.get("log_mel"), num)
            self.warnings += [text for text in warnings if text not in self.warnings]
            if "frames" in parts:
                kept += [
                    ((start + i + 0.125) * self.hop_s, parts["frames"][i, 0]) for i in range(num) if start + i in wanted
                ]
            self.num_hops += num
        if not self.num_hops or not (
            any(x is not None for hops in self.tokens.values() for x in hops) or any(x is not None for x in self.sound)
        ):
            raise MediaError(f"{info.path!r} has none of: {', '.join(self.spec.reads)}")
        return tuple(kept)

    def _cut(self, log_mel: Tensor | None, num: int) -> list[Tensor | None]:
        if log_mel is None:
            return [None] * num
        edges = [round(i * self.hop_s * STEPS_PER_S) for i in range(num + 1)]
        parts = [log_mel[:, a:b] for a, b in itertools.pairwise(edges)]
        return [part if part.shape[1] >= STEPS_PER_S // 10 else None for part in parts]

    def windows(self) -> tuple[dict[str, Tensor], Tensor]:
        """Streams that occur -> tokens of W windows (W, T, D); mask (W, M)."""
        pairs = [(i, i + 1) for i in range(self.num_hops - 1)] or [(0, 0)]
        modalities = self.model.mov.config.modalities
        mask = torch.zeros(len(pairs), len(modalities), dtype=torch.bool)
        tokens: dict[str, Tensor] = {}
        for name, hops in self.tokens.items():
            like = next((x for x in hops if x is not None), None)
            if like is None:
                continue
            zero = torch.zeros_like(like)
            filled = [zero if x is None else x for x in hops]
            tokens[name] = torch.stack([torch.cat([filled[a], filled[b]]) for a, b in pairs])
            mask[:, modalities.index(name)] = torch.tensor(
                [hops[a] is not None and hops[b] is not None for a, b in pairs]
            )
        if any(x is not None for x in self.sound):
            spectrograms, there = [], []
            for pair in pairs:
                own = [self.sound[i] for i in dict.fromkeys(pair)]
                found = [x for x in own if x is not None]
                there.append(bool(found))
                steps = self.spec.audio_steps
                picture = normalise(torch.cat(found, dim=1)) if found else torch.zeros(128, steps)
                spectrograms.append(views_of(picture.expand(3, -1, -1), num_views=1, num_steps=steps)[0])
            tokens["audio"] = self.model.tokens("audio", torch.stack(spectrograms))
            mask[:, modalities.index("audio")] = torch.tensor(there)
        return tokens, mask
