"""UCF101: folders CLASS/v_CLASS_gNN_cNN.* and its lists trainlistNN.txt and testlistNN.txt -> clips with their parts.

Lists and folders may spell a class differently (the lists' HandstandPushups is the folder HandStandPushups), and parts
of the data set are commonly used: a class without a folder, or an entry without a file, is missing and counted. What
could turn a test clip into a training clip is an error: a folder that the lists do not know while they name classes
that have no folder, and a class none of whose entries is spelled as its files are.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lexivid.data.clips import Clip
from lexivid.data.formats.folders import folders_of, group_of
from lexivid.errors import LexividError
from lexivid.labels.identifiers import class_key
from lexivid.media.files import LeftOut, media_below

_TAKE = re.compile(r"_g\d+_c\d+$")


def list_files(root: Path, lists: str | os.PathLike[str] | None, part: str, number: int) -> list[Path]:
    """The lists of a part, "train" or "test": in `lists`, or in the data's folder or its ucfTrainTestlist."""
    folders = [root, root / "ucfTrainTestlist", root.parent / "ucfTrainTestlist"] if lists is None else [Path(lists)]
    return [file for place in folders for file in sorted(place.glob(f"*{part}list{number:02d}.txt"))]


def read_ucf101(
    root: Path, number: int, lists: str | os.PathLike[str] | None, left_out: LeftOut
) -> tuple[list[Clip], list[str], list[str], str]:
    """Clips labelled by their folders, entries without a file, warnings, and the test list's name.

    Raises:
        LexividError: no list, a list of another form, or one that does not fit the folders.
    """
    test_lists = list_files(root, lists, "test", number)
    if not test_lists:
        where = str(root / "ucfTrainTestlist") if lists is None else os.fspath(lists)
        raise LexividError(f"no testlist{number:02d}.txt in {where}: say where UCF101's lists are (lists)")
    listed = {"test": _read_list(test_lists[0])}
    if train_lists := list_files(root, lists, "train", number):
        listed["train"] = _read_list(train_lists[0])
    split_of = {_key(entry): (split, entry) for split, entries in listed.items() for entry in entries}
    takes: dict[str, list[str]] = defaultdict(list)  # class -> its entries
    for entries in listed.values():
        for entry in entries:
            takes[class_key(entry.split("/")[0])].append(entry)
    clips: list[Clip] = []
    seen: set[str] = set()
    strange: list[str] = []
    found_classes = set()
    for folder in folders_of(root):
        files = list(media_below(folder, left_out))
        if not files:
            continue
        class_takes = takes.get(class_key(folder.name), [])
        if class_takes:
            found_classes.add(class_key(folder.name))
            _check_spelling(folder, files, class_takes, test_lists[0])
        else:
            strange.append(folder.name)
        for file in files:
            key = _key(f"{folder.name}/{file.stem}")
            split = split_of[key][0] if key in split_of else "train" if "train" not in listed else None
            if split is None:
                continue  # of neither list, such as part of another split
            seen.add(key)
            clips.append(Clip(str(file), (folder.name,), split, group=group_of(file)))
    without = [class_takes[0].split("/")[0] for name, class_takes in takes.items() if name not in found_classes]
    warnings = []
    if strange and without and "train" not in listed:
        raise LexividError(
            f"{test_lists[0]}: folder {strange[0]!r} of {root} is no class of this list, and its class {without[0]!r} "
            "has no folder: rename the one that is misspelled, or move the folder elsewhere; its clips would all count "
            "as training clips"
        )
    if strange:
        warnings.append(
            f"{test_lists[0].name} names no clip of {len(strange)} folders, for instance {strange[0]!r}: "
            + ("they are left out" if "train" in listed else "all of theirs are training clips")
        )
    missing = [entry for key, (_, entry) in split_of.items() if key not in seen]
    return clips, missing, warnings, test_lists[0].name


def _key(entry: str) -> str:
    return "/".join(map(class_key, entry.split("/")))


def _check_spelling(folder: Path, files: Sequence[Path], entries: Sequence[str], source: Path) -> None:
    """Whether some entry of a class names its files as they are called, be they here or not.

    Raises:
        LexividError: none does.
    """
    entry, name = entries[0], entries[0].split("/")[0]
    listed = {class_key(_TAKE.sub("", entry.split("/")[1])) for entry in entries}
    if listed.isdisjoint(class_key(_TAKE.sub("", file.stem)) for file in files):
        raise LexividError(
            f"{source}: no entry of class {name!r}, such as {entry!r}, is called like the files of folder "
            f"{folder.name!r}, such as {files[0].name!r}: its test clips cannot be told from training clips"
        )


def _read_list(path: Path) -> list[str]:
    """ "Archery/v_Archery_g08_c01.avi 3" -> "Archery/v_Archery_g08_c01"."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LexividError(f"list {str(path)!r} cannot be read: {error}") from None
    entries = [re.sub(r"\s+\d+$", "", line.strip()) for line in lines if line.strip()]
    if bad := [entry for entry in entries if entry.count("/") != 1]:
        raise LexividError(f"list {str(path)!r} has lines CLASS/FILE, but also {bad[0][:80]!r}")
    return [str(Path(entry).with_suffix("")) for entry in entries]
