"""What commit ba6c178 wrote is read by today's code, and says the same numbers.

tests/fixtures/make.py made the files with that commit's own code: four runs (MOV with all streams, score fusion, OVML
with soft attributes, learned context), two label databases, the package's recipes, the results of a reproduction, and
expected.json with what that code read from them. What was mended since (ties of spliced scores, the crop of the flow in
training, several views) changes none of these numbers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lexivid
from lexivid.data.splits import ClassSplit
from lexivid.evaluation.evaluate import evaluate
from lexivid.labels.database import open_database
from lexivid.models.label_encoders import open_encoder
from lexivid.models.trained import TrainedModel
from lexivid.scoring.heads import predict
from lexivid.scoring.log_odds import log_odds, log_odds_vectors
from lexivid.synthetic.reproduce.report import write_report
from lexivid.training.recipe import Recipe, load_recipe, recipe_names

pytest.importorskip("cv2")
pytest.importorskip("yaml")
COMMIT = "ba6c178"
FIXTURES = Path(__file__).parent / "fixtures" / COMMIT
RUNS = ("mov", "fusion", "ovml", "context")
LABELS = ["red", "blue", "yellow", "a purple thing"]
BASE, NOVEL = LABELS[:2], LABELS[2:]
TOLERANCE = 1e-5
FILM_TOLERANCE = 5e-4  # flow is rounded to whole numbers, and one that falls otherwise on another processor shows

NEW_KEYS = {"data.flow_texture": False, "training.checkpoint_minutes": 5.0, "training.delete_checkpoints": True}
"""Recipe keys that ba6c178 did not have, with the value that computes what it did."""

RENAMED: dict[str, str] = {
    "labels.soft_attributes.beside_clip": "labels.soft_attributes.clip_residual",
    "labels.soft_attributes.own_words": "labels.soft_attributes.include_label_tokens",
    "labels.soft_attributes.reading": "labels.soft_attributes.readout",
}
"""Old recipe keys by the names that they have today."""


@cache
def expected() -> dict[str, Any]:
    return dict(json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files in which {HERE} is its folder."""
    folder = tmp_path_factory.mktemp("old") / COMMIT
    shutil.copytree(FIXTURES, folder)
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml") and "{HERE}" in (text := path.read_text(encoding="utf-8")):
            path.write_text(text.replace("{HERE}", str(folder)), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def assert_same(found: Any, wanted: Any, where: str = "", *, tolerance: float = TOLERANCE) -> None:
    """Equal, and numbers within a tolerance; of a dictionary the keys of `wanted` alone, as more may be said today."""
    if isinstance(wanted, dict):
        assert not wanted.keys() - found.keys(), where
        for key, value in wanted.items():
            assert_same(found[key], value, f"{where}/{key}", tolerance=tolerance)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for place, (left, right) in enumerate(zip(found, wanted, strict=True)):
            assert_same(left, right, f"{where}/{place}", tolerance=tolerance)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=tolerance, rel=tolerance), where
    else:
        assert found == wanted, where


def numbers(x: torch.Tensor) -> Any:
    return x.double().tolist()


# ---- Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_a_run_makes_the_same_of_tensors(old: Path, name: str) -> None:
    """Towers, fusion, label vectors, scores of both heads, log odds."""
    model = TrainedModel.from_pretrained(old / name, device="cpu")
    given = load_file(old / "tensors.safetensors")
    modalities = model.mov.config.modalities
    mask = given["mask"][:, [("video", "flow", "audio").index(stream) for stream in modalities]]
    features = model.features(**{stream: given[stream] for stream in modalities}, mask=mask)
    labels = model.embed(LABELS)
    vectors, background = log_odds_vectors(model, LABELS)
    found: dict[str, Any] = {
        "base_classes": list(model.base_classes),
        "labels": numbers(labels),
        "features": {"v": numbers(features.v), "v_m": numbers(features.v_m)}
        | {stream: numbers(x) for stream, x in features.x_m.items()},
        "base": numbers(predict(model, features, labels, head="base")),
        "novel": numbers(predict(model, features, labels, head="novel")),
    }
    settings = model.settings()
    for head in ("base", "novel"):
        found[f"log_odds_{head}"] = numbers(log_odds(features, vectors, settings, head=head, background=background))
    assert_same(found, expected()["runs"][name]["tensors"])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_says_the_same_of_films(old: Path, name: str) -> None:
    """From a file to labels: scores of both heads and of a mixed list, one by one, without sound, a timeline."""
    classifier = lexivid.load(str(old / name), device="cpu")
    judged = LABELS if "novel" in json.loads((old / name / "config.json").read_text())["evidence"] else BASE
    film, silent = old / "clips" / "red" / "0.mp4", old / "clips" / "green" / "0.mp4"
    one_by_one = {"multi_label": True, "label_split": "mixed" if judged == LABELS else "base"}
    asked: dict[str, tuple[Path, list[str], dict[str, Any]]] = {
        "base": (film, BASE, {"label_split": "base"}),
        "novel": (film, NOVEL, {"label_split": "novel"}),
        "mixed": (film, LABELS, {}),
        "silent": (silent, LABELS, {}),
        "one_by_one": (film, judged, one_by_one),
        "timeline": (film, LABELS, {"timeline_s": 0.5}),
    }
    for case, (path, labels, options) in asked.items():
        row = classifier.classify(path, labels, **options).to_dict()
        then = dict(expected()["runs"][name]["films"][case])
        today = {key: row.get(key) for key in ("duration_s", "modalities", "none_of_these")} | {
            "labels": by_label(row["labels"]),
            "by_modality": {stream: by_label(rows) for stream, rows in row["by_modality"].items()},
            "segments": [
                {"start_s": x["start_s"], "end_s": x["end_s"], "labels": by_label(x["labels"])}
                for x in row.get("segments") or []
                if x["labels"]
            ],
        }
        if row["score_kind"] == "probability":  # one or two labels had shares, which say nothing of them
            assert sum(today["labels"].values()) == pytest.approx(1 - row["none_of_these"], abs=1e-5)
            today, then = ({k: v for k, v in x.items() if k not in ("labels", "by_modality")} for x in (today, then))
        assert_same(today, then, case, tolerance=FILM_TOLERANCE)


