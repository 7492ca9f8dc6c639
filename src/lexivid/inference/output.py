"""Predictions as rows: table, JSON, JSON lines, CSV; and the journal that lets an interrupted run go on.

A file given by `--output` is written whole or not at all. While a run goes on, each finished row is appended to
`FILE.partial`, whose first line says which call made it; the same call, started again, keeps those rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lexivid.base.storage import write_atomically
from lexivid.errors import LexividError, printable
from lexivid.inference.prediction import NONE_OF_THESE
from lexivid.models.calibration import says_none

FORMATS = ("table", "json", "jsonl", "csv", "vtt", "srt")
SUBTITLES = ("vtt", "srt")
CSV_COLUMNS = (
    "path", "kind", "start_s", "end_s", "rank", "label", "score", "answer", "none_of_these", "score_kind", "duration_s",
    "model", "modalities", "warnings", "error",
)  # fmt: skip
_BAR_CELLS = 20
_LABEL_CELLS = 24
_LABELS_OF_A_MODALITY = 3
SCORE_KINDS = {
    "share": "%: shares of your labels; together they are 100 %, even if none fits",
    "probability": "%: probability of the label, if at most one of them holds; the rest to 100 % is none of these",
    "per-label probability": "%: probability of the label by itself; several may be high, or none",
}
"""What a reader is told of the percentages."""
Row = dict[str, Any]


def format_rows(rows: Sequence[Row], fmt: str, *, width: int | None = None, colour: bool = False) -> str:
    """All rows (see `Prediction.to_dict`) as one text; as subtitles one row alone.

    Raises:
        LexividError: an unknown format.
    """
    if fmt == "json":
        return _json(list(rows), indent=2) + "\n"
    if fmt == "jsonl":
        return "".join(write_row(row, fmt) for row in rows)
    if fmt == "csv":
        return csv_header() + "".join(map(csv_rows, rows))
    if fmt in SUBTITLES:
        (row,) = rows
        return subtitles(row, fmt)
    if fmt == "table":
        buffer = io.StringIO()
        console = Console(file=buffer, width=width, force_terminal=colour, highlight=False)
        console.print(table(rows))
        return buffer.getvalue()
    raise LexividError(f"unknown format {fmt!r}: choose {', '.join(FORMATS)}")


def subtitles(row: Row, fmt: str) -> str:
    """A timeline as subtitles, "vtt" (WebVTT) or "srt": a cue for each segment, with its best label and the score.

    Segments of several labels may overlap; players show such cues together. "None of these" has no cue.
    """
    cues = []
    for segment in row.get("segments", []):
        for label in segment["labels"][:1] if segment["answer"] != NONE_OF_THESE else []:
            start, end = (_cue_time(segment[key], fmt) for key in ("start_s", "end_s"))
            text = f"{printable(label['label'])} ({label['score']:.0%})"
            if fmt == "vtt":
                text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            if start != end:
                cues.append(f"{start} --> {end}\n{text}\n")
    if fmt == "vtt":
        return "\n".join(["WEBVTT\n", *cues])
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def write_subtitles(folder: Path, rows: Sequence[Row], fmt: str) -> list[Path]:
    """A file of subtitles for each row without an error, by the name of its film; "film-2.vtt" for another film.mp4."""
    written: list[Path] = []
    for row in rows:
        if row["error"]:
            continue
        stem, number = Path(row["path"]).stem, 1
        while (path := folder / f"{stem}{'' if number == 1 else f'-{number}'}.{fmt}") in written:
            number += 1
        write_atomically(path, subtitles(row, fmt))
        written.append(path)
    return written


def _cue_time(seconds: float, fmt: str) -> str:
    """75.25 -> "00:01:15.250", in SRT with a comma."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    separator = "." if fmt == "vtt" else ","
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{separator}{thousandths:03d}"


def _json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8: escaped, so that it can be read back
        text = json.dumps(value, indent=indent)
    return text


def csv_header() -> str:
    """The first line of the CSV."""
    return ",".join(CSV_COLUMNS) + "\n"


