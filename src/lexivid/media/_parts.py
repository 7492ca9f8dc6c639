"""One clock for files whose own clock begins anew: joined transport and program streams, several files in a row.

In: the packets of a file, once, in its order. Out: how far each stream reaches, and the shifts that make the times of
each part follow those of the part before. A part keeps its streams together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import av
from av.container import InputContainer

from lexivid.media._container import RAW_FORMATS

# A clock that the sender may set anew at any time.
_BROADCAST = frozenset({"mpegts", "mpeg"})
_OWN_DTS = frozenset({"mpegts", "mpeg", "flv"})
_JUMP_S = 10.0  # forward, above which a broadcast clock was set anew, as ffmpeg has it
_ABSURD_S = 1e6
_FLV_WRAP_S = 2**31 / 1000
_BACK_S = 0.1
MAX_TIME_S = 1e10  # a clock beyond is none: three centuries, where some clocks begin in 1970
_POINT_S = 0.5  # at least, between two places to which a joined file can be sought


@dataclass(frozen=True)
class Point:
    """A place where reading a stream can begin: time of its packet in seconds, byte, number of breaks before it."""

    at_s: float
    position: int
    num_breaks: int


@dataclass(frozen=True)
class Foreign:
    """A part in which a stream has another codec than at the start of the file: from when to when, and which."""

    start_s: float
    end_s: float
    codec: str
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
        foreign: parts that the decoder of the others cannot read.
    """

    end_s: float
    length_s: float = 0.0
    num_packets: int = 0
    shifts_s: tuple[float, ...] = (0.0,)
    points: tuple[Point, ...] = ()
    foreign: tuple[Foreign, ...] = ()


@dataclass
class Breaks:
    """Follows the packets of one stream in the order of the file, and counts how often its clock begins anew."""

    formats: set[str]
    count: int = 0
    _last_s: float | None = None  # of the last packet's end, by its decoding time
    _newest_s: float | None = None  # presentation time

    def passes(self, packet: av.Packet, base: float) -> bool:
        """Whether the clock begins anew with this packet; `base`: seconds a tick."""
        has_own_dts = bool(self.formats & _OWN_DTS)
        pts = packet.pts if packet.pts is not None else packet.dts
        dts = packet.dts if has_own_dts and packet.dts is not None else None
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
        self._foreign = {part.num_breaks: part.end_s for part in reach.foreign}
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

    @property
    def is_foreign(self) -> bool:
        """Whether the last packet belongs to a part with another codec."""
        return self._breaks.count in self._foreign

    @property
    def foreign_end_s(self) -> float:
        """When the part ends."""
        return self._foreign[self._breaks.count]

    def begin_at(self, point: Point) -> None:
        """The file stands at another place."""
        self._breaks = Breaks(self._breaks.formats, point.num_breaks)


@dataclass
class _Part:
    """A stretch of a file with one clock: moments of each stream in that clock."""

    first_s: dict[int, float] = field(default_factory=dict)  # by the order of decoding, where the file has it
    end_s: dict[int, float] = field(default_factory=dict)
    shown_end_s: dict[int, float] = field(default_factory=dict)


