"""The words of the world, its classes and its captions.

An object has a shape, a colour, a texture, a motion and a sound. A class is a phrase of some of these: "red striped
star spinning and humming". Appearance is always named. The `WorldKind` of a world decides whether motion, sound or both
are named:

    motion   appearance + motion, as Kinetics-700 (MOV, table 1)
    sound    appearance + sound, as VGGSound (table 2)
    both     appearance + motion + sound

Novel classes recombine words. Motion and sound words occur on both sides. Some shapes and colours are held out of the
base classes: a class that is new in the real world usually shows a new thing, and without held-out words fine-tuning
the image tower on base classes would not cost novel ones (MOV, figure 1). This is a choice; the report states it beside
that figure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lexivid.errors import LexividError

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "bar", "moon", "heart", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white")
TEXTURES = ("plain", "striped", "spotted")  # "plain" is never named
MOTIONS = (
    "moving left", "moving right", "moving up", "moving down", "spinning", "bouncing", "shaking", "growing",
)  # fmt: skip
SOUNDS = ("humming", "beeping", "chirping", "wailing", "hissing", "ticking", "warbling", "chiming")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES, "motion": MOTIONS, "sound": SOUNDS}

WorldKind = Literal["motion", "sound", "both"]
KINDS: tuple[WorldKind, ...] = ("motion", "sound", "both")
HELD_OUT_SHAPES, HELD_OUT_COLOURS = 4, 3
SHARED = 2
"""Number of classes that share an appearance, so that frames alone cannot tell them apart."""


@dataclass(frozen=True, order=True)
class WorldClass:
    """What all clips of a class share, as indices into the tuples above. None: random in each clip, and not named."""

    shape: int
    colour: int
    texture: int | None = None
    motion: int | None = None
    sound: int | None = None

    @property
    def name(self) -> str:
        """The phrase, such as "red striped star moving left and humming"."""
        texture = [] if not self.texture else [TEXTURES[self.texture]]
        words = [COLOURS[self.colour], *texture, SHAPES[self.shape]]
        does = [t[i] for t, i in ((MOTIONS, self.motion), (SOUNDS, self.sound)) if i is not None]
        return " ".join([*words, " and ".join(does)]).strip()


class WorldClasses(NamedTuple):
    """A draw of classes: base and novel, disjoint."""

    base: tuple[WorldClass, ...]
    novel: tuple[WorldClass, ...]


def draw_classes(
    kind: WorldKind,
    *,
    seed: int,
    num_base: int = 40,
    num_novel: int = 30,
    held_out: float = 1.0,
    pool: Literal["report", "validation"] = "report",
) -> WorldClasses:
    """Classes of a world, the same for the same arguments everywhere.

    Args:
        num_base, num_novel: how many. Motions and sounds are spread evenly over both.
        held_out: share of the novel classes whose shape no base class has (half of those: nor its colour).
        pool: novel classes come from one of two halves of all combinations, by a hash. Settings are chosen on
            "validation"; reports use "report".

    Raises:
        LexividError: more classes than there are combinations.
    """
    if kind not in KINDS:
        raise LexividError(f"unknown kind of world {kind!r}: choose {', '.join(KINDS)}")
    too_many = f"{num_base} base and {num_novel} novel classes are more than there are appearances"
    if num_base + num_novel > SHARED * len(SHAPES) * len(COLOURS) * len(TEXTURES):
        raise LexividError(too_many)
    rng = np.random.default_rng([seed, KINDS.index(kind), pool == "report"])
    shapes, colours = rng.permutation(len(SHAPES)), rng.permutation(len(COLOURS))
    new_shapes, old_shapes = shapes[:HELD_OUT_SHAPES], shapes[HELD_OUT_SHAPES:]
    new_colours, old_colours = colours[:HELD_OUT_COLOURS], colours[HELD_OUT_COLOURS:]
    appearances: set[tuple[int, int, int]] = set()

    def draw(number: int, *, novel: bool) -> tuple[WorldClass, ...]:
        made: list[WorldClass] = []
        num_new = round(held_out * number)
        for _ in range(100 * number + 1):
            if len(made) >= number:
                return tuple(made[:number])
            is_new = novel and len(made) < num_new
            appearance = (
                int(rng.choice(new_shapes if is_new else old_shapes)),
                int(rng.choice(new_colours if is_new and rng.random() < 0.5 else old_colours)),
                int(rng.integers(len(TEXTURES))),
            )
            options = [c for c in _classes_of(appearance, kind, rng) if not novel or pool_of(c) == pool]
            if appearance in appearances or len(options) < SHARED:
                continue
            appearances.add(appearance)
            for _ in range(SHARED):  # the least used motion and sound of all, so that they spread evenly
                best = min(options, key=lambda c: sum((c.motion == m.motion) + (c.sound == m.sound) for m in made))
                made.append(best)
                options.remove(best)
        raise LexividError(too_many)

    return WorldClasses(draw(num_base, novel=False), draw(num_novel, novel=True))


def _classes_of(appearance: tuple[int, int, int], kind: WorldKind, rng: np.random.Generator) -> list[WorldClass]:
    """All classes of one appearance, in random order."""
    motions = [None] if kind == "sound" else list(range(len(MOTIONS)))
    sounds = [None] if kind == "motion" else list(range(len(SOUNDS)))
    classes = [WorldClass(*appearance, motion=m, sound=s) for m in motions for s in sounds]
    return [classes[i] for i in rng.permutation(len(classes))]


def pool_of(made: WorldClass) -> str:
    """Which half of all combinations a class is of: "report" or "validation"."""
    return ("report", "validation")[hashlib.sha256(made.name.encode()).digest()[0] % 2]


def caption(made: WorldClass, rng: np.random.Generator, *, named: float = 0.7) -> str:
    """A caption of an image of it: some of the words, in the order of `WorldClass.name`.

    A quarter of the captions name one attribute alone, as "a star" or "something humming". Without them, words that
    images show weakly are not learnt.

    Args:
        named: probability that a longer caption names the motion, and the sound.
    """
    short = rng.random()
    if short < 0.25:
        options = [f"a {SHAPES[made.shape]}", f"something {COLOURS[made.colour]}"]
        options += [f"something {TEXTURES[made.texture]}"] if made.texture else []
        options += [f"something {MOTIONS[made.motion]}"] if made.motion is not None else []
        options += [f"something {SOUNDS[made.sound]}"] if made.sound is not None else []
        return str(rng.choice(options))
    words = WorldClass(
        shape=made.shape,
        colour=made.colour,
        texture=made.texture if rng.random() < named else None,
        motion=made.motion if rng.random() < named else None,
        sound=made.sound if rng.random() < named else None,
    )
    return str(rng.choice(PREFIXES)).replace("{}", words.name)


PREFIXES: Sequence[str] = ("{}", "a {}", "a picture of a {}", "a drawing of a {}", "here is a {}")
