"""data/loading.py and data/batches.py: the right frames, pairs and sounds; samples that depend on (seed, epoch, index)
alone; what cannot be read is counted and never replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from media_files import ffmpeg, make_video, reference_frames, source
from torch import Tensor

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.data import _reading, sampling
from lexivid.data.cache import ClipCache
from lexivid.data.clips import Clip
from lexivid.data.loader import batch_lists, make_loader
from lexivid.data.sampling import ClipSamples, SampleSpec
from lexivid.errors import LexividError
from lexivid.media.audio import read_waveform
from lexivid.media.decode import read_views
from lexivid.media.flow import flow, flow_to_image
from lexivid.media.spectrogram import spectrogram, views_of, window_of
from lexivid.media.views import Views

IMAGES = ImageProcessing(resize_to=48, crop_size=40, mean=(0.5,) * 3, std=(0.5,) * 3)
ALL = ("video", "flow", "audio")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
SPEC = SampleSpec(IMAGES, ALL, num_frames=4, stride=None, work_size=48, audio_s=1.0, colour=0.2)
STREAMS = ("video", "flow", "audio", "mask")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small files of many kinds. `both`: 2 s of pictures, 50 frames of 64 x 48, and of a rising tone."""
    root = tmp_path_factory.mktemp("clips")
    tone = ["-f", "lavfi", "-i", "aevalsrc=0.3*sin(400*(1+t)*t):s=16000:d=2"]
    made = {"both": root / "both.mp4", "silent": root / "silent.mp4", "sound": root / "sound.wav"}
    ffmpeg(*source(size="64x48"), *tone, *H264, "-c:a", "aac", made["both"])
    make_video(made["silent"], *H264, size="48x64")
    ffmpeg(*tone, made["sound"])
    made["one_frame"] = root / "one_frame.mp4"
    ffmpeg(*source(size="64x48"), "-frames:v", "1", *H264, made["one_frame"])
    made["blip"] = root / "blip.wav"  # 20 ms: less than one window
    ffmpeg(*tone, "-t", "0.02", made["blip"])
    made["text"] = root / "text.mp4"
    made["text"].write_text("no video at all\n" * 100)
    made["damaged"] = root / "damaged.mp4"
    made["damaged"].write_bytes(b"\0" * 5000)
    made["empty"] = root / "empty.mp4"
    made["empty"].write_bytes(b"")
    made["missing"] = root / "missing.mp4"
    return made


def _clips(*paths: Path) -> list[Clip]:
    return [Clip(str(path), ("a",)) for path in paths]


def _samples(spec: SampleSpec, *paths: Path, **kwargs: object) -> ClipSamples:
    return ClipSamples(_clips(*paths), spec, classes=["a"], **kwargs)  # type: ignore[arg-type]


def _same(first: dict, second: dict) -> bool:
    return all(
        first[k] is second[k] is None or (first[k] is not None and torch.equal(first[k], second[k])) for k in STREAMS
    )


# ---- what is read


@pytest.mark.parametrize(
    ("views", "images"),
    [
        (Views(4), IMAGES),
        (Views(4, 2, 3, stride=5, stride_rate="native"), IMAGES),
        (Views(3, 2, 1, stride=None), IMAGES),
        (Views(3, 1, 1, stride=4, stride_rate="native"), replace(IMAGES, fit="squash", resize_to=40)),
        (Views(3, 1, 3, stride=4, stride_rate="native"), replace(IMAGES, fit="squash", resize_to=40)),
    ],
)
def test_views_are_those_of_the_classifier(files: dict[str, Path], views: Views, images: ImageProcessing) -> None:
    """Pictures as `Classifier` sees them, the clips in time running fastest."""
    spec = SampleSpec(
        images,
        ("video",),
        train=False,
        num_frames=views.num_frames,
        num_clips=views.num_clips,
        num_crops=views.num_crops,
        stride=views.stride,
        stride_rate=views.stride_rate,
    )
    keep = views.num_crops > 1
    sampled = read_views(files["both"], views, transform=lambda f: images.resize(f, keep_aspect=keep))
    crops = images.crops(sampled.frames.flatten(0, 1), views.num_crops)
    expected = torch.stack([c.unflatten(0, sampled.frames.shape[:2]) for c in crops]).flatten(0, 1)
    found = _samples(spec, files["both"])[0]
    assert torch.equal(found["video"], expected)
    assert found["flow"] is None
    assert found["mask"].tolist() == [True]


