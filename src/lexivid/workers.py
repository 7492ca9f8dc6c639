"""What every worker process of a pool does first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

import torch


def start_worker() -> None:
    """One thread of torch, Ctrl-C left to the parent, and an end when the parent has ended.

    A pool's workers hold both ends of its queue, so that a parent that is killed leaves them waiting for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
