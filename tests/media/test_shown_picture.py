"""Pictures as a viewer shows them: crops, shapes of pixels, fields, colours, alpha, and which of several streams."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import ffmpeg, make_video, reference_frames, source, why
from PIL import Image

from lexivid.errors import MediaError
from lexivid.media import _colour
from lexivid.media._fields import one_moment
from lexivid.media._picture import Presentation, to_rgb
from lexivid.media.audio import read_waveform
from lexivid.media.decode import open_video, probe, read_views
from lexivid.media.views import Views

X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
LOSSLESS = ["-c:v", "ffv1"]


def frames_of(path: Path) -> torch.Tensor:
    """All frames, (N, 3, H, W)."""
    with open_video(path) as reader:
        return torch.stack([frame for _, frame in reader.frames_between()])


def expected(path: Path, *options: str) -> torch.Tensor:
    """What ffmpeg shows, (N, 3, H, W)."""
    return torch.from_numpy(reference_frames(path, *options)).permute(0, 3, 1, 2)


def mean_error(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first.float() - second.float()).abs().mean())


# ---- crops


def with_clean_aperture(path: Path, out: Path, *, width: int, height: int, right: int = 0, down: int = 0) -> Path:
    """An MP4 (H.264) with a `clap` box: so much is shown, its centre moved by so many pixels."""
    data = bytearray(path.read_bytes())
    box = struct.pack(">I4s8i", 40, b"clap", width, 1, height, 1, right, 1, down, 1)
    at, parents = 0, []
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = data.index(kind, at)
        parents.append(at - 4)
        at += 4
    end = parents[-1] + struct.unpack(">I", data[parents[-1] : parents[-1] + 4])[0]
    data[end:end] = box
    for parent in parents:
        size = struct.unpack(">I", data[parent : parent + 4])[0]
        data[parent : parent + 4] = struct.pack(">I", size + len(box))
    out.write_bytes(data)
    return out


@pytest.fixture(scope="module")
def cropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 128 x 96 of which 96 x 48 are to be shown, off the centre."""
    folder = tmp_path_factory.mktemp("crop")
    plain = make_video(folder / "plain.mp4", *X264, seconds=0.4)
    return with_clean_aperture(plain, folder / "clap.mp4", width=96, height=48, right=4, down=-8)


def test_a_clean_aperture_is_what_is_shown(cropped: Path) -> None:
    info = probe(cropped)
    assert (info.width, info.height) == (96, 48)
    shown, stored = frames_of(cropped), frames_of(cropped.with_name("plain.mp4"))
    assert torch.equal(shown, stored[:, :, 16:64, 20:116])
    assert torch.equal(shown, expected(cropped))


