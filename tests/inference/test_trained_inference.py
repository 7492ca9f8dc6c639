"""From clips to a run folder to a classifier: train, models/trained.py, inference_trained.py, the command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from safetensors.torch import load_file
from typer.testing import CliRunner

import lexivid
from lexivid.backbones import load_backbone
from lexivid.cli import app
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.run_clips import RunClips
from lexivid.errors import LexividError, MediaError, ModelError
from lexivid.inference.classifier import Classifier
from lexivid.inference.loading import load as load_classifier
from lexivid.inference.prediction import Prediction
from lexivid.inference.trained import Trained
from lexivid.media.views import Views, ViewsAsked
from lexivid.models.calibration import BaseNovelOffset
from lexivid.models.mov import FROZEN_PREFIX, MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.serialization import is_trained_model, update_config
from lexivid.models.trained import TrainedModel
from lexivid.scoring.base_novel_offset import combine
from lexivid.training import train
from lexivid.training.clips import open_clips

pytest.importorskip("accelerate")
SETTINGS = {
    "model.modalities": ["video", "flow", "audio"], "model.num_heads": 2, "model.mlp_ratio": 1, "model.tau": 0.1,
    "model.tau_a": 0.1, "model.tau_f": 0.1, "model.tau_v": 0.03, "model.templates": "name", "data.num_workers": 0,
    "data.num_frames": 4, "data.stride": None, "data.flow_size": 32, "data.audio_s": 1, "data.spec_time": 20,
    "data.crop_scale": 0.8, "data.held_out": 0.34, "training.epochs": 20, "training.batch_size": 6, "training.lr": 3e-3,
    "training.clip_norm": 1.0, "data.cache_video_features": 2,
}  # fmt: skip
LABELS = ["red", "green", "purple"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.make_clips(tmp_path_factory.mktemp("clips") / "data")


@pytest.fixture(scope="module")
def run(clips: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    torch.set_num_threads(1)
    recipe = cases.Recipe.from_dict({"name": "tiny"}).with_settings({**SETTINGS, "model.backbone": str(clip_folder)})
    train(recipe, clips, out, device="cpu")
    return out


@pytest.fixture
def classifier(run: Path) -> Classifier:
    found = lexivid.load(str(run), device="cpu")
    assert isinstance(found.video_model, Trained)
    return found


def _scores(prediction: Prediction) -> dict[str, float]:
    return {item.label: item.score for item in prediction.labels}


def test_run_folder(run: Path, clips: Path) -> None:
    assert is_trained_model(run)
    config = json.loads((run / "config.json").read_text())
    assert config["model_type"] == "lexivid-mov"
    assert config["base_classes"] == ["blue", "green", "red"]
    assert not [key for key in load_file(run / "model.safetensors") if key.startswith(FROZEN_PREFIX)]
    summary = json.loads((run / "train.json").read_text())
    assert summary["clips"] == 12
    assert summary["clips_held_out"] == 6
    assert summary["held_out"]["accuracy"] == 1.0
    assert json.loads((run / "split.json").read_text())["base"] == ["blue", "green", "red"]
    with pytest.raises(LexividError, match="holds a run already"):
        train("lite-mov", clips, run)
    with pytest.raises(LexividError, match=r"--resume: training.lr is 1.0, but .* started with 0.003"):
        train(run / "recipe.yaml", clips, run, resume=True, set=["training.lr=1"])


def test_clips_are_read_as_in_training(run: Path) -> None:
    model = TrainedModel.from_pretrained(run, device="cpu")
    spec = model.sample_spec()
    assert (spec.num_frames, spec.stride, spec.flow_size, spec.audio_s) == (4, None, 32, 1)
    assert (spec.train, spec.num_clips, spec.num_audio_views, spec.reads) == (False, 1, 1, model.inputs)
    spec = model.sample_spec(Views(8, 2, 3, stride=4), inputs=("flow",))
    assert (spec.num_frames, spec.stride, spec.num_audio_views, spec.reads) == (8, 4, 6, ("flow",))
    assert spec.flow_size == 32


def test_files_are_looked_at_as_in_training(run: Path) -> None:
    classifier = load_classifier(run, device="cpu")
    assert classifier.default_views == Views(num_frames=4, stride_rate="native")
    classifier.video_model.model.sampling = ClipSampling(num_frames=8, stride=2, stride_rate="native")
    assert classifier.default_views == Views(num_frames=8, num_clips=4, stride=2, stride_rate="native")
    assert classifier.views_of(ViewsAsked("4x3")) == Views(8, 4, 3, 2, "native")
    assert classifier.views_of(ViewsAsked(num_frames=4)) == Views(4, 4, 1, 2, "native")


FILES = ("config.json", "train.json", "model.safetensors", "clips.jsonl", "split.json")


def _contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES}


def test_resume_of_a_finished_run_does_nothing(
    run: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its calibration, and without its checkpoints, which may be deleted."""
    copy = shutil.copytree(run, tmp_path / "copy")
    assert not (copy / "checkpoints").exists()
    before = _contents(copy)
    assert json.loads(before["config.json"])["calibration"]
    assert json.loads(before["config.json"])["not_fitted"].keys() <= {"evidence", "evidence base", "evidence novel"}
    monkeypatch.setattr("lexivid.training.run.fit", None)
    monkeypatch.setattr("lexivid.training.run.calibrate", None)
    done = train(copy / "recipe.yaml", clips, copy, resume=True, set=["training.keep_checkpoints=1"], device="cpu")
    assert done.had_ended
    assert "had ended before: nothing was done" in done.describe()
    assert done.metrics == json.loads(before["train.json"])["held_out"]
    assert _contents(copy) == before
    (copy / "train.json").unlink()
    with pytest.raises(LexividError, match=r"holds a trained model, and train\.json beside it is missing"):
        train(copy / "recipe.yaml", clips, copy, resume=True, device="cpu")