def _expected_flow(frames: np.ndarray, firsts: list[int]) -> Tensor:
    """Pictures of flow from frame i to the next, of the last frame: to it."""
    pairs = [(min(i, len(frames) - 2), min(i, len(frames) - 2) + 1) for i in firsts]
    return flow_to_image(flow(np.stack([frames[a] for a, _ in pairs]), np.stack([frames[b] for _, b in pairs])))


def test_flow_is_from_each_frame_to_the_files_next(files: dict[str, Path]) -> None:
    """Stride 16 from the end of 50 frames: 1, 17, 33, 49; the last has no next and gets the flow that leads to it."""
    spec = SampleSpec(IMAGES, ALL, train=False, num_frames=4, stride=16, num_clips=2)
    plain = replace(IMAGES, crop_size=48, resize_to=48)
    found = _samples(replace(spec, images=plain), files["both"])[0]
    frames = reference_frames(files["both"])
    assert len(frames) == 50
    expected = _expected_flow(frames, [1, 17, 33, 49])
    assert torch.equal(found["flow"][1], plain.crops(expected)[0])
    assert torch.equal(found["video"][1], plain.crops(torch.from_numpy(frames[[1, 17, 33, 49]]).movedim(-1, 1))[0])
    assert (found["flow"][:, :, 2] == 128).all()
    assert not torch.equal(expected, _expected_flow(frames, [0, 16, 32, 48]))  # a neighbour would be noticed


def test_flow_where_frames_come_at_odd_times(tmp_path: Path) -> None:
    """Every frame that has its neighbour one step on, however long each is shown; more samples than frames."""
    path = tmp_path / "odd.mkv"
    keep = "+".join(f"eq(n,{n})" for n in (0, 1, 7, 8, 20, 33, 34))
    ffmpeg(
        *source(size="48x48"), "-vf", f"noise=alls=20:allf=t,select='{keep}'", "-fps_mode", "vfr", "-c:v", "ffv1", path
    )
    frames = reference_frames(path)
    assert len(frames) == 7
    windows = _reading.Windows(30, 1, None, "native", phases=True)
    size = _reading.FlowSize("tvl1", 48)
    found, _ = _reading.read_pictures(
        sampling.probe(path), windows, [0], start_s=0, end_s=None, frames=_reading.FrameSize(short_side=48), flow=size
    )
    pictures = torch.from_numpy(frames).movedim(-1, 1)
    expected = _expected_flow(frames, list(range(7)))[:, :2]
    seen = set()
    for frame, motion in zip(found[0]["frames"], found[0]["flow"], strict=True):
        (index,) = [i for i in range(7) if torch.equal(frame, pictures[i])]
        assert torch.equal(motion, expected[index])
        seen.add(index)
    assert len(seen) >= 5


def test_frames_are_kept_at_the_working_size(files: dict[str, Path]) -> None:
    """The short side shrinks and never grows; flow has a size of its own, and its motion is in its own pixels."""
    spec = replace(SPEC, work_size=32, flow_size=24, num_windows=3)
    parts, warnings = sampling.read_parts(_clips(files["both"])[0], spec, [0, 2])
    assert parts["frames"].shape == (2, 4, 3, 32, 43)
    assert parts["flow"].shape == (2, 4, 2, 24, 32)
    assert parts["log_mel"].shape[0] == 128
    assert warnings == ()
    assert sampling.read_parts(_clips(files["both"])[0], replace(spec, work_size=500), [0])[0]["frames"].shape[-2:] == (
        48,
        64,
    )


def test_sound(files: dict[str, Path]) -> None:
    """Normalised as a whole, then cut; a short one is repeated."""
    spec = SampleSpec(IMAGES, ("video", "audio"), train=False, audio_s=0.5, num_audio_views=3)
    whole = spectrogram(read_waveform(files["sound"]))
    found = _samples(spec, files["sound"])[0]
    assert torch.equal(found["audio"], views_of(whole, num_views=3, num_steps=50))
    assert found["video"] is None
    assert found["mask"].tolist() == [False, True]
    still = replace(spec, train=True, audio_s=8.0, spec_time=0, spec_mel=0)
    repeated = _samples(still, files["sound"])[0]["audio"]
    assert any(torch.equal(repeated, window_of(whole, 800, start=s)) for s in range(200))


