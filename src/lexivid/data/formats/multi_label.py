"""The annotation files of data sets whose clips show several things -> `Dataset` with several labels a clip.

    activitynet   JSON: {"database": {ID: {"subset": ..., "annotations": [{"label": ..., "segment": [s, s]}]}}}
    charades      CSV with a header, of it id and actions ("c092 11.90 21.20;c147 0.00 12.60"); what a file is of, train
                  or test, its name says; Charades_v1_classes.txt beside it ("c092 Pouring something into a cup")
    youtube8m     CSV without or with a header: id, indices of labels ("3 17"); vocabulary.csv beside it, of it the
                  columns Index and Name. (YouTube-8M itself has features and no videos: this is for lists in its form.)
    vggsounder    CSV with a header, of it video_id, label and modality (A, V or AV): one row a label

A clip is a whole file; its labels are all that are annotated anywhere in it. Files are found by their id at any depth
below the root, whatever their ending (ActivityNet's also as v_ID). Entries without a file are counted in
`Dataset.missing`; entries without a label (held-out test parts) are left out. Nothing is opened here but lists.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lexivid.data.clips import Clip, Dataset, make_dataset
from lexivid.data.formats.csv import read_csv_rows
from lexivid.data.naming import split_name
from lexivid.errors import LexividError
from lexivid.media.files import LeftOut, media_below

ListKind = Literal["activitynet", "charades", "youtube8m", "vggsounder"]
Perceived = Literal["any", "seen", "heard"]
_ID_OF_ACTION = re.compile(r"c\d{3}")


class Entry(NamedTuple):
    """What a list says of one file."""

    name: str
    labels: tuple[str, ...]
    split: str


def read_multilabel(
    root: Path,
    kind: ListKind,
    *,
    lists: Path | None = None,
    names: Mapping[str, str] | None = None,
    perceived: Perceived = "any",
) -> Dataset:
    """Read annotation files, and find what of them is there.

    Args:
        root: the folder of the media files.
        lists: an annotation file, or a folder that holds those of the data set by their usual names; None: `root`.
        names: what labels are called, where their own names are no words.
        perceived: of VGGSounder, which labels count: "seen" (V and AV), "heard" (A and AV) or "any".

    Raises:
        LexividError: no list is there, a list has another form (with file and line or entry), or no file is found.
    """
    if not root.is_dir():
        raise LexividError(f"data {str(root)!r} is no folder: kind {kind!r} needs the folder of the media files")
    if perceived not in ("any", "seen", "heard"):
        raise LexividError(f"perceived {perceived!r}: choose any, seen or heard")
    place = lists or root
    read = {"activitynet": _activitynet, "charades": _charades, "youtube8m": _youtube8m}
    entries = list(_vggsounder(place, perceived) if kind == "vggsounder" else read[kind](place))
    files: dict[str, Path] = {}
    left_out = LeftOut()
    for path in media_below(root, left_out):
        files.setdefault(unicodedata.normalize("NFC", path.stem), path)
    clips, missing = [], []
    for entry in entries:
        name = unicodedata.normalize("NFC", entry.name)
        file = files.get(name) or files.get(f"v_{name}")
        if file is None:
            missing.append(entry.name)
            continue
        clips.append(Clip(str(file), entry.labels, entry.split, group=entry.name))
    if not clips:
        raise LexividError(f"none of the {len(entries)} files that {place} lists is below {root}")
    return make_dataset(root.name, clips, names or {}, f"looked in {place}", missing=missing, left_out=left_out)


def _activitynet(place: Path) -> Iterator[Entry]:
    """All labels of a video, in the order of their first segment."""
    path = _only(place, "*.json")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LexividError(f"{path} cannot be read as JSON: {error}") from None
    database = stored.get("database") if isinstance(stored, dict) else None
    if not isinstance(database, dict):
        raise LexividError(f'{path} is no list in ActivityNet\'s form: it has no "database" of videos')
    for name, video in database.items():
        try:
            labels = tuple(dict.fromkeys(str(x["label"]).strip() for x in video.get("annotations", ())))
            subset = str(video["subset"])
        except (AttributeError, KeyError, TypeError) as error:
            raise LexividError(
                f"{path}, video {name!r}: no subset, or an annotation without a label ({error})"
            ) from None
        if labels:
            yield Entry(name, labels, split_name(subset) or subset)


def _charades(place: Path) -> Iterator[Entry]:
    """Every list of the folder (train and test), or the one named."""
    paths = _all(place, "Charades*_train.csv", "Charades*_test.csv")
    called = {}
    for number, line in enumerate(_lines(_only(paths[0].parent, "Charades*_classes.txt")), 1):
        action, _, name = line.partition(" ")
        if not _ID_OF_ACTION.fullmatch(action) or not name.strip():
            raise LexividError(f"Charades' classes, line {number}: an action and its name, but got {line!r}")
        called[action] = name.strip()
    for path in paths:
        split = "train" if "train" in path.stem.lower() else "test"
        for at, row in _table(path, "id", "actions"):
            actions = [part.split()[0] for part in row["actions"].split(";") if part.split()]
            if unknown := [action for action in actions if action not in called]:
                raise LexividError(f"{path}, line {at}: {unknown[0]!r} is no action of the classes' file")
            if actions:
                yield Entry(row["id"].strip(), tuple(dict.fromkeys(called[a] for a in actions)), split)


def _youtube8m(place: Path) -> Iterator[Entry]:
    """Any CSV of two columns beside a vocabulary; its name says the split, or "train"."""
    folder = place if place.is_dir() else place.parent
    vocabulary = _only(folder, "vocabulary.csv")
    called = {row["Index"].strip(): row["Name"].strip() for _, row in _table(vocabulary, "Index", "Name")}
    for path in _all(place, "*.csv"):
        if path == vocabulary:
            continue
        words = map(split_name, re.findall(r"[a-z]+", path.stem.lower()))
        split = next((word for word in words if word), "train")
        for line, row in read_csv_rows(path):
            if len(row) != 2:
                raise LexividError(f"{path}, line {line}: two columns, id and labels, but got {row}")
            indices = re.findall(r"[^\s;,]+", row[1])
            if line == 1 and not any(index.isdigit() for index in indices):
                continue  # a header
            if unknown := [index for index in indices if index not in called]:
                raise LexividError(f"{path}, line {line}: {unknown[0]!r} is no Index of {vocabulary.name}")
            # A few of YouTube-8M's entities have no name, so nobody can ask for them.
            if labels := tuple(dict.fromkeys(called[index] for index in indices if called[index])):
                yield Entry(row[0].strip(), labels, split)


def _vggsounder(place: Path, perceived: Perceived) -> Iterator[Entry]:
    """One row a label; the rows of a video are put together. All of it is VGGSound's test part."""
    path = _only(place, "vggsounder.csv") if place.is_dir() else place
    wanted = {"any": ("A", "V", "AV"), "seen": ("V", "AV"), "heard": ("A", "AV")}[perceived]
    labels: dict[str, dict[str, None]] = {}
    for line, row in _table(path, "video_id", "label", "modality"):
        modality, label = row["modality"].strip().upper(), row["label"].strip()
        if modality not in ("A", "V", "AV") or not label:
            raise LexividError(
                f"{path}, line {line}: a label with modality A, V or AV, but got {label!r}, {modality!r}"
            )
        of_video = labels.setdefault(row["video_id"].strip(), {})
        if modality in wanted:
            of_video[label] = None
    for name, of_video_labels in labels.items():
        if of_video_labels:
            yield Entry(name, tuple(of_video_labels), "test")


