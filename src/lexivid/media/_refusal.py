"""Why a file cannot be used, in one sentence: what it is, by its own first bytes, and what to do with it."""

from __future__ import annotations

import os
import re
import zlib
from typing import Protocol

import av

from lexivid.media._signatures import HEAD_BYTES, is_text


class BinarySource(Protocol):
    """What is read here of an open file."""

    def read(self, size: int = -1) -> bytes: ...

    def seek(self, offset: int, whence: int = 0) -> int: ...


_GIVE_MEDIA = "give the media file itself"
_UNPACK = "unpack it, and give the media files in it"
_RENDER = "export the film from the program that made it, and give that"
_AS_FILM = "Lexivid classifies videos: give the video, or make a film of it (ffmpeg -loop 1 -i FILE -t 1 OUT.mp4)"

_POINTERS = {
    b"#EXTM3U": "an HLS playlist",
    b"ffconcat": "a concat script",
    b"v=0": "an SDP description",
    b"[playlist]": "a playlist",
    b"# VobSub index": "an index of subtitles",
}
# How a file begins -> what it is. Still pictures:
_STILLS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"II\x2a\0\x10\0\0\0CR": "Canon's raw CR2",
    b"II\x2a\0": "TIFF, or a camera's raw file",
    b"MM\0\x2a": "TIFF, or a camera's raw file",
    b"II\x2b\0": "BigTIFF",
    b"MM\0\x2b": "BigTIFF",
    b"IIRO": "Olympus' raw ORF",
    b"IIRS": "Olympus' raw ORF",
    b"IIU\0": "Panasonic's raw RW2",
    b"FUJIFILMCCD-RAW": "Fujifilm's raw RAF",
    b"FOVb": "Sigma's raw X3F",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"gimp xcf": "GIMP",
    b"qoif": "QOI",
    b"DDS ": "DDS",
    b"AT&TFORM": "DjVu",
    b"SDPX": "DPX",
    b"XPDS": "DPX",
}
# Others, each with what to do.
_OTHERS = {
    b"%PDF-": ("a PDF document", "Lexivid classifies videos"),
    b"%!PS": ("a PostScript document", "Lexivid classifies videos"),
    b"{\\rtf": ("a text document (RTF)", "Lexivid classifies videos"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Office document", "give the videos in it"),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"BZh": ("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ\0": ("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", _UNPACK),
    b"xar!": ("a macOS archive", _UNPACK),
    b"MSCF": ("a cabinet archive", _UNPACK),
    b"Salted__": ("an encrypted file (OpenSSL)", "decrypt it first"),
    b"-----BEGIN PGP": ("an encrypted file (PGP)", "decrypt it first"),
    b"age-encryption.org": ("an encrypted file (age)", "decrypt it first"),
    b"FWS": ("a Flash program (SWF)", "record it as a video first"),
    b"CWS": ("a Flash program (SWF)", "record it as a video first"),
    b"ZWS": ("a Flash program (SWF)", "record it as a video first"),
    b"BLENDER": ("a Blender project", _RENDER),
    b"DVDVIDEO": ("an index of a DVD (IFO)", "give the VOB files beside it"),
    b"INDX0": ("an index of a Blu-ray disc", "give the .m2ts files under BDMV/STREAM"),
    b"MOBJ0": ("an index of a Blu-ray disc", "give the .m2ts files under BDMV/STREAM"),
    b"MPLS0": ("a playlist of a Blu-ray disc", "give the .m2ts files under BDMV/STREAM"),
    b"HDMV0": ("an index of a Blu-ray disc", "give the .m2ts files under BDMV/STREAM"),
    b"MThd": ("a MIDI file, notes and no sound", "record it first"),
    b"\x7fELF": ("a program", "it is no media file"),
    b"SQLite format 3\0": ("a database (SQLite)", "it is no media file"),
    b"d8:announce": ("a torrent, which only says where a file can be had", "download it first"),
    b"d7:comment": ("a torrent, which only says where a file can be had", "download it first"),
    b"\0\0\0\x01Bud1": ("a macOS folder's settings (.DS_Store)", "it is no media file"),
    b"\0\x05\x16\x07": ("what macOS keeps beside a file (AppleDouble, ._NAME)", "give the file without ._"),
    b"\0\x05\x16\0": ("what macOS keeps of a file (AppleSingle)", _GIVE_MEDIA),
    b"L\0\0\0\x01\x14\x02\0": ("a Windows shortcut", "give the file that it points at"),
    b"\x93NUMPY": ("a NumPy array", "it is no media file"),
    b"\x89HDF\r\n\x1a\n": ("a data file (HDF5)", "it is no media file"),
}
_RAW_FILM = {b"RED1": "REDCODE", b"RED2": "REDCODE", b"ARRI": "ARRIRAW"}


def shown(path: str | os.PathLike[str]) -> str:
    """The path as it stands in a message: on one line, however odd the name."""
    text = os.fspath(path)
    return f"'{text}'" if text.isprintable() and len(text) <= 400 else ascii(text[:400])


def is_still(path: str | os.PathLike[str], kind: str) -> str:
    """The sentence that refuses a still picture: `kind` is its format."""
    return f"{shown(path)} is a still picture ({kind}); {_AS_FILM}"


def is_locked(path: str | os.PathLike[str]) -> str:
    """The sentence that refuses a file whose pictures are encrypted."""
    return f"{shown(path)} is encrypted (DRM) and needs a key to be seen; give a copy without protection"


def has_no_frames(path: str | os.PathLike[str], codec: str) -> str:
    """The sentence that refuses a file which declares video and holds not one packet of it."""
    return f"{shown(path)} declares video ({codec}) and holds no frame of it (an empty recording); give another file"


def why_not(path: str | os.PathLike[str], file: BinarySource, error: Exception) -> str:
    """One sentence on why FFmpeg would not open the file, from the file's own first bytes."""
    name = shown(path)
    if isinstance(error, TimeoutError | av.error.ExitError) or "too long" in str(error):
        return f"{name} took too long to open; copy it to a faster disk"
    file.seek(0)
    head = file.read(HEAD_BYTES)
    kind_of_file = what_is(head)
    if kind_of_file:
        return f"{name} is {kind_of_file}"
    if head[4:8] in (b"styp", b"moof", b"sidx"):
        return (
            f"{name} is a segment of a stream (DASH or HLS) without the index that comes first; join them: "
            "cat INIT SEGMENT... > OUT.mp4"
        )
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") and not _has_moov(file):
        return f"{name} is cut off before its index (no moov atom), so nothing can be read; copy or download it again"
    if isinstance(error, EOFError | av.error.EOFError):
        return f"{name} ends behind its header, without pictures or sound (an empty recording, or cut off)"
    if not head.strip(b"\0"):
        return (
            f"{name} is not a media file of a known kind: it begins with {len(head):,} zeros, as a download does that "
            "was not finished; download it again"
        )
    return f"{name} is not a media file of a known kind, or is damaged from its start ({_reason(error)})"


def what_is(head: bytes) -> str | None:
    """What a file is that is no video, and what to do, by its first bytes: the end of a sentence. None: unknown."""
    if is_text(head):
        return _what_text(head)
    for start, name in _STILLS.items():
        if head.startswith(start):
            return f"a still picture ({name}); {_AS_FILM}"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if head[12:16] == b"VP8X" and head[20:21] and head[20] & 2:
            return (
                "an animated WebP, which FFmpeg cannot decode; convert it first, for example with ImageMagick: "
                "magick FILE.webp OUT.gif"
            )
        return f"a still picture (WebP); {_AS_FILM}"
    if head[:2] == b"BM" and head[6:10] == bytes(4) and len(head) > 18 and 12 <= head[14] <= 124:
        return f"a still picture (BMP); {_AS_FILM}"
    if head[:4] == b"\0\0\x01\0" and head[4:6] == bytes((head[4], 0)) and 0 < head[4] <= 64 and head[9:10] == b"\0":
        return f"a still picture (an icon, ICO); {_AS_FILM}"
    if head[:1] == b"\x0a" and head[1:3] in (b"\0\x01", b"\2\x01", b"\3\x01", b"\4\x01", b"\5\x01"):
        return f"a still picture (PCX); {_AS_FILM}"
    if head[:1] == b"P" and re.match(rb"P[1-7]\s", head):
        return f"a still picture (PNM); {_AS_FILM}"
    if head[4:8] == b"ftyp" and head[8:12] in (b"jxl ", b"jp2 ", b"jpx ", b"crx "):
        return f"a still picture ({head[8:12].decode().strip()}); {_AS_FILM}"
    if head[:4] == b"PK\x03\x04" or head[:4] == b"PK\x05\x06":
        return _what_zip(head)
    if head[:2] == b"\x1f\x8b":
        return _what_gzip(head)
    if head[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    if head[4:8] in _RAW_FILM:
        return f"a camera's raw film ({_RAW_FILM[head[4:8]]}), which FFmpeg cannot read; {_RENDER}"
    for start, (name, remedy) in _OTHERS.items():
        if head.startswith(start):
            return f"{name}; {remedy}"
    if head[:2] == b"MZ" and b"PE\0\0" in head:
        return "a program for Windows, whatever its name says; do not open it"
    if head[:2] == b"PG" and head[10:11] in (b"\x14", b"\x15", b"\x16", b"\x17"):
        return "a file of subtitles (Blu-ray SUP); give the video that they belong to"
    if head[:4] == b"RIFX" and head[8:12] == b"Egg!":
        return f"a project file (After Effects), which holds no film; {_RENDER}"
    return None


def _what_text(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, what in _POINTERS.items():
        if text.startswith(start):
            return f"{what}, which only points at other files; {_GIVE_MEDIA}"
    if b"<MPD" in text:
        return f"a DASH manifest, which only points at other files; {_GIVE_MEDIA}"
    if text.startswith(b"version https://git-lfs"):
        return "a text file that stands for the real one (Git LFS); fetch it: git lfs pull"
    lower = text[:1000].lower()
    if lower.startswith((b"<!doctype html", b"<html")):
        return "a text file, not a media file: a web page, as a failed download leaves it; download the video again"
    if b"<svg" in lower:
        return f"a still picture (SVG); {_AS_FILM}"
    for mark, what in (
        (b"<fcpxml", "Final Cut Pro"),
        (b"<xmeml", "Final Cut Pro or Premiere Pro"),
        (b"<premieredata", "Premiere Pro"),
        (b"<mlt", "Kdenlive or Shotcut"),
        (b'"opentimelineio', "OpenTimelineIO"),
        (b"otio_schema", "OpenTimelineIO"),
    ):
        if mark in lower:
            return f"a project file ({what}), which holds no film; {_RENDER}"
    if lower.startswith(b"title:") and b"fcm:" in lower:
        return f"an edit list (EDL), which holds no film; {_RENDER}"
    if (
        text.startswith((b"WEBVTT", b"[Script Info]"))
        or re.match(rb"\d+\s*\r?\n\d+:\d\d:\d\d[,.]\d+ --> ", text)
        or re.match(rb"\{\d+\}\{\d+\}", text)
        or b"http://www.w3.org/ns/ttml" in lower
        or lower.startswith(b"<sami>")
    ):
        return "a file of subtitles; give the video that they belong to"
    if re.match(rb"P[1-6]\s+(#|\d)", text):
        return f"a still picture (PNM); {_AS_FILM}"
    for start, (name, remedy) in _OTHERS.items():
        if len(start) > 3 and text.startswith(start):
            return f"{name}; {remedy}"
    if text.startswith(b"#?RADIANCE"):
        return f"a still picture (Radiance HDR); {_AS_FILM}"
    return "a text file, not a media file"


def _what_zip(head: bytes) -> str:
    for mark, what in (
        (b"word/", "a Word document"),
        (b"ppt/", "a PowerPoint presentation"),
        (b"xl/", "an Excel table"),
        (b"application/vnd.oasis.opendocument", "an OpenDocument file"),
        (b"application/epub", "an EPUB book"),
        (b"AndroidManifest.xml", "an Android program"),
    ):
        if mark in head:
            return f"{what}; give the videos in it (it is a ZIP archive)"
    if b"[Content_Types].xml" in head:
        return "an Office document; give the videos in it (it is a ZIP archive)"
    if head[30:].startswith(b"project.xml"):
        return f"a project file (DaVinci Resolve), which holds no film; {_RENDER}"
    return f"a ZIP archive; {_UNPACK}"


def _what_gzip(head: bytes) -> str:
    try:
        start = zlib.decompressobj(wbits=31).decompress(head, 4096)
    except zlib.error:
        start = b""
    if b"PremiereData" in start:
        return f"a project file (Premiere Pro), which holds no film; {_RENDER}"
    if b"<Ableton" in start:
        return f"a project file (Ableton Live), which holds no film; {_RENDER}"
    return f"a gzip archive; {_UNPACK}"


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
