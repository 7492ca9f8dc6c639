"""Files that are damaged or no media at all: what decodes is used, the rest is one clear sentence."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import (
    ffmpeg,
    make_video,
    mp3_with_cover,
    png,
    reference_frames,
    why,
)

from lexivid.errors import MediaError
from lexivid.media import _container
from lexivid.media.audio import read_waveform
from lexivid.media.decode import probe, read_views
from lexivid.media.views import Views

X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]


# ---- no media


NOT_MEDIA = {
    "empty.mp4": (b"", "is empty (0 bytes)"),
    "text.mp4": ("Ein Text über Füße.\n".encode() * 20, "is a text file, not a media file"),
    "page.mp4": (b"<!DOCTYPE html><html><body>404</body></html>", "is a text file"),
    "zeros.mp4": (bytes(100_000), "is not a media file of a known kind"),
    "noise.mp4": (np.random.default_rng(0).bytes(100_000), "is not a media file of a known kind"),
    "picture.mp4": (png(64, 64), "is a still picture (PNG); "),
    "one_byte.mkv": (b"\x1a", "is not a media file"),
}


@pytest.mark.parametrize("name", NOT_MEDIA)
def test_files_that_are_no_media(name: str, tmp_path: Path) -> None:
    content, reason = NOT_MEDIA[name]
    (tmp_path / name).write_bytes(content)
    message = why(tmp_path / name)
    assert reason in message
    assert f"{name}'" in message
    for read in (probe, read_waveform):
        with pytest.raises(MediaError) as error:
            read(tmp_path / name)
        assert str(error.value) == message


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "does not exist; check the path" in why(tmp_path / "missing.mp4")
    assert "is a folder" in why(tmp_path)
    assert "does not exist" in why("")
    assert "null byte" in why("a\0b.mp4")
    assert "is a pipe or a device" in why("/dev/zero")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "is a pipe or a device" in why(tmp_path / "pipe.mp4")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "closed.mp4").write_bytes(b"x")
    monkeypatch.setattr(_container.os, "open", refuse)
    assert "no permission" in why(tmp_path / "closed.mp4")


ODD_NAMES = [
    "http:x.mp4",
    "concat:a|b.mp4",
    "-",
    "-i.mp4",
    "a%03d.mp4",
    "line\nbreak.mp4",
    "pipe:0",
    "data:x",
    "ü漢字 .mp4",
    "file:x.mp4",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_a_name_and_nothing_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "plain.mp4", *X264, seconds=0.2)
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in why(name)
    (tmp_path / "plain.mp4").rename(tmp_path / name)
    assert probe(name).video_codec == "h264"
    assert probe(Path(name)).path == name


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff\n.mp4")
    assert r"bad\udcff\n.mp4" in why(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "a.wav")
    assert "a.wav' has sound but no pictures" in why(tmp_path / "a.wav")
    cover = mp3_with_cover(tmp_path / "a.mp3", png(64, 64))
    with av.open(str(cover)) as container:
        assert len(container.streams.video) == 1  # FFmpeg calls the cover a video stream
    assert "a.mp3' has sound but no pictures" in why(cover)
    assert probe(cover).has_video is False
    assert len(read_waveform(cover)) > 15000


def test_a_codec_that_nobody_knows(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.avi", "-c:v", "mjpeg", seconds=0.4)
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"QQQQ"))
    message = why(path)
    assert "cannot decode" in message
    assert "QQQQ" in message


# ---- cut and damaged


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", [*X264, "-movflags", "+faststart"]),
        ("a.mkv", X264),
        ("a.webm", ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "12"]),
        ("a.flv", X264),
        ("a.avi", ["-c:v", "mpeg4"]),
    ],
)
def test_a_file_cut_in_the_middle_gives_what_decodes(name: str, codec: list[str], tmp_path: Path) -> None:
    path = make_video(tmp_path / name, *codec, "-t", "10", seconds=10)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.52)])
    left = len(reference_frames(path)) / 25
    sampled = read_views(path, Views())
    (warning,) = sampled.warnings
    words = warning.split()
    assert warning.startswith("only ")
    assert warning.endswith("s could be decoded (the file seems cut off or damaged)")
    assert float(words[1]) == pytest.approx(left, abs=0.25)
    assert len(np.unique(sampled.times_s)) == 16
    assert np.abs(sampled.times_s - Views().times_s(left, 25.0)).max() < 0.25


def test_the_second_plan_decodes_only_what_the_first_did_not(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", *X264, "-movflags", "+faststart", "-g", "25", seconds=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    calls = []
    sampled = read_views(path, Views(), transform=lambda f: calls.append(1) or f)
    assert len(calls) <= 16 + 8 + 1
    assert torch.equal(sampled.frames[0, -1], torch.from_numpy(frame_at(path, sampled.times_s[0, -1])))


def frame_at(path: Path, at_s: float) -> np.ndarray:
    return reference_frames(path)[round(at_s * 25)].transpose(2, 0, 1)


def test_a_file_cut_before_its_index(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", *X264, seconds=2)
    path.write_bytes(path.read_bytes()[:20_000])
    assert "a.mp4' is cut off before its index (no moov atom)" in why(path)


def test_a_file_that_ends_with_its_index(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", *X264, "-movflags", "+faststart", seconds=2)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 8])
    assert "declares video (h264) of which no frame can be decoded; it seems cut off" in why(path)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", X264),
        ("a.mkv", X264),
        ("a.ts", X264),
        ("a.webm", ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "25"]),
    ],
)
def test_a_file_damaged_in_the_middle_goes_on_after_it(name: str, codec: list[str], tmp_path: Path) -> None:
    path = make_video(tmp_path / name, *codec, seconds=10)
    data = bytearray(path.read_bytes())
    start, end = int(len(data) * 0.4), int(len(data) * 0.5)
    data[start:end] = np.random.default_rng(0).bytes(end - start)
    path.write_bytes(data)
    sampled = read_views(path, Views(num_frames=100))
    (warning,) = sampled.warnings
    found = [float(word) for word in warning.split() if word.replace(".", "").isdigit()]
    missing, first, last = found
    assert 0.7 < missing < 3.5
    assert 2.5 < first < last < 6.5
    assert "are damaged or missing" in warning
    assert sampled.times_s[0, -1] > 9.8
    assert (np.diff(sampled.times_s) >= 0).all()
