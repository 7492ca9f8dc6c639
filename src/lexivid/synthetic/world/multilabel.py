"""The world of several labels: clips of two to four objects, labelled with words of several kinds, seen and unseen.

    noun      an invented word, which fixes shape and colour: "zumi"        (`lexivid.synthetic.world.nouns`)
    words     the same meaning in plain words: "red star"
    motion    what an object does: "spinning"
    sound     how it sounds: "humming"

So labels name entities and actions, in words that CLIP knows and in words that only descriptions explain. As in OVML,
their scores share no scale. Training clips show only objects whose noun, motion and sound are
all seen ones; test clips show any. Texture is random, and no label names it.

    draw_label_sets --seed--> LabelSets --plan_label_clips--> WorldClips --make_label_world--> a folder

Training clips also have synthetic labels, what an imperfect captioner would write (`captioned`): "star", "something
red". Test clips have none, so no mistake of a captioner enters a measurement.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.synthetic.world.draw import VIDEO, Look
from lexivid.synthetic.world.files import MOST_OBJECTS, VERSION, OnClipCount, World, WorldClip, write_world
from lexivid.synthetic.world.nouns import Noun, NounSplit, split_nouns
from lexivid.synthetic.world.words import COLOURS, MOTIONS, SHAPES, SOUNDS, TEXTURES, WorldClass

LabelKind = Literal["noun", "words", "motion", "sound"]
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
FEWEST_OBJECTS = 2
LOOK: Look = replace(VIDEO, distractor=0.0)
"""As other clips, without the distractor: it might show an unseen noun in training, and is in no clip's labels."""
CAPTION_ERRORS = 0.1


class SeenUnseen(NamedTuple):
    """Indices into `MOTIONS` or `SOUNDS` that training may show, and those that it never shows; both sorted."""

    seen: tuple[int, ...]
    unseen: tuple[int, ...]


