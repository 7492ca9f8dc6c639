"""When the frames of a file are shown: what decodes counts, whatever the container declares; damage needs evidence."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import ffmpeg, make_video, reference_frames, source

from lexivid.media.audio import read_sound, read_waveform
from lexivid.media.decode import open_video, probe, read_views
from lexivid.media.views import Views

X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("time")


def check(path: Path, *, num_frames: int, seconds: float, times_s: np.ndarray | None = None) -> np.ndarray:
    """A file's length, number of frames and times are these, random access gives the same, and nothing is warned of.

    -> times (N,) of all frames.
    """
    with open_video(path) as reader:
        pairs = list(reader.frames_between())
        found = np.array([at for at, _ in pairs])
        assert len(found) == num_frames
        assert reader.info.duration_s == pytest.approx(seconds, abs=0.002)
        assert (np.diff(found) > 0).all()
        if times_s is not None:
            np.testing.assert_allclose(found, times_s, atol=0.002)
        ends = np.append(found[1:], seconds)
        for k in np.random.default_rng(0).permutation(num_frames)[:8]:
            ((_, at, frame),) = reader.frames_at([found[k] + 0.6 * (ends[k] - found[k])])
            assert at == pytest.approx(found[k], abs=1e-6)
            assert torch.equal(frame, pairs[k][1])
        assert reader.warnings == []
    sampled = read_views(path, Views())
    assert sampled.warnings == ()
    assert len(np.unique(sampled.times_s)) == min(16, num_frames)
    assert sampled.times_s[0, -1] > seconds * 0.9
    return found


def colours(path: Path) -> str:
    """R or B for each of the 16 views."""
    means = read_views(path, Views()).frames[0].float().mean((2, 3))
    return "".join("R" if mean[0] > mean[2] else "B" for mean in means)


def plain(path: Path, colour: str, *codec: str, seconds: float = 2.0, sound: bool = False) -> Path:
    tone = ["-f", "lavfi", "-i", f"sine=duration={seconds}", "-c:a", "mp2"] if sound else []
    ffmpeg("-f", "lavfi", "-i", f"color={colour}:s=160x120:r=25:d={seconds}", *tone, *codec, path)
    return path


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


# ---- what a header declares


@pytest.mark.parametrize("declared_s", [0.6, 3.96, 40.0])
def test_the_media_header_of_an_mp4_declares_another_length(declared_s: float, files: Path) -> None:
    path = make_video(files / "media.mp4", *X264, seconds=4)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdhd") + 16
    (scale,) = struct.unpack(">I", data[at : at + 4])
    data[at + 4 : at + 8] = struct.pack(">I", round(declared_s * scale))
    path.write_bytes(data)
    check(path, num_frames=100, seconds=4.0, times_s=np.arange(100) / 25)


@pytest.mark.parametrize("factor", [0.1, 0.4, 3, 10])
def test_the_time_scale_of_an_mp4_is_wrong(factor: float, files: Path) -> None:
    path = make_video(files / "scale.mp4", *X264, "-bf", "2", seconds=4)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdhd") + 16
    (scale,) = struct.unpack(">I", data[at : at + 4])
    data[at : at + 4] = struct.pack(">I", round(scale * factor))
    path.write_bytes(data)
    check(path, num_frames=100, seconds=4.0, times_s=np.arange(100) / 25)
    assert probe(path).frame_rate == pytest.approx(25)


@pytest.mark.parametrize(("speed", "seconds"), [("1", 3.0), ("4", 16.0), ("0.25", 1.0)])
def test_slow_and_fast_motion_and_a_trim_are_no_wrong_time_scale(speed: str, seconds: float, files: Path) -> None:
    path = make_video(files / "speed.mp4", *X264, "-bf", "0", seconds=4)
    ffmpeg("-itsscale", speed, "-i", path, "-c", "copy", files / "speed_.mp4")
    if speed == "1":
        ffmpeg("-ss", "0.5", "-t", "3", "-i", path, "-c", "copy", files / "speed_.mp4")
    with open_video(files / "speed_.mp4") as reader:
        assert len(list(reader.frames_between())) == (75 if speed == "1" else 100)
        assert reader.info.duration_s == pytest.approx(seconds, abs=0.15)
        assert reader.warnings == []


def test_a_quiet_program_stream(files: Path) -> None:
    path = plain(files / "quiet.mpg", "red", "-c:v", "mpeg2video", seconds=3)
    check(path, num_frames=75, seconds=3.0)


@pytest.mark.parametrize("rate", ["60", "24", "120"])
@pytest.mark.parametrize("name", ["a.h264", "a.hevc"])
def test_a_raw_stream_keeps_the_rate_that_it_states(name: str, rate: str, files: Path) -> None:
    codec = X264 if name == "a.h264" else ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"]
    path = make_video(files / f"{rate}{name}", *codec, rate=rate, seconds=1)
    check(path, num_frames=int(rate), seconds=1.0, times_s=np.arange(int(rate)) / int(rate))
    assert probe(path).frame_rate == pytest.approx(float(rate))


def in_program_stream(path: Path, *options: str, rate: str) -> Path:
    return make_video(path, "-c:v", "mpeg2video", "-q:v", "4", *options, size="64x48", rate=rate)


def test_frames_of_a_program_stream_that_FFmpeg_counts_twice_are_all_there(files: Path) -> None:
    """Small intra pictures: two of them carry one time, others none."""
    path = in_program_stream(files / "small.vob", "-g", "1", rate="30")
    with open_video(path) as reader:
        found = np.array([at for at, _ in reader.frames_between()])
        assert len(found) == 60
        assert (np.diff(found) > 0).all()
        np.testing.assert_allclose(found, np.arange(60) / 30, atol=0.07)
        assert reader.info.duration_s == pytest.approx(2.0, abs=0.002)
        assert reader.warnings == []


@pytest.mark.parametrize("ending", ["mpg", "m2ts"])
def test_frames_that_refer_to_what_was_cut_off_do_not_count(ending: str, files: Path) -> None:
    whole = in_program_stream(files / f"whole.{ending}", "-g", "5", "-bf", "2", rate="50")
    path = files / f"cut.{ending}"
    ffmpeg("-ss", "0.74", "-i", whole, "-c", "copy", path)
    with open_video(path) as reader:
        num_frames = len(list(reader.frames_between()))
        assert num_frames == len(reference_frames(path))
        assert reader.info.duration_s == pytest.approx(num_frames / 50, abs=0.021)


# ---- joined files


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("ts", [*X264, "-g", "25"]),
        ("m2ts", X264),
        ("mpg", ["-c:v", "mpeg2video"]),
        ("vob", ["-c:v", "mpeg2video", "-bf", "2"]),
        ("mkv", X264),
        ("webm", ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"]),
        ("avi", ["-c:v", "mpeg4"]),
        ("h264", X264),
    ],
)
def test_joined_files_go_on_in_time(ending: str, codec: list[str], files: Path) -> None:
    red, blue = (plain(files / f"{colour}.{ending}", colour, *codec) for colour in ("red", "blue"))
    path = joined(files / f"both.{ending}", red, blue)
    check(path, num_frames=100, seconds=4.0, times_s=np.arange(100) / 25)
    assert colours(path) == "R" * 8 + "B" * 8


@pytest.mark.parametrize(("first_s", "second_s"), [("1000", "1.4"), ("1.4", "1000"), ("95000", "1.4")])
def test_a_clock_that_jumps_either_way(first_s: str, second_s: str, files: Path) -> None:
    parts = [
        plain(files / f"{colour}_at.ts", colour, *X264, "-g", "25", "-output_ts_offset", offset)
        for colour, offset in (("red", first_s), ("blue", second_s))
    ]
    path = joined(files / "jump.ts", *parts)
    check(path, num_frames=100, seconds=4.0)
    assert colours(path) == "R" * 8 + "B" * 8


@pytest.mark.parametrize("start_s", ["0.74", "0.95"])
def test_times_of_flv_below_zero(start_s: str, files: Path) -> None:
    whole = make_video(files / "whole.flv", *X264, "-g", "25", "-bf", "0")
    path = files / "below.flv"
    ffmpeg("-ss", start_s, "-i", whole, "-c", "copy", "-avoid_negative_ts", "disabled", path)
    check(path, num_frames=50, seconds=2.0, times_s=np.arange(50) / 25)


def test_a_clock_that_wraps(files: Path) -> None:
    path = make_video(files / "wrap.ts", *X264, "-g", "25", "-output_ts_offset", "95441", seconds=6)
    check(path, num_frames=150, seconds=6.0, times_s=np.arange(150) / 25)


@pytest.mark.parametrize("order", ["rgb", "rg", "gr"])
def test_a_part_with_another_codec_is_named(order: str, files: Path) -> None:
    codecs = {"r": ("red", X264), "g": ("lime", ["-c:v", "mpeg2video"]), "b": ("blue", X264)}
    parts = [plain(files / f"{order}{one}.ts", codecs[one][0], *codecs[one][1]) for one in order]
    sampled = read_views(joined(files / f"{order}.ts", *parts), Views())
    (warning,) = sampled.warnings
    other = "h264, not mpeg2video" if order == "gr" else "mpeg2video, not h264"
    expected = rf"from 1\.9 to 3\.9 s the pictures are coded in another way \({other}\), and are not looked at"
    assert re.match(expected, warning)
    assert sampled.info.duration_s == pytest.approx(2.0 * len(order), abs=0.1)
    if order == "rgb":
        assert colours(files / "rgb.ts") in ("R" * 10 + "B" * 6, "R" * 11 + "B" * 5)
        with open_video(files / "rgb.ts") as reader:
            times = np.array([at for at, _ in reader.frames_between()])
            assert len(times) >= 99  # FFmpeg drops one at the change
            np.testing.assert_allclose(times[-50:], 3.92 + np.arange(50) / 25, atol=0.06)


def test_pictures_and_sound_of_a_joined_file_end_together(files: Path) -> None:
    parts = [plain(files / f"{colour}_sound.ts", colour, *X264, sound=True) for colour in ("red", "blue")]
    path = joined(files / "sound.ts", *parts)
    with open_video(path) as reader:
        assert reader.info.duration_s == pytest.approx(4.0, abs=0.06)
        assert len(list(reader.frames_between())) == 100
    assert len(read_waveform(path)) / 16000 == pytest.approx(4.0, abs=0.06)
    part = read_waveform(path, start_s=3.0, duration_s=0.5)
    assert len(part) == 8000
    assert part.abs().max() > 0.05


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("mp4", X264),
        ("flv", X264),
        ("wmv", ["-c:v", "wmv2"]),
        ("mxf", ["-c:v", "mpeg2video"]),
        ("nut", ["-c:v", "mpeg4"]),
        ("rm", ["-c:v", "rv10", "-s", "176x144"]),
        ("wtv", ["-c:v", "mpeg2video"]),
        ("swf", ["-c:v", "flv1"]),
    ],
)
def test_a_joined_file_that_cannot_be_read_on_is_told_of(ending: str, codec: list[str], files: Path) -> None:
    part = plain(files / f"part.{ending}", "red", *codec)
    sampled = read_views(joined(files / f"twice.{ending}", part, part), Views())
    assert sampled.info.duration_s == pytest.approx(2.0, abs=0.05)
    (warning,) = sampled.warnings
    assert "the last 50 % of the file" in warning
    assert "joined on behind it, and are not looked at" in warning


@pytest.mark.parametrize("ending", ["wav", "w64", "aiff", "caf", "tta", "wv", "m4a"])
def test_joined_sound_that_cannot_be_read_on_is_told_of(ending: str, files: Path) -> None:
    part = files / f"sound.{ending}"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=2", part)
    assert read_sound(part).warnings == ()
    sound = read_sound(joined(files / f"sounds.{ending}", part, part))
    assert len(sound.waveform) / 16000 == pytest.approx(2.0, abs=0.05)
    (warning,) = sound.warnings
    assert re.match(r"the last 5\d % of the file, 2\.\d s, are another file joined on behind it", warning)


@pytest.mark.parametrize("ending", ["mp3", "aac", "flac", "ogg", "ac3", "au"])
def test_joined_sound_goes_on(ending: str, files: Path) -> None:
    parts = [files / f"tone{pitch}.{ending}" for pitch in (440, 880)]
    for part, pitch in zip(parts, (440, 880), strict=True):
        ffmpeg("-f", "lavfi", "-i", f"sine=duration=2:frequency={pitch}", part)
    sound = read_sound(joined(files / f"tones.{ending}", *parts))
    assert sound.warnings == ()
    assert len(sound.waveform) / 16000 == pytest.approx(4.0, abs=0.1)
    loudest = [int(torch.fft.rfft(sound.waveform[at : at + 16000]).abs().argmax()) for at in (8000, 40000)]
    assert loudest == [440, 880]


# ---- edit lists


def test_a_pause_between_edits_shows_nothing_else(files: Path) -> None:
    """FFmpeg shows the start of the media there."""
    path = make_video(files / "pauses.mp4", *X264, "-g", "25", "-bf", "2", seconds=5)
    whole = reference_frames(path)
    with_edits(path, (400, None), (1000, 0.52), (1000, None), (1000, 3.0))
    times_s = np.concatenate([np.arange(25), np.arange(50, 75)]) / 25
    wanted = torch.from_numpy(np.concatenate([whole[13:38], whole[75:100]])).permute(0, 3, 1, 2)
    with open_video(path) as reader:
        found, frames = zip(*reader.frames_between(), strict=True)
        np.testing.assert_allclose(found, times_s, atol=0.002)
        assert torch.equal(torch.stack(frames), wanted)
        assert reader.info.duration_s == pytest.approx(3.0, abs=0.002)
        shown = [frame for _, _, frame in reader.frames_at([0.0, 0.5, 1.9, 2.0])]
        assert torch.equal(torch.stack(shown), wanted[[0, 12, 24, 25]])
        assert reader.warnings == []


def test_sound_that_pauses_between_edits_is_silent(files: Path) -> None:
    path = files / "pause.m4a"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=5", "-movie_timescale", "1000", path)
    with_edits(path, (1000, 0.0), (1000, None), (1000, 3.0))
    wave = read_waveform(path)
    assert len(wave) / 16000 == pytest.approx(3.0, abs=0.05)
    loud = [float(wave[round(16000 * at_s) :][:8000].abs().max()) for at_s in (0.25, 1.25, 2.25)]
    assert [level > 0.05 for level in loud] == [True, False, True]


def with_edits(path: Path, *edits: tuple[int, float | None]) -> None:
    """Write another edit list into an MP4: (milliseconds, start in the media in seconds, or None for nothing)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst")
    (shift,) = struct.unpack(">i", data[at + 16 : at + 20])
    scale_at = data.index(b"mdhd") + 16
    (scale,) = struct.unpack(">I", data[scale_at : scale_at + 4])
    body = struct.pack(">I4sII", 16 + 12 * len(edits), b"elst", 0, len(edits))
    for milliseconds, start_s in edits:
        start = -1 if start_s is None else round(start_s * scale) + shift
        body += struct.pack(">IiI", milliseconds, start, 65536)
    (old,) = struct.unpack(">I", data[at - 4 : at])
    data[at - 4 : at - 4 + old] = body
    for kind in (b"edts", b"trak", b"moov"):
        box = data.rindex(kind, 0, at) - 4
        (size,) = struct.unpack(">I", data[box : box + 4])
        data[box : box + 4] = struct.pack(">I", size + len(body) - old)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("edits", "num_frames", "seconds"),
    [
        ([(1000, 0.52), (1000, 3.0)], 50, 2.0),
        ([(1000, 3.0), (1000, 0.0)], 50, 2.0),
        ([(400, 3.0), (400, 1.0), (400, 4.0)], 30, 1.2),
        ([(1500, None), (2000, 1.0)], 50, 2.0),
        ([(2000, 1.0)], 50, 2.0),
    ],
)
def test_edit_lists(edits: list[tuple[int, float | None]], num_frames: int, seconds: float, files: Path) -> None:
    path = make_video(files / "edits.mp4", *X264, "-g", "25", "-bf", "2", seconds=5)
    with_edits(path, *edits)
    check(path, num_frames=num_frames, seconds=seconds, times_s=np.arange(num_frames) / 25)
    with open_video(path) as reader:
        frames = torch.stack([frame for _, frame in reader.frames_between()])
    assert torch.equal(frames, torch.from_numpy(reference_frames(path)).permute(0, 3, 1, 2))


