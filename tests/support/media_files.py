"""Files for the tests of decoding, made by ffmpeg, and what ffmpeg itself reads from them."""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from lexivid.errors import MediaError
from lexivid.media.decode import read_views
from lexivid.media.views import Views

# The ffmpeg of the tests is that of a Python package (one version on every machine) and never one that is installed.
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg(*args: str | Path) -> None:
    """Run ffmpeg, quietly, overwriting its output."""
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", "-threads", "2", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def source(*, size: str = "128x96", rate: str = "25", seconds: float = 2.0) -> list[str]:
    """Arguments for a moving test picture: each frame differs from its neighbours."""
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]


def make_video(path: Path, *codec: str, size: str = "128x96", rate: str = "25", seconds: float = 2.0) -> Path:
    """A file of the test picture through an encoder, such as make_video(p, "-c:v", "libx264")."""
    ffmpeg(*source(size=size, rate=rate, seconds=seconds), *codec, path)
    return path


def reference_frames(path: Path, *options: str) -> np.ndarray:
    """All frames of the best video stream as ffmpeg decodes, turns and converts them, (N, H, W, 3) uint8."""
    command = [FFMPEG, "-v", "error", "-nostdin", "-i", str(path), *options, "-fps_mode", "passthrough"]
    command += ["-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"]
    raw = subprocess.run(command, capture_output=True, timeout=120, check=False).stdout
    frames, at = [], 0
    while at < len(raw):
        magic, size, depth = raw[at:].split(b"\n", 3)[:3]
        assert magic == b"P6"
        assert depth == b"255"
        width, height = map(int, size.split())
        at += len(magic) + len(size) + len(depth) + 3
        frames.append(np.frombuffer(raw, np.uint8, width * height * 3, at).reshape(height, width, 3))
        at += width * height * 3
    return np.stack(frames)


def reference_times_s(path: Path, *options: str) -> np.ndarray:
    """When ffmpeg shows each frame of the best video stream, (N,) in seconds from the first."""
    command = [FFMPEG, "-v", "info", "-nostdin", "-nostats", "-copyts", "-i", str(path), *options]
    command += ["-vf", "showinfo=checksum=0", "-fps_mode", "passthrough", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr
    times = np.array([float(time) for time in re.findall(r"showinfo.*? pts_time:(\S+)", said)])
    return times - times[0]


def reference_waveform(path: Path, *options: str, sample_rate_hz: int = 16000) -> np.ndarray:
    """The sound as `ffmpeg -ac 1 -ar` writes it to 16-bit samples, (S,) float32."""
    command = [FFMPEG, "-v", "error", "-nostdin", "-i", str(path), "-vn", *options, "-ac", "1"]
    command += ["-ar", str(sample_rate_hz)]
    raw = subprocess.run([*command, "-f", "s16le", "-"], capture_output=True, timeout=120, check=True).stdout
    return np.frombuffer(raw, np.int16).astype(np.float32) / 32768


def why(path: object) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(MediaError) as error:
        read_views(path, Views())  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


# ---- files that lie, byte by byte


def png(width: int, height: int, *, animated: bool = False) -> bytes:
    """A grey PNG that declares this size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    if animated:
        start += chunk(b"acTL", struct.pack(">II", 1, 0))
        start += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 25, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    """A GIF of one picture of this size, with next to no data."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"


def mp3_with_cover(path: Path, picture: bytes) -> Path:
    """A second of sound with a cover picture (PNG)."""
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-id3v2_version", "0", path)
    body = b"\0image/png\0\3\0" + picture
    frame = b"APIC" + struct.pack(">IH", len(body), 0) + body
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + size + frame + path.read_bytes())
    return path


