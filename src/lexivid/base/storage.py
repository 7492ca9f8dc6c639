"""Where this program keeps what it can compute again, and how it writes files: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from lexivid.errors import LexividError


def cache_dir() -> Path:
    """LEXIVID_CACHE, or the user's cache folder (it may not exist yet)."""
    return Path(os.environ.get("LEXIVID_CACHE") or platformdirs.user_cache_dir("lexivid"))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: into a neighbour first, which then takes its place.

    Raises:
        LexividError: the folder is missing or cannot be written.
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LexividError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
