"""Rows of benchmarks/esc50 -> result.json, plot.svg."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tools import real_media as media
from lexivid.base.storage import write_atomically
from lexivid.metrics import single_label

METHODS = ("untrained", "frozen", "trained", "frozen-permuted", "trained-permuted")
RULES = ("all-novel", "all-base", "calibrated", "held-out")
CHANCE = {"top1": 1 / 25, "top5": 5 / 25}


def summarise(rows: Mapping[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, with intervals over classes and seeds: the clips of one class are not independent."""
    result: dict[str, Any] = {}
    for method in METHODS:
        seeds = sorted(seed for name, seed in rows if name == method)
        if not seeds:
            continue
        row: dict[str, Any] = {"seeds": seeds}
        for side in ("base", "novel"):
            runs = [rows[method, seed][side] for seed in seeds]
            classes, run = _factors([x["clips"] for x in runs], seeds)
            for name, key in (("top1", "hits"), ("top5", "top5_hits")):
                values = np.concatenate([x[key] for x in runs])
                row[f"{side} {name}"] = single_label.bootstrap_mean(values, classes, run).to_dict()
                row[f"{side} {name} by seed"] = [round(float(np.mean(x[key])), 4) for x in runs]
        if all("generalized" in rows[method, seed] for seed in seeds):
            there = rows[method, seeds[0]]["generalized"]
            row["generalized"] = {rule: _rule(rows, method, seeds, rule) for rule in RULES if rule in there}
            row["calibration"] = [rows[method, seed]["calibration"] for seed in seeds]
            curve = np.mean([rows[method, seed]["generalized"]["curve"] for seed in seeds], axis=0)
            row["curve (offset, base, novel)"] = np.round(curve, 4).tolist()
            best = [
                max(single_label.harmonic_mean(b, n) for _, b, n in rows[method, seed]["generalized"]["curve"])
                for seed in seeds
            ]
            row["best offset of each seed chosen on test clips (not a result)"] = np.round(best, 4).tolist()
        result[method] = row
    return result


def _rule(rows: Mapping[tuple[str, int], dict[str, Any]], method: str, seeds: list[int], rule: str) -> dict[str, Any]:
    runs = [rows[method, seed]["generalized"][rule] for seed in seeds]
    base = [x["base"] for x in runs]
    novel = [x["novel"] for x in runs]
    num_base = 200
    classes, run = _factors([x["clips"] for x in runs], seeds)
    hits = np.concatenate([x["hits"] for x in runs])
    is_base = np.concatenate([np.arange(len(x["hits"])) < num_base for x in runs])
    return {
        "base": round(float(np.mean(base)), 4),
        "novel": round(float(np.mean(novel)), 4),
        "harmonic_mean": single_label.bootstrap_harmonic_mean(hits, is_base, classes, run).to_dict(),
        "harmonic_mean by seed": [round(x["harmonic_mean"], 4) for x in runs],
    }


