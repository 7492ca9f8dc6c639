"""Frames against ffmpeg's own, over containers and codecs, by time, in order and at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import ffmpeg, make_video, reference_frames, reference_times_s, source

from lexivid.media.decode import VideoReader, open_video, probe, read_views
from lexivid.media.views import Views

X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=10"]
GOP = "keyint=10:bframes=3:b-pyramid=2:scenecut=0"
VPX = ["-deadline", "realtime", "-cpu-used", "8", "-g", "12"]

# Every one must give exactly what ffmpeg gives; a few whose conversion differs between versions of FFmpeg stand below.
EXACT = {
    "h264.mp4": X264,
    "h264_b_frames.mkv": [*X264, "-g", "12", "-bf", "3"],
    "h264_open_gop.mp4": [*X264, "-x264-params", f"open-gop=1:{GOP}"],
    "h264_open_gop.ts": [*X264, "-x264-params", f"open-gop=1:{GOP}"],
    "h264_intra_refresh.mp4": [*X264, "-x264-params", "intra-refresh=1:keyint=10"],
    "h264.flv": [*X264, "-g", "12"],
    "h264_without_times.avi": [*X264, "-g", "12", "-bf", "3"],
    "h264_raw.h264": [*X264, "-g", "12"],
    "h264_full_range.mp4": [*X264[:4], "-pix_fmt", "yuvj420p"],
    "h264_bt709.mp4": [*X264, "-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"],
    "h264_444_odd_size.mp4": ["-vf", "scale=97:75", *X264[:4], "-pix_fmt", "yuv444p"],
    "h264_odd_size.mp4": ["-vf", "scale=98:74,crop=97:73:0:0:exact=1", *X264[:4], "-pix_fmt", "yuv444p"],
    "h264_grey.mp4": [*X264[:4], "-pix_fmt", "gray"],
    "h264_rgb.mkv": ["-c:v", "libx264rgb"],
    "hevc.mp4": [*X265, "-pix_fmt", "yuv420p"],
    "vp8.webm": ["-c:v", "libvpx", *VPX],
    "vp9.webm": ["-c:v", "libvpx-vp9", *VPX],
    "av1.mp4": ["-c:v", "libsvtav1", "-preset", "13"],
    "mpeg4.avi": ["-c:v", "mpeg4", "-bf", "2", "-q:v", "4"],
    "xvid_packed.avi": ["-c:v", "libxvid", "-bf", "2", "-q:v", "4"],
    "mpeg1.mpg": ["-c:v", "mpeg1video", "-q:v", "4"],
    "mpeg2.mpg": ["-c:v", "mpeg2video", "-bf", "2", "-q:v", "4"],
    "mpeg2.ts": ["-c:v", "mpeg2video", "-bf", "2", "-q:v", "4"],
    "mpeg2.mxf": ["-c:v", "mpeg2video", "-q:v", "4"],
    "mjpeg.avi": ["-c:v", "mjpeg", "-q:v", "3"],
    "prores_10_bit.mov": ["-c:v", "prores_ks", "-profile:v", "3"],
    "prores_alpha.mov": ["-c:v", "prores_ks", "-profile:v", "4", "-pix_fmt", "yuva444p10le"],
    "ffv1_10_bit.mkv": ["-c:v", "ffv1", "-pix_fmt", "yuv422p10le"],
    "palette.gif": [],
    "palette_odd_size.gif": ["-vf", "scale=97:75"],
    "animated.apng": ["-f", "apng"],
    "wmv2.wmv": ["-c:v", "wmv2", "-q:v", "3"],
    "theora.ogv": ["-c:v", "libtheora", "-q:v", "7"],
    "sorenson.flv": ["-c:v", "flv"],
    "raw.y4m": ["-pix_fmt", "yuv420p"],
    "vp8.ivf": ["-c:v", "libvpx", *VPX],
    "h263.3gp": ["-vf", "scale=176:144,setsar=1", "-c:v", "h263"],
    "rv10.rm": ["-c:v", "rv10"],
}
# Smooth colours only: where colour is stored at half the lines, versions of FFmpeg place it differently.
CLOSE = {
    "h264_10_bit.mp4": [*X264[:4], "-pix_fmt", "yuv420p10le"],
    "hevc_10_bit.mkv": [*X265, "-pix_fmt", "yuv420p10le"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


def encoded(path: Path, codec: list[str], *, seconds: float = 1.2) -> Path:
    if not path.exists():
        make_video(path, *codec, seconds=seconds)
    return path


def all_frames(reader: VideoReader) -> tuple[np.ndarray, torch.Tensor]:
    """Every frame in order: times (N,), frames (N, 3, H, W)."""
    pairs = list(reader.frames_between())
    return np.array([at for at, _ in pairs]), torch.stack([frame for _, frame in pairs])


@pytest.mark.parametrize("name", EXACT)
def test_frames_and_times_are_those_of_ffmpeg(name: str, files: Path) -> None:
    path = encoded(files / name, EXACT[name])
    with open_video(path) as reader:
        times, frames = all_frames(reader)
        assert reader.warnings == []
        assert reader.info.frame_rate == pytest.approx(25)
        assert (reader.info.height, reader.info.width) == tuple(frames.shape[2:])
        assert reader.info.duration_s == pytest.approx(len(frames) / 25, abs=0.1)
    expected = torch.from_numpy(reference_frames(path)).permute(0, 3, 1, 2)
    assert frames.shape == expected.shape
    assert torch.equal(frames, expected)
    np.testing.assert_allclose(times, reference_times_s(path), atol=1e-6)
    np.testing.assert_allclose(times, np.arange(len(times)) / 25, atol=0.1)  # 0.1: GIF and FLV round


@pytest.mark.parametrize("name", CLOSE)
def test_ten_bit_frames_are_close_to_those_of_ffmpeg(name: str, files: Path) -> None:
    path = encoded(files / name, ["-vf", "gblur=sigma=6", *CLOSE[name]])
    with open_video(path) as reader:
        _, frames = all_frames(reader)
    expected = torch.from_numpy(reference_frames(path)).permute(0, 3, 1, 2)
    assert frames.shape == expected.shape
    assert (frames.int() - expected.int()).abs().float().mean() < 2


@pytest.mark.parametrize("name", EXACT)
def test_any_order_of_times_gives_the_frames_of_reading_in_order(name: str, files: Path) -> None:
    path = encoded(files / name, EXACT[name])
    with open_video(path) as reader:
        times, frames = all_frames(reader)
        ends = np.append(times[1:], times[-1] + 0.04)
        for k in np.random.default_rng(0).permutation(len(times))[:10]:
            for part in (0.0, 0.9):
                ((index, at, frame),) = reader.frames_at([times[k] + part * (ends[k] - times[k])])
                assert (index, at) == (0, pytest.approx(times[k], abs=1e-9))
                assert torch.equal(frame, frames[k])


LONG = {
    "long_gop.mp4": [*X264, "-g", "250"],
    "one_gop.mp4": [*X264, "-g", "9999", "-sc_threshold", "0"],
    "long.mkv": [*X264, "-g", "100"],
    "long.ts": [*X264, "-g", "50"],
    "long_packed.avi": ["-c:v", "libxvid", "-bf", "2"],
    "long.mpg": ["-c:v", "mpeg2video", "-bf", "2"],
    "long.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "100"],
    "long.gif": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_seeking_in_a_minute_gives_the_frames_of_reading_in_order(name: str, files: Path) -> None:
    path = files / name
    make_video(path, *LONG[name], seconds=60, size="96x64")
    with open_video(path) as reader:
        times, frames = all_frames(reader)
        rng = np.random.default_rng(0)
        for asked in (np.sort(rng.uniform(0, 60, 16)), rng.uniform(0, 60, 1), rng.uniform(0, 60, 1)):
            for index, at, frame in reader.frames_at(asked):
                k = np.searchsorted(times, asked[index] + 1e-7, side="right") - 1
                assert at == pytest.approx(times[k], abs=1e-9)
                assert torch.equal(frame, frames[k])


def test_only_what_is_needed_is_decoded(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(files / "gops.mp4", *X264, "-g", "25", "-bf", "0", "-sc_threshold", "0", seconds=40, size="64x48")
    from lexivid.media._cursor import Cursor

    came, original = [], Cursor._take
    monkeypatch.setattr(Cursor, "_take", lambda self, frame: (came.append(1), original(self, frame)))
    with open_video(path, num_threads=1) as reader:
        list(reader.frames_at([5.02, 5.02, 35.02, 35.5]))
    assert len(came) <= 1 + 1 + 13 + 4  # the first, two key frames, on to 35.5 s, a few that come with them


def test_repeated_times_give_one_frame_and_one_transform(files: Path) -> None:
    path = encoded(files / "h264.mp4", EXACT["h264.mp4"])
    calls = []
    with open_video(path) as reader:
        found = list(
            reader.frames_at([0.5, 0.1, 0.5, 0.501], transform=lambda f: calls.append(f.shape) or f[:, ::2, ::2])
        )
    assert calls == [(3, 96, 128)] * 2
    assert [(index, round(at, 6)) for index, at, _ in found] == [(0, 0.08), (1, 0.48), (2, 0.48), (3, 0.48)]
    assert found[1][2] is found[2][2]
    assert found[0][2].shape == (3, 48, 64)


def test_times_outside_the_file_give_the_first_and_the_last_frame(files: Path) -> None:
    path = encoded(files / "h264.mp4", EXACT["h264.mp4"])
    with open_video(path) as reader:
        times, frames = all_frames(reader)
        (_, first, a), (_, last, b) = reader.frames_at([-5.0, 1e6])
        assert (first, last) == (0.0, times[-1])
        assert torch.equal(a, frames[0])
        assert torch.equal(b, frames[-1])
        assert reader.warnings == []


def test_frames_between_begins_with_the_frame_on_show(files: Path) -> None:
    path = encoded(files / "h264_b_frames.mkv", EXACT["h264_b_frames.mkv"])
    with open_video(path) as reader:
        assert [round(at * 25) for at, _ in reader.frames_between(0.41, 0.6)] == [10, 11, 12, 13, 14]


def test_the_number_of_threads_changes_nothing(files: Path) -> None:
    path = encoded(files / "h264_open_gop.mp4", EXACT["h264_open_gop.mp4"])
    runs = []
    for num_threads in (1, 2, 5):
        with open_video(path, num_threads=num_threads) as reader:
            runs.append([frame for _, _, frame in reader.frames_at([0.1, 0.5, 0.9])])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize(("counterclockwise", "turn"), [(0, 0), (90, 270), (180, 180), (270, 90)])
def test_rotation(counterclockwise: int, turn: int, files: Path) -> None:
    plain = encoded(files / "h264.mp4", EXACT["h264.mp4"])
    path = files / f"rotated{counterclockwise}.mp4"
    ffmpeg("-display_rotation", str(counterclockwise), "-i", plain, "-c", "copy", path)
    expected = torch.from_numpy(reference_frames(path)).permute(0, 3, 1, 2)
    with open_video(path) as reader:
        _, frames = all_frames(reader)
        assert (reader.info.rotation_deg, reader.info.width) == (turn, frames.shape[3])
    assert torch.equal(frames, expected)
    with open_video(plain) as reader:
        _, stored = all_frames(reader)
    assert torch.equal(frames, torch.rot90(stored, -turn // 90, (2, 3)))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((-1, 0, 0, 1), lambda f: f.flip(2)),
        ((1, 0, 0, -1), lambda f: f.flip(1)),
        ((0, 1, 1, 0), lambda f: f.transpose(1, 2)),
        ((0, -1, -1, 0), lambda f: f.transpose(1, 2).flip(1, 2)),
        ((0, 1, -1, 0), lambda f: torch.rot90(f, -1, (1, 2))),
    ],
)
def test_mirrored_pictures(matrix: tuple[int, ...], expected: object, files: Path) -> None:
    plain = encoded(files / "h264.mp4", EXACT["h264.mp4"])
    data = bytearray(plain.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert data[at : at + 4] == b"\0\1\0\0"
    a, b, c, d = (value << 16 for value in matrix)
    for place, value in ((0, a), (4, b), (12, c), (16, d)):
        data[at + place : at + place + 4] = value.to_bytes(4, "big", signed=True)
    path = files / "mirrored.mp4"
    path.write_bytes(data)
    with open_video(plain) as reader, open_video(path) as mirrored:
        (_, _, stored), (_, _, found) = next(reader.frames_at([0])), next(mirrored.frames_at([0]))
    assert torch.equal(found, expected(stored))


def test_variable_frame_rate(files: Path) -> None:
    path = files / "variable.mp4"
    ffmpeg(*source(seconds=4), "-vf", "select=not(mod(n\\,7))+gt(n\\,50)", "-fps_mode", "vfr", *X264, path)
    expected, times = reference_frames(path), reference_times_s(path)
    assert len(set(np.diff(times).round(3))) > 1
    with open_video(path) as reader:
        for index, at, frame in reader.frames_at(np.linspace(0.01, 3.9, 40)):
            k = np.searchsorted(times, np.linspace(0.01, 3.9, 40)[index], side="right") - 1
            assert at == pytest.approx(times[k], abs=1e-6)
            assert torch.equal(frame, torch.from_numpy(expected[k]).permute(2, 0, 1))


@pytest.mark.parametrize("name", ["late.ts", "late.mkv", "late.mp4"])
def test_times_count_from_the_first_frame_wherever_the_clock_begins(name: str, files: Path) -> None:
    path = files / name
    sound = ["-f", "lavfi", "-i", "sine=duration=4"]
    inputs = [*sound, "-itsoffset", "1.5", *source(seconds=2), "-map", "1:v", "-map", "0:a", "-fps_mode", "passthrough"]
    ffmpeg(*inputs, *X264, "-c:a", "aac", *(["-output_ts_offset", "700"] if name == "late.ts" else []), path)
    expected = reference_frames(path)
    with open_video(path) as reader:
        times, frames = all_frames(reader)
        assert reader.info.video_start_s == pytest.approx(1.5, abs=0.05)
        assert reader.info.duration_s == pytest.approx(2.0, abs=0.05)
        assert reader.warnings == []
    np.testing.assert_allclose(times, np.arange(50) / 25, atol=1e-3)
    assert torch.equal(frames, torch.from_numpy(expected).permute(0, 3, 1, 2))


def test_an_edit_list_that_starts_between_key_frames(files: Path) -> None:
    whole, path = encoded(files / "h264.mp4", EXACT["h264.mp4"]), files / "edited.mp4"
    ffmpeg("-ss", "0.52", "-i", whole, "-c", "copy", path)
    expected = reference_frames(path)
    with open_video(path) as reader:
        times, frames = all_frames(reader)
    assert times[0] == 0
    assert torch.equal(frames, torch.from_numpy(expected).permute(0, 3, 1, 2))


@pytest.mark.parametrize("codec", [X264, ["-c:v", "libvpx", *VPX]])
def test_a_length_that_is_not_declared_is_found(codec: list[str], files: Path) -> None:
    path = files / "live.mkv"
    ffmpeg(*source(seconds=3), *codec, "-live", "1", path)
    assert probe(path).duration_s == pytest.approx(3.0, abs=0.05)


def test_pictures_that_end_before_the_sound_are_no_damage(files: Path) -> None:
    path = files / "short_pictures.flv"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=6", *source(seconds=2), "-c:v", "flv", "-c:a", "aac", path)
    sampled = read_views(path, Views())
    assert sampled.warnings == ()
    assert len(set(sampled.times_s.ravel())) == 16  # planned again, over the two seconds that there are


def test_the_largest_stream_is_taken_and_never_the_cover(files: Path) -> None:
    cover = files / "cover.png"
    ffmpeg(*source(size="640x480"), "-frames:v", "1", cover)
    path = files / "two.mkv"
    both = [*source(size="64x48", seconds=1), *source(size="128x96", seconds=1)]
    ffmpeg(
        *both,
        "-map",
        "0",
        "-map",
        "1",
        *X264,
        "-disposition:v",
        "0",
        "-attach",
        cover,
        "-metadata:s:t",
        "mimetype=image/png",
        path,
    )
    assert (probe(path).width, probe(path).height) == (128, 96)


def test_one_frame(files: Path) -> None:
    path = files / "one.mp4"
    ffmpeg(*source(), "-frames:v", "1", *X264, path)
    sampled = read_views(path, Views.parse("4x3"))
    assert sampled.frames.shape == (4, 16, 3, 96, 128)
    assert (sampled.times_s == 0).all()
    assert sampled.warnings == ()


def test_large_frames_are_scaled_while_they_are_converted(files: Path) -> None:
    path = files / "large.mp4"
    make_video(path, "-vf", "format=gray", *X264, size="1280x720", rate="5", seconds=1)
    with open_video(path) as plain, open_video(path, max_short_side=90) as small:
        (_, _, full), (_, _, found) = next(plain.frames_at([0.5])), next(small.frames_at([0.5]))
    assert found.shape == (3, 90, 160)
    wanted = torch.nn.functional.interpolate(full[None].float(), (90, 160), mode="bicubic", antialias=True)[0]
    assert (found.float() - wanted.clamp(0, 255)).abs().mean() < 2
    with open_video(path, max_short_side=800) as reader:
        assert next(reader.frames_at([0]))[2].shape == (3, 720, 1280)


def test_views_of_a_file(files: Path) -> None:
    path = encoded(files / "ten.mp4", X264, seconds=10)
    sampled = read_views(path, Views.parse("4x3", stride_rate="native"), transform=lambda f: f[:, :32, :32])
    assert sampled.frames.shape == (4, 16, 3, 32, 32)
    assert sampled.frames.dtype == torch.uint8
    steps = np.round(sampled.times_s * 25).astype(int)
    assert steps[:, 0].tolist() == [0, 63, 126, 189]
    assert (np.diff(steps, axis=1) == 4).all()
    expected = torch.from_numpy(reference_frames(path)).permute(0, 3, 1, 2)[:, :, :32, :32]
    assert torch.equal(sampled.frames, expected[steps])


def test_real_clips_decode(media: Path) -> None:
    clips = sorted(p for p in (media / "clips").iterdir() if p.suffix in (".mp4", ".mkv", ".avi"))
    assert len(clips) > 30
    for path in clips:
        sampled = read_views(path, Views())
        assert sampled.warnings == (), path
        assert len(np.unique(sampled.times_s)) == min(16, round(sampled.info.duration_s * sampled.info.frame_rate)), (
            path
        )
