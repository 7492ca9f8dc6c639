"""What data sets call things, brought to one form: classes, parts, and paths in either Unicode form.

names of classes, folders or texts   -> the words that a model reads (`lexivid.labels.identifiers`), and one
                                        spelling of each class
train, Training, val_1, testing      -> train, val, test
Café/a.mp4, as a list spells it      -> the file on the disk, where é may be one character or two
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lexivid.labels.identifiers import class_key, words_of
from lexivid.labels.names import clean

if TYPE_CHECKING:
    from lexivid.data.clips import Clip

PARTS = ("train", "val", "test")
_PART_WORDS = {
    "train": "train training trn", "val": "val valid validate validation dev devel development",
    "test": "test testing tst eval evaluation",
}  # fmt: skip
_PARTS = {word: part for part, words in _PART_WORDS.items() for word in words.split()}
_AROUND_PART = re.compile(r"^(?:un)?balanced[\s_-]+|(?<=\w)[\s_-]*(?:set|split|part|list|subset|segments)?[\s_-]*\d*$")
_SHOWN = 3


def split_name(text: str) -> str | None:
    """ "Training", "validate", "test_set", "val_1" -> "train", "val", "test"; None: no part that is known."""
    word = text.strip().casefold()
    return _PARTS.get(word) or _PARTS.get(_AROUND_PART.sub("", word))


def unknown_parts(clips: Sequence[Clip]) -> list[str]:
    """A warning of parts that are neither train, val nor test; they keep their names."""
    counts = Counter(clip.split for clip in clips if clip.split not in PARTS)
    if not counts:
        return []
    counted = ", ".join(f"{name!r} ({count} clips)" for name, count in sorted(counts.items())[:_SHOWN])
    return [f"parts of no known name are neither trained on nor tested unless they are named: {counted}"]


def class_name(folder: str) -> str:
    """A folder's name as words: "HorseRace" -> "horse race", "playing_drums" -> "playing drums", "TV" stays."""
    return words_of([clean(folder)], are_identifiers=True)[0]


def name_clips(
    clips: Iterable[Clip], called: Mapping[str, str], *, are_folders: bool
) -> tuple[list[Clip], list[str], dict[str, str]]:
    """Clips whose labels are what a model reads, each class in one spelling; warnings of what was changed; and each
    name as it is written -> what the model reads.

    Args:
        clips: labelled as the data set writes it.
        called: name -> what it is called, where the user says so; the name in any case and Unicode form.
        are_folders: labels are names of folders: identifiers.
    """
    clips = list(clips)
    counts = Counter(clean(text) for clip in clips for text in (*clip.labels, *clip.synthetic))
    written = list(dict.fromkeys(clean(text) for clip in clips for text in (*clip.labels, *clip.synthetic)))
    phrases = {class_key(clean(name)): clean(text) for name, text in called.items()}
    words = words_of(written, are_identifiers=are_folders)
    texts = {name: phrases.get(class_key(name), text) for name, text in zip(written, words, strict=True)}
    spellings: dict[str, list[str]] = {}
    for name in sorted(written, key=lambda name: -counts[name]):
        spellings.setdefault(class_key(texts[name]), []).append(name)
    one = {name: texts[names_alike[0]] for names_alike in spellings.values() for name in names_alike}
    warnings = []
    alike = [names_alike for names_alike in spellings.values() if len({texts[name] for name in names_alike}) > 1]
    if alike:
        shown = ", ".join(" and ".join(map(repr, names_alike)) for names_alike in alike[:_SHOWN])
        warnings.append(f"{len(alike)} classes are spelled in several ways, and are one each: {shown}")
    split = [name for name in written if texts[name] != name and class_key(name) not in phrases]
    if split and not are_folders:
        shown = ", ".join(f"{name!r} as {texts[name]!r}" for name in split[:_SHOWN])
        warnings.append(
            f"{len(split)} labels that are written as identifiers are read as words: {shown}; names say it otherwise"
        )

    def several(names_alike: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one[clean(text)] for text in names_alike))

    return [replace(c, labels=several(c.labels), synthetic=several(c.synthetic)) for c in clips], warnings, one


def spelled_as(spellings: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Each name -> how `others` spell that class; a name that is none of theirs stays."""
    theirs = {class_key(name): name for name in others}
    return {name: theirs.get(class_key(name), name) for name in spellings}


class PathsOnDisk:
    """Paths that a list names -> those of the files, where the Unicode form of a name differs (macOS writes "é" as two
    characters). Folders are listed only for names beyond ASCII that are not there as they are spelled."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path:
        """The path as it is on the disk, or as it is where there is no such file."""
        if str(path).isascii() or path.exists():
            return path
        resolved = Path(path.anchor)
        for part in path.relative_to(path.anchor).parts:
            candidate = resolved / part
            if not part.isascii() and not candidate.exists():
                candidate = resolved / self._names(resolved).get(unicodedata.normalize("NFC", part), part)
            resolved = candidate
        return resolved if resolved.exists() else path

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            try:
                names = [entry.name for entry in folder.iterdir()]
            except OSError:
                names = []
            self._listed[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._listed[folder]
