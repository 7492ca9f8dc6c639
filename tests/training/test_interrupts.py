"""Ctrl-C and SIGTERM at any moment of a training: a sentence, a status, a checkpoint, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from command_line import call_cli
from safetensors.torch import load_file

from lexivid.base.interrupts import finish_first, signals_later, sigterm_interrupts, status_of
from lexivid.training.checkpoint import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


def _signalled(*signals: signal.Signals) -> list[str]:
    """What was reached of a part that is to end first, and of what follows it."""
    reached = []
    try:
        with finish_first():
            for number in signals:
                signal.raise_signal(number)
                reached.append("part")
        reached.append("after it")
    except KeyboardInterrupt as error:
        reached.append(str(status_of(error)))
    return reached


def test_a_part_ends_before_the_signal_is_acted_upon() -> None:
    assert _signalled() == ["after it"]
    assert _signalled(signal.SIGINT) == ["part", "130"]
    with sigterm_interrupts():
        assert _signalled(signal.SIGTERM) == ["part", "143"]


def test_a_second_signal_is_acted_upon_at_once() -> None:
    assert _signalled(signal.SIGINT, signal.SIGINT) == ["part", "130"]


def test_a_second_signal_may_be_asked_to_wait_and_a_failure_gives_way_to_the_first() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), finish_first(patience_s=60):  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached.append("part")
        raise EOFError("a worker that the signal has ended, too")
    assert reached == ["part"]
    with pytest.raises(EOFError), finish_first():
        raise EOFError


def test_a_signal_within_a_destructor_is_sent_again_after_it() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with signals_later():
            signal.raise_signal(signal.SIGINT)
            reached.append("destructor")
        reached.append("after it")
        time.sleep(5)
        reached.append("too late")
    assert reached == ["destructor", "after it"]


def test_the_callers_own_handlers_are_there_afterwards() -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("caller's"))
    try:
        with finish_first():
            signal.raise_signal(signal.SIGTERM)
            assert not seen
        assert seen == ["caller's"]
        with sigterm_interrupts(), finish_first():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert seen == ["caller's"] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted_run(out: Path, monkeypatch: pytest.MonkeyPatch, place: str, after: int) -> None:
    """A run of 12 steps that Ctrl-C meets in the step, while it loads, or while it evaluates."""
    from lexivid.training import loop

    count = 0

    def meet() -> None:
        nonlocal count
        count += 1
        if count == after:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        if place == "step":
            step = torch.optim.AdamW.step
            patch.setattr(torch.optim.AdamW, "step", lambda *args, **named: (meet(), step(*args, **named))[1])
        elif place == "loading":
            chunks = loop._chunks

            def stopping(batches: Iterator[Any], size: int) -> Iterator[Any]:
                for parts in chunks(batches, size):
                    meet()
                    yield parts

            patch.setattr(loop, "_chunks", stopping)
        else:
            evaluate = loop.evaluate_held_out
            patch.setattr(loop, "evaluate_held_out", lambda *args, **named: (meet(), evaluate(*args, **named))[1])
        with pytest.raises(KeyboardInterrupt):
            cases.run(out, checkpoint_every=0)


@pytest.mark.parametrize(("place", "after", "step"), [("step", 3, 3), ("loading", 4, 3), ("evaluating", 2, 6)])
def test_an_interrupted_run_keeps_its_last_step_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, after: int, step: int
) -> None:
    whole = cases.run(tmp_path / "whole", checkpoint_every=0)
    out = tmp_path / "run"
    _interrupted_run(out, monkeypatch, place, after)
    (kept,) = list_checkpoints(out / "checkpoints", "step")
    assert load_checkpoint(kept).state["step"] == step
    resumed = cases.run(out, checkpoint_every=0, resume=True)
    assert resumed.state.metrics == whole.state.metrics
    assert resumed.state.best == whole.state.best
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)


def test_a_checkpoint_without_the_count_of_epochs_goes_on(tmp_path: Path) -> None:
    whole = cases.run(tmp_path / "whole")
    for path in list_checkpoints(tmp_path / "whole" / "checkpoints", "step"):
        state = json.loads((path / "state.json").read_text())
        del state["epochs"]
        (path / "state.json").write_text(json.dumps(state))
    again = cases.run(tmp_path / "whole", resume=True)
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


# ---- the command line in a process of its own ----


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.make_clips(tmp_path_factory.mktemp("clips") / "data", num=4)


class Training:
    """`lexivid train` in a process group of its own, as in a terminal: Ctrl-C reaches its workers, too."""

    def __init__(self, data: Path, clip_folder: Path, out: Path, *extra: str) -> None:
        settings = {
            "model.backbone": clip_folder, "model.modalities": "[video,audio]", "model.templates": "name",
            "data.num_workers": 1, "data.num_frames": 2, "data.stride": "null", "data.audio_s": 1,
            "data.spec_time": 20, "data.held_out": 0.25, "data.cache_clips": "false", "training.epochs": 400,
            "training.batch_size": 3, "training.checkpoint_every": 0, "training.warmup_steps": 0,
        }  # fmt: skip
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        recipe = out.parent / "tiny.yaml"
        recipe.write_text("name: tiny\n")
        command = [sys.executable, "-m", "lexivid", "train", str(recipe), "--data", str(data), "--out", str(out)]
        self.out, self.command = out, [*command, "--device", "cpu", *words, *extra]
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Training:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: children inherit it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for(self, there: Callable[[], bool]) -> None:
        assert self.process is not None
        ends = time.monotonic() + 240
        while not there():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < ends
            time.sleep(0.02)

    def steps(self) -> int:
        log = self.out / "log.jsonl"
        return log.read_text().count('"loss"') if log.is_file() else 0

    def loads_torch(self) -> bool:
        """Whether Python is past its own start, where Ctrl-C is out of any program's hands."""
        assert self.process is not None
        return "libtorch" in Path(f"/proc/{self.process.pid}/maps").read_text()

    def ended(self) -> tuple[int, str]:
        assert self.process is not None
        said = self.process.communicate(timeout=240)[1]
        assert "Traceback" not in said, said
        return self.process.returncode, said


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_training_on_the_command_line(data: Path, clip_folder: Path, tmp_path: Path, signum: signal.Signals) -> None:
    out = tmp_path / "run"
    with Training(data, clip_folder, out) as training:
        training.wait_for(lambda: training.steps() >= 2)
        os.killpg(training.process.pid, signum)  # type: ignore[union-attr]
        status, said = training.ended()
    assert status == 128 + signum
    (kept,) = list_checkpoints(out / "checkpoints", "step")
    state = load_checkpoint(kept).state
    *_, line = said.splitlines()  # before it a line a minute, on a slow machine
    assert line == (
        f"interrupted: {state['step']} of {state['steps']} steps are done and kept in {out}; "
        f"go on with: lexivid train --resume {out} --device cpu"
    )
    assert state["steps"] == 400 * 3
    assert load_file(kept / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.0, 3.0])