def test_the_crop_of_matroska(cropped: Path) -> None:
    path = cropped.with_name("a.mkv")
    ffmpeg("-i", cropped, "-c", "copy", path)
    assert torch.equal(frames_of(path), frames_of(cropped))
    assert (probe(path).width, probe(path).height) == (96, 48)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_crop_and_rotation_together(degrees: int, ending: str, cropped: Path) -> None:
    path = cropped.with_name(f"{degrees}.{ending}")
    ffmpeg("-display_rotation", str(degrees), "-i", cropped, "-c", "copy", path)
    info, frames = probe(path), frames_of(path)
    assert (info.width, info.height) == ((48, 96) if degrees % 180 else (96, 48))
    assert info.rotation_deg == (360 - degrees) % 360
    assert torch.equal(frames, torch.rot90(frames_of(cropped), degrees // 90, (2, 3)))
    assert torch.equal(frames, expected(path))


def test_a_crop_is_scaled_like_a_picture_of_its_size(cropped: Path) -> None:
    with open_video(cropped, max_short_side=24) as reader:
        _, _, frame = next(reader.frames_at([0.0]))
    assert frame.shape == (3, 24, 48)
    whole = torch.nn.functional.interpolate(
        frames_of(cropped)[:1].float(), (24, 48), mode="bicubic", antialias=True
    ).clamp(0, 255)
    assert (frame.float() - whole[0]).abs().mean() < 3


def test_the_crop_of_the_codec_itself(tmp_path: Path) -> None:
    crop = "h264_metadata=crop_left=4:crop_right=2:crop_top=2:crop_bottom=6"
    path = make_video(tmp_path / "a.mp4", *X264, "-bsf:v", crop, seconds=0.2)
    assert (probe(path).width, probe(path).height) == (122, 88)
    assert torch.equal(frames_of(path), expected(path))


def test_a_crop_that_leaves_nothing_is_none(cropped: Path) -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    assert Presentation(crop=(9, 9, 0, 0)).size(frame) == (16, 16)
    assert to_rgb(frame, Presentation(crop=(9, 9, 0, 0))).shape == (3, 16, 16)


# ---- shapes of pixels


@pytest.mark.parametrize(
    ("name", "codec", "aspect", "width"),
    [
        ("wide.mp4", X264, "64/45", 182),
        ("wide.mkv", X264, "64/45", 182),
        ("wide.ts", X264, "64/45", 182),
        ("wide.mpg", ["-c:v", "mpeg2video", "-q:v", "3", "-bf", "0"], "4/3", 171),  # MPEG-2 knows 4:3 and 16:9
        ("narrow.mp4", X264, "8/9", 114),
        ("pal.avi", ["-c:v", "mpeg4", "-q:v", "3"], "16/15", 137),
    ],
)
def test_pixels_become_square(name: str, codec: list[str], aspect: str, width: int, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, "-vf", f"setsar={aspect}", *codec, seconds=0.4)
    info, frames = probe(path), frames_of(path)
    assert (info.width, info.height) == (width, 96)
    assert frames.shape[1:] == (3, 96, width)
    wanted = expected(path, "-vf", f"scale={width}:96:flags=bicubic")[: len(frames)]
    assert mean_error(frames, wanted) < 5  # edges of colour are placed differently; squeezed frames differ by 30


def test_a_circle_stays_round_where_it_is_turned_too(tmp_path: Path) -> None:
    circle = "geq=lum='if(lt(hypot((X-64)*2\\,Y-48)\\,40)\\,235\\,16)':cb=128:cr=128,setsar=2"
    path = make_video(tmp_path / "a.mp4", "-vf", circle, *X264, seconds=0.2)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", path, "-c", "copy", turned)
    for file, size in ((path, (256, 96)), (turned, (96, 256))):
        info = probe(file)
        assert (info.width, info.height) == size
        bright = frames_of(file)[0, 1] > 128
        high, wide = int(bright.any(1).sum()), int(bright.any(0).sum())
        assert abs(high - wide) <= 2
        assert abs(high - 80) <= 2


def test_the_rounding_of_who_scaled_a_film_is_no_shape(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", "-vf", "scale=97:75", *X264[:4], "-pix_fmt", "yuv444p", seconds=0.2)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(100, 97)
    assert (probe(path).width, probe(path).height) == (97, 75)


def test_absurd_shapes_are_none(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", "-vf", "setsar=255/1", *X264, seconds=0.2)
    assert (probe(path).width, probe(path).height) == (128, 96)


# ---- fields


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A film of 50 fields a second, and the 50 whole pictures that it was made from."""
    folder = tmp_path_factory.mktemp("fields")
    scene = ["-f", "lavfi", "-i", "mandelbrot=s=80x60:rate=50:start_scale=1:end_scale=0.05:end_pts=60"]
    ffmpeg(*scene, "-t", "0.4", "-vf", "scale=320:240,format=yuv422p", *LOSSLESS, folder / "whole.mkv")
    ffmpeg(
        "-i", folder / "whole.mkv", "-vf", "tinterlace=interleave_top", "-c:v", "mpeg2video", "-pix_fmt", "yuv422p",
        "-flags", "+ildct+ilme", "-q:v", "1", "-bf", "0", folder / "fields.ts",
    )  # fmt: skip
    return folder / "fields.ts", frames_of(folder / "whole.mkv")


def test_interlaced_frames_show_one_moment(interlaced: tuple[Path, torch.Tensor]) -> None:
    path, whole = interlaced
    shown = frames_of(path)
    woven = expected(path)[: len(shown)]
    first, second = whole[::2][: len(shown)], whole[1::2][: len(shown)]
    assert mean_error(shown, first) < 0.5 * mean_error(woven, first)
    assert mean_error(shown, first) < 0.5 * mean_error(shown, second)


def test_a_small_picture_of_fields(interlaced: tuple[Path, torch.Tensor]) -> None:
    path, whole = interlaced
    with open_video(path, max_short_side=100) as reader:
        small = torch.stack([frame for _, frame in reader.frames_between()])
    assert small.shape[2:] == (100, 133)
    wanted = torch.nn.functional.interpolate(whole[::2].float(), (100, 133), mode="bicubic", antialias=True)
    assert mean_error(small, wanted[: len(small)]) < 6


def test_still_parts_keep_both_fields() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC))
    still = av.VideoFrame.from_ndarray(np.repeat(smooth[..., None], 3, 2), format="rgb24").reformat(format="yuv420p")
    convert = lambda frame, width, height: frame.reformat(width, height, "rgb24").to_ndarray()  # noqa: E731
    assert np.array_equal(one_moment(still, 320, 240, convert), convert(still, 320, 240))


# ---- alpha


def rgba_film(path: Path, *codec: str, hidden: tuple[int, int, int] = (255, 0, 0)) -> Path:
    """A film whose left half is solid green, and whose right half is transparent over `hidden`."""
    picture = np.zeros((48, 64, 4), np.uint8)
    picture[:, :32] = (0, 255, 0, 255)
    picture[:, 32:] = (*hidden, 0)
    Image.fromarray(picture).save(path.with_suffix(".png"))
    ffmpeg("-loop", "1", "-t", "0.2", "-i", path.with_suffix(".png"), *codec, path)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "behind"),
    [
        ("a.mov", ["-c:v", "qtrle", "-pix_fmt", "argb"], 0),
        ("prores.mov", ["-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"], 0),
        ("a.mkv", ["-c:v", "ffv1", "-pix_fmt", "yuva420p"], 0),
        ("png.mov", ["-c:v", "png"], 0),
        ("a.apng", ["-f", "apng"], 255),
        ("a.gif", ["-vf", "split[a][b];[a]palettegen=reserve_transparent=1[p];[b][p]paletteuse"], 255),
    ],
)
def test_hidden_colours_do_not_show(name: str, codec: list[str], behind: int, tmp_path: Path) -> None:
    frame = frames_of(rgba_film(tmp_path / name, *codec))[0].float()
    solid, hidden = frame[:, :, :30].mean((1, 2)), frame[:, :, 34:].mean((1, 2))
    torch.testing.assert_close(solid, torch.tensor([0.0, 255.0, 0.0]), atol=6, rtol=0)
    torch.testing.assert_close(hidden, torch.full((3,), float(behind)), atol=6, rtol=0)


def test_hidden_colours_do_not_bleed_where_pictures_are_scaled(tmp_path: Path) -> None:
    with open_video(rgba_film(tmp_path / "a.mov", "-c:v", "qtrle", "-pix_fmt", "argb"), max_short_side=12) as reader:
        _, _, frame = next(reader.frames_at([0.0]))
    assert frame.shape == (3, 12, 16)
    assert frame[0].max() < 10


def test_half_transparent_parts_are_mixed_with_the_background() -> None:
    picture = np.full((4, 4, 4), (200, 100, 50, 128), np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgba")
    assert to_rgb(frame)[:, 0, 0].tolist() == [100, 50, 25]
    assert to_rgb(frame, Presentation(background=255))[:, 0, 0].tolist() == [227, 177, 152]
    assert to_rgb(frame, Presentation(background=None))[:, 0, 0].tolist() == [200, 100, 50]


def test_alpha_in_avi_means_nothing(tmp_path: Path) -> None:
    path = rgba_film(tmp_path / "a.avi", "-c:v", "rawvideo", "-pix_fmt", "bgra")
    torch.testing.assert_close(
        frames_of(path)[0, :, :, 34:].float().mean((1, 2)), torch.tensor([255.0, 0, 0]), atol=2, rtol=0
    )


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_beside_the_pictures_of_webm(codec: str, tmp_path: Path) -> None:
    path = rgba_film(tmp_path / "a.webm", "-r", "10", "-c:v", codec, "-pix_fmt", "yuva420p", "-auto-alt-ref", "0")
    frame = frames_of(path)[0].float()
    torch.testing.assert_close(frame[:, :, :28].mean((1, 2)), torch.tensor([0.0, 255.0, 0.0]), atol=8, rtol=0)
    torch.testing.assert_close(frame[:, :, 36:].mean((1, 2)), torch.zeros(3), atol=8, rtol=0)
    assert read_views(path, Views(num_frames=2)).warnings == ()
    assert probe(path).pixel_format == "yuva420p"


def test_alpha_beside_pictures_is_the_same_at_random(tmp_path: Path) -> None:
    """The key frames of alpha need not be those of the pictures."""
    moving = "geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='255*gt(mod(X+N,64),31)'"
    path = tmp_path / "a.webm"
    film = f"testsrc2=size=64x48:rate=10:duration=6,format=yuva420p,{moving}"
    ffmpeg("-f", "lavfi", "-i", film, "-c:v", "libvpx-vp9", "-g", "8", "-pix_fmt", "yuva420p",
           "-auto-alt-ref", "0", "-deadline", "realtime", path)  # fmt: skip
    with open_video(path) as reader:
        in_order = dict(reader.frames_between())
        assert len(in_order) == 60
        for wanted in (5.5, 0.3, 3.1, 2.9, 5.9):
            ((_, at_s, frame),) = reader.frames_at([wanted])
            assert at_s == pytest.approx(wanted, abs=0.06)
            assert torch.equal(frame, in_order[at_s])
        assert reader.warnings == []


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_that_is_not_decoded_is_a_warning(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A film that is turned, and a PyAV without libvpx."""
    told = {}
    for pixels in ("yuva420p", "yuv420p"):
        path = tmp_path / f"{pixels}.webm"
        ffmpeg(*source(seconds=0.4), "-c:v", codec, "-pix_fmt", pixels, "-auto-alt-ref", "0", path)
        turned = tmp_path / f"turned_{pixels}.webm"
        ffmpeg("-display_rotation", "90", "-noautorotate", "-c:v", codec, "-i", path, "-c:v", codec, "-pix_fmt", pixels,
               "-auto-alt-ref", "0", turned)  # fmt: skip
        assert probe(turned).rotation_deg == 270
        told[pixels] = read_views(turned, Views(num_frames=2)).warnings
        assert read_views(path, Views(num_frames=2)).warnings == ()
    assert told["yuv420p"] == ()
    monkeypatch.setattr("lexivid.media._cursor._WITH_ALPHA", {codec.replace("libvpx-", ""): "no such decoder"})
    without = read_views(tmp_path / "yuva420p.webm", Views(num_frames=2)).warnings
    for warnings in (told["yuva420p"], without):
        assert len(warnings) == 1
        assert "transparency is not decoded" in warnings[0]


# ---- colours


@pytest.mark.parametrize("matrix", [*range(19), 255])
def test_every_matrix_is_shown(matrix: int, tmp_path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 120, np.uint8), format="rgb24")
    frame = frame.reformat(format="yuv420p")
    frame.colorspace = matrix
    grey = to_rgb(frame).float()
    # Without colour all matrices agree; in YCgCo-R luma alone has fewer bits than the samples.
    if matrix not in (16, 17):
        assert (grey - 120).abs().max() <= 2
    assert frame.colorspace == matrix


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_files_of_rare_matrices_are_read(matrix: int, tmp_path: Path) -> None:
    tag = f"h264_metadata=matrix_coefficients={matrix}"
    path = make_video(tmp_path / "a.mp4", *X264, "-bsf:v", tag, seconds=0.2)
    sampled = read_views(path, Views())
    assert sampled.frames.shape == (1, 16, 3, 96, 128)
    names = {8: "", 10: "BT.2020 with constant luminance", 14: "ICtCp"}
    assert bool(sampled.warnings) == bool(names[matrix])
    assert all(names[matrix] in text and "approximation" in text for text in sampled.warnings)


@pytest.mark.parametrize("full", [False, True])
def test_ycgco_is_exact(full: bool) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3))
    red, green, blue = (rgb[..., channel] / 255 for channel in range(3))
    y, cg, co = green / 2 + (red + blue) / 4, green / 2 - (red + blue) / 4, (red - blue) / 2
    planes = [255 * y, 128 + 255 * cg, 128 + 255 * co] if full else [16 + 219 * y, 128 + 224 * cg, 128 + 224 * co]
    coded = np.stack([np.clip(np.round(plane), 0, 255) for plane in planes]).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(coded, format="yuv444p")
    frame.colorspace, frame.color_range = 8, 2 if full else 1
    shown = to_rgb(frame).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(shown - rgb).max() <= 3  # the rounding of its own samples


@pytest.mark.parametrize("matrix", [16, 17])
def test_ycgco_r_is_exact(matrix: int) -> None:
    bits = 8  # of the picture; its samples have two more, or one
    samples = bits + (2 if matrix == 16 else 1)
    rgb = np.random.default_rng(0).integers(0, 1 << bits, (48, 64, 3))
    red, green, blue = (rgb[..., channel] for channel in range(3))
    co = red - blue
    base = blue + (co >> 1)
    cg = green - base
    half = 1 << (samples - 1)
    coded = np.stack([base + (cg >> 1), cg + half, co + half], axis=-1).astype(np.uint16)
    frame = av.VideoFrame(64, 48, f"yuv444p{samples}le" if samples == 10 else "yuv444p9le")
    for plane, values in zip(frame.planes, np.moveaxis(coded, 2, 0), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(48, plane.line_size)
        rows[:, :128] = np.ascontiguousarray(values).view(np.uint8)
    frame.colorspace, frame.color_range = matrix, 2
    shown = to_rgb(frame).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(shown - rgb).max() <= 2


def is_shown(frame: av.VideoFrame) -> bool:
    """False: it is refused by name."""
    try:
        return to_rgb(frame).shape == (3, 16, 16)
    except MediaError as error:
        refusal = str(error)
    assert f"stored as {frame.format.name}" in refusal
    return False


def test_every_pixel_format_is_shown_or_refused() -> None:
    shown = set()
    for name in sorted(av.video.format.names):
        if name in _colour._UNSAFE:
            with pytest.raises(MediaError, match=name):
                _colour._scaled(Tagged(name), 16, 16, "rgb24")
            continue
        try:
            frame = av.VideoFrame(16, 16, name)
        except (ValueError, av.error.FFmpegError):
            continue  # of a graphics card
        outcomes = set()
        for tags in ((2, 2, 2, 0), (8, 16, 9, 1), (14, 18, 9, 1), (255, 255, 255, 3)):
            frame.colorspace, frame.color_trc, frame.color_primaries, frame.color_range = tags
            outcomes.add(is_shown(frame))
        assert len(outcomes) == 1, name  # its colours do not decide
        if outcomes == {True}:
            shown.add(name)
    odd = "gbrap16le gray10le pal8 yuva444p12le xyz12le monob monow bayer_rggb8 bayer_gbrg16le gbrpf32le rgb565le nv12"
    assert set(odd.split()) <= shown
    assert len(shown) > 200


class Tagged:
    """A frame of a format that may not be made."""

    def __init__(self, name: str) -> None:
        self.format = type("Format", (), {"name": name})


# ---- HDR


def pq(nits: float) -> float:
    root = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * root) / (1 + 2392 / 128 * root)) ** (2523 / 32)


