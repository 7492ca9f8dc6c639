"""How far the streams of a file really reach, and one clock for files whose own clock begins anew.

What a container declares is a hint. In: an open container. Out: when each stream ends, which an index at hand confirms
(MP4, AVI), a look at the end of the file shows (formats with an index of their own), or one pass over all packets,
without decoding, tells (all others). Transport and program streams that were joined, and other files that hold several
in a row, fall into parts: each has a shift, which makes its times follow those of the part before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.container import InputContainer

from lexivid.errors import MediaError
from lexivid.media._container import RAW_FORMATS, PlainFile, open_container
from lexivid.media._structure import Structure, structure_of

# The index of these leads to any place, the end too. Every other format is read through once.
_SEEKABLE = frozenset("mov matroska avi asf mxf yuv4mpegpipe wav w64 aiff caf".split())
# Their headers declare a length. What FFmpeg calls the length of others it found by reading, or guessed.
_DECLARING = _SEEKABLE | {"flv"}
# A clock that the sender may set anew at any time.
_BROADCAST = frozenset({"mpegts", "mpeg"})
_OWN_DTS = frozenset({"mpegts", "mpeg", "flv"})
_JUMP_S = 10.0  # forward, above which a broadcast clock was set anew, as ffmpeg has it
_ABSURD_S = 1e6
_BACK_S = 0.1
MAX_TIME_S = 1e10  # a clock beyond is none: three centuries, where some clocks begin in 1970
_POINT_S = 0.5  # at least, between two places to which a joined file can be sought
_MAX_READ_ERRORS = 50
_MAX_CACHED = 64
_DISCARDED = 2  # flag of an entry in an index
# These stop reading at the end that their headers describe, whatever follows.
_ENDS_ITSELF = frozenset({"mov", "asf"})
# What a file begins with, of formats that stop where the next file begins.
_MARKS = {"flv": b"FLV\x01", "ogg": b"OggS\0\2", "nut": b"nut/multimedia container", "ivf": b"DKIF", "apng": b"\x89PNG"}
_INDEX_TAIL = 500  # entries at the end of an index that may belong to nothing that is shown


@dataclass(frozen=True)
class Point:
    """A place where reading a stream can begin: time of its packet in seconds, byte, number of breaks before it."""

    at_s: float
    position: int
    num_breaks: int


@dataclass(frozen=True)
class Reach:
    """One stream. Times are in seconds of the file's clock, made continuous.

    Attributes:
        end_s: when its last packet ends.
        length_s: from its first packet to its end, by the order of decoding; of raw streams what its packets last.
        num_packets: how many there are, 0 where they were not counted.
        shifts_s: what to add to the stream's times, by the number of breaks before them.
        points: where reading can begin, in order; of program streams, and of
            transport streams of several parts.
    """

    end_s: float
    length_s: float = 0.0
    num_packets: int = 0
    shifts_s: tuple[float, ...] = (0.0,)
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Extent:
    """How far a file reaches.

    Attributes:
        streams: by index.
        structure: what the headers say about the file as a whole.
        left_out: a sentence on what follows in the file and is not read; empty where nothing does.
    """

    streams: Mapping[int, Reach]
    structure: Structure
    left_out: str = ""


@dataclass
class Breaks:
    """Follows the packets of one stream in the order of the file, and counts how often its clock begins anew."""

    formats: set[str]
    count: int = 0
    _last_s: float | None = None  # of the last packet's end, by its decoding time
    _newest_s: float | None = None  # presentation time

    def passes(self, packet: av.Packet, base: float) -> bool:
        """Whether the clock begins anew with this packet; `base`: seconds a tick."""
        own = bool(self.formats & _OWN_DTS)
        pts = packet.pts if packet.pts is not None else packet.dts
        dts = packet.dts if own and packet.dts is not None else None
        is_new = False
        if dts is not None and self._last_s is not None:
            gap_s = dts * base - self._last_s
            is_new = gap_s < -_BACK_S - (packet.duration or 0) * base
            is_new |= gap_s > (_JUMP_S if self.formats & _BROADCAST else _ABSURD_S)  # FLV wraps at 2**31 ms
        elif pts is not None and self._newest_s is not None and packet.is_keyframe:
            # A key frame is shown after all that is stored before it.
            is_new = pts * base < self._newest_s - _BACK_S
        if is_new:
            self.count += 1
            self._newest_s = None
        if dts is not None:
            self._last_s = (dts + (packet.duration or 0)) * base
        if pts is not None and (self._newest_s is None or pts * base > self._newest_s):
            self._newest_s = pts * base
        return is_new


class GifDelays:
    """Shifts the packets of a GIF to when a viewer shows them: a delay of one hundredth counts as ten.

    (FFmpeg takes only a delay of none for ten.)
    """

    def __init__(self) -> None:
        self._late = 0

    def shifted(self, packet: av.Packet) -> av.Packet:
        """The packet itself, its times changed. All of the file's packets must come, in order."""
        if packet.pts is not None:
            packet.pts += self._late
        if packet.dts is not None:
            packet.dts += self._late
        if packet.size and packet.duration == 1:
            packet.duration = 10
            self._late += 9
        return packet


