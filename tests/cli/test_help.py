"""What `lexivid --help` shows: verbs in panels, and the choices of an option, as the library has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import get_args

import pytest
from command_line import call_cli

from lexivid.cli import compare, evaluate, flow, options, world
from lexivid.data.formats.read import DatasetKind
from lexivid.evaluation import compare as comparison
from lexivid.evaluation.protocols import PROTOCOLS
from lexivid.inference.output import FORMATS
from lexivid.media.flow import Algorithm
from lexivid.scoring.per_label import LabelSplit
from lexivid.synthetic.world.words import KINDS

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERMINAL_WIDTH", "120")
    return lambda *arguments: call_cli(monkeypatch, capsys, *arguments)


def test_choices_are_those_of_the_library() -> None:
    assert get_args(options.FormatName) == FORMATS
    assert set(options.FORMAT_OF_ENDING.values()) == set(FORMATS)
    assert get_args(options.LabelSplitName) == get_args(LabelSplit)
    assert get_args(flow.AlgorithmName) == get_args(Algorithm)
    assert get_args(evaluate.ProtocolName) == PROTOCOLS
    assert get_args(evaluate.KindName) == get_args(DatasetKind)
    assert get_args(world.KindName) == KINDS
    assert get_args(compare.TableFormat) == comparison.COMPARISON_FORMATS


def test_verbs_stand_in_panels(call: Call) -> None:
    status, out, _ = call("--help")
    assert status == 0
    words = out[out.index("Options") :].split()
    places = [
        words.index(word)
        for word in (
            "Use", "classify", "labels", "flow", "demo", "Train", "train", "evaluate", "compare", "push", "Synthetic",
            "world", "pretrain",
            "reproduce",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert "Commands" not in words


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (("classify", "x.mp4", "--label-split", "old"), get_args(LabelSplit)),
        (("classify", "x.mp4", "--format", "xml"), FORMATS),
        (("classify", "x.mp4", "--dtype", "int8"), get_args(options.DtypeName)),
        (("flow", "x.mp4", "--out", "x.npz", "--algorithm", "raft"), get_args(Algorithm)),
        (("evaluate", "run", "--data", "x", "--protocol", "all"), PROTOCOLS),
        (("evaluate", "run", "--data", "x", "--kind", "hmdb"), get_args(DatasetKind)),
        (("world", "--out", "x", "--kind", "smell"), KINDS),
    ],
)
def test_another_choice_is_refused_with_the_list(
    call: Call, arguments: tuple[str, ...], choices: tuple[str, ...]
) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert arguments[-2] in err
    assert arguments[-1] in err
    assert all(f"'{choice}'" in err for choice in choices)
    help_text = call(arguments[0], "--help")[1]
    assert all(choice in help_text for choice in choices)


def test_help_needs_no_torch() -> None:
    code = "import sys, lexivid.cli; print([n for n in ('torch', 'transformers', 'av', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
