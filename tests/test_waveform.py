"""Sound against ffmpeg's own, over channels, rates and containers, in whole and in part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import ffmpeg, make_video, needs_ffmpeg, reference_waveform, source

from lexivid.errors import LexividError, MediaError
from lexivid.media import probe, read_waveform

pytestmark = needs_ffmpeg

LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 6: "5.1", 8: "7.1"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sound")


def tones(num_channels: int, rate: int, seconds: float = 2.0) -> list[str]:
    """Arguments for sound whose channels differ, and that swells and fades."""
    parts = [f"0.5*sin({1257 + 817 * i}*t)*(0.5+0.5*sin({6 + 2 * i}*t))" for i in range(num_channels)]
    layout = LAYOUTS[num_channels]
    return ["-f", "lavfi", "-i", f"aevalsrc={'|'.join(parts)}:c={layout}:s={rate}:d={seconds}"]


CASES = [(channels, rate, "wav", "pcm_s16le") for channels in LAYOUTS for rate in (8000, 44100, 48000)]
CASES += [(2, 16000, "wav", "pcm_s16le"), (1, 16000, "wav", "pcm_s16le"), (2, 96000, "mka", "flac")]
CASES += [(channels, 48000, "m4a", "aac") for channels in (1, 2, 6, 8)]
CASES += [(2, 44100, "mp3", "libmp3lame"), (2, 48000, "webm", "libopus"), (2, 44100, "ogg", "libvorbis")]
CASES += [
    (6, 48000, "ts", "ac3"),
    (1, 44100, "avi", "pcm_s16le"),
    (2, 44100, "flac", "flac"),
    (1, 48000, "wav", "pcm_f32le"),
]


@pytest.mark.parametrize(("channels", "rate", "ending", "codec"), CASES)
def test_the_waveform_is_that_of_ffmpeg(channels: int, rate: int, ending: str, codec: str, files: Path) -> None:
    path = files / f"{channels}_{rate}_{codec}.{ending}"
    ffmpeg(*tones(channels, rate), "-c:a", codec, path)
    # The mix that AC-3 suggests for itself, which newer versions of ffmpeg follow, is left out.
    found, expected = read_waveform(path).numpy(), reference_waveform(path, "-af", "asidedata=delete")
    more = len(found) - len(expected)  # silence before sound that starts late, or what a codec adds at the end
    assert 0 <= more <= 0.05 * 16000
    assert found.dtype == np.float32
    assert np.abs(found).max() <= 1
    if ending == "m4a":  # what AAC adds at the end reaches back as far as the resampler's filter
        aligned, expected = found[: len(expected) - 64], expected[:-64]
    else:
        aligned = found[more:]
    assert np.abs(aligned - expected).max() < (2e-3 if codec not in ("pcm_s16le", "pcm_f32le", "flac") else 2e-4)
    info = probe(path)
    assert (info.has_video, info.has_audio, info.num_channels, info.sample_rate_hz) == (False, True, channels, rate)
    assert info.duration_s == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("target", [8000, 22050, 48000])
def test_other_rates(target: int, files: Path) -> None:
    path = files / "rates.wav"
    ffmpeg(*tones(2, 44100), path)
    found = read_waveform(path, sample_rate_hz=target).numpy()
    expected = reference_waveform(path, sample_rate_hz=target)
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 2e-4


@pytest.mark.parametrize(
    ("ending", "codec", "most"), [("wav", "pcm_s16le", 0.03), ("m4a", "aac", 0.03), ("mp3", "libmp3lame", 0.05)]
)
def test_a_part_is_the_part_of_the_whole(ending: str, codec: str, most: float, files: Path) -> None:
    path = files / f"parts.{ending}"
    ffmpeg(*tones(1, 44100, 20.0), "-c:a", codec, path)
    whole = read_waveform(path)
    for start, length in ((0.0, 1.0), (0.3, 0.5), (12.345, 2.0), (19.0, None)):
        part = read_waveform(path, start_s=start, duration_s=length)
        first = round(start * 16000)
        wanted = whole[first:] if length is None else whole[first : first + round(length * 16000)]
        assert abs(len(part) - len(wanted)) <= (0 if length else 1)
        n = min(len(part), len(wanted), round((19.9 - start) * 16000))  # the very end, a step to silence, is no measure
        assert (part[:n] - wanted[:n]).abs().max() < most  # within half a sample


def test_a_part_after_the_end_is_empty(files: Path) -> None:
    path = files / "short.wav"
    ffmpeg(*tones(1, 16000, 1.0), path)
    assert read_waveform(path, start_s=5.0, duration_s=1.0).shape == (0,)
    assert read_waveform(path, start_s=0.5, duration_s=5.0).shape == (8000,)


@pytest.mark.parametrize("ending", ["mkv", "mp4", "ts"])
def test_sound_that_starts_late_is_led_by_silence(ending: str, files: Path) -> None:
    path = files / f"late.{ending}"
    inputs = [*source(seconds=4), "-itsoffset", "1.25", "-f", "lavfi", "-i", "sine=f=500:d=2"]
    ffmpeg(
        *inputs, "-map", "0:v", "-map", "1:a", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "0", "-c:a", "aac", path
    )
    found = read_waveform(path)
    loud = (found.abs() > 0.02).nonzero()[[0, -1], 0] / 16000
    assert loud.tolist() == pytest.approx([1.25, 3.25], abs=0.05)
    assert (found[: round(1.15 * 16000)] == 0).all()
    assert torch.equal(read_waveform(path, duration_s=1.0), torch.zeros(16000))


def test_a_hole_in_the_sound_keeps_what_follows_in_its_place(files: Path) -> None:
    path = files / "hole.mka"
    ffmpeg(*tones(1, 48000, 4.0), "-c:a", "pcm_s16le", path)
    whole = read_waveform(path)
    holed = files / "holed.mka"
    ffmpeg("-i", path, "-c", "copy", "-bsf:a", "noise=drop=gt(n\\,50)*lt(n\\,110)", holed)
    found = read_waveform(holed)
    assert len(found) == pytest.approx(len(whole), abs=20)
    silent = (found == 0).float().mean() * 4
    assert 1.0 < silent < 1.5
    assert (found[-16000:] - whole[-16000:]).abs().max() < 0.1


def test_no_sound(files: Path) -> None:
    path = make_video(files / "silent.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    with pytest.raises(MediaError, match=r"silent.mp4' has no sound"):
        read_waveform(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start_s": -1.0},
        {"start_s": float("nan")},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"sample_rate_hz": 0},
    ],
)
def test_numbers_out_of_range(wrong: dict, files: Path) -> None:
    with pytest.raises(LexividError, match=next(iter(wrong))):
        read_waveform(files / "any.wav", **wrong)
