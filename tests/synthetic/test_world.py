"""The synthetic world: classes, captions and pictures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lexivid.errors import LexividError
from lexivid.synthetic.world.draw import (
    _BADGES,
    NONE,
    PICTURE,
    VIDEO,
    Look,
    Scenes,
    draw,
    pose,
    random_scenes,
    random_words,
    sample_multi_scenes,
    sample_scenes,
)
from lexivid.synthetic.world.words import (
    ATTRIBUTES,
    COLOURS,
    KINDS,
    MOTIONS,
    SHAPES,
    SOUNDS,
    WorldClass,
    caption,
    draw_classes,
)

CLEAN = Look(noise=0, occluder=0, distractor=0, trail=0, trail_alpha=0, badge=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clean_scene(seed: int = 0, **words: int) -> Scenes:
    made = WorldClass(**{"shape": 0, "colour": 0, "texture": 0, "motion": 0, "sound": 0} | words)
    return sample_scenes([made], look=CLEAN, generator=generator(seed))


def test_a_name_says_what_the_class_fixes() -> None:
    assert WorldClass(3, 0, 1, 0, 0).name == "red striped star moving left and humming"
    assert WorldClass(3, 0, 0, 4).name == "red star spinning"
    assert WorldClass(3, 0).name == "red star"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", ["report", "validation"])
def test_classes_share_words_but_hold_some_out(kind: str, pool: str) -> None:
    for seed in range(5):
        base, novel = draw_classes(kind, seed=seed, pool=pool)  # type: ignore[arg-type]
        names = [c.name for c in base + novel]
        assert len(base) == 40
        assert len(novel) == 30
        assert len(set(names)) == 70
        assert not {c.shape for c in base} & {c.shape for c in novel}
        assert {c.colour for c in novel} & {c.colour for c in base}
        for attribute, words in (("motion", MOTIONS), ("sound", SOUNDS)):
            for side in (base, novel):
                counts = Counter(getattr(c, attribute) for c in side)
                if attribute == kind or kind == "both":
                    assert set(counts) == set(range(len(words)))
                    assert max(counts.values()) - min(counts.values()) <= 3
                else:
                    assert set(counts) == {None}
        # pictures alone cannot tell them apart: two classes to each appearance
        assert set(Counter((c.shape, c.colour, c.texture) for c in base).values()) == {2}
        assert draw_classes(kind, seed=seed, pool=pool) == (base, novel)  # type: ignore[arg-type]


def test_validation_and_reported_novel_classes_never_meet() -> None:
    drawn = {
        pool: {c for kind in KINDS for seed in range(20) for c in draw_classes(kind, seed=seed, pool=pool).novel}  # type: ignore[arg-type]
        for pool in ("report", "validation")
    }
    assert not drawn["report"] & drawn["validation"]


def test_no_held_out_words_where_none_are_asked() -> None:
    base, novel = draw_classes("motion", seed=0, held_out=0)
    assert {c.shape for c in novel} <= {c.shape for c in base}


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(LexividError, match="more than there are appearances"):
        draw_classes("motion", seed=0, num_base=4000)
    with pytest.raises(LexividError, match="unknown kind"):
        draw_classes("smell", seed=0)  # type: ignore[arg-type]


def test_captions_say_only_what_is_true() -> None:
    rng = np.random.default_rng(0)
    made = WorldClass(shape=3, colour=5, texture=2, motion=1, sound=6)
    true = {ATTRIBUTES[name][getattr(made, name)] for name in ATTRIBUTES}
    false = {word for words in ATTRIBUTES.values() for word in words} - true - {"plain"}
    captions = [caption(made, rng) for _ in range(400)]
    assert not [text for text in captions for word in false if word in text]
    for word in true:  # every word is said, and said alone
        assert 0.1 < np.mean([word in text for text in captions]) < 1
    assert {"a star", "something blue", "something warbling"} <= set(captions)


@pytest.mark.parametrize("texture", range(3))
def test_colour_is_on_the_object(texture: int) -> None:
    """The brightest saturated pixels have the hue of the word."""
    hues = []
    for colour in (COLOURS.index("red"), COLOURS.index("green"), COLOURS.index("blue")):
        scene = clean_scene(colour=colour, texture=texture)
        frame = draw(scene, torch.tensor([0.3]), size=48, generator=generator())[0, 0].float()
        spread = frame.amax(0) - frame.amin(0)
        hues.append(int(frame.flatten(1)[:, spread.flatten().argmax()].argmax()))
    assert hues == [0, 1, 2]


def test_shapes_differ_and_fill_their_place() -> None:
    frames = [
        draw(clean_scene(shape=i), torch.tensor([0.4]), size=64, generator=generator())[0, 0].float()
        for i in range(len(SHAPES))
    ]
    for i, a in enumerate(frames):
        for b in frames[:i]:
            assert (a - b).abs().amax(0).gt(60).float().mean() > 0.01


def centroid(frames: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """(T, 3, S, S) -> (T, 2): x and y of what is not the ground, pixels."""
    mask = (frames.float() - empty.float()).abs().amax(1) > 40
    axis = torch.arange(mask.shape[-1]).float()
    area = mask.sum((-2, -1)).clamp_min(1)
    x, y = (mask.sum(-2) * axis).sum(-1) / area, (mask.sum(-1) * axis).sum(-1) / area
    return torch.stack([x, y], -1)


@pytest.mark.parametrize(("word", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_motion_goes_where_the_word_says(word: str, axis: int, sign: int) -> None:
    scene = clean_scene(motion=MOTIONS.index(f"moving {word}"))
    frames = draw(scene, torch.arange(16) / 8, size=64, generator=generator())[0]
    empty = draw(scene._replace(size=scene.size * 0), torch.zeros(1), size=64, generator=generator())[0]
    steps = centroid(frames, empty).diff(dim=0)
    forward = steps[:, axis] * sign > 0
    assert forward.float().mean() > 0.8  # but for where it starts over
    assert steps[forward, axis].abs().median() > 2
    assert steps[:, 1 - axis].abs().median() < 1


def test_other_motions_stay_in_place() -> None:
    times = torch.arange(16) / 8
    centre, angle, size = pose(clean_scene(motion=MOTIONS.index("spinning")), times)
    assert centre[:, :, 0].diff(dim=1).abs().max() == 0
    assert angle[0, :, 0].diff().abs().min() > 0.3
    assert size[:, :, 0].diff(dim=1).abs().max() == 0
    _, _, size = pose(clean_scene(motion=MOTIONS.index("growing")), times)
    assert (size[0, :, 0].diff() > 0).float().mean() > 0.8
    centre, _, _ = pose(clean_scene(motion=MOTIONS.index("bouncing")), times)
    assert centre[:, :, 0, 0].diff(dim=1).abs().max() == 0
    assert centre[:, :, 0, 1].std() > 0.05
    centre, angle, size = pose(clean_scene()._replace(words=torch.full((1, 2, 5), NONE)), times)
    assert centre[:, :, 0].diff(dim=1).abs().max() == 0


def test_a_ghost_is_where_the_object_was() -> None:
    scene = clean_scene(motion=MOTIONS.index("moving right"))
    now, _, _ = pose(scene, torch.tensor([0.5]))
    before, _, _ = pose(scene, torch.tensor([0.5]), age_s=0.1)
    assert before[0, 0, 0, 0] < now[0, 0, 0, 0]
    scene = scene._replace(phase=torch.zeros(1, 2))
    start, _, _ = pose(scene, torch.tensor([1.0]))
    before, _, _ = pose(scene, torch.tensor([1.0]), age_s=0.1)
    assert before[0, 0, 0, 0] < start[0, 0, 0, 0]  # beyond its start, not at the other end


def test_badges_differ_enough_to_survive_noise() -> None:
    assert len(set(_BADGES)) == len(SOUNDS)
    for i, a in enumerate(_BADGES):
        for b in _BADGES[:i]:
            assert sum(x != y for x, y in zip(a, b, strict=True)) >= 4, (a, b)


def test_looks_are_as_often_as_they_say() -> None:
    scenes = random_scenes(4000, VIDEO, generator())
    assert scenes.num_scenes == 4000
    for share, value in (
        (VIDEO.occluder, scenes.occluder[:, 2] > 0),
        (VIDEO.distractor, scenes.size[:, 1] > 0),
        (VIDEO.trail, scenes.trail[:, 0] > 0),
        (VIDEO.badge, scenes.badge != NONE),
    ):
        assert abs(float(value.float().mean()) - share) < 0.03
    start = PICTURE.eased(0.0)
    assert (start.noise, start.occluder, start.distractor, start.trail, start.badge) == (0, 0, 0, 1, 1)
    assert PICTURE.eased(1.0) == PICTURE


def test_what_a_class_leaves_open_is_drawn() -> None:
    scenes = sample_scenes([WorldClass(2, 3)] * 500, look=VIDEO, generator=generator())
    assert (scenes.words[:, 0, :2] == torch.tensor([2, 3])).all()
    assert set(scenes.words[:, 0, 4].tolist()) == set(range(len(SOUNDS)))


def test_several_objects_at_once() -> None:
    groups = [[WorldClass(0, 0, 0, 0, 0), WorldClass(1, 3, 0, 4, 1), WorldClass(2, 5, 0, 6, 2)]] * 3
    scenes = sample_multi_scenes(groups, look=CLEAN, generator=generator())
    assert scenes.words.shape == (3, 4, 5)
    assert scenes.is_main.tolist() == [[True, True, True, False]] * 3
    away = (scenes.centre[:, :3, None] - scenes.centre[:, None, :3]).norm(dim=-1) + torch.eye(3) * 9
    assert away.min() > 0.5  # beside each other, not in front of each other
    frames = draw(scenes, torch.tensor([0.0]), size=64, generator=generator())[:, 0].float()
    for place, colour in enumerate((0, 1, 2)):  # red, green, blue are all to be seen
        others = [c for c in range(3) if c != place]
        assert ((frames[:, place] - frames[:, others].amax(1)) > 60).flatten(1).sum(1).min() > 20, colour


def test_the_same_generator_draws_the_same() -> None:
    def made(seed: int) -> torch.Tensor:
        g = generator(seed)
        return draw(random_scenes(8, VIDEO, g), torch.arange(4) / 8, size=32, generator=g)

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))
    assert made(1).shape == (8, 4, 3, 32, 32)
    assert made(1).dtype == torch.uint8


def test_words_are_drawn_evenly() -> None:
    words = random_words(8000, generator())
    for place, name in enumerate(ATTRIBUTES):
        counts = np.bincount(words[:, place].numpy(), minlength=len(ATTRIBUTES[name]))
        assert counts.min() > 0.8 * counts.mean()


def test_the_curriculum_begins_with_one_object_in_the_middle() -> None:
    scenes = random_scenes(300, PICTURE.eased(0.0), generator())
    centre, angle, size = pose(scenes, torch.rand(300, 1, generator=generator()))
    still = ~torch.isin(
        scenes.words[:, 0, 3], torch.tensor([MOTIONS.index(m) for m in ("bouncing", "shaking", "spinning")])
    )
    assert centre[still, 0, 0].abs().max() < 1e-6
    assert angle[still, 0, 0].abs().max() == 0
    assert size[still, 0, 0].std() < 1e-6
    before, _, _ = pose(scenes, torch.zeros(300, 1), age_s=0.1)
    moves = scenes.words[:, 0, 3] < 4
    assert before[moves, 0, 0].norm(dim=-1).min() > 0.09  # but its ghosts are where it came from
