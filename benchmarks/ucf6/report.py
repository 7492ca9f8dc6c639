"""Rows of benchmarks/ucf6 -> result.json, plot.svg."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tools import real_media as media
from lexivid.base.storage import write_atomically
from lexivid.metrics import single_label

SYSTEMS = ("zero-shot", "video", "flow", "score fusion", "MOV", "MOV, pictures")
RULES = ("all-novel", "all-base", "offset 0", "held-out", "twins", "twins, wide")
Rows = Mapping[tuple[int, int, int], dict[str, Any]]


def pooled(rows: Rows, system: str, key: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Hits of all runs, and their factors: the group (recordings) and the run (seed, split, choice of classes)."""
    side = key.split()[0]
    hits = np.concatenate([row["systems"][system][key] for row in rows.values()])
    groups = np.concatenate([row["clips"][f"{side} groups"] for row in rows.values()])
    run = np.concatenate([np.full(len(r["systems"][system][key]), i) for i, r in enumerate(rows.values())])
    return hits, [groups, run]


def summarise(rows: Rows) -> dict[str, Any]:
    """Accuracies with intervals over groups crossed with runs; harmonic means of the pooled clips."""
    result: dict[str, Any] = {}
    for system in SYSTEMS:
        row: dict[str, Any] = {}
        for names in (3, 101):
            sides = {side: pooled(rows, system, f"{side} {names}") for side in ("base", "novel")}
            for side, (hits, factors) in sides.items():
                row[f"{side} {names}"] = single_label.bootstrap_mean(hits, *factors).to_dict()
            hits = np.concatenate([sides[side][0] for side in sides])
            is_base = np.arange(len(hits)) < len(sides["base"][0])
            factors = [np.concatenate([sides[side][1][i] for side in sides]) for i in range(2)]
            row[f"harmonic mean {names}"] = single_label.bootstrap_harmonic_mean(hits, is_base, *factors).to_dict()
        if system not in ("zero-shot",):
            for names in (3, 101):
                hits = np.concatenate([r["systems"][system][f"novel by base path {names}"] for r in rows.values()])
                row[f"novel by base path {names}"] = round(float(hits.mean()), 4)
        row["base 101 by class"] = _by_class(rows, system, "base 101")
        row["novel 101 by class"] = _by_class(rows, system, "novel 101")
        result[system] = row
    return result


def _by_class(rows: Rows, system: str, key: str) -> dict[str, float]:
    hits, (groups, _) = pooled(rows, system, key)
    classes = np.array([group.split("_")[1] for group in groups])
    return {str(name): round(float(hits[classes == name].mean()), 4) for name in np.unique(classes)}


def differences(rows: Rows) -> dict[str, Any]:
    """Paired, over groups crossed with runs."""
    result = {}
    for first, second in (
        ("MOV", "video"), ("MOV", "MOV, pictures"), ("MOV, pictures", "video"), ("MOV", "score fusion"),
        ("MOV", "zero-shot"),
    ):  # fmt: skip
        for key in ("base 101", "base 3", "novel 101", "novel 3"):
            (a, factors), (b, _) = pooled(rows, first, key), pooled(rows, second, key)
            result[f"{first} - {second}, {key}"] = single_label.bootstrap_difference(a, b, *factors).to_dict()
    return result


def generalized(rows: Rows) -> dict[str, Any]:
    """All six classes at once among 6 and 101 names."""
    there = [rule for rule in RULES if all(rule in r["generalized"]["6"] for r in rows.values())]
    result: dict[str, Any] = {"runs": len(rows)}
    for names in ("6", "101"):
        offsets = [r["generalized"][f"offsets among {names}"] for r in rows.values()]
        result[f"offsets, {names} names"] = {rule: [round(x[rule], 3) for x in offsets] for rule in there[3:]}
    is_base = np.concatenate([r["generalized"]["is_base"] for r in rows.values()])
    groups = np.concatenate([r["generalized"]["groups"] for r in rows.values()])
    run = np.concatenate([np.full(len(r["generalized"]["groups"]), i) for i, r in enumerate(rows.values())])
    for names in ("6", "101"):
        for rule in there:
            hits = np.concatenate([r["generalized"][names][rule] for r in rows.values()])
            result[f"{rule}, {names} names"] = {
                "base": round(float(hits[is_base].mean()), 4),
                "novel": round(float(hits[~is_base].mean()), 4),
                "harmonic_mean": single_label.bootstrap_harmonic_mean(hits, is_base, groups, run).to_dict(),
            }
    return result