def hdr_frame(code: tuple[float, float, float], transfer: int, primaries: int = 9) -> av.VideoFrame:
    picture = np.empty((16, 16, 3), np.uint16)
    picture[:] = [round(65535 * value) for value in code]
    frame = av.VideoFrame.from_ndarray(picture, format="rgb48le")
    frame = frame.reformat(format="yuv444p10le", dst_colorspace=9, dst_color_range=1)
    frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, transfer, primaries
    return frame


@pytest.mark.parametrize(
    ("nits", "value"),
    # Below the knee (about 90 nits) SDR of the same light: 255 (nits / 203) ** (1 / 2.4). Above it: rolled off.
    [(0, 0), (1, 28), (10, 73), (50, 142), (80, 173), (203, 230), (1000, 255), (10000, 255)],
)
def test_pq_is_shown_as_a_screen_shows_it(nits: float, value: int) -> None:
    shown = to_rgb(hdr_frame((pq(nits),) * 3, 16))[:, 8, 8].tolist()
    assert shown == pytest.approx([value] * 3, abs=2)


def test_hlg_and_pq_of_the_same_light_look_alike() -> None:
    for scene in (0.01, 0.05, 0.2, 0.6):
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        code = np.sqrt(3 * scene) if scene <= 1 / 12 else a * np.log(12 * scene - b) + c
        hlg = to_rgb(hdr_frame((float(code),) * 3, 18))[0, 8, 8]
        same = to_rgb(hdr_frame((pq(1000 * scene**1.2),) * 3, 16))[0, 8, 8]
        assert int(hlg) == pytest.approx(int(same), abs=2)


