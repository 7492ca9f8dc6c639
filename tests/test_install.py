"""What an installation rests on: versions that agree, errors that name extras which exist, shell completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
REQUIREMENTS = [Requirement(line) for line in metadata("lexivid").get_all("Requires-Dist") or []]
EXTRAS = set(metadata("lexivid").get_all("Provides-Extra") or [])


def test_tested_versions_are_allowed_and_complete() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    tested = dict(line.split("==") for line in lines)
    needed = {r.name.lower(): r for r in REQUIREMENTS if r.marker is None or "dev" not in str(r.marker)}
    assert set(needed) == set(tested)
    for name, requirement in needed.items():
        assert requirement.specifier.contains(tested[name]), requirement


def test_what_reads_the_insides_of_transformers_has_an_upper_bound() -> None:
    (transformers,) = (r for r in REQUIREMENTS if r.name == "transformers")
    assert not transformers.specifier.contains("6.0.0")


def test_messages_and_pages_name_extras_that_exist() -> None:
    files = [*(ROOT / "src").rglob("*.py"), ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        extra.strip()
        for path in files
        for group in re.findall(r"(?:lexivid|\.)\[([a-z, ]+)\]", path.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert {"lite", "train"} <= named <= EXTRAS


@pytest.mark.parametrize(
    ("words", "index", "answer"), [("lexivid cl", 1, "classify"), ("lexivid train --da", 2, "--data")]
)
def test_the_shell_completes_verbs_and_options(words: str, index: int, answer: str) -> None:
    environment = os.environ | {
        "_LEXIVID_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(index),
    }  # fmt: skip
    code = "import sys; sys.argv = ['lexivid']; from lexivid.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert answer in done.stdout.split()