def csv_rows(row: Row) -> str:
    """One line per label; with a timeline also one per label of each segment; one line for a failure.

    docs/usage.md has the columns.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    common = {
        "path": row["path"].encode("utf-8", "replace").decode(),
        "duration_s": row["duration_s"],
        "model": row["model"],
        "modalities": "+".join(row["modalities"]),
        "warnings": " | ".join(row["warnings"]),
        "error": row["error"],
        "score_kind": "" if row["error"] else row["score_kind"],
    }
    for kind, part in [("file", row), *(("segment", segment) for segment in row.get("segments", []))]:
        about = common | {"kind": kind, "none_of_these": part["none_of_these"]}
        about |= {key: part.get(key) for key in ("start_s", "end_s")}
        first, *others = part["labels"] or [{"label": None, "score": None}]
        rank = 1 if part["labels"] else None
        writer.writerow(about | first | {"rank": rank, "answer": part["answer"]})
        for rank, label in enumerate(others, 2):
            writer.writerow(about | label | {"rank": rank})
    return buffer.getvalue()


def table(rows: Sequence[Row]) -> Group:
    """For people: each file's name, its labels with a bar for each score, then its timeline."""
    blocks: list[RenderableType] = []
    for row in rows:
        duration = "" if row["duration_s"] is None else f"  {clock(row['duration_s'])}"
        blocks.append(Text.assemble((printable(row["path"]), "bold"), (duration, "dim"), overflow="fold"))
        if row["error"]:
            blocks.append(Text("  " + printable(row["error"]), style="red", overflow="fold"))
        elif sentence := none_sentence(row):
            blocks.append(Text("  " + sentence, style="yellow", overflow="fold"))
        elif not row["labels"]:
            blocks.append(Text("  no label reaches the threshold", style="dim"))
        blocks.append(_bars([("", label["label"], label["score"]) for label in row["labels"]]))
        if len(row["by_modality"]) > 1:
            for name, labels in row["by_modality"].items():
                best = ", ".join(f"{printable(x['label'])} {x['score']:.1%}" for x in labels[:_LABELS_OF_A_MODALITY])
                blocks.append(Text(f"  {name} alone: {best or NONE_OF_THESE}", style="dim", overflow="fold"))
        # Of each segment its answer alone: a long film has many.
        segments = [segment for segment in row.get("segments", []) if segment["answer"] is not None]
        if segments:
            blocks.append(Text("  which label when", style="dim"))
            blocks.append(_bars([_segment_line(segment) for segment in segments]))
        blocks.append(Text())
    kinds = dict.fromkeys(row["score_kind"] for row in rows if not row["error"])
    blocks += [Text(SCORE_KINDS[kind], style="dim", overflow="fold") for kind in kinds]
    return Group(*(blocks if kinds else blocks[:-1]))


def none_sentence(row: Row) -> str:
    """A sentence where the answer of a row may be "none of these", else "".

    It stands above the labels, which may still hold. In multi-label mode it stands in their place.
    """
    if row["multi_label"]:
        if row["labels"] or row["none_of_these"] is None:
            return ""
        return NONE_OF_THESE + (" over the whole of it" if row.get("segments") else "")
    if not says_none(row["none_of_these"]):
        return ""
    return f"perhaps none of these ({row['none_of_these']:.0%})"


def _segment_line(segment: Row) -> tuple[str, str, float]:
    """(time span, answer, its score)."""
    span = f"{clock(segment['start_s'])} - {clock(segment['end_s'])}"
    if segment["answer"] == NONE_OF_THESE:
        return span, NONE_OF_THESE, segment["none_of_these"]
    return span, segment["labels"][0]["label"], segment["labels"][0]["score"]


def _bars(lines: Sequence[tuple[str, str, float]]) -> Table:
    """Lines of (time span or "", label, score); what has more than half is bold."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=0)  # indentation
    if any(span for span, _, _ in lines):
        grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold", min_width=_LABEL_CELLS, max_width=60)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True, min_width=_BAR_CELLS)
    for span, label, score in lines:
        style = "yellow" if label == NONE_OF_THESE else "bold" if score > 0.5 else ""
        bar = Text("█" * round(score * _BAR_CELLS), style="cyan")
        grid.add_row("", *([span] if span else []), Text(printable(label), style=style), f"{score:.1%}", bar)
    return grid


def clock(seconds: float) -> str:
    """75.25 -> "1:15.2"."""
    tenths = int(seconds * 10 + 0.5)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{rest // 10:02d}.{rest % 10}"


class Journal:
    """The finished rows of a run, kept beside its output file until that is written.

    Args:
        output: the file that the run will write.
        call: what makes a row what it is (model, labels, templates, views ...); rows of another call do not count.
    """

    def __init__(self, output: Path, call: dict[str, Any]) -> None:
        self.path = output.with_name(output.name + ".partial")
        self.call = call
        self.rows: dict[str, Row] = {}
        self._stream: IO[str] | None = None

    def open(self) -> Journal:
        """Read what an interrupted run of the same call has left, and go on behind it.

        Raises:
            LexividError: the folder cannot be written.
        """
        self.rows = self._read()
        # Begun anew with the rows that count: a line that a kill cut in half goes.
        write_atomically(self.path, "".join(write_row(item, "jsonl") for item in [self.call, *self.rows.values()]))
        self._stream = self.path.open("a", encoding="utf-8")
        return self

    def _read(self) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        try:
            with self.path.open(encoding="utf-8") as stream:
                for number, line in enumerate(stream):
                    item = json.loads(line)
                    if number == 0 and item != self.call:
                        return {}
                    if number and item["error"] is None:
                        rows[item["path"]] = item
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none, or cut off: what was read counts
        return rows

    def add(self, row: Row) -> None:
        """Keep one finished row, at once."""
        assert self._stream
        if self.rows.get(row["path"]) == row:
            return
        self.rows[row["path"]] = row
        self._stream.write(write_row(row, "jsonl"))
        self._stream.flush()

    def discard(self) -> None:
        """The run is complete: the journal goes."""
        assert self._stream
        self._stream.close()
        self.path.unlink(missing_ok=True)


def write_row(row: Row, fmt: str) -> str:
    """One row as text that can be written as it comes: "jsonl" or "csv"."""
    assert fmt in ("jsonl", "csv")
    return csv_rows(row) if fmt == "csv" else _json(row) + "\n"