def test_start_up_is_interrupted_in_a_sentence(data: Path, clip_folder: Path, tmp_path: Path, after_s: float) -> None:
    out = tmp_path / "run"
    with Training(data, clip_folder, out, "--cache-video-features", "2") as training:
        if after_s:
            training.wait_for((out / "recipe.yaml").is_file)
        else:
            training.wait_for(training.loads_torch)
        time.sleep(after_s)
        os.killpg(training.process.pid, signal.SIGINT)  # type: ignore[union-attr]
        status, said = training.ended()
    assert status == 130
    assert [line for line in said.splitlines() if not line.startswith("starting")][-1].startswith("interrupted")


@pytest.mark.slow
@pytest.mark.parametrize(("after_s", "gap_s"), [(0.0, 0.05), (0.1, 0.3), (0.4, 0.0), (1.5, 0.05)])
def test_several_ctrl_c_while_workers_begin_or_end_print_no_traceback(
    data: Path, clip_folder: Path, tmp_path: Path, after_s: float, gap_s: float
) -> None:
    with Training(data, clip_folder, tmp_path / "run", "--set", "data.num_workers=2") as training:
        training.wait_for(lambda: (tmp_path / "run" / "recipe.yaml").is_file())
        time.sleep(after_s)
        for _ in range(3):
            if training.process.poll() is None:  # type: ignore[union-attr]
                os.killpg(training.process.pid, signal.SIGINT)  # type: ignore[union-attr]
            time.sleep(gap_s)
        status, said = training.ended()
    assert status in (130, -signal.SIGINT)  # or ended while Python itself does
    assert "interrupted" in said


