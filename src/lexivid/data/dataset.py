"""Labelled clips: from a folder, a CSV manifest or UCF101's own lists to `Dataset`.

Nothing is opened here but lists. A file that a manifest names and that is not there stays in the data set: the loader
counts it and says so. The entries of official lists that are not on disk are counted in `Dataset.missing`, because
parts of such data sets are commonly used.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from lexivid.data.naming import PathsOnDisk, named, spelled_as, split_name, unknown_parts
from lexivid.data.recordings import on_both_sides
from lexivid.errors import LexividError
from lexivid.labels.lists import read_names
from lexivid.media.files import LeftOut, is_set_aside, media_below

Kind = Literal["auto", "csv", "folders", "ucf101", "activitynet", "charades", "youtube8m", "vggsounder"]

_COLUMNS = ("path", "label", "labels", "split", "start_s", "end_s", "group", "synthetic")
_UCF_GROUP = re.compile(r"^(v_.+_g\d+)_c\d+$")


_PART_IN_NAME = re.compile(r"(^|[^a-z])(train|val|valid|validation|validate|test)(ing|list|split)?([^a-z]|$)")


@dataclass(frozen=True)
class Clip:
    """One labelled piece of a file.

    Args:
        path: the file, video or sound.
        labels: its classes, at least one.
        split: "train", "val", "test", or what the manifest says.
        start_s, end_s: which part, in seconds from the start of the file; end None: to its end.
        group: clips of one group come from one recording, and must not be on both sides of a split. None: not known.
        synthetic: what a captioner says it shows beside its labels: words for training, not all of them true, and no
            ground truth.
    """

    path: str
    labels: tuple[str, ...]
    split: str = "train"
    start_s: float = 0.0
    end_s: float | None = None
    group: str | None = None
    synthetic: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Clips and the classes that they show.

    Attributes:
        name: for reports. clips: in a fixed order.
        classes: sorted, every label of the data set; synthetic ones are none.
        missing: entries of an official list that are not on disk (they are no clips here).
        left_out: one line on files in its folders that are no clips; empty where there are none.
        warnings: what to know of it: names that were changed, parts of no known name, recordings on two sides.
    """

    name: str
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    missing: tuple[str, ...] = ()
    left_out: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What whoever uses the data should be told: the warnings, and what was left out."""
        return self.warnings + ((self.left_out,) if self.left_out else ())

    @property
    def synthetic(self) -> tuple[str, ...]:
        """Every synthetic label of the clips, sorted. Some may be classes too."""
        return tuple(sorted({label for clip in self.clips for label in clip.synthetic}))

    def select(self, *, split: str | None = None, classes: Iterable[str] | None = None) -> Dataset:
        """The clips of a split, and those all of whose labels are among `classes`, which become the data set's own.

        Raises:
            LexividError: a class that the data set does not have, or no clip is left.
        """
        chosen = self._known(classes)
        kept = set(chosen)
        return self._with((c for c in self.clips if kept.issuperset(c.labels)), split, chosen)

    def restricted(self, classes: Iterable[str], *, split: str | None = None) -> Dataset:
        """The clips of which at least one label is among `classes`, with those labels alone: open-vocabulary training,
        in which a clip may show more than is told. Synthetic labels stay, and keep no clip.

        Raises:
            LexividError: as `select`.
        """
        chosen = self._known(classes)
        kept = set(chosen)
        told = (replace(c, labels=tuple(label for label in c.labels if label in kept)) for c in self.clips)
        return self._with((c for c in told if c.labels), split, chosen)

    def spelled_as(self, names: Iterable[str]) -> Dataset:
        """The same with classes spelled as in `names`, where case, spacing or Unicode form differ."""
        one = spelled_as((*self.classes, *self.synthetic), names)

        def several(own: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(one[name] for name in own))

        clips = tuple(replace(c, labels=several(c.labels), synthetic=several(c.synthetic)) for c in self.clips)
        return replace(self, clips=clips, classes=tuple(sorted(several(self.classes))))

    def _known(self, classes: Iterable[str] | None) -> tuple[str, ...]:
        chosen = self.classes if classes is None else tuple(spelled_as(classes, self.classes).values())
        if unknown := [name for name in chosen if name not in self.classes]:
            raise LexividError(f"{self.name} has no class {unknown[0]!r}; it has {_some(self.classes)}")
        return chosen

    def _with(self, clips: Iterable[Clip], split: str | None, classes: tuple[str, ...]) -> Dataset:
        clips = tuple(c for c in clips if split is None or c.split == split)
        if not clips:
            splits = sorted({c.split for c in self.clips})
            raise LexividError(f"{self.name} has no clips of split {split!r} and {_some(classes)}; splits: {splits}")
        return replace(self, clips=clips, classes=classes)


def read_dataset(
    root: str | os.PathLike[str],
    *,
    kind: Kind = "auto",
    list_number: int | None = None,
    lists: str | os.PathLike[str] | None = None,
    names: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> Dataset:
    """Read what clips there are.

    Args:
        root: a manifest (.csv), or a folder.
        kind: "csv": columns path (relative to the manifest), label or labels (with ";" between them), and optionally
            split (default "train"), start_s, end_s, group, synthetic (labels that a captioner made, with ";" between
            them, or nothing); a folder holds it as manifest.csv.
            "folders": CLASS/FILE, or SPLIT/CLASS/FILE with splits named train, val and test in any usual spelling;
            without them every clip is "train" (`lexivid.data.splits` makes a test part).
            "ucf101": CLASS/v_CLASS_gNN_cNN.* and the data set's trainlistNN.txt and testlistNN.txt. Without a train
            list, what is not in the test list is "train", which is the same. Files may have another ending than
            the lists say, and names another case. HMDB51 and others: write a manifest.
            "activitynet", "charades", "youtube8m", "vggsounder": several labels a clip, see
            `lexivid.data.multilabel_lists`; `lists` is then the annotation file, or the folder that holds it.
            "auto": by what is there (of those of several labels, none).
        list_number: which of UCF101's lists, 1 to 3; gives kind "ucf101" where that is "auto".
        lists: the folder of UCF101's lists (or see kind); None: `root`, its ucfTrainTestlist, or that beside it.
            A name may have something before it (ucf101_testlist02.txt).
        names: what classes are called, where folder names or labels are not words: a mapping, or a CSV file of two
            columns. Others are read as words where they are identifiers ("HorseRace"), as folder names are.

    Names of one class that differ in case, spacing or Unicode form are one class, and said in `Dataset.warnings`.

    Raises:
        LexividError: the folder or a list is missing, holds nothing, a line of it cannot be read, or lists and folders
            do not fit.
    """
    root = Path(root)
    if not root.exists():
        raise LexividError(f"data {str(root)!r} does not exist; check the path")
    if kind == "auto":
        kind = _kind_of(root, list_number, lists)
    called = names if isinstance(names, Mapping) else {} if names is None else read_names(Path(names))
    if kind == "csv":
        return _read_manifest(root / "manifest.csv" if root.is_dir() else root, called)
    if not root.is_dir():
        raise LexividError(f"data {str(root)!r} is a file: kind {kind!r} needs a folder")
    if kind == "folders":
        return _read_folders(root, called)
    if kind == "ucf101":
        from lexivid.data.ucf101_lists import read_ucf101

        number = 1 if list_number is None else list_number
        left_out = LeftOut()
        clips, missing, warnings, source = read_ucf101(root, number, lists, left_out)
        return make_dataset(
            f"{root.name} list {number}", clips, called, f"none of {source}'s files in {root}", are_folders=True,
            missing=missing, left_out=left_out, warnings=warnings,
        )  # fmt: skip
    if kind in ("activitynet", "charades", "youtube8m", "vggsounder"):
        from lexivid.data.multilabel_lists import read_multilabel

        return read_multilabel(root, kind, lists=None if lists is None else Path(lists), names=called)
    raise LexividError(f"unknown kind of data {kind!r}: choose {', '.join(get_args(Kind))}")


def _kind_of(root: Path, list_number: int | None, lists: str | os.PathLike[str] | None) -> Kind:
    if root.is_file() or (root / "manifest.csv").is_file():
        return "csv"
    from lexivid.data.ucf101_lists import list_files

    if list_number is not None or lists is not None or any(list_files(root, None, "test", 1)):
        return "ucf101"
    return "folders"


def make_dataset(
    name: str,
    clips: Iterable[Clip],
    called: Mapping[str, str],
    looked_for: str,
    *,
    are_folders: bool = False,
    missing: Iterable[str] = (),
    left_out: LeftOut | None = None,
    warnings: Iterable[str] = (),
) -> Dataset:
    """Clips as the data set labels them -> the data set, with classes named (`lexivid.data.naming`) and checked.

    Raises:
        LexividError: no clips; `looked_for` says what was.
    """
    passed_by = str(left_out or "")
    own, said = named(clips, called, are_folders=are_folders)
    if not own:
        raise LexividError(f"{name}: no clips there ({looked_for}{'; ' if passed_by else ''}{passed_by})")
    classes = tuple(sorted({label for c in own for label in c.labels}))
    told = (*warnings, *said, *unknown_parts(own), *on_both_sides(own))
    return Dataset(name, tuple(own), classes, tuple(missing), passed_by, told)


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of a CSV file; empty lines are left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for row in reader:
                if any(field.strip() for field in row):
                    yield reader.line_num, row
    except FileNotFoundError:
        raise LexividError(f"{str(path)!r} does not exist; check the path") from None
    except UnicodeDecodeError:
        raise LexividError(f"{str(path)!r} is not UTF-8 text; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise LexividError(f"{str(path)!r} is not a CSV file: {error}") from None
    except OSError as error:
        raise LexividError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def _read_manifest(path: Path, called: Mapping[str, str]) -> Dataset:
    rows = csv_rows(path)
    _, header = next(rows, (0, []))
    columns = [name.strip().lower() for name in header]
    unknown = [name for name in columns if name not in _COLUMNS]
    if (
        "path" not in columns
        or len({"label", "labels"} & set(columns)) != 1
        or unknown
        or len(set(columns)) < len(columns)
    ):
        raise LexividError(
            f"{path}: its first line must name the columns path, label or labels, and optionally split, start_s, "
            f"end_s, group, synthetic; it reads {', '.join(header) or 'nothing'}"
        )
    clips = []
    disk = PathsOnDisk()
    for number, row in rows:
        where = f"{path}, line {number}"
        if len(row) != len(columns):
            raise LexividError(f"{where}: {len(row)} fields for {len(columns)} columns")
        field = dict(zip(columns, (text.strip() for text in row), strict=True))
        texts = field["labels"].split(";") if "labels" in field else [field["label"]]
        labels = _several(texts)
        if not field["path"] or not labels:
            raise LexividError(f"{where}: no {'label' if field['path'] else 'path'}")
        start_s = _seconds(field.get("start_s"), 0.0, where)
        end_s = _seconds(field.get("end_s"), None, where)
        assert start_s is not None
        if end_s is not None and end_s <= start_s:
            raise LexividError(f"{where}: ends at {end_s:g} s, which is not after its start at {start_s:g} s")
        split = field.get("split") or "train"
        clips.append(
            Clip(
                str(disk.find(path.parent / field["path"])),
                labels,
                split_name(split) or split,
                start_s,
                end_s,
                field.get("group") or None,
                _several(field.get("synthetic", "").split(";")),
            )
        )
    name = path.stem if path.stem != "manifest" else path.parent.name
    return make_dataset(name, clips, called, f"{path} lists none")


def _several(texts: Iterable[str]) -> tuple[str, ...]:
    """Labels, each once; empty ones are left out."""
    return tuple(dict.fromkeys(t for t in (" ".join(t.split()) for t in texts) if t))


def _seconds(text: str | None, default: float | None, where: str) -> float | None:
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise LexividError(f"{where}: {text!r} is no time in seconds")
    return value


def _read_folders(root: Path, called: Mapping[str, str]) -> Dataset:
    folders = folders_of(root)
    left_out = LeftOut()
    warnings: tuple[str, ...] = ()
    clips: list[Clip] = []
    if _are_parts(folders):
        for folder in folders:
            part = split_name(folder.name) or folder.name
            clips += [clip for inner in folders_of(folder) for clip in _clips_of(inner, part, left_out)]
    else:
        clips = [clip for folder in folders for clip in _clips_of(folder, "train", left_out)]
        if lists := _lists_beside(root):
            warnings = (
                f"{lists[0].name} in {root} seems to list the parts of this data, and is not read: all clips are for "
                "training; write a manifest.csv with a column split, or folders train/CLASS and test/CLASS",
            )
    looked_for = f"looked for {root}/CLASS/FILE and {root}/train/CLASS/FILE, video or sound"
    return make_dataset(root.name, clips, called, looked_for, are_folders=True, left_out=left_out, warnings=warnings)


def _lists_beside(root: Path) -> list[Path]:
    """Files beside the folders of classes that are named as lists of parts are: train.csv, x_test_split1.txt."""
    tables = (path for path in _entries(root) if path.suffix.lower() in (".csv", ".tsv", ".txt", ".json"))
    return sorted(path for path in tables if _PART_IN_NAME.search(path.stem.lower()))


def _are_parts(folders: list[Path]) -> bool:
    """Whether folders are train, val and test, and no classes: all of them are, or train is and none holds a file."""
    parts = {split_name(folder.name) for folder in folders}
    if None not in parts:
        return bool(parts)
    return "train" in parts and not any(entry.is_file() for folder in folders for entry in _entries(folder))


def _clips_of(folder: Path, split: str, left_out: LeftOut) -> list[Clip]:
    return [Clip(str(file), (folder.name,), split, group=group_of(file)) for file in media_below(folder, left_out)]


def group_of(file: Path) -> str | None:
    """v_HorseRace_g08_c01 -> "v_HorseRace_g08": a group is of one class."""
    found = _UCF_GROUP.match(file.stem)
    return found[1] if found else None


def folders_of(root: Path) -> list[Path]:
    """The folders in a folder, without those of systems, by name."""
    return [entry for entry in _entries(root) if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_set_aside(entry.name))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
