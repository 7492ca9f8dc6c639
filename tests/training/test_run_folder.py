"""What a run leaves in its folder: nothing if it failed before its first step, enough to go on, no more at its end."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from command_line import call_cli

from lexivid.errors import LexividError
from lexivid.models.trained import TrainedModel
from lexivid.training import loop, resume
from lexivid.training.checkpoint import list_checkpoints
from lexivid.training.recipe import load_recipe

Call = Callable[..., tuple[int, str, str]]
SETTINGS = {
    "model.modalities": "[video]", "model.templates": "name", "model.mlp_ratio": 1, "data.num_workers": 0,
    "data.num_frames": 2, "data.stride": "null", "data.held_out": 0.25, "training.epochs": 2, "training.batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.make_clips(tmp_path_factory.mktemp("clips") / "data", num=4)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return lambda *words: call_cli(monkeypatch, capsys, *words)


@pytest.fixture
def words(data: Path, clip_folder: Path, tmp_path: Path) -> list[str]:
    """`lexivid train` of a tiny recipe, without --out."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("name: tiny\n")
    settings = {"model.backbone": clip_folder, **SETTINGS}
    more = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["train", str(recipe), "--data", str(data), "--device", "cpu", *more]


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_finished_run_keeps_no_checkpoint_unless_asked(call: Call, words: list[str], tmp_path: Path) -> None:
    status, out, err = call(*words, "--out", tmp_path / "run", "--set", "training.export=average")
    assert status == 0, err
    assert "held-out" in out
    assert re.search(r"^deleted: \d+ kB of checkpoints, which only an unfinished run needs", err, re.M)
    kept = _files(tmp_path / "run")
    assert not [name for name in kept if "checkpoints" in name]
    assert {"model.safetensors", "config.json", "train.json", "recipe.yaml", "clips.jsonl", "split.json"} <= kept
    assert json.loads((tmp_path / "run" / "train.json").read_text())["exported"] == "average"
    assert TrainedModel.from_pretrained(tmp_path / "run", device="cpu").base_classes == ("blue", "green", "red")
    # Another run starts from it.
    start = ("--set", f"model.init_from={tmp_path / 'run'}", "--set", "training.delete_checkpoints=false")
    status, _, err = call(*words, "--out", tmp_path / "next", *start)
    assert status == 0, err
    assert "deleted" not in err
    assert len(list_checkpoints(tmp_path / "next" / "checkpoints", "step")) == 2
    # A finished run that has checkpoints, as earlier ones have, is cleared by --resume.
    status, out, err = call("train", "--resume", tmp_path / "next", "--set", "training.delete_checkpoints=true")
    assert (status, "had ended before" in out, "deleted: " in err) == (0, True, True)
    assert not (tmp_path / "next" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("--set", "training.batch_size=none"), "training.batch_size must be a whole number"),
        (("--set", "model.init_from=nowhere"), "holds no trained model"),
        (("--set", "data.inputs=[audio]", "--set", "model.modalities=[video,audio]"), None),
        (("--data", "nowhere"), "does not exist; check the path"),
    ],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_run_that_fails_before_training_leaves_nothing(
    call: Call, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...],
    reason: str | None, is_there: bool,
) -> None:  # fmt: skip
    if reason is None:  # every clip fails, which is known only when all of them have been tried
        reason = "none of the 9 clips can be read"
        monkeypatch.setattr(
            "lexivid.data.sampling.ClipSamples.__getitem__",
            lambda self, index: {"index": index, "path": f"{index}.mp4", "failed": "broken"},
        )
    out = tmp_path / "new" / "run"
    if is_there:
        out.mkdir(parents=True)
        (out / "notes.txt").write_text("mine")
    status, _, err = call(*words, "--out", out, *settings)
    assert status == 2
    assert reason in err
    assert _files(tmp_path) == ({"tiny.yaml"} | ({"new", "new/run", "new/run/notes.txt"} if is_there else set()))