def by_label(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["label"]: row["score"] for row in rows}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_measures_the_same(old: Path, name: str) -> None:
    """Accuracies with their intervals, mean average precision, F1, calibration error."""
    split = ClassSplit(("blue", "green", "red"), ("yellow",))
    for protocol, wanted in expected()["runs"][name]["evaluate"].items():
        found = evaluate(
            old / name, old / "clips", protocol=protocol, split=split, part=None, device="cpu", num_workers=0,
            cache=False,
        )  # fmt: skip
        assert_same(found["results"], wanted, protocol, tolerance=FILM_TOLERANCE)


# ---- Label databases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "model"), [("prompts", "clip"), ("encoder", "ovml")])
def test_a_label_database_opens_and_grows(old: Path, tmp_path: Path, name: str, model: str) -> None:
    wanted, folder = expected()["databases"][name], tmp_path / "labels"
    shutil.copytree(old / f"labels-{name}", folder)
    database, encoder = open_database(folder), open_encoder(str(old / model), device="cpu")
    found = {
        "labels": list(database.labels),
        "kind": database.encoder.kind,
        "fingerprint": encoder.identity.fingerprint,  # of today's encoder: vectors may stand beside the old ones
        "vectors": numbers(database.vectors),
        "search": [[match.label, match.cosine] for match in database.search("green", encoder=encoder)],
    }
    assert_same(found, wanted)
    assert_same(numbers(encoder.encode(list(database.labels))), wanted["vectors"])
    assert database.add(["green"], encoder).new == ["green"]
    assert open_database(folder).labels == (*wanted["labels"], "green")


def test_a_label_database_finds_its_model(old: Path) -> None:
    film = old / "clips" / "red" / "0.mp4"
    by_names = lexivid.load(str(old / "ovml"), device="cpu").classify(film, LABELS)
    database = open_database(old / "labels-encoder")
    by_database = lexivid.load(str(old / "ovml"), device="cpu").classify(film, database)
    assert_same(by_label(by_database.to_dict()["labels"]), by_label(by_names.to_dict()["labels"]))


# ---- Recipes --------------------------------------------------------------------------------------------------------


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def today(old_values: dict[str, Any]) -> dict[str, Any]:
    """What an old recipe says, by today's keys."""
    return {RENAMED.get(key, key): value for key, value in flat(old_values)} | NEW_KEYS


@pytest.mark.parametrize("name", sorted(path.stem for path in (FIXTURES / "recipes").glob("*.yaml")))
def test_an_old_recipe_says_the_same(old: Path, name: str) -> None:
    found = load_recipe(old / "recipes" / f"{name}.yaml").to_dict()
    assert dict(flat(found)) == today(expected()["recipes"][name])


def test_old_recipe_names_are_known() -> None:
    assert not expected()["recipes"].keys() - set(recipe_names())


@pytest.mark.parametrize("name", RUNS)
def test_the_recipe_of_a_run_says_the_same(old: Path, name: str) -> None:
    """recipe.yaml, which has every key, defaults too."""
    import yaml

    path = old / name / "recipe.yaml"
    assert dict(flat(load_recipe(path).to_dict())) == today(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_every_old_setting_is_taken() -> None:
    """Each key of `--set`, spelled as it was, with a value that is not its default."""
    told = expected()["settings"]
    assert len(told) > 90
    for setting in told:
        found = dict(flat(Recipe().with_settings({**setting["beside"], setting["key"]: setting["value"]}).to_dict()))
        assert found[RENAMED.get(setting["key"], setting["key"])] == setting["value"], setting


# ---- Reports --------------------------------------------------------------------------------------------------------


def test_results_of_a_reproduction_are_rendered(old: Path, tmp_path: Path) -> None:
    results = json.loads((old / "world" / "results.json").read_text(encoding="utf-8"))
    written = write_report(results, tmp_path)
    assert json.loads(written["json"].read_text(encoding="utf-8")) == results
    assert written["markdown"].read_text(encoding="utf-8") == expected()["report"]
    assert "Table 1" in written["html"].read_text(encoding="utf-8")