class PartClock:
    """Shifts the packets of one stream, in the order of the file, to where their part of it belongs."""

    def __init__(self, container: InputContainer, stream: av.stream.Stream, reach: Reach) -> None:
        formats = set(container.format.name.split(","))
        self._shifts_s = reach.shifts_s
        self._base = float(stream.time_base or 0) or 1.0
        self._breaks = Breaks(formats)
        self.is_one = len(self._shifts_s) == 1 or bool(formats & RAW_FORMATS)
        self._delays = GifDelays() if "gif" in formats else None

    def shifted(self, packet: av.Packet) -> av.Packet:
        """The packet itself, its times changed if the file has several parts."""
        if self._delays is not None:
            return self._delays.shifted(packet)
        if self.is_one or not packet.size:
            return packet
        self._breaks.passes(packet, self._base)
        shift = round(self._shifts_s[min(self._breaks.count, len(self._shifts_s) - 1)] / self._base)
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is not None:
            packet.dts += shift
        return packet

    def begin_at(self, point: Point) -> None:
        """The file stands at another place."""
        self._breaks = Breaks(self._breaks.formats, point.num_breaks)


@dataclass
class _Part:
    """A stretch of a file with one clock: moments of each stream in that clock."""

    first_s: dict[int, float] = field(default_factory=dict)  # by the order of decoding, where the file has it
    end_s: dict[int, float] = field(default_factory=dict)
    shown_end_s: dict[int, float] = field(default_factory=dict)


class _Scan:
    """Collects what a pass over packets shows."""

    def __init__(self, formats: set[str]) -> None:
        self.formats = formats
        self.parts = [_Part()]
        self.part_of: dict[int, list[int]] = {}  # stream -> part, by number of its breaks
        self.breaks: dict[int, Breaks] = {}
        self.lasting_s: dict[int, float] = {}
        self.num_packets: dict[int, int] = {}
        self.points: dict[int, list[Point]] = {}
        self.last_byte = 0

    def take(self, packet: av.Packet) -> None:
        stream, base = packet.stream_index, float(packet.time_base or 0)
        tick = packet.dts if self.formats & _OWN_DTS and packet.dts is not None else packet.pts
        if tick is None:
            tick = packet.dts
        if tick is not None and abs(tick * base) > MAX_TIME_S:
            return
        if packet.pos is not None:
            self.last_byte = max(self.last_byte, packet.pos + packet.size)
        if packet.is_discard:
            return
        duration_s = (packet.duration or 0) * base
        self.num_packets[stream] = self.num_packets.get(stream, 0) + 1
        self.lasting_s[stream] = self.lasting_s.get(stream, 0.0) + duration_s
        if tick is None:
            return
        at_s = tick * base
        breaks = self.breaks.setdefault(stream, Breaks(self.formats))
        mine = self.part_of.setdefault(stream, [len(self.parts) - 1])
        if breaks.passes(packet, base):
            # Another stream may have come to the new clock before this one.
            if mine[-1] == len(self.parts) - 1 or any(abs(at_s - t) > _JUMP_S for t in self.parts[-1].end_s.values()):
                self.parts.append(_Part())
            mine.append(len(self.parts) - 1)
        part = self.parts[mine[-1]]
        shown_s = (packet.pts if packet.pts is not None else tick) * base
        part.first_s.setdefault(stream, at_s)
        for ends, end_s in ((part.end_s, at_s + duration_s), (part.shown_end_s, shown_s + duration_s)):
            ends[stream] = max(ends.get(stream, end_s), end_s)
        if packet.is_keyframe and packet.pos is not None:
            points = self.points.setdefault(stream, [])
            last = points[-1] if points else None
            if last is None or last.num_breaks != breaks.count or shown_s - last.at_s >= _POINT_S:
                points.append(Point(shown_s, packet.pos, breaks.count))

    def reaches(self) -> dict[int, Reach]:
        shifts = self._shifts_s()
        found = {}
        for stream, count in self.num_packets.items():
            mine = [(part, shift) for part, shift in zip(self.parts, shifts, strict=True) if stream in part.end_s]
            if self.formats & RAW_FORMATS or not mine:
                found[stream] = Reach(self.lasting_s[stream], self.lasting_s[stream], count)
                continue
            length_s = max(part.end_s[stream] + shift for part, shift in mine) - mine[0][0].first_s[stream]
            own = tuple(shifts[number] for number in self.part_of[stream])
            points: tuple[Point, ...] = ()
            # After FFmpeg's own search in a program stream, times may be half a frame off.
            if "mpeg" in self.formats or (len(own) > 1 and self.formats & _BROADCAST):
                points = tuple(
                    Point(p.at_s + own[p.num_breaks], p.position, p.num_breaks) for p in self.points.get(stream, [])
                )
            end_s = max(part.shown_end_s[stream] + shift for part, shift in mine)
            found[stream] = Reach(end_s, length_s, count, own, points)
        return found

    def _shifts_s(self) -> list[float]:
        """Each part begins where the one before it ends, in the stream that ends last; its streams stay together."""
        shifts = [0.0]
        for number, part in enumerate(self.parts[1:], 1):
            ends: dict[int, float] = {}
            for before, shift in zip(self.parts[:number], shifts, strict=True):
                ends.update({stream: end_s + shift for stream, end_s in before.end_s.items()})
            common = [ends[stream] - first_s for stream, first_s in part.first_s.items() if stream in ends]
            shifts.append(max(common) if common else max(ends.values()) - min(part.first_s.values()))
        return shifts


