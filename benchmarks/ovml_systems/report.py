"""benchmarks/ovml_systems/result.json -> a table for docs/ovml.md on standard output, and plot.svg.

python -m benchmarks.ovml_systems.report
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from lexivid.base.storage import write_atomically

RESULTS = Path(__file__).with_name("result.json")
TITLES = {"noun": "invented nouns", "words": "the same in plain words", "motion": "motions", "sound": "sounds"}
KINDS = tuple(TITLES)
SHOWN = {
    "zero-shot": "CLIP as it is",
    "answers": "the language model's words",
    "fine-tuned": "CLIP fine-tuned",
    "coop": "CoOp",
    "no-soft-attributes": "OVML without soft attributes",
    "labels": "soft attributes alone",
    "scrambled labels": "the same, scrambled",
    "ovml": "OVML",
    "mov-ovml": "MOV x OVML",
    "mov-ovml-20": "MOV x OVML, 20 epochs",
}
COLOURS = {"seen": "#4c72b0", "unseen": "#dd8452"}


def table(summary: dict[str, Any]) -> str:
    """Systems in rows, mAP in per cent: of all labels with intervals, and by kind."""
    kinds = ", ".join(KINDS)
    head = ("system", "seen", "unseen", f"seen: {kinds}", f"unseen: {kinds}", "best micro F1")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in summary.values():
        by_kind = [" / ".join(f"{row[f'{kind} {side}'][0]:.1f}" for kind in KINDS) for side in ("seen", "unseen")]
        cells = [row["says"], _cell(row["mAP seen"]), _cell(row["mAP unseen"])]
        lines.append("| " + " | ".join([*cells, *by_kind, _cell(row["best micro F1, all"])]) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    text = f"{values[0]:.1f}"
    return f"{text} [{values[1]:.1f}, {values[2]:.1f}]" if len(values) == 3 else text


def figure(summary: dict[str, Any]) -> bytes:
    """Average precision by kind of label, seen and unseen, with intervals over seeds."""
    shown = [name for name in SHOWN if name in summary]
    mpl.rcParams |= {"font.size": 9, "svg.hashsalt": "ovml", "svg.fonttype": "none"}
    figure, axes = plt.subplots(1, len(KINDS), figsize=(11, 4.1), sharey=True, layout="constrained")
    for axis, kind in zip(axes, KINDS, strict=True):
        for shift, (side, colour) in enumerate(COLOURS.items()):
            for place, name in enumerate(shown):
                mean, low, high = (summary[name][f"{kind} {side}"] * 3)[:3]
                y = len(shown) - place - 0.35 * shift
                axis.barh(y, mean, height=0.33, color=colour, label=side if place == 0 else None)
                axis.plot([low, high], [y, y], color="black", linewidth=1)
        axis.set_title(TITLES[kind])
        axis.set_xlabel("mAP, per cent")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks([len(shown) - i - 0.17 for i in range(len(shown))], [SHOWN[name] for name in shown])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", frameon=False, ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()


def main() -> None:
    summary = json.loads(RESULTS.read_text(encoding="utf-8"))["summary"]
    write_atomically(RESULTS.with_name("plot.svg"), figure(summary))
    print(table(summary))


if __name__ == "__main__":
    main()
