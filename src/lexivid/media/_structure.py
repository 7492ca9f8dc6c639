"""What the boxes, chunks and elements of a file say about its extent, read from their headers alone.

In: a path and FFmpeg's name of the format. Out: where the part that the format describes ends in the file, and what
the tracks of an MP4 are like. A file that is shorter was cut off; what lies behind is another file, joined on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import av

from lexivid.media._container import PlainFile, second_file
from lexivid.media._following import READ_ON_BADLY, end_of_sound
from lexivid.media._mp4 import Track, at, boxes, tracks

_MAX_BOXES = 100_000
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = 0x18538067
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")  # then 2 for a header, 3 for a body, 4 for a footer
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


@dataclass(frozen=True)
class Structure:
    """What the headers tell.

    Attributes:
        end: byte at which what the headers describe ends, may be above `size`; None where they do not tell.
        size: bytes in the file.
        tracks: of an MP4, by their number.
    """

    end: int | None
    size: int
    tracks: dict[int, Track] = field(default_factory=dict)

    @property
    def is_cut(self) -> bool | None:
        """Whether bytes are missing at the end; None where that cannot be told."""
        return None if self.end is None else self.end > self.size

    def track_of(self, stream: av.stream.Stream) -> Track:
        """What the boxes of a stream's track tell; nothing where there are none."""
        return self.tracks.get(stream.id, Track(stream.id))

    @property
    def goes_on(self) -> bool:
        """Whether something follows that the headers do not describe."""
        return self.end is not None and self.end < self.size


def structure_of(path: str, formats: set[str]) -> Structure:
    """Read the headers of a file in one of FFmpeg's formats.

    Raises:
        MediaError: the file cannot be opened.
    """
    file = PlainFile(path)
    try:
        size = file.seek(0, os.SEEK_END)
        if "mov" in formats:
            return _mov(file, size)
        if "avi" in formats:
            return Structure(_riff_end(file, size), size)
        if "matroska" in formats:
            return Structure(_segment_end(file, size), size)
        if "asf" in formats:
            return Structure(_asf_end(file, size), size)
        if "mxf" in formats:
            return Structure(_mxf_end(file), size)
        if formats & {"wav", "aiff", "w64", "caf"}:
            return Structure(end_of_sound(file, formats), size)
        if formats & READ_ON_BADLY.keys():
            return Structure(second_file(path, formats), size)
        return Structure(None, size)
    finally:
        file.close()


def _mov(file: PlainFile, size: int) -> Structure:
    tracks_by_number: dict[int, Track] = {}
    end, seen = 0, False
    for kind, body, stop in boxes(file, 0, size):
        if seen and kind in (b"ftyp", b"moov"):
            return Structure(end, size, tracks_by_number)  # an index of its own: another file
        if kind == b"moov":
            seen = True
            tracks_by_number = {track.number: track for track in tracks(file, body, min(stop, size))}
        end = stop
    # Padding of other kinds behind the last box belongs to nobody.
    return Structure(max(end, size) if seen else None, size, tracks_by_number)


def _riff_end(file: PlainFile, size: int) -> int | None:
    """OpenDML goes on in further RIFF chunks of the kind AVIX."""
    start = 0
    for number in range(_MAX_BOXES):
        head = at(file, start, 12)
        wanted = b"AVIX" if number else b"AVI "
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != wanted:
            return start or None
        length = int.from_bytes(head[4:8], "little")
        if length in (0, 0xFFFFFFFF):
            return None  # never filled in
        start += 8 + length + length % 2
    return None


def _segment_end(file: PlainFile, size: int) -> int | None:
    start = 0
    for _ in range(100):
        head = at(file, start, 12)
        if not head or not head[0]:
            return None
        id_length = 9 - head[0].bit_length()
        rest = head[id_length:]
        if id_length > 4 or not rest or not rest[0]:
            return None
        length_length = 9 - rest[0].bit_length()
        mask = (1 << 7 * length_length) - 1
        length = int.from_bytes(rest[:length_length], "big") & mask
        if length == mask:
            return None  # not known
        start += id_length + length_length + length
        if int.from_bytes(head[:id_length], "big") == _SEGMENT:
            follows = at(file, start, 4)
            return start if start >= size or follows == _EBML else max(start, size)
    return None


def _asf_end(file: PlainFile, size: int) -> int | None:
    start = 0
    for number in range(100):
        head = at(file, start, 24)
        if number and (len(head) < 24 or head[:16] == _ASF_HEADER):
            return start
        length = int.from_bytes(head[16:24], "little")
        if len(head) < 24 or length < 24:
            return None
        start += length
    return None


def _mxf_end(file: PlainFile) -> int | None:
    """The header says where the footer is; behind that nothing but an index of partitions belongs to the file."""
    pack = at(file, 0, 64)
    if not pack.startswith(_MXF_PARTITION):
        return None  # something stands before the header
    body, _ = _klv(pack, 0)
    start = int.from_bytes(pack[body + 24 : body + 32], "big")
    if not start or not at(file, start, 13).startswith(_MXF_PARTITION):
        return None  # the header was never filled in, or the file is cut off
    for number in range(_MAX_BOXES):
        head = at(file, start, 25)
        if len(head) < 17 or head[:4] != _MXF_PARTITION[:4] or (number and head[:14] == _MXF_PARTITION + b"\2"):
            return start
        _, start = _klv(head, start)
    return None


def _klv(head: bytes, start: int) -> tuple[int, int]:
    """A key of 16 bytes, a length, a value -> (where the value begins, where it ends), `head` read at `start`."""
    width = head[16] & 0x7F if head[16] & 0x80 else 0
    length = int.from_bytes(head[17 : 17 + width], "big") if width else head[16]
    return start + 17 + width, start + 17 + width + length