_cache: dict[tuple[object, ...], Extent] = {}


def extent_of(container: InputContainer, path: str, stream: av.stream.Stream) -> Extent:
    """How far a file reaches; `stream` is the one that is used. Kept for as long as the file does not change.

    Raises:
        MediaError: the file cannot be opened again.
    """
    formats = set(container.format.name.split(","))
    structure = structure_of(path, formats)
    if formats & _SEEKABLE and not _reads_on(structure, formats) and structure.num_edits.get(stream.id, 0) < 2:
        streams = _confirmed(container, path, stream, structure)
        if streams is not None:
            goes_on = structure.end is not None and structure.goes_on
            return Extent(streams, structure, _joined(path, structure.end or 0) if goes_on else "")
    return _scanned(path, formats, structure)


def reach_in_parts(container: InputContainer, path: str, stream_index: int) -> Reach:
    """How far a stream reaches in a format whose files may have parts; of others nothing is looked up.

    Raises:
        MediaError: the file cannot be opened again.
    """
    formats = set(container.format.name.split(","))
    structure = structure_of(path, formats)
    if formats & _SEEKABLE and not _reads_on(structure, formats):
        return Reach(0.0)
    return _scanned(path, formats, structure).streams.get(stream_index, Reach(0.0))


def _reads_on(structure: Structure, formats: set[str]) -> bool:
    """Whether something follows behind the end that the headers describe, and FFmpeg reads it."""
    return structure.goes_on and not formats & _ENDS_ITSELF


