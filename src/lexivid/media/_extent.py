"""How far the streams of a file really reach, and one clock for files whose own clock begins anew.

What a container declares is a hint. In: an open container. Out: when each stream ends, which an index at hand confirms
(MP4, AVI), a look at the end of the file shows (formats with an index of their own), or one pass over all packets,
without decoding, tells (all others). Transport and program streams that were joined, and other files that hold several
in a row, fall into parts: each has a shift, which makes its times follow those of the part before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

from lexivid.errors import MediaError
from lexivid.media._container import PlainFile, open_container
from lexivid.media._following import after_last_packet
from lexivid.media._parts import GifDelays, Reach, Scan
from lexivid.media._streams import codec_name, coded_now, tagged_s
from lexivid.media._structure import Structure, structure_of

# The index of these leads to any place, the end too. Every other format is read through once.
_SEEKABLE = frozenset("mov matroska avi asf mxf yuv4mpegpipe wav w64 aiff caf".split())
# Their headers declare a length. What FFmpeg calls the length of others it found by reading, or guessed.
_DECLARING = _SEEKABLE | {"flv"}
_MAX_READ_ERRORS = 50
_MAX_CACHED = 64
_DISCARDED = 2  # flag of an entry in an index
# Reading these stops at the end that their headers describe, or what follows has no times of its own (MXF).
_ENDS_ITSELF = frozenset("mov asf mxf wav aiff w64 caf nut rm".split())
_INDEX_TAIL = 500  # entries at the end of an index that may belong to nothing that is shown


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


_cache: dict[tuple[object, ...], Extent] = {}


def extent_of(container: InputContainer, path: str, stream: av.stream.Stream) -> Extent:
    """How far a file reaches; `stream` is the one that is used. Kept for as long as the file does not change.

    Raises:
        MediaError: the file cannot be opened again.
    """
    formats = set(container.format.name.split(","))
    structure = structure_of(path, formats)
    if formats & _SEEKABLE and not _reads_on(structure, formats) and structure.track_of(stream).num_edits < 2:
        streams = _confirmed(container, path, stream, structure)
        if streams is not None:
            return Extent(streams, structure, _joined(path, structure.end or 0) if structure.goes_on else "")
    return _scanned(path, formats, structure)


def extent_in_parts(container: InputContainer, path: str) -> Extent:
    """How far the streams reach in a format whose files may have parts; of others they are not looked up.

    Raises:
        MediaError: the file cannot be opened again.
    """
    formats = set(container.format.name.split(","))
    structure = structure_of(path, formats)
    if formats & _SEEKABLE and not _reads_on(structure, formats):
        return Extent({}, structure, _joined(path, structure.end or 0) if structure.goes_on else "")
    return _scanned(path, formats, structure)


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
        scan = Scan(formats)
        with open_container(path) as container:
            delays = GifDelays() if "gif" in formats else None
            for packet in packets_of(container):
                begins = scan.take(delays.shifted(packet) if delays else packet)
                if begins and "mpegts" in formats and packet.stream.type == "video":
                    now, number = coded_now(container, packet.stream_index), packet.stream_index
                    if now and now != codec_name(container.streams[number]):
                        scan.change_codec(number, now)
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
    tagged = tagged_s(stream)
    if tagged is not None and file_end is not None:
        return min(tagged, file_end) if tagged > 0 else file_end
    return file_end


def _joined_after(path: str, formats: set[str], last_byte: int, size: int) -> str:
    """Of a format that ends where its reader stops: whether another file of the kind follows."""
    if last_byte >= size:
        return ""
    file = PlainFile(path)
    try:
        begin = after_last_packet(file, formats, last_byte)
    finally:
        file.close()
    return "" if begin is None else _joined(path, begin)


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
