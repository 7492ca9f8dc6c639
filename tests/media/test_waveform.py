"""Sound against ffmpeg's own, over channels, rates and containers, in whole and in part."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import ffmpeg, make_video, reference_waveform, source

from lexivid.data._reading import read_log_mel
from lexivid.errors import LexividError, MediaError
from lexivid.media.audio import read_sound, read_waveform
from lexivid.media.decode import probe

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


# ---- damage


def restamped(path: Path, change: Callable[[int, float], float], *, ending: str = "mka", seconds: float = 6.0) -> Path:
    """A file of a swelling tone in packets of about 0.1 s, whose times are changed: (number, seconds) -> seconds."""
    plain = path.with_suffix(".wav")
    ffmpeg(*tones(1, 48000, seconds), plain)
    made = path.with_suffix(f".{ending}")
    with av.open(str(plain)) as source_file, av.open(str(made), "w") as out:
        stream = out.add_stream("flac", rate=48000, layout="mono")
        packets = [p for frame in source_file.decode(audio=0) for p in stream.encode(frame)]
        for number, packet in enumerate([*packets, *stream.encode(None)]):
            assert packet.pts is not None
            at_s = change(number, float(packet.pts * packet.time_base))
            packet.pts = packet.dts = round(at_s / packet.time_base)
            out.mux_one(packet)
    return made


def with_wrong_times(path: Path, *, numbers: range, by_s: float) -> Path:
    """A Matroska file of one stream in which some packets have other times: those of their blocks are overwritten."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux() if packet.size]
    for number in numbers:
        header = data.index(b"\x81", places[number])  # of the track, then milliseconds from the start of the cluster
        old = int.from_bytes(data[header + 1 : header + 3], "big", signed=True)
        data[header + 1 : header + 3] = (old + round(by_s * 1000)).to_bytes(2, "big", signed=True)
    wrong = path.with_name(f"{path.stem}_wrong_{numbers.start}_{by_s}.mka")
    wrong.write_bytes(data)
    return wrong


@pytest.mark.parametrize(
    ("numbers", "by_s"), [(range(20, 21), 25.0), (range(20, 21), 2.0), (range(20, 30), 3.0), (range(20, 21), -1.5)]
)
def test_wrong_time_stamps_change_nothing(numbers: range, by_s: float, files: Path) -> None:
    path = restamped(files / "right", lambda _, at_s: at_s)
    whole = read_sound(path)
    assert len(whole.waveform) == pytest.approx(96000, abs=100)
    found = read_sound(with_wrong_times(path, numbers=numbers, by_s=by_s))
    assert found.warnings == ()
    assert len(found.waveform) == len(whole.waveform)
    assert (found.waveform - whole.waveform).abs().max() < 0.02


@pytest.mark.parametrize("jump_s", [100.0, 49081.0, 4e6])
@pytest.mark.parametrize("ending", ["mka", "nut"])
def test_silence_is_not_filled_in_beyond_what_a_file_can_hold(jump_s: float, ending: str, files: Path) -> None:
    path = restamped(files / f"jump{jump_s:.0f}", lambda n, at_s: at_s + jump_s * (n > 20), ending=ending)
    data = path.read_bytes()
    if ending == "mka":  # a damaged file: what it declares is of before the damage
        at = data.index(b"\x44\x89\x88") + 3
        path.write_bytes(data[:at] + struct.pack(">d", 6000.0) + data[at + 8 :])
    found = read_sound(path)
    assert len(found.waveform) / 16000 == pytest.approx(6.0, abs=0.1)
    (warning,) = found.warnings
    assert "the time stamps of the sound jump from 2." in warning or "jump from 1." in warning
    assert "the sound goes on without a pause" in warning
    # parts of it are parts of the whole
    part = read_waveform(path, start_s=4.0, duration_s=1.0)
    assert (part - found.waveform[64000:80000]).abs().max() < 0.03


def test_a_long_pause_that_the_file_bears_out_stays(files: Path) -> None:
    """Pictures go on meanwhile; and a file of sound alone that says how long it is."""
    path = files / "pause.ts"
    sound = ["-itsoffset", "40", "-f", "lavfi", "-i", "sine=f=500:d=1"]
    ffmpeg(*source(size="64x48", rate="5", seconds=42), *sound, "-c:v", "libx264", "-c:a", "aac", path)
    found = read_sound(path)
    assert len(found.waveform) / 16000 == pytest.approx(41, abs=0.1)
    assert found.warnings == ()
    alone = read_sound(restamped(files / "alone", lambda n, at_s: at_s + 30 * (n > 20)))
    assert alone.warnings == ()
    assert len(alone.waveform) / 16000 == pytest.approx(36, abs=0.1)


@pytest.mark.parametrize("name", ["cut.flac", "cut.mka"])
def test_sound_that_is_cut_off(name: str, files: Path) -> None:
    path = files / name
    ffmpeg(*tones(1, 16000, 10.0), *([] if name == "cut.flac" else ["-c:a", "pcm_s16le"]), path)
    assert read_sound(path).warnings == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = read_sound(path)
    left_s = len(found.waveform) / 16000
    assert left_s == pytest.approx(5.0, abs=0.5)
    (warning,) = found.warnings
    assert warning == f"only {left_s:.1f} of 10.0 s of the sound could be decoded (the file seems cut off or damaged)"
    assert read_sound(path, duration_s=2.0).warnings == ()


def test_damage_in_the_middle_is_told(files: Path) -> None:
    path = files / "damaged.mka"
    ffmpeg(*tones(1, 48000, 10.0), "-c:a", "flac", path)
    whole = read_sound(path)
    assert whole.warnings == ()
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux() if p.size and 4 < p.pts * p.time_base < 5]
    for at, size in places:
        data[at + 4 : at + size] = bytes(size - 4)  # (the first bytes say which stream it is of, and when)
    path.write_bytes(data)
    found = read_sound(path)
    (warning,) = found.warnings
    assert re.fullmatch(
        r"about 1\.\d s of the sound between [34]\.\d and [45]\.\d s are damaged \(of what was read\)", warning
    )
    assert len(found.waveform) == pytest.approx(len(whole.waveform), abs=20)
    assert (found.waveform[-64000:] - whole.waveform[-64000:]).abs().max() < 0.02


def test_a_rate_that_is_no_sound(files: Path) -> None:
    path = files / "slow.wav"
    ffmpeg(*tones(1, 16000, 1.0), path)
    data = bytearray(path.read_bytes())
    data[24:32] = struct.pack("<II", 1, 2)  # one sample a second: a day of sound in 16 kB
    path.write_bytes(data)
    with pytest.raises(MediaError, match="nothing can be decoded"):
        read_waveform(path)


def test_warnings_reach_the_sample(files: Path) -> None:
    path = files / "cut_log.flac"
    ffmpeg(*tones(1, 16000, 10.0), path)
    path.write_bytes(path.read_bytes()[:90_000])
    log_mel, warnings = read_log_mel(probe(path), start_s=0.0, end_s=None)
    assert log_mel is not None
    assert len(warnings) == 1
    assert warnings == list(read_sound(path).warnings)
