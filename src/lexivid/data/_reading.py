"""One pass over a file for all that a clip needs before augmentation: frames, flow, log-mel. What the cache keeps.

Windows are the places in time from which a clip's frames can come. Training draws one of a fixed few for each sample,
so that each is decoded once; testing looks at all.

Shapes: W windows, T frames in each, h and w working size in pixels, F mel bins, S steps of 10 ms.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.errors import MediaError
from lexivid.media._container import MediaInfo
from lexivid.media.audio import read_sound
from lexivid.media.decode import VideoReader, open_video
from lexivid.media.flow import Algorithm, flow, flow_to_image
from lexivid.media.spectrogram import SAMPLE_RATE_HZ, log_mel
from lexivid.media.views import Views

MAX_SOUND_S = 600.0
_PART_S = 10.0  # of a longer sound, parts of this length
_MIN_SAMPLES = 400  # one window of 25 ms
_SILENT = 1 / 32768  # one step of a 16-bit sample
Pictures = dict[str, Tensor]  # "frames" (T, 3, h, w) uint8, "flow" (T, 2, h, w) uint8: where asked and there;
# "picture_size" (2,) int64, height and width of the first frame before resizing


class Times(Protocol):
    """W places in time of T frames each, as `Windows`."""

    def times_s(self, duration_s: float, frame_rate: float) -> np.ndarray: ...


@dataclass(frozen=True)
class Windows:
    """W places in time, T frames each.

    Args:
        phases: what several windows are when frames are spread over the whole clip (stride None). True: each spans
            the whole clip, shifted within its segments; False: the clip is cut into W parts (`Views`).
        others: as in `Views`.
    """

    num_frames: int
    num_windows: int
    stride: int | None
    stride_rate: float | Literal["native"]
    phases: bool

    def times_s(self, duration_s: float, frame_rate: float) -> np.ndarray:
        """(W, T) seconds."""
        if self.phases and self.stride is None:
            views = Views(num_frames=self.num_frames * self.num_windows)
            return views.times_s(duration_s, frame_rate)[0].reshape(self.num_frames, self.num_windows).T
        views = Views(self.num_frames, self.num_windows, 1, self.stride, self.stride_rate)
        return views.times_s(duration_s, frame_rate)


@dataclass(frozen=True)
class FrameSize:
    """How a decoded frame is resized before it is kept.

    Args:
        images: resize as this backbone asks (testing; what `Classifier` does). keep_aspect: see `resize`.
        short_side: or: scale down to this short side, never up (training, before random crops).
    """

    images: ImageProcessing | None = None
    keep_aspect: bool = False
    short_side: int | None = None

    def __call__(self, frame: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, h, w) uint8, contiguous."""
        if self.images is not None:
            out = self.images.resize(frame, keep_aspect=self.keep_aspect)
        else:
            assert self.short_side is not None
            out = shrink(frame, self.short_side, mode="bicubic")
        return out.contiguous()

    def key(self) -> list[Any]:
        """JSON types, for the cache: all that decides the result."""
        if self.images is None:
            return ["short side", self.short_side]
        return ["as asked", self.images.resize_to, self.images.interpolation, self.images.fit, self.keep_aspect]


