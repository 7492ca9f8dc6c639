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
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from lexivid.base.storage import write_atomically
from lexivid.data.clips import Clip
from lexivid.data.recordings import recordings
from lexivid.errors import LexividError
from lexivid.labels.identifiers import class_key


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
        counts = Counter(map(class_key, names))
        if twice := [name for name in names if counts[class_key(name)] > 1]:
            spellings = " and ".join(map(repr, dict.fromkeys(n for n in twice if class_key(n) == class_key(twice[0]))))
            raise LexividError(f"class {spellings} stands twice in a class split")

    @property
    def classes(self) -> tuple[str, ...]:
        """Base, then novel."""
        return self.base + self.novel

    def spelled_as(self, classes: Iterable[str], written: Mapping[str, str] | None = None) -> ClassSplit:
        """The same with classes called as a data set calls them, where case, spacing or Unicode form differ.

        written: how folders or lists write classes -> how they are called (`Dataset.written`); names may be these, too.

        Raises:
            LexividError: a name means two classes, or two names mean one.
        """
        classes, written = list(classes), written or {}
        one = {name: _class_called(name, classes, written) for name in self.classes}
        names_of: dict[str, list[str]] = {}
        for name, spelling in one.items():
            names_of.setdefault(spelling, []).append(name)
        if twice := [names for names in names_of.values() if len(names) > 1]:
            raise LexividError(f"class split: {' and '.join(map(repr, twice[0]))} are one class of this data")
        return replace(self, base=tuple(one[n] for n in self.base), novel=tuple(one[n] for n in self.novel))

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
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LexividError(f"{where} does not exist; check the path") from None
        except (OSError, ValueError) as error:
            raise LexividError(f"{where} cannot be read: {error}") from None
        keys = set(stored) if isinstance(stored, dict) else set()
        if not {"base", "novel"} <= keys <= {"base", "novel", "seed", "source"}:
            raise LexividError(f'{where} must be JSON with "base" and "novel", and may have "seed" and "source"')
        if any(not isinstance(stored[side], list) for side in ("base", "novel")):
            raise LexividError(f'{where}: "base" and "novel" must be lists of names')
        return cls(**stored)


def _class_called(name: str, classes: Sequence[str], written: Mapping[str, str]) -> str:
    """The class of a data set that a split file means by a name; a name that is none of its classes stays.

    Raises:
        LexividError: it may mean two.
    """
    key = class_key(name)
    for same in (lambda text: text == name, lambda text: class_key(text) == key):
        spellings = {text: text for text in classes if same(text)}
        spellings |= {text: spelled for spelled, text in written.items() if same(spelled)}
        if len(spellings) > 1:
            of_class = {text: spelled for spelled, text in written.items()} | {
                t: p for t, p in spellings.items() if t != p
            }
            ways = " or ".join(f"{of_class.get(text, text)!r} (read as {text!r})" for text in spellings)
            raise LexividError(f"class split: {name!r} may be {ways}: give the other name of the one that you mean")
        if spellings:
            return next(iter(spellings))
    return name


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
    splits: dict[tuple[str, ...], ClassSplit] = {}
    if possible <= 4 * num_pairs:  # few: shuffle them all
        halves = [h for h in itertools.combinations(names, half) if names[0] in h]
        drawn: Iterable[Sequence[str]] = rng.sample(halves, len(halves))
    else:
        drawn = (rng.sample(names, half) for _ in itertools.count())
    for base in drawn:
        rest = tuple(n for n in names if n not in set(base))
        one = tuple(sorted(base))
        if one not in splits and rest not in splits:
            first, second = (one, rest) if rng.random() < 0.5 else (rest, one)
            splits[first] = ClassSplit(first, second, seed, source)
        if len(splits) == num_pairs:
            break
    return [split for one in splits.values() for split in (one, one.swapped())]