def test_long_sound_is_sampled(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    info = sampling.probe(files["sound"])
    monkeypatch.setattr(_reading, "MAX_SOUND_S", 1.0)
    monkeypatch.setattr(_reading, "_PART_S", 0.25)
    found, warnings = _reading.read_log_mel(info, start_s=0, end_s=None)
    assert found is not None
    assert warnings == []
    assert found.shape == (128, 100)
    whole = spectrogram(read_waveform(files["sound"]))[0]
    peaks = found.argmax(0)[[10, 35, 60, 85]]  # the tone rises: parts are in order, from start to end
    assert peaks.tolist() == sorted(peaks.tolist())
    assert peaks[-1] - peaks[0] > 0.7 * (whole.argmax(0)[-10] - whole.argmax(0)[10])


def test_part_of_a_file(files: dict[str, Path]) -> None:
    """Frames 25 to 37 alone, and the sound of the same time."""
    clip = Clip(str(files["both"]), ("a",), start_s=1.0, end_s=1.52)
    spec = SampleSpec(replace(IMAGES, crop_size=48), ALL, train=False, num_frames=13, stride=1, audio_s=0.52)
    found = ClipSamples([clip], spec, classes=["a"])[0]
    frames = torch.from_numpy(reference_frames(files["both"])).movedim(-1, 1)
    assert torch.equal(found["video"][0], spec.images.crops(frames[25:38])[0])
    sound = spectrogram(read_waveform(files["both"], start_s=1.0, duration_s=0.52))
    assert torch.equal(found["audio"][0], sound)


@pytest.mark.parametrize(
    ("name", "mask"),
    [("both", [1, 1, 1]), ("silent", [1, 1, 0]), ("sound", [0, 0, 1]), ("one_frame", [1, 0, 0])],
)
def test_mask_says_which_streams_are_there(files: dict[str, Path], name: str, mask: list[int]) -> None:
    for train in (True, False):
        found = _samples(replace(SPEC, train=train), files[name])[0]
        assert found["mask"].int().tolist() == mask
        assert [int(found[stream] is not None) for stream in ALL] == mask


def test_digital_silence_is_no_sound(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "silence.mp4"
    ffmpeg(*source(size="64x48"), "-f", "lavfi", "-i", "anullsrc=r=16000:d=2", *H264, "-c:a", "aac", "-shortest", path)
    assert sampling.probe(path).has_audio
    assert _samples(SPEC, path)[0]["mask"].tolist() == [True, True, False]


def test_inputs_leave_the_mask_in_the_models_order(files: dict[str, Path]) -> None:
    found = _samples(replace(SPEC, inputs=("audio",)), files["both"])[0]
    assert found["mask"].tolist() == [False, False, True]
    assert found["video"] is None


def test_windows_in_time() -> None:
    """Spread: each window spans the clip, and together they are a finer spread. With a stride: evenly placed."""
    several = _reading.Windows(4, 3, None, "native", phases=True).times_s(12.0, 100.0)
    assert several.shape == (3, 4)
    assert np.allclose(np.sort(several.ravel()), Views(12).times_s(12.0, 100.0)[0])
    assert (np.ptp(several, axis=1) > 8.9).all()
    one = _reading.Windows(4, 1, None, "native", phases=True).times_s(12.0, 100.0)
    assert np.array_equal(one, Views(4).times_s(12.0, 100.0))
    strided = _reading.Windows(4, 3, 5, "native", phases=True).times_s(12.0, 100.0)
    assert np.array_equal(strided, Views(4, 3, 1, 5, "native").times_s(12.0, 100.0))
    assert SampleSpec(IMAGES).windows.num_windows == 4
    assert SPEC.windows.num_windows == 1


def test_training_draws_from_all_windows(files: dict[str, Path], tmp_path: Path) -> None:
    spec = replace(SPEC, inputs=("video",), num_windows=3, crop_scale=1.0, mirror=False, colour=0.0)
    samples = _samples(spec, files["both"], cache=ClipCache(tmp_path))
    seen = set()
    for epoch in range(20):
        samples.set_epoch(epoch)
        samples[0]
        seen.add(len(list(tmp_path.rglob("*.safetensors"))))
    assert max(seen) == 3


# ---- what a sample depends on


def test_samples_depend_on_seed_epoch_and_index_alone(files: dict[str, Path], tmp_path: Path) -> None:
    paths = [files["both"], files["silent"], files["both"]]
    cache = ClipCache(tmp_path)

    def look(seed: int, epoch: int, index: int, cache: ClipCache | None = None) -> dict:
        samples = _samples(SPEC, *paths, cache=cache, seed=seed)
        samples.set_epoch(epoch)
        return samples[index]

    first = look(1, 2, 0)
    torch.manual_seed(99)  # the global generator plays no part
    assert _same(look(1, 2, 0), first)
    assert _same(look(1, 2, 0, cache), first)  # written
    assert _same(look(1, 2, 0, cache), first)  # read
    assert cache.hits == 3
    for other in (look(2, 2, 0), look(1, 3, 0), look(1, 2, 2)):
        assert all(not torch.equal(first[stream], other[stream]) for stream in ALL)
    samples = _samples(SPEC, *paths, seed=1)
    samples.set_epoch(2)
    backwards = [samples[index] for index in (2, 1, 0)]
    assert _same(backwards[2], first)


def test_leaving_a_stream_out_does_not_change_the_others(files: dict[str, Path]) -> None:
    every = _samples(SPEC, files["both"])[0]
    for inputs in (("video",), ("flow",), ("audio",), ("video", "audio")):
        found = _samples(replace(SPEC, inputs=inputs), files["both"])[0]
        assert all(torch.equal(found[stream], every[stream]) for stream in inputs)


def _box(ramps: Tensor) -> Tensor:
    """Pictures (T, 3, S, S) of which red grows with x and green with y, 0 to 255 -> centre and size of the part that
    they show, (cx, cy, w, h) as shares of the whole picture."""
    x, y = ramps[0, 0].float().mean(dim=0) / 255, ramps[0, 1].float().mean(dim=1) / 255
    inner = slice(len(x) // 4, -(len(x) // 4))  # away from the edges, where the last pixel is repeated
    slopes = [(side[inner][-1] - side[inner][0]) * len(side) / (len(side[inner]) - 1) for side in (x, y)]
    return torch.stack([x.mean(), y.mean(), *slopes])


@pytest.mark.parametrize(("size", "work_size", "flow_size"), [("320x240", 256, 224), ("426x240", 100, 161)])
def test_frames_and_flow_share_their_crop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, work_size: int, flow_size: int
) -> None:
    """Whatever the sizes at which they are kept, and whether they are read together or each by itself."""
    path = tmp_path / "ramps.mkv"
    ramps = f"color=black:size={size}:rate=5:duration=1,format=gbrp,geq=r='255*(X+.5)/W':g='255*(Y+.5)/H':b=0"
    ffmpeg("-f", "lavfi", "-i", ramps, "-c:v", "ffv1", path)
    # in the place of its motion, flow shows the picture itself
    monkeypatch.setattr(
        _reading.FlowSize, "__call__", lambda self, a, b: _reading.shrink(a, self.short_side, mode="bilinear")[:2]
    )
    spec = SampleSpec(
        replace(IMAGES, crop_size=64), ("video", "flow"), num_frames=1, stride=None, mirror=False,
        work_size=work_size, flow_size=flow_size, flow_crop=48,
    )  # fmt: skip
    cache = ClipCache(tmp_path / "cache")
    together, pictures, motion = (
        _samples(replace(spec, inputs=inputs), path, cache=cache) for inputs in (None, ("video",), ("flow",))
    )
    apart = []
    for epoch in range(150):
        for samples in (together, pictures, motion):
            samples.set_epoch(epoch)
        both = together[0]
        assert torch.equal(both["video"], pictures[0]["video"])
        assert torch.equal(both["flow"], motion[0]["flow"])
        apart.append(_box(both["video"]) - _box(both["flow"]))
    furthest = torch.stack(apart).abs().amax(dim=0)
    assert (furthest < torch.tensor([0.01, 0.01, 0.03, 0.03])).all(), f"boxes of frames and flow differ by {furthest}"


def test_a_cached_clip_is_not_opened(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [files["both"], files["silent"], files["sound"]]
    before = [_samples(SPEC, *paths, cache=ClipCache(tmp_path))[i] for i in range(3)]
    monkeypatch.setattr(sampling, "probe", lambda path: pytest.fail("the file was opened"))
    after = [_samples(SPEC, *paths, cache=ClipCache(tmp_path))[i] for i in range(3)]
    assert all(_same(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"work_size": 40},
        {"flow_size": 40},
        {"flow": "tvl1-fast"},
        {"num_frames": 5},
        {"stride": 2},
        {"num_windows": 2},
        {"train": False},
        {"images": replace(IMAGES, resize_to=44)},
    ],
)
def test_what_decides_pictures_is_in_the_key(files: dict[str, Path], tmp_path: Path, change: dict) -> None:
    """A change gives with a warm cache what it gives without one."""
    _samples(SPEC, files["both"], cache=ClipCache(tmp_path))[0]
    spec = replace(SPEC, **change)
    assert _same(_samples(spec, files["both"], cache=ClipCache(tmp_path))[0], _samples(spec, files["both"])[0])


def test_a_file_that_changed_is_read_again(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(files["both"].read_bytes())
    cache = ClipCache(tmp_path / "cache")
    assert _samples(SPEC, path, cache=cache)[0]["mask"].tolist() == [True, True, True]
    path.write_bytes(files["silent"].read_bytes())
    assert _samples(SPEC, path, cache=cache)[0]["mask"].tolist() == [True, True, False]


# ---- what cannot be read


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "does not exist"),
        ("text", "text file"),
        ("damaged", "not a media file"),
        ("empty", "empty"),
        ("blip", "none of: video, flow, audio"),
    ],
)
@pytest.mark.parametrize("cached", [True, False])
def test_failures(files: dict[str, Path], tmp_path: Path, name: str, reason: str, cached: bool) -> None:
    found = _samples(SPEC, files[name], cache=ClipCache(tmp_path) if cached else None)[0]
    assert reason in found["failed"]
    assert found["path"] == str(files[name])
    assert found["index"] == 0


