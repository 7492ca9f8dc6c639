"""The programs of examples/ run, do what they say, and stay short."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import training_cases as cases

EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.make_clips(tmp_path_factory.mktemp("examples") / "clips")


def test_they_are_short_and_listed() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(PROGRAMS) == 4
    for program in PROGRAMS:
        assert len(program.read_text(encoding="utf-8").splitlines()) < 40
        assert f"[`{program.name}`]({program.name})" in index


def test_label_a_folder(clips: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clips / "broken.mp4").write_bytes(b"no film")
    load("label_a_folder").main(str(clips), str(tmp_path / "rows.csv"), "red, green, blue", str(clip_folder))
    (clips / "broken.mp4").unlink()
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert len(rows) == len(list(clips.rglob("*.mp4"))) + 1
    assert [bool(row["error"]) for row in rows].count(True) == 1
    assert "<Prediction" in capsys.readouterr().out


def test_subtitles(clips: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = sorted(clips.rglob("*.mp4"))[0]
    load("subtitles").main(str(film), "red, green, blue", "0.5", str(clip_folder))
    assert film.with_suffix(".vtt").read_text().startswith("WEBVTT")
    assert film.with_suffix(".vtt").name in capsys.readouterr().out
    film.with_suffix(".vtt").unlink()


def test_train_then_compare(clips: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film, run = sorted(clips.rglob("*.mp4"))[0], tmp_path / "run"
    settings = [f"model.backbone={clip_folder}", "training.epochs=1", "data.num_workers=0", "data.num_frames=2"]
    load("train_on_few_clips").main(str(clips), str(run), str(film), "red, green, a fourth word", *settings)
    assert "trained on" in capsys.readouterr().out
    load("compare_models").main(str(clips), str(run), str(clip_folder))
    out = capsys.readouterr().out
    assert "| accuracy, % [95 % interval] |" in out
    assert f"{clip_folder}: 0 of" in out
