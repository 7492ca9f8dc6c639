"""Worker processes of a pool."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from lexivid.base.workers import end_workers, start_worker

PARENT = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from lexivid.base.workers import start_worker

if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=start_worker) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(8)}, flush=True)
        time.sleep(120)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_workers_end_when_their_parent_is_killed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers
    assert all(alive(pid) for pid in workers)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    ends = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not [pid for pid in workers if alive(pid)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout
    return not state.startswith("Z")


def _sleep() -> None:
    time.sleep(120)


def test_only_the_pools_own_processes_are_ended() -> None:
    context = multiprocessing.get_context("spawn")
    callers = context.Process(target=_sleep)
    callers.start()
    pool = ProcessPoolExecutor(1, context, initializer=start_worker)
    worker = pool.submit(os.getpid).result()
    pool.submit(_sleep)
    try:
        end_workers(pool)
        ends = time.monotonic() + 60
        while alive(worker) and time.monotonic() < ends:
            time.sleep(0.05)
        assert not alive(worker)
        assert callers.is_alive()
    finally:
        callers.terminate()
        callers.join()
