"""A trained run on the Hub: published by its owner and used by name, with the real client and a Hub on this machine.

Each user is a process of their own with a cache of their own: where the Hub lies is read when its client is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import training_cases as cases
from hub_server import serve_hub
from language_models import make_gpt2

import lexivid
from lexivid.data.run_clips import RunClips
from lexivid.errors import LexividError
from lexivid.evaluation import evaluate as runs
from lexivid.training import train
from lexivid.training.pinning import as_begun, check_same, pinned
from lexivid.training.recipe import Recipe, load_recipe
from lexivid.training.run_folder import check_folder

pytest.importorskip("accelerate")
SETTINGS = {
    "model.modalities": ["video", "flow"], "model.num_heads": 2, "model.mlp_ratio": 1, "data.num_workers": 0,
    "data.num_frames": 2, "data.stride": None, "data.flow_size": 32, "data.held_out": 0.34, "training.epochs": 1,
    "training.batch_size": 6, "data.inputs": ["video"],
}  # fmt: skip

OWNER = """
import json, sys
from lexivid.models.trained import TrainedModel
model = TrainedModel.from_pretrained(sys.argv[1], device="cpu")
print(json.dumps([model.push_to_hub("me/colours"), model.clips.num_trained_on(model.clips.clips)]))
"""

CLI = """
import sys
from lexivid.__main__ import main
sys.argv[0] = "lexivid"
main()
"""

LABELS = ["red", "green", "purple"]
USER = """
import json, sys, lexivid
from lexivid.evaluation import evaluate as runs
from lexivid.labels.database import create_database, open_database
from lexivid.inference.loading import model_of
from lexivid.errors import LexividError
from lexivid.models.label_encoders import open_encoder
name, clip, data = sys.argv[1:4]
LABELS = ["red", "green", "purple"]
classifier = lexivid.load(name, device="cpu")
said = classifier.classify(clip, LABELS)
result = runs.evaluate(name, data, num_workers=0, device="cpu")
encoder = open_encoder(name, device="cpu")
create_database(__import__("pathlib").Path("labels"), encoder).add(["red"], encoder)
try:
    runs.evaluate(name, data, protocol="calibrate", device="cpu")
    refused = ""
except LexividError as error:
    refused = str(error)
print(json.dumps({
    "kind": type(classifier.video_model).__name__, "warnings": said.warnings,
    "scores": [[x.label, x.score] for x in said.labels],
    "fingerprint": classifier.fingerprint, "trained_on": result["clips_trained_on"], "asked": result["clips_asked"],
    "base": result["split"]["base"], "model": model_of(open_database("labels")), "refused": refused,
}))
"""


def _run(program: str, *words: object, home: Path, endpoint: str, offline: bool = False) -> str:
    home.mkdir(exist_ok=True)
    environment = os.environ | {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_TOKEN": "hf_of_this_test", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "*",
        "LEXIVID_CACHE": str(home / "cache"), "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_a_published_run_is_used_by_the_name_that_its_card_prints(clip_folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = cases.make_clips(tmp_path / "private folder", num=3)
    templates = tmp_path / "sentences.txt"
    templates.write_text("a {} thing\n")
    settings = {**SETTINGS, "model.backbone": str(clip_folder), "model.templates": str(templates)}
    train(cases.Recipe.from_dict({"name": "tiny"}).with_settings(settings), data, tmp_path / "run", device="cpu")
    templates.unlink()  # its sentences are the model's own by now
    with serve_hub() as (endpoint, hub):
        _, own = json.loads(_run(OWNER, tmp_path / "run", home=tmp_path / "owner", endpoint=endpoint))
        commit, files = hub.commits["me/colours"][-1]
        card = files["README.md"].decode()
        assert "lexivid.load('me/colours')" in card
        for name, content in files.items():  # nothing of the owner's machine
            assert str(tmp_path).encode() not in content, name
            assert str(clip_folder.parent).encode() not in content, name
            assert b"private folder" not in content, name
        runs.evaluate(tmp_path / "run", data, out=tmp_path / "measured", num_workers=0, device="cpu")
        words = ("push", tmp_path / "run", "me/measured", "--licence", "cc-by-4.0", "--results")
        said = _run(CLI, *words, tmp_path / "measured" / "base-novel.json", home=tmp_path / "owner", endpoint=endpoint)
        assert "me/measured" in said
        card = hub.commits["me/measured"][-1][1]["README.md"].decode()
        assert "license: cc-by-4.0" in card
        assert "| base-novel |" in card
        assert "95 % interval by bootstrap over" in card
        assert str(tmp_path) not in card
        trained_on = next(c.path for c in _record(tmp_path / "run").train)
        user = tmp_path / "user"
        found = json.loads(_run(USER, "me/colours", trained_on, data, home=user, endpoint=endpoint))
        local = lexivid.load(str(tmp_path / "run"), device="cpu").classify(trained_on, LABELS)
        assert found["kind"] == "Trained"
        assert found["scores"] == [[x.label, pytest.approx(x.score, abs=1e-5)] for x in local.labels]
        assert tuple(found["warnings"]) == local.warnings
        assert any("was trained on this file" in text for text in found["warnings"])
        assert found["trained_on"] == own == 6
        assert found["base"] == ["blue", "green", "red"]
        assert found["model"] == f"me/colours@{commit}"
        assert "hf download me/colours" in found["refused"]
        assert found["fingerprint"].strip() not in ("", "auto")
        # another state of the same name
        config = json.loads(files["config.json"])
        hub.publish("me/colours", {"config.json": json.dumps(config | {"base_classes": ["x", "y", "z"]}).encode()})
    # the Hub is gone, and the pinned state is in the cache
    (user / "labels" / "labels.json").unlink()
    again = json.loads(_run(USER, f"me/colours@{commit}", trained_on, data, home=user, endpoint=endpoint, offline=True))
    assert again["scores"] == found["scores"]
    assert again["base"] == found["base"]


TRAINER = """
import sys, training_cases
from lexivid.training import train
data, out, how, settings = sys.argv[1], sys.argv[2], sys.argv[3], __import__("json").loads(sys.argv[4])
class Stop(Exception): pass
def stop(*args):
    if how == "stop" and args[1]:  # after the first epoch
        raise Stop
