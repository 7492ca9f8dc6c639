"""`read_dataset`: a folder or a file of whatever kind -> `Dataset`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from lexivid.data.clips import Dataset, make_dataset
from lexivid.data.formats.csv import read_manifest
from lexivid.data.formats.folders import read_folders
from lexivid.data.formats.multi_label import read_multilabel
from lexivid.data.formats.ucf101 import list_files, read_ucf101
from lexivid.errors import LexividError
from lexivid.labels.lists import read_names
from lexivid.media.files import LeftOut

DatasetKind = Literal["auto", "csv", "folders", "ucf101", "activitynet", "charades", "youtube8m", "vggsounder"]


def read_dataset(
    root: str | os.PathLike[str],
    *,
    kind: DatasetKind = "auto",
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
            `lexivid.data.formats.multi_label`; `lists` is then the annotation file, or the folder that holds it.
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
        return read_manifest(root / "manifest.csv" if root.is_dir() else root, called)
    if not root.is_dir():
        raise LexividError(f"data {str(root)!r} is a file: kind {kind!r} needs a folder")
    if kind == "folders":
        return read_folders(root, called)
    if kind == "ucf101":
        number = 1 if list_number is None else list_number
        left_out = LeftOut()
        clips, missing, warnings, source = read_ucf101(root, number, lists, left_out)
        return make_dataset(
            f"{root.name} list {number}", clips, called, f"none of {source}'s files in {root}", are_folders=True,
            missing=missing, left_out=left_out, warnings=warnings,
        )  # fmt: skip
    if kind in ("activitynet", "charades", "youtube8m", "vggsounder"):
        return read_multilabel(root, kind, lists=None if lists is None else Path(lists), names=called)
    raise LexividError(f"unknown kind of data {kind!r}: choose {', '.join(get_args(DatasetKind))}")


def _kind_of(root: Path, list_number: int | None, lists: str | os.PathLike[str] | None) -> DatasetKind:
    if root.is_file() or (root / "manifest.csv").is_file():
        return "csv"
    if list_number is not None or lists is not None or any(list_files(root, None, "test", 1)):
        return "ucf101"
    return "folders"
