"""The label names that a user gives: from strings and lists to names, the phrases that a model reads, and warnings.

A label has a name, which is shown wherever it is, and a phrase, which the text encoder reads. They are the same but for
identifiers (`lexivid.labels.identifiers`) and where the user says otherwise: "PlayingViolin = playing the violin".
Labels may be in any language; what is refused is what no model could use, and what is changed is said.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lexivid.errors import LabelError
from lexivid.labels.identifiers import class_key, words_of

MAX_LABEL_CHARACTERS = 1_000
MAX_LABELS = 100_000
_SHOWN = 40
_QUOTED = re.compile(
    r'\s*(?:"(?P<double>(?:[^"]|"")+)"|“(?P<curly>[^”]+)”|(?P<mark>[\'‘])(?P<single>[^\n]+?)[\'’])[^\S\n]*(?=[,\n=]|$)'
)
_ELISION = re.compile(r"\d0s\b|(?:tis|twas|til|cause|round|em|n)\b", re.IGNORECASE)  # 'tis, '90s


class Label(str):
    """A name with the phrase that the user gave for it."""

    phrase: str

    def __new__(cls, name: str, phrase: str) -> Label:
        made = super().__new__(cls, name)
        made.phrase = phrase
        return made


class CheckedLabels(NamedTuple):
    """A clean list of labels.

    Attributes:
        names: to be shown. phrases: of each, to be read. warnings: what was changed or is doubtful.
    """

    names: list[str]
    phrases: list[str]
    warnings: list[str]


def split_labels(text: str) -> list[str]:
    """ "playing drums, dog barking" -> ["playing drums", "dog barking"], at commas and ends of lines.

    A name with a comma stands in quotes: '"people eating, drinking", dancing'. "name = phrase" gives the name a phrase
    (`Label`).
    """
    parts: list[str] = []
    at = 0
    while at <= len(text):
        if quoted := _quoted(text, at):
            name, at = quoted
            phrase = ""
            if text[at : at + 1] == "=":
                inner = _quoted(text, at + 1)
                end = inner[1] if inner else _end_of_part(text, at)
                phrase = inner[0] if inner else text[at + 1 : end]
                at = end
            parts.append(Label(name.strip(), phrase.strip()) if phrase.strip() else name.strip())
        else:
            end = _end_of_part(text, at)
            parts.append(named(text[at:end]))
            at = end
        at += 1  # the comma
    return [label for label in parts if label]


def _quoted(text: str, at: int) -> tuple[str, int] | None:
    """The name in quotes that begins here, and where it ends; None: there is none, or the quote is an apostrophe."""
    m = _QUOTED.match(text, at)
    if m is None:
        return None
    if m["mark"] is None:
        return (m["double"] or m["curly"]).replace('""', '"'), m.end()
    name = m["single"]
    opened, closed = re.search(r"\s['‘]", name), re.search(r"['’]\s", name)
    if opened and closed and closed.start() < opened.start():  # 'rock' and 'roll'
        return None
    if not name.strip("'‘’ ") or ("," in name and (_ELISION.match(name) or opened)):  # 'tis, '80s
        return None
    return name, m.end()


def unquoted(text: str) -> str:
    """A text without the quotes around it; apostrophes stay."""
    quoted = _quoted(text, 0)
    return quoted[0].strip() if quoted and quoted[1] == len(text) else text


def _end_of_part(text: str, start: int) -> int:
    ends = [place for c in ",\n" if (place := text.find(c, start)) >= 0]
    return min(ends, default=len(text))


def named(text: str) -> str:
    """ "PlayingViolin = playing the violin" -> a `Label`; without " = " the text, stripped."""
    name, sign, phrase = (part.strip() for part in text.partition(" = "))
    return Label(unquoted(name), unquoted(phrase)) if sign and name and phrase else unquoted(text.strip())


def clean(name: str) -> str:
    """Composed letters (Unicode NFC), white space folded and stripped."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def check_labels(
    labels: str | Iterable[str] | Mapping[str, str],
    *,
    known: Iterable[str] = (),
    english_only: bool = False,
) -> CheckedLabels:
    """Clean a list of labels, and find the phrases that a model reads.

    Args:
        labels: names, some with their phrases (`Label`), a mapping of names to phrases, or one comma-separated string
            (`split_labels`). Names that differ in case, spacing or Unicode form alone are one label: the first.
        known: texts that the model was trained on: a label that is one of them is read as it stands there.
        english_only: warn of names in other scripts, which an English text encoder cannot read.

    Returns:
        Names (white space folded, each once, in the given order), their phrases, and the warnings.

    Raises:
        LabelError: no labels, a label that is too long, too many labels, or not strings.
    """
    if isinstance(labels, Mapping):
        given: list[str] = [Label(name, phrase) for name, phrase in labels.items()]
    else:
        given = split_labels(labels) if isinstance(labels, str) else list(labels)
    shown: list[str] = []
    given_phrases: list[str | None] = []  # the phrase that the user gave
    for position, name in enumerate(given, 1):
        if not isinstance(name, str):
            raise LabelError(f"label {position} is {name!r}, not a string")
        text, phrase = clean(name), clean(name.phrase) if isinstance(name, Label) else None
        if not text:
            continue
        for part in (text, phrase or ""):
            if len(part) > MAX_LABEL_CHARACTERS:
                raise LabelError(
                    f"label {position} ({part[:_SHOWN]!r}...) has {len(part):,} characters; "
                    f"the limit is {MAX_LABEL_CHARACTERS:,}: describe the class in a short phrase"
                )
        shown.append(text)
        given_phrases.append(phrase or None)
    if not shown:
        raise LabelError('no labels: name at least one, for instance --labels "playing drums, dog barking"')
    if len(shown) > MAX_LABELS:
        raise LabelError(f"{len(shown):,} labels; the limit is {MAX_LABELS:,}")
    known = set(known)
    trained = {class_key(text): text for text in known}
    by_key: dict[str, tuple[str, str]] = {}
    split: list[str] = []
    repeated: list[str] = []
    alike: list[str] = []
    for name, phrase, words in zip(shown, given_phrases, words_of(shown), strict=True):
        key = class_key(name if phrase else words)
        read = phrase or trained.get(class_key(name)) or trained.get(key) or words
        if key in by_key:
            first = by_key[key][0]
            (repeated if first == name else alike).append(name if first == name else f"{first!r} and {name!r}")
            continue
        by_key[key] = (name, read)
        if phrase is None and read == words != name:
            split.append(f"{name!r} as {words!r}")
    warnings: list[str] = []
    if repeated:
        warnings.append(f"duplicate labels are counted once: {listed(repeated)}")
    if alike:
        warnings.append(f"labels that differ in spelling alone are one, called as the first: {_joined(alike)}")
    if split:
        warnings.append(
            f"labels that are written as identifiers are read as words: {_joined(split, 3)}; to have them read "
            'otherwise say "name = phrase", or --names FILE'
        )
    phrases = [phrase for _, phrase in by_key.values()]
    warnings += _separator_hints([name for name in shown if name not in known])
    if english_only and (foreign := [phrase for phrase in phrases if _mostly_not_latin(phrase)]):
        warnings.append(f"this model reads English only; expect little of: {listed(foreign)}")
    return CheckedLabels([name for name, _ in by_key.values()], phrases, warnings)


