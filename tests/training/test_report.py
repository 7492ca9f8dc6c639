"""report.html of a run: curves that show the log, what the folder holds, and which number to report."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lexivid.models.serialization import MODEL_TYPE
from lexivid.training.log import log_table, read_log
from lexivid.training.recipe import load_recipe
from lexivid.training.report import Curve, chart, charts, epochs_of, size_text, thinned, write_run_report

SUMMARY: dict[str, Any] = {
    "recipe": "lite-mov", "steps": 6, "held_out": {"accuracy": 0.75, "loss": 0.5, "clips": 4.0}, "exported": "last",
    "base_classes": 2, "clips": 10, "clips_held_out": 4, "clips_failed": 1, "failures": {"<b>.mp4": "no <video>"},
    "data_warnings": ["2 classes are one"], "lexivid": "0.1.0", "torch": "2", "python": "3",
    "not_fitted": {"evidence": "why"},
}  # fmt: skip


def _run(folder: Path, *, epochs: bool = True, held_out: bool = True) -> Path:
    """A folder as a run of 3 epochs of 2 steps leaves it."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(load_recipe("lite-mov").to_yaml())
    (folder / "train.json").write_text(json.dumps(SUMMARY))
    config = {"model_type": MODEL_TYPE, "base_classes": ["surfing", "bob's golf", "a, b", "more"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "clips.jsonl").write_text(json.dumps({"data": "/films of <mine>"}) + "\n")
    (folder / "model.safetensors").write_bytes(bytes(36_400_000))
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").write_bytes(bytes(5_000))
    lines = []
    for step in range(1, 7):
        epoch = (step + 1) // 2
        lines.append({"step": step, **({"epoch": epoch} if epochs else {}), "loss": 4.0 / step, "lr": 1e-3 / step})
        if held_out and step % 2 == 0:
            lines.append({"step": step, "held_out.accuracy": 0.25 * epoch, "held_out.loss": 2.0 / epoch})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 7, "lo')
    return folder


def test_the_log_is_read_a_row_a_step(tmp_path: Path) -> None:
    """What a kill cut off is left out."""
    rows = read_log(_run(tmp_path / "run"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[1] == {"step": 2, "epoch": 1, "loss": 2.0, "lr": 5e-4, "held_out.accuracy": 0.25, "held_out.loss": 2.0}
    first, second, third = log_table(rows).splitlines()[:3]
    assert first == "step,epoch,loss,lr,held_out.accuracy,held_out.loss"
    assert (second, third) == ("1,1,4.0,0.001,,", "2,1,2.0,0.0005,0.25,2.0")
    assert read_log(tmp_path) == []


@pytest.mark.parametrize("epochs", [True, False])
def test_epochs_have_the_mean_loss_and_what_held_out_clips_say(tmp_path: Path, epochs: bool) -> None:
    table = epochs_of(read_log(_run(tmp_path / "run", epochs=epochs)))
    assert [(row["epoch"], row["step"], row["score"]) for row in table] == [(1, 2, 0.25), (2, 4, 0.5), (3, 6, 0.75)]
    assert [row["loss"] for row in table] == pytest.approx([3.0, (4 / 3 + 1) / 2, (4 / 5 + 4 / 6) / 2])


def test_curves_lie_where_the_numbers_are() -> None:
    drawing = chart([Curve("a", "mean", [(1, 0.0), (3, 50.0), (5, 100.0)])], "Score", (0, 100))
    (path,) = re.findall(r'<g class="mean"><path d="M([^"]*)"', drawing)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, place.split()) for place in path.split("L"))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    places = {text: float(y) - 4 for y, text in re.findall(r'y="([\d.]+)" text-anchor="end">(\d+)<', drawing)}
    assert places["0"] == pytest.approx(y0, abs=0.2)
    assert places["100"] == pytest.approx(y2, abs=0.2)
    for curves in ([Curve("", "raw", [(7, 2.5)])], [Curve("", "raw", [(1, 1e-9), (2, float("nan"))])]):  # one number
        assert "nan" not in chart(curves, "x")
    one_step = [{"step": step, "epoch": step, "loss": 1.0 / step} for step in (1, 2, 3)]
    assert [curve.style for curve in charts(one_step)[0]["legend"]] == ["mean"]  # the same twice would hide it
    many = thinned([(float(i), float(i % 2)) for i in range(10_001)])
    assert len(many) <= 300
    assert all(0.4 < y < 0.6 for _, y in many[:-1])


def test_what_a_run_without_held_out_clips_shows(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", held_out=False)
    (run / "train.json").write_text(json.dumps(SUMMARY | {"held_out": {}, "clips_held_out": 0}))
    assert [each["title"] for each in charts(read_log(run))] == ["Loss", "Learning rate"]
    page = write_run_report(run).read_text()
    assert "No clips were held out" in page
    (run / "log.jsonl").unlink()
    assert "log.jsonl holds no step" in write_run_report(run).read_text()


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def _text(page: str) -> str:
    parser = _Words()
    parser.feed(page)
    return " ".join(parser.words)


def test_the_page(tmp_path: Path) -> None:
    run = _run(tmp_path / "my run")
    page = write_run_report(run).read_text(encoding="utf-8")
    text = _text(page)
    assert page.count('<svg class="chart"') == 3
    assert "75.0% of the 4 held-out clips are right" in text
    assert "This is not the number to report." in text
    assert f"lexivid evaluate '{run}' --data '/films of <mine>'" in text
    assert f"tensorboard --logdir '{run}'/tensorboard" in text
    assert "model.safetensors 36 MB what was trained" in text
    assert "These may be deleted: tensorboard 5 kB" in text
    assert "2 classes are one" in text
    assert "evidence could not be fitted: why" in text
    assert "<b>.mp4 no <video>" in text
    assert "<script" not in page
    assert "each step training clips, mean of an epoch held-out clips" in text
    assert """--labels 'surfing, bob'"'"'s golf, "a, b"' """ in text
    shutil.rmtree(run / "tensorboard")
    assert "may be deleted" not in _text(write_run_report(run).read_text())


def test_sizes() -> None:
    assert [size_text(n) for n in (10, 1_499, 36_400_000)] == ["1 kB", "1 kB", "36 MB"]
