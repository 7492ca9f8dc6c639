"""What is no video is named for what it is, with what to do, and never called damaged."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from media_files import ffmpeg, make_video, why
from PIL import Image

from lexivid.errors import MediaError
from lexivid.media.audio import read_waveform
from lexivid.media.decode import probe

X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]


def picture(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(out, kind, **options)
    return out.getvalue()


def animated_webp() -> bytes:
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    out = io.BytesIO()
    pictures[0].save(out, "WEBP", save_all=True, append_images=pictures[1:], duration=500)
    return out.getvalue()


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return out.getvalue()


STILLS = {
    "PNG": ("a.png", picture("PNG")),
    "JPEG": ("a.jpg", picture("JPEG")),
    "JPEG of a camera": ("a.jpg", picture("JPEG", exif=b"Exif\0\0II\x2a\0\x08\0\0\0\0\0\0\0\0\0")),
    "WebP": ("a.webp", picture("WEBP")),
    "TIFF": ("a.tif", picture("TIFF")),
    "BMP": ("a.bmp", picture("BMP")),
    "ICO": ("a.ico", picture("ICO")),
    "PCX": ("a.pcx", picture("PCX")),
    "PNM": ("a.ppm", picture("PPM")),
    "JPEG 2000": ("a.jp2", picture("JPEG2000")),
    "DDS": ("a.dds", picture("DDS")),
    "Photoshop": ("a.psd", b"8BPS\0\1" + bytes(100)),
    "GIMP": ("a.xcf", b"gimp xcf v011\0" + bytes(100)),
    "JPEG XL": ("a.jxl", b"\xff\x0a\xfa\x7f\x01\x90" + bytes(100)),
    "CR2": ("a.cr2", b"II\x2a\0\x10\0\0\0CR\2\0" + bytes(100)),
    "CR3": ("a.cr3", struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"crx ", 1, b"crx ", b"isom") + bytes(100)),
    "camera's raw": ("a.nef", b"MM\0\x2a\0\0\0\x08" + bytes(100)),
    "RAF": ("a.raf", b"FUJIFILMCCD-RAW 0201" + bytes(100)),
    "SVG": ("a.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
}


@pytest.mark.parametrize("kind", STILLS)
def test_a_still_picture(kind: str, tmp_path: Path) -> None:
    name, data = STILLS[kind]
    (tmp_path / name).write_bytes(data)
    message = why(tmp_path / name)
    assert "is a still picture (" in message
    assert kind.removesuffix(" of a camera").lower() in message.lower()
    assert "Lexivid classifies videos" in message
    assert "damaged" not in message
    # The ending is no evidence.
    (tmp_path / "b.mp4").write_bytes(data)
    assert why(tmp_path / "b.mp4") == message.replace(name, "b.mp4")


def test_animated_webp(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(animated_webp())
    assert "is an animated WebP, which FFmpeg cannot decode; convert it first" in why(tmp_path / "a.webp")


OTHERS = {
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(200), "is a PDF document"),
    "PDF with a photograph": (b"%PDF-1.4\n1 0 obj\n" + picture("JPEG") + b"\nendstream", "is a PDF document"),
    "ZIP": (archive("holiday/a.mp4"), "is a ZIP archive; unpack it"),
    "Word": (archive("[Content_Types].xml", "word/document.xml"), "is a Word document"),
    "PowerPoint": (archive("[Content_Types].xml", "ppt/presentation.xml"), "is a PowerPoint presentation"),
    "old Office": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is an Office document"),
    "RAR": (b"Rar!\x1a\x07\1\0" + bytes(100), "is a RAR archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100), "is a 7z archive"),
    "gzip": (gzip.compress(bytes(1000)), "is a gzip archive"),
    "tar": (bytes(257) + b"ustar\x0000" + bytes(300), "is a tar archive"),
    "Premiere": (
        gzip.compress(b'<?xml version="1.0"?>\n<PremiereData Version="3">' + bytes(5000)),
        "is a project file (Premiere Pro), which holds no film; export",
    ),
    "After Effects": (b"RIFX\0\0\1\0Egg!" + bytes(100), "is a project file (After Effects)"),
    "Final Cut": (b'<?xml version="1.0"?>\n<!DOCTYPE fcpxml>\n<fcpxml version="1.9">', "is a project file (Final Cut"),
    "Kdenlive": (b'<?xml version="1.0"?>\n<mlt LC_NUMERIC="C">', "is a project file (Kdenlive or Shotcut)"),
    "Resolve": (archive("project.xml"), "is a project file (DaVinci Resolve)"),
    "Blender": (b"BLENDER-v300RENDH" + bytes(100), "is a Blender project"),
    "SRT": (b"\xef\xbb\xbf1\r\n00:00:01,000 --> 00:00:02,000\r\nHello\r\n", "is a file of subtitles"),
    "VTT": (b"WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n", "is a file of subtitles"),
    "ASS": (b"[Script Info]\nTitle: x\n", "is a file of subtitles"),
    "MicroDVD": (b"{0}{25}Hello\n", "is a file of subtitles"),
    "web page": (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "a web page, as a failed download leaves it"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    "text": ("Ein Text über Füße.\n".encode(), "is a text file, not a media file"),
    "encrypted": (b"Salted__" + np.random.default_rng(1).bytes(300), "is an encrypted file (OpenSSL)"),
    "DVD index": (b"DVDVIDEO-VTS" + bytes(300), "is an index of a DVD (IFO); give the VOB files"),
    "Blu-ray": (b"MPLS0200" + bytes(300), "is a playlist of a Blu-ray disc"),
    "Flash": (b"CWS\x0a" + np.random.default_rng(2).bytes(300), "is a Flash program (SWF)"),
    "torrent": (b"d8:announce30:udp://tracker.example/announce" + b"\x80\0\1", "is a torrent"),
    "AppleDouble": (b"\0\x05\x16\x07\0\2\0\0Mac OS X        " + bytes(100), "give the file without ._"),
    "shortcut": (b"L\0\0\0\x01\x14\x02\0" + bytes(100), "is a Windows shortcut"),
    "REDCODE": (b"\0\0\0\x88RED2" + bytes(200), "is a camera's raw film (REDCODE)"),
    "segment": (
        struct.pack(">I4s4sI", 16, b"styp", b"msdh", 0) + struct.pack(">I4s", 8, b"moof"),
        "is a segment of a stream (DASH or HLS)",
    ),
    "zeros": (bytes(10_000), "zeros, as a download does that was not finished"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files(kind: str, tmp_path: Path) -> None:
    data, reason = OTHERS[kind]
    (tmp_path / "a.mp4").write_bytes(data)
    message = why(tmp_path / "a.mp4")
    assert reason in message
    assert "damaged" not in message
    for read in (probe, read_waveform):
        with pytest.raises(MediaError) as error:
            read(tmp_path / "a.mp4")
        assert str(error.value) == message


def test_noise_is_not_taken_for_anything(tmp_path: Path) -> None:
    for seed in range(30):
        (tmp_path / "a.mp4").write_bytes(np.random.default_rng(seed).bytes(3000))
        assert "is not a media file of a known kind" in why(tmp_path / "a.mp4")


def test_tiles_are_refused_by_name(tmp_path: Path) -> None:
    """An AVIF whose picture is a grid of tiles: each item of FFmpeg's is one tile."""
    tile = tmp_path / "tile.avif"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", "1", "-c:v", "libaom-av1", "-cpu-used", "8", tile)
    (tmp_path / "grid.avif").write_bytes(as_grid(tile.read_bytes()))
    message = why(tmp_path / "grid.avif")
    assert "is a still picture (AVIF, made of tiles); Lexivid classifies videos" in message


