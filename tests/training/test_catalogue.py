"""`train --list` and `--show`: all recipes, every key with what it means, and nothing that is not so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import call_cli

from lexivid.training import catalogue
from lexivid.training.recipe import Recipe, load_recipe, recipe_names

ROOT = Path(__file__).parent.parent.parent
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return lambda *words: call_cli(monkeypatch, capsys, *words)


def test_every_key_has_a_meaning_that_is_a_line_or_two() -> None:
    assert catalogue.unexplained() == []
    told = catalogue.meanings(type(Recipe().training))
    assert told["micro_batch"].startswith("clips that one process holds at a time")
    assert told["epochs"] == "passes over all training clips"
    assert catalogue.meanings(type(Recipe().model))["num_cross_layers"] == "layers of eq. 5 and 6, and of eq. 7 and 8"
    assert catalogue.meanings(type(Recipe().data))["audio_s"] == "length of a crop of audio in seconds"
    for section in (Recipe().model, Recipe().labels, Recipe().objective, Recipe().data, Recipe().training):
        assert max(map(len, catalogue.meanings(type(section)).values())) < 240


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_shown_is_the_recipe(name: str, tmp_path: Path) -> None:
    """It reads back as what it shows, so that it can be copied; what is not a default says so."""
    recipe, path = load_recipe(name), tmp_path / f"{name}.yaml"
    text = catalogue.show(recipe)
    path.write_text(text)
    assert load_recipe(path) == recipe
    assert yaml.safe_load(text) == recipe.to_dict()
    assert max(map(len, text.splitlines()[4:])) <= 120
    assert ("(default:" in " ".join(text.split("# (default: ...)")[1].split())) == (
        recipe.to_dict() != Recipe().to_dict()
    )


def test_show_and_list_on_the_command_line(call: Call) -> None:
    status, out, _ = call("train", "lite-mov", "--show", "--set", "training.epochs=7")
    assert status == 0
    assert "  epochs: 7                       # passes over all training clips (default: 100)\n" in out
    assert call("train", "--show")[0] == 2
    assert call("train", "lite-mof", "--show")[2].startswith(
        "error: unknown recipe 'lite-mof': did you mean 'lite-mov'"
    )
    status, out, _ = call("train", "--list")
    assert status == 0
    assert [name for name in recipe_names() if name not in out] == []
    assert "…" not in out
    assert out.index("lite-mov") < out.index("lite-audio") < out.index("world-mov") < out.index("mov-k700")
    assert max(map(len, out.splitlines())) <= 120


def test_costs_are_those_that_were_measured() -> None:
    result = json.loads((ROOT / "benchmarks" / "recipe_costs" / "result.json").read_text())["recipes"]
    assert set(result) == set(recipe_names())
    measured = {name for name, row in result.items() if "epoch_s" in row}
    assert measured == {name for name in recipe_names() if load_recipe(name).model.backbone in ("lite", "world")}
    assert set(catalogue.costs()) == measured
    for name, row in catalogue.costs().items():
        assert row == {key: result[name][key] for key in row}
        runs = {key: run["cpu_s"] for key, run in result[name]["runs"].items()}
        num_clips, num_more = result[name]["num_clips"], result[name]["epochs"] - 1
        assert row["epoch_s"] == pytest.approx(max(0.0, runs["c"] - runs["d"]) / num_more / num_clips, abs=6e-4)
        once_s = max(0.0, runs["a"] - runs["d"] + runs["b"] - runs["c"]) / num_clips
        assert row["once_s"] == pytest.approx(once_s, abs=6e-4)
    rows = {row.name: row for row in catalogue.rows()}
    assert "not measured here" in rows["mov-k700"].cost
    lite = catalogue.costs()["lite-mov"]
    minutes = 100 * (lite["once_s"] + 20 * lite["epoch_s"]) / 2 / 60
    assert rows["lite-mov"].cost.startswith(f"{minutes:.0f} min for 100 clips and 20 epochs")


def test_needs_are_read_from_the_recipe() -> None:
    needs = {row.name: row.needs for row in catalogue.rows()}
    assert needs["lite-mov"] == "films"
    assert needs["lite-audio"] == "sound files or films"
    assert needs["lite-multi-label"] == "films with sound, a manifest with several labels a clip"
    assert needs["world-ovml"] == "clips of `lexivid world` --label-kinds all"
    assert needs["mov-vggsound"] == "films with sound, openai/clip-vit-base-patch16 of the Hub, a GPU"


def test_the_page_says_the_same_costs() -> None:
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(lite-[\w-]+)` \|[^|]*\| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", page, re.M)
    assert {name for name, *_ in rows} == {name for name in recipe_names() if name.startswith("lite-")}
    for name, once, epoch, epochs in rows:
        cost = catalogue.costs()[name]
        assert (once, epoch) == (f"{cost['once_s']:.2g}", f"{cost['epoch_s']:.2g}"), name
        assert int(epochs) == load_recipe(name).training.epochs
    minutes = next(row.cost for row in catalogue.rows() if row.name == "lite-mov").split()[0]
    assert f"100 clips with `lite-mov` take about {minutes} minutes" in " ".join(page.split())
