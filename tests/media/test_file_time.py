"""Times count from the start of a file, as a player shows them: with pictures after the sound, and sound after them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from colours import colour_classifier
from media_files import ffmpeg

from lexivid.backbones import ImageProcessing
from lexivid.data import _reading
from lexivid.data.clips import Clip
from lexivid.data.hops import HopReader
from lexivid.data.sampling import SampleSpec, read_parts
from lexivid.errors import MediaError
from lexivid.media.decode import probe
from lexivid.media.flow import flow_file

LATE_S = 1.5
ENDINGS = ("mp4", "mkv", "ts")
IMAGES = ImageProcessing(32, 32, (0.5,) * 3, (0.5,) * 3)
SPEC = SampleSpec(IMAGES, ("video", "audio"), train=False, num_frames=4, stride=None, audio_s=1.0)


def _film(path: Path, *, pictures_at: float, sound_at: float, loud_from: float) -> Path:
    """Red for 2 s, then blue for 2 s; sound for 4 s, silent until a time of the file. 10 frames a second."""
    colours = (
        "color=red:size=64x48:rate=10:duration=2[a];color=blue:size=64x48:rate=10:duration=2[b];[a][b]concat[out0]"
    )
    tone = f"aevalsrc=if(gte(t\\,{loud_from - sound_at})\\,0.5*sin(2764*t)\\,0):s=16000:d=4"
    picture = ["-itsoffset", str(pictures_at), "-f", "lavfi", "-i", colours]
    sound = ["-itsoffset", str(sound_at), "-f", "lavfi", "-i", tone]
    ffmpeg(*picture, *sound, "-c:v", "libx264", "-bf", "0", "-g", "5", "-pix_fmt", "yuv420p", "-c:a", "aac", path)
    return path


@pytest.fixture(scope="module", params=ENDINGS)
def late_pictures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound from the start, red from 1.5 s, blue and loud from 3.5 s."""
    path = tmp_path_factory.mktemp("films") / f"late.{request.param}"
    return _film(path, pictures_at=LATE_S, sound_at=0, loud_from=LATE_S + 2)


@pytest.fixture(scope="module", params=ENDINGS)
def late_sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures from the start, blue from 2 s; sound from 1.5 s, loud from 2 s."""
    path = tmp_path_factory.mktemp("films") / f"sound.{request.param}"
    return _film(path, pictures_at=0, sound_at=LATE_S, loud_from=2)


def _colour(frame: torch.Tensor) -> str:
    """Of a frame (3, H, W) uint8, or several."""
    means = frame.float().mean((-1, -2)).reshape(-1, 3).mean(0)
    return ("red", "green", "blue")[int(means.argmax())]


def _check_times(path: Path, offset_s: float, out: Path) -> None:
    info = probe(path)
    assert info.video_start_s == pytest.approx(offset_s, abs=0.07)
    cut_s = info.video_start_s + 2
    assert info.duration_s == pytest.approx(4.0, abs=0.06)
    assert info.end_s == pytest.approx(offset_s + 4, abs=0.1)

    classifier = colour_classifier()
    found = classifier.classify(path, "red, green, blue", timeline_s=0.4, num_thumbnails=8)
    first, second = found.segments or ()
    assert (first.labels[0].label, second.labels[0].label) == ("red", "blue")
    assert first.start_s == 0  # before the first picture the first picture counts
    assert first.end_s == second.start_s == pytest.approx(cut_s, abs=0.21)
    assert second.end_s == found.duration_s == pytest.approx(info.end_s, abs=0.05)
    whole = classifier.classify(path, "red, green, blue", num_thumbnails=8)
    assert whole.duration_s == pytest.approx(info.end_s)
    for prediction in (found, whole):
        assert prediction.thumbnails[0][0] == pytest.approx(offset_s, abs=0.31)
        for at_s, frame in prediction.thumbnails:
            assert offset_s - 0.05 <= at_s < info.end_s
            assert _colour(frame) == ("red" if at_s < cut_s - 1e-3 else "blue")

    flow_file(path, out / "part.npz", algorithm="tvl1-fast", short_side=16, start_s=cut_s - 0.5, end_s=cut_s + 0.5)
    times = np.load(out / "part.npz")["times_s"]
    np.testing.assert_allclose(times, times[0] + np.arange(len(times)) / 10, atol=0.01)
    assert times[0] == pytest.approx(cut_s - 0.5, abs=0.11)
    assert times[-1] == pytest.approx(cut_s + 0.4, abs=0.11)
    flow_file(path, out / "whole.npz", algorithm="tvl1-fast", short_side=16)
    times = np.load(out / "whole.npz")["times_s"]
    assert len(times) == 39
    assert times[0] == pytest.approx(offset_s, abs=0.07)


def _check_parts(path: Path) -> None:
    """A clip before the cut is red and silent, one after it blue and loud; hops too."""
    cut_s = probe(path).video_start_s + 2
    before, _ = read_parts(Clip(str(path), ("x",), end_s=cut_s - 0.15), SPEC, (0,))
    after, _ = read_parts(Clip(str(path), ("x",), start_s=cut_s + 0.15), SPEC, (0,))
    assert (_colour(before["frames"]), _colour(after["frames"])) == ("red", "blue")
    assert "log_mel" not in before
    assert float(after["log_mel"].mean()) > float(after["log_mel"].min())

    reader = HopReader(probe(path), SPEC, 0.5)
    loud: list[bool] = []
    colours: list[str] = []
    for hops in reader:
        colours += [_colour(views) for views in hops.views["video"]]
        loud += [sound is not None and float(sound.amax()) > -5 for sound in hops.sound]
        assert all(_colour(frame) == ("red" if at_s < cut_s - 1e-3 else "blue") for at_s, frame in hops.pictures)
    hop = round(cut_s / 0.5)
    assert set(colours[: hop - 1]) == {"red"}
    assert set(colours[hop + 1 : -1]) == {"blue"}
    assert not any(loud[: hop - 1])
    assert all(loud[hop + 1 : 11 - 3])


def test_pictures_that_begin_after_the_sound(late_pictures: Path, tmp_path: Path) -> None:
    _check_times(late_pictures, LATE_S, tmp_path)
    _check_parts(late_pictures)
    with pytest.raises(MediaError, match=r"the clip ends at 1 s, before the first picture at 1\.5"):
        read_parts(Clip(str(late_pictures), ("x",), end_s=1.0), SPEC, (0,))
    with pytest.raises(MediaError, match=r"the clip begins at 6 s, but the pictures end at 5\.5"):
        read_parts(Clip(str(late_pictures), ("x",), start_s=6.0), SPEC, (0,))
    with pytest.raises(MediaError, match="no two frames 1 apart between 0 and 1 s"):
        flow_file(late_pictures, tmp_path / "none.npz", end_s=1.0)


def test_sound_that_begins_after_the_pictures(late_sound: Path, tmp_path: Path) -> None:
    _check_times(late_sound, 0.0, tmp_path)
    _check_parts(late_sound)
    heard, _ = _reading.read_log_mel(probe(late_sound), start_s=0.0, end_s=4.0)
    assert heard is not None
    assert heard.shape[1] == pytest.approx(400, abs=5)
