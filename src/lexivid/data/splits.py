"""Which classes are base and which novel (MOV, section 4.1), and which clips are held out; seeded and stored.

The paper divides Kinetics-700 into 400 base and 300 novel classes and VGGSound into 154 and 155, at random. A split is
a short JSON file, so that a result can name the one it was measured with.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from lexivid.data.dataset import Clip
from lexivid.errors import LexividError
from lexivid.storage import write_atomically


@dataclass(frozen=True)
class ClassSplit:
    """Base and novel classes.

    Args:
        base: classes with training clips. novel: classes that training never sees; may be empty.
        seed: that drew it; None: it was not drawn.
        source: of what data set, or how it was made.
    """

    base: tuple[str, ...]
    novel: tuple[str, ...]
    seed: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", tuple(self.base))
        object.__setattr__(self, "novel", tuple(self.novel))
        names = (*self.base, *self.novel)
        if not self.base:
            raise LexividError("a class split has no base classes")
        if any(not isinstance(name, str) for name in names):
            raise LexividError("a class split's classes must be strings")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise LexividError(f"class {twice!r} stands twice in a class split")

    @property
    def classes(self) -> tuple[str, ...]:
        """Base, then novel."""
        return self.base + self.novel

    def swapped(self) -> ClassSplit:
        """Base and novel exchanged: with both of a complementary pair every class counts once on each side."""
        return replace(self, base=self.novel, novel=self.base)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, whole or not at all.

        Raises:
            LexividError: the file cannot be written.
        """
        write_atomically(Path(path), json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClassSplit:
        """Read what `save` wrote, or JSON with "base" and "novel" alone.

        Raises:
            LexividError: the file is missing or holds something else.
        """
        where = f"class split {os.fspath(path)!r}"
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LexividError(f"{where} does not exist; check the path") from None
        except (OSError, ValueError) as error:
            raise LexividError(f"{where} cannot be read: {error}") from None
        keys = set(found) if isinstance(found, dict) else set()
        if not {"base", "novel"} <= keys <= {"base", "novel", "seed", "source"}:
            raise LexividError(f'{where} must be JSON with "base" and "novel", and may have "seed" and "source"')
        if any(not isinstance(found[side], list) for side in ("base", "novel")):
            raise LexividError(f'{where}: "base" and "novel" must be lists of names')
        return cls(**found)


def split_classes(
    classes: Iterable[str], *, num_base: int | None = None, fraction: float = 0.5, seed: int = 0, source: str = ""
) -> ClassSplit:
    """Draw base classes; the rest is novel. The order of `classes` plays no part.

    Args:
        num_base: how many; None: `fraction` of them, rounded, at least 1.

    Raises:
        LexividError: more base classes than there are classes, or none.
    """
    names = sorted(set(classes))
    count = max(1, round(len(names) * fraction)) if num_base is None else num_base
    if not 1 <= count <= len(names):
        raise LexividError(f"{count} base classes of {len(names)}: choose 1 to {len(names)}")
    base = set(random.Random(f"class split {seed}").sample(names, count))
    return ClassSplit(tuple(n for n in names if n in base), tuple(n for n in names if n not in base), seed, source)


def complementary_splits(
    classes: Iterable[str], *, num_pairs: int, seed: int = 0, source: str = ""
) -> list[ClassSplit]:
    """2 * num_pairs different halvings: each drawn one is followed by itself swapped. So every class is base as often
    as novel, and an average over the splits does not hang on which classes happened to be easy.

    Raises:
        LexividError: an odd number of classes, or there are not that many halvings.
    """
    names = sorted(set(classes))
    half = len(names) // 2
    if len(names) % 2 or not names:
        raise LexividError(f"{len(names)} classes cannot be halved: complementary pairs need an even number")
    possible = math.comb(len(names), half) // 2
    if not 1 <= num_pairs <= possible:
        raise LexividError(f"{num_pairs} pairs, but {len(names)} classes have {possible} different halvings")
    rng = random.Random(f"complementary {seed}")
    found: dict[tuple[str, ...], ClassSplit] = {}
    if possible <= 4 * num_pairs:  # few: shuffle them all
        halves = [h for h in itertools.combinations(names, half) if names[0] in h]
        drawn: Iterable[Sequence[str]] = rng.sample(halves, len(halves))
    else:
        drawn = (rng.sample(names, half) for _ in itertools.count())
    for base in drawn:
        rest = tuple(n for n in names if n not in set(base))
        one = tuple(sorted(base))
        if one not in found and rest not in found:
            first, second = (one, rest) if rng.random() < 0.5 else (rest, one)
            found[first] = ClassSplit(first, second, seed, source)
        if len(found) == num_pairs:
            break
    return [split for one in found.values() for split in (one, one.swapped())]


def hold_out(
    clips: Sequence[Clip],
    *,
    fraction: float = 0.1,
    seed: int = 0,
    by: Literal["group", "clip"] = "group",
    each_class: bool = True,
) -> tuple[list[Clip], list[Clip]]:
    """Divide clips into (kept, held out), for choosing and calibrating without the test clips.

    Drawn within each class (first label), so that no class loses all its clips and every class with two groups or more
    gives at least one. With `by="group"` whole groups are drawn, until about `fraction` of the class's clips
    are out; a clip without a group is a group of its own. A group is on one side even where its clips have
    several labels. With `each_class` false they are drawn from all clips alike: for clips of several labels, whose
    first one says little.

    Raises:
        LexividError: a fraction outside 0..1.
    """
    if not 0 <= fraction < 1:
        raise LexividError(f"the share of held-out clips is {fraction}, and must be 0 or more and below 1")
    if fraction == 0:
        return list(clips), []

    def unit_of(clip: Clip) -> tuple[str, ...]:
        if by == "group" and clip.group is not None:
            return ("group", clip.group)
        return ("clip", clip.path, repr(clip.start_s), repr(clip.end_s))

    units: dict[tuple[str, ...], int] = defaultdict(int)  # clips in each
    members: dict[str, list[tuple[str, ...]]] = defaultdict(list)  # class -> its units; a unit counts where it began
    for clip in clips:
        unit = unit_of(clip)
        if unit not in units:
            members[clip.labels[0] if each_class else ""].append(unit)
        units[unit] += 1
    out: set[tuple[str, ...]] = set()
    for label in sorted(members):
        own = sorted(members[label])
        random.Random(f"hold out {seed} {label}").shuffle(own)
        wanted = fraction * sum(units[unit] for unit in own)
        gone = 0
        for unit in own[:-1]:  # one stays
            # Nearest to the wanted number, but at least one.
            if gone and abs(gone + units[unit] - wanted) > abs(gone - wanted):
                break
            out.add(unit)
            gone += units[unit]
    return [c for c in clips if unit_of(c) not in out], [c for c in clips if unit_of(c) in out]


def split_in_order(clips: Sequence[Clip], *, test_fraction: float = 0.25) -> list[Clip]:
    """Clips with "train" and "test" set anew: in each class the last ones by path are for testing.

    For data whose neighbouring numbers may come from one recording (ESC-50), which a random split would divide.

    Raises:
        LexividError: a fraction outside 0..1.
    """
    if not 0 < test_fraction < 1:
        raise LexividError(f"the share of test clips is {test_fraction}, and must be between 0 and 1")
    by_class: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(clips)), key=lambda i: (clips[i].path, clips[i].start_s)):
        by_class[clips[index].labels[0]].append(index)
    test: set[int] = set()
    for own in by_class.values():
        count = min(max(1, round(len(own) * test_fraction)), len(own) - 1)  # a single clip stays for training
        test.update(own[len(own) - count :])
    return [replace(clip, split="test" if i in test else "train") for i, clip in enumerate(clips)]