def _scanned(path: str, formats: set[str], structure: Structure) -> Extent:
    """What one pass over all packets shows; kept for as long as the file does not change."""
    status = Path(path).stat()
    key = (str(Path(path).absolute()), status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _cache:
        while len(_cache) >= _MAX_CACHED:
            _cache.pop(next(iter(_cache)), None)
        scan = _Scan(formats)
        with open_container(path) as container:
            delays = GifDelays() if "gif" in formats else None
            for packet in packets_of(container):
                scan.take(delays.shifted(packet) if delays else packet)
        left_out = _joined_after(path, formats, scan.last_byte, structure.size)
        if not left_out and structure.end is not None and structure.goes_on and formats & _ENDS_ITSELF:
            left_out = _joined(path, structure.end)
        _cache[key] = Extent(scan.reaches(), structure, left_out)
    return _cache[key]


def _confirmed(
    container: InputContainer, path: str, stream: av.stream.Stream, structure: Structure
) -> dict[int, Reach] | None:
    """The end that a file declares, if its index agrees, or what a look at its end shows; None: neither."""
    declared_s = declared_end_s(container, stream)
    if declared_s is None:
        return None
    if not structure.is_cut and _index_agrees(stream, declared_s):
        return {stream.index: Reach(declared_s, declared_s)}
    return _look(path, stream.index, declared_s)


def packets_of(container: InputContainer) -> Iterator[av.Packet]:
    """All packets of pictures and sound from here to the end."""
    for stream in container.streams:
        cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        if stream.type not in ("video", "audio") or stream.disposition & cover:
            stream.discard = av.stream.Discard.all
    for _ in range(_MAX_READ_ERRORS):
        try:
            for packet in container.demux():
                if packet.size:
                    yield packet
            return
        except (IndexError, av.error.EOFError):  # PyAV raises the first where a stream appeared on the way
            return
        except (av.error.FFmpegError, OSError):
            continue


def _index_agrees(stream: av.stream.Stream, declared_s: float) -> bool:
    """Whether the index, which is in memory, ends where the header says that the stream does."""
    entries = stream.index_entries
    base = float(stream.time_base or 0)
    if stream.type != "video" or len(entries) < 2 or entries[0].flags & _DISCARDED or not base:
        return False
    last = len(entries) - 1
    while last > max(len(entries) - _INDEX_TAIL, 0) and entries[last].flags & _DISCARDED:
        last -= 1
    step = entries[last].timestamp - entries[last - 1].timestamp
    delay = (stream.start_time or 0) - entries[0].timestamp
    end_s = (entries[last].timestamp + step + delay) * base
    return bool(step > 0) and abs(end_s - declared_s) < 0.5 * step * base


def _look(path: str, stream_index: int, declared_s: float) -> dict[int, Reach] | None:
    """Read the end of a file; None where that shows nothing of the stream."""
    for back_s in (1.0, 30.0, 600.0):
        ends_s: dict[int, float] = {}
        stored_s: dict[int, float] = {}
        with open_container(path) as container:
            stream = container.streams[stream_index]
            base = float(stream.time_base or 0)
            try:
                container.seek(round((declared_s - back_s) / base), stream=stream)
            except (av.error.FFmpegError, OverflowError, ZeroDivisionError):
                return None
            for packet in packets_of(container):
                if packet.is_discard:
                    continue
                number, tick_s = packet.stream_index, float(packet.time_base or 0)
                for ends, tick in ((ends_s, packet.pts), (stored_s, packet.dts)):
                    if tick is not None:
                        ends[number] = max(ends.get(number, -math.inf), (tick + (packet.duration or 0)) * tick_s)
        if stream_index in ends_s or stream_index in stored_s:
            both = ends_s.keys() | stored_s.keys()
            return {n: Reach(ends_s.get(n, stored_s.get(n, 0.0)), stored_s.get(n, ends_s.get(n, 0.0))) for n in both}
        if declared_s <= back_s:
            break
    return None


def declared_end_s(container: InputContainer, stream: av.stream.Stream) -> float | None:
    """When the stream ends in its own clock, in seconds, as declared; None where it is not, or only guessed."""
    assert stream.time_base is not None
    formats = set(container.format.name.split(","))
    if not formats & _DECLARING:
        return None
    if stream.duration and stream.duration > 0:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    start_s = (container.start_time or 0) / av.time_base
    file_end = start_s + container.duration / av.time_base if container.duration and container.duration > 0 else None
    # Matroska keeps the length of each track in a tag, 00:00:10.040000000.
    for key, value in stream.metadata.items():
        found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", value) if key.upper().startswith("DURATION") else None
        if found and file_end is not None:
            tagged = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
            return min(tagged, file_end) if tagged > 0 else file_end
    return file_end


def _joined_after(path: str, formats: set[str], last_byte: int, size: int) -> str:
    """Of a format that ends where its reader stops: whether another file of the kind follows."""
    mark = next((mark for name, mark in _MARKS.items() if name in formats), None)
    if mark is None or last_byte >= size:
        return ""
    file = PlainFile(path)
    try:
        file.seek(last_byte)
        at = file.read(1 << 16).find(mark)
    finally:
        file.close()
    return _joined(path, last_byte + at) if at >= 0 else ""


def _joined(path: str, begin: int) -> str:
    """A sentence on a file that was joined on behind another."""
    size = Path(path).stat().st_size
    lasts = ""
    with suppress(MediaError), open_container(path, begin=begin) as container:
        if container.duration and container.duration > 0:
            lasts = f", {container.duration / av.time_base:.1f} s,"
    return (
        f"the last {100 * (size - begin) / size:.0f} % of the file{lasts} are another file joined on behind it, and "
        "are not looked at; join such files with ffmpeg's concat demuxer instead"
    )