def test_a_calibration_that_was_interrupted_is_made(
    run: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clips that the run kept back, of data that have grown and moved; training is not repeated."""
    copy = shutil.copytree(run, tmp_path / "copy")
    expected = _contents(copy)
    update_config(copy, calibration=None, evidence={}, not_fitted={})
    summary = json.loads(expected["train.json"])
    for key in ("calibration", "evidence", "not_fitted"):
        summary.pop(key)
    (copy / "train.json").write_text(json.dumps(summary))
    moved = shutil.copytree(clips, tmp_path / "moved")
    cases.make_clip(moved / "red" / "00.mp4", cases.COLOURS["red"], step=1, tone_hz=310.0)
    monkeypatch.setattr("lexivid.training.run.fit", None)
    done = train(copy / "recipe.yaml", moved, copy, resume=True, device="cpu")
    assert not done.had_ended
    config, before = json.loads((copy / "config.json").read_text()), json.loads(expected["config.json"])
    assert config["calibration"]["num_clips"] == before["calibration"]["num_clips"] == 6
    assert config["calibration"]["offset"] == pytest.approx(before["calibration"]["offset"], abs=1e-6)
    assert json.loads((copy / "train.json").read_text())["calibration"] == config["calibration"]


def test_a_resumed_run_keeps_its_clips(clips: Path, clip_folder: Path, tmp_path: Path) -> None:
    """Clips that are added to the data between two calls are no clips of the run, and none changes sides."""
    data = shutil.copytree(clips, tmp_path / "data")
    settings = {**SETTINGS, "model.backbone": str(clip_folder), "training.epochs": 2, "data.inputs": ["video"]}
    recipe = cases.Recipe.from_dict({"name": "tiny"}).with_settings(settings)

    def stop(_: object, epochs_done: int) -> None:
        if epochs_done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "run", device="cpu", on_epoch=stop)
    begun = RunClips.load(tmp_path / "run")
    assert begun is not None
    for i in range(4):
        cases.make_clip(data / "red" / f"0{i}.mp4", cases.COLOURS["red"], step=1, tone_hz=310.0 + i)
    data.rename(tmp_path / "renamed")
    done = train(recipe, tmp_path / "renamed", tmp_path / "run", resume=True, device="cpu")
    assert (done.summary["clips"], done.summary["clips_held_out"], done.failures) == (12, 6, {})
    now = RunClips.load(tmp_path / "run")
    assert now is not None
    assert now.digest == begun.digest
    shutil.rmtree(tmp_path / "renamed")
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "other" / "red").mkdir(parents=True)
    cases.make_clip(tmp_path / "other" / "red" / "0.mp4", cases.COLOURS["red"], step=1, tone_hz=777.0)
    with pytest.raises(LexividError, match=r"--resume: none of the 18 clips that the run was started with is in"):
        train(recipe, tmp_path / "other", tmp_path / "run", resume=True, device="cpu")


def test_what_could_not_be_done_is_said(clips: Path, clip_folder: Path, tmp_path: Path) -> None:
    """No clips kept back: nothing is the best on them, and nothing is calibrated; both stand in the folder."""
    settings = {**SETTINGS, "model.backbone": str(clip_folder), "training.epochs": 1, "data.inputs": ["video"]}
    settings |= {"data.held_out": 0, "training.export": "best"}
    recipe = cases.Recipe.from_dict({"name": "tiny"}).with_settings(settings)
    done = train(recipe, clips, tmp_path / "run", device="cpu")
    assert (done.summary["exported"], done.summary["export_asked"]) == ("last", "best")
    told = " ".join(done.warnings())
    assert "training.export is 'best', but there are no such weights" in told
    assert "calibration could not be fitted: no clips were held out of training" in told
    classifier = lexivid.load(str(tmp_path / "run"), device="cpu")
    assert (
        "no offset between base and novel labels (no clips were held out of training"
        in classifier.prepare(LABELS).warnings[0]
    )
    with pytest.raises(ModelError, match="no clips were held out of training"):
        classifier.check_multi_label(classifier.prepare(LABELS))


def test_a_recipe_means_the_same_from_anywhere(
    clips: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that it names by relative paths; folders called like models that come with the package are not meant."""
    (tmp_path / "lite").mkdir()
    (tmp_path / "world").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = cases.Recipe().with_settings(
        {"model.init_from": "first", "data.class_split": "split.json", "data.names": "names.csv", "data.lists": "lists",
         "model.templates": "sentences.txt", "model.backbone": "lite"}
    ).with_absolute_paths()  # fmt: skip
    assert recipe.model.init_from == str(tmp_path / "first")
    assert recipe.model.templates == str(tmp_path / "sentences.txt")
    assert (recipe.data.class_split, recipe.data.names, recipe.data.lists) == tuple(
        str(tmp_path / name) for name in ("split.json", "names.csv", "lists")
    )
    assert (recipe.model.backbone, recipe.labels.language_model) == ("lite", "world")
    assert recipe.with_absolute_paths() == recipe
    shutil.copytree(clip_folder, tmp_path / "clip")
    relative = recipe.with_settings({"model.backbone": "clip", "model.templates": "name"}).with_absolute_paths()
    assert (relative.model.backbone, relative.model.templates) == (str(tmp_path / "clip"), "name")


def test_features_from_the_cache_change_nothing(clips: Path, clip_folder: Path) -> None:
    """What a look gives from the cache, against the frozen tower on the pictures of that look."""
    recipe = cases.Recipe().with_settings({**SETTINGS, "model.backbone": str(clip_folder)})
    plain = recipe.with_settings({"data.cache_video_features": 0})
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    mov = MOV.from_backbone(backbone, MOVConfig.for_backbone(backbone, **recipe.model.mov_settings()))
    cached = open_clips(recipe, clips, mov, backbone.images)
    fresh = open_clips(plain, clips, mov, backbone.images)
    assert cached.held_out is not None
    assert fresh.held_out is not None
    for a, b, epochs in ((cached.train, fresh.train, (0, 1, 2)), (cached.held_out, fresh.held_out, (0, 4))):
        for epoch in epochs:
            a.set_epoch(epoch)
            for i in range(len(a)):
                b.set_epoch(epoch % 2)
                seen, made = a[i], b[i]
                expected = mov.towers["video"](backbone.images.normalise(made["video"]))
                torch.testing.assert_close(seen["video"], expected)
                # The same draw; but without frames its box is rounded to the pixels of the flow.
                assert (seen["flow"].float() - made["flow"].float()).abs().mean() < 1
                b.set_epoch(epoch)  # sound is drawn anew
                assert torch.equal(seen["audio"], b[i]["audio"])
                assert (seen["mask"].tolist(), seen["target"]) == (made["mask"].tolist(), made["target"])


def test_classify(classifier: Classifier, clips: Path) -> None:
    prediction = classifier.classify(clips / "red" / "0.mp4", LABELS, label_split="base")
    assert prediction.modalities == ("video", "flow", "audio") == tuple(prediction.by_modality)
    assert sum(_scores(prediction).values()) == pytest.approx(1, abs=1e-5)
    assert prediction.labels[0].label == "red"
    assert prediction.model == classifier.name
    for name in ("red", "green", "blue"):
        for i in range(6):
            found = classifier.classify(clips / name / f"{i}.mp4", "red, green, blue", label_split="base")
            assert found.labels[0].label == name


def test_who_classifies_a_training_clip_is_told(run: Path, classifier: Classifier, clips: Path, tmp_path: Path) -> None:
    """Whatever the clip is called and wherever it lies; with a timeline too. Others pass without a word."""
    record = RunClips.load(run)
    assert record is not None
    told = ("the model was trained on this file, so its scores say little about other files",)
    trained_on, kept_back = record.train[0].path, record.held_out[0].path
    copy = shutil.copy(trained_on, tmp_path / "other name.mp4")
    other = cases.make_clip(tmp_path / "0.mp4", cases.COLOURS["red"], step=3, tone_hz=310.0)
    found = classifier.classify_many([trained_on, copy, kept_back, other], LABELS, label_split="base")
    assert [prediction.warnings for prediction in found] == [told, told, (), ()]
    assert classifier.classify(copy, "red, green", timeline_s=1, label_split="base").warnings == told


def test_equations(classifier: Classifier, clips: Path) -> None:
    """Base by eq. 10, novel by eq. 11 and 12, mixed by both with the offset; by_modality from the terms."""
    path, model = clips / "green" / "1.mp4", classifier.video_model.model
    vocabulary = classifier.prepare(LABELS)
    tau, beta = 0.1, 0.25
    found = {kind: classifier.classify(path, vocabulary, label_split=kind) for kind in ("base", "novel", "mixed")}

    def column(prediction: Prediction, name: str | None = None) -> np.ndarray:
        items = prediction.labels if name is None else prediction.by_modality[name]
        return np.array([{x.label: x.score for x in items}[label] for label in LABELS])

    novel = found["novel"]
    by_hand = (1 - beta) * column(novel, "video") + beta / 2 * (column(novel, "flow") + column(novel, "audio"))
    np.testing.assert_allclose(column(novel), by_hand, atol=1e-5)
    np.testing.assert_allclose(column(found["base"]), column(found["base"], "video"), atol=1e-6)  # v_m alone
    frozen = lexivid.inference.classifier.Classifier(model.backbone)
    zero_shot = frozen.classify(path, vocabulary, views=Views(num_frames=4))
    logits = np.log(column(zero_shot)) * model.backbone.temperature / 0.03
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(column(novel, "video"), expected, atol=1e-3)  # the frozen v, at tau_v
    assert model.base_novel_offset is not None
    offset = BaseNovelOffset.from_dict(model.base_novel_offset).offset_for(
        1
    )  # of the three labels one is no base class
    paths = np.log(column(found["base"])), np.log(column(novel))
    joined = combine(*paths, np.array([True, True, False]), offset=offset)
    np.testing.assert_allclose(column(found["mixed"]), joined, atol=1e-4)
    assert tau == model.mov.config.tau


def test_an_offset_of_other_views_is_told(run: Path, clips: Path) -> None:
    """Fitted with one view of a clip."""
    classifier, path = lexivid.load(str(run), device="cpu"), clips / "blue" / "0.mp4"
    one, two = (classifier.classify(path, LABELS, views=Views(4, num_clips=n)) for n in (1, 2))
    assert not any("fitted with" in text for text in one.warnings)
    assert any("fitted with 1 view(s)" in text and "are 2" in text for text in two.warnings)
    novel = lexivid.load(str(run), device="cpu", label_split="novel").classify(path, LABELS, views=Views(4, 2))
    assert not any("fitted with" in text for text in novel.warnings)


def test_mixed_falls_back(run: Path, clips: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"calibration": None}))
    classifier = lexivid.load(str(copy), device="cpu")
    path = clips / "blue" / "0.mp4"
    mixed = classifier.classify(path, LABELS)
    assert any("no offset" in text for text in mixed.warnings)
    assert mixed.labels == lexivid.load(str(copy), device="cpu", label_split="novel").classify(path, LABELS).labels
    update_config(copy, calibration={"offset": 50.0})  # novel labels far ahead
    again = lexivid.load(str(copy), device="cpu").classify(path, LABELS)
    assert again.warnings == ()
    assert again.labels[0].label == "purple"
    with pytest.raises(LexividError, match="choose base, novel or mixed"):
        lexivid.load(str(copy), label_split="both")


