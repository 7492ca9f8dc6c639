"""The texture of pictures, and flow of it: light that changes is not taken for motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flow_scenes import distance, moved, write_moving_texture
from typer.testing import CliRunner

from lexivid.backbones import ImageProcessing
from lexivid.cli import app
from lexivid.data.sampling import SampleSpec
from lexivid.errors import LexividError
from lexivid.media._texture import SHARE, THETA, texture_of
from lexivid.media.flow import flow, flow_file

ALGORITHMS = ("tvl1-fast", "dis")


def _lit(pictures: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(pictures * factor, 0, 255).round().astype(np.uint8)


def test_structure_of_a_step_is_the_exact_minimiser() -> None:
    """Of a step between halves of width w each side comes nearer to the other by theta / w, and stays flat."""
    width = 4
    grey = torch.full((1, 6, 2 * width), 60.0)
    grey[..., width:] = 190.0
    found = 127.5 + (grey - texture_of(grey)) / SHARE  # of T = 127.5 + (I - 127.5) - share (S - 127.5)
    assert torch.allclose(found[..., :width], torch.tensor(60 + THETA / width), atol=0.5)
    assert torch.allclose(found[..., width:], torch.tensor(190 - THETA / width), atol=0.5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_still_picture_in_changing_light_stands_still(algorithm: str) -> None:
    if algorithm == "dis":
        pytest.importorskip("cv2")
    still = moved("smooth", 96, 128)[0][None]
    plain = flow(still, _lit(still, 0.85), algorithm=algorithm).norm(dim=1).mean()  # type: ignore[arg-type]
    found = flow(still, _lit(still, 0.85), algorithm=algorithm, texture=True).norm(dim=1).mean()  # type: ignore[arg-type]
    assert found < 0.12
    if algorithm != "dis":  # which takes out the mean of its patches
        assert plain > 10 * found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_motion_is_still_seen(algorithm: str) -> None:
    if algorithm == "dis":
        pytest.importorskip("cv2")
    for kind in ("translation", "smooth"):
        first, second, truth = moved(kind, 96, 128)
        for light in (1.0, 0.85):
            found = flow(first[None], _lit(second, light)[None], algorithm=algorithm, texture=True)[0]  # type: ignore[arg-type]
            inside = distance(found, truth)[12:-12, 12:-12]
            assert inside.mean() < 0.35, (kind, light)


def test_texture_of_nothing_and_of_one_pixel() -> None:
    assert texture_of(torch.zeros(0, 4, 5)).shape == (0, 4, 5)
    assert texture_of(torch.full((1, 1, 1), 255.0)).item() == pytest.approx(127.5 + (1 - SHARE) * 127.5, abs=1e-3)
    with pytest.raises(LexividError, match="must match"):
        flow(torch.zeros(1, 20, 20), torch.zeros(1, 20, 24), texture=True)


def test_on_the_command_line(tmp_path: Path) -> None:
    path = write_moving_texture(tmp_path / "moves.mp4", num_frames=3)
    flow_file(path, tmp_path / "expected.npz", algorithm="tvl1-fast", texture=True)
    words = ["flow", str(path), "--out", str(tmp_path / "found.npz"), "--algorithm", "tvl1-fast", "--texture"]
    called = CliRunner().invoke(app, words)
    assert called.exit_code == 0, called.output
    expected, found = np.load(tmp_path / "expected.npz"), np.load(tmp_path / "found.npz")
    assert bool(found["texture"])
    assert np.array_equal(expected["flow"], found["flow"])


def test_of_a_file(tmp_path: Path) -> None:
    path = write_moving_texture(tmp_path / "moves.mp4")
    flow_file(path, tmp_path / "plain.npz", algorithm="tvl1-fast")
    flow_file(path, tmp_path / "texture.npz", algorithm="tvl1-fast", texture=True)
    plain, found = np.load(tmp_path / "plain.npz"), np.load(tmp_path / "texture.npz")
    assert (bool(plain["texture"]), bool(found["texture"])) == (False, True)
    assert not np.array_equal(plain["flow"], found["flow"])
    assert np.median(found["flow"][:, 0]) == pytest.approx(2, abs=0.2)


def test_cached_flow_is_that_which_was_asked_for() -> None:
    images = ImageProcessing(32, 32, (0.5,) * 3, (0.5,) * 3)
    plain, found = (SampleSpec(images, flow_texture=value).flow_of_frames for value in (False, True))
    assert plain is not None
    assert found is not None
    assert plain.key() == ["tvl1", 32]  # as it was before there was a choice
    assert found.key() != plain.key()