try:
    recipe = training_cases.Recipe.from_dict({"name": "tiny"}).with_settings(settings)
    train(recipe, data, out, resume=how == "resume", device="cpu", on_epoch=stop)
    print("done")
except Stop:
    from lexivid.labels.encoders.language_model import FrozenLanguageModel
    from lexivid.backbones import load_backbone
    print(FrozenLanguageModel.load("they/words").lasting_name, load_backbone("they/clip", device="cpu").fingerprint)
"""


def test_a_run_goes_on_with_the_backbone_that_it_began_with(clip_folder: Path, tmp_path: Path) -> None:
    """Another machine, where nothing is cached, and the Hub holds another model under the name by now."""
    torch.set_num_threads(1)
    data, out = cases.make_clips(tmp_path / "data", num=3), tmp_path / "run"
    settings = {**SETTINGS, "model.backbone": "they/clip", "training.epochs": 2, "training.checkpoint_every": 1}
    files = {path.name: path.read_bytes() for path in clip_folder.iterdir()}
    with serve_hub() as (endpoint, hub):
        first = hub.publish("they/clip", files)
        files_of_words = {path.name: path.read_bytes() for path in make_gpt2(tmp_path / "words").iterdir()}
        words = hub.publish("they/words", files_of_words)
        said = _run(TRAINER, data, out, "stop", json.dumps(settings), home=tmp_path / "here", endpoint=endpoint)
        assert said.startswith(f"they/words@{words} they/clip@{first}-")  # label vectors are cached under these
        assert not (out / "config.json").exists()
        assert load_recipe(out / "recipe.yaml").model.backbone == f"they/clip@{first}"
        second = hub.publish("they/clip", {"model.safetensors": b"other weights"})
        assert second != first
        hub.requests.clear()
        _run(TRAINER, data, out, "resume", json.dumps(settings), home=tmp_path / "there", endpoint=endpoint)
        assert any(first in request for request in hub.requests)
        assert not any(second in request or "/main/" in request for request in hub.requests)
    backbone = json.loads((out / "config.json").read_text())["backbone"]
    assert (backbone["name"], backbone["revision"]) == ("they/clip", first)


def test_names_of_the_hub_in_the_recipe_of_a_run() -> None:
    first, second = "1" * 40, "2" * 40

    def of(backbone: str, language_model: str = "world") -> Recipe:
        settings = {"model.backbone": backbone, "labels.language_model": language_model}
        return Recipe.from_dict({}).with_settings(settings)

    def loaded(name: str, commit: str | None) -> Any:
        return SimpleNamespace(name=name, commit=commit)

    encoder = SimpleNamespace(language_model=SimpleNamespace(lasting_name=f"they/words@{second}"))
    assert pinned(of("they/clip", "they/words"), loaded("they/clip", first), encoder) == of(
        f"they/clip@{first}", f"they/words@{second}"
    )
    assert pinned(of("they/clip@v1"), loaded("they/clip@v1", first)) == of(f"they/clip@{first}")
    for name, model in (("lite", SimpleNamespace(name="lite")), ("they/clip", loaded("others/clip", first))):
        assert pinned(of(name), model) == of(name)  # another model was handed in
    begun = of(f"they/clip@{first}", f"they/words@{second}")
    assert as_begun(of("they/clip", "they/words"), begun) == begun
    for other in ("they/clip@v1", "others/clip", f"they/clip@{second}", "lite"):
        assert as_begun(of(other), begun).model.backbone == other
    assert as_begun(of("they/clip"), of("they/clip")) == of("they/clip")  # an earlier Lexivid began it
    check_same(of(f"they/clip@{first}"), of(f"they/clip@{first}"))
    check_same(of(f"they/clip@{first}"), of("they/clip"))
    with pytest.raises(LexividError, match=f"started with 'they/clip@{first}': name that"):
        check_same(of(f"they/clip@{second}"), of(f"they/clip@{first}"))


@pytest.mark.parametrize(
    ("name", "fits"),
    [("they/clip", True), ("they/clip@v1", True), ("they/clip@" + "1" * 40, True), ("they/clip@" + "2" * 40, False),
     ("they/other", False), ("lite", False)],
)  # fmt: skip
def test_a_run_is_resumed_by_the_name_that_began_it(name: str, fits: bool, tmp_path: Path) -> None:
    recipe = Recipe.from_dict({}).with_settings({"model.backbone": "they/clip@" + "1" * 40})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    asked = recipe.with_settings({"model.backbone": name})
    if fits:
        check_folder(tmp_path, asked, resume=True)
    else:
        with pytest.raises(LexividError, match=r"--resume: model.backbone is"):
            check_folder(tmp_path, asked, resume=True)


def _record(run: Path) -> RunClips:
    found = RunClips.load(run)
    assert found is not None
    return found
