"""A CSV manifest: a line a clip, with its path, labels and part -> `Dataset`."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lexivid.data.clips import Clip, Dataset, make_dataset
from lexivid.data.naming import PathsOnDisk, split_name
from lexivid.errors import LexividError

_COLUMNS = ("path", "label", "labels", "split", "start_s", "end_s", "group", "synthetic")


def read_csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
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


def read_manifest(path: Path, called: Mapping[str, str]) -> Dataset:
    """The clips of a manifest; paths are relative to its folder.

    Args:
        called: names of classes -> the text that the model reads.

    Raises:
        LexividError: the file, its columns or a line cannot be used.
    """
    rows = read_csv_rows(path)
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
