"""Data to standard output; messages, bars and spinners to standard error.

Without a terminal on standard error, long work prints its progress once a minute.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lexivid.errors import printable

_messages = Console(stderr=True, highlight=False)
_LINE_EVERY_S = 60.0


def say(message: str, style: str = "") -> None:
    """Print a message on standard error. (As Text, so that brackets in file names are not read as markup.)

    This function imports nothing: Ctrl-C may have interrupted the import of PyTorch, which cannot be imported twice.
    """
    _messages.print(Text(printable(message), style=style), soft_wrap=True)


def emit(text: str) -> None:
    """Write data and flush, so that the reader of a pipe does not wait for a buffer."""
    sys.stdout.write(text)
    sys.stdout.flush()


class Bar:
    """The progress of a piece of work: a bar on a terminal, a line a minute elsewhere."""

    def __init__(self, what: str, bars: Progress | None, task: TaskID | None) -> None:
        self.what, self.done = what, 0.0
        self.total: float | None = None
        self._bars, self._task = bars, task
        self._began = self._since = time.monotonic()
        self._before = 0.0  # what was done when the present total was set

    def show(self, done: float | None = None, total: float | None = None, what: str | None = None) -> None:
        """Take over what has changed."""
        if total is not None and total != self.total:
            self.total, self._since, self._before = total, time.monotonic(), done or 0.0
        self.done = self.done if done is None else done
        self.what = what or self.what
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task, completed=self.done, total=self.total, description=self.what, visible=True
            )  # fmt: skip

    def line(self) -> str:
        """One line: the work, done of total, minutes so far, minutes left."""
        now = time.monotonic()
        words = [self.what if self.total is None else f"{self.what}: {self.done:.0f} of {self.total:.0f}"]
        words.append(f"{(now - self._began) / 60:.0f} min")
        if self.total is not None and self.done > self._before:
            left_s = (now - self._since) / (self.done - self._before) * (self.total - self.done)
            words.append(f"about {max(left_s, 0) / 60:.0f} min left")
        return ", ".join(words)


@contextmanager
def progress_bar(what: str, *, hidden: bool = False) -> Iterator[Bar]:
    """A bar for work that can be counted.

    Args:
        hidden: no bar before the first count.
    """
    if not _messages.is_terminal:
        with _lines(Bar(what, None, None)) as bar:
            yield bar
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_messages, transient=True) as bars:
        yield Bar(what, bars, bars.add_task(what, total=None, visible=not hidden))


@contextmanager
def status(message: str) -> Iterator[None]:
    """A spinner for work that cannot be counted."""
    if _messages.is_terminal:
        with _messages.status(Text(message)):
            yield
    else:
        with _lines(Bar(message, None, None)):
            yield


@contextmanager
def _lines(bar: Bar) -> Iterator[Bar]:
    """Print the bar's line every minute from a thread, as the work itself may report less often."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(_LINE_EVERY_S):
            say(bar.line())

    thread = threading.Thread(target=tell, daemon=True, name="lexivid-progress")
    thread.start()
    try:
        yield bar
    finally:
        ended.set()
        thread.join()
