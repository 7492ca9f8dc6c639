"""Ctrl-C and SIGTERM: one kind of exception, parts of a program that end first, and children that see neither."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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
def finish_first() -> Iterator[None]:
    """What is in here ends before Ctrl-C or SIGTERM is acted upon; a second one is acted upon at once.

    Signals that the program does not handle in Python keep their effect, and so does everything outside the main
    thread, which no signal reaches.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    arrived: list[tuple[int, FrameType | None]] = []

    def note(signum: int, frame: FrameType | None) -> None:
        arrived.append((signum, frame))
        if len(arrived) > 1:
            handlers[signum](signum, frame)

    own = [number for number, handler in handlers.items() if callable(handler)]
    try:
        for number in own:
            signal.signal(number, note)
        yield
    finally:
        for number in own:
            signal.signal(number, handlers[number])
    if arrived:
        signum, frame = arrived[0]
        handlers[signum](signum, frame)


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