def test_a_part_behind_the_end_fails(files: dict[str, Path]) -> None:
    found = ClipSamples([Clip(str(files["both"]), ("a",), start_s=5.0)], SPEC, classes=["a"])[0]
    assert "begins at 5 s, but the pictures end at 2.00 s" in found["failed"]


def test_a_file_that_is_cut_off_says_so(files: dict[str, Path], tmp_path: Path) -> None:
    """What decodes is used, and the warning survives the cache."""
    whole = make_video(tmp_path / "whole.mkv", *H264, seconds=4.0)
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    cache = ClipCache(tmp_path / "cache")
    for _ in range(2):
        (warning,) = _samples(SPEC, path, cache=cache)[0]["warnings"]
        assert "could be decoded" in warning
    loader = make_loader(_samples(SPEC, path, files["both"], cache=cache), batch_size=2, num_workers=0)
    assert [len(b.targets) for b in loader] == [2]
    assert loader.warnings == [(str(path), warning)]


def test_a_fault_of_one_clip_is_counted_and_of_the_settings_is_raised(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> Callable:
        def probe(path: str) -> None:
            raise error

        return probe

    monkeypatch.setattr(sampling, "probe", fail(RuntimeError("odd")))
    assert "unexpected failure (RuntimeError: odd)" in _samples(SPEC, files["both"])[0]["failed"]
    monkeypatch.setattr(sampling, "probe", fail(LexividError("wrong setting")))
    with pytest.raises(LexividError, match="wrong setting"):
        _samples(SPEC, files["both"])[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_counts_what_failed_and_replaces_nothing(files: dict[str, Path], num_workers: int) -> None:
    names = ["both", "missing", "silent", "text", "sound"]
    samples = _samples(SPEC, *(files[name] for name in names))
    loader = make_loader(samples, batch_size=2, num_workers=num_workers)
    assert len(loader) == 3
    batches = list(loader)
    assert [b.indices.tolist() for b in batches] == [[0], [2], [4]]
    assert [path for path, _ in loader.failures] == [str(files["missing"]), str(files["text"])]
    assert sorted(batches[0].streams) == ["audio", "flow", "video"]
    assert sorted(batches[1].streams) == ["flow", "video"]
    assert sorted(batches[2].streams) == ["audio"]
    list(loader)
    assert len(loader.failures) == 2  # each once
    assert all(_same({**dict.fromkeys(STREAMS), **_only(b), "mask": b.mask[0]}, samples[i]) for b, i in _rows(batches))


def _only(batch: object) -> dict:
    return {name: stream[0] for name, stream in batch.streams.items()}  # type: ignore[attr-defined]


def _rows(batches: list) -> list[tuple]:
    return [(batch, int(index)) for batch in batches for index in batch.indices]


def test_a_batch_of_mixed_clips(files: dict[str, Path]) -> None:
    """Rows of streams that a clip lacks are zeros; a batch of failures alone is empty."""
    samples = _samples(SPEC, files["both"], files["sound"], files["missing"], files["text"])
    first, second = make_loader(samples, batch_size=2, num_workers=0)
    assert first.mask.tolist() == [[True, True, True], [False, False, True]]
    assert first.streams["video"].shape == (2, 4, 3, 40, 40)
    assert first.streams["video"].dtype == first.streams["flow"].dtype == torch.uint8
    assert not first.streams["video"][1].any()
    assert first.streams["audio"].shape == (2, 3, 128, 100)
    assert first.targets.tolist() == [0, 0]
    assert second.streams == {}
    assert len(second.targets) == len(second.mask) == 0
    assert len(second.failures) == 2


def test_loader_does_not_depend_on_workers_and_resumes(files: dict[str, Path], tmp_path: Path) -> None:
    paths = [files[name] for name in ("both", "silent", "sound", "both", "silent", "both", "missing")]
    runs = []
    for num_workers in (0, 1, 2):
        samples = _samples(SPEC, *paths, seed=3, cache=ClipCache(tmp_path))
        loader = make_loader(samples, batch_size=2, num_workers=num_workers, shuffle=True, seed=3)
        runs.append([*loader.epoch(0), *loader.epoch(1)])
    resumed = list(
        make_loader(_samples(SPEC, *paths, seed=3), batch_size=2, num_workers=2, shuffle=True, seed=3).epoch(1, start=2)
    )
    assert [b.indices.tolist() for b in runs[0][:4]] != [b.indices.tolist() for b in runs[0][4:]]
    for run in [*runs[1:], [*runs[0][:6], *resumed]]:
        for one, other in zip(runs[0], run, strict=True):
            assert torch.equal(one.indices, other.indices)
            assert one.streams.keys() == other.streams.keys()
            assert all(torch.equal(one.streams[name], other.streams[name]) for name in one.streams)


# ---- order


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.booleans())
def test_order_shares_out_every_clip_once(size: int, batch_size: int, world: int, shuffle: bool, drop: bool) -> None:
    shares = [
        batch_lists(size, batch_size, shuffle=shuffle, seed=1, epoch=2, rank=r, world=world, drop_last=drop)
        for r in range(world)
    ]
    seen = [index for share in shares for batch in share for index in batch]
    assert len(seen) == len(set(seen))
    assert len(seen) == (size - size % (batch_size * world) if drop else size)
    assert all(1 <= len(batch) <= batch_size for share in shares for batch in share)
    if drop:
        assert all(len(batch) == batch_size for share in shares for batch in share)
    # The clips of a global step are those of one process with the whole batch.
    whole = batch_lists(size, batch_size * world, shuffle=shuffle, seed=1, epoch=2, drop_last=drop)
    for step, together in enumerate(whole):
        assert sorted(together) == sorted(i for share in shares for i in (share[step] if step < len(share) else []))


def test_order_differs_between_epochs_and_seeds() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return batch_lists(30, 7, shuffle=True, seed=seed, epoch=epoch)

    assert order(0, 0) == order(0, 0)
    assert len({str(order(s, e)) for s in range(3) for e in range(3)}) == 9
    assert batch_lists(5, 2) == [[0, 1], [2, 3], [4]]


# ---- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ("flow", "video")}, "in this order"),
        ({"modalities": ()}, "in this order"),
        ({"modalities": ("video",), "inputs": ("flow",)}, "inputs"),
        ({"inputs": ()}, "inputs"),
        ({"flow": "farneback"}, "unknown flow"),
        ({"num_frames": 0}, "frames is 0"),
        ({"num_windows": 0}, "num_windows is 0"),
        ({"stride": None, "num_frames": 600, "num_windows": 2}, "frames is 1200"),
        ({"work_size": 8}, "work_size is 8"),
        ({"flow_size": 1}, "flow_size is 1"),
        ({"crop_scale": 0.0}, "crop_scale is 0"),
        ({"audio_s": 0.0}, "audio_s is 0"),
        ({"audio_s": float("nan")}, "audio_s is nan"),
        ({"spec_mel": -1}, "spec_mel is -1"),
    ],
)
def test_settings_out_of_range(change: dict, message: str) -> None:
    with pytest.raises(LexividError, match=message):
        SampleSpec(IMAGES, **{"modalities": ALL, **change})


