"""The command line, called in this process."""

from __future__ import annotations

import sys

import pytest

from lexivid import cli


def call_cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    """`lexivid WORDS` -> its status, and what it wrote to standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["lexivid", *map(str, words)])
    capsys.readouterr()
    status = 0
    try:
        cli.main()
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err
