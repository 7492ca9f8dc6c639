"""Which files a user means: paths as named, folders searched for videos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# What a folder is searched for. A file that is named itself is tried whatever its ending.
VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .hevc .ivf .m2ts .m2v .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpeg "
    ".mpg .mts .mxf .nut .ogv .ogm .rm .rmvb .ts .vob .webm .wmv .wtv .y4m".split()
)


@dataclass(frozen=True)
class FoundFile:
    """A file to look at, or a folder that could not be searched (`error` says why)."""

    path: str
    error: str | None = None


def find_videos(paths: Iterable[str | Path]) -> Iterator[FoundFile]:
    """Files as named, and the video files below each folder in alphabetical order, each once.

    Hidden files and folders are left out; links to folders are not followed (they could go round in circles).
    """
    seen: set[str] = set()
    for path in paths:
        for found in _below(path) if Path(path).is_dir() else [FoundFile(str(path))]:
            if found.path not in seen:
                seen.add(found.path)
                yield found


def _below(folder: str | Path) -> Iterator[FoundFile]:
    failures: list[OSError] = []
    any_video = False
    for root, folders, names in os.walk(folder, onerror=failures.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                any_video = True
                yield FoundFile(str(Path(root) / name))
    for failure in failures:
        where = str(failure.filename or folder)
        yield FoundFile(where, f"{where}: the folder cannot be read ({failure.strerror}); check its permissions")
    if not any_video and not failures:
        yield FoundFile(str(folder), f"{folder}: no video files in this folder (looked for {_examples()})")


def _examples() -> str:
    return ".mp4, .mkv, .avi, .mov, .webm and others"
