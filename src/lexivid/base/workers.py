"""Worker processes: how one begins, how the server that forks them is started, and how those of a pool are ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

import torch

from lexivid.base.interrupts import children_without_sigint


def start_worker() -> None:
    """What every worker does first: one thread of torch, Ctrl-C left to the parent, an end when the parent has ended.

    A pool's workers hold both ends of its queue, so that a parent that is killed leaves them waiting for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def forkserver_context(preloaded: Sequence[str]) -> BaseContext:
    """How workers start: forked, in hundredths of a second, from a server process that has imported `preloaded`, and
    not from this process, whose threads they would inherit in an unknown state. The server imports the main script."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    # The server imports torch, which takes seconds, before it can be told what to do with Ctrl-C. (Its start would
    # start the resource tracker, which lifts the block.)
    resource_tracker.ensure_running()
    with children_without_sigint():
        forkserver.ensure_running()
    return context


def end_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of this pool at once, whatever they do, and nobody else's."""
    processes = dict(getattr(pool, "_processes", None) or {})  # shutdown() forgets them
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes.values():
        process.terminate()
