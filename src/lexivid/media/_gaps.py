"""Times without packets in a stream: a pause, or damage.

In: the packets of a stream as they are read. Out: the gaps of which there is evidence that something is missing. Screen
recordings and phones store no frame while nothing moves, so that a gap by itself tells nothing.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import av

from lexivid.media._container import open_container
from lexivid.media._extent import packets_of

_LEAST_S = 0.25
_NUM_NEAR = 8  # packets beside a gap in which damage may show
_MAX_GAPS = 20  # that are looked into
_MIN_UNREAD = 1024  # bytes
_HEADER_BYTES = 16  # about what a container adds to a packet
# MP4 has a table of all packets; in broadcast streams null packets and padding fill what time is left.
_NO_EVIDENCE_IN_BYTES = frozenset({"mov", "mpegts", "mpeg"})


@dataclass
class _Gap:
    """A time without packets, between two bytes of the file; `is_corrupt`: the demuxer says so of a packet nearby."""

    ticks: int
    begin: int | None
    end: int | None
    is_corrupt: bool


class Gaps:
    """Gaps of one stream.

    Attributes:
        formats: FFmpeg's names of the container.
        has_parts: whether several files were joined, so that times do not lead to places in the file.
    """

    def __init__(self) -> None:
        self.formats: set[str] = set()
        self.has_parts = False
        self._gaps: dict[int, _Gap] = {}  # by the tick at which packets go on
        self._holes: dict[int, int] = {}
        self.start_anew()

    def start_anew(self) -> None:
        """The file stands at another place."""
        # Packets before: time, end in the file, whether the demuxer calls it corrupt.
        self._before: deque[tuple[int, int | None, bool]] = deque(maxlen=_NUM_NEAR)

    def watch(self, packet: av.Packet, at: int, *, step: int, base: float) -> None:
        """Take note of a packet at a tick; `step`: ticks of a frame, `base`: seconds a tick."""
        before = self._before
        if before:
            gap = at - before[-1][0]
            if gap > 3 * step and gap * base >= _LEAST_S and at not in self._gaps and at not in self._holes:
                is_corrupt = packet.is_corrupt or any(corrupt for _, _, corrupt in before)
                self._gaps[at] = _Gap(gap, before[0][1], packet.pos, is_corrupt)
        if packet.is_corrupt and self._gaps:
            newest = next(reversed(self._gaps))
            if any(seen == newest for seen, _, _ in before):
                self._gaps[newest].is_corrupt = True
        before.append((at, packet.pos + packet.size if packet.pos is not None else None, packet.is_corrupt))

    def holes(self, path: str, stream_index: int, base: float) -> dict[int, int]:
        """Gaps where packets are missing: {tick at which they go on: ticks without}.

        Those are holes where the demuxer calls what is beside them corrupt, or where the file has bytes there that
        belong to no packet.
        """
        for at, gap in list(self._gaps.items())[:_MAX_GAPS]:
            del self._gaps[at]
            if gap.is_corrupt or self._has_unread(path, stream_index, (at - gap.ticks) * base, gap):
                self._holes[at] = gap.ticks
        return self._holes

    def _has_unread(self, path: str, stream_index: int, at_s: float, gap: _Gap) -> bool:
        if self.formats & _NO_EVIDENCE_IN_BYTES or self.has_parts or gap.begin is None or gap.end is None:
            return False
        if gap.end - gap.begin < _MIN_UNREAD:
            return False
        share = _unread_share(path, stream_index, at_s, gap.begin, gap.end)
        return share > 0.1 and share * (gap.end - gap.begin) >= _MIN_UNREAD


def _unread_share(path: str, stream_index: int, at_s: float, begin: int, end: int) -> float:
    """Share of the bytes between two places in a file that belong to no packet; `at_s`: the time of the first place.

    Raises:
        MediaError: the file cannot be opened.
    """
    for back_s in (1.0, None):
        covered, first = 0, None
        with open_container(path) as container:
            stream = container.streams[stream_index]
            if back_s is not None:
                with suppress(av.error.FFmpegError, OverflowError, ZeroDivisionError):
                    container.seek(round((at_s - back_s) / float(stream.time_base or 0)), stream=stream)
            for packet in packets_of(container):
                if packet.pos is None:
                    continue
                first = packet.pos if first is None else first
                if packet.stream_index == stream_index and packet.pos >= end:
                    break
                if begin <= packet.pos < end:
                    covered += packet.size + _HEADER_BYTES
        if first is not None and first <= begin:
            break  # else the search by time led past the place: read from the start
    return max(1 - covered / max(end - begin, 1), 0.0)