# ---- no false alarm


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "flv"])
def test_a_pause_is_no_damage(ending: str, files: Path) -> None:
    path = files / f"pause.{ending}"
    ffmpeg(*source(rate="30", seconds=12), "-vf", "select='not(between(t,4.01,7.99))'", "-fps_mode", "vfr", *X264, path)
    with open_video(path) as reader:
        times = np.array([at for at, _ in reader.frames_between()])
        assert np.diff(times).max() == pytest.approx(4.0, abs=0.1)
        assert reader.info.duration_s == pytest.approx(12.0, abs=0.05)
        assert reader.warnings == []


def field_stream(num_frames: int) -> bytes:
    """Raw H.264 at 25 frames a second whose pictures are coded as two fields each, 32 x 32, grey."""

    def number(value: int) -> str:  # Exp-Golomb
        digits = format(value + 1, "b")
        return "0" * (len(digits) - 1) + digits

    def whole(bits: str) -> bytes:
        bits += "0" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")

    def unit(kind: int, body: bytes) -> bytes:
        out, zeros = bytearray([kind]), 0
        for byte in body:
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return b"\0\0\0\1" + bytes(out)

    sps = format(77, "08b") + "0" * 8 + format(30, "08b") + number(0) * 2 + number(2) + number(1) + "0"
    sps += number(1) + number(0) + "0010" + "1"  # 2 x 2 macroblocks, fields allowed, no cropping, VUI:
    sps += "00001" + format(1, "032b") + format(50, "032b") + "1" + "00" + "1" + "0"  # 50 fields a second
    pps = number(0) * 2 + "00" + number(0) * 3 + "000" + number(0) * 3 + "000"
    stream = b""
    for frame in range(num_frames):
        for bottom in (0, 1):
            header = number(0) + number(7) + number(0) + "00001" + str(bottom)
            header += "0" if bottom else number(frame % 2) + "00"
            header += number(0)
            samples = bytes([40 + 4 * (frame % 40) + bottom]) * 256 + bytes([128]) * 128
            body = whole(header + number(25)) + samples + whole(number(25)) + samples + b"\x80"
            if not bottom:
                stream += unit(0x09, b"\x10") + unit(0x67, whole(sps + "1")) + unit(0x68, whole(pps + "1"))
            stream += unit(0x61 if bottom else 0x65, body)
    return stream


@pytest.mark.parametrize("ending", ["h264", "ts", "mp4"])
def test_packets_that_hold_half_a_picture(ending: str, files: Path) -> None:
    raw = files / "fields.h264"
    raw.write_bytes(field_stream(50))
    path = raw
    if ending != "h264":
        path = files / f"fields.{ending}"
        ffmpeg("-i", raw, "-c", "copy", path)
    assert len(reference_frames(path)) == 50
    check(path, num_frames=50, seconds=2.0, times_s=np.arange(50) / 25)
    assert probe(path).frame_rate == pytest.approx(25)
