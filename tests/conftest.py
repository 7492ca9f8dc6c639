"""What all tests share. Nothing here reaches a network, and nothing is written to the user's own caches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that lasts for the session (it also holds what `lite` derives once)."""
    folder = tmp_path_factory.getbasetemp() / "lexivid-cache"
    monkeypatch.setenv("LEXIVID_CACHE", str(folder))
    return folder


@pytest.fixture
def media() -> Path:
    """The folder of real clips; tests that need it are skipped where LEXIVID_MEDIA does not name it."""
    folder = os.environ.get("LEXIVID_MEDIA")
    if not folder:
        pytest.skip("LEXIVID_MEDIA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP checkpoint in the Hub's format."""
    from checkpoints import make_clip

    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SigLIP checkpoint in the Hub's format."""
    from checkpoints import make_siglip

    return make_siglip(tmp_path_factory.mktemp("siglip"))