def test_wide_primaries_become_those_of_a_screen() -> None:
    red = np.array([0.6274, 0.0691, 0.0164]) ** (1 / 2.4)  # BT.709's red, in those of BT.2020
    assert to_rgb(hdr_frame(tuple(red), 14))[:, 8, 8].tolist() == pytest.approx([255, 0, 0], abs=12)
    bright = np.array([pq(60 * x) for x in (0.6274, 0.0691, 0.0164)])
    shown = to_rgb(hdr_frame(tuple(bright), 16))[:, 8, 8].tolist()
    assert shown == pytest.approx([round(255 * (60 / 203) ** (1 / 2.4)), 0, 0], abs=12)


def test_an_hdr_file_is_as_bright_as_its_sdr_twin(tmp_path: Path) -> None:
    tags = "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc:range=tv"
    # A ramp of 0..100 nits, in the codes of PQ: from 0 to 0.508 of full scale.
    ramp = "geq=lum='64+876*0.508*X/W':cb=512:cr=512,format=yuv420p10le"
    path = make_video(tmp_path / "a.mkv", "-vf", f"format=yuv420p10le,{ramp},{tags}", *LOSSLESS, seconds=0.1)
    row = frames_of(path)[0, 1].float().mean(0)
    as_coded = expected(path)[0, 1].float().mean(0)
    assert as_coded.max() < 135
    assert row.max() == pytest.approx(186, abs=4)  # 95 of 203 nits
    assert (row.diff() >= -1).all()