def test_modalities_can_be_restricted(classifier: Classifier, clips: Path) -> None:
    path = clips / "red" / "0.mp4"
    sound = classifier.classify(path, LABELS, modalities=["audio"], label_split="base")
    assert sound.modalities == ("audio",) == tuple(sound.by_modality)
    assert sound.labels == sound.by_modality["audio"]
    both = classifier.classify(path, LABELS, modalities=["video", "audio"])
    assert both.modalities == ("video", "audio")
    with pytest.raises(ModelError, match="unknown modality 'smell'"):
        classifier.classify(path, LABELS, modalities=["smell"])


def test_missing_streams_are_masked_and_said(classifier: Classifier, tmp_path: Path) -> None:
    silent = cases.make_clip(tmp_path / "silent.mp4", cases.COLOURS["red"], step=2, tone_hz=None)
    prediction = classifier.classify(silent, LABELS, label_split="base")
    assert prediction.modalities == ("video", "flow")
    assert prediction.warnings == ("the file has no sound: classified without",)
    still = cases.make_clip(tmp_path / "still.mp4", cases.COLOURS["red"], step=2, tone_hz=None, num=1)
    prediction = classifier.classify(still, LABELS)
    assert prediction.modalities == ("video",)
    assert len(prediction.warnings) == 2
    with pytest.raises(MediaError, match="has none of: audio"):
        classifier.classify(silent, LABELS, modalities=["audio"])
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    rows = list(classifier.classify_many([silent, tmp_path / "broken.mp4", tmp_path / "none.mp4"], LABELS))
    assert [row.error is None for row in rows] == [True, False, False]


