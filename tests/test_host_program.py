"""What the library leaves of the program around it as it was, and help texts that lose nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.text import Text

import lexivid
from lexivid.cli import app
from lexivid.training.features import FeatureStore


@pytest.mark.parametrize("verbosity", [logging.INFO, logging.CRITICAL])
def test_loading_puts_back_what_it_mutes_and_draws(clip_folder: Path, verbosity: int) -> None:
    from transformers.utils import logging as transformers_logging

    hub, before = logging.getLogger("huggingface_hub"), transformers_logging.get_verbosity()
    level = hub.level
    try:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
        hub.setLevel(verbosity)
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        threads = torch.get_num_threads()
        lexivid.load(str(clip_folder), device="cpu")
        assert torch.equal(torch.rand(3), expected)
        assert torch.get_num_threads() == threads
        assert transformers_logging.get_verbosity() == verbosity
        assert transformers_logging.is_progress_bar_enabled()
        assert hub.level == verbosity
    finally:
        transformers_logging.set_verbosity(before)
        hub.setLevel(level)


def _commands(group: Any, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, command in group.commands.items():
        found += _commands(command, (*words, name)) if hasattr(command, "commands") else [((*words, name), command)]
    return found


def test_no_help_text_is_taken_for_markup() -> None:
    commands = _commands(typer.main.get_command(app))
    assert len(commands) > 8
    for words, command in commands:
        for text in [command.help, *(getattr(option, "help", None) for option in command.params)]:
            shown = Text.from_markup(text or "")
            assert not shown.spans, words
            assert shown.plain == (text or "").replace("\\[", "["), words


def test_the_feature_store_lets_the_oldest_go_and_keeps_what_a_run_holds(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, max_bytes=200_000)
    keys = [f"{i:02d}" for i in range(60)]
    for key in keys:
        store.write(key, torch.zeros(16, 128))  # 8 KiB
    kept = [key for key in keys if store.read(key) is not None]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 200_000 * 33 / 32 + 9000
    assert kept == keys[-len(kept) :]
    assert store.hold([keys[0], kept[0]], num_bytes=len(keys) * 9000) == [False, True]
    for key in keys:
        store.write(f"x{key}", torch.zeros(16, 128))
    assert all(store.read(f"x{key}") is not None for key in keys)