def test_a_folder_that_cannot_be_written_is_refused_at_once(call: Call, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = call(*words, "--out", tmp_path / "file" / "run")
    assert status == 2
    assert "is no folder that you may write to" in err


@pytest.mark.parametrize(
    "words",
    [
        ("lite-mov", "--data", "nowhere", "--out", "run"),
        ("lite-mov",),
        ("x", "--data", ".", "--out", "run", "--log", "a"),
    ],
)
def test_a_wrong_call_is_refused_before_torch_is_imported(words: tuple[str, ...], tmp_path: Path) -> None:
    code = "import sys, lexivid.cli\ntry: lexivid.cli.main()\nexcept SystemExit as error: status = error.code\n"
    code += "print(status, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "train", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    chunks = loop._chunks

    def stopping(batches: Iterator[Any], size: int) -> Iterator[Any]:
        for number, parts in enumerate(chunks(batches, size)):
            if number == num_steps:
                signal.raise_signal(signal.SIGINT)
            yield parts

    monkeypatch.setattr(loop, "_chunks", stopping)


def test_ctrl_c_before_the_first_step_leaves_nothing(
    call: Call, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt_after(monkeypatch, 0)
    status, _, err = call(*words, "--out", tmp_path / "run")
    assert status == 130
    assert err.splitlines()[-1].startswith("interrupted: no step was done yet, so nothing is kept but features in")
    assert _files(tmp_path) == {"tiny.yaml"}


def test_resume_alone_repeats_the_runs_settings(
    call: Call, words: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line that Ctrl-C prints is the command that goes on, and gives what the whole run would have given."""
    assert call(*words, "--out", tmp_path / "whole")[0] == 0
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 1)
        status, _, err = call(*words, "--out", run)
    assert status == 130
    *_, line = err.splitlines()
    assert line.startswith(f"interrupted: 1 of 4 steps are done and kept in {run}; go on with: lexivid ")
    copy = shutil.copytree(run, tmp_path / "copy")
    status, out, err = call(*line.partition("go on with: lexivid ")[2].split())
    assert status == 0, err
    assert "4 steps" in out
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    # --out names the run, too, and --data where its clips lie now.
    moved = shutil.copytree(data, tmp_path / "moved")
    status, out, err = call("train", "--resume", "--out", copy, "--data", moved, "--device", "cpu")
    assert status == 0, err
    assert (copy / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    # A run that was killed before its first checkpoint has said what it is, and begins anew.
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("recipe.yaml", "clips.jsonl", "split.json"):
        shutil.copy(run / name, killed)
    status, out, err = call("train", "--resume", killed, "--device", "cpu")
    assert status == 0, err
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    # What would make it another run is refused.
    status, _, err = call("train", "--resume", copy, "--set", "training.epochs=9")
    assert (status, "training.epochs is 9" in err) == (2, True)


def test_resume_needs_a_run(call: Call, tmp_path: Path) -> None:
    with pytest.raises(LexividError, match=r"no run began in .*name the folder of a run"):
        resume(tmp_path)
    (tmp_path / "recipe.yaml").write_text(load_recipe("lite-mov").to_yaml())
    with pytest.raises(LexividError, match="does not say where the clips are: give --data"):
        resume(tmp_path)


@pytest.mark.parametrize("words", [(), ("lite-mov",), ("lite-mov", "--out", "run"), ("--data", "clips"), ("--resume",)])
def test_what_train_needs_is_said(call: Call, words: tuple[str, ...]) -> None:
    status, _, err = call("train", *words)
    assert status == 2
    assert "lexivid train lite-mov --data clips --out run" in err
    assert "lexivid train --resume run" in err


def test_a_checkpoint_is_written_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the recipe wants none before the end; a run killed then goes on bit for bit."""
    whole = cases.run(tmp_path / "whole", checkpoint_every=0)
    clock = iter(range(0, 10_000, 70))
    with monkeypatch.context() as patch:
        patch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
        save, saved = loop.save_checkpoint, []

        def saving(*args: Any, step: int, **named: Any) -> Path:
            saved.append(step)
            if step >= 5:
                raise KeyboardInterrupt  # of which nothing is written: as a kill
            return save(*args, step=step, **named)

        patch.setattr(loop, "save_checkpoint", saving)
        with pytest.raises(KeyboardInterrupt):
            cases.run(tmp_path / "run", checkpoint_every=0, checkpoint_minutes=4)
    kept = [int(path.name[-8:]) for path in list_checkpoints(tmp_path / "run" / "checkpoints", "step")]
    assert kept
    assert kept == saved[: len(kept)]
    again = cases.run(tmp_path / "run", checkpoint_every=0, resume=True)
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)
    cases.run(tmp_path / "none", checkpoint_every=0, checkpoint_minutes=0, keep_checkpoints=9)
    assert len(list_checkpoints(tmp_path / "none" / "checkpoints", "step")) == 1


def test_only_an_export_of_the_best_weights_keeps_them(tmp_path: Path) -> None:
    cases.run(tmp_path / "last")
    assert not list_checkpoints(tmp_path / "last" / "checkpoints", "best")
    cases.run(tmp_path / "best", export="best")
    assert len(list_checkpoints(tmp_path / "best" / "checkpoints", "best")) == 1


def test_the_log_as_a_table_and_where_it_is(
    call: Call, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, table = tmp_path / "run", tmp_path / "steps.csv"
    status, _, err = call(*words, "--out", run, "--log", table)
    assert status == 0, err
    assert f"every step is logged in {run / 'log.jsonl'}; curves while it trains: tensorboard --logdir {run}" in err
    assert f"log: {table} (4 steps)" in err
    assert f"report: {run / 'report.html'}" in err
    rows = list(csv.DictReader(table.open()))
    assert [(row["step"], row["epoch"]) for row in rows] == [("1", "1"), ("2", "1"), ("3", "2"), ("4", "2")]
    assert [bool(row["held_out.accuracy"]) for row in rows] == [False, True, False, True]
    assert all(float(row["loss"]) > 0 for row in rows)
    # Of a finished run as well, and of one that is interrupted.
    table.unlink()
    assert call("train", "--resume", run, "--log", table)[0] == 0
    assert list(csv.DictReader(table.open())) == rows
    _interrupt_after(monkeypatch, 1)
    assert call(*words, "--out", tmp_path / "stopped", "--log", table)[0] == 130
    assert len(list(csv.DictReader(table.open()))) == 1
    status, _, err = call(*words, "--out", tmp_path / "other", "--log", "steps.xlsx")
    assert (status, "name a file that ends in .csv" in err) == (2, True)


def test_without_tensorboard_it_is_not_named(
    call: Call, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lexivid.training.log.has_tensorboard", lambda: False)
    monkeypatch.setattr("lexivid.training.report.has_tensorboard", lambda: False)
    status, _, err = call(*words, "--out", tmp_path / "run")
    assert status == 0
    assert "every step is logged in" in err
    assert "tensorboard --logdir" not in err
    assert "TensorBoard" not in (tmp_path / "run" / "report.html").read_text()


def test_progress_counts_clips(call: Call, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """9 clips of 4 augmented views are 9 clips, four times."""
    from lexivid.cli import console

    shown, show = [], console.Bar.show

    def note(bar: console.Bar, done: float | None = None, total: float | None = None, what: str | None = None) -> None:
        shown.append((done, total, what or ""))
        show(bar, done, total, what)

    monkeypatch.setattr(console.Bar, "show", note)
    assert call(*words, "--out", tmp_path / "run", "--cache-video-features", "4")[0] == 0
    views = [
        (done, what)
        for done, total, what in shown
        if what.startswith("computing features of clips, augm") and total == 9
    ]
    assert [done for done, _ in views] == [*range(1, 10)] * 4
    assert [re.search(r"view (\d of \d)", what)[1] for _, what in views[::9]] == [
        "1 of 4",
        "2 of 4",
        "3 of 4",
        "4 of 4",
    ]
    assert {total for _, total, what in shown if what.startswith(("evaluating", "calibrating"))} == {3}
    assert any(what.startswith("training steps, epoch 2/2") for *_, what in shown)
