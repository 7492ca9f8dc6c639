"""What a file is by its first bytes: pictures that move, sound, or neither. Nothing is decoded.

Only formats that `_container.py` lets FFmpeg read count. In doubt the answer is neither: a folder holds more files that
are no media than media without a known ending.
"""

from __future__ import annotations

import itertools
from typing import Literal

Kind = Literal["video", "sound"]
HEAD_BYTES = 4096  # what `kind_of_head` looks at

_PACKET_SIZES = (188, 192, 204)  # of transport streams: plain, with a time stamp (AVCHD, Blu-ray), with check bytes
_PACKETS = 5
# Brands of ISO files. Stills may hold a sequence beside them, and then say so by a second brand.
_STILLS = frozenset({b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"jp2 ", b"jpx ", b"jpm ", b"crx "})
_SEQUENCES = frozenset({b"avis", b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"})
_SOUND_BRANDS = frozenset({b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "})
_ATOMS = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_PNG = b"\x89PNG\r\n\x1a\n"
# ASF: the media type of a stream.
_ASF_VIDEO = bytes.fromhex("c0ef19bc4d5bcf11a8fd00805f5c442b")
_ASF_SOUND = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_OGG_VIDEO = (b"\x80theora", b"\x01video\0\0\0", b"OVP80", b"BBCD\0")

_VIDEO_STARTS = (
    b"GIF87a",
    b"GIF89a",
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02",  # MXF: partition pack
    b"DKIF",  # IVF
    b"\x12\0\x0a",  # AV1: temporal delimiter, sequence header
    b"YUV4MPEG2",
    b"BBCD\0",  # Dirac
    b"SMK2",
    b"SMK4",
    b"BIKb",
    b"BIKf",
    b"BIKg",
    b"BIKh",
    b"BIKi",
    b"BIKk",
    b"KB2",
    b"\x84\x10\xff\xff\xff\xff",  # RoQ
    b"FLV\x01",
    b"nut/multimedia container\0",
    b".RMF\0",
    b"\xb7\xd8\0\x20\x37\x49\xda\x11\xa6\x4e\0\x07\xe9\x5e\xad\x8d",  # WTV
    b"NSVf",
    b"NSVs",
    b"NuppelVideo",
    b"MythTVVideo",
    b"vividas",
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG-1 and 2: sequence header
    b"\0\0\x01\xb0",  # MPEG-4 part 2: visual object sequence
    b"\0\0\x01\x0f",  # VC-1: sequence header
)
# What follows a start code in raw H.264 (parameter sets, delimiters) and HEVC (video parameter sets, delimiters).
_NAL_STARTS = (b"\x67", b"\x27", b"\x47", b"\x09\x10", b"\x09\x30", b"\x09\x50", b"\x09\xf0", b"\x40\x01", b"\x46\x01")
_SOUND_STARTS = (
    b"ID3",
    b"fLaC",
    b"caff\0",
    b"MAC ",
    b"#!AMR",
    b"wvpk",
    b"TTA1",
    b".snd\0",
    b"Creative Voice File\x1a",
    b"MPCK",
    b"MP+",
    b"tBaK",
    b"DSD \x1c",
    b"EA3\x03",
    b".ra\xfd",
    b"riff\x2e\x91\xcf\x11",  # Wave64
    b"\x7f\xfe\x80\x01",  # DTS
    b"DTSHDHDR",
)


def kind_of_head(head: bytes) -> Kind | None:
    """What the first `HEAD_BYTES` of a file (all, of a shorter one) say that it is; None: neither."""
    if head.startswith(_VIDEO_STARTS):
        return "video"
    if head.startswith(_SOUND_STARTS):
        return "sound"
    kind = _riff(head) or _iso(head)
    if kind:
        return kind
    if head.startswith(b"\x1a\x45\xdf\xa3"):  # EBML: Matroska and WebM name their codecs V_... and A_...
        return "sound" if b"A_" in head and b"V_" not in head else "video"
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "sound" if _ASF_SOUND in head and _ASF_VIDEO not in head else "video"
    if head.startswith(b"OggS\0"):
        return "video" if any(mark in head for mark in _OGG_VIDEO) else "sound"
    if head.startswith(_PNG):
        animated = head.find(b"acTL")
        return "video" if animated > 0 and not 0 < head.find(b"IDAT") < animated else None
    code = head.lstrip(b"\0")[:1] == b"\x01" and head.index(b"\x01")
    if code in (2, 3) and head[code + 1 :].startswith(_NAL_STARTS):
        return "video"
    if head[:6] == b"\0\0\0\0\x01\xbc" and head[10:16] == b"\0\0\0\0\xe1\xe2":
        return "video"  # GXF
    if len(head) >= 4 and head[0] == 0x1F and head[1] & 0x7F == 7 and head[2] == 0 and head[3] & 0x7F == 0x3F:
        return "video"  # DV
    if head[4:6] in (b"\x11\xaf", b"\x12\xaf") and head[14:16] == b"\3\0":
        return "video"  # FLIC, 8 bits a pixel
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return "sound"
    return "video" if _is_transport_stream(head) else None


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8 text: no control characters but white space."""
    if any(byte < 9 or 13 < byte < 32 for byte in head):
        return False
    try:
        head.decode() if len(head) < HEAD_BYTES else head[:-4].decode(errors="ignore")
    except UnicodeDecodeError:
        return False
    return True


def _riff(head: bytes) -> Kind | None:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        what = head[8:12]
        if what in (b"AVI ", b"AVIX", b"AVI\x19", b"AMV ", b"CDXA"):
            return "video"
        if what == b"WAVE":
            return "sound"
    return None


def _iso(head: bytes) -> Kind | None:
    """MP4, QuickTime and their kin."""
    if head[4:8] == b"jP  ":
        return "video" if b"ftypmjp2" in head[:64] else None
    if head[4:8] == b"ftyp":
        size = min(int.from_bytes(head[:4], "big"), 256)
        brand = head[8:12]
        brands = {brand, *(head[at : at + 4] for at in range(16, size, 4))}
        if brand in _STILLS and not brands & _SEQUENCES:
            return None
        return "sound" if brand in _SOUND_BRANDS else "video"
    size = int.from_bytes(head[:4], "big")
    return "video" if head[4:8] in _ATOMS and (size in (0, 1) or size >= 8) else None


def _is_transport_stream(head: bytes) -> bool:
    """Several packets in a row begin with the sync byte, wherever the first one begins."""
    for size in _PACKET_SIZES:
        for start in range(min(size, len(head))):
            syncs = head[start::size]
            if len(syncs) >= _PACKETS and all(byte == 0x47 for byte in itertools.islice(syncs, 20)):
                # Text may repeat a letter at a distance; it has no control characters.
                return not is_text(head)
    return False