def test_labels_must_be_of_the_classes() -> None:
    with pytest.raises(LexividError, match="'b', which is not among"):
        ClipSamples([Clip("x.mp4", ("b",))], SPEC, classes=["a"])
    with pytest.raises(LexividError, match="2 labels"):
        ClipSamples([Clip("x.mp4", ("a", "b"))], SPEC, classes=["a", "b"])


@pytest.mark.slow
def test_real_clips(media: Path) -> None:
    """Every clip of the real collection reads, with its streams as its manifest says."""
    clips = sorted((media / "clips").glob("*.*"))
    clips = [path for path in clips if path.suffix != ".txt"]
    spec = SampleSpec(replace(IMAGES, resize_to=64, crop_size=56), ALL, num_frames=4, stride=None, flow_size=64)
    samples = _samples(spec, *clips)
    found = [samples[index] for index in range(len(clips))]
    assert [f["failed"] for f in found if "failed" in f] == []
    manifest = [line.split("\t") for line in (media / "MANIFEST.tsv").read_text().splitlines()]
    has_audio = {row[0]: row[3] == "yes" for row in manifest}  # or "no", or "yes (digital silence)"
    assert {p.name: bool(f["mask"][2]) for p, f in zip(clips, found, strict=True)} == {
        p.name: has_audio[f"clips/{p.name}"] for p in clips
    }


