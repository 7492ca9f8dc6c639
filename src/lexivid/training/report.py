"""report.html of a run: its curves, what came out, what the folder holds, and which number to report.

log.jsonl, train.json, recipe.yaml of a run folder -> one page (report.html.jinja), with the curves as SVG pictures
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from lexivid.base.html import render_page
from lexivid.base.storage import write_atomically
from lexivid.models.serialization import read_config
from lexivid.training.log import has_tensorboard, held_out, read_log
from lexivid.training.recipe import load_recipe
from lexivid.training.result import SUMMARY_FILE

REPORT_FILE = "report.html"
_WIDTH, _HEIGHT = 380, 220
_MOST_POINTS = 300
_SHOWN_LABELS = 3
_EARLIER = {"data_warnings": [], "failures": {}, "exported": "last"}  # what train.json of an earlier Lexivid lacks
_KEPT = {
    "model.safetensors": "what was trained",
    "label_encoder.safetensors": "the label encoder that was trained",
    "config.json": "the model's settings and calibration: it makes the folder a model",
    "backbone": "the backbone (--self-contained)",
    "split.json": "base and novel classes",
    "clips.jsonl": "which clips were trained on and held out",
    "recipe.yaml": "everything that was asked",
    "train.json": "what came out",
    "log.jsonl": "every step: loss, learning rate, gradient, speed; held-out clips after each epoch",
    REPORT_FILE: "this page",
}
_SPARE = {
    "tensorboard": "the log once more, for TensorBoard",
    "checkpoints": "for --resume of a run that has not ended",
    "twins": "leave-classes-out models; `lexivid evaluate` trains them again where it needs them",
}


class Curve(NamedTuple):
    """name: in the legend; empty: not in it. style: a class of the template. points: (x, y), in order of x."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def write_run_report(out: Path) -> Path:
    """Write report.html into the folder of a run that has ended.

    Raises:
        LexividError: the recipe cannot be read, or the folder not be written.
    """
    recipe = load_recipe(out / "recipe.yaml")
    summary = _EARLIER | json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8"))
    rows = read_log(out)
    page = render_page(
        "training/report.html.jinja",
        name=summary["recipe"],
        about=recipe.about,
        summary=summary,
        headline=held_out(summary["held_out"]) if summary["held_out"] else None,
        is_softmax=recipe.objective.kind == "softmax",
        charts=charts(rows),
        epochs=epochs_of(rows),
        kept=_entries(out, _KEPT),
        spare=_entries(out, _SPARE),
        warnings=[*summary["data_warnings"], *(f"{k} could not be fitted: {v}" for k, v in _unfitted(summary).items())],
        failures=list(summary["failures"].items())[:20],
        run=shlex.quote(str(out)),
        data=shlex.quote(_data_of(out)),
        labels=_labels_of(out),
        tensorboard=(out / "tensorboard").is_dir() and has_tensorboard(),
    )
    write_atomically(out / REPORT_FILE, page)
    return out / REPORT_FILE


def _unfitted(summary: Mapping[str, Any]) -> Mapping[str, str]:
    return dict(summary.get("not_fitted", {}))


def _data_of(out: Path) -> str:
    try:
        with (out / "clips.jsonl").open(encoding="utf-8") as stream:
            return str(json.loads(next(stream))["data"]) or "DIR"
    except (OSError, ValueError, KeyError, StopIteration):
        return "DIR"


def _labels_of(out: Path) -> str:
    """Some of the base classes as `--labels` takes them."""
    names = read_config(out)["base_classes"][:_SHOWN_LABELS]
    return shlex.quote(", ".join(f'"{name}"' if "," in name else name for name in names))


