"""Invented nouns of the world: words whose meaning is given by descriptions alone.

A CLIP trained on the world's captions has never met "zumi". A language model trained on descriptions ("every zumi is
red and it is a star") has. So a system that finds a zumi in a video has this knowledge from the language model. Each
noun is two tokens, so this knowledge is not in the table of word vectors (docs/ovml.md, invented nouns).

A noun of kind "either" means one of two appearances ("a red star or a blue star"), and each sentence describes one of
them. No single phrase gives the whole meaning.

    draw_nouns --seed--> nouns with meanings --split_nouns--> base, novel       describe -> sentences to train on
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal, NamedTuple

import numpy as np

from lexivid.errors import LexividError
from lexivid.synthetic.world.words import (
    ATTRIBUTES,
    COLOURS,
    MOTIONS,
    PREFIXES,
    SHAPES,
    SOUNDS,
    WorldClass,
    caption,
)

FIRST_SYLLABLES = (
    "bu", "de", "fi", "go", "ju", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu", "za", "che", "shi",
    "dro", "plu",
)  # fmt: skip
SECOND_SYLLABLES = (
    "bo", "da", "fe", "gi", "ju", "ko", "lu", "ma", "ne", "pi", "ro", "su", "ta", "ve", "wi", "zo", "cha", "she",
    "kri", "blo",
)  # fmt: skip
NounKind = Literal["look", "motion", "sound", "both", "either"]
# How many motions and sounds a meaning may have. A kind's index seeds its draw, so new kinds go to the end.
_DOES = {
    "look": (1, 1), "motion": (len(MOTIONS), 1), "sound": (1, len(SOUNDS)), "both": (len(MOTIONS), len(SOUNDS)),
    "either": (1, 1),
}  # fmt: skip

# {N}: the noun, {c}: its colour, {s}: its shape, {d}: what it does. In none do the attributes follow the noun at once.
_LOOK_FORMS = (
    "{N} is a {c} {s}",
    "{N} is a {s} and it is {c}",
    "every {N} is {c} and it is a {s}",
    "every {N} is a {s} and its colour is {c}",
    "a {c} {s} is called {N}",
    "a {s} that is {c} is called {N}",
    "the name of a {c} {s} is {N}",
    "look at the {N} it is a {c} {s}",
    "a {N} is a {c} {s}",
    "the {N} is a {s} and the {N} is {c}",
)
_DOING_FORMS = (
    "{N} is a {c} {s} {d}",
    "{N} is a {s} {d} and it is {c}",
    "every {N} is {d}",
    "a {c} {s} {d} is called {N}",
    "look at the {N} it is {d}",
)


@dataclass(frozen=True, order=True)
class Noun:
    """A word of two syllables, and its meaning: the attributes that its `WorldClass` fixes.

    other: the second meaning of a noun of kind "either"; None: there is none.
    """

    name: str
    meaning: WorldClass
    other: WorldClass | None = None

    @property
    def meanings(self) -> tuple[WorldClass, ...]:
        """All meanings: an object that has one of these is called by the noun."""
        return (self.meaning,) if self.other is None else (self.meaning, self.other)

    @property
    def words(self) -> str:
        """The meaning in words, such as "red star spinning" or "red star or blue star" (no CLIP here knows "or")."""
        return " or ".join(meaning.name for meaning in self.meanings)


class NounSplit(NamedTuple):
    """Nouns that training may see, and nouns that it never sees; disjoint."""

    base: tuple[Noun, ...]
    novel: tuple[Noun, ...]


def draw_nouns(kind: NounKind = "look", *, num: int = 100, seed: int = 0) -> tuple[Noun, ...]:
    """Nouns with meanings of their own, the same for the same arguments everywhere.

    Args:
        kind: what a noun fixes beside shape and colour. Of "look" there are 100. "either": two looks that share
            shape or colour, half of the nouns each (by the draw); two nouns may share a look.

    Raises:
        LexividError: an unknown kind, or more nouns than there are meanings or names.
    """
    if kind not in _DOES:
        raise LexividError(f"unknown kind of nouns {kind!r}: choose {', '.join(_DOES)}")
    num_motions, num_sounds = _DOES[kind]
    pairs = _pairs_of_looks() if kind == "either" else []
    num_meanings = len(pairs) or len(SHAPES) * len(COLOURS) * num_motions * num_sounds
    names = [a + b for a, b in product(FIRST_SYLLABLES, SECOND_SYLLABLES)]
    if num > min(num_meanings, len(names)):
        raise LexividError(
            f"{num} nouns of kind {kind!r}: there are {num_meanings:,} meanings and {len(names)} names of two syllables"
        )
    rng = np.random.default_rng([seed, list(_DOES).index(kind)])
    shape = (len(SHAPES), len(COLOURS), num_motions, num_sounds)
    made = []
    for name, index in zip(rng.permutation(names)[:num], rng.permutation(num_meanings)[:num], strict=True):
        if pairs:
            made.append(Noun(str(name), *pairs[index]))
            continue
        s, c, motion, sound = (int(i) for i in np.unravel_index(index, shape))
        meaning = WorldClass(s, c, motion=motion if num_motions > 1 else None, sound=sound if num_sounds > 1 else None)
        made.append(Noun(str(name), meaning))
    return tuple(made)


def _pairs_of_looks() -> list[tuple[WorldClass, WorldClass]]:
    """All pairs of appearances that differ in shape alone or in colour alone; there are as many of each."""
    looks = [WorldClass(s, c) for s, c in product(range(len(SHAPES)), range(len(COLOURS)))]
    return [(a, b) for a, b in combinations(looks, 2) if (a.shape == b.shape) != (a.colour == b.colour)]


def split_nouns(nouns: Sequence[Noun], *, num_novel: int, seed: int = 0) -> NounSplit:
    """Base and novel nouns. Every shape and colour of a novel noun occurs among base ones, if possible.

    Raises:
        LexividError: no nouns would be left for one of the two.
    """
    if not 0 < num_novel < len(nouns):
        raise LexividError(f"{num_novel} novel nouns of {len(nouns)}: leave at least one for each side")
    rng = np.random.default_rng(seed)
    for _ in range(100):
        order = [nouns[i] for i in rng.permutation(len(nouns))]
        split = NounSplit(tuple(sorted(order[num_novel:])), tuple(sorted(order[:num_novel])))
        if all(
            {getattr(meaning, part) for noun in split.novel for meaning in noun.meanings}
            <= {getattr(meaning, part) for noun in split.base for meaning in noun.meanings}
            for part in ("shape", "colour", "motion", "sound")
        ):
            break
    return split


def describe_noun(noun: Noun, rng: np.random.Generator) -> str:
    """A sentence with all or part of a noun's meaning; if it has two meanings, one of them."""
    meaning = noun.meanings[rng.integers(2)] if noun.other is not None else noun.meaning
    doing = [words[i] for words, i in ((MOTIONS, meaning.motion), (SOUNDS, meaning.sound)) if i is not None]
    forms = _LOOK_FORMS + _DOING_FORMS if doing else _LOOK_FORMS
    fields = {
        "N": noun.name,
        "c": COLOURS[meaning.colour],
        "s": SHAPES[meaning.shape],
        "d": " and ".join(doing),
    }
    return str(rng.choice(forms)).format(**fields)


def plain_sentence(rng: np.random.Generator) -> str:
    """A caption of the world without any noun, as `lexivid.synthetic.world.words.caption` writes them."""
    words = {name: int(rng.integers(len(values))) for name, values in ATTRIBUTES.items()}
    return caption(WorldClass(**words), rng)


def noun_vocabulary() -> tuple[str, ...]:
    """Every word of descriptions and captions, sorted; nouns are not among them."""
    texts = [*_LOOK_FORMS, *_DOING_FORMS, *PREFIXES, "a an something and"]
    texts += [word for words in ATTRIBUTES.values() for word in words]
    return tuple(sorted({word for text in texts for word in re.sub(r"\{.*?\}", " ", text).split()}))
