"""Flow as pictures, the mirror, the choice of algorithm, and the flow of a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from flow_scenes import distance, moved, write_moving_texture
from PIL import Image

from lexivid.errors import LexividError, MediaError, MissingExtraError
from lexivid.media.flow import (
    flow,
    flow_file,
    flow_to_color,
    flow_to_image,
    image_to_flow,
    mirror_flow_image,
)
from lexivid.media.tvl1 import tvl1


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_moving_texture(tmp_path / "clip.mp4")


# ---- pictures ----


def test_flow_to_image_is_the_papers_mapping() -> None:
    values = torch.tensor([-25.0, -20.0, -10.0, 0.0, 10.0, 20.0, 25.0])
    field = torch.stack((values, -values))[None, :, None]  # (1, 2, 1, 7)
    image = flow_to_image(field)
    assert image.dtype == torch.uint8
    assert image.shape == (1, 3, 1, 7)
    assert image[0, 0, 0].tolist() == [0, 0, 64, 128, 191, 255, 255]  # 63.75, 127.5 and 191.25 in between
    assert image[0, 1, 0].tolist() == [255, 255, 191, 128, 64, 0, 0]
    assert (image[0, 2] == 128).all()
    assert (image_to_flow(image) - field.clamp(-20, 20)).abs().max() <= 20 / 255 + 1e-6


def test_mirror_is_the_flow_of_the_mirrored_video() -> None:
    first, second, _ = moved("rotation", 40, 56)
    straight = flow_to_image(tvl1(first[None], second[None]))
    mirrored = flow_to_image(tvl1(first[None, :, ::-1], second[None, :, ::-1]))
    difference = (mirror_flow_image(straight).int() - mirrored.int()).abs().float()
    assert difference.mean() <= 1.0  # TV-L1's one-sided differences are not exactly symmetric
    assert (
        mirror_flow_image(torch.tensor([[[0, 128, 255]]] * 3))[:, 0].tolist() == [[0, 127, 255]] + [[255, 128, 0]] * 2
    )
    assert torch.equal(mirror_flow_image(mirror_flow_image(straight)), straight)


def test_color_wheel() -> None:
    pytest.importorskip("flow_vis")
    field = torch.zeros(2, 2, 4, 5)
    field[1, 0] = 40.0
    pictures = flow_to_color(field)
    assert pictures.shape == (2, 3, 4, 5)
    assert (pictures[0] == 255).all()  # no motion is white
    field[1, 0] = 20.0
    assert torch.equal(flow_to_color(field)[1], pictures[1])  # beyond the bound nothing changes
    assert flow_to_color(field[:0]).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("function", [flow_to_image, flow_to_color])
def test_pictures_of_something_else(function: object) -> None:
    with pytest.raises(LexividError, match="must be"):
        function(torch.zeros(2, 3, 4, 5))  # type: ignore[operator]


# ---- the algorithms ----


def test_algorithms() -> None:
    pytest.importorskip("cv2")
    first, second, truth = moved("translation", 64, 80)
    for algorithm in ("tvl1", "tvl1-fast", "dis"):
        found = flow(first[None], second[None], algorithm=algorithm)  # type: ignore[arg-type]
        assert found.shape == (1, 2, 64, 80)
        assert distance(found[0], truth)[8:-8, 8:-8].mean() < 0.5
    with pytest.raises(LexividError, match="'farneback': choose tvl1, tvl1-fast, dis"):
        flow(first[None], second[None], algorithm="farneback")  # type: ignore[arg-type]
    with pytest.raises(LexividError, match="must match: first is 1x64x80, second 1x64x79"):
        flow(first[None], second[None, :, 1:], algorithm="dis")
    with pytest.raises(LexividError, match="at least 16 x 16"):
        flow(first[None, :8], second[None, :8], algorithm="dis")


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    black = np.zeros((1, 20, 20), np.uint8)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"lexivid\[dis\]"):
        flow(black, black, algorithm="dis")
    monkeypatch.setitem(sys.modules, "flow_vis", None)
    with pytest.raises(MissingExtraError, match=r"lexivid\[flow\]"):
        flow_to_color(torch.zeros(1, 2, 4, 4))


# ---- files ----


def test_file_of_data(video: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    summary = flow_file(video, tmp_path / "flow.npz", on_progress=lambda *progress: seen.append(progress))
    assert (summary.num_pairs, summary.height, summary.width, summary.warnings) == (6, 48, 64, ())
    assert seen[-1] == (6, 6)
    with np.load(tmp_path / "flow.npz") as data:
        assert data["flow"].shape == (6, 2, 48, 64)
        assert data["flow"].dtype == np.float32
        np.testing.assert_allclose(data["times_s"], np.arange(6) / 10, atol=1e-6)
        assert (str(data["algorithm"]), float(data["frame_rate"]), int(data["gap"])) == ("tvl1", 10.0, 1)
        assert np.median(data["flow"][:, 0]) == pytest.approx(2, abs=0.2)
        assert np.median(data["flow"][:, 1]) == pytest.approx(0, abs=0.2)


def test_folder_of_pictures(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    out.mkdir()  # an empty folder may be there
    flow_file(video, out, short_side=24, every=2)
    assert sorted(path.name for path in out.iterdir()) == ["000000.png", "000001.png", "000002.png", "flow.json"]
    with Image.open(out / "000001.png") as picture:
        assert (picture.size, picture.mode) == ((32, 24), "RGB")
        assert (np.asarray(picture)[..., 2] == 128).all()
    facts = json.loads((out / "flow.json").read_text())
    assert facts["times_s"] == pytest.approx([0.0, 0.2, 0.4])
    assert (facts["frame_rate"], facts["bound_px"]) == (5.0, 20.0)
    with pytest.raises(LexividError, match="already holds files"):
        flow_file(video, out)


def test_video_to_look_at(tmp_path: Path) -> None:
    pytest.importorskip("flow_vis")
    video = write_moving_texture(tmp_path / "clip.mp4", size=(30, 50))
    out = tmp_path / "flow.mp4"
    flow_file(video, out, short_side=25, gap=2)  # 25 x 41 or so: odd sides
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(frames) == 5
    assert frames[0].shape[0] == 24
    assert frames[2][12, 20].min() < 250  # coloured: it moves


def test_part_of_a_file(video: Path, tmp_path: Path) -> None:
    flow_file(video, tmp_path / "flow.npz", start_s=0.2, end_s=0.5, algorithm="tvl1-fast")
    with np.load(tmp_path / "flow.npz") as data:
        np.testing.assert_allclose(data["times_s"], [0.2, 0.3], atol=1e-6)


def test_whole_or_not_at_all(video: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    for name in ("flow.npz", "flow.mp4", "pictures"):
        with pytest.raises(KeyboardInterrupt):
            flow_file(video, tmp_path / name, on_progress=stop)
        assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "flow.npz").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        flow_file(video, tmp_path / "flow.npz", on_progress=stop)
    assert (tmp_path / "flow.npz").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("flow.avi", {}, "FILE.mp4, FILE.npz or a folder, not as .avi"),
        ("missing/flow.npz", {}, "does not exist"),
        ("clip.mp4", {}, "the video itself"),
        ("flow.npz", {"every": 0}, "every must be at least 1"),
        ("flow.npz", {"gap": -1}, "gap must be at least 1"),
        ("flow.npz", {"start_s": 2.0, "end_s": 1.0}, "start < end"),
        ("flow.npz", {"start_s": float("nan")}, "start < end"),
        ("flow.npz", {"algorithm": "raft"}, "unknown flow algorithm 'raft'"),
        ("flow.npz", {"gap": 7}, "no two frames 7 apart"),
    ],
)
def test_unusable_calls_say_why(
    video: Path, tmp_path: Path, out: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(LexividError, match=message):
        flow_file(video, tmp_path / out, **options)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]


def test_one_frame_has_no_flow(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no two frames"):
        flow_file(write_moving_texture(tmp_path / "one.mp4", num_frames=1), tmp_path / "flow.npz")
    with pytest.raises(MediaError):
        flow_file(tmp_path / "nothing.mp4", tmp_path / "flow.npz")


@pytest.mark.slow
def test_real_clips(media: Path, tmp_path: Path) -> None:
    for name in ("man_waving_bw.avi", "flipping_pancake.mkv", "rock_climbing_indoor.mp4"):
        summary = flow_file(media / "clips" / name, tmp_path / f"{name}.npz", end_s=1.0, every=2)
        with np.load(tmp_path / f"{name}.npz") as data:
            assert data["flow"].shape == (summary.num_pairs, 2, summary.height, summary.width)
            assert (np.diff(data["times_s"]) > 0).all()
            assert np.isfinite(data["flow"]).all()
