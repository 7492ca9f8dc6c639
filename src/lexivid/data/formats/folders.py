"""A folder a class, CLASS/FILE, or PART/CLASS/FILE -> `Dataset`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lexivid.data.clips import Clip, Dataset, make_dataset
from lexivid.data.naming import split_name
from lexivid.media.files import LeftOut, is_set_aside, media_below

_UCF_GROUP = re.compile(r"^(v_.+_g\d+)_c\d+$")


_PART_IN_NAME = re.compile(r"(^|[^a-z])(train|val|valid|validation|validate|test)(ing|list|split)?([^a-z]|$)")


def read_folders(root: Path, called: Mapping[str, str]) -> Dataset:
    """The clips in a folder of classes, or of parts with classes in them; `called` as in `read_manifest`."""
    folders = folders_of(root)
    left_out = LeftOut()
    warnings: tuple[str, ...] = ()
    clips: list[Clip] = []
    if _are_parts(folders):
        for folder in folders:
            part = split_name(folder.name) or folder.name
            clips += [clip for inner in folders_of(folder) for clip in _clips_of(inner, part, left_out)]
    else:
        of_folder = {folder: _clips_of(folder, "train", left_out) for folder in folders}
        clips = [clip for clips_of in of_folder.values() for clip in clips_of]
        if lists := [
            list_file for place in (root, *(f for f in folders if not of_folder[f])) for list_file in _lists_in(place)
        ]:
            warnings = (
                f"{lists[0].name} in {lists[0].parent} seems to list the parts of this data, and is not read: all "
                "clips are for training; write a manifest.csv with a column split, or folders train/CLASS and "
                "test/CLASS",
            )
    looked_for = f"looked for {root}/CLASS/FILE and {root}/train/CLASS/FILE, video or sound"
    return make_dataset(root.name, clips, called, looked_for, are_folders=True, left_out=left_out, warnings=warnings)


def _lists_in(folder: Path) -> list[Path]:
    """Files of a folder that are named as lists of parts are: train.csv, x_test_split1.txt."""
    tables = (path for path in _entries(folder) if path.suffix.lower() in (".csv", ".tsv", ".txt", ".json"))
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
    matched = _UCF_GROUP.match(file.stem)
    return matched[1] if matched else None


def folders_of(root: Path) -> list[Path]:
    """The folders in a folder, without those of systems, by name."""
    return [entry for entry in _entries(root) if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_set_aside(entry.name))