@dataclass(frozen=True)
class FlowSize:
    """Which flow, of the pictures' texture or as they are, and the short side in pixels of the frames that it is
    computed from (never enlarged)."""

    algorithm: Algorithm
    short_side: int
    texture: bool = False

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Two frames (3, H, W) uint8 -> (2, h, w) uint8, the first two channels of a picture of flow."""
        pair = [shrink(frame, self.short_side, mode="bilinear").movedim(0, -1)[None] for frame in (first, second)]
        return flow_to_image(flow(*pair, algorithm=self.algorithm, texture=self.texture))[0, :2]

    def key(self) -> list[Any]:
        """JSON types, for the cache: all that decides the result."""
        return [self.algorithm, self.short_side, *(["texture"] if self.texture else [])]


def shrink(frame: Tensor, short_side: int, *, mode: str) -> Tensor:
    """(3, H, W) uint8 -> the same, its short side at most `short_side`."""
    height, width = frame.shape[-2:]
    short = min(height, width)
    if short <= short_side:
        return frame
    size = (max(1, round(height * short_side / short)), max(1, round(width * short_side / short)))
    return F.interpolate(frame[None], size=size, mode=mode, antialias=True)[0]


def read_pictures(
    info: MediaInfo,
    windows: Times,
    chosen: Iterable[int],
    *,
    start_s: float,
    end_s: float | None,
    frames: FrameSize | None,
    flow: FlowSize | None,
    reader: VideoReader | None = None,
) -> tuple[dict[int, Pictures], list[str]]:
    """The chosen windows of a file's part, in one pass -> (by window, warnings).

    reader: of the same file, if it is open already; it stays open.

    `start_s` and `end_s` count from the start of the file, times of windows from the first picture of the part.

    Flow at a sampled frame is that from it to the next frame of the file; at the last frame, that which leads to it.
    A file of one frame has no flow, and its windows lack the key.

    Raises:
        MediaError: the file cannot be decoded, the part lies behind its end, or its pictures change their size.
    """
    chosen = list(chosen)
    with contextlib.nullcontext(reader) if reader else open_video(info.path, num_threads=1) as reader:
        frame_at: dict[float, Tensor] = {}  # by the time at which a frame is first shown
        sizes: dict[float, Tensor] = {}
        flows: dict[float, Tensor] = {}
        shown_at: dict[float, float] = {}  # wanted time -> that time
        length_s = reader.info.duration_s
        for _ in range(2):  # again where less decodes than the file declares, as `read_views`
            begin_s = max(start_s - info.video_start_s, 0.0)
            stop_s = length_s if end_s is None else min(end_s - info.video_start_s, length_s)
            if stop_s <= 0:
                raise MediaError(
                    f"{info.path!r}: the clip ends at {end_s:g} s, before the first picture at "
                    f"{info.video_start_s:.2f} s"
                )
            if begin_s >= stop_s:
                raise MediaError(
                    f"{info.path!r}: the clip begins at {start_s:g} s, but the pictures end at "
                    f"{info.video_start_s + length_s:.2f} s"
                )
            times = begin_s + windows.times_s(stop_s - begin_s, reader.info.frame_rate)[chosen]
            wanted = sorted(set(times.ravel().tolist()) - shown_at.keys())
            if flow is None:
                seen: dict[float, Tensor] = {}
                size = torch.zeros(2, dtype=torch.int64)

                def keep(frame: Tensor) -> Tensor:  # once for each frame, just before it is yielded
                    nonlocal size
                    size = _size_of(frame)
                    return frame.contiguous() if frames is None else frames(frame)

                for index, at_s, picture in reader.frames_at(wanted, transform=keep):
                    shown_at[wanted[index]] = at_s
                    seen[at_s], sizes[at_s] = picture, size
                frame_at.update(seen)
            else:
                for want, at_s, first, pair in _pairs(reader, wanted):
                    shown_at[want] = at_s
                    sizes[at_s] = _size_of(first)
                    if frames is not None and at_s not in frame_at:
                        frame_at[at_s] = frames(first)
                    if pair is not None and at_s not in flows:
                        flows[at_s] = flow(*pair)
            if reader.decodable_s >= length_s:
                break
            length_s = reader.decodable_s
        result: dict[int, Pictures] = {}
        for window, row in zip(chosen, times.tolist(), strict=True):
            shown = [shown_at[at_s] for at_s in row]
            result[window] = {"picture_size": sizes[shown[0]]}
            if frames is not None:
                result[window]["frames"] = _stack([frame_at[at_s] for at_s in shown], info.path)
            if flow is not None and all(at_s in flows for at_s in shown):
                result[window]["flow"] = _stack([flows[at_s] for at_s in shown], info.path)
        return result, list(reader.warnings)


def _size_of(frame: Tensor) -> Tensor:
    """(3, H, W) -> (2,) int64: H, W."""
    return torch.tensor(frame.shape[-2:], dtype=torch.int64)


def _pairs(
    reader: VideoReader, times_s: Iterable[float]
) -> Iterator[tuple[float, float, Tensor, tuple[Tensor, Tensor] | None]]:
    """For each time, ascending: (time, when its frame is first shown, that frame, it and its next or None)."""
    held: list[tuple[float, Tensor]] = []
    for want in times_s:
        # Small terms as in the reader: the frame on show at a time computed as pts * base is that frame.
        if not (len(held) == 2 and held[0][0] <= want + 1e-7 < held[1][0]):
            held = list(itertools.islice(reader.frames_between(want), 2))
        at_s, first = held[0]
        if len(held) == 2:
            yield want, at_s, first, _of_one_size(first, held[1][1])
            continue
        rate = reader.info.frame_rate or 25.0
        before: list[tuple[float, Tensor]] = []
        for num_frames in (1.5, 8, 64):  # rates vary within files
            before = list(reader.frames_between(max(at_s - num_frames / rate, 0.0)))[-2:]
            if len(before) == 2:
                break
        yield want, at_s, first, _of_one_size(before[0][1], before[1][1]) if len(before) == 2 else None


def _of_one_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if second.shape != first.shape:  # the stream changes its picture size just here
        second = F.interpolate(second[None], size=first.shape[-2:], mode="bicubic", antialias=True)[0]
    return first, second


def _stack(pictures: list[Tensor], path: str) -> Tensor:
    if len({picture.shape for picture in pictures}) > 1:
        raise MediaError(f"{path!r} changes its picture's shape on the way: convert it with ffmpeg first")
    return torch.stack(pictures)


def read_log_mel(info: MediaInfo, *, start_s: float, end_s: float | None) -> tuple[Tensor | None, list[str]]:
    """The log-mel spectrogram (F, S) float32, not normalised, and warnings.

    None in its place where there are less than 25 ms of sound, or nothing but zeros: files without sound often carry a
    silent stream, and a model would be asked what silence shows.

    Of more than ten minutes: as many seconds in parts of 10 s that are spread evenly.

    Raises:
        MediaError: the sound cannot be decoded.
    """
    stop_s = info.end_s if end_s is None else end_s
    span_s = max(stop_s - start_s, 0.0)
    if span_s <= MAX_SOUND_S:
        # Without an end: to the end of the sound, which may be longer than the pictures.
        parts = [(start_s, MAX_SOUND_S if end_s is None else span_s)]
    else:
        starts = np.linspace(start_s, stop_s - _PART_S, int(MAX_SOUND_S / _PART_S))
        parts = [(float(at_s), _PART_S) for at_s in starts]
    if parts[0][1] <= 0:
        return None, []
    sounds = [read_sound(info.path, start_s=at_s, duration_s=s, sample_rate_hz=SAMPLE_RATE_HZ) for at_s, s in parts]
    warnings = list(dict.fromkeys(text for sound in sounds for text in sound.warnings))
    waves = [sound.waveform for sound in sounds]
    if all(not len(wave) or float(wave.abs().max()) < _SILENT for wave in waves):
        return None, warnings
    spectrograms = [log_mel(wave) for wave in waves if len(wave) >= _MIN_SAMPLES]
    return torch.cat(spectrograms, dim=1) if spectrograms else None, warnings


def windows_key(windows: Windows) -> dict[str, Any]:
    """JSON types, for the cache."""
    return asdict(windows)