_SEVERAL = 'if it is several labels, separate them by commas: "surfing, playing chess"'
_FUNCTION_WORDS = frozenset("a an and by for from in into of on or the to when while with".split())
_NOT_DOING = frozenset(
    "building ceiling clothing evening everything king morning nothing ring something spring string thing wedding wing"
    .split()
)  # fmt: skip


def _separator_hints(names: Iterable[str]) -> list[str]:
    """Hints at labels that are probably several, or the rest of a sentence.

    Of 13,000 labels of 24 data sets one is taken for several: "playing hand clapping games" (Kinetics).
    """
    several = [name for name in names if _looks_like_several(name)]
    begin = [name for name in names if name.lower().split()[0] in ("or", "and")]
    hints = [f"{listed(several)}: {_SEVERAL}"] if several else []
    return hints + ([f'{listed(begin)}: a label begins with no "or" or "and"; {_SEVERAL}'] if begin else [])


def _looks_like_several(name: str) -> bool:
    """Several doings without a word between them, a semicolon, or more words than any class of a data set has."""
    words = name.lower().split()
    doings = sum(word.endswith("ing") and word.isalpha() and word not in _NOT_DOING for word in words)
    together = doings > 2 or (doings == 2 and len(words) > 3)
    return ";" in name or len(words) > 20 or (together and not _FUNCTION_WORDS & set(words))


def with_phrases(labels: Iterable[str], phrases: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Labels with the phrases that a table of names gives them (in any case and Unicode form of the name), and warnings
    of names that are no labels. A label that has a phrase keeps it."""
    phrase_of = {class_key(clean(name)): phrase for name, phrase in phrases.items()}
    with_phrase = [
        Label(name, phrase_of[key])
        if not isinstance(name, Label) and (key := class_key(clean(name))) in phrase_of
        else name
        for name in labels
    ]
    label_keys = {class_key(clean(name)) for name in with_phrase}
    unused = [name for name in phrases if class_key(clean(name)) not in label_keys]
    return with_phrase, [f"names that no label has: {listed(unused)}"] if unused else []


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Some names in quotes, and how many more there are."""
    return _joined([repr(name[:_SHOWN]) for name in dict.fromkeys(names)], limit)


def _joined(texts: Sequence[str], limit: int = 5) -> str:
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


def _mostly_not_latin(name: str) -> bool:
    letters = [letter for letter in name if letter.isalpha()]
    return sum(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters) * 2 > len(letters)
