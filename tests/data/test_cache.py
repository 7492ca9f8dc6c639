"""data/cache.py: whole or not at all, safe with several processes, bounded, by content."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lexivid.data.cache import CacheEntry, ClipCache, content_id, key_of
from lexivid.data.loader import worker_context
from lexivid.errors import LexividError, MediaError

KILO = 1 << 10


def _entry(number: int, num_bytes: int = 100 * KILO) -> CacheEntry:
    """Content that its number determines."""
    return CacheEntry({"frames": torch.full((num_bytes,), number % 251, dtype=torch.uint8)}, {"number": str(number)})


def _is_whole(entry: CacheEntry) -> bool:
    return bool((entry.tensors["frames"] == int(entry.facts["number"]) % 251).all())


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path)
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(6, dtype=torch.uint8).view(2, 3).T}  # b is not contiguous
    assert cache.get("ab12") is None
    cache.put("ab12", CacheEntry(tensors, {"warnings": "跳舞"}))
    found = cache.get("ab12")
    assert found is not None
    assert found.facts == {"warnings": "跳舞"}
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype
    cache.put("empty", CacheEntry({}, {}))
    assert cache.get("empty") == CacheEntry({}, {})
    assert (cache.hits, cache.misses) == (2, 1)


def test_get_or_make_makes_once(tmp_path: Path) -> None:
    made = []

    def make() -> CacheEntry:
        made.append(1)
        return _entry(5)

    for _ in range(3):
        assert _is_whole(ClipCache(tmp_path).get_or_make("k5", make))
    assert len(made) == 1


def test_default_folder(own_cache: Path) -> None:
    assert ClipCache().folder == own_cache / "clips"


def test_key_depends_on_every_parameter() -> None:
    base = {"size": 256, "views": [16, 4], "end_s": None}
    others = [{**base, "size": 255}, {**base, "views": [16, 1]}, {**base, "end_s": 0.0}, {**base, "more": 1}]
    keys = {key_of("content", p) for p in [base, *others]} | {key_of("other", base)}
    assert len(keys) == 6
    assert key_of("content", dict(reversed(base.items()))) == key_of("content", base)


def test_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    data = bytearray(random.Random(0).randbytes(1 << 20))
    path.write_bytes(data)
    os.utime(path, ns=(0, 10**18))
    first = content_id(path)
    (tmp_path / "moved.bin").write_bytes(data)
    os.utime(tmp_path / "moved.bin", ns=(5, 10**18))
    assert content_id(tmp_path / "moved.bin") == first  # the name plays no part
    found = {first}
    for place in (0, len(data) // 2, len(data) - 1):
        data[place] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(0, 10**18))
        found.add(content_id(path))
    os.utime(path, ns=(0, 10**18 + 1))
    found.add(content_id(path))
    path.write_bytes(data + b"x")
    os.utime(path, ns=(0, 10**18 + 1))
    found.add(content_id(path))
    assert len(found) == 6
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(MediaError, match=missing.name):
            content_id(missing)


@pytest.mark.parametrize("damage", ["cut", "emptied", "header"])
def test_a_damaged_entry_is_not_there(tmp_path: Path, damage: str) -> None:
    cache = ClipCache(tmp_path)
    cache.put("k1", _entry(1))
    (path,) = tmp_path.rglob("*.safetensors")
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-1], "emptied": b"", "header": b"\xff" * 8 + data[8:]}[damage])
    assert cache.get("k1") is None
    assert not path.exists()
    cache.put("k1", _entry(1))
    assert cache.get("k1") is not None


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path, max_bytes=1000 * KILO)
    for number in range(9):
        cache.put(f"k{number}", _entry(number))
        (path,) = tmp_path.rglob(f"k{number}.safetensors")
        os.utime(path, (1000 + number, 1000 + number))
    assert cache.get("k0") is not None  # used now
    cache.put("k9", _entry(9))
    left = {path.stem for path in tmp_path.rglob("*.safetensors")}
    assert left == {"k0", "k3", "k4", "k5", "k6", "k7", "k8", "k9"}  # to 7/8: 1 and 2 went


def test_size_stays_bounded(tmp_path: Path) -> None:
    """Measured by the folder, also where other objects (processes) filled it."""
    for turn in range(5):
        cache = ClipCache(tmp_path, max_bytes=500 * KILO)
        for number in range(20):
            cache.put(f"k{turn}{number}", _entry(number, 20 * KILO))
            held = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
            assert held <= 500 * KILO * (1 + 1 / 16)


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path, max_bytes=1000 * KILO)
    (tmp_path / "k1").mkdir()
    old, young = tmp_path / "k1/.old.tmp", tmp_path / "k1/.young.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.evict()
    assert not old.exists()
    assert young.exists()  # someone may be writing it


def test_a_cache_that_cannot_be_written_warns_once(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = ClipCache(blocked)
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        assert _is_whole(cache.get_or_make("k1", lambda: _entry(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _is_whole(cache.get_or_make("k2", lambda: _entry(2)))


def test_max_bytes_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(LexividError, match="max_bytes is 0"):
        ClipCache(tmp_path, max_bytes=0)


def test_an_entry_appears_whole(tmp_path: Path) -> None:
    """Whoever looks while 64 MB are being written sees nothing, or all of it."""
    path = tmp_path / "k1" / "k1.safetensors"
    sizes: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if path.exists():
                sizes.add(path.stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ClipCache(tmp_path).put("k1", _entry(1, 64 << 20))
        time.sleep(0.05)
    finally:
        done.set()
        watcher.join()
    assert sizes == {path.stat().st_size}


def _work(folder: str, seed: int, max_bytes: int, turns: int, begun: Any = None) -> None:
    """Read and write entries that other processes write, too; exit status 1 if one was not whole."""
    cache = ClipCache(folder, max_bytes=max_bytes)
    rng = random.Random(seed)
    if begun:
        begun.set()
    for _ in range(turns):
        number = rng.randrange(40)
        entry = cache.get_or_make(f"k{number}", lambda number=number: _entry(number, 50 * KILO))
        if not _is_whole(entry) or entry.facts["number"] != str(number):
            raise SystemExit(1)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    """Four processes write, read and evict the same forty entries, of which about twenty fit."""
    context = worker_context()
    workers = [context.Process(target=_work, args=(str(tmp_path), seed, 1000 * KILO, 150)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert not list(tmp_path.rglob("*.tmp"))
    held = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    assert 0 < sum(held) <= 1000 * KILO * (1 + 4 / 32 + 50 / 1000)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path) -> None:
    """Whatever was killed when: every entry under its own name is whole, and the next process goes on."""
    context = worker_context()
    rng = random.Random(7)
    leftovers = 0
    for turn in range(20):
        begun = context.Event()
        worker = context.Process(target=_work, args=(str(tmp_path), turn, 1000 * KILO, 10**9, begun))
        worker.start()
        assert begun.wait(60)
        time.sleep(rng.uniform(0.0, 0.2))
        assert worker.is_alive()
        worker.kill()
        worker.join()
        for path in tmp_path.rglob("*.safetensors"):
            number = int(path.stem[1:])
            assert (load_file(path)["frames"] == number % 251).all()
        leftovers += len(list(tmp_path.rglob("*.tmp")))
    assert list(tmp_path.rglob("*.safetensors"))
    assert leftovers  # some were killed while they wrote, or this test shows nothing
