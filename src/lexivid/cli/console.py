"""Data to standard output; messages, bars and waiting signs to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

_messages = Console(stderr=True, highlight=False)


def say(message: str, style: str = "") -> None:
    """A message on standard error. (As Text: brackets in file names are no markup.)"""
    from lexivid.output import printable

    _messages.print(Text(printable(message), style=style), soft_wrap=True)


def emit(text: str) -> None:
    """Data, at once: who reads the other end of a pipe shall not wait for a buffer."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_messages, transient=True, disable=not _messages.is_terminal) as progress:
        yield progress


@contextmanager
def status(message: str) -> Iterator[None]:
    """A waiting sign on standard error; nothing where that is no terminal."""
    if not _messages.is_terminal:
        yield
        return
    with _messages.status(message):
        yield