class Scan:
    """Collects what a pass over packets shows."""

    def __init__(self, formats: set[str]) -> None:
        self.formats = formats
        self.parts = [_Part()]
        self.part_of: dict[int, list[int]] = {}  # stream -> part, by number of its breaks
        self.breaks: dict[int, Breaks] = {}
        self.lasting_s: dict[int, float] = {}
        self.num_packets: dict[int, int] = {}
        self.points: dict[int, list[Point]] = {}
        self.foreign: dict[int, dict[int, str]] = {}  # stream -> codec, by number of its breaks
        self.last_byte = 0

    def take(self, packet: av.Packet) -> bool:
        """Whether the clock of the packet's stream begins anew with it."""
        stream, base = packet.stream_index, float(packet.time_base or 0)
        tick = packet.dts if self.formats & _OWN_DTS and packet.dts is not None else packet.pts
        if tick is None:
            tick = packet.dts
        if tick is not None and abs(tick * base) > MAX_TIME_S:
            return False
        if packet.pos is not None:
            self.last_byte = max(self.last_byte, packet.pos + packet.size)
        if packet.is_discard:
            return False
        duration_s = (packet.duration or 0) * base
        self.num_packets[stream] = self.num_packets.get(stream, 0) + 1
        self.lasting_s[stream] = self.lasting_s.get(stream, 0.0) + duration_s
        if tick is None:
            return False
        at_s = tick * base
        breaks = self.breaks.setdefault(stream, Breaks(self.formats))
        mine = self.part_of.setdefault(stream, [len(self.parts) - 1])
        begins = breaks.passes(packet, base)
        if begins:
            # Another stream may have come to the new clock before this one.
            if mine[-1] == len(self.parts) - 1 or any(abs(at_s - t) > _JUMP_S for t in self.parts[-1].end_s.values()):
                self.parts.append(_Part())
            mine.append(len(self.parts) - 1)
        part = self.parts[mine[-1]]
        shown_s = (packet.pts if packet.pts is not None else tick) * base
        is_later = at_s + duration_s > part.end_s.get(stream, -math.inf)  # of two with one time the second is none
        part.first_s.setdefault(stream, at_s)
        for ends, end_s in ((part.end_s, at_s + duration_s), (part.shown_end_s, shown_s + duration_s)):
            ends[stream] = max(ends.get(stream, end_s), end_s)
        if packet.is_keyframe and packet.pos is not None and is_later:
            points = self.points.setdefault(stream, [])
            last = points[-1] if points else None
            if last is None or last.num_breaks != breaks.count or shown_s - last.at_s >= _POINT_S:
                points.append(Point(shown_s, packet.pos, breaks.count))
        return begins

    def change_codec(self, stream: int, codec: str) -> None:
        """The part of a stream that has just begun has another codec than the stream at the file's start."""
        self.foreign.setdefault(stream, {})[self.breaks[stream].count] = codec

    def reaches(self) -> dict[int, Reach]:
        shifts = self._shifts_s()
        ends = {}
        for stream, count in self.num_packets.items():
            mine = [(part, shift) for part, shift in zip(self.parts, shifts, strict=True) if stream in part.end_s]
            if self.formats & RAW_FORMATS or not mine:
                ends[stream] = Reach(self.lasting_s[stream], self.lasting_s[stream], count)
                continue
            length_s = max(part.end_s[stream] + shift for part, shift in mine) - mine[0][0].first_s[stream]
            stream_shifts = tuple(shifts[number] for number in self.part_of[stream])
            points: tuple[Point, ...] = ()
            # After FFmpeg's own search in a program stream, times may be half a frame off.
            codecs = self.foreign.get(stream, {})
            if "mpeg" in self.formats or (len(stream_shifts) > 1 and self.formats & _BROADCAST):
                points = tuple(
                    Point(p.at_s + stream_shifts[p.num_breaks], p.position, p.num_breaks)
                    for p in self.points.get(stream, [])
                    if p.num_breaks not in codecs
                )
            end_s = max(part.shown_end_s[stream] + shift for part, shift in mine)
            foreign = []
            for number, codec in codecs.items():
                part, shift = self.parts[self.part_of[stream][number]], stream_shifts[number]
                foreign.append(Foreign(part.first_s[stream] + shift, part.end_s[stream] + shift, codec, number))
            ends[stream] = Reach(end_s, length_s, count, stream_shifts, points, tuple(foreign))
        return ends

    def _shifts_s(self) -> list[float]:
        """Each part begins where the one before it ends, in the stream that ends last; its streams stay together."""
        shifts = [0.0]
        for number, part in enumerate(self.parts[1:], 1):
            ends: dict[int, float] = {}
            for before, shift in zip(self.parts[:number], shifts, strict=True):
                ends.update({stream: end_s + shift for stream, end_s in before.end_s.items()})
            common = [ends[stream] - first_s for stream, first_s in part.first_s.items() if stream in ends]
            shift_s = max(common) if common else max(ends.values()) - min(part.first_s.values())
            if "flv" in self.formats and abs(shift_s - shifts[-1] + _FLV_WRAP_S) < _JUMP_S:
                shift_s = shifts[-1] - _FLV_WRAP_S  # times below zero come before: the clock went on
            shifts.append(shift_s)
        return shifts
