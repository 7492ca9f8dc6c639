"""Several models on the same clips: one table, with paired differences to the first model.

    models --evaluate, one by one--> hits of the clips that all of them could use --> accuracies, paired differences

What makes a clip hard is the same for all models, so the interval of a difference is far narrower than those of the two
accuracies: it is a bootstrap over recordings of the paired differences. Decoded clips are kept in the clip cache, so
models that sample alike decode once.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.evaluation.evaluate import evaluate
from lexivid.evaluation.summary import percent
from lexivid.metrics import single_label

COMPARISON_FORMATS = ("table", "csv", "markdown", "latex", "json")
_SIDES = ("base", "novel")


def compare(
    models: Sequence[str | Path],
    data: str | Path,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure models on the same clips by protocol "base-novel".

    Args:
        models: two or more, as `evaluate` takes them; the first is what the others are compared with.
        data, options: as of `evaluate` (split, part, views, ...). Without a split, that of the first run among the
            models holds for all.
        on_progress: called with (model, clips done, clips in all).

    Returns:
        "models": a row for each: model, and for base, novel and harmonic_mean an interval, with "difference" to the
        first. "clips": those that all models could use. "results": of each model, as `evaluate` gives it.

    Raises:
        LexividError: fewer than two models, the same twice, no clip that all could use, or as `evaluate`.
    """
    names = [str(model) for model in models]
    if len(names) < 2:
        raise LexividError(f"name two or more models to compare; got {len(names)}")
    if len(set(names)) < len(names):
        raise LexividError("the same model stands twice in the comparison")
    results: dict[str, dict[str, Any]] = {}
    runs_first = sorted(names, key=lambda name: not Path(name).is_dir())  # a run has a split
    for name in runs_first if options.get("split") is None else names:
        watch = None if on_progress is None else partial(on_progress, name)
        results[name] = evaluate(name, data, protocol="base-novel", on_progress=watch, **options)
        if options.get("split") is None and results[name]["trained"]:
            split = results[name]["split"]
            options["split"] = ClassSplit(tuple(split["base"]), tuple(split["novel"]), split["seed"], split["source"])
    rows = {name: {row["path"]: row for row in results[name]["predictions"]} for name in names}
    shared = [path for path in rows[names[0]] if all(path in rows[name] for name in names)]
    if not shared:
        raise LexividError("no clip is one that all of these models could use")
    groups = [rows[names[0]][path]["recording"] for path in shared]
    is_base = np.array([rows[names[0]][path]["side"] == "base" for path in shared])
    right = {name: np.array([float(rows[name][path]["right"]) for path in shared]) for name in names}
    table = [
        {"model": name} | _row(right[name], None if name == names[0] else right[names[0]], is_base, groups)
        for name in names
    ]
    return {
        "protocol": "base-novel", "data": str(data), "compared_with": names[0], "clips": len(shared),
        "recordings": len(set(groups)), "split": results[names[0]]["split"], "models": table,
        "results": {name: {k: v for k, v in results[name].items() if k != "predictions"} for name in names},
    }  # fmt: skip


def _row(right: np.ndarray, first: np.ndarray | None, is_base: np.ndarray, groups: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    units = np.array(groups)
    for side, of_side in zip(_SIDES, (is_base, ~is_base), strict=True):
        if of_side.any():
            row[side] = single_label.bootstrap_mean(right[of_side], units[of_side]).to_dict()
            if first is not None:
                paired = single_label.bootstrap_difference(right[of_side], first[of_side], units[of_side])
                row[side]["difference"] = paired.to_dict()
    if is_base.any() and not is_base.all():
        row["harmonic_mean"] = single_label.bootstrap_harmonic_mean(right, is_base, units).to_dict()
        if first is not None:
            row["harmonic_mean"]["difference"] = harmonic_difference(right, first, is_base, units).to_dict()
    return row


def harmonic_difference(
    right: np.ndarray, first: np.ndarray, is_base: np.ndarray, units: np.ndarray
) -> single_label.Interval:
    """Difference of two harmonic means over the same clips, with its paired bootstrap interval: all (n,)."""
    columns = [np.where(of_side, hits, np.nan) for hits in (right, first) for of_side in (is_base, ~is_base)]
    means = single_label.resampled_means(np.stack(columns, axis=1), units)
    drawn = [single_label.harmonic_mean(a, b) - single_label.harmonic_mean(c, d) for a, b, c, d in means]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    base, novel = right[is_base].mean(), right[~is_base].mean()
    value = single_label.harmonic_mean(base, novel)
    value -= single_label.harmonic_mean(first[is_base].mean(), first[~is_base].mean())
    return single_label.Interval(float(value), float(low), float(high), len(np.unique(units)))


def comparison_lines(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table: the first line names the columns."""
    keys = [key for key in (*_SIDES, "harmonic_mean") if key in comparison["models"][0]]
    all_novel = not comparison["split"]["novel"] and not any(r["trained"] for r in comparison["results"].values())
    titles = {"base": "all classes" if all_novel else "base", "novel": "novel", "harmonic_mean": "harmonic mean"}
    versus = f"minus {comparison['compared_with']}"
    lines: list[tuple[str, ...]] = [
        ("accuracy, % [95 % interval]", *(x for key in keys for x in (titles[key], versus)))
    ]
    for row in comparison["models"]:
        cells = [x for key in keys for x in (percent(row[key]), _signed(row[key].get("difference")))]
        lines.append((row["model"], *cells))
    return lines


def _signed(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval['value']:+.1f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]"


def format_comparison(comparison: Mapping[str, Any], fmt: str) -> str:
    """As text: "table" (for people), "csv", "markdown", "latex" (a tabular) or "json".

    Raises:
        LexividError: an unknown format.
    """
    lines = comparison_lines(comparison)
    note = f"{comparison['clips']} clips of {comparison['recordings']} recordings; paired bootstrap over recordings"
    if fmt == "table":
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
        return "\n".join([*("  ".join(cells).rstrip() for cells in padded), "", note]) + "\n"
    if fmt == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        return buffer.getvalue()
    if fmt == "markdown":
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:], "", note]) + "\n"
    if fmt == "latex":
        rows = [" & ".join(map(_latex, line)) + r" \\" for line in lines]
        begin = r"\begin{tabular}{l" + "r" * (len(lines[0]) - 1) + "}"
        parts = [begin, r"\hline", rows[0], r"\hline", *rows[1:], r"\hline", r"\end{tabular}", f"% {note}"]
        return "\n".join(parts) + "\n"
    if fmt == "json":
        return json.dumps(comparison, indent=1, ensure_ascii=False) + "\n"
    raise LexividError(f"unknown format {fmt!r}: choose {', '.join(COMPARISON_FORMATS)}")


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: "\\" + character for character in "&%$#_{}"
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