# ---- several labels at once


def test_several_labels_are_a_row_of_truths(files: dict[str, Path]) -> None:
    clips = [
        Clip(str(files["both"]), ("drum", "dog")),
        Clip(str(files["missing"]), ("cat",)),
        Clip(str(files["sound"]), ("cat",)),
    ]
    classes = ["cat", "dog", "drum"]
    spec = replace(SPEC, inputs=("audio",))
    (batch,) = make_loader(ClipSamples(clips, spec, classes=classes, multi_label=True), batch_size=3, num_workers=0)
    assert batch.targets.dtype == torch.bool
    assert batch.targets.tolist() == [[False, True, True], [True, False, False]]  # without the one that is missing
    assert batch.indices.tolist() == [0, 2]
    (single,) = make_loader(ClipSamples(clips[1:], spec, classes=classes), batch_size=2, num_workers=0)
    assert torch.equal(single.targets, torch.tensor([0]))
    with pytest.raises(LexividError, match="has 2 labels; this training takes one per clip"):
        ClipSamples(clips, spec, classes=classes)


def test_labels_that_are_not_asked_for_are_not_told_and_synthetic_ones_count_by_their_weight() -> None:
    clips = [
        Clip("a.mp4", ("drum", "dog"), synthetic=("cat", "something red")),
        Clip("b.mp4", ("drum",), synthetic=("something blue",)),
        Clip("c.mp4", ("cat",)),
    ]
    classes = ["cat", "dog"]
    plain = ClipSamples(clips, SPEC, classes=[*classes, "something red"], multi_label=True).goals
    assert set(plain) == {"target"}
    assert torch.as_tensor(plain["target"]).tolist() == [[False, True, False], [False] * 3, [True, False, False]]
    told = ClipSamples(
        clips, SPEC, classes=classes, multi_label=True, synthetic_classes=["something red"], synthetic_weight=0.25
    ).goals
    assert torch.as_tensor(told["target"]).tolist() == [[True, True, True], [False] * 3, [True, False, False]]
    # a captioner's "cat" counts a quarter; what all is the captioner's is weighed label by label elsewhere
    assert torch.as_tensor(told["weight"]).tolist() == [[0.25, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert ClipSamples(clips[2:], SPEC, classes=classes).goals == {"target": [0]}
    with pytest.raises(LexividError, match="of class 'drum', which is not among the classes"):
        ClipSamples(clips[1:], SPEC, classes=classes)  # of one label, that label is needed
