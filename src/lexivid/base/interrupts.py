"""Ctrl-C and SIGTERM: one kind of exception, parts of a program that end first, and children that see neither."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_LATER_S = 0.05


class Interrupted(KeyboardInterrupt):
    """The program was asked to end. `status`: its exit status, 130 after Ctrl-C and 143 after SIGTERM."""

    def __init__(self, message: str = "interrupted", *, status: int = 128 + signal.SIGINT) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status of a program that this ended."""
    return error.status if isinstance(error, Interrupted) else 128 + signal.SIGINT


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises `Interrupted` in here, as Ctrl-C raises KeyboardInterrupt. For the program's main thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGTERM"):
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        raise Interrupted("terminated", status=128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def finish_first(*, patience_s: float = 0.0) -> Iterator[None]:
    """What is in here ends before Ctrl-C or SIGTERM is acted upon, also where it then fails; a second one is acted upon
    at once, if it comes `patience_s` after the first.

    Signals that the program does not handle in Python keep their effect, and so does everything outside the main
    thread, which no signal reaches.
    """
    arrived: list[tuple[int, FrameType | None, float]] = []

    def note(signum: int, frame: FrameType | None, handler: Any) -> None:
        arrived.append((signum, frame, time.monotonic()))
        if len(arrived) > 1 and arrived[-1][2] - arrived[0][2] >= patience_s:
            handler(signum, frame)

    with _handled_by(note) as handlers:
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # perhaps as the signal has ended worker processes, too
            failure = error
    if arrived and handlers:
        signum, frame, _ = arrived[0]
        handlers[signum](signum, frame)
    if failure is not None:
        raise failure


@contextmanager
def signals_later() -> Iterator[None]:
    """Ctrl-C or SIGTERM that arrive in here are sent once more when it has ended: for `__del__`, which no exception
    leaves."""
    arrived: list[int] = []
    with _handled_by(lambda signum, frame, handler: arrived.append(signum)):
        yield
    if arrived:
        timer = threading.Timer(_LATER_S, os.kill, (os.getpid(), arrived[0]))
        timer.daemon = True
        timer.start()


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None, Any], None]) -> Iterator[dict[int, Any]]:
    """SIGINT and SIGTERM go to `handle` in here, with the handler that they had; {}: not in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = [number for number, handler in handlers.items() if callable(handler)]
    try:
        for number in handled:
            signal.signal(number, lambda signum, frame: handle(signum, frame, handlers[signum]))
        yield handlers
    finally:
        for number in handled:
            signal.signal(number, handlers[number])


@contextmanager
def children_without_sigint() -> Iterator[None]:
    """Processes that are started in here never see Ctrl-C, from their first instruction on: it is their parent's."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
