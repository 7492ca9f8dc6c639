"""The label names that a user gives: from a string, a list or a file to a clean list, with warnings.

Labels may be in any language; what is refused is what no model could use, and what is changed is said.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from lexivid.errors import LabelError

MAX_LABEL_CHARACTERS = 1_000
MAX_LABELS = 100_000
_SHOWN = 40


def split_labels(text: str) -> list[str]:
    """ "playing drums, dog barking" -> ["playing drums", "dog barking"]. A name with a comma needs a labels file."""
    return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]


def read_labels_file(path: str | Path) -> list[str]:
    """One label a line, UTF-8; empty lines are skipped.

    Raises:
        LabelError: the file is missing, unreadable or not UTF-8 text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise LabelError(f"labels file {str(path)!r} does not exist") from None
    except UnicodeDecodeError:
        raise LabelError(f"labels file {str(path)!r} is not UTF-8 text; save it as UTF-8, one label a line") from None
    except OSError as error:
        raise LabelError(f"labels file {str(path)!r} cannot be read: {error.strerror}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def check_labels(labels: str | Iterable[str], *, english_only: bool = False) -> tuple[list[str], list[str]]:
    """Clean a list of labels.

    Args:
        labels: names, or one comma-separated string.
        english_only: warn of names in other scripts, which an English text encoder cannot read.

    Returns:
        The names (stripped, inner white space folded, duplicates left out, in the given order) and the warnings.

    Raises:
        LabelError: no labels, a label that is too long, too many labels, or not strings.
    """
    names = split_labels(labels) if isinstance(labels, str) else list(labels)
    warnings: list[str] = []
    kept: dict[str, None] = {}
    repeated: list[str] = []
    for position, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise LabelError(f"label {position} is {name!r}, not a string")
        clean = " ".join(unicodedata.normalize("NFC", name).split())
        if not clean:
            continue
        if len(clean) > MAX_LABEL_CHARACTERS:
            raise LabelError(
                f"label {position} ({clean[:_SHOWN]!r}...) has {len(clean):,} characters; "
                f"the limit is {MAX_LABEL_CHARACTERS:,}: describe the class in a short phrase"
            )
        if clean in kept:
            repeated.append(clean)
        kept[clean] = None
    if not kept:
        raise LabelError('no labels: name at least one, for instance --labels "playing drums, dog barking"')
    if len(kept) > MAX_LABELS:
        raise LabelError(f"{len(kept):,} labels; the limit is {MAX_LABELS:,}")
    if repeated:
        warnings.append(f"duplicate labels are counted once: {_listed(repeated)}")
    if english_only and (foreign := [name for name in kept if _mostly_not_latin(name)]):
        warnings.append(f"this model reads English only; expect little of: {_listed(foreign)}")
    return list(kept), warnings


def _listed(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(repr(name[:_SHOWN]) for name in dict.fromkeys(names[:limit]))
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _mostly_not_latin(name: str) -> bool:
    letters = [letter for letter in name if letter.isalpha()]
    return sum(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters) * 2 > len(letters)
