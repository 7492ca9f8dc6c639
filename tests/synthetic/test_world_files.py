"""The world as files: what is written is what was drawn, again and again, whole or not; and it moves as named."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lexivid import cli
from lexivid.data.formats import read_dataset
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.media.audio import read_waveform
from lexivid.media.decode import probe, read_views
from lexivid.media.flow import flow
from lexivid.media.views import Views
from lexivid.synthetic.world.draw import VIDEO, Look
from lexivid.synthetic.world.files import World, WorldClip, make_world, plan_clips, render_clip
from lexivid.synthetic.world.sheet import contact_sheet, varied
from lexivid.synthetic.world.words import COLOURS, MOTIONS, SHAPES, SOUNDS, WorldClass, WorldClasses, draw_classes

CLEAN = Look(noise=0.02, occluder=0, distractor=0, trail=0, trail_alpha=0, badge=0)
SMALL = {"kind": "both", "num_base": 4, "num_novel": 2, "clips_per_class": 3, "test_clips_per_class": 2, "seed": 5}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world") / "small", num_workers=0, **SMALL)  # type: ignore[arg-type]


def decoded(file: str | Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(16, 3, 64, 64) frames and the waveform, as the rest of the library reads them."""
    return read_views(file, Views(num_frames=16)).frames[0], read_waveform(file)


def same_content(one: World, other: World) -> bool:
    """Whether all clips decode to the same, and the lists agree."""
    files = [[Path(w.path) / clip.path for clip in w.clips] for w in (one, other)]
    pairs = [(decoded(a), decoded(b)) for a, b in zip(*files, strict=True)]
    equal = all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
    lists = [[(Path(w.path) / n).read_text() for n in ("manifest.csv", "split.json")] for w in (one, other)]
    return equal and lists[0] == lists[1]


# ---- what is written


def test_a_clip_is_two_seconds_of_h264_and_aac(world: World) -> None:
    info = probe(Path(world.path) / world.clips[0].path)
    assert (info.video_codec, info.audio_codec, info.pixel_format) == ("h264", "aac", "yuv420p")
    assert (info.width, info.height, info.frame_rate) == (64, 64, 8)
    assert info.duration_s == pytest.approx(2.0)
    assert (info.sample_rate_hz, info.num_channels) == (16000, 1)
    sampled = read_views(Path(world.path) / world.clips[0].path, Views(num_frames=16))
    np.testing.assert_allclose(sampled.times_s[0], np.arange(16) / 8)
    assert sampled.warnings == ()


def test_files_show_and_sound_as_drawn(world: World) -> None:
    for clip in world.clips[::4]:
        frames, sound = render_clip(clip)
        shown, heard = decoded(Path(world.path) / clip.path)
        assert frames.shape == shown.shape == (16, 3, 64, 64)
        # Pixel by pixel the noise is lost in part, colour's more than light's; means of 4 x 4 pixels stay.
        means = [torch.nn.functional.avg_pool2d(x.float(), 4) for x in (frames, shown)]
        assert (means[0] - means[1]).abs().mean() < 5
        assert abs(len(heard) - 32000) <= 0.05 * 16000
        wave = torch.from_numpy(sound)
        agreement = (wave * heard).sum() / (wave.norm() * heard.norm())
        assert agreement > 0.8  # and so it is in time: no delay of the encoder is left


def test_lists_say_what_there_is(world: World) -> None:
    dataset = read_dataset(world.path)
    assert Counter(clip.split for clip in dataset.clips) == {"train": 4 * 3, "test": 6 * 2}
    assert all(Path(clip.path).is_file() for clip in dataset.clips)
    split = ClassSplit.load(Path(world.path) / "split.json")
    assert (len(split.base), len(split.novel), split.seed) == (4, 2, 5)
    assert set(split.classes) == set(dataset.classes)
    assert {label for clip in dataset.clips if clip.split == "train" for label in clip.labels} == set(split.base)
    assert Counter(c.labels[0] for c in dataset.clips if c.split == "test") == dict.fromkeys(split.classes, 2)
    settings = json.loads((Path(world.path) / "world.json").read_text())
    assert (settings["seed"], settings["kind"], settings["clips_per_class"]["train"]) == (5, "both", 3)
    assert draw_classes("both", seed=settings["seed"], **settings["classes_drawn"]).base == tuple(
        WorldClass(**made) for made in settings["base"]
    )
    assert len(list(Path(world.path).rglob("*"))) == 3 + 24 + 2 + 4 + 6  # lists, clips, splits, folders of classes
    assert sum(file.stat().st_size for file in Path(world.path).rglob("*.mp4")) < 24 * 100_000


