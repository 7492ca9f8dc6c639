"""The packets of streams of sound, as far as a file can be read, without time stamps that are plainly wrong."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator

import av

JUMP_S = 1.0  # a jump of the clock above this is looked at before it is believed
_LOOK_AHEAD = 512  # packets, of all streams together
_MAX_READ_ERRORS = 50


def read_packets(container: av.container.InputContainer, streams: list[av.AudioStream]) -> Iterator[av.Packet]:
    """All packets of the streams from here on, as far as the file can be read."""
    for _ in range(_MAX_READ_ERRORS):
        try:
            for packet in container.demux(streams):
                if packet.size:  # without any: the end, in PyAV's way
                    yield packet
            return
        except IndexError:  # the end, in PyAV's way, of a file of which a stream appeared on the way
            return
        except (av.error.FFmpegError, OSError):
            continue


def without_outliers(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """The same packets. A run of them whose clock jumps, and then jumps back to where it was, loses its times.

    That is what a damaged time stamp looks like; where the clock goes on from where it jumped to, nothing is changed.
    """
    source = iter(packets)
    ahead: deque[av.Packet] = deque()
    ends: dict[int, float] = {}  # when the last packet of each stream ended that was believed
    while True:
        if not ahead:
            ahead.extend(itertools.islice(source, 1))
        if not ahead:
            return
        packet = ahead.popleft()
        at_s, length_s = _span_s(packet)
        if at_s is not None:
            end_s = ends.get(packet.stream_index)
            if end_s is not None and abs(at_s - end_s) > JUMP_S:
                ahead.extend(itertools.islice(source, max(_LOOK_AHEAD - len(ahead), 0)))
                if _comes_back(packet, ahead, end_s):
                    packet.pts = packet.dts = None
                    at_s = None
            if at_s is not None:
                ends[packet.stream_index] = at_s + length_s
            elif end_s is not None:
                ends[packet.stream_index] = end_s + length_s
        yield packet


def _comes_back(packet: av.Packet, ahead: Iterable[av.Packet], end_s: float) -> bool:
    """Whether the packets that follow jump back to the clock that ended at `end_s`."""
    first_s, length_s = _span_s(packet)
    assert first_s is not None
    last_s = first_s + length_s
    elapsed_s = length_s
    for other in ahead:
        at_s, length_s = _span_s(other)
        if other.stream_index != packet.stream_index or at_s is None:
            continue
        if abs(at_s - last_s) > JUMP_S and abs(at_s - end_s - elapsed_s) <= JUMP_S:
            return True
        last_s = at_s + length_s
        elapsed_s += length_s
    return False


def _span_s(packet: av.Packet) -> tuple[float | None, float]:
    """(when a packet begins by its stream's clock, or None; its length), in seconds."""
    base = float(packet.time_base or 0)
    at = packet.pts if packet.pts is not None else packet.dts
    return (None if at is None else at * base), (packet.duration or 0) * base