# ---- delays


@pytest.mark.parametrize(
    ("delays", "times_s", "duration_s"),
    [
        ([0, 0, 0], [0, 0.1, 0.2], 0.3),
        ([1, 1, 1], [0, 0.1, 0.2], 0.3),
        ([1, 5, 1, 2], [0, 0.1, 0.15, 0.25], 0.27),
        ([2, 3, 4], [0, 0.02, 0.05], 0.09),
    ],
)
def test_delays_of_a_gif_are_those_of_a_viewer(
    delays: list[int], times_s: list[float], duration_s: float, tmp_path: Path
) -> None:
    pictures = [Image.new("RGB", (16, 16), (60 * number, 0, 0)) for number in range(len(delays))]
    path = tmp_path / "a.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=70, loop=0)
    data, at = bytearray(path.read_bytes()), 0
    for delay in delays:
        at = data.index(b"\x21\xf9\x04", at) + 4
        data[at : at + 2] = struct.pack("<H", delay)
    path.write_bytes(data)
    with open_video(path) as reader:
        assert reader.info.duration_s == pytest.approx(duration_s)
        assert reader.info.frame_rate == pytest.approx(len(delays) / duration_s, rel=0.01)
        assert [at_s for at_s, _ in reader.frames_between()] == pytest.approx(times_s)
        inside = [at_s + 0.01 for at_s in times_s]
        shown = [int(frame[0, 0, 0]) for _, _, frame in reader.frames_at(inside)]
        assert shown == [60 * number for number in range(len(delays))]
        assert reader.warnings == []


