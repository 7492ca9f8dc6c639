"""What the boxes of MP4 and QuickTime say about time: edits, and a media header whose clock cannot be right.

In: the bytes of a file. Out: for each track how many edits it has and when it shows nothing between them; and bytes
to read in place of those of a media header with a wrong time scale. Only headers are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from av.container import InputContainer
from av.video.stream import VideoStream

_MAX_BOXES = 100_000
_MAX_ELST = 1 << 20  # bytes of an edit list that are read
# How far the rate of a stream's own headers may be off that of the container, above or below.
_LEAST_RATIO = 1.4
_HALF = (1.9, 2.1)  # an encoder that counts fields as frames, and a film trimmed to its half


class Source(Protocol):
    """Bytes by place."""

    def seek(self, offset: int, whence: int = 0) -> int: ...

    def read(self, size: int = -1) -> bytes: ...


@dataclass(frozen=True)
class Track:
    """What the boxes of a track tell.

    Attributes:
        number: as the file has it, FFmpeg's id of the stream.
        num_edits: entries of its edit list from the first that shows something.
        pauses_s: from when to when it shows nothing, in seconds of the edited film, after it began.
        length_s: how long it is shown, as declared.
        scale_at, scale: where its ticks per second are stated, and what they are.
    """

    number: int
    num_edits: int = 0
    pauses_s: tuple[tuple[float, float], ...] = ()
    length_s: float = 0.0
    scale_at: int = 0
    scale: int = 0

    def is_pause(self, at_s: float) -> bool:
        """Whether nothing is shown at a time of the edited film, where FFmpeg shows how the track begins."""
        return any(start_s - 1e-6 <= at_s < end_s - 1e-6 for start_s, end_s in self.pauses_s)

    def shown_until_s(self, at_s: float) -> float:
        """When the frame that ends at a time goes off: nothing follows it in a pause."""
        return next((end_s for start_s, end_s in self.pauses_s if start_s - 0.1 <= at_s < end_s), at_s)


def at(file: Source, position: int, count: int) -> bytes:
    """Some bytes, fewer at the end."""
    file.seek(position)
    return file.read(count)


def boxes(file: Source, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Boxes between two bytes: (kind, where the body begins, where the box ends)."""
    for _ in range(_MAX_BOXES):
        head = at(file, start, 16) if start + 8 <= end else b""
        if len(head) < 8:
            return
        length, kind, body = int.from_bytes(head[:4], "big"), head[4:8], start + 8
        if length == 1 and len(head) == 16:
            length, body = int.from_bytes(head[8:16], "big"), start + 16
        elif length == 0:
            length = end - start
        if start + length < body:
            return
        yield kind, body, start + length
        start += length


def tracks(file: Source, start: int, end: int) -> Iterator[Track]:
    """The tracks of a moov box, which lies between two bytes."""
    ticks = 0  # a second, of the film
    for kind, body, stop in boxes(file, start, end):
        if kind == b"mvhd":
            head = at(file, body, 24)
            ticks = _number(head, 20) if head[:1] == b"\1" else _number(head, 12)
        elif kind == b"trak":
            yield _track(file, body, min(stop, end), ticks)


def _track(file: Source, start: int, end: int, ticks: int) -> Track:
    number = length = num_edits = scale_at = scale = 0
    pauses: tuple[tuple[float, float], ...] = ()
    for kind, body, stop in boxes(file, start, end):
        stop = min(stop, end)
        if kind == b"tkhd":
            head = at(file, body, 36)
            wide = head[:1] == b"\1"
            number = _number(head, 20 if wide else 12)
            length = _number(head, 28, 8) if wide else _number(head, 20)
        elif kind == b"edts":
            for inner, inner_body, inner_stop in boxes(file, body, stop):
                if inner == b"elst":
                    num_edits, pauses = _edits(at(file, inner_body, min(inner_stop - inner_body, _MAX_ELST)), ticks)
        elif kind == b"mdia":
            for inner, inner_body, _ in boxes(file, body, stop):
                if inner == b"mdhd":
                    head = at(file, inner_body, 24)
                    scale_at = inner_body + (20 if head[:1] == b"\1" else 12)
                    scale = _number(head, scale_at - inner_body)
    return Track(number, num_edits, pauses, length / ticks if ticks else 0.0, scale_at, scale)


def _edits(elst: bytes, ticks: int) -> tuple[int, tuple[tuple[float, float], ...]]:
    """(number of edits from the first that shows something, when nothing is shown after it)."""
    width = 8 if elst[:1] == b"\1" else 4
    count, passed, edits = 0, 0, []
    for _, place in zip(range(_number(elst, 4)), range(8, len(elst) - 2 * width + 1, 2 * width + 4), strict=False):
        length, is_empty = _number(elst, place, width), elst[place + width : place + 2 * width] == b"\xff" * width
        if count or not is_empty:
            count += 1
        if count and is_empty and ticks:
            edits.append((passed / ticks, (passed + length) / ticks))
        passed += length
    return count, tuple(edits)


def _number(data: bytes, place: int, width: int = 4) -> int:
    return int.from_bytes(data[place : place + width], "big")


def mended_scale(container: InputContainer, file: Source, size: int) -> dict[int, bytes]:
    """What to read in place of a time scale that is wrong, by place in the file; empty where there is none.

    Frames that the index counts, at the rate that their codec states, last as long as the track is declared to be
    shown; by the media header they last another time. (With frames that are left out, or slow motion, the length that
    is declared is that of the media header.) Nothing is read where the two rates are alike.
    """
    doubtful = [stream for stream in container.streams.video if _rates_differ(stream)]
    if not doubtful:
        return {}
    scales: dict[int, bytes] = {}
    for kind, body, stop in boxes(file, 0, size):
        for track in tracks(file, body, min(stop, size)) if kind == b"moov" else ():
            for stream in doubtful:
                if stream.id == track.number and (scale := _right_scale(stream, track)):
                    scales[track.scale_at] = scale.to_bytes(4, "big")
    return scales


def _rates_differ(stream: VideoStream) -> bool:
    coded_rate, average = stream.codec_context.framerate if stream.codec_context else None, stream.average_rate
    if not coded_rate or not average or stream.frames < 2:
        return False
    ratio = float(coded_rate / average)
    return max(ratio, 1 / ratio) > _LEAST_RATIO and not _HALF[0] < ratio < _HALF[1]


def _right_scale(stream: VideoStream, track: Track) -> int:
    coded_rate, average = stream.codec_context.framerate, stream.average_rate
    assert coded_rate is not None
    assert average is not None
    scale = round(track.scale * coded_rate / average)
    is_right = track.num_edits < 2 and abs(stream.frames / float(coded_rate) - track.length_s) < 1.5 / float(coded_rate)
    return scale if is_right and 0 < scale < 1 << 31 else 0
