"""Lists of labels in files -> names: plain text, CSV and TSV by their columns, JSON.

    dog barking                        one label a line, in double quotes or not
    PlayingViolin = playing violin     a name and the phrase that the model reads
    1 ApplyEyeMakeup                   a number or code before every name (UCF101, Charades, AVA): a column of its own
    index,mid,display_name             a header that names the column (AudioSet, Kinetics, YouTube-8M, VGGSounder)
    5ftf,1,"dog, barking",test         columns without a header (VGGSound): the first that is words, no id or number
    clapping,0                         a number beside every name (Moments in Time)
    id;name                            CSV with semicolons, as spreadsheets write it where the comma is decimal
    # made on Sunday                   a comment: a number sign and a space
    {"0": "abseiling"}                 JSON: a list of names, or names and numbers

A list with a row for each clip names each class once.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lexivid.errors import LabelError
from lexivid.labels.identifiers import index_ends
from lexivid.labels.names import Label, clean, named

# Columns that hold names, the likeliest first.
_NAME_COLUMNS = (
    "display_name displayname label_name class_name classname category_name action_name label class name category "
    "action labels classes names title"
).split()
_MAY_BE_LABELS = frozenset(("action", "category", "title"))  # words that a list may hold, too
# Columns of a list of clips that hold none.
_OTHER_COLUMNS = frozenset(
    "youtube_id ytid video_id videoid clip_id time_start time_end start_time end_time start_seconds end_seconds split "
    "subset mid url filename file_name path num_frames duration".split()
)
_PHRASE_COLUMNS = ("phrase", "prompt", "description")
_FILE_NAME = re.compile(r"\.(?:avi|mp4|mkv|webm|mov|mpg|mpeg|m4v|flv|wmv|wav|mp3|flac|m4a|ogg)$", re.IGNORECASE)
_SPLITS = frozenset("train training val valid validate validation test testing eval dev".split())


def read_labels_file(path: str | Path) -> list[str]:
    """The labels of a file, in its order; those with a phrase of their own are `Label`s.

    Raises:
        LabelError: the file is missing, unreadable, not UTF-8 text, or no list of labels.
    """
    text = _read(path, "labels file")
    if Path(path).suffix.lower() == ".json":
        return _from_json(path, text)
    text = "".join(line for line in text.splitlines(keepends=True) if not re.match(r"\s*#(?:\s|$)", line))
    rows = _table(path, text)
    if rows is not None:
        return _from_table(path, rows)
    lines = [clean(line) for line in text.splitlines() if line.strip()]
    if _are_clips(lines):
        raise LabelError(
            f"labels file {str(path)!r} lists clips, not labels: {lines[0][:60]!r}; give the list of the classes "
            "(such lists of clips are for `lexivid train` and `lexivid evaluate`, --lists)"
        )
    return [_unquoted(line[end:]) for line, end in zip(lines, index_ends(lines), strict=True)]


def _are_clips(lines: Sequence[str]) -> bool:
    """Whether lines name files, or clips in folders of classes ("brush_hair/some_clip"), five or more in each."""
    firsts = [line.split()[0] for line in lines]
    files = sum(bool(_FILE_NAME.search(first)) for first in firsts)
    classes = [first.partition("/")[0] for first in firsts if first.find("/") > 0]
    in_folders = len(classes) > 0.9 * len(lines) and len(set(classes)) * 5 <= len(classes)
    return bool(lines) and (files > len(lines) / 2 or in_folders)


def read_names(path: str | Path) -> dict[str, str]:
    """Name -> phrase: two columns, CSV or TSV, with or without a header "name,phrase"; or lines "name = phrase".

    Raises:
        LabelError: the file is missing or unreadable, or a line has another form.
    """
    text = _read(path, "names file")
    called: dict[str, str] = {}
    lines = [line for line in text.splitlines() if line.strip()]
    if all(" = " in line for line in lines):
        rows: Iterator[tuple[int, list[str]]] = enumerate(([line] for line in lines), 1)
    else:
        rows = _rows(path, text, "\t" if "\t" in text else ",")
    for number, row in rows:
        label = named(row[0]) if len(row) == 1 else Label(*row) if len(row) == 2 else ""
        if not isinstance(label, Label) or not label.strip() or not label.phrase.strip():
            raise LabelError(f"{path}, line {number}: two columns, name and phrase, but got {row}")
        if number == 1 and label.strip().lower() in _NAME_COLUMNS and label.phrase.strip().lower() in _PHRASE_COLUMNS:
            continue
        called[clean(label)] = clean(label.phrase)
    return called


def _read(path: str | Path, what: str) -> str:
    where = f"{what} {str(path)!r}"
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise LabelError(f"{where} does not exist") from None
    except UnicodeDecodeError:
        raise LabelError(f"{where} is not UTF-8 text; save it as UTF-8, one label a line") from None
    except OSError as error:
        raise LabelError(f"{where} cannot be read: {error.strerror}") from None


def _unquoted(line: str) -> str:
    """A line without the quotes around it."""
    m = re.fullmatch(r'"((?:[^"]|"")+)"', line)
    return clean(m[1].replace('""', '"')) if m else named(line)


def _rows(path: str | Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the lines that hold any."""
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [clean(cell) for cell in row]
    except csv.Error as error:
        raise LabelError(f"{str(path)!r}, line {reader.line_num}: {error}") from None