def test_views_and_thumbnails(classifier: Classifier, clips: Path) -> None:
    views = Views(num_frames=4, num_clips=2, num_crops=3, stride=2)
    prediction = classifier.classify(clips / "red" / "0.mp4", LABELS, views=views, num_thumbnails=3)
    assert sum(_scores(prediction).values()) == pytest.approx(1, abs=1e-5)
    assert len(prediction.thumbnails) == 3


def test_timeline(classifier: Classifier, clips: Path, tmp_path: Path) -> None:
    prediction = classifier.classify(
        clips / "red" / "0.mp4", "red, green, blue", timeline_s=0.8, label_split="base", num_thumbnails=2
    )
    assert prediction.segments
    assert prediction.segments[0].start_s == 0.0
    assert prediction.segments[-1].end_s == pytest.approx(2.0, abs=0.15)
    assert prediction.modalities == ("video", "flow", "audio")
    assert prediction.labels[0].label == "red"
    assert len(prediction.thumbnails) == 2
    silent = cases.make_clip(tmp_path / "silent.mp4", cases.COLOURS["red"], step=2, tone_hz=None)
    assert classifier.classify(silent, LABELS, timeline_s=9.0).modalities == ("video", "flow")


def test_self_contained_and_moved(run: Path, clips: Path, clip_folder: Path, tmp_path: Path) -> None:
    model = TrainedModel.from_pretrained(run, device="cpu")
    model.save_pretrained(tmp_path / "whole", self_contained=True)
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    config["backbone"]["name"] = "/nowhere"
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config))
    again = lexivid.load(str(tmp_path / "whole"), device="cpu")
    path = clips / "red" / "0.mp4"
    labels = lexivid.load(str(run), device="cpu").classify(path, LABELS).labels
    assert [x.label for x in labels] == [x.label for x in again.classify(path, LABELS).labels]
    other = _other_backbone(tmp_path / "other")
    config["backbone"]["name"] = str(other)
    shutil.rmtree(tmp_path / "whole" / "backbone")
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="with other weights"):
        lexivid.load(str(tmp_path / "whole"), device="cpu")


