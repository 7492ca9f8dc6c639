"""Benchmarks: one folder a question, run from the root as `python -m benchmarks.QUESTION.measure` (see README.md)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))  # scenes, files and checkpoints
