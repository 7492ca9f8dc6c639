"""The world of several labels: what training shows, that labels are true, and that files, lists and tensors agree."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.cli import app
from lexivid.data.formats import read_dataset
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.synthetic.pretraining.language_model import LANGUAGE_MODEL_RECIPE, LanguageModelRecipe
from lexivid.synthetic.reproduce.packed_clips import PackedClips, WorldSize, pack_label_world, pack_world
from lexivid.synthetic.reproduce.world_samples import WorldSamples
from lexivid.synthetic.world.files import World, WorldClip, make_world, render_clip
from lexivid.synthetic.world.multilabel import (
    LOOK,
    LabelSets,
    captioned,
    draw_label_sets,
    make_label_world,
    plan_label_clips,
)
from lexivid.synthetic.world.nouns import NounSplit, draw_nouns
from lexivid.synthetic.world.sheet import varied
from lexivid.synthetic.world.words import COLOURS, MOTIONS, SHAPES, SOUNDS, TEXTURES, WorldClass
from lexivid.training.settings import load_settings

NOUNS = draw_nouns("look")
IMAGES = ImageProcessing(resize_to=64, crop_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def sets() -> LabelSets:
    return draw_label_sets(NOUNS, seed=3)


@pytest.fixture(scope="module")
def clips(sets: LabelSets) -> list[WorldClip]:
    return plan_label_clips(sets, {"train": 600, "val": 50, "test": 400}, seed=1)


def _of(clips: list[WorldClip], split: str) -> list[WorldClip]:
    return [clip for clip in clips if clip.split == split]


# ---- which labels there are


def test_label_sets_divide_every_kind(sets: LabelSets) -> None:
    assert (len(sets.nouns.base), len(sets.nouns.novel)) == (60, 40)
    for own, words in ((sets.motions, MOTIONS), (sets.sounds, SOUNDS)):
        assert sorted((*own.seen, *own.unseen)) == list(range(len(words)))
        assert len(own.unseen) == 3
    assert list(sets.kinds) == [*sets.seen, *sets.unseen]
    assert len(sets.kinds) == 100 + 100 + 8 + 8  # no label twice
    assert Counter(sets.kinds[label] for label in sets.unseen) == {"noun": 40, "words": 40, "motion": 3, "sound": 3}
    for side, labels in zip(sets.nouns, (sets.seen, sets.unseen), strict=True):
        assert {n.name for n in side} == {label for label in labels if sets.kinds[label] == "noun"}
        assert {n.words for n in side} == {label for label in labels if sets.kinds[label] == "words"}
    others = [draw_label_sets(NOUNS, seed=seed) for seed in range(8)]
    assert others[3] == sets
    assert len({o.motions for o in others}) > 3
    assert len({o.sounds for o in others}) > 3
    assert len({o.nouns for o in others}) == 8
    assert any(o.motions.unseen != o.sounds.unseen for o in others)  # drawn each by itself


def test_kinds_can_be_left_out_and_clips_stay_what_they_are(sets: LabelSets, clips: list[WorldClip]) -> None:
    few = draw_label_sets(NOUNS, seed=3, kinds=["noun", "motion"])
    assert set(few.seen) == {label for label in sets.seen if sets.kinds[label] in ("noun", "motion")}
    for a, b in zip(clips[:20], plan_label_clips(few, {"train": 20}, seed=1), strict=True):
        assert a.classes == b.classes
        assert set(b.labels) == {label for label in a.labels if sets.kinds[label] in ("noun", "motion")}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kinds": ()}, "kinds of labels"),
        ({"kinds": ("noun", "colour")}, "choose from noun, words, motion, sound"),
        ({"num_unseen_motions": 8}, "8 unseen motions of 8"),
        ({"num_unseen_sounds": -1}, "-1 unseen sounds"),
        ({"num_novel_nouns": 100}, "100 novel nouns of 100"),
        ({"num_novel_nouns": 99}, "1 seen nouns, but a clip shows at least 2"),
        ({"seed": -1}, "seed: -1"),
        ({"nouns": draw_nouns("either", num=20), "num_novel_nouns": 5}, 'draw kind "look"'),
        ({"nouns": draw_nouns("motion", num=20), "num_novel_nouns": 5}, 'draw kind "look"'),
        ({"nouns": [*NOUNS[:20], replace(NOUNS[0], name="other")], "num_novel_nouns": 5}, "the same"),
    ],
)
def test_label_sets_out_of_range(wrong: dict, says: str) -> None:
    with pytest.raises(LexividError, match=says):
        draw_label_sets(**{"nouns": NOUNS, "seed": 0, **wrong})


# ---- what clips show


def test_training_shows_nothing_unseen_and_tests_show_everything(sets: LabelSets, clips: list[WorldClip]) -> None:
    looks = {(n.meaning.shape, n.meaning.colour) for n in sets.nouns.base}
    for clip in _of(clips, "train"):
        assert not set(clip.labels) & set(sets.unseen)
        for made in clip.classes:
            assert (made.shape, made.colour) in looks
            assert made.motion in sets.motions.seen
            assert made.sound in sets.sounds.seen
    assert {label for clip in _of(clips, "train") for label in clip.labels} == set(sets.seen)
    assert {label for clip in _of(clips, "test") for label in clip.labels} == set(sets.kinds)
    assert any(set(clip.labels) & set(sets.unseen) for clip in _of(clips, "val"))


def test_labels_are_what_the_objects_are(sets: LabelSets, clips: list[WorldClip]) -> None:
    names = {noun.words: noun.name for side in sets.nouns for noun in side}
    for clip in clips:
        words = {f"{COLOURS[c.colour]} {SHAPES[c.shape]}" for c in clip.classes}
        assert len(words) == len(clip.classes)  # objects have different nouns
        does = {MOTIONS[c.motion or 0] for c in clip.classes} | {SOUNDS[c.sound or 0] for c in clip.classes}
        assert set(clip.labels) == words | {names[w] for w in words} | does
        assert len(set(clip.labels)) == len(clip.labels)
        assert all(c.texture is not None for c in clip.classes)
    sizes = Counter(len(clip.classes) for clip in clips)
    assert set(sizes) == {2, 3, 4}
    assert min(sizes.values()) > len(clips) / 4
    textures = Counter(c.texture for clip in clips for c in clip.classes)
    assert min(textures.values()) > sum(textures.values()) / 4


def test_nothing_but_the_labelled_objects_is_shown(sets: LabelSets) -> None:
    """A clean look at one clip: each object's colour is there, and no other's."""
    palette = {"red": (219, 33, 33), "green": (46, 168, 56), "blue": (41, 71, 230), "yellow": (245, 235, 56)}
    by_colour = {COLOURS[n.meaning.colour]: n for n in NOUNS if n.meaning.shape == SHAPES.index("square")}
    shown = tuple(replace(by_colour[c].meaning, texture=0, motion=7, sound=0) for c in ("red", "blue"))
    clean = replace(LOOK, noise=0.02, occluder=0, trail=0, badge=0)
    frames = render_clip(WorldClip(shown, "test", 0, 0, sets.labels_of(shown)), look=clean)[0].float()
    share = {
        name: float(((frames - torch.tensor(rgb).view(3, 1, 1)).abs().amax(1) < 50).float().mean())
        for name, rgb in palette.items()
    }
    assert min(share["red"], share["blue"]) > 0.01
    assert max(share["green"], share["yellow"]) < 0.002
    assert LOOK.distractor == 0


def test_a_clip_depends_on_seed_split_and_number_alone(sets: LabelSets, clips: list[WorldClip]) -> None:
    again = plan_label_clips(sets, {"test": 7, "train": 3}, seed=1)
    assert set(again) <= set(clips)
    assert len({clip.path for clip in clips}) == len(clips)
    assert len({clip.classes for clip in clips}) > 0.99 * len(clips)  # train and test are drawn apart
    assert not {c.classes for c in plan_label_clips(sets, {"train": 50}, seed=2)} & {c.classes for c in clips}
    assert not torch.equal(render_clip(clips[0])[0], render_clip(replace(clips[0], index=1))[0])


# ---- synthetic labels


def test_captioners_say_one_thing_of_each_object_mostly_right(sets: LabelSets, clips: list[WorldClip]) -> None:
    assert all(not clip.synthetic for clip in clips if clip.split != "train")
    right = said = 0
    allowed = {*SHAPES, *(f"something {w}" for w in (*COLOURS, *TEXTURES[1:]))}
    allowed |= {f"something {MOTIONS[i]}" for i in sets.motions.seen}
    allowed |= {f"something {SOUNDS[i]}" for i in sets.sounds.seen}
    for clip in _of(clips, "train"):
        assert 1 <= len(clip.synthetic) <= len(clip.classes)
        assert set(clip.synthetic) <= allowed
        true = {label for c in clip.classes for label in (SHAPES[c.shape], f"something {COLOURS[c.colour]}")}
        true |= {f"something {TEXTURES[c.texture or 0]}" for c in clip.classes}
        true |= {f"something {w}" for w in clip.labels}
        right += len(set(clip.synthetic) & true)
        said += len(clip.synthetic)
    # One in ten is wrong of its object; of those a few happen to be true of another object of the clip.
    assert 0.06 < 1 - right / said < 0.12
    assert {label for clip in clips for label in clip.synthetic} == allowed  # every word is said somewhere


def test_captioners_do_not_say_what_is_unseen_even_where_it_is_shown(sets: LabelSets) -> None:
    made = WorldClass(0, 0, 0, sets.motions.unseen[0], sets.sounds.unseen[0])
    rng = np.random.default_rng(0)
    assert {captioned([made], sets, rng, errors=0)[0] for _ in range(50)} == {SHAPES[0], f"something {COLOURS[0]}"}
    wrong = {captioned([made], sets, rng, errors=1)[0] for _ in range(300)}
    assert wrong == {*SHAPES[1:], *(f"something {c}" for c in COLOURS[1:])}


# ---- files


COUNTS: dict[str, Any] = {"num_train": 8, "num_test": 4, "seed": 2}


@pytest.fixture(scope="module")
def world(sets: LabelSets, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_label_world(tmp_path_factory.mktemp("labels") / "w", sets, num_workers=0, **COUNTS)


def test_lists_say_what_was_drawn(sets: LabelSets, world: World) -> None:
    dataset = read_dataset(world.path)
    assert [(c.labels, c.synthetic, c.split) for c in dataset.clips] == [
        (c.labels, c.synthetic, c.split) for c in world.clips
    ]
    assert [Path(c.path).relative_to(world.path).as_posix() for c in dataset.clips] == [c.path for c in world.clips]
    assert all(Path(c.path).stat().st_size > 0 for c in dataset.clips)
    assert Counter(c.split for c in dataset.clips) == {"train": 8, "test": 4}
    split = ClassSplit.load(Path(world.path) / "split.json")
    assert (split.base, split.novel, split.seed) == (sets.seen, sets.unseen, 2)
    stored = json.loads((Path(world.path) / "world.json").read_text())
    assert stored["label_sets"] == sets.to_dict()
    assert stored["clips"] == {"train": 8, "val": 0, "test": 4}
    for clip in dataset.restricted([label for label in split.base if label in dataset.classes]).clips:
        assert not set(clip.labels) & set(sets.unseen)
    assert len(varied(world, 3)) == 3  # of clips that are numbered through


@pytest.mark.slow
def test_processes_change_nothing(sets: LabelSets, world: World, tmp_path: Path) -> None:
    other = make_label_world(tmp_path / "w", sets, num_workers=2, **COUNTS)
    for name in (*(clip.path for clip in world.clips), "manifest.csv", "split.json", "world.json"):
        assert (Path(world.path) / name).read_bytes() == (Path(other.path) / name).read_bytes()


def test_an_interrupted_run_goes_on(sets: LabelSets, world: World, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 12
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_label_world(tmp_path / "w", sets, num_workers=0, on_progress=stop, **COUNTS)
    assert not (tmp_path / "w" / "manifest.csv").exists()
    half = tmp_path / "w" / "train" / ".00007.mp4.x1y2"
    half.write_bytes(b"half a film")
    again = make_label_world(tmp_path / "w", sets, num_workers=0, **COUNTS)
    assert again.num_kept == 8
    assert not half.exists()
    for clip in world.clips:
        assert (Path(world.path) / clip.path).read_bytes() == (tmp_path / "w" / clip.path).read_bytes()


def test_a_folder_is_one_world(sets: LabelSets, world: World) -> None:
    with pytest.raises(LexividError, match=r"another world \(clips differ\)"):
        make_label_world(world.path, sets, **{**COUNTS, "num_train": 9})
    with pytest.raises(LexividError, match="label_sets differ"):
        make_label_world(world.path, draw_label_sets(NOUNS, seed=4), **COUNTS)
    with pytest.raises(LexividError, match="another world"):
        make_world(world.path, kind="both", clips_per_class=1)
    fewer = LabelSets(NounSplit(sets.nouns.base[:2], sets.nouns.novel), sets.motions, sets.sounds)
    with pytest.raises(LexividError, match="train clips: 0"):
        make_label_world(world.path + "x", fewer, num_train=0, num_test=1)
    assert not Path(world.path + "x").exists()


def test_the_verb(sets: LabelSets, tmp_path: Path) -> None:
    def run(*options: str) -> Any:
        return CliRunner().invoke(app, ["world", "--out", str(tmp_path / "w"), "--base", "3", "--novel", "2", *options])

    few = ("--clips-per-class", "2", "--test-clips-per-class", "1", "--seed", "3")
    made = run(*few, "--label-kinds", "sound,noun", "--contact-sheet", str(tmp_path / "sheet.png"))
    assert made.exit_code == 0, made.stderr
    assert "11 clips with 8 seen and 5 unseen labels (noun, sound)" in made.stderr
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    dataset = read_dataset(tmp_path / "w")
    assert Counter(clip.split for clip in dataset.clips) == {"train": 6, "test": 5}
    split = ClassSplit.load(tmp_path / "w" / "split.json")
    known = {noun.name for noun in load_settings(LanguageModelRecipe, LANGUAGE_MODEL_RECIPE).nouns()}
    assert set(split.classes) - set(SOUNDS) <= known  # what the language model has read about, whatever the seed
    assert {SOUNDS[i] for i in sets.sounds.unseen} <= set(split.novel)
    asked = next(line for line in made.stderr.splitlines() if "lexivid classify" in line)
    assert Path(shlex.split(asked)[2]).is_file()
    labels = shlex.split(asked)[-1].split(", ")
    shown = dataset.clips[-1].labels
    assert {label for label in shown if label in SOUNDS} <= set(labels)
    assert not known & set(labels)  # words alone
    assert "11 were there already" in run(*few, "--label-kinds", "noun, sound").stderr
    for wrong, says in (
        (("--label-kinds", "smell"), "'smell': choose from noun, words, motion, sound, or all"),
        (("--label-kinds", "all", "--kind", "motion"), "leave out --kind and --multi-label"),
        (("--label-kinds", "all", "--multi-label"), "leave out --kind and --multi-label"),
        (("--label-kinds", "all", "--novel", "0"), "0 novel nouns"),
    ):
        found = run(*wrong)
        assert isinstance(found.exception, LexividError)
        assert says in str(found.exception)


# ---- tensors


@pytest.fixture(scope="module")
def packed(sets: LabelSets, world: World) -> PackedClips:
    seen: list[tuple[int, int]] = []
    made = pack_label_world(
        Path(world.path), sets=sets, seed=2, num_train=5, num_held_out=3, num_test=4, images=IMAGES, num_workers=0,
        on_count=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (24, 24)
    assert seen == sorted(seen)
    return made


def test_packed_targets_are_the_manifests(sets: LabelSets, world: World, packed: PackedClips) -> None:
    dataset = read_dataset(world.path)
    names = packed.split.classes
    assert names == (*sets.seen, *sets.unseen)
    assert packed.targets.dtype == torch.bool
    assert packed.targets.shape == (12, len(names))
    for row, clip in zip(packed.targets, dataset.clips, strict=True):
        assert {names[k] for k in row.nonzero()[:, 0].tolist()} == set(clip.labels)
    assert packed.synthetic == tuple(clip.synthetic for clip in dataset.clips)
    assert packed.parts == ("train",) * 5 + ("held-out",) * 3 + ("test",) * 4
    assert packed.video.shape == (12, 8, 3, 64, 64)
    assert packed.flow is not None
    assert packed.flow.shape == (12, 8, 2, 64, 64)
    assert packed.sound is not None
    assert packed.sound.shape[:2] == (12, 128)
    assert packed.failures == ()


def test_packed_clips_come_back(packed: PackedClips, tmp_path: Path) -> None:
    packed.save(tmp_path / "p.safetensors")
    again = PackedClips.load(tmp_path / "p.safetensors")
    assert torch.equal(again.targets, packed.targets)
    assert again.targets.dtype == torch.bool
    assert (again.synthetic, again.parts, again.split) == (packed.synthetic, packed.parts, packed.split)


def test_training_can_be_told_seen_and_synthetic_labels_alone(sets: LabelSets, packed: PackedClips) -> None:
    test = packed.indices("test")
    whole = WorldSamples(packed, test, modalities=("video",), inputs=("video",))
    assert torch.equal(whole[1]["target"], packed.targets[test[1]])
    told = WorldSamples(packed, test, modalities=("video",), inputs=("video",), classes=sets.seen)
    assert told[1]["target"].shape == (len(sets.seen),)
    assert torch.equal(told[1]["target"], packed.targets[test[1], : len(sets.seen)])
    words = sorted({label for own in packed.synthetic for label in own})
    more = packed.rows([*sets.seen, *words])
    for row, own in zip(more[:, len(sets.seen) :], packed.synthetic, strict=True):
        assert {words[k] for k in row.nonzero()[:, 0].tolist()} == set(own)
    assert torch.equal(more[:, : len(sets.seen)], packed.targets[:, : len(sets.seen)])
    with pytest.raises(LexividError, match="'golf' is neither"):
        WorldSamples(packed, test, modalities=("video",), inputs=("video",), classes=["golf"])


def test_clips_of_one_label_can_be_told_as_rows(tmp_path: Path) -> None:
    size = WorldSize(num_base=2, num_novel=2, train_clips=1, held_out_clips=1, test_clips=1)
    packed = pack_world(
        tmp_path / "w", kind="sound", seed=0, size=size, pool="report", images=IMAGES, num_workers=0
    )  # fmt: skip
    assert packed.targets.ndim == 1
    assert packed.synthetic == ()
    places = range(len(packed.paths))
    plain = WorldSamples(packed, places, modalities=("video",), inputs=("video",))
    rows = WorldSamples(packed, places, modalities=("video",), inputs=("video",), classes=packed.split.base)
    for i in places:
        target = plain[i]["target"]
        assert isinstance(target, int)
        assert rows[i]["target"].tolist() == [target == 0, target == 1]
    assert Counter(packed.parts) == {"train": 2, "held-out": 2, "test": 4}
