"""What is expensive about a clip, kept on disk before augmentation: frames, pictures of flow, log-mel spectrograms.

A key stands for a file's content and everything that decides what is made of it. Content means size, time of the last
change and three sampled blocks of 64 KiB, not the whole file: a change that keeps all of these is not seen.
A value is a few tensors and facts about them (strings), one safetensors file. It is written under another name and
then renamed, so it is there whole or not at all, whoever is killed and however many processes share the folder; one
that does not read back (a full disk, a lost rename after a power cut) counts as not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lexivid.base.storage import cache_dir
from lexivid.errors import LexividError, MediaError

DEFAULT_MAX_BYTES = 20 << 30
_FORMAT = 2  # raise it when the same parameters would come to mean other tensors
_BLOCK_BYTES = 1 << 16
_LEFTOVER_S = 3600.0  # a temporary file older than this belongs to a process that is gone
_SUFFIX = ".safetensors"


class CacheEntry(NamedTuple):
    """What is kept of one file: tensors by name, and facts as strings."""

    tensors: dict[str, Tensor]
    facts: dict[str, str]


class ClipCache:
    """A folder of entries, the least recently used of which go when it grows too large.

    Args:
        folder: None: "clips" in the user's cache folder (LEXIVID_CACHE).
        max_bytes: of all entries together. Each process looks again after it has written a 32nd of that, so P
            processes that write at once may pass it by P / 32.

    Attributes:
        hits, misses: of this object, in this process.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 1:
            raise LexividError(f"the clip cache's max_bytes is {max_bytes}, and must be at least 1")
        self.folder = Path(folder) if folder is not None else cache_dir() / "clips"
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._unchecked_bytes = max_bytes  # written since the folder was last measured: the first write measures
        self._said_full = False

    def get(self, key: str) -> CacheEntry | None:
        """The entry, or None. Reading it makes it the most recently used."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                entry = CacheEntry({name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {}))  # noqa: SIM118
        except FileNotFoundError:
            self.misses += 1
            return None
        except RuntimeError:  # torch's, of a file that another process evicted after safetensors had seen it
            if path.exists():
                raise
            self.misses += 1
            return None
        except (SafetensorError, OSError):
            with suppress(OSError):
                path.unlink()
            self.misses += 1
            return None
        with suppress(OSError):
            os.utime(path)  # file systems do not keep the time of access themselves
        self.hits += 1
        return entry

    def put(self, key: str, entry: CacheEntry) -> None:
        """Keep an entry. Where the disk is full or not writable, this warns once, and nothing is kept."""
        try:
            self.write(key, entry)
        except LexividError as error:
            if not self._said_full:
                self._said_full = True
                warnings.warn(f"{error}: clips are decoded anew each time", RuntimeWarning, stacklevel=2)

    def write(self, key: str, entry: CacheEntry) -> None:
        """Keep an entry.

        Raises:
            LexividError: the disk is full or not writable.
        """
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
            os.close(handle)
            try:
                contiguous = {name: tensor.contiguous() for name, tensor in entry.tensors.items()}
                save_file(contiguous, temporary, metadata=entry.facts or None)
                with open(temporary, "rb+") as file:  # noqa: PTH123
                    os.fsync(file.fileno())
                num_bytes = Path(temporary).stat().st_size
                Path(temporary).replace(path)
            except BaseException:
                with suppress(OSError):
                    Path(temporary).unlink()
                raise
        except (OSError, SafetensorError) as error:
            raise LexividError(f"the clip cache {self.folder} cannot be written ({error})") from None
        self._unchecked_bytes += num_bytes
        if self._unchecked_bytes > self.max_bytes // 32:
            self.evict()

    def touch(self, key: str) -> bool:
        """Whether there is such an entry, which becomes the most recently used; it is not read."""
        try:
            os.utime(self.path(key))
        except OSError:
            return False
        return True

    def get_or_make(self, key: str, make: Callable[[], CacheEntry]) -> CacheEntry:
        """The entry, made and kept if it is not there. Processes that miss at once each make it; the last stays."""
        entry = self.get(key)
        if entry is None:
            entry = make()
            self.put(key, entry)
        return entry

    def evict(self) -> int:
        """Remove the least recently used entries until 7/8 of `max_bytes` remain -> bytes that are left."""
        self._unchecked_bytes = 0
        entries: list[tuple[float, int, str]] = []
        now = time.time()
        for root, _, names in os.walk(self.folder):
            for name in names:
                path = Path(root) / name
                with suppress(OSError):  # another process was faster
                    status = path.stat()
                    if name.endswith(_SUFFIX):
                        entries.append((status.st_mtime, status.st_size, str(path)))
                    elif name.endswith(".tmp") and now - status.st_mtime > _LEFTOVER_S:
                        path.unlink()
        total = sum(size for _, size, _ in entries)
        if total <= self.max_bytes:
            return total
        for _, size, name in sorted(entries):
            if total <= self.max_bytes * 7 // 8:
                break
            with suppress(OSError):
                Path(name).unlink()
            total -= size
        return total

    def path(self, key: str) -> Path:
        """Where the entry of this key is, or would be."""
        return self.folder / key[:2] / (key + _SUFFIX)


def key_of(content: str, parameters: Mapping[str, Any]) -> str:
    """The key of what `parameters` (JSON types) make of a file with this `content_id`."""
    text = json.dumps([_FORMAT, content, parameters], sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def content_id(path: str | os.PathLike[str], *, with_time: bool = True) -> str:
    """Identifies a file by its size, the time of its last change, and blocks from its start, middle and end.

    Args:
        with_time: false: without the time, so that a copy is the same.

    Raises:
        MediaError: the file is missing or cannot be read.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            facts = f"{status.st_size} {status.st_mtime_ns}" if with_time else f"{status.st_size}"
            digest = hashlib.blake2b(facts.encode(), digest_size=20)
            room = max(status.st_size - _BLOCK_BYTES, 0)
            for offset in sorted({0, room // 2, room}):
                file.seek(offset)
                digest.update(file.read(_BLOCK_BYTES))
    except FileNotFoundError:
        raise MediaError(f"{os.fspath(path)!r} does not exist; check the path") from None
    except OSError as error:
        raise MediaError(f"{os.fspath(path)!r} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()