def _table(path: str | Path, text: str) -> list[list[str]] | None:
    """The rows of a file that is a table, all of one length; None: it holds one label a line."""
    suffix = Path(path).suffix.lower()
    is_csv = suffix in (".csv", ".tsv")
    lines = [line for line in text.splitlines() if line.strip()]
    if suffix == ".tsv" or (lines and all("\t" in line.strip() for line in lines)):
        delimiter = "\t"
    elif is_csv and _has_semicolons(lines):
        delimiter = ";"
    elif (
        suffix == ".csv"
        or (lines and _header_place(lines[0].split(","), is_csv=False) is not None)
        or _are_numbered(lines)
    ):
        delimiter = ","
    else:
        return None
    try:
        rows = [row for _, row in _rows(path, text, delimiter)]
    except LabelError:
        if is_csv:
            raise
        return None
    widths = {len(row) for row in rows}
    if len(widths) != 1:  # commas of the labels themselves
        if is_csv and widths and _header_place(rows[0], is_csv=True) is not None:
            raise LabelError(
                f"labels file {str(path)!r}: its rows have between {min(widths)} and {max(widths)} columns; put names "
                "with commas in double quotes"
            )
        return None
    return None if widths == {1} and not is_csv else rows


def _has_semicolons(lines: Sequence[str]) -> bool:
    """Whether the columns of a CSV are parted by semicolons: as many in each line, and no comma in the first."""
    return (
        bool(lines)
        and "," not in lines[0]
        and len({line.count(";") for line in lines} | {0}) == 2
        and all(";" in line for line in lines)
    )


def _are_numbered(lines: Sequence[str]) -> bool:
    """Whether each line is a name and a number of its own: "clapping,0" or "0,clapping"."""
    matches = [re.fullmatch(r"\s*(?:(\d+)\s*,[^,]*[^\W\d][^,]*|[^,]*[^\W\d][^,]*,\s*(\d+))\s*", line) for line in lines]
    numbers = {m[1] or m[2] for m in matches if m}
    return len(lines) > 1 and len(numbers) == len(lines)


def _header_place(row: Sequence[str], *, is_csv: bool) -> int | None:
    """The column of the names that a header names; None: it is no header, such as "action, drama"."""
    cells = _as_columns(row)
    if len(cells) == 1 and not is_csv:
        return None
    columns = [name for name in _NAME_COLUMNS if name in cells]
    return cells.index(columns[0]) if columns and not _MAY_BE_LABELS.issuperset(cells) else None


def _as_columns(row: Sequence[str]) -> list[str]:
    return [cell.strip().strip('"').lower().replace(" ", "_") for cell in row]


def _from_table(path: str | Path, rows: list[list[str]]) -> list[str]:
    place = _header_place(rows[0], is_csv=True)
    width = len(rows[0])
    if place is None and len(rows) > 1 < width and _OTHER_COLUMNS.intersection(_as_columns(rows[0])):
        rows = rows[1:]  # a header that names no column of names
    elif len(rows) == 1 and place is None:
        return [name for name in dict.fromkeys(rows[0]) if name]
    if place is not None:
        header = [cell.lower() for cell in rows[0]]
        phrase = next((header.index(name) for name in _PHRASE_COLUMNS if name in header), None)
        names = [Label(r[place], r[phrase]) if phrase is not None and r[phrase] else r[place] for r in rows[1:]]
    elif width == 1:
        lines = [row[0] for row in rows]
        names = [named(line[end:]) for line, end in zip(lines, index_ends(lines), strict=True)]
    else:
        columns = list(zip(*rows, strict=True))
        words = [column for column in columns if _is_words(column)]
        if not words:
            raise LabelError(
                f"labels file {str(path)!r}: none of its {width} columns holds names; say which by a first line "
                f"such as {','.join('label' if i == 0 else f'column{i}' for i in range(width))}"
            )
        names = list(words[0])
    return list(dict.fromkeys(name for name in names if name))


def _is_words(column: Sequence[str]) -> bool:
    """Whether cells are names: no numbers, file names, ids or parts of a data set."""
    cells = [cell for cell in column if cell]
    if not cells or all(cell.lower() in _SPLITS for cell in cells):
        return False
    strange = [
        cell for cell in cells
        if not any(c.isalpha() for c in cell)
        or re.fullmatch(r"/[mtg]/\w+(?:,\s*/[mtg]/\w+)*|\S+\.[A-Za-z0-9]{2,4}|\S*[_/]\d{4,}|[-\d.,:]+", cell)
        or (re.fullmatch(r"[\w-]{11}", cell) and re.search(r"\d|[a-z][A-Z]|[A-Z]{2}", cell))
    ]  # fmt: skip
    return len(strange) * 2 < len(cells)


def _from_json(path: str | Path, text: str) -> list[str]:
    try:
        stored: Any = json.loads(text)
    except ValueError as error:
        raise LabelError(f"labels file {str(path)!r} is no JSON: {error}") from None
    if isinstance(stored, dict):
        lists = [
            stored[key] for key in ("labels", "classes", "names", "categories") if isinstance(stored.get(key), list)
        ]
        if lists:
            stored = lists[0]
        elif stored and all(str(key).isdigit() for key in stored):
            stored = [stored[key] for key in sorted(stored, key=int)]
        elif stored and all(isinstance(value, int) for value in stored.values()):
            stored = sorted(stored, key=lambda key: stored[key])
        elif stored and all(isinstance(value, str) for value in stored.values()):
            stored = [Label(name, phrase) for name, phrase in stored.items()]
    if isinstance(stored, list) and stored and all(isinstance(item, dict) for item in stored):
        keys = [key for key in _NAME_COLUMNS if all(isinstance(item.get(key), str) for item in stored)]
        stored = [item[keys[0]] for item in stored] if keys else None
    if not isinstance(stored, list) or not all(isinstance(item, str) for item in stored):
        raise LabelError(
            f"labels file {str(path)!r} is no list of labels: JSON holds a list of names, or names with numbers or "
            "phrases"
        )
    entries = [item if isinstance(item, Label) else clean(item).strip('"') for item in stored]
    return list(dict.fromkeys(item for item in entries if item))