# ---- which stream


def programmes(path: Path) -> Path:
    """A transport stream: a small film with a low tone, a large one with a high tone, stored crosswise."""
    small, large = source(size="64x36", seconds=1), source(size="128x96", seconds=1)
    tones = [x for hz in (200, 3000) for x in ("-f", "lavfi", "-i", f"sine=frequency={hz}:duration=1")]
    ffmpeg(
        *small, *large, *tones, "-map", "2", "-map", "3", "-map", "0", "-map", "1", *X264, "-c:a", "mp2",
        "-program", "title=small:st=0:st=2", "-program", "title=large:st=1:st=3", path,
    )  # fmt: skip
    return path


def pitch_hz(path: Path) -> float:
    wave = read_waveform(path)[2000:14000].numpy()
    return float(np.abs(np.fft.rfft(wave)).argmax() * 16000 / len(wave))


def test_picture_and_sound_are_of_one_programme(tmp_path: Path) -> None:
    path = programmes(tmp_path / "a.ts")
    info = probe(path)
    assert (info.width, info.num_video_streams, info.num_audio_streams) == (128, 2, 2)
    assert pitch_hz(path) == pytest.approx(3000, abs=50)
    assert "the largest picture" in info.stream_choice
    assert "of the programme of the pictures" in info.stream_choice
    with av.open(str(path)) as container:
        assert container.streams[info.video_stream].width == 128
        assert container.streams[info.audio_stream].type == "audio"
    (warning,) = read_views(path, Views()).warnings
    assert "several films" in warning
    assert info.stream_choice in warning