@dataclass(frozen=True)
class LabelSets:
    """The labels of the clips.

    Args:
        nouns, motions, sounds: seen and unseen ones. Nouns fix shape and colour alone, each another pair.
        label_kinds: which kinds of labels clips have. What clips show does not depend on it.

    Raises:
        LexividError: nouns that fix more, or the same twice; fewer seen nouns than objects in a clip; no kind, or an
            unknown one.
    """

    nouns: NounSplit
    motions: SeenUnseen
    sounds: SeenUnseen
    label_kinds: tuple[LabelKind, ...] = LABEL_KINDS

    def __post_init__(self) -> None:
        both = (*self.nouns.base, *self.nouns.novel)
        if any(n.meanings != (WorldClass(n.meaning.shape, n.meaning.colour),) for n in both):
            raise LexividError('nouns of clips with several labels mean one shape and colour: draw kind "look"')
        if min(len({n.meaning for n in both}), len({n.name for n in both})) < len(both):
            raise LexividError("two nouns have the same name, or mean the same")
        if len(self.nouns.base) < FEWEST_OBJECTS:
            raise LexividError(
                f"{len(self.nouns.base)} seen nouns, but a clip shows at least {FEWEST_OBJECTS}: have fewer novel ones"
            )
        if not self.label_kinds or [kind for kind in LABEL_KINDS if kind in self.label_kinds] != list(self.label_kinds):
            raise LexividError(
                f"kinds of labels {self.label_kinds!r}: choose from {', '.join(LABEL_KINDS)}, each once, in this order"
            )

    @property
    def seen(self) -> tuple[str, ...]:
        """Labels that training clips have, kind by kind."""
        return tuple(label for kind in self.label_kinds for label in self._of_kind(kind, seen=True))

    @property
    def unseen(self) -> tuple[str, ...]:
        """Labels that only test clips have, kind by kind."""
        return tuple(label for kind in self.label_kinds for label in self._of_kind(kind, seen=False))

    @property
    def kinds(self) -> dict[str, LabelKind]:
        """The kind of every label; seen ones first, as in `ClassSplit.classes` of the world."""
        return {
            label: kind
            for seen in (True, False)
            for kind in self.label_kinds
            for label in self._of_kind(kind, seen=seen)
        }

    def labels_of(self, objects: Sequence[WorldClass]) -> tuple[str, ...]:
        """All labels of a clip that shows these, object by object, each label once.

        Raises:
            KeyError: no noun means the shape and colour of an object.
        """
        labels: dict[str, None] = {}
        for made in objects:
            noun = self._noun_of[made.shape, made.colour]
            words = {"noun": noun.name, "words": noun.words}
            words |= {"motion": MOTIONS[made.motion]} if made.motion is not None else {}
            words |= {"sound": SOUNDS[made.sound]} if made.sound is not None else {}
            labels.update((words[kind], None) for kind in self.label_kinds if kind in words)
        return tuple(labels)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object. The key "told" of world.json means `label_kinds`."""
        nouns = {
            side: [asdict(n) for n in members] for side, members in zip(("base", "novel"), self.nouns, strict=True)
        }
        indices_of = {
            name: {"seen": list(indices.seen), "unseen": list(indices.unseen)}
            for name, indices in (("motions", self.motions), ("sounds", self.sounds))
        }
        return {"nouns": nouns, **indices_of, "told": list(self.label_kinds)}

    def _of_kind(self, kind: LabelKind, *, seen: bool) -> list[str]:
        nouns = self.nouns.base if seen else self.nouns.novel
        motions, sounds = ((indices.seen if seen else indices.unseen) for indices in (self.motions, self.sounds))
        return {
            "noun": [n.name for n in nouns],
            "words": [n.words for n in nouns],
            "motion": [MOTIONS[i] for i in motions],
            "sound": [SOUNDS[i] for i in sounds],
        }[kind]

    @cached_property
    def _noun_of(self) -> dict[tuple[int, int], Noun]:
        return {(n.meaning.shape, n.meaning.colour): n for n in (*self.nouns.base, *self.nouns.novel)}


def draw_label_sets(
    nouns: Sequence[Noun],
    *,
    seed: int,
    num_novel_nouns: int = 40,
    num_unseen_motions: int = 3,
    num_unseen_sounds: int = 3,
    kinds: Sequence[LabelKind] = LABEL_KINDS,
) -> LabelSets:
    """Divide nouns, motions and sounds into seen and unseen ones.

    Args:
        nouns: of kind "look" (`draw_nouns`).
        seed: of the three divisions. Those of motions and sounds do not depend on the nouns.
        kinds: which labels there are.

    Raises:
        LexividError: nothing would be left for one side, or as `LabelSets`.
    """
    if seed < 0:
        raise LexividError(f"seed: {seed}; choose 0 or more")
    divided: list[SeenUnseen] = []
    for stream, (name, words, num) in enumerate(
        (("motions", MOTIONS, num_unseen_motions), ("sounds", SOUNDS, num_unseen_sounds))
    ):
        if not 0 <= num < len(words):
            raise LexividError(f"{num} unseen {name} of {len(words)}: choose 0 to {len(words) - 1}")
        order = np.random.default_rng([seed, stream]).permutation(len(words)).tolist()
        divided.append(SeenUnseen(tuple(sorted(order[num:])), tuple(sorted(order[:num]))))
    motions, sounds = divided
    return LabelSets(split_nouns(nouns, num_novel=num_novel_nouns, seed=seed), motions, sounds, tuple(kinds))


def plan_label_clips(sets: LabelSets, counts: Mapping[str, int], *, seed: int) -> list[WorldClip]:
    """All clips of a world, split by split.

    What clip i of a split shows depends on the label sets, the seed, the split and i: not on how many there are.

    Args:
        counts: clips of each split in all. Those of "train" show seen nouns, motions and sounds alone.
    """
    return [_plan(sets, split, index, seed) for split, count in counts.items() for index in range(count)]


def _plan(sets: LabelSets, split: str, index: int, seed: int) -> WorldClip:
    key = hashlib.sha256(f"several labels|{seed}|{split}|{index}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(key, "<u4").tolist())
    is_train = split == "train"
    nouns = sets.nouns.base if is_train else (*sets.nouns.base, *sets.nouns.novel)
    motions, sounds = (
        words.seen if is_train else (*words.seen, *words.unseen) for words in (sets.motions, sets.sounds)
    )
    num = min(int(rng.integers(FEWEST_OBJECTS, MOST_OBJECTS + 1)), len(nouns))
    objects = tuple(
        replace(
            nouns[i].meaning,
            texture=int(rng.integers(len(TEXTURES))),
            motion=int(rng.choice(motions)),
            sound=int(rng.choice(sounds)),
        )
        for i in rng.choice(len(nouns), num, replace=False)
    )
    synthetic = captioned(objects, sets, rng) if is_train else ()
    return WorldClip(objects, split, index, seed, sets.labels_of(objects), synthetic)


def captioned(
    objects: Sequence[WorldClass], sets: LabelSets, rng: np.random.Generator, *, errors: float = CAPTION_ERRORS
) -> tuple[str, ...]:
    """What an imperfect captioner writes about a clip: of each object one thing in CLIP's words, each phrase once.

    Its shape ("star"), its colour ("something red"), its texture unless that is plain, its motion or its sound. Unseen
    motions and sounds are never written: they would no longer be unseen.

    Args:
        errors: probability that a phrase has another word of its kind in place of the right one.
    """
    sayable: tuple[tuple[str, str, Sequence[str], Sequence[int]], ...] = (
        ("shape", "{}", SHAPES, range(len(SHAPES))),
        ("colour", "something {}", COLOURS, range(len(COLOURS))),
        ("texture", "something {}", TEXTURES, range(1, len(TEXTURES))),
        ("motion", "something {}", MOTIONS, sets.motions.seen),
        ("sound", "something {}", SOUNDS, sets.sounds.seen),
    )
    phrases: dict[str, None] = {}
    for made in objects:
        options = [(getattr(made, part), *form_and_words) for part, *form_and_words in sayable]
        options = [option for option in options if option[0] in option[3]]
        word, form, words, allowed = options[int(rng.integers(len(options)))]
        others = [other for other in allowed if other != word]
        if rng.random() < errors and others:
            word = int(rng.choice(others))
        phrases[form.format(words[word])] = None
    return tuple(phrases)


def make_label_world(
    out: str | os.PathLike[str],
    sets: LabelSets,
    *,
    num_train: int,
    num_test: int,
    num_val: int = 0,
    seed: int = 0,
    look: Look = LOOK,
    num_workers: int | None = None,
    on_progress: OnClipCount | None = None,
) -> World:
    """Write the clips of `plan_label_clips` and their lists into a folder, or go on with one that was interrupted.

    The manifest has the columns labels and synthetic; base and novel in split.json are the seen and unseen labels.

    Args:
        out: as `lexivid.synthetic.world.files.make_world`.
        num_train, num_test, num_val: clips in all. Those for validation show, as test clips do, unseen labels too.
        seed: of the clips.
        look: how hard the frames are.
        num_workers: processes; None: all cores, or this process alone for a few clips.
        on_progress: called with (clips done, clips in all).

    Raises:
        LexividError: a number is out of range, or the folder holds something else or cannot be written.
    """
    counts = {"train": num_train, "val": num_val, "test": num_test}
    for name, value in {**{f"{split} clips": num for split, num in counts.items()}, "seed": seed}.items():
        if value < (least := int(name == "train clips")):
            raise LexividError(f"{name}: {value}; choose {least} or more")
    clips = plan_label_clips(sets, counts, seed=seed)
    split = ClassSplit(
        sets.seen, sets.unseen, seed, f"synthetic world {VERSION}, labels: {', '.join(sets.label_kinds)}"
    )
    about = {"seed": seed, "clips": counts, "label_sets": sets.to_dict()}
    return write_world(
        out, clips, split, about, multi_label=True, look=look, num_workers=num_workers, on_progress=on_progress
    )
