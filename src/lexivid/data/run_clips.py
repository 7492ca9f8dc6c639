"""The clips of a run: which it was trained on and which it kept back, as a file in its folder.

    clips.jsonl   first line: {"format", "data": the data folder, "columns"}; then one clip a line, as a list

Whoever asks later ("was this clip trained on?", "which clips were kept back?") reads this file, and no draw is repeated
on data that may have changed. A clip is known by the content of its file (size and three sampled blocks, see
`lexivid.data.cache.content_id`), so a copy, a moved folder or another working directory change no answer. A file
that was encoded anew has another content, and is not recognised.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lexivid.base.storage import write_atomically
from lexivid.data.cache import content_id
from lexivid.data.clips import Clip
from lexivid.data.formats import read_dataset
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError, MediaError

CLIPS_FILE, SPLIT_FILE = "clips.jsonl", "split.json"
_FORMAT = 1
_COLUMNS = ("role", "path", "content", "start_s", "end_s", "labels", "group", "synthetic")
RECIPE_FILE = "recipe.yaml"
_LAYOUT = {"kind": str, "list_number": int, "lists": str, "names": str}
_READERS = 8  # threads: reading three blocks of a file is waiting


@dataclass(frozen=True)
class RunClips:
    """What a run was trained on.

    Args:
        train, held_out: its clips, with the labels that were told in training.
        split: its base and novel classes.
        data: the data folder (or the folder of the manifest), absolute. Empty: not told, as on the Hub.
        contents: path -> what identifies the file's content; a file that could not be read has none.
        warnings: what to know of the data set they were drawn from; not kept.
    """

    train: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    split: ClassSplit
    data: str
    contents: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    @property
    def clips(self) -> tuple[Clip, ...]:
        """Training clips, then held-out ones."""
        return self.train + self.held_out

    def save(self, folder: Path) -> None:
        """Write clips.jsonl and split.json, each whole or not at all; paths below the data folder are kept relative.

        Raises:
            LexividError: the folder cannot be written.
        """
        head = {"format": _FORMAT, "data": self.data, "columns": list(_COLUMNS)}
        lines = [json.dumps(head, ensure_ascii=False)]
        for role, clips in (("train", self.train), ("held_out", self.held_out)):
            for c in clips:
                row = [
                    role, self._relative(c.path), self.contents.get(c.path), c.start_s, c.end_s, list(c.labels),
                    c.group, list(c.synthetic),
                ]  # fmt: skip
                lines.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
        self.split.save(folder / SPLIT_FILE)
        write_atomically(folder / CLIPS_FILE, "\n".join(lines) + "\n")

    @classmethod
    def load(cls, folder: Path) -> RunClips | None:
        """Read what `save` wrote; None: the run does not say (clips that were no files).

        Raises:
            LexividError: the file is damaged.
        """
        try:
            with (folder / CLIPS_FILE).open(encoding="utf-8") as stream:
                head = json.loads(next(stream))
                if head["format"] != _FORMAT or tuple(head["columns"]) != _COLUMNS:
                    raise ValueError(f"format {head['format']}, this Lexivid reads {_FORMAT}")
                data, contents = str(head["data"]), {}
                clips: dict[str, list[Clip]] = {"train": [], "held_out": []}
                for line in stream:
                    role, path, content, start_s, end_s, labels, group, synthetic = json.loads(line)
                    where = str(Path(data) / path) if data else path
                    clips[role].append(Clip(where, tuple(labels), "train", start_s, end_s, group, tuple(synthetic)))
                    if content is not None:
                        contents[where] = content
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise LexividError(
                f"{str(folder / CLIPS_FILE)!r}, which says what the run was trained on, cannot be read "
                f"({type(error).__name__}: {error})"
            ) from None
        split = ClassSplit.load(folder / SPLIT_FILE)
        return cls(tuple(clips["train"]), tuple(clips["held_out"]), split, data, contents)

    def num_trained_on(self, clips: Iterable[Clip]) -> int:
        """How many of these clips share a moment of a file with a clip that was trained on."""
        clips = list(clips)
        contents = contents_of(clip.path for clip in clips)
        return sum(self._overlaps(contents.get(c.path), c.start_s, c.end_s) for c in clips)

    def trained_on(self, path: str | Path) -> bool:
        """Whether something of a file was trained on."""
        return self._overlaps(contents_of([str(path)]).get(str(path)), 0.0, None)

    def found_in(self, data: str | Path, **layout: Any) -> tuple[RunClips, int]:
        """The same clips where they lie now, and how many of them are nowhere; those keep the paths that they had.

        Looked for: in `data` under the same names, then anywhere in it by content, then where they lay in training.

        Args:
            data: a folder of clips or a manifest. layout: of `read_dataset`.
        """
        root = data_folder(data)
        wanted = dict(self.contents)
        by_name = {path: str(root / self._relative(path)) for path in wanted}
        present = contents_of(by_name.values())
        moved = {path: now for path, now in by_name.items() if present.get(now) == wanted[path]}
        missing = [path for path in wanted if path not in moved]
        if missing:
            sought = {wanted[path] for path in missing}
            try:
                others = contents_of(clip.path for clip in read_dataset(data, **layout).clips)
            except LexividError:  # of another layout: nothing to look through
                others = {}
            by_content = {content: path for path, content in others.items() if content in sought}
            as_before = contents_of(path for path in missing if wanted[path] not in by_content)
            for path in missing:
                now = by_content.get(wanted[path]) or (path if as_before.get(path) == wanted[path] else None)
                if now is not None:
                    moved[path] = now
        lost = sum(clip.path not in moved for clip in self.clips)
        train, held_out = (
            tuple(replace(clip, path=moved.get(clip.path, clip.path)) for clip in clips)
            for clips in (self.train, self.held_out)
        )
        contents = {moved.get(path, path): content for path, content in self.contents.items()}
        return replace(self, train=train, held_out=held_out, data=str(root), contents=contents), lost

    def only(self, split: ClassSplit) -> RunClips:
        """The clips of which every label is a base class of `split`, on the side that they were on."""
        base = set(split.base)
        train, held_out = (
            tuple(clip for clip in clips if base.issuperset(clip.labels)) for clips in (self.train, self.held_out)
        )
        return replace(self, train=train, held_out=held_out, split=split)

    def without_names(self) -> RunClips:
        """For publishing: contents and labels, and neither paths nor groups nor the folder."""
        names = {path: f"clip {number}" for number, path in enumerate(dict.fromkeys(c.path for c in self.clips))}
        train, held_out = (
            tuple(replace(clip, path=names[clip.path], group=None) for clip in clips)
            for clips in (self.train, self.held_out)
        )
        return replace(
            self, train=train, held_out=held_out, data="", split=replace(self.split, source=""),
            contents={names[path]: content for path, content in self.contents.items() if path in names},
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """Identifies the clips by content, labels and side, wherever they lie."""
        digest = hashlib.sha256()
        for role, clips in (("train", self.train), ("held_out", self.held_out)):
            rows = ([role, self.contents.get(c.path), c.start_s, c.end_s, c.labels, c.group] for c in clips)
            for row in sorted(json.dumps(row) for row in rows):
                digest.update(row.encode())
        return digest.hexdigest()[:32]

    @cached_property
    def _trained(self) -> dict[str, list[tuple[float, float]]]:
        """Content -> the pieces that were trained on, in seconds."""
        spans: dict[str, list[tuple[float, float]]] = {}
        for clip in self.train:
            if (content := self.contents.get(clip.path)) is not None:
                spans.setdefault(content, []).append(_span(clip.start_s, clip.end_s))
        return spans

    def _overlaps(self, content: str | None, start_s: float, end_s: float | None) -> bool:
        if content is None:
            return False
        start, end = _span(start_s, end_s)
        return any(start < other_end and other < end for other, other_end in self._trained.get(content, ()))

    def _relative(self, path: str) -> str:
        """Below the data folder: the rest of the path. Elsewhere: absolute."""
        if not self.data:
            return path
        rest = os.path.relpath(path, self.data)
        return str(Path(path).absolute()) if Path(rest).parts[0] == os.pardir else rest


def recipe_layout(folder: Path) -> dict[str, Any]:
    """How a run's recipe says that its data are read: kind, list_number, lists and names, as `read_dataset` takes them,
    where it says something; {}: no recipe lies there.

    Raises:
        LexividError: the recipe cannot be read.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return {}
    try:
        import yaml

        data_settings = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
        layout = {key: data_settings[key] for key in _LAYOUT if data_settings.get(key) is not None}
        if any(isinstance(value, bool) or not isinstance(value, _LAYOUT[key]) for key, value in layout.items()):
            raise ValueError("data.kind, lists and names are words, data.list_number is a number")
    except ImportError:
        problem = "PyYAML is missing"
    except Exception as error:  # of PyYAML's many
        problem = f"{type(error).__name__}: {error}".replace("\n", " ")
    else:
        return layout
    raise LexividError(f"{str(path)!r} cannot be read, so it is not known how the run read its data ({problem})")


def contents_of(paths: Iterable[str]) -> dict[str, str]:
    """path -> what identifies the content of that file, wherever it lies; files that cannot be read are left out."""

    def content(path: str) -> str | None:
        try:
            return content_id(path, with_time=False)
        except MediaError:
            return None

    wanted: Sequence[str] = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(_READERS) as pool:
        contents = pool.map(content, wanted)
        return {path: content for path, content in zip(wanted, contents, strict=True) if content is not None}


def data_folder(data: str | Path) -> Path:
    """The folder that a data set's paths are told from: itself, or that of the manifest. Absolute."""
    path = Path(data).absolute()
    return path.parent if path.is_file() else path


def _span(start_s: float, end_s: float | None) -> tuple[float, float]:
    return start_s, float("inf") if end_s is None else end_s