def report(rows: Rows, about: Mapping[str, Any]) -> None:
    """Write the files."""
    summary = summarise(rows)
    grid = {
        key: round(float(np.mean([r["grid"][key] for r in rows.values()])), 4)
        for key in next(iter(rows.values()))["grid"]
    }
    twins = {k: r for k, r in rows.items() if "twins" in r["generalized"]["6"]}
    general = generalized(twins or rows)
    result = {
        **about,
        "seeds": sorted({seed for seed, _, _ in rows}),
        "runs": len(rows),
        "results": summary,
        "differences": differences(rows),
        "generalized (MOV)": generalized(rows),
        "generalized (MOV), other runs": generalized({k: r for k, r in rows.items() if k[:2] != (0, 2)}),
        "generalized (MOV), runs with twins": general,
        "novel among 101 by 'beta tau_v' (tau_f: the backbone's 0.07; nothing was chosen by it)": grid,
        "seconds of each row": {" ".join(map(str, key)): row["seconds"] for key, row in rows.items()},
        **media.provenance(),
    }  # fmt: skip
    write_atomically(Path(__file__).with_name("result.json"), json.dumps(result, indent=1) + "\n")
    plot(summary, general, len(rows))
    for system, row in summary.items():
        print(system, {k: round(100 * x["value"], 1) for k, x in row.items() if isinstance(x, dict) and "value" in x})
    for key, x in result["differences"].items():
        print(key, *(round(100 * x[k], 1) for k in ("value", "low", "high")))
    for runs in (result["generalized (MOV)"], general):
        for key, x in runs.items():
            cells = isinstance(x, dict) and "base" in x
            print(key, (x["base"], x["novel"], *x["harmonic_mean"].values()) if cells else x)


def plot(summary: Mapping[str, Any], general: Mapping[str, Any], num_runs: int) -> None:
    """Left: base and novel among 101 names. Right: generalised."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lexivid"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), gridspec_kw={"width_ratios": [3, 2]})
    sides = (("base 101", "#1b6ca8"), ("novel 101", "#d1495b"), ("harmonic mean 101", "#66a182"))
    for place, (key, colour) in enumerate(sides):
        cells = [summary[system][key] for system in SYSTEMS]
        _bars(left, np.arange(len(SYSTEMS)) + (place - 1) * 0.27, cells, colour, key.removesuffix(" 101"))
    left.set_xticks(np.arange(len(SYSTEMS)), [s.replace(" ", "\n", 1) for s in SYSTEMS], fontsize=8)
    left.set_ylabel("accuracy among 101 names, %")
    left.set_title(f"UCF101, 3 base and 3 novel classes, {num_runs} runs", fontsize=10)
    left.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
    left.set_ylim(0, 109)
    rules = [rule for rule in RULES if f"{rule}, 6 names" in general]
    for place, (names, colour) in enumerate((("6", "#edae49"), ("101", "#66a182"))):
        cells = [general[f"{rule}, {names} names"]["harmonic_mean"] for rule in rules]
        _bars(right, np.arange(len(rules)) + (place - 0.5) * 0.4, cells, colour, f"{names} names", width=0.38)
    right.set_xticks(np.arange(len(rules)), [rule.replace(", ", ",\n") for rule in rules], fontsize=8)
    right.set_ylabel("harmonic mean, %")
    right.set_title(f"generalised: nobody says whether base or novel, {general['runs']} runs", fontsize=10)
    right.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    right.set_ylim(0, 109)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("plot.svg"), metadata={"Date": None})


def _bars(axis: Any, x: np.ndarray, cells: Any, colour: str, label: str, *, width: float = 0.26) -> None:
    values = np.array([100 * c["value"] for c in cells])
    error = np.array([[100 * (c["value"] - c["low"]), 100 * (c["high"] - c["value"])] for c in cells]).T
    axis.bar(x, values, width, yerr=error.clip(0), capsize=2, color=colour, label=label, error_kw={"lw": 0.8})
