"""Files that were joined byte by byte: where the second one begins, of formats that FFmpeg does not read on in.

In: the bytes of a file. Out: the place of the next file of the kind, if there is one.
"""

from __future__ import annotations

from lexivid.media._mp4 import Source, at

# Formats in which FFmpeg reads on into the next file, and loses packets, times or all of it there.
READ_ON_BADLY = {"nut": b"nut/multimedia container\0", "rm": b".RMF\0\0\0\x12\0"}
# What a file begins with, of formats that end where their reader stops.
_MARKS = {
    "flv": b"FLV\x01",
    "ogg": b"OggS\0\2",
    "ivf": b"DKIF",
    "apng": b"\x89PNG",
    "swf": b"FWS",
    "wtv": bytes.fromhex("b7d800203749da11a64e0007e95ead8d"),
    "tta": b"TTA1",
    "wv": b"wvpk",
    "ape": b"MAC ",
    "mpc": b"MP+\x07",
    "mpc8": b"MPCK",
    "tak": b"tBaK",
}
_W64 = b"riff\x2e\x91\xcf\x11"
_TAIL_BYTES = 1 << 16  # that may lie between the last packet and the next file: indexes, tags
_PIECE = 1 << 20
_MAX_CHUNKS = 100_000


def find(file: Source, mark: bytes, begin: int, end: int | None = None) -> int | None:
    """Where a mark stands first between two places."""
    place, tail = begin, b""
    file.seek(begin)
    while end is None or place < end:
        piece = file.read(_PIECE if end is None else min(_PIECE, end - place))
        if not piece:
            return None
        index = (tail + piece).find(mark)
        if index >= 0:
            return place - len(tail) + index
        tail = (tail + piece)[-len(mark) + 1 :]
        place += len(piece)
    return None


def after_last_packet(file: Source, formats: set[str], last_byte: int) -> int | None:
    """Where another file of the kind begins behind the byte at which the last packet ends."""
    name = next((name for name in _MARKS if name in formats), None)
    if name is None or not last_byte:
        return None
    # The packets of WTV lie on pages whose places are not known.
    return find(file, _MARKS[name], last_byte, None if name == "wtv" else last_byte + _TAIL_BYTES)


def end_of_sound(file: Source, formats: set[str]) -> int | None:
    """Where the file ends that a sound file's header describes, if another of the kind follows."""
    head = at(file, 0, 24)
    if formats & {"wav", "aiff"}:
        end = 8 + int.from_bytes(head[4:8], "big" if "aiff" in formats else "little")
        return next((place for place in (end, end + end % 2) if at(file, place, 4) == head[:4]), None)
    if "w64" in formats:
        end = int.from_bytes(head[16:24], "little")
        return next((place for place in (end, end + -end % 8) if at(file, place, 8) == _W64), None)
    start = 8
    for _ in range(_MAX_CHUNKS if "caf" in formats else 0):
        head = at(file, start, 12)
        if len(head) < 12 or head[:4] == b"caff":
            return start if head[:4] == b"caff" else None
        length = int.from_bytes(head[4:12], "big", signed=True)
        if length < 0:
            return None
        start += 12 + length
    return None
