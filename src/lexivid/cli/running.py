"""What `classify` and `demo` share: read words, print or write rows, write the report, set the exit status."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lexivid.base.interrupts import Interrupted, status_of
from lexivid.cli.console import Bar, emit, progress_bar, say
from lexivid.errors import printable

if TYPE_CHECKING:
    from lexivid.inference.classifier import Classifier
    from lexivid.inference.prediction import Prediction, Vocabulary
    from lexivid.labels.database import ExtendedDatabase

_THUMBNAILS_PER_FILE = 6


def told(words: Iterable[str], names: Path) -> list[str]:
    """The words with the phrases of a table. Rows of the table that fit no word are warned of."""
    from lexivid.labels import read_names, with_phrases

    labels, warnings = with_phrases(words, read_names(names))
    for warning in warnings:
        say(f"warning: {names}: {warning}", "yellow")
    return labels


def prepare(classifier: Classifier, words: Iterable[str] | ExtendedDatabase, templates: str | None) -> Vocabulary:
    """Embed these words, with a progress bar; print the warnings about them.

    words: labels, or a `LabelDatabase` (`ExtendedDatabase`), whose vectors are used as they are.
    """
    with progress_bar("reading labels", hidden=True) as bar:
        vocabulary = classifier.prepare(words, templates=templates, on_progress=bar.show)
    for warning in vocabulary.warnings:
        say(f"warning: {warning}", "yellow")
    return vocabulary


class _FilmBar:
    """Shows how far a film of a timeline is: time done, time in all, and how many times faster than it plays."""

    def __init__(self, bar: Bar, num_done: Callable[[], int]) -> None:
        self.bar, self.num_done = bar, num_done
        self._path, self._began = "", 0.0

    def __call__(self, path: str, done_s: float, total_s: float) -> None:
        if path != self._path:
            self._path, self._began = path, time.monotonic()
        rate = done_s / max(time.monotonic() - self._began, 1e-3)
        name = printable(Path(path).name[:40])
        text = f"{name}, {span(done_s)} of {span(total_s)}" + (
            f", {rate:.0f} times as fast as it plays" if rate >= 1 else ""
        )
        self.bar.show(self.num_done() + done_s / total_s, what=text)


def span(seconds: float) -> str:
    """3725.4 -> "1:02:05"."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"


def run(
    classifier: Classifier,
    paths: list[str],
    vocabulary: Vocabulary,
    options: dict[str, Any],
    call: dict[str, Any],
    *,
    fmt: str,
    output: Path | None,
    report: Path | None,
) -> None:
    """Classify, print or write, and exit with the right status. After Ctrl-C the finished rows are written."""
    from lexivid.base.storage import write_atomically
    from lexivid.inference.library import classify_library
    from lexivid.inference.output import SUBTITLES, Journal, csv_header, format_rows, write_row, write_subtitles
    from lexivid.inference.prediction import Prediction
    from lexivid.inference.report import Report

    journal = Journal(output, call).open() if output else None
    known = {path: Prediction.from_dict(row) for path, row in journal.rows.items()} if journal else {}
    if known:
        say(f"going on with an interrupted run: {len(known)} files are done already")
    page = Report(top_k=call["top_k"]) if report else None
    done: list[Prediction] = []
    rows: list[dict[str, Any]] = []
    interrupted, started = 0, time.monotonic()
    streams = output is None and fmt in ("jsonl", "csv")
    if streams and fmt == "csv":
        emit(csv_header())
    with progress_bar("classifying") as bar:
        predictions = classify_library(
            classifier,
            paths,
            vocabulary,
            known=known,
            on_total=lambda total: bar.show(total=total),
            on_left_out=say,
            num_thumbnails=_THUMBNAILS_PER_FILE if report else 0,
            on_progress=_FilmBar(bar, lambda: len(done)),
            **options,
        )
        try:
            for prediction in predictions:
                row = prediction.to_dict(top_k=call["top_k"], threshold=call["threshold"])
                rows.append(row)
                if page:
                    page.add(prediction)
                done.append(prediction.without_thumbnails())
                if journal:
                    journal.add(row)
                elif streams:
                    emit(write_row(row, fmt))
                bar.show(len(done), what=printable(Path(prediction.path).name[:40]))
        except KeyboardInterrupt as error:
            interrupted = status_of(error)
    for prediction in done:
        for warning in prediction.warnings:
            say(f"warning: {prediction.path}: {warning}", "yellow")
    if output and journal:
        if fmt not in SUBTITLES:
            write_atomically(output, format_rows(rows, fmt, width=160))
        elif not output.suffix:
            write_subtitles(output, rows, fmt)
        elif rows and not rows[0]["error"]:
            write_atomically(output, format_rows(rows, fmt))
        if not interrupted:
            journal.discard()
        num_failed = sum(prediction.error is not None for prediction in done)
        files = f"{len(done)} file{'' if len(done) == 1 else 's'}"
        say(f"{files}{f', {num_failed} failed' if num_failed else ''}: {output}")
    elif not streams and not (fmt in SUBTITLES and rows[0]["error"]):
        terminal = sys.stdout.isatty()
        emit(format_rows(rows, fmt, width=None if terminal else 120, colour=terminal))
    if page and report:
        settings = {
            "Views": f"timeline, windows of {call['timeline_s']:g} s" if call.get("timeline_s") else call["views"],
            "Backbone": f"{classifier.backbone.name} on {classifier.backbone.device}",
            "Time": f"{time.monotonic() - started:.1f} s",
        }
        command = shlex.join(["lexivid", *sys.argv[1:]])
        write_atomically(report, page.render(vocabulary, command=command, settings=settings))
        say(f"report: {report}")
    if interrupted:
        again = "; the same command goes on from there" if output else ""
        raise Interrupted(f"interrupted: {len(done)} files are done and written{again}", status=interrupted)
    failed = sum(prediction.error is not None for prediction in done)
    if failed:
        if output or fmt != "table":
            for prediction in done:
                if prediction.error:
                    say(f"failed: {prediction.error}", "red")
        raise typer.Exit(1)