def test_a_validation_share(tmp_path: Path) -> None:
    made = make_world(tmp_path / "w", kind="motion", num_base=2, num_novel=2, clips_per_class=1, val_clips_per_class=2,
                      test_clips_per_class=0)  # fmt: skip
    assert Counter((c.split, c.classes[0].name in made.split.base) for c in made.clips) == {
        ("train", True): 2, ("val", True): 4, ("val", False): 4,
    }  # fmt: skip


def test_a_worlds_kind_decides_what_names_say() -> None:
    for kind, motion, sound in (("motion", True, False), ("sound", False, True), ("both", True, True)):
        for made in draw_classes(kind, seed=1, num_base=6, num_novel=4).base:  # type: ignore[arg-type]
            assert any(word in made.name for word in MOTIONS) is motion
            assert any(word in made.name for word in SOUNDS) is sound


# ---- the same again


def test_the_same_seed_gives_the_same_clips_and_another_seed_others(world: World, tmp_path: Path) -> None:
    assert same_content(world, make_world(tmp_path / "again", num_workers=0, **SMALL))  # type: ignore[arg-type]
    clip, other = (plan_clips(draw_classes("both", seed=5), {"train": 1}, seed=seed)[0] for seed in (5, 6))
    assert clip.classes == other.classes
    assert not torch.equal(render_clip(clip)[0], render_clip(other)[0])
    assert not np.array_equal(render_clip(clip)[1], render_clip(other)[1])


@pytest.mark.slow
def test_processes_change_nothing(world: World, tmp_path: Path) -> None:
    assert same_content(world, make_world(tmp_path / "two", num_workers=2, **SMALL))  # type: ignore[arg-type]


def test_a_clip_does_not_depend_on_how_many_there_are() -> None:
    classes = draw_classes("both", seed=5, num_base=4, num_novel=2)
    few = plan_clips(classes, {"train": 1}, seed=5)
    many = plan_clips(WorldClasses(classes.base[::-1], ()), {"train": 3, "test": 1}, seed=5)
    assert set(few) <= set(many)
    assert len({clip.path for clip in many}) == len(many)
    contents = [render_clip(clip)[0] for clip in many[:6]]
    assert all(not torch.equal(a, b) for i, a in enumerate(contents) for b in contents[:i])


def test_what_seeds_a_clip_stays_what_it_was() -> None:
    """Worlds that are on disk, and the numbers measured on them, hang on this; it is as of the first version."""
    made = WorldClip((WorldClass(0, 0, 1, 2, 3), WorldClass(3, 5, 0, 7, 1)), "train", 7, seed=5)
    assert made.path == "train/red-striped-circle-moving-up-and-wailing/007.mp4"
    assert made.entropy()[:4] == [3096287379, 1882322300, 2357586501, 3029410382]
    assert made.labels == ("red striped circle moving up and wailing", "blue star growing and beeping")


# ---- interrupted


def test_an_interrupted_run_goes_on(world: World, tmp_path: Path) -> None:
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path / "w", num_workers=0, on_progress=stop, **SMALL)  # type: ignore[arg-type]
    assert seen == [(0, 24), (8, 24)]
    assert not (tmp_path / "w" / "manifest.csv").exists()  # a folder that can be read is complete
    files = sorted((tmp_path / "w").rglob("*.mp4"))
    assert len(files) == 8
    untouched = {file: file.stat().st_mtime_ns for file in files[2:]}
    files[0].unlink()
    files[1].write_bytes(b"")  # as after a loss of power
    half = files[2].with_name(f".{files[2].name}.x1y2z3")
    half.write_bytes(b"half a film")
    again = make_world(tmp_path / "w", num_workers=0, **SMALL)  # type: ignore[arg-type]
    assert again.num_kept == 6
    assert {file: file.stat().st_mtime_ns for file in files[2:]} == untouched
    assert not half.exists()
    assert same_content(world, again)