def test_the_default_streams_are_taken(tmp_path: Path) -> None:
    inputs = [*source(size="64x48", seconds=1), *source(size="128x72", seconds=1)]
    tones = [x for hz in (200, 3000) for x in ("-f", "lavfi", "-i", f"sine=frequency={hz}:duration=1")]
    kinds = ["-disposition:v:0", "default", "-disposition:v:1", "0", "-disposition:a:0", "0"]
    maps = [x for number in range(4) for x in ("-map", str(number))]
    path = tmp_path / "a.mkv"
    ffmpeg(*inputs, *tones, *maps, *X264, "-ac:a:0", "2", *kinds, "-disposition:a:1", "default", path)
    info = probe(path)
    assert (info.width, info.video_stream, info.audio_stream) == (64, 0, 3)
    assert pitch_hz(path) == pytest.approx(3000, abs=50)
    assert "the file's default" in info.stream_choice


@pytest.mark.parametrize("codec", ["png", "mjpeg"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_cover_that_is_an_ordinary_track_is_no_film(is_first: bool, codec: str, tmp_path: Path) -> None:
    Image.new("RGB", (400, 400), "red").save(tmp_path / "cover.png")
    maps = ["-map", "1", "-map", "0:v"] if is_first else ["-map", "0:v", "-map", "1"]
    cover, film = (0, 1) if is_first else (1, 0)
    path = tmp_path / "a.mkv"
    ffmpeg(
        *source(seconds=2), "-i", tmp_path / "cover.png", *maps, *X264, f"-c:v:{cover}", codec,
        f"-pix_fmt:v:{cover}", "rgb24" if codec == "png" else "yuvj420p", path,
    )  # fmt: skip
    info = probe(path)
    assert (info.width, info.num_video_streams, info.video_stream) == (128, 1, film)
    assert info.duration_s == pytest.approx(2.0, abs=0.05)
    assert read_views(path, Views()).warnings == ()


def test_a_second_film_of_jpegs_is_a_film(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    ffmpeg(
        *source(seconds=2), *source(size="64x48", seconds=2), "-map", "0", "-map", "1", "-c:v:0", "ffv1",
        "-c:v:1", "mjpeg", path,
    )  # fmt: skip
    assert probe(path).num_video_streams == 2
    assert "several films" in read_views(path, Views()).warnings[0]


def test_commentary_and_cover_art_are_no_choice(tmp_path: Path) -> None:
    Image.new("RGB", (400, 400), "red").save(tmp_path / "cover.png")
    tones = [x for hz in (200, 3000) for x in ("-f", "lavfi", "-i", f"sine=frequency={hz}:duration=1")]
    path = tmp_path / "a.mp4"
    ffmpeg(
        "-i", tmp_path / "cover.png", *source(seconds=1), *tones, "-map", "0", "-map", "1", "-map", "2", "-map", "3",
        "-c:v:0", "png", "-c:v:1", "libx264", "-pix_fmt:v:1", "yuv420p", "-disposition:v:0", "attached_pic",
        "-ac:a:0", "2", "-disposition:a:0", "comment", "-disposition:a:1", "0", path,
    )  # fmt: skip
    info = probe(path)
    assert (info.width, info.num_video_streams) == (128, 1)
    assert read_views(path, Views()).warnings == ()
    with av.open(str(path)) as container:  # MP4 keeps no such disposition everywhere
        if container.streams.audio[0].disposition & av.stream.Disposition.comment:
            assert pitch_hz(path) == pytest.approx(3000, abs=50)


def test_one_stream_each_is_no_choice(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", *X264, seconds=0.2)
    info = probe(path)
    assert (info.video_stream, info.audio_stream, info.num_video_streams, info.stream_choice) == (0, None, 1, "")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "a.wav")
    sound = probe(tmp_path / "a.wav")
    assert (sound.video_stream, sound.audio_stream, sound.num_video_streams, sound.num_audio_streams) == (None, 0, 0, 1)


def test_an_animated_avif_gives_all_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    halves = [x for colour in ("red", "blue") for x in ("-f", "lavfi", "-i", f"color={colour}:s=64x48:r=2:d=1")]
    ffmpeg(*halves, "-filter_complex", "concat", "-c:v", "libaom-av1", "-cpu-used", "8", path)
    sampled = read_views(path, Views())
    red = sampled.frames[0, :, 0].float().mean((1, 2)) > 128
    assert red.tolist() == [True] * 8 + [False] * 8
    assert len(frames_of(path)) == 4
    assert sampled.warnings == ()
    assert probe(path).duration_s == pytest.approx(2.0)


def test_a_still_avif_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48", "-frames:v", "1", "-c:v", "libaom-av1", "-cpu-used", "8", path)
    assert "is a still picture (AVIF); Lexivid classifies videos" in why(os.fspath(path))


# ---- Dolby Vision


def dolby_vision(path: Path, plain: Path, *, tag: bytes, record: tuple[int, int] | None) -> Path:
    """An MP4 of 10-bit HEVC with another tag and Dolby Vision's configuration record: (profile, compatibility)."""
    data = bytearray(plain.read_bytes())
    entry = data.index(b"stsd") + 12
    size = int.from_bytes(data[entry : entry + 4], "big")
    data[entry + 4 : entry + 8] = tag
    if record is not None:
        profile, compatible = record
        flags = profile << 9 | 6 << 3 | 0b101  # level 6, with metadata and base layer
        box = struct.pack(">I4sBBHI16x", 32, b"dvcC", 1, 0, flags, compatible << 28)
        data[entry + size : entry + size] = box
        for at in [entry, *(data.index(name) - 4 for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"))]:
            data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + len(box)).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def ten_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dolby") / "plain.mp4"
    ffmpeg(*source(seconds=0.2), "-c:v", "libx265", "-x265-params", "log-level=none", "-tag:v", "hvc1", "-pix_fmt",
           "yuv420p10le", path)  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("tag", "record", "said"),
    [
        (b"hvc1", (5, 0), "Dolby Vision of profile 5, made"),
        (b"dvh1", (5, 0), "Dolby Vision of profile 5, made"),
        (b"dvh1", None, "Dolby Vision, made"),
        (b"dvhe", None, "Dolby Vision, made"),
        (b"hvc1", (8, 1), None),
        (b"dvh1", (8, 4), None),
        (b"dvhe", (7, 6), None),
        (b"hvc1", None, None),
    ],
)
def test_dolby_vision_that_others_cannot_show(
    tag: bytes, record: tuple[int, int] | None, said: str | None, ten_bits: Path, tmp_path: Path
) -> None:
    path = dolby_vision(tmp_path / "a.mp4", ten_bits, tag=tag, record=record)
    warnings = read_views(path, Views(num_frames=2)).warnings
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]
