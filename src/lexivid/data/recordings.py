"""Which clips come from one recording: those of one group, and the parts of one file. A recording is on one side of
every draw; where the data set itself has it on two, that is said."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lexivid.data.clips import Clip


def recordings(clips: Sequence[Clip], *, by_group: bool = True) -> list[int]:
    """Of each clip the number of its recording: clips share one that share a file or a group, or are linked by others.

    by_group: false: a file is a recording, whatever its group.
    """
    parent = list(range(len(clips)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, clip in enumerate(clips):
        keys = [("file", unicodedata.normalize("NFC", os.path.normpath(clip.path)))]
        if by_group and clip.group is not None:
            keys.append(("group", clip.group))
        for key in keys:
            a, b = root(first.setdefault(key, i)), root(i)
            parent[max(a, b)] = min(a, b)
    return [root(i) for i in range(len(clips))]


def recording_names(clips: Sequence[Clip]) -> list[str]:
    """Of each clip a name of its recording: the group or the file of the recording's first clip."""
    return [clips[number].group or clips[number].path for number in recordings(clips)]


def on_both_sides(clips: Sequence[Clip]) -> list[str]:
    """A warning of recordings with clips to train on and others to test with: how many, and one of them."""
    parts: dict[int, set[str]] = defaultdict(set)
    numbers = recordings(clips)
    for number, clip in zip(numbers, clips, strict=True):
        parts[number].add(clip.split)
    shared = [number for number, names in parts.items() if "train" in names and names & {"val", "test"}]
    if not shared:
        return []
    example = clips[shared[0]]
    what = repr(example.group) if example.group is not None else repr(example.path)
    other = "test" if any("test" in parts[number] for number in shared) else "val"
    count = sum(clip.split == other for number, clip in zip(numbers, clips, strict=True) if number in set(shared))
    return [
        f"{len(shared)} recordings (a group, or parts of one file) are in train and in {other}, for instance {what}: "
        f"{count} clips of {other} resemble what is trained on, and flatter the result"
    ]