def test_a_folder_is_one_world(world: World, tmp_path: Path) -> None:
    with pytest.raises(LexividError, match=r"another world \(seed, base, novel differ\)"):
        make_world(world.path, **{**SMALL, "seed": 6})  # type: ignore[arg-type]
    (tmp_path / "note.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(LexividError, match="choose another"):
            make_world(out, **SMALL)  # type: ignore[arg-type]
    assert (tmp_path / "note.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"clips_per_class": 0}, "0 train clips"),
        ({"test_clips_per_class": -1}, "-1 test clips"),
        ({"num_base": 0}, "base classes: 0"),
        ({"seed": -1}, "seed: -1"),
        ({"num_workers": -2}, "num_workers is -2"),
        ({"kind": "smell"}, "unknown kind"),
    ],
)
def test_numbers_out_of_range_are_said_before_anything_is_written(wrong: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(LexividError, match=says):
        make_world(tmp_path / "w", **{**SMALL, **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "w").exists()


# ---- several objects


def test_multi_label_clips_have_two_to_four_classes_of_one_side(tmp_path: Path) -> None:
    made = make_world(tmp_path / "w", kind="motion", num_base=6, num_novel=4, clips_per_class=3, multi_label=True)
    dataset = read_dataset(made.path)
    assert [clip.labels for clip in dataset.clips] == [tuple(c.name for c in clip.classes) for clip in made.clips]
    assert {len(clip.labels) for clip in dataset.clips} == {2, 3, 4}
    for clip in dataset.clips:
        assert len(set(clip.labels)) == len(clip.labels)
        assert set(clip.labels) <= set(made.split.base) or set(clip.labels) <= set(made.split.novel)
    colours = torch.tensor([[219, 33, 33], [41, 71, 230]])  # red and blue, as they are drawn
    pair = WorldClasses((WorldClass(1, COLOURS.index("red")), WorldClass(1, COLOURS.index("blue"))), ())
    clip = plan_clips(pair, {"train": 1}, seed=0, multi_label=True)[0]
    frames = render_clip(clip, look=CLEAN)[0]
    for colour in colours:
        near = (frames.float() - colour.view(3, 1, 1)).abs().amax(1) < 70
        assert near.float().mean() > 0.02


# ---- what it is called is what it does


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[torch.Tensor]]:
    """TV-L1 of clean clips, by motion: for each, (15, 2, 64, 64) in pixels, zero where nothing was drawn."""
    classes = tuple(WorldClass(SHAPES.index("square"), 0, 2, motion=m) for m in range(len(MOTIONS)))
    made = make_world(tmp_path_factory.mktemp("motions") / "w", kind="motion", classes=WorldClasses(classes, ()),
                      clips_per_class=2, test_clips_per_class=0, look=CLEAN, num_workers=0)  # fmt: skip
    found: dict[str, list[torch.Tensor]] = {name: [] for name in MOTIONS}
    for clip in made.clips:
        frames = decoded(Path(made.path) / clip.path)[0]
        pictures = frames.movedim(1, -1)
        red = frames[:-1, 0].float() - frames[:-1, 1].float() > 60  # (15, 64, 64): the object, without its spots
        found[MOTIONS[clip.classes[0].motion or 0]].append(flow(pictures[:-1], pictures[1:]) * red[:, None])
    return found


def course(field: torch.Tensor) -> torch.Tensor:
    """(15, 2): the median flow of the object's pixels in each pair, right and down."""
    return torch.stack([pair[:, (pair != 0).any(0)].median(dim=1).values for pair in field])


@pytest.mark.parametrize(
    ("word", "axis", "sign"),
    [("moving left", 0, -1), ("moving right", 0, 1), ("moving up", 1, -1), ("moving down", 1, 1)],
)
def test_translations_go_where_they_are_said_to(
    word: str, axis: int, sign: int, motions: dict[str, list[torch.Tensor]]
) -> None:
    for field in motions[word]:
        moves = course(field).median(dim=0).values
        assert 3 < sign * moves[axis] < 5  # 4 pixels a frame
        assert moves[1 - axis].abs() < 0.5


def test_spinning_turns_and_growing_spreads(motions: dict[str, list[torch.Tensor]]) -> None:
    axis = torch.arange(64.0)
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def around_and_outward(pair: torch.Tensor) -> tuple[float, float]:
        there = (pair != 0).any(0)
        dx, dy = x[there] - x[there].mean(), y[there] - y[there].mean()
        u, v = pair[0][there], pair[1][there]
        scale = (dx**2 + dy**2).sum()
        return float(((dx * v - dy * u) / scale).sum()), float(((dx * u + dy * v) / scale).sum())

    for word, part, least in (("spinning", 0, 0.1), ("growing", 1, 0.03)):
        for field in motions[word]:
            values = [around_and_outward(pair) for pair in field]
            median = np.median(values, axis=0)
            assert abs(median[part]) > least, (word, median)
            assert abs(median[part]) > 3 * abs(median[1 - part]), (word, median)
            if word == "growing":
                assert median[1] > 0


def test_bouncing_is_up_and_down_and_shaking_side_to_side(motions: dict[str, list[torch.Tensor]]) -> None:
    for word, axis in (("bouncing", 1), ("shaking", 0)):
        for field in motions[word]:
            moves = course(field)
            assert moves[:, axis].max() > 1
            assert moves[:, axis].min() < -1
            assert moves[:, axis].abs().mean() > 3 * moves[:, 1 - axis].abs().mean()


def test_hard_clips_show_their_motion_too(tmp_path: Path) -> None:
    """Noise, occluders and distractors do not hide on average what moves: left against right, by the sign alone."""
    pair = tuple(WorldClass(1, 2, 2, motion=MOTIONS.index(m)) for m in ("moving left", "moving right"))
    made = make_world(tmp_path / "w", kind="motion", classes=WorldClasses(pair, ()), clips_per_class=8,
                      test_clips_per_class=0, look=VIDEO, num_workers=0)  # fmt: skip
    right = []
    for clip in made.clips:
        pictures = decoded(Path(made.path) / clip.path)[0].movedim(1, -1)
        moved = flow(pictures[:-1], pictures[1:])[:, 0]
        strongest = moved.flatten(1).gather(1, moved.flatten(1).abs().topk(200, dim=1).indices)
        right.append((strongest.mean(dim=1).median() < 0) == (clip.classes[0] == pair[0]))
    assert np.mean(right) >= 0.75


# ---- looking at it


def test_a_contact_sheet_shows_clips_of_different_words(world: World, tmp_path: Path) -> None:
    chosen = varied(world, 4)
    assert len({clip.classes for clip in chosen}) == 4
    assert {clip.split for clip in chosen} == {"test"}
    contact_sheet(world, tmp_path / "sheet.png", num_clips=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000
    with pytest.raises(LexividError, match=r"ends in \.png or \.jpg"):
        contact_sheet(world, tmp_path / "sheet.txt")


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> tuple[int, str]:
        argv = [
            "lexivid",
            "world",
            "--out",
            str(tmp_path / "w"),
            "--kind",
            "sound",
            "--base",
            "2",
            "--novel",
            "2",
            *options,
        ]
        monkeypatch.setattr(sys, "argv", argv)
        try:
            cli.main()
        except SystemExit as leaving:
            return int(leaving.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    counts = ("--clips-per-class", "2", "--test-clips-per-class", "1")
    status, err = run(*counts, "--contact-sheet", str(tmp_path / "sheet.jpg"))
    assert status == 0, err
    assert "8 clips of 2 base and 2 novel classes" in err
    assert "lexivid train world-mov-audio --data" in err
    assert (tmp_path / "sheet.jpg").stat().st_size > 10_000
    assert len(read_dataset(tmp_path / "w").clips) == 8
    assert "8 were there already" in run(*counts)[1]
    status, err = run("--clips-per-class", "3")
    assert status == 2
    assert "holds another world" in err
    assert run("--kind", "smell")[0] == 2
