"""What a run says while it goes: log.jsonl (one line a step or evaluation), TensorBoard, and a callback.

Afterwards: `read_log` -> one row a step, `log_table` -> CSV.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Where a run is; handed to `on_progress` after every step.

    Attributes:
        phase: "caching features", "training", "evaluating" or "calibrating".
        step, total: of the phase: steps of the optimiser in training, else clips.
        epoch, epochs: counted from 1; in "caching features" the augmented view of each clip, and how many there are.
        loss: of the last step. lr: of the fusion blocks.
        clips_per_s: over the last steps, on all processes. eta_s: seconds left at that rate; None while unknown.
        metrics: of the last evaluation.
    """

    phase: str
    step: int
    total: int
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    lr: float | None = None
    clips_per_s: float | None = None
    eta_s: float | None = None
    metrics: dict[str, float] | None = None

    def describe(self) -> str:
        """A few words for a progress bar."""
        words = [_COUNTED.get(self.phase, self.phase)]
        if self.phase == "caching features" and self.epochs > 1:
            words.append(f"augmented view {self.epoch} of {self.epochs} of each clip")
            if self.eta_s is not None and self.epoch < self.epochs:
                words.append(f"about {self.eta_s / 60:.0f} min for all views")
        elif self.phase == "training":
            words.append(f"epoch {self.epoch}/{self.epochs}" if self.epochs else f"epoch {self.epoch}")
        if self.loss is not None:
            words.append(f"loss {self.loss:.3f}")
        if self.metrics:
            words.append(f"held-out {held_out(self.metrics)}")
        if self.clips_per_s is not None and not self.metrics:  # 80 columns hold no more
            words.append(f"{self.clips_per_s:.1f} clips/s")
        return ", ".join(words)


def held_out(metrics: Mapping[str, float]) -> str:
    """What the held-out clips say, for people: accuracy, or mean average precision."""
    if "accuracy" in metrics:
        return f"{metrics['accuracy']:.1%}"
    return f"mAP {metrics['mean_average_precision']:.1%}"


LOG_FILE = "log.jsonl"
# What a phase counts, for people.
_COUNTED = {
    "caching features": "computing features of clips", "training": "training steps",
    "evaluating": "evaluating held-out clips", "calibrating": "calibrating on held-out clips",
}  # fmt: skip
OnProgress = Callable[[Progress], None]


def has_tensorboard() -> bool:
    """Whether runs are logged for TensorBoard too."""
    return find_spec("tensorboard") is not None


class Rate:
    """Clips per second and time left, from the last 20 steps (the first step, which warms up, apart)."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.marks: list[tuple[float, int, int]] = []  # time, step, clips so far
        self.clips = 0

    def update(self, step: int, clips: int) -> tuple[float | None, float | None]:
        """Steps done and the clips of this one -> (clips per second, seconds left)."""
        self.clips += clips
        self.marks = [*self.marks[-20:], (time.monotonic(), step, self.clips)]
        (start, first, before), (now, last, after) = self.marks[0], self.marks[-1]
        if last == first or now <= start:
            return None, None
        return (after - before) / (now - start), (self.total_steps - step) * (now - start) / (last - first)


class RunLog:
    """log.jsonl and TensorBoard's file of a run. On resume, lines at or beyond the resumed step are dropped.

    Args:
        folder: the run's. start_step: steps done already. active: only the first process writes.
    """

    def __init__(self, folder: Path, *, start_step: int, active: bool) -> None:
        self.stream = self.board = None
        if not active:
            return
        path = folder / LOG_FILE
        lines = path.read_text(encoding="utf-8").splitlines() if start_step and path.exists() else []
        earlier = [line for line in lines if _step_of(line) <= start_step]
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(".log.jsonl.tmp")
        temporary.write_text("".join(line + "\n" for line in earlier), encoding="utf-8")
        temporary.replace(path)
        self.stream = path.open("a", encoding="utf-8")
        if not has_tensorboard():
            return  # it is part of the extra; without it log.jsonl remains
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1 if start_step else None)

    def write(self, step: int, **values: float | int | None) -> None:
        """One line; numbers also go to TensorBoard under their names ("held_out.accuracy" -> held_out/accuracy)."""
        if self.stream is None:
            return
        rounded: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        self.stream.write(json.dumps({"step": step, **rounded}) + "\n")
        self.stream.flush()
        if self.board is not None:
            for name, value in rounded.items():
                self.board.add_scalar(name.replace(".", "/"), value, step)

    def close(self) -> None:
        """Flush both."""
        if self.stream is not None:
            self.stream.close()
        if self.board is not None:
            self.board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of log.jsonl, one a step, with what held-out clips said after it; [] where there is none."""
    rows: dict[float, dict[str, Any]] = {}
    try:
        lines = (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        if (step := _step_of(line)) < float("inf"):
            rows.setdefault(step, {}).update(json.loads(line))
    return [rows[step] for step in sorted(rows)]


def log_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV of `read_log`: a column for each number that any row has."""
    columns = list(dict.fromkeys(["step", "epoch", "loss", *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off by a kill