def _entries(out: Path, names: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, size, what it is) of those that are there; the page itself has no size yet."""
    entries = []
    for name, words in names.items():
        path = out / name
        if name == REPORT_FILE:
            entries.append((name, "", words))
        elif path.exists():
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            entries.append((name, size_text(sum(file.stat().st_size for file in files)), words))
    return entries


def size_text(num_bytes: int) -> str:
    """36 MB, 4 kB."""
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e6 else f"{max(1, round(num_bytes / 1e3))} kB"


def epochs_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row an epoch: its number, last step, mean training loss, and what the held-out clips said after it.

    (A log of an earlier Lexivid has no epochs: there a look at the held-out clips ends one.)
    """
    parts: list[list[Mapping[str, Any]]] = []
    for row in rows:
        before = parts[-1][-1] if parts else None
        same = before is not None and before.get("epoch") == row.get("epoch")
        if same and not ("epoch" not in row and before is not None and "held_out.loss" in before):
            parts[-1].append(row)
        else:
            parts.append([row])
    table = []
    for number, part in enumerate(parts, 1):
        losses = [row["loss"] for row in part if row.get("loss") is not None]
        last = part[-1]
        table.append(
            {
                "epoch": last.get("epoch", number),
                "step": last["step"],
                "loss": sum(losses) / len(losses) if losses else None,
                "held_out_loss": last.get("held_out.loss"),
                "score": last.get("held_out.accuracy", last.get("held_out.mean_average_precision")),
            }
        )
    return table


def charts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pictures: title, svg, and the curves that the legend names."""
    epochs = epochs_of(rows)
    steps = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
    several = len(steps) > len(epochs)  # steps in an epoch
    loss = [
        Curve("each step", "raw", thinned(steps) if several else ()),
        Curve(
            "training clips, mean of an epoch",
            "mean",
            [(e["step"], e["loss"]) for e in epochs if e["loss"] is not None],
        ),
        Curve(
            "held-out clips",
            "held",
            [(e["step"], e["held_out_loss"]) for e in epochs if e["held_out_loss"] is not None],
        ),
    ]
    score = [(e["step"], 100 * e["score"]) for e in epochs if e["score"] is not None]
    is_mean = any("held_out.mean_average_precision" in row for row in rows)
    what = "mean average precision" if is_mean else "accuracy"
    lr = [(row["step"], row["lr"]) for row in rows if row.get("lr") is not None]
    made = [
        ("Loss", loss, ()),
        (f"Held-out {what}, %", [Curve("", "held", score)], (0, 100)),
        ("Learning rate", [Curve("", "raw strong", thinned(lr))], (0,)),
    ]
    return [
        {"title": title, "svg": chart(curves, title, within), "legend": [c for c in curves if c.name and c.points]}
        for title, curves, within in made
        if any(curve.points for curve in curves)
    ]


def thinned(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points: the means of as many stretches."""
    size = -(-len(points) // most) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def chart(curves: Sequence[Curve], title: str, within: Sequence[float] = ()) -> str:
    """An `<svg>` of curves over the steps; the colours are those of the page.

    within: values that the axis shows in any case.
    """
    points = [point for curve in curves for point in curve.points if math.isfinite(point[1])]
    xs, ys = [x for x, _ in points], [*within, *(y for _, y in points)]
    y_ticks = _ticks(min(ys), max(ys), 5)
    low, high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    first, last = min(xs), max(xs)
    x_ticks = [x for x in _ticks(first, last, 6) if first <= x <= last and x == int(x)] or [first]
    left, right, top, bottom = 20 + 7 * max(len(_short(y)) for y in y_ticks), _WIDTH - 14, 10, _HEIGHT - 38

    def across(x: float) -> float:
        return left + ((x - first) / (last - first) if last > first else 0.5) * (right - left)

    def down(y: float) -> float:
        return bottom - ((y - low) / (high - low) if high > low else 0.5) * (bottom - top)

    parts = [f'<path class="grid" d="{"".join(f"M{left} {down(y):.1f}H{right}" for y in y_ticks)}"/>']
    parts += [f'<text x="{left - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>' for y in y_ticks]
    parts += [f'<text x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle">{_short(x)}</text>' for x in x_ticks]
    parts.append(f'<text x="{(left + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">step</text>')
    parts += [_line(curve, across, down) for curve in curves if curve.points]
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
    return f"{head}{''.join(parts)}</svg>"


def _line(curve: Curve, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    corners = [(across(x), down(y)) for x, y in curve.points if math.isfinite(y)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in corners) if len(corners) <= 30 else ""
    return f'<g class="{curve.style}"><path d="{path}"/>{dots}</g>'


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within low and high: steps of 1, 2 or 5 times a power of ten; one number where both are equal."""
    if high <= low:
        return [low]
    power = math.floor(math.log10((high - low) / most))
    step = next(s * 10.0**p for p in (power, power + 1) for s in (1, 2, 5) if (high - low) / (s * 10.0**p) <= most)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)] or [
        low
    ]


def _short(value: float) -> str:
    return f"{value:.4g}".replace("e-0", "e-")