def h264(width: int, height: int, *, num_pictures: int = 21) -> bytes:
    """A raw H.264 stream that declares this size (multiples of 16) and starts a key frame of it."""

    def number(value: int) -> str:  # Exp-Golomb
        digits = format(value + 1, "b")
        return "0" * (len(digits) - 1) + digits

    def unit(kind: int, bits: str) -> bytes:
        bits += "1"
        bits += "0" * (-len(bits) % 8)
        raw = bytes([kind]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
        for zeros in (b"\0\0\0", b"\0\0\1", b"\0\0\2", b"\0\0\3"):
            raw = raw.replace(zeros, b"\0\0\3" + zeros[2:])
        return b"\0\0\0\1" + raw

    sps = format(66, "08b") + "0" * 8 + format(51, "08b") + number(0) + number(0) + number(2) + number(1) + "0"
    sps += number(width // 16 - 1) + number(height // 16 - 1) + "1" + "1" + "0" + "0"
    pps = number(0) + number(0) + "0" + "0" + number(0) + number(0) + number(0) + "0" + "00" + number(0) * 3 + "000"
    slice_ = number(0) + number(7) + number(0) + "0000" + number(0) + "00" + number(0)
    macroblock = number(25) + "1" * 8  # I_PCM, cut off
    picture = unit(0x65, slice_ + macroblock)
    return (unit(0x67, sps) + unit(0x68, pps) + picture) * num_pictures


def in_mpegts(stream: bytes) -> bytes:
    """An MPEG transport stream that carries raw H.264."""

    def packet(pid: int, start: bool, count: int, body: bytes) -> bytes:
        head = bytes([0x47, (0x40 if start else 0) | pid >> 8, pid & 255])
        room = 184 - len(body)
        if room == 0:
            return head + bytes([0x10 | count & 15]) + body
        stuffing = bytes([room - 1]) + (b"\0" + b"\xff" * (room - 2) if room > 1 else b"")
        return head + bytes([0x30 | count & 15]) + stuffing + body

    def table(body: bytes) -> bytes:
        crc = 0xFFFFFFFF
        for byte in body:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
            crc &= 0xFFFFFFFF
        full = b"\0" + body + struct.pack(">I", crc)
        return full + b"\xff" * (184 - len(full))

    def stamp(flag: int, at: int) -> bytes:
        return struct.pack(">BHH", flag << 4 | at >> 29 & 14 | 1, at >> 14 & 0xFFFE | 1, at << 1 & 0xFFFE | 1)

    pat = table(b"\0\xb0\x0d\0\1\xc1\0\0\0\1\xf0\0")
    pmt = table(b"\2\xb0\x12\0\1\xc1\0\0\xe1\0\xf0\0\x1b\xe1\0\xf0\0")
    out = packet(0, True, 0, pat) + packet(0x1000, True, 0, pmt)
    count = 0
    for at in range(5):
        pes = b"\0\0\1\xe0\0\0\x80\x80\5" + stamp(2, 90000 + 3600 * at) + stream
        for place in range(0, len(pes), 184):
            out += packet(0x100, place == 0, count, pes[place : place + 184])
            count += 1
    return out


def with_external_data(path: Path, target: Path) -> Path:
    """Turn a QuickTime file (index at its end) into one that says its samples are in another file."""
    data = bytearray(path.read_bytes())
    full = str(target).encode()
    name = target.name.encode()
    # size and version, volume name (28), file name (64), relative levels and types, then tagged paths
    record = b"\0" * 10 + bytes([0]) + b"\0" * 27 + b"\0" * 12 + bytes([len(name)]) + name.ljust(63, b"\0")
    record += b"\0" * 16 + struct.pack(">hh", 1, 1) + b"\0" * 16
    record += struct.pack(">hH", 2, len(full)) + full + (b"\0" if len(full) % 2 else b"") + struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    at = data.index(b"dref") - 4
    old = int.from_bytes(data[at : at + 4], "big")
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    grown = len(new) - old
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        box = data.rindex(kind, 0, at) - 4
        data[box : box + 4] = (int.from_bytes(data[box : box + 4], "big") + grown).to_bytes(4, "big")
    data[at : at + old] = new
    path.write_bytes(bytes(data))
    return path
