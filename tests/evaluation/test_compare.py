"""Several models on the same clips: paired differences, and the table in every format; the report of an evaluation."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lexivid.errors import LexividError
from lexivid.evaluation import compare as module
from lexivid.evaluation.compare import compare, format_comparison, harmonic_difference
from lexivid.evaluation.report import class_rows, confused_pairs, confusion_matrix, page, predictions_csv
from lexivid.evaluation.summary import legend, report_this, summary
from lexivid.metrics import single_label


def row(path: str, label: str, prediction: str, side: str = "base") -> dict[str, Any]:
    return {
        "path": path, "recording": path.partition("_")[0], "side": side, "label": label, "prediction": prediction,
        "right": label == prediction, "score": 0.5, "score_of_label": 0.25, "rank_of_label": 1 + (label != prediction),
    }  # fmt: skip


PREDICTIONS = [
    row("a_1.mp4", "cat", "cat"),
    row("a_2.mp4", "cat", "dog"),
    row("b_1.mp4", "cat", "dog"),
    row("c_1.mp4", "dog", "dog"),
    row("d_1.mp4", "<b>", "cat", "novel"),
]


def result_of(rows: list[dict[str, Any]], *, trained: bool = True) -> dict[str, Any]:
    """As `evaluate` gives it."""
    results: dict[str, Any] = {}
    for side in ("base", "novel"):
        hits = np.array([float(r["right"]) for r in rows if r["side"] == side])
        if len(hits):
            groups = [r["recording"] for r in rows if r["side"] == side]
            results[side] = {"accuracy": single_label.bootstrap_mean(hits, groups).to_dict(), "clips": len(hits)}
    base = tuple(sorted({r["label"] for r in rows if r["side"] == "base"}))
    novel = tuple(sorted({r["label"] for r in rows if r["side"] == "novel"}))
    return {
        "protocol": "base-novel", "model": "m", "trained": trained, "modalities": ["video"], "prompts": None,
        "frames": 16, "views": {"clips": 1, "crops": 1}, "data": "clips", "clips": "test", "decoder": "av",
        "split": {"base": base, "novel": novel, "seed": 3, "source": "drawn"}, "clips_asked": len(rows) + 1,
        "clips_failed": 1, "failures": [["broken.mp4", "damaged"]], "warnings": [], "version": "0",
        "results": results, "predictions": rows,
    }  # fmt: skip


def test_classes_pairs_and_matrix_are_counted() -> None:
    assert class_rows(PREDICTIONS) == [("<b>", "novel", 1, 0), ("cat", "base", 3, 1), ("dog", "base", 1, 1)]
    assert confused_pairs(PREDICTIONS) == [("cat", "dog", 2, 3), ("<b>", "cat", 1, 1)]
    assert confusion_matrix(PREDICTIONS, "base") == (["cat", "dog"], [("cat", [1, 2]), ("dog", [0, 1])])
    assert confusion_matrix(PREDICTIONS, "novel") == (["<b>", "cat"], [("<b>", [0, 1])])
    assert confusion_matrix([row(f"{i}.mp4", str(i), str(i)) for i in range(40)], "base") is None


def test_the_page_and_the_rows() -> None:
    result = result_of(PREDICTIONS)
    text = page(result)
    assert "<b>Report this number:</b> accuracy, novel 0.0" in text
    assert "&lt;b&gt;" in text
    assert "(<b>" not in text
    assert text.count('class="diagonal"') == 3
    assert "failed: damaged" in text
    assert "<script" not in text
    rows = list(csv.DictReader(io.StringIO(predictions_csv(PREDICTIONS))))
    assert [(r["path"], r["right"], r["rank_of_label"]) for r in rows[:2]] == [
        ("a_1.mp4", "1", "1"),
        ("a_2.mp4", "0", "2"),
    ]


def test_a_model_that_was_not_trained_has_no_base_classes() -> None:
    rows = [r for r in PREDICTIONS if r["side"] == "base"]
    lines = summary(result_of(rows, trained=False))
    assert lines[0] == ("accuracy, % [95 % interval]", "all classes", "clips")
    assert lines[1][2] == "4"
    assert [name for name, _ in legend(result_of(rows, trained=False))] == ["all classes"]
    assert report_this(result_of(rows, trained=False)).startswith("accuracy, all classes 50.0 [")
    assert summary(result_of(rows))[0][1] == "base"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """What `evaluate` says of two models: the second is right about one clip more, and could not use one."""
    better = [dict(r, prediction=r["label"], right=True) if r["path"] == "b_1.mp4" else r for r in PREDICTIONS]
    rows = {"first": PREDICTIONS, "second": [r for r in better if r["path"] != "c_1.mp4"]}
    monkeypatch.setattr(module, "evaluate", lambda model, data, **_: result_of(rows[model]) | {"model": model})
    return rows


def test_differences_are_paired(models: dict[str, list[dict[str, Any]]]) -> None:
    comparison = compare(["first", "second"], "clips")
    assert (comparison["clips"], comparison["recordings"]) == (4, 3)  # what both could use
    first, second = comparison["models"]
    assert "difference" not in first["base"]
    assert first["base"]["value"] == pytest.approx(1 / 3)
    assert second["base"]["value"] == pytest.approx(2 / 3)
    by_hand = single_label.bootstrap_difference(np.array([1, 0, 1]), np.array([1, 0, 0]), np.array(["a", "a", "b"]))
    assert second["base"]["difference"] == by_hand.to_dict()
    assert second["novel"]["difference"]["value"] == 0


@pytest.mark.parametrize("fmt", module.COMPARISON_FORMATS)
def test_every_format_has_every_number(models: dict[str, list[dict[str, Any]]], fmt: str) -> None:
    comparison = compare(["first", "second"], "clips")
    text = format_comparison(comparison, fmt)
    if fmt == "json":
        assert json.loads(text)["models"][1]["model"] == "second"
        return
    assert "first" in text
    assert "66.7" in text
    assert "+33.3" in text
    assert (r"\%" in text) == (fmt == "latex")
    if fmt == "csv":
        assert len({len(line) for line in csv.reader(io.StringIO(text))}) == 1


def test_a_difference_of_harmonic_means_by_hand() -> None:
    is_base = np.array([True, True, False, False])
    right, first = np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])
    found = harmonic_difference(right, first, is_base, np.array(list("abcd")))
    assert found.value == pytest.approx(2 / 3 - 1 / 2)
    same = harmonic_difference(first, first, is_base, np.array(list("abcd")))
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(("names", "reason"), [(["one"], "two or more models"), (["one", "one"], "stands twice")])
def test_a_wrong_comparison(names: list[str], reason: str) -> None:
    with pytest.raises(LexividError, match=reason):
        compare(names, Path("clips"))
