"""`evaluate --protocol multi-label` on files of the world of several labels; `calibrate` for runs with a sigmoid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lexivid.cli import app
from lexivid.data.formats import read_dataset
from lexivid.errors import LexividError
from lexivid.evaluation.evaluate import evaluate
from lexivid.evaluation.summary import summary
from lexivid.inference.loading import load
from lexivid.metrics.multi_label import report
from lexivid.models.serialization import read_config, update_config
from lexivid.models.trained import TrainedModel
from lexivid.synthetic.world.multilabel import draw_label_sets, make_label_world
from lexivid.synthetic.world.nouns import draw_nouns
from lexivid.training import train

SMALL = {
    "training.epochs": 1, "training.batch_size": 8, "training.warmup_steps": 1, "training.average_epochs": 1,
    "data.num_workers": 0, "data.cache_clips": False, "data.held_out": 0.4, "labels.encoder": "prompts",
    "objective.regularisers": [], "model.temporal_branches": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "world"
    sets = draw_label_sets(draw_nouns("look", num=12), seed=0, num_novel_nouns=4, kinds=("words", "motion"))
    make_label_world(folder, sets, num_train=20, num_test=6, seed=0, num_workers=0)
    return folder


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "run"
    train("world-ovml", world, out, set={**SMALL, "data.class_split": str(world / "split.json")}, device="cpu")
    return out


def truth_of(folder: Path, names: list[str]) -> np.ndarray:
    clips = [clip for clip in read_dataset(folder).clips if clip.split == "test"]
    return np.array([[name in clip.labels for name in names] for clip in clips])


def test_a_backbone_is_measured_as_classify_scores(world: Path, tmp_path: Path) -> None:
    result = evaluate("world", world, protocol="multi-label", split=world / "split.json", out=tmp_path, num_workers=0,
                      device="cpu", cache=False)  # fmt: skip
    split = json.loads((world / "split.json").read_text())
    names = [n for n in (*split["base"], *split["novel"]) if n in read_dataset(world).classes]
    classifier = load("world", device="cpu", dtype="float32")
    paths = [clip.path for clip in read_dataset(world).clips if clip.split == "test"]
    found = classifier.classify_many(paths, names, multi_label=True)
    p = np.array([[dict((x.label, x.score) for x in one.labels)[name] for name in names] for one in found])
    expected = report(p, truth_of(world, names), seen=np.isin(names, split["base"]))
    for part in ("all", "seen", "unseen"):
        got = result["results"][part]
        assert got["labels"] == expected[part]["labels"]
        assert got["mean_average_precision"] == pytest.approx(expected[part]["mean_average_precision"], abs=0.02)
        assert got["calibration_error"]["value"] == pytest.approx(
            expected[part]["calibration_error"]["value"], abs=0.01
        )
    assert set(result["results"]["average_precision"]) == set(names)
    assert json.loads((tmp_path / "multi-label.json").read_text())["results"] == json.loads(
        json.dumps(result["results"])
    )
    assert [line[0] for line in summary(result)] == ["per cent", "all", "seen", "unseen"]


def test_a_run_knows_what_its_scores_are_worth(world: Path, run: Path) -> None:
    model = TrainedModel.from_pretrained(run, device="cpu")
    assert set(model.calibrations) == {"base", "novel"}
    assert model.calibrations["base"].num_clips == json.loads((run / "train.json").read_text())["clips_held_out"] > 2
    assert "held-out clips" in model.calibrations["base"].method
    assert model.calibrations["base"].error is not None
    result = evaluate(str(run), world, protocol="multi-label", num_workers=0, device="cpu", cache=False)
    assert result["clips_asked"] == 6
    assert result["clips_trained_on"] == 0
    assert 0 < result["results"]["all"]["mean_average_precision"] <= 1
    with pytest.raises(LexividError, match="use multi-label"):
        evaluate(str(run), world, protocol="base-novel", num_workers=0, device="cpu", cache=False)


def test_evidence_can_be_fitted_again(world: Path, run: Path) -> None:
    before = read_config(run)["evidence"]
    update_config(run, evidence={})
    with pytest.raises(LexividError, match="--protocol calibrate"):
        evaluate(str(run), world, protocol="multi-label", num_workers=0, device="cpu", cache=False)
    result = evaluate(str(run), world, protocol="calibrate", num_workers=0, device="cpu", cache=False)
    after = read_config(run)["evidence"]
    assert result["results"] == after
    for head in ("base", "novel"):
        assert after[head]["slope"] == pytest.approx(before[head]["slope"], rel=1e-3)
    assert [line[0] for line in summary(result)] == ["head", "base", "novel"]


def test_the_command_prints_a_table(world: Path, run: Path) -> None:
    done = CliRunner().invoke(
        app, ["evaluate", str(run), "--data", str(world), "--protocol", "multi-label", "--workers", "0"]
    )
    assert done.exit_code == 0, done.output
    assert "unseen" in done.output
    assert "best micro F1" in done.output