def _factors(clips: list[list[int]], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of each clip: its class (32 recordings each, in order), and its seed."""
    classes = np.concatenate([np.array(x) // 32 for x in clips])
    return classes, np.concatenate([np.full(len(x), seed) for x, seed in zip(clips, seeds, strict=True)])


def difference(rows: Mapping[tuple[str, int], dict[str, Any]], first: str, second: str) -> dict[str, Any]:
    """Paired, over the seeds that both have."""
    seeds = sorted({s for m, s in rows if m == first} & {s for m, s in rows if m == second})
    found: dict[str, Any] = {"seeds": seeds}
    for side in ("base", "novel") if seeds else ():
        classes, run = _factors([rows[first, s][side]["clips"] for s in seeds], seeds)
        for name, key in (("top1", "hits"), ("top5", "top5_hits")):
            a, b = (np.concatenate([rows[method, s][side][key] for s in seeds]) for method in (first, second))
            found[f"{side} {name}"] = single_label.bootstrap_difference(a, b, classes, run).to_dict()
    return found


def report(rows: Mapping[tuple[str, int], dict[str, Any]], about: Mapping[str, Any]) -> None:
    """Write the files."""
    summary = summarise(rows)
    result = {
        **about,
        "chance": {"base and novel": CHANCE},
        "results": summary,
        "differences": {
            f"{first} - {second}": difference(rows, first, second)
            for first, second in (
                ("trained", "frozen"), ("trained", "untrained"), ("frozen", "frozen-permuted"),
                ("trained", "trained-permuted"),
            )
        },
        "seconds of each row": {f"{m}-{s}": row["seconds"] for (m, s), row in rows.items()},
        **media.provenance(),
    }  # fmt: skip
    write_atomically(Path(__file__).with_name("result.json"), json.dumps(result, indent=1) + "\n")
    plot(summary)
    for method, row in summary.items():
        cells = [f"{k} {100 * row[k]['value']:.1f}" for k in ("base top1", "base top5", "novel top1", "novel top5")]
        print(method, len(row["seeds"]), *cells)
        for rule, x in row.get("generalized", {}).items():
            print("   ", rule, x["base"], x["novel"], x["harmonic_mean"]["value"])


def plot(summary: Mapping[str, Any]) -> None:
    """Left: base and novel. Right: what an offset trades, and where the fitted ones lie."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lexivid"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    methods = [m for m in METHODS if m in summary]
    for place, (key, colour) in enumerate(
        (("base top1", "#1b6ca8"), ("novel top1", "#d1495b"), ("novel top5", "#edae49"))
    ):
        x = np.arange(len(methods)) + (place - 1) * 0.27
        cells = [summary[m][key] for m in methods]
        values = np.array([100 * c["value"] for c in cells])
        error = np.array([[100 * (c["value"] - c["low"]), 100 * (c["high"] - c["value"])] for c in cells]).T
        left.bar(x, values, 0.26, yerr=error, capsize=2, color=colour, label=key, error_kw={"lw": 0.8})
    for name, level in CHANCE.items():
        left.axhline(100 * level, color="grey", lw=0.8, ls=":" if name == "top1" else "--")
        left.text(len(methods) - 0.45, 100 * level, f"chance,\n{name}", fontsize=7, color="grey", va="center")
    ticks = [f"{m}\n{len(summary[m]['seeds'])} seeds".replace("-", ",\n") for m in methods]
    left.set_xticks(np.arange(len(methods)), ticks, fontsize=8)
    left.set_xlim(-0.75, len(methods) - 0.5)
    left.set_ylabel("accuracy among 25 names, %")
    left.set_title("ESC-50, 25 base and 25 novel classes", fontsize=10)
    left.legend(fontsize=8, frameon=False)
    for method, colour in (("frozen", "#66a182"), ("trained", "#1b6ca8")):
        if "generalized" not in summary.get(method, {}):
            continue
        curve = np.array(summary[method]["curve (offset, base, novel)"])
        right.plot(100 * curve[:, 1], 100 * curve[:, 2], color=colour, lw=1, label=f"{method}: any offset")
        for rule, marker in (("all-base", "s"), ("calibrated", "o"), ("held-out", "^")):
            if rule not in summary[method]["generalized"]:
                continue
            cell = summary[method]["generalized"][rule]
            name = {"all-base": "no offset (= all novel)", "held-out": "fitted without twins"}.get(rule, rule)
            mean = 100 * cell["harmonic_mean"]["value"]
            right.plot(
                100 * cell["base"], 100 * cell["novel"], marker, color=colour, ls="",
                label=f"{method}, {name}: HM {mean:.1f}",
            )  # fmt: skip
    right.set_xlabel("base accuracy among all 50 names, %")
    right.set_ylabel("novel accuracy among all 50 names, %")
    right.set_title("generalised: nobody says whether base or novel", fontsize=10)
    right.legend(fontsize=7, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("plot.svg"), metadata={"Date": None})
