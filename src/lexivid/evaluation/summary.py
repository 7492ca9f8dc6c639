"""The result of an evaluation in words and small tables: rows, what they mean, and the number to report."""

from __future__ import annotations

from typing import Any

LEGEND = {
    "base": "clips of base classes (those of training), each among the base classes",
    "novel": "clips of novel classes (not in training), each among the novel classes",
    "all classes": "clips of all classes, each among all classes; the model saw none of them in training",
    "harmonic mean": "of base and novel: the number by which open-vocabulary papers rank",
    "all-novel": "every clip among all classes, all scored by the novel head",
    "all-base": "every clip among all classes, all scored by the base head",
    "calibrated": "among all classes: base classes by the base head, others by the novel head with the offset",
    "uncalibrated": "the same without an offset, as this model has none",
    "offset": "added to novel classes so that they compete with base classes",
    "calibration error": "mean distance from the stated probability to how often it held, on clips left out of the fit",
    "mAP": "mean over labels of the average precision",
    "micro F1": "F1 of all clip-label pairs together, at the threshold; best: at the best threshold of these clips",
    "macro F1": "mean over labels of F1, at the threshold; best: at the best threshold of these clips",
}
"""What the names of rows and columns mean."""


def summary(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The lines of a small table; the first holds the names of the columns. Numbers are percent."""
    results, protocol = result["results"], result["protocol"]
    if protocol == "multi-label":
        return _multi_label_lines(results)
    if protocol == "calibrate":
        return _calibration_lines(results)
    rows = {protocol: results} if protocol == "base-novel" else results
    sides = [side for side in ("base", "novel") if any(side in row for row in rows.values())]
    has_mean = any("harmonic_mean" in row for row in rows.values())
    names = [_side_name(side, result) for side in sides]
    lines: list[tuple[str, ...]] = [
        ("accuracy, % [95 % interval]", *(x for name in names for x in (name, "clips")),
         *(["harmonic mean"] if has_mean else []))
    ]  # fmt: skip
    for rule, row in rows.items():
        if rule == "calibration":
            continue
        cells: list[str] = []
        for side in sides:
            cell = row.get(side) or {}
            cells += [percent(cell.get("accuracy")), str(cell.get("clips", "-"))]
        lines.append((rule, *cells, *([percent(row.get("harmonic_mean"))] if has_mean else [])))
    return lines


def percent(interval: dict[str, Any] | None) -> str:
    """{"value", "low", "high"} -> "51.2 [45.0, 57.3]"."""
    if not interval:
        return "-"
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def legend(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What the rows and columns of `summary` mean, as far as they occur."""
    words = {cell for line in summary(result) for cell in line}
    return [(name, text) for name, text in LEGEND.items() if any(name == w or w == f"best {name}" for w in words)]


def report_this(result: dict[str, Any]) -> str:
    """One sentence: the number to report and how it was measured; "" for a calibration, which is no measurement."""
    results, protocol = result["results"], result["protocol"]
    if protocol == "calibrate":
        return ""
    clips = f"{result['clips_asked'] - result['clips_failed']} clips ({result['clips']})"
    how = f"protocol {protocol}, {clips}, split: {result['split']['source']}"
    if result["split"].get("seed") is not None:
        how += f", seed {result['split']['seed']}"
    if protocol == "multi-label":
        row = results.get("unseen") or results["all"]
        kind = "unseen labels" if results.get("unseen") else "all labels"
        return f"mAP {100 * row['mean_average_precision']:.1f} % of {kind} ({how})"
    row = results
    if protocol == "generalized":
        row = results.get("calibrated") or results["all-novel"]
    if "harmonic_mean" in row:
        name, interval = "harmonic mean of base and novel accuracy", row["harmonic_mean"]
    else:
        side = "novel" if "novel" in row else "base"
        name, interval = f"accuracy, {_side_name(side, result)}", row[side]["accuracy"]
    units = interval.get("num_units")
    bootstrap = f"bootstrap over {units} recordings" if units else "bootstrap over recordings"
    return f"{name} {percent(interval)} %, 95 % interval by {bootstrap} ({how})"


def results_in_markdown(result: dict[str, Any]) -> str:
    """The table of a result and the number to report, for a model card; without places of this machine."""
    lines = summary(result)
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(
        ["## Results", "", rows[0], "|---" * len(lines[0]) + "|", *rows[1:], "", report_this(result) + "."]
    )


def _side_name(side: str, result: dict[str, Any]) -> str:
    """A model that was trained on no class has no base classes."""
    return "all classes" if side == "base" and not result["split"]["novel"] and not result["trained"] else side


def _calibration_lines(results: dict[str, Any]) -> list[tuple[str, ...]]:
    if "offset" not in results:
        return [("head", "calibration error"), *((head, f"{100 * e['error']:.2f} %") for head, e in results.items())]
    lines: list[tuple[str, ...]] = [("offset", f"{results['offset']:.3f}", f"({results['method']})")]
    if results["harmonic_mean"] is not None:
        cells = (f"{100 * results[key]:.1f}" for key in ("base", "novel", "harmonic_mean"))
        lines += [
            ("per cent", "base", "novel", "harmonic mean"),
            ("leave-classes-out models", *cells),
            ("the same at offset 0", "", "", f"{100 * results['before']:.1f}"),
        ]
    return lines


def _multi_label_lines(results: dict[str, Any]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [
        ("per cent", "labels", "mAP", "micro F1", "macro F1", "best micro F1", "best macro F1", "calibration error")
    ]
    for part in ("all", "seen", "unseen"):
        if (row := results.get(part)) is None:
            continue
        best = [(row.get(f"best_f1_{average}") or {}).get("value") for average in ("micro", "macro")]
        values = [row["mean_average_precision"], row["f1_micro"], row["f1_macro"], *best]
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
        lines.append((part, str(row["labels"]), *cells, f"{100 * row['calibration_error']['value']:.2f}"))
    return lines