def _table(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV file with a header that has at least these columns; other columns are ignored."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise LexividError(
                    f"{path}: its first line must name the columns {', '.join(columns)}; no {lacking[0]}"
                )
            for row in reader:
                values: dict[str, Any] = {name: row[name] for name in columns}
                if None in values.values():
                    raise LexividError(f"{path}, line {reader.line_num}: fewer fields than columns")
                yield reader.line_num, values
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LexividError(f"{path} cannot be read as CSV in UTF-8: {error}") from None


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LexividError(f"{path} cannot be read: {error}") from None


def _only(place: Path, pattern: str) -> Path:
    """The file named, or the one file of this form in the folder."""
    if not place.is_dir():
        if not place.is_file():
            raise LexividError(f"list {str(place)!r} does not exist")
        return place
    matches = sorted(place.glob(pattern))
    if len(matches) != 1:
        raise LexividError(f"{place} holds {len(matches) or 'no'} {pattern}: name the list's file (lists)")
    return matches[0]


def _all(place: Path, *patterns: str) -> list[Path]:
    if place.is_file():
        return [place]
    matches = [path for pattern in patterns for path in sorted(place.glob(pattern))]
    if not matches:
        raise LexividError(f"{place} holds no {' or '.join(patterns)}: say where the lists are (lists)")
    return matches