def _other_backbone(folder: Path) -> Path:
    from checkpoints import make_clip

    return make_clip(folder, seed=5)


def test_what_is_no_model(tmp_path: Path, run: Path) -> None:
    assert not is_trained_model(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ModelError, match="training is not finished"):
        TrainedModel.from_pretrained(tmp_path)
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="cannot be read"):
        TrainedModel.from_pretrained(copy, device="cpu")
    damaged = shutil.copytree(run, tmp_path / "damaged")
    update_config(damaged, sampling={"num_frames": "four"})
    with pytest.raises(ModelError, match=r"damaged.*\"sampling\" in config.json cannot be used.*'four'"):
        TrainedModel.from_pretrained(damaged, device="cpu")
    with pytest.raises(ModelError, match="no trained model"):
        TrainedModel.from_pretrained("nowhere")
    with pytest.raises(ModelError, match="cannot be fetched from the Hub"):
        TrainedModel.from_pretrained("nobody/nothing", local_files_only=True)


def test_push_to_hub(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    uploaded: dict[str, Any] = {}

    class Api:
        def __init__(self, token: object = None) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> Any:
            return type("Repo", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
            uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).glob("*.*")}, repo=repo_id)
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert TrainedModel.from_pretrained(run, device="cpu").push_to_hub("colours") == "https://hub/commit"
    assert uploaded["repo"] == "me/colours"
    assert {"config.json", "model.safetensors", "README.md"} <= uploaded.keys()
    assert b"lexivid.load('me/colours')" in uploaded["README.md"]


