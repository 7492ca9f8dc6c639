"""A file as tokens for a trained model: all of it, by views, or in hops for a timeline.

    file --`read_file`--> frames, flow, log-mel --`view_tokens`: towers--> tokens of N views (N, T, D)
    file --`HopReader`--> frames, flow, log-mel of hops --`FilmWindows`: towers--> tokens of windows (W, T, D), mask

A hop is half a window, and is read and encoded once; a window is two neighbouring hops. Its sound is its own, repeated
or cut to the length of training. A video tower that looks along time (OVML's, `lexivid.models.ovml.VideoTower`) sees
the four frames of a hop together, and not those of its neighbour: it sees changes within half a window, and what takes
longer is left to the layers above it.

Shapes: N views, H hops, W windows, T frames, D width, M modalities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexivid.base.prefetch import prefetch
from lexivid.data.clips import Clip
from lexivid.data.hops import FRAMES_PER_HOP, HopReader
from lexivid.data.sampling import SampleSpec, read_parts, test_views
from lexivid.errors import MediaError
from lexivid.media._container import MediaInfo
from lexivid.media.decode import probe
from lexivid.media.modalities import MODALITIES
from lexivid.media.spectrogram import STEPS_PER_S, normalise, views_of
from lexivid.models.trained import TrainedModel

_MAX_SOUND_VIEWS = 12  # windows of sound beside one view of the pictures
_WINDOWS_AT_ONCE = 8


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


class FilmWindows:
    """The windows of a film as they come, two hops each: what is kept does not grow with the film.

    The next hops are read while these go through the towers; a hop's tokens and sound are kept until its second window.

    Attributes:
        there: the streams that any hop so far has. thumbnails: (seconds, frame), as many as asked for, spread evenly.
    """

    def __init__(self, model: TrainedModel, spec: SampleSpec, reader: HopReader, *, num_thumbnails: int = 0) -> None:
        self.model, self.spec, self.reader = model, spec, reader
        self.there: set[str] = set()
        self.thumbnails: list[tuple[float, Tensor]] = []
        num = reader.num_hops
        self._wanted = set(np.linspace(0, num - 1, num_thumbnails).astype(int).tolist()) if num_thumbnails else set()

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Streams -> tokens of up to 8 windows (W, T, D), with zeros where a window lacks one; mask (W, M).

        Raises:
            MediaError: the file cannot be decoded, or has none of the streams.
        """
        waiting: list[_Hop] = []  # the last of those before, which has one window still, and those after it
        num_hops = 0
        for hop in self._hops():
            num_hops += 1
            waiting.append(hop)
            if len(waiting) > _WINDOWS_AT_ONCE:
                yield self._windows(list(itertools.pairwise(waiting)))
                waiting = waiting[-1:]
        if num_hops == 1:
            yield self._windows([(waiting[0],)])
        elif len(waiting) > 1:
            yield self._windows(list(itertools.pairwise(waiting)))
        if not self.there:
            raise MediaError(f"{self.reader.info.path!r} has none of: {', '.join(self.spec.reads)}")

    def _hops(self) -> Iterator[_Hop]:
        for part in prefetch(self.reader, ahead=1):
            for start in range(0, len(part.sound), _WINDOWS_AT_ONCE):
                chosen = slice(start, start + _WINDOWS_AT_ONCE)
                tokens = {name: self.model.tokens(name, x[chosen]) for name, x in part.views.items()}
                self.there |= tokens.keys()
                for i, sound in enumerate(part.sound[chosen]):
                    yield _Hop({name: x[i] for name, x in tokens.items()}, sound)
            for i, picture in enumerate(part.pictures):
                if part.first + i in self._wanted:
                    self.thumbnails.append(picture)

    def _windows(self, windows: Sequence[tuple[_Hop, ...]]) -> tuple[dict[str, Tensor], Tensor]:
        modalities = self.model.mov.config.modalities
        mask = torch.zeros(len(windows), len(modalities), dtype=torch.bool)
        tokens: dict[str, Tensor] = {}
        for name in self.spec.reads:
            of_windows = [self._sound_of(hops) if name == "audio" else _pictures_of(hops, name) for hops in windows]
            like = next((x for x in of_windows if x is not None), None)
            if like is None:  # as many tokens as the others have: the same arithmetic as when it is masked
                num_tokens = 1 if name == "audio" else FRAMES_PER_HOP * len(windows[0])
                like = torch.zeros(num_tokens, self.model.mov.config.embedding_dim, device=self.model.device)
            elif name == "audio":
                self.there.add(name)
                encoded = self.model.tokens(name, torch.stack([x for x in of_windows if x is not None]))
                each = iter(encoded)
                of_windows = [None if x is None else next(each) for x in of_windows]
                like = encoded[0]
            tokens[name] = torch.stack([torch.zeros_like(like) if x is None else x for x in of_windows])
            mask[:, modalities.index(name)] = torch.tensor([x is not None for x in of_windows])
        return tokens, mask

    def _sound_of(self, hops: Sequence[_Hop]) -> Tensor | None:
        """The spectrogram (3, F, S) of a window, of the length of training."""
        sounds = [hop.sound for hop in hops if hop.sound is not None]
        if not sounds:
            return None
        picture = normalise(torch.cat(sounds, dim=1)).expand(3, -1, -1)
        return views_of(picture, num_views=1, num_steps=self.spec.audio_steps)[0]


class _Hop(NamedTuple):
    """Tokens of its pictures and flow (4, D), where it has them; its log-mel (F, S) or None."""

    tokens: dict[str, Tensor]
    sound: Tensor | None


def _pictures_of(hops: Sequence[_Hop], name: str) -> Tensor | None:
    """(8, D), or None where a hop lacks the stream."""
    of_hops = [hop.tokens[name] for hop in hops if name in hop.tokens]
    of_hops = of_hops * 2 if len(hops) == 1 else of_hops  # a film of one hop is a window by itself
    return torch.cat(of_hops) if len(of_hops) >= len(hops) and of_hops else None
