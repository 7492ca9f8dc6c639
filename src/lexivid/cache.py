"""Where this program keeps what it can compute again: LEXIVID_CACHE, or the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """The folder (it may not exist yet)."""
    return Path(os.environ.get("LEXIVID_CACHE") or platformdirs.user_cache_dir("lexivid"))
