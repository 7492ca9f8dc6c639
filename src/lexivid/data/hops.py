"""A file in hops, for a timeline: what is seen and heard in each, in one pass, a few at a time.

A hop is a stretch of equal length in the time of the file, which begins with whatever begins first, pictures or sound:
what a player shows. Of each hop four frames (or pairs, for flow) are read, and all of its sound. Before the first
picture the first picture counts.

    file --one reader, 32 hops at a time--> views of test samples (H, 4, ...), log-mel of each hop (F, S)

Memory is that of 32 hops, however long the file is.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexivid.data import _reading
from lexivid.data.sampling import SampleSpec, test_views
from lexivid.media._container import MediaInfo
from lexivid.media.decode import VideoReader, open_video
from lexivid.media.spectrogram import STEPS_PER_S

FRAMES_PER_HOP = 4
_HOPS_AT_ONCE = 32
_LEAST_SOUND_S = 0.1
_AROUND = 2  # steps of 10 ms: half a window of 25 ms, and more


class Hops(NamedTuple):
    """H neighbouring hops.

    Attributes:
        first: the number of the first.
        views: "video" (H, 4, 3, S, S), "flow" (H, 4, 3, S, S), where all of the hops have them.
        sound: log-mel (F, S) of each, not normalised; None where there is less than 0.1 s of it.
        pictures: (seconds in the file, frame (3, h, w)) of each hop, where there are frames.
    """

    first: int
    views: dict[str, Tensor]
    sound: list[Tensor | None]
    pictures: list[tuple[float, Tensor]]


@dataclass(frozen=True)
class _HopTimes:
    """Where the frames of some hops lie, as `Windows` says it of a clip."""

    first: int
    num: int
    hop_s: float
    offset_s: float

    def times_s(self, duration_s: float, frame_rate: float) -> np.ndarray:
        """(H, 4) seconds of the pictures, in the middle of a frame. The last hop of a file may be shorter."""
        starts = (self.first + np.arange(self.num)) * self.hop_s
        stops = np.minimum(starts + self.hop_s, self.offset_s + duration_s)
        inside = (np.arange(FRAMES_PER_HOP) + 0.5) / FRAMES_PER_HOP
        times = np.maximum(starts[:, None] + inside * np.maximum(stops - starts, 0.0)[:, None] - self.offset_s, 0.0)
        rate = frame_rate if math.isfinite(frame_rate) and frame_rate > 0 else 30.0
        last = max(np.ceil(duration_s * rate - 1e-6) - 1, 0)
        shown = np.clip(np.floor(times * rate + 1e-6), 0, last)
        return np.minimum((shown + 0.5) / rate, np.nextafter(duration_s, 0.0))


class HopReader:
    """The hops of a file, in order.

    Args:
        info: of the file. spec: what is read, without crops or clips in time. hop_s: length of a hop.

    Attributes:
        duration_s: where the hops end, in seconds of the file; less than declared once the stream is seen to end.
        warnings: what the user should be told; complete at the end.
    """

    def __init__(self, info: MediaInfo, spec: SampleSpec, hop_s: float) -> None:
        self.info, self.spec, self.hop_s = info, spec, hop_s
        self.duration_s = max(info.end_s, 1e-3)
        self._of_pictures: list[str] = []
        self._of_sound: dict[str, None] = {}

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys([*self._of_pictures, *self._of_sound]))

    @property
    def num_hops(self) -> int:
        return max(1, math.ceil(self.duration_s / self.hop_s - 1e-6))

    def __iter__(self) -> Iterator[Hops]:
        """Raises: MediaError: the file cannot be decoded."""
        at_once = max(1, min(_HOPS_AT_ONCE, int((_reading.MAX_SOUND_S - 1) / self.hop_s)))
        reads_pictures = self.info.has_video and {"video", "flow"}.intersection(self.spec.reads)
        opened = open_video(self.info.path, num_threads=1) if reads_pictures else contextlib.nullcontext()
        first = 0
        with opened as reader:
            while first < self.num_hops:
                num = min(at_once, self.num_hops - first)
                made = self._pictures(reader, first, num) if reader is not None else []
                if reader is not None:
                    self.duration_s = self.info.video_start_s + min(reader.decodable_s, self.info.duration_s)
                num = max(min(num, self.num_hops - first), int(first == 0))  # the file declares more than decodes
                if not num:
                    return
                yield self._hops(first, num, made[:num])
                first += num

    def _pictures(self, reader: VideoReader, first: int, num: int) -> list[_reading.Pictures]:
        spec, offset_s = self.spec, self.info.video_start_s
        frames_read, warnings = _reading.read_pictures(
            self.info,
            _HopTimes(first, num, self.hop_s, offset_s),
            range(num),
            start_s=offset_s,
            end_s=None,
            frames=spec.frame_size if "video" in spec.reads else None,
            flow=spec.flow_of_frames,
            reader=reader,
        )
        self._of_pictures = warnings  # of all that was read so far
        return [frames_read[i] for i in range(num)]

    def _hops(self, first: int, num: int, made: list[_reading.Pictures]) -> Hops:
        parts = {
            what: torch.stack([pictures[what] for pictures in made])
            for what in ("frames", "flow")
            if made and all(what in pictures for pictures in made)
        }
        pictures = []
        if "frames" in parts:
            times_s = [max((first + i + 0.125) * self.hop_s, self.info.video_start_s) for i in range(num)]
            pictures = list(zip(times_s, parts["frames"][:num, 0], strict=True))
        if made:
            parts["picture_size"] = made[0]["picture_size"]
        sound: list[Tensor | None] = [None] * num
        if "audio" in self.spec.reads and self.info.has_audio:
            sound = self._sound(first, num)
        return Hops(first, test_views(parts, self.spec), sound, pictures)

    def _sound(self, first: int, num: int) -> list[Tensor | None]:
        edges = [round((first + i) * self.hop_s * STEPS_PER_S) for i in range(num + 1)]
        last = min(edges[-1], round(self.duration_s * STEPS_PER_S))
        # A step of a spectrogram looks at a little before and after it.
        begin = max(edges[0] - _AROUND, 0)
        start_s, end_s = begin / STEPS_PER_S, (last + _AROUND) / STEPS_PER_S
        log_mel, warnings = _reading.read_log_mel(self.info, start_s=start_s, end_s=end_s)
        self._of_sound |= dict.fromkeys(warnings)
        if log_mel is None:
            return [None] * num
        parts = [log_mel[:, a - begin : min(b, last) - begin].clone() for a, b in itertools.pairwise(edges)]
        return [part if part.shape[1] >= _LEAST_SOUND_S * STEPS_PER_S else None for part in parts]
