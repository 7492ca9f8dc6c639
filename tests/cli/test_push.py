"""`lexivid push`: what is refused before anything is published (tests/training/test_hub_runs.py publishes)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import call_cli

from lexivid.errors import ModelError
from lexivid.models.hub import licence_to_copy

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return partial(call_cli, monkeypatch, capsys, "push")


def test_a_wrong_call(call: Call, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for words, reason in (
        ((tmp_path / "run", "owner/name"), "is no finished run of `lexivid train`"),
        ((tmp_path / "missing", "owner/name"), "is no finished run of `lexivid train`"),
        ((tmp_path / "run", "./name"), "is no name of the Hub"),
    ):
        status, out, err = call(*words)
        assert (status, out) == (2, "")
        assert reason in " ".join(err.split())


@pytest.mark.parametrize(
    ("backbone", "given", "licence"),
    [
        ("openai/clip-vit-base-patch16", None, "MIT"),
        ("google/siglip-base-patch16-224", None, "Apache-2.0"),
        ("somebody/clip", "my-licence", "my-licence"),
    ],
)
def test_a_backbone_is_copied_under_its_licence(backbone: str, given: str | None, licence: str) -> None:
    model: Any = SimpleNamespace(backbone=SimpleNamespace(name=backbone))
    assert licence_to_copy(model, given) == licence


def test_a_backbone_of_an_unknown_licence_is_not_copied() -> None:
    model: Any = SimpleNamespace(backbone=SimpleNamespace(name="somebody/clip"))
    with pytest.raises(ModelError, match="'somebody/clip' is not known here: give --backbone-licence"):
        licence_to_copy(model)