def as_grid(data: bytes) -> bytes:
    """An AVIF of one item -> one whose primary item is a grid of 2 x 1 of it."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I4s", 8 + len(body), kind) + body

    def child(kind: bytes, at: int = 0) -> tuple[int, int]:
        place = data.index(kind, at) - 4
        return place, struct.unpack(">I", data[place : place + 4])[0]

    at, size = child(b"mdat")
    coded = data[at + 8 : at + size]
    at, size = child(b"av1C")
    config = data[at : at + size]
    full = bytes(4)
    items = ((1, b"grid"), (2, b"av01"), (3, b"av01"))
    infe = [box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", item, 0, kind), b"\0") for item, kind in items]
    ispe = [box(b"ispe", full, struct.pack(">II", *size)) for size in ((128, 64), (64, 64))]
    ipma = struct.pack(">I", 3) + b"".join(
        struct.pack(">HB", item, len(places)) + bytes(places) for item, places in ((1, [1]), (2, [2, 3]), (3, [2, 3]))
    )
    grid = bytes((0, 0, 0, 1)) + struct.pack(">HH", 128, 64)  # 1 row, 2 columns

    def meta(start: int) -> bytes:
        places = ((1, start, len(grid)), (2, start + len(grid), len(coded)), (3, start + len(grid), len(coded)))
        iloc = b"\x44\0" + struct.pack(">H", 3)
        iloc += b"".join(struct.pack(">HHHII", item, 0, 1, offset, length) for item, offset, length in places)
        return box(
            b"meta",
            full,
            box(b"hdlr", full, bytes(4), b"pict", bytes(13)),
            box(b"pitm", full, struct.pack(">H", 1)),
            box(b"iloc", full, iloc),
            box(b"iinf", full, struct.pack(">H", 3), *infe),
            box(b"iref", full, box(b"dimg", struct.pack(">HHHH", 1, 2, 2, 3))),
            box(b"iprp", box(b"ipco", ispe[0], ispe[1], config), box(b"ipma", full, ipma)),
        )

    head = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + box(b"mdat", grid, coded)


def test_a_film_of_jpeg_pictures_is_a_film(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mjpeg", "-c:v", "mjpeg", "-f", "mjpeg", seconds=0.4)
    assert probe(path).duration_s == pytest.approx(0.4)


def test_locked_films(tmp_path: Path) -> None:
    key = "76a6c65c5ea762046bd749a2e632ccbb"
    lock = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key]
    path = make_video(tmp_path / "a.mp4", *X264, *lock, seconds=0.4)
    assert "is encrypted (DRM) and needs a key" in why(path)
    path.write_bytes(make_video(path, *X264, seconds=0.4).read_bytes().replace(b"avc1", b"drmi"))
    assert "is encrypted (DRM) and needs a key" in why(path)


def test_films_without_a_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", *X264, "-t", "0")
    assert "ends behind its header, without pictures or sound" in why(path)


def test_sound_alone(tmp_path: Path) -> None:
    for name in ("a.mp3", "a.m4a", "a.ogg", "a.flac"):
        ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / name)
        assert f"{name}' has sound but no pictures" in why(tmp_path / name)