def hold_out(
    clips: Sequence[Clip],
    *,
    fraction: float = 0.1,
    seed: int = 0,
    by: Literal["group", "clip"] = "group",
    each_class: bool = True,
) -> tuple[list[Clip], list[Clip]]:
    """Divide clips into (kept, held out), for choosing and calibrating without the test clips.

    Drawn within each class (first label), in whole recordings (`lexivid.data.recordings`: groups, and the parts of one
    file), until about `fraction` of the class's clips are out. Every class with two recordings or more gives at least
    one, and no label loses all its clips, also where recordings show several classes. With `by="clip"` groups do not
    count, and the parts of one file are still together. With `each_class` false they are drawn from all clips alike:
    for clips of several labels, whose first one says little; a label then loses its last clip only where the fraction
    cannot be reached otherwise.

    Raises:
        LexividError: a fraction outside 0..1.
    """
    if not 0 <= fraction < 1:
        raise LexividError(f"the share of held-out clips is {fraction}, and must be 0 or more and below 1")
    if fraction == 0:
        return list(clips), []
    of_clip = recordings(clips, by_group=by == "group")
    # A recording is drawn by the first of its names, so that the order of clips plays no part.
    unit: dict[int, tuple[str, ...]] = {}
    for number, clip in zip(of_clip, clips, strict=True):
        draw_key: tuple[str, ...] = ("clip", clip.path, repr(clip.start_s), repr(clip.end_s))
        if by == "group" and clip.group is not None:
            draw_key = ("group", clip.group)
        unit[number] = min(draw_key, unit.get(number, draw_key))
    sizes: dict[str, Counter[int]] = defaultdict(Counter)  # class -> recording -> clips
    shown: dict[int, set[str]] = defaultdict(set)  # recording -> labels
    left: dict[str, set[int]] = defaultdict(set)  # label -> recordings that are kept
    for number, clip in zip(of_clip, clips, strict=True):
        sizes[clip.labels[0] if each_class else ""][number] += 1
        shown[number].update(clip.labels)
        for label in clip.labels:
            left[label].add(number)
    out: set[int] = set()
    for label in sorted(sizes):
        drawn = sorted(sizes[label], key=unit.__getitem__)
        random.Random(f"hold out {seed} {label}").shuffle(drawn)
        wanted = fraction * sizes[label].total()
        gone = sum(sizes[label][number] for number in out)
        # With rare labels on every clip there may be no others than last ones; but one recording stays.
        for number, may_be_last in [(n, False) for n in drawn] + [(n, True) for n in drawn[:-1] if not each_class]:
            if number in out or (not may_be_last and any(left[name] == {number} for name in shown[number])):
                continue  # the last one of a label stays
            # Nearest to the wanted number, but at least one.
            if gone and abs(gone + sizes[label][number] - wanted) > abs(gone - wanted):
                break
            out.add(number)
            gone += sizes[label][number]
            for name in shown[number]:
                left[name].discard(number)
    pairs = list(zip(of_clip, clips, strict=True))
    return [clip for number, clip in pairs if number not in out], [clip for number, clip in pairs if number in out]


def split_in_order(clips: Sequence[Clip], *, test_fraction: float = 0.25) -> list[Clip]:
    """Clips with "train" and "test" set anew: in each class the last ones by path are for testing.

    For data whose neighbouring numbers may come from one recording (ESC-50), which a random split would divide. What is
    known to be one recording (a group, the parts of one file) is on one side, and every class keeps training clips.

    Raises:
        LexividError: a fraction outside 0..1.
    """
    if not 0 < test_fraction < 1:
        raise LexividError(f"the share of test clips is {test_fraction}, and must be between 0 and 1")
    numbers = recordings(clips)
    members: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(numbers):
        members[number].append(index)
    by_class: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(clips)), key=lambda i: (clips[i].path, clips[i].start_s)):
        by_class[clips[index].labels[0]].append(index)
    test: set[int] = set()
    for label, indices in by_class.items():
        count = min(max(1, round(len(indices) * test_fraction)), len(indices) - 1)  # a single clip stays for training
        for index in reversed(indices):
            if sum(i in test for i in indices) >= count:
                break
            others = {clips[i].labels[0] for i in members[numbers[index]]} | {label}
            if all(any(i not in test and numbers[i] != numbers[index] for i in by_class[name]) for name in others):
                test.update(members[numbers[index]])
    return [replace(clip, split="test" if i in test else "train") for i, clip in enumerate(clips)]