def test_a_second_ctrl_c_ends_at_once(data: Path, clip_folder: Path, tmp_path: Path) -> None:
    with Training(data, clip_folder, tmp_path / "run") as training:
        training.wait_for(lambda: training.steps() >= 1)
        os.killpg(training.process.pid, signal.SIGINT)  # type: ignore[union-attr]
        os.killpg(training.process.pid, signal.SIGINT)  # type: ignore[union-attr]
        started = time.monotonic()
        status, _ = training.ended()
    assert status == 130
    assert time.monotonic() - started < 30


def test_calibration_that_is_interrupted_is_made_up_for(
    data: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is there and says that it is not calibrated; --resume calibrates, and trains nothing."""
    from lexivid.cli import console

    def train(out: Path, *more: str) -> tuple[int, str, str]:
        words = Training(data, clip_folder, out, "--set", "data.num_workers=0", "--set", "training.epochs=1").command[
            3:
        ]
        return call_cli(monkeypatch, capsys, *words, *more)

    assert train(tmp_path / "whole")[0] == 0
    out, show = tmp_path / "run", console.Bar.show

    def meet(bar: console.Bar, done: float | None = None, total: float | None = None, what: str | None = None) -> None:
        show(bar, done, total, what)
        if (what or "").startswith("calibrating"):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(console.Bar, "show", meet)
        status, _, said = train(out)
    assert status == 130
    assert said.splitlines()[-1].startswith(f"interrupted: training has ended and the model is in {out}; ")
    assert "Traceback" not in said
    weights = (out / "model.safetensors").read_bytes()
    assert json.loads((out / "config.json").read_text())["calibration"] is None
    assert not list_checkpoints(tmp_path / "whole" / "checkpoints", "step")
    shutil.rmtree(out / "checkpoints")  # nothing is trained
    assert train(out, "--resume")[0] == 0
    assert (out / "model.safetensors").read_bytes() == weights
    whole, resumed = (json.loads((run / "config.json").read_text()) for run in (tmp_path / "whole", out))
    for key in ("calibration", "evidence", "not_fitted"):
        assert resumed[key] == whole[key]
    assert resumed["calibration"] or resumed["not_fitted"]


# ---- a line a minute ----


def test_what_lasts_says_a_line_a_minute_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lexivid.cli import console

    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.05)
    with console.progress_bar("starting") as bar:
        time.sleep(0.12)
        bar.show(0, 8, "training")
        bar.show(2, 8, "training [epoch 1]")
        time.sleep(0.12)
    with console.status("loading [lite]"):
        time.sleep(0.12)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "starting, 0 min"
    assert "training [epoch 1]: 2 of 8, 0 min, about 0 min left" in lines
    assert lines[-1] == "loading [lite], 0 min"
    with console.progress_bar("short") as bar:
        bar.show(1, 2)
    assert not capsys.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name == "lexivid-progress"]


def test_a_message_needs_no_import(tmp_path: Path) -> None:
    """Ctrl-C may come while PyTorch is imported, and a second import of it fails: what says so must not ask for one."""
    code = "import sys\nfrom lexivid.cli import console\nconsole.say('interrupted')\n"
    code += "heavy = {'torch', 'numpy', 'av'}\nassert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "interrupted\n"
