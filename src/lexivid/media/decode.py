"""A video file -> the frames shown at given times, RGB as a viewer shows them.

In: a path, and times in seconds from the first frame. Out: frames (3, H, W) uint8. Only what is needed is decoded,
converted and kept. `_container.py` says what FFmpeg may open, `_cursor.py` how a time is reached, `_picture.py` how a
frame becomes RGB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch

from lexivid.errors import MediaError
from lexivid.media._colour import approximation, has_alpha
from lexivid.media._container import MediaInfo, open_container
from lexivid.media._cursor import Cursor, pts_of
from lexivid.media._extent import declared_end_s, extent_of
from lexivid.media._parts import Reach
from lexivid.media._picture import Presentation, orientation, to_rgb
from lexivid.media._refusal import shown
from lexivid.media._streams import (
    choice_of,
    codec_name,
    dolby_vision_alone,
    films_differ,
    has_alpha_beside,
    pick_audio,
    pick_video,
    presentation_of,
)
from lexivid.media.views import Views

Transform = Callable[[torch.Tensor], torch.Tensor]

# Raise it when a file would come to give other pictures or sounds, or at other times. It is in every cache key.
# 2: crops, square pixels, whole fields and tone mapping as a viewer shows them; times as the packets tell them.
# 3: the alpha of VP8 and VP9; mono tracks of several rates and codecs.
_READING = 3
_UNKNOWN = 2  # of ITU-T H.273: a transfer that is not told


@dataclass(frozen=True)
class SampledFrames:
    """The frames of a file that `Views` asked for.

    `frames` (num_clips, T, 3, h, w) uint8, or whatever the transform makes of a frame; `times_s` (num_clips, T)
    float64, when each frame is first shown, in seconds from the first frame of the video.
    """

    frames: torch.Tensor
    times_s: np.ndarray
    info: MediaInfo
    warnings: tuple[str, ...]


class VideoReader:
    """Frames of one file by time. Made by `open_video`; close it, or use it in a `with` statement.

    Attributes:
        info: what the file holds.
        warnings: what the user should be told, a sentence each; complete once the wanted frames were read.
        decodable_s: length that decodes, in seconds: `info.duration_s` until the stream is seen to end elsewhere.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_short_side: int | None, num_threads: int | None) -> None:
        self._max_short_side = max_short_side
        self._cursor = Cursor(os.fspath(path), num_threads=num_threads)
        try:
            self._presentation = presentation_of(self._cursor.container, self._cursor.stream)
            self.info = _describe_video(self._cursor, self._presentation)
            self._about = _about_the_picture(self._cursor, self.info)
            declared = declared_end_s(self._cursor.container, self._cursor.stream)
            self._declared_s = 0.0 if declared is None else declared - pts_of(self._cursor.first) * self._cursor.base
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._cursor.close()

    @property
    def decodable_s(self) -> float:
        last = self._cursor.last
        if last is None:
            return self.info.duration_s
        cursor, start_s = self._cursor, self._seconds(0)  # of the stream's clock
        end_s = cursor.shown_until_s((pts_of(last) + (last.duration or cursor.step)) * cursor.base) + start_s
        # A last frame that is held, or the rounding of a container, is no loss.
        return self.info.duration_s if abs(self.info.duration_s - end_s) <= self._tolerance_s else end_s

    @property
    def warnings(self) -> list[str]:
        cursor, texts = self._cursor, list(self._about)
        # Less than the index and the end of the file tell is damage; less than the header declares may be.
        declared = self.info.duration_s
        if self._seems_cut():
            declared = max(declared, self._declared_s)
        decodable = self.decodable_s
        if decodable < declared - self._tolerance_s:
            texts.append(
                f"only {decodable:.1f} of {declared:.1f} s could be decoded (the file seems cut off or damaged)"
            )
        for part in cursor.reach.foreign:
            start_s, end_s = (max(at_s + self._seconds(0), 0.0) for at_s in (part.start_s, part.end_s))
            texts.append(
                f"from {start_s:.1f} to {end_s:.1f} s the pictures are coded in another way ({part.codec}, not "
                f"{codec_name(cursor.stream)}), and are not looked at; join such files with ffmpeg's concat filter "
                "instead"
            )
        if cursor.extent.left_out:
            texts.append(cursor.extent.left_out)
        last = cursor.last
        lost = {pts for pts in cursor.lost if last is None or pts < pts_of(last)}  # the cut itself is told above
        lost = {pts for pts in lost if not cursor.is_beside_foreign(pts)}
        holes = cursor.holes
        if lost or holes:
            step = cursor.step
            about_s = (len(lost) * step + sum(holes.values()) - len(holes) * step) * cursor.base
            first_s = max(self._seconds(min([*lost, *(at - gap for at, gap in holes.items())])), 0.0)
            last_s = max(self._seconds(max([*lost, *holes])), 0.0)
            texts.append(
                f"about {max(about_s, 0.1):.1f} s between {first_s:.1f} and {last_s:.1f} s are damaged or missing "
                "(of what was read)"
            )
        return texts

    def frames_at(
        self, times_s: Iterable[float], *, transform: Transform | None = None
    ) -> Iterator[tuple[int, float, torch.Tensor]]:
        """The frame on show at each time, in order of time.

        Yields (index into the sorted times, seconds at which that frame is first shown, frame (3, H, W) uint8 or what
        `transform` made of it). Times before the first frame give the first, times after the end the last. Times
        that fall on one frame give the same tensor again: do not write into it.

        Raises:
            MediaError: the file cannot be decoded.
        """
        last: tuple[int, torch.Tensor] | None = None
        for index, at_s in enumerate(sorted(times_s)):
            frame = self._cursor.show(self._ticks(at_s))
            pts = pts_of(frame)
            if last is None or last[0] != pts:
                picture = self._rgb(frame)
                last = pts, transform(picture) if transform else picture.contiguous()
            yield index, self._seconds(pts), last[1]

    def frames_between(self, start_s: float = 0.0, end_s: float | None = None) -> Iterator[tuple[float, torch.Tensor]]:
        """Every frame shown at some moment of [start_s, end_s), in order: (seconds, frame (3, H, W) uint8).

        Raises:
            MediaError: the file cannot be decoded.
        """
        frame: av.VideoFrame | None = self._cursor.show(self._ticks(start_s))
        while frame is not None:
            at_s = self._seconds(pts_of(frame))
            if end_s is not None and at_s >= end_s - 1e-7:
                return
            yield at_s, self._rgb(frame).contiguous()
            frame = self._cursor.next()

    def _seems_cut(self) -> bool:
        """Whether what the file declares and does not hold was there once.

        Not where its boxes are whole, and not where its pictures just end before its sound (some declare one length
        only).
        """
        cursor = self._cursor
        if cursor.extent.structure.is_cut is False:
            return False
        if cursor.stream.duration:
            return True
        declared_end_s = pts_of(cursor.first) * cursor.base + self._declared_s
        others = (reach for number, reach in cursor.extent.streams.items() if number != cursor.stream.index)
        return all(reach.end_s < declared_end_s - 1.0 for reach in others)

    @property
    def _tolerance_s(self) -> float:
        return max(0.3, 3 * self._cursor.step * self._cursor.base)

    def _rgb(self, frame: av.VideoFrame) -> torch.Tensor:
        try:
            return to_rgb(frame, self._presentation, max_short_side=self._max_short_side)
        except MediaError as error:
            raise MediaError(f"{shown(self._cursor.path)} cannot be shown: {error}") from None

    def _ticks(self, at_s: float) -> int:
        # The small term: a time that was computed as pts * base must not fall just before that frame.
        return pts_of(self._cursor.first) + int((at_s + 1e-7) // self._cursor.base)

    def _seconds(self, pts: int) -> float:
        return (pts - pts_of(self._cursor.first)) * self._cursor.base


def open_video(
    path: str | os.PathLike[str], *, max_short_side: int | None = None, num_threads: int | None = None
) -> VideoReader:
    """Open a file for its frames; use it in a `with` statement.

    Args:
        path: a local file.
        max_short_side: frames whose shorter side is longer than this many pixels are scaled down to it while they
            are converted, so that 4K and 8K stay small in memory.
        num_threads: threads of the decoder; None: up to 4. The frames do not depend on it.

    Raises:
        MediaError: the file cannot be read, has no video, or no frame of it decodes.
    """
    return VideoReader(path, max_short_side=max_short_side, num_threads=num_threads)


def decoder_version() -> str:
    """What decodes, for cache keys and results: PyAV's release (another FFmpeg may give other pixels) and ours."""
    return f"{av.__version__}, reading {_READING}"


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """What a file holds: its streams, their length and kind. Decodes one frame, for its rotation.

    Raises:
        MediaError: the file cannot be read, or has neither video nor audio.
    """
    with open_container(path) as container:
        audio = pick_audio(container)
        if pick_video(container) is None:
            if audio is None:
                raise MediaError(f"{shown(path)} has neither pictures nor sound")
            return _describe_audio(os.fspath(path), container, audio)
    with open_video(path, num_threads=1) as reader:
        return reader.info


def read_views(
    path: str | os.PathLike[str],
    views: Views,
    *,
    transform: Transform | None = None,
    max_short_side: int | None = None,
) -> SampledFrames:
    """The frames at the times that `views` plans for this file, each distinct time decoded once.

    Where less decodes than the file declares, the plan is made again over what decodes: frames that both plans
    share are kept, so this costs at most one more pass.

    Args:
        path: a local file.
        views: which moments.
        transform: applied once to each frame (3, H, W) uint8; all results must have one shape.
        max_short_side: see `open_video`.

    Raises:
        MediaError: the file cannot be read, has no video, no frame of it decodes, or its pictures change their size
            and there is no transform that makes them equal.
    """
    with open_video(path, max_short_side=max_short_side) as reader:
        pictures: dict[float, torch.Tensor] = {}  # by the time at which they are first shown
        shown_at: dict[float, float] = {}  # wanted time -> that time
        duration_s = reader.info.duration_s
        for _ in range(2):
            plan = views.times_s(duration_s, reader.info.frame_rate)  # (num_clips, T)
            wanted = sorted(set(plan.ravel().tolist()) - shown_at.keys())
            for index, at_s, picture in reader.frames_at(wanted, transform=transform):
                shown_at[wanted[index]] = at_s
                pictures.setdefault(at_s, picture)
            if reader.decodable_s >= duration_s:
                break
            duration_s = reader.decodable_s
        times_s = np.vectorize(shown_at.__getitem__, otypes=[np.float64])(plan)
        chosen = [pictures[at_s] for at_s in times_s.ravel().tolist()]
        shapes = sorted({tuple(picture.shape) for picture in chosen})
        if len(shapes) > 1:
            raise MediaError(
                f"{shown(path)} changes its picture size on the way ({shapes[0]}, {shapes[1]}): pass a transform that "
                "resizes, or convert it with ffmpeg first"
            )
        frames = torch.stack(chosen).reshape(*times_s.shape, *shapes[0])
        return SampledFrames(frames, times_s, reader.info, tuple(reader.warnings))


def _about_the_picture(cursor: Cursor, info: MediaInfo) -> list[str]:
    """What the user should know of a choice that was made, and of colours that are not exact."""
    remarks = []
    if info.num_video_streams > 1 and films_differ(cursor.container):
        remarks.append(f"the file holds several films: {info.stream_choice}")
    # FFmpeg's own decoders of VP8 and VP9 leave it out; libvpx may be missing, or the picture turned.
    if has_alpha_beside(cursor.stream) and not has_alpha(cursor.first.format.name):
        remarks.append("its transparency is not decoded (VP8 and VP9 in WebM): colours that a viewer hides are seen")
    if codec_name(cursor.stream) in ("hevc", "av1") and max(c.bits for c in cursor.first.format.components) > 8:
        profile = dolby_vision_alone(cursor.container, cursor.stream)
        if profile or (profile == 0 and cursor.first.color_trc == _UNKNOWN):
            remarks.append(
                f"it is Dolby Vision{f' of profile {profile}' if profile else ''}, made for its own players alone: its "
                "colours are not converted, and wrong; convert it first, such as by FFmpeg's filter libplacebo"
            )
    colours = approximation(cursor.first)
    return [*remarks, colours] if colours else remarks


def _describe_video(cursor: Cursor, presentation: Presentation) -> MediaInfo:
    stream, container, first, reach = cursor.stream, cursor.container, cursor.first, cursor.reach
    start_s, step_s = pts_of(first) * cursor.base, cursor.step * cursor.base
    # In decoding order the first frame comes out late, and its time is not the start.
    duration_s = reach.length_s - cursor.lead * cursor.base if cursor.by_dts else reach.end_s - start_s
    if cursor.counts:
        # Packets that hold one field last half as long.
        num_frames = min(reach.num_packets, round(reach.length_s / step_s)) if reach.length_s else reach.num_packets
        duration_s = num_frames * step_s
    turns, _ = orientation(first)
    width, height = presentation.size(first)
    width, height = (height, width) if turns % 2 else (width, height)
    file_start_s = container.start_time / av.time_base if container.start_time is not None else start_s
    return MediaInfo(
        path=cursor.path,
        container=container.format.name,
        duration_s=max(duration_s, (first.duration or cursor.step) * cursor.base),
        has_video=True,
        width=width,
        height=height,
        rotation_deg=turns * 90,
        frame_rate=cursor.frame_rate,
        video_codec=codec_name(stream),
        pixel_format=first.format.name,
        video_start_s=0.0 if cursor.counts else max(start_s - file_start_s, 0.0),
        **_stream_facts(container),
    )


def _describe_audio(path: str, container: av.container.InputContainer, audio: av.AudioStream) -> MediaInfo:
    end_s = extent_of(container, path, audio).streams.get(audio.index, Reach(0.0)).end_s
    return MediaInfo(
        path=path,
        container=container.format.name,
        duration_s=max(end_s - (container.start_time or 0) / av.time_base, 0.0),
        has_video=False,
        width=0,
        height=0,
        rotation_deg=0,
        frame_rate=0.0,
        video_codec="",
        pixel_format="",
        **_stream_facts(container),
    )


def _stream_facts(container: av.container.InputContainer) -> dict[str, Any]:
    audio, choice = pick_audio(container), choice_of(container)
    return {
        "has_audio": audio is not None,
        "sample_rate_hz": audio.rate if audio else 0,
        "num_channels": audio.channels if audio else 0,
        "audio_codec": codec_name(audio) if audio else "",
        "video_stream": choice.video,
        "audio_stream": choice.audio,
        "num_video_streams": choice.num_video,
        "num_audio_streams": choice.num_audio,
        "stream_choice": choice.reason,
    }
