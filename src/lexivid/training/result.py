"""What came of a run: train.json, and the lines that say it to people."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lexivid import __version__
from lexivid.base.storage import write_atomically
from lexivid.training.clips import TrainingClips
from lexivid.training.log import held_out
from lexivid.training.loop import FitResult
from lexivid.training.recipe import Recipe

SUMMARY_FILE = "train.json"


class TrainingResult(NamedTuple):
    """The run folder, held-out metrics after the last step, and path -> reason of clips that could not be read.

    `had_ended`: the run was complete before this call, which did nothing. `num_bytes_freed`: of checkpoints, which a
    finished run does not need.
    """

    out: Path
    metrics: dict[str, float]
    failures: dict[str, str]
    summary: dict[str, Any]
    is_main_process: bool = True
    had_ended: bool = False
    num_bytes_freed: int = 0

    def describe(self) -> str:
        """A line for people."""
        s = self.summary
        words = [f"{self.out}: {s['clips']} clips of {s['base_classes']} base classes, {s['steps']} steps"]
        if self.metrics:
            words.append(f"held-out {held_out(self.metrics)} ({s['clips_held_out']} clips)")
        if self.had_ended:
            words.append("had ended before: nothing was done")
        return ", ".join(words)

    def warnings(self) -> list[str]:
        """What is doubtful about the data, and what did not come out as the recipe asks, for people."""
        s = self.summary
        texts = list(s.get("data_warnings", ()))
        texts += [f"{what} could not be fitted: {why}" for what, why in s.get("not_fitted", {}).items()]
        if s["exported"] != s.get("export_asked", s["exported"]):
            texts.append(
                f"training.export is {s['export_asked']!r}, but there are no such weights (no clips were held out, or "
                f"no epoch was trained): the folder holds the {s['exported']} ones"
            )
        return texts


def make_summary(recipe: Recipe, result: FitResult, data: TrainingClips, seconds: float, world: int) -> dict[str, Any]:
    """What train.json holds when training has ended; calibration adds to it."""
    state = result.state
    return {
        "recipe": recipe.name,
        "steps": state.step,
        "held_out": state.metrics,
        "best_held_out": state.best,
        "export_asked": recipe.training.export,
        "exported": result.exported,
        "base_classes": len(data.base_classes),
        "synthetic_classes": len(data.synthetic_classes),
        "clips": len(data.train),
        "clips_held_out": len(data.held_out) if data.held_out is not None else 0,
        "clips_failed": len(state.failures),
        "failures": state.failures,
        "data_warnings": list(data.files.warnings) if data.files is not None else [],
        "seconds_of_last_call": round(seconds, 1),
        "processes": world,
        "lexivid": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    """Write train.json, whole or not at all.

    Raises:
        LexividError: the folder cannot be written.
    """
    write_atomically(out / SUMMARY_FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
