"""An evaluation as files to read: a self-contained HTML page, and a CSV row for each clip.

The page has the table with its legend, the number to report, accuracy by class, the confusion matrix and the pairs of
classes that are confused most, and how it was measured. Names from files are escaped; no script runs.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lexivid.base.html import render_page
from lexivid.base.storage import write_atomically
from lexivid.evaluation.summary import legend, report_this, summary

PREDICTION_COLUMNS = (
    "path", "recording", "side", "label", "prediction", "right", "score", "score_of_label", "rank_of_label",
)  # fmt: skip
"""Of the CSV; `lexivid.evaluation.evaluate.evaluate` explains them."""
_MATRIX_CLASSES = 30  # a larger matrix cannot be read: the pairs stand for it
_PAIRS = 20


def write_evaluation(result: Mapping[str, Any], folder: str | Path) -> Path:
    """Write `<protocol>.html`, and `<protocol>-predictions.csv` where there are predictions -> the page's path."""
    folder, protocol = Path(folder), result["protocol"]
    if predictions := result.get("predictions"):
        write_atomically(folder / f"{protocol}-predictions.csv", predictions_csv(predictions))
    path = folder / f"{protocol}.html"
    write_atomically(path, page(result))
    return path


def split_in_words(result: Mapping[str, Any]) -> str:
    """ "2 base and 3 novel classes; drawn"."""
    base, novel, source = (result["split"][key] for key in ("base", "novel", "source"))
    if not novel and not result["trained"]:
        return f"{len(base)} classes; {source}"
    return f"{len(base)} base and {len(novel)} novel classes; {source}"


def predictions_csv(predictions: Sequence[Mapping[str, Any]]) -> str:
    """A header and a row for each clip."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, PREDICTION_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in predictions:
        writer.writerow({**row, "path": row["path"].encode("utf-8", "replace").decode(), "right": int(row["right"])})
    return buffer.getvalue()


def page(result: Mapping[str, Any]) -> str:
    """The page of a result."""
    predictions = result.get("predictions") or []
    lines = summary(dict(result))
    width = max(map(len, lines))
    prompts = result["prompts"]
    views = result["views"]
    facts = {
        "Model": result["model"],
        "Streams": ", ".join(result["modalities"]),
        "Protocol": result["protocol"],
        "Data": f"{result['data']}, clips: {result['clips']}",
        "Clips": f"{result['clips_asked']} asked, {result['clips_failed']} failed",
        "Split": split_in_words(result),
        "Frames and views": f"{result['frames']} frames, {views['clips']} clips in time x {views['crops']} crops",
        "Sentences": prompts["name"] if prompts else "none: a trained label encoder",
        "Decoder": result["decoder"],
        "Made with": f"lexivid {result['version']}",
    }
    return render_page(
        "evaluation/report.html.jinja",
        title=f"{result['model']} on {result['data']}",
        lines=[(*line, *("",) * (width - len(line))) for line in lines],
        legend=legend(dict(result)),
        sentence=report_this(dict(result)),
        both_sides=len({row["side"] for row in predictions}) == 2,
        classes=class_rows(predictions),
        pairs=confused_pairs(predictions)[:_PAIRS],
        matrices=[(side, matrix) for side in ("base", "novel") if (matrix := confusion_matrix(predictions, side))],
        most_classes=_MATRIX_CLASSES,
        warnings=[*result["warnings"], *(f"failed: {reason or path}" for path, reason in result["failures"])],
        facts=facts,
    )


def class_rows(predictions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int, int]]:
    """(class, side, clips, right ones), the worst first."""
    counts: dict[tuple[str, str], list[int]] = {}
    for row in predictions:
        cell = counts.setdefault((row["label"], row["side"]), [0, 0])
        cell[0] += 1
        cell[1] += row["right"]
    rows = [(label, side, clips, right) for (label, side), (clips, right) in counts.items()]
    return sorted(rows, key=lambda row: (row[3] / row[2], row[0]))


def confused_pairs(predictions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int, int]]:
    """(class, what it was taken for, how often, clips of the class), the most frequent first."""
    clips = Counter(row["label"] for row in predictions)
    pairs = Counter((row["label"], row["prediction"]) for row in predictions if not row["right"])
    return [
        (label, other, count, clips[label])
        for (label, other), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    ]


def confusion_matrix(
    predictions: Sequence[Mapping[str, Any]], side: str
) -> tuple[list[str], list[tuple[str, list[int]]]] | None:
    """(names of the columns, (class, counts) rows): clips of a side by class and prediction; None: too large, or none.

    Columns are the classes and what else clips were taken for.
    """
    rows = [row for row in predictions if row["side"] == side]
    labels = sorted({row["label"] for row in rows})
    columns = [*labels, *sorted({row["prediction"] for row in rows} - set(labels))]
    if not rows or len(columns) > _MATRIX_CLASSES:
        return None
    counts = Counter((row["label"], row["prediction"]) for row in rows)
    return columns, [(label, [counts[label, column] for column in columns]) for label in labels]
