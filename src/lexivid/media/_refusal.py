"""Why a file cannot be used, in one sentence, from its own first bytes."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol

import av


class BinarySource(Protocol):
    """What is read here of an open file."""

    def read(self, size: int = -1) -> bytes: ...

    def seek(self, offset: int, whence: int = 0) -> int: ...


def shown(path: str | os.PathLike[str]) -> str:
    """The path as it stands in a message: on one line, however odd the name."""
    text = os.fspath(path)
    return f"'{text}'" if text.isprintable() and len(text) <= 400 else ascii(text[:400])


def why_not(path: str | os.PathLike[str], file: BinarySource, error: Exception) -> str:
    """One sentence on why FFmpeg would not open the file, from the file's own first bytes."""
    name = shown(path)
    if isinstance(error, TimeoutError | av.error.ExitError) or "too long" in str(error):
        return f"{name} took too long to open; copy it to a faster disk"
    file.seek(0)
    head = file.read(4096)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    pointers = {
        b"#EXTM3U": "an HLS playlist",
        b"ffconcat": "a concat script",
        b"v=0": "an SDP description",
        b"[playlist]": "a playlist",
    }
    for start, what in pointers.items():
        if text.startswith(start):
            return f"{name} is {what}, which only points at other files; give the media file itself"
    if b"<MPD" in text:
        return f"{name} is a DASH manifest, which only points at other files; give the media file itself"
    if b"\0" not in head and not any(byte < 9 or 13 < byte < 32 for byte in head):
        with suppress(UnicodeDecodeError):
            head.decode() if len(head) < 4096 else head[:4092].decode(errors="ignore")
            return f"{name} is a text file, not a media file"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") and not _has_moov(file):
        return f"{name} is cut off before its index (no moov atom), so nothing can be read; copy or download it again"
    return f"{name} is not a media file of a known kind, or is damaged from its start ({_reason(error)})"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0][:200]


def _has_moov(file: BinarySource) -> bool:
    """Whether a complete MP4 index stands among the top-level boxes."""
    end = file.seek(0, os.SEEK_END)
    position = 0
    for _ in range(1000):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return False
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1 and len(header) == 16:
            size = int.from_bytes(header[8:16], "big")
        elif size == 0:
            size = end - position
        if kind == b"moov":
            return position + size <= end
        if size < 8:
            return False
        position += size
    return False