def test_command_line(clips: Path, clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(
        cases.Recipe().with_settings({**SETTINGS, "model.backbone": str(clip_folder)}).to_yaml()
    )
    out = tmp_path / "run"
    command = ["train", str(tmp_path / "tiny.yaml"), "--data", str(clips), "--out", str(out), "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, "--set", "training.epochs=1", "--self-contained"])
    assert done.exit_code == 0, done.output
    assert "12 clips of 3 base classes, 2 steps" in done.stdout
    assert (out / "backbone" / "config.json").is_file()
    video = str(clips / "red" / "0.mp4")
    for kind in ("base", "novel", "mixed"):
        options = ["--labels", "red, purple", "--label-split", kind, "--format", "json", "--device", "cpu"]
        done = CliRunner().invoke(app, ["classify", video, "--model", str(out), *options])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)[0]["modalities"] == ["video", "flow", "audio"]


_SLOW_CALIBRATION = """
import datetime, sys, time, torch
from pathlib import Path
from lexivid.training import run as module

fit, calibrate = module.fit, module.calibrate

def fit_with_a_short_time_limit(*args, **options):
    found = fit(*args, **options)
    torch.distributed.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=2), torch.distributed.group.WORLD)
    return found

def slow(*args, **options):
    time.sleep(6)
    calibrate(*args, **options)

module.fit, module.calibrate = fit_with_a_short_time_limit, slow
torch.set_num_threads(1)
done = module.train(sys.argv[1], sys.argv[2], sys.argv[3], device="cpu")
assert done.summary["processes"] == 2
print("main" if done.is_main_process else "other", "calibration" in done.summary, flush=True)
"""


@pytest.mark.slow
def test_a_calibration_longer_than_the_processes_time_limit(clips: Path, clip_folder: Path, tmp_path: Path) -> None:
    """Two gloo processes: the first calibrates alone, and the other does not wait for it."""
    settings = {**SETTINGS, "model.backbone": str(clip_folder), "training.epochs": 1, "data.inputs": ["video"]}
    (tmp_path / "tiny.yaml").write_text(cases.Recipe().with_settings(settings).to_yaml())
    (tmp_path / "program.py").write_text(_SLOW_CALIBRATION)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(tmp_path / "program.py"), str(tmp_path / "tiny.yaml"), str(clips), str(tmp_path / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split("\n")[:2]) == ["main True", "other False"]
    assert TrainedModel.from_pretrained(tmp_path / "run", device="cpu").base_novel_offset is not None
    record = RunClips.load(tmp_path / "run")
    assert record is not None
    assert len(record.contents) == 18  # of which each process read its share


@pytest.mark.slow
def test_kill_minus_nine_of_the_command(clips: Path, clip_folder: Path, tmp_path: Path) -> None:
    """`lexivid train` killed at random moments from its start on: reading, caching features, training, writing."""
    rng = random.Random(4)
    settings = {**SETTINGS, "model.backbone": str(clip_folder), "training.epochs": 30, "training.checkpoint_every": 1}
    (tmp_path / "tiny.yaml").write_text(cases.Recipe().with_settings(settings).to_yaml())

    def command(out: str, cache: str) -> tuple[list[str], dict[str, str]]:
        arguments = [sys.executable, "-m", "lexivid", "train", str(tmp_path / "tiny.yaml"), "--data", str(clips)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LEXIVID_CACHE": str(tmp_path / cache)}
        return [*arguments, "--out", str(tmp_path / out), "--device", "cpu", "--resume"], environment

    arguments, environment = command("whole", "cache-whole")
    start = time.monotonic()
    subprocess.run(arguments, env=environment, check=True, capture_output=True, timeout=300)
    whole_s, kills = time.monotonic() - start, 0
    arguments, environment = command("killed", "cache-killed")
    for _ in range(8):
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.3, 1.0) * whole_s)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    subprocess.run(arguments, env=environment, check=True, capture_output=True, timeout=300)
    assert kills >= 2
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
