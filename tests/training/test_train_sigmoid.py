"""`train` with a sigmoid objective, end to end on a few drawn clips: the run folder, evidence, synthetic labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_cases import COLOURS, make_clip

from lexivid.backbones import load_backbone
from lexivid.backbones.base import Backbone
from lexivid.errors import LexividError, ModelError
from lexivid.models.label_encoders import open_encoder
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.system import System
from lexivid.models.trained import TrainedModel
from lexivid.scoring.calibration import fit_model_calibrations
from lexivid.scoring.features import collect
from lexivid.scoring.heads import predict
from lexivid.synthetic.world.draw import VIDEO, draw, sample_multi_scenes
from lexivid.synthetic.world.nouns import draw_nouns
from lexivid.training import train
from lexivid.training.batches import MemorySamples
from lexivid.training.clips import TrainingClips, open_clips
from lexivid.training.recipe import Recipe, load_recipe

pytest.importorskip("accelerate")
NOUNS = draw_nouns("look", num=6, seed=0)
WORDS, NAMES = tuple(n.words for n in NOUNS), tuple(n.name for n in NOUNS)
BASE, SYNTHETIC = (*WORDS, *NAMES[:4]), NAMES[4:]
SMALL = [
    "training.epochs=2", "training.batch_size=12", "training.warmup_steps=1", "training.average_epochs=2",
    "objective.labels_per_step=8", "data.num_workers=0", "data.num_frames=2", "data.synthetic_weight=0.25",
]  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Backbone:
    return load_backbone("world", device="cpu", dtype="float32")


def clips(num: int, *, seed: int, objects: int = 2) -> MemorySamples:
    """Each shows some of the nouns' objects; targets over BASE and SYNTHETIC, or of one object its place in WORDS."""
    made = []
    for i in range(num):
        g = torch.Generator().manual_seed(1_000 * seed + i)
        shown = [(i + 2 * o) % 6 for o in range(objects)]
        scenes = sample_multi_scenes([[NOUNS[place].meanings[0] for place in shown]], look=VIDEO, generator=g)
        target = torch.zeros(len(BASE) + len(SYNTHETIC), dtype=torch.bool)
        for place in shown:
            target[place] = target[6 + place] = True
        video = draw(scenes, torch.arange(2) * 0.25, size=32, generator=g)[0]
        path = f"clip{seed}-{i}.mp4"
        wanted = target if objects > 1 else shown[0]
        made.append({"video": video, "mask": torch.tensor([True]), "target": wanted, "path": path})
    return MemorySamples(made)


@pytest.fixture(scope="module")
def run(world: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[System]]:
    torch.set_num_threads(1)
    seen: list[System] = []
    data = TrainingClips(clips(24, seed=1), clips(12, seed=2), BASE, synthetic_classes=SYNTHETIC)
    out = tmp_path_factory.mktemp("run") / "ovml"
    train(
        "world-ovml", data, out, set=SMALL, device="cpu", backbone=world, on_epoch=lambda system, _: seen.append(system)
    )
    return out, seen


def test_the_run_folder_is_a_model(run: tuple[Path, list[System]], world: Backbone) -> None:
    out, seen = run
    model = TrainedModel.from_pretrained(out, device="cpu", backbone=world)
    assert model.base_classes == BASE  # without what a model wrote
    assert model.scales is not None
    assert set(model.scales) == {"v_m"}
    assert model.label_encoder is not None
    assert model.label_encoder.kind == "soft_attributes"
    summary = json.loads((out / "train.json").read_text())
    assert (summary["base_classes"], summary["synthetic_classes"]) == (10, 2)
    assert set(summary["held_out"]) == {"mean_average_precision", "loss", "clips"}
    assert summary["exported"] == "average"
    # what was trained is what is read: the same features, labels and probabilities
    system, made = seen[-1], clips(4, seed=3)
    video = torch.stack([made[i]["video"] for i in range(4)])
    with torch.no_grad():
        own = system({"video": world.images.normalise(video.flatten(0, 1)).unflatten(0, (4, 2))}, None).features
        torch.testing.assert_close(model.features(video=video).v_m, own.v_m)
        torch.testing.assert_close(model.embed(list(BASE)), system.label_vectors()[:10])
    p = predict(model, model.features(video=video), model.embed(list(BASE)), head="base")
    assert p.shape == (4, 10)
    assert ((p > 0) & (p < 1)).all()


def test_the_run_folder_is_a_label_encoder(run: tuple[Path, list[System]], world: Backbone) -> None:
    out = run[0]
    model, encoder = (
        TrainedModel.from_pretrained(out, device="cpu", backbone=world),
        open_encoder(str(out), device="cpu"),
    )
    labels = [*WORDS, *NAMES, "a word of another kind"]
    torch.testing.assert_close(encoder.encode(labels), model.embed(labels), atol=1e-6, rtol=0)
    assert model.label_encoder is not None
    assert encoder.identity.fingerprint == model.label_encoder.fingerprint
    assert encoder.identity.kind == "soft_attributes"


def test_evidence_is_stored_with_method_and_error(run: tuple[Path, list[System]], world: Backbone) -> None:
    out = run[0]
    config = json.loads((out / "config.json").read_text())
    assert config["calibration"] is None  # shares against shares: of a softmax alone
    found = TrainedModel.from_pretrained(out, device="cpu", backbone=world).calibrations
    assert set(found) == {"base", "novel"}
    for path, evidence in found.items():
        assert evidence.to_dict() == config["evidence"][path]
        assert evidence.method.startswith("fitted on 12 held-out clips of 10 base classes")
        assert (evidence.num_clips, evidence.num_pairs) == (12, 120)
        assert evidence.slope > 0
        assert evidence.error is not None
        assert 0 <= evidence.error < 0.5
        assert evidence.error_low is not None
        assert evidence.error_high is not None
        assert evidence.error_low <= evidence.error_high
    # one stream and nothing after it: both paths are one
    assert found["base"].slope == pytest.approx(found["novel"].slope, rel=1e-3)


def test_synthetic_labels_weigh_what_the_recipe_says(run: tuple[Path, list[System]]) -> None:
    system = run[1][-1]
    assert system.names == (*BASE, *SYNTHETIC)
    assert system.label_weights.tolist() == [1.0] * 10 + [0.25] * 2


def test_a_self_contained_run_can_move(clip_folder: Path, tmp_path: Path) -> None:
    """Also its label encoder, which takes the backbone inside the folder."""
    torch.set_num_threads(1)
    source = tmp_path / "clip"
    source.mkdir()
    for file in clip_folder.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    recipe = Recipe.from_dict(
        {
            "name": "context",
            "model": {
                "backbone": str(source),
                "modalities": ["video"],
                "num_temporal_layers": 0,
                "num_cross_layers": 0,
            },
            "labels": {"encoder": "learned_context", "num_context": 2},
            "objective": {"kind": "sigmoid"},
            "data": {"num_workers": 0, "num_frames": 2},
            "training": {"epochs": 1, "batch_size": 4, "checkpoint_every": 0},
        }
    )
    train(
        recipe, TrainingClips(clips(4, seed=1), None, (*BASE, *SYNTHETIC)), tmp_path / "run", self_contained=True,
        device="cpu",
    )  # fmt: skip
    before = open_encoder(str(tmp_path / "run"), device="cpu").encode(["red star"])
    (tmp_path / "run").rename(tmp_path / "moved")
    source.rename(tmp_path / "gone")
    torch.testing.assert_close(open_encoder(str(tmp_path / "moved"), device="cpu").encode(["red star"]), before)
    assert TrainedModel.from_pretrained(tmp_path / "moved", device="cpu").label_encoder is not None


def test_all_labels_of_a_clip_hold_beside_cached_features_too(clip_folder: Path, tmp_path: Path) -> None:
    """Labels and what a model wrote, from a manifest; the features of the frozen tower change nothing about them."""
    for place, colour in enumerate(COLOURS.values()):
        make_clip(tmp_path / f"{place}.mp4", colour, step=1, tone_hz=None, num=8)
    rows = ["0.mp4,red;square,warm", "1.mp4,square;green,", "2.mp4,blue,cold;red"]
    manifest = tmp_path / "clips.csv"
    manifest.write_text("path,labels,synthetic\n" + "".join(f"{row}\n" for row in rows))
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    settings = {
        "model.modalities": ["video"], "objective.kind": "sigmoid", "data.synthetic_weight": 0.5, "data.held_out": 0,
        "data.num_workers": 0, "data.num_frames": 2, "data.stride": None,
    }  # fmt: skip
    mov = MOV.from_backbone(backbone, MOVConfig.for_backbone(backbone, modalities=("video",)))
    for looks in (0, 1):
        recipe = Recipe().with_settings(settings | {"data.cache_video_features": looks})
        opened = open_clips(recipe, manifest, mov, backbone.images)
        assert opened.synthetic_classes == ("cold", "warm")
        names = (*opened.base_classes, *opened.synthetic_classes)
        found, doubted = [], []
        for i in range(3):
            made = opened.train[i]
            assert made["video"].ndim == (2 if looks else 4)
            found.append({name for name, holds in zip(names, made["target"].tolist(), strict=True) if holds})
            doubted.append({name for name, weight in zip(names, made["weight"].tolist(), strict=True) if weight == 0.5})
        assert found == [{"red", "square", "warm"}, {"square", "green"}, {"blue", "cold", "red"}]
        assert doubted == [set(), set(), {"red"}]  # a class that a model alone says of this clip
        plain = open_clips(recipe.with_settings({"data.synthetic_weight": 0}), manifest, mov, backbone.images)
        assert plain.synthetic_classes == ()
        told = [made["target"].tolist() for made in (plain.train[i] for i in range(3))]
        classes = zip(plain.base_classes, *told, strict=True)
        assert {name: own for name, *own in classes} == {
            "red": [True, False, False], "square": [True, True, False],
            "green": [False, True, False], "blue": [False, False, True],
        }  # fmt: skip
        assert "weight" not in plain.train[2]


def test_held_out_clips_are_told_what_is_annotated_alone(clip_folder: Path, tmp_path: Path) -> None:
    """Their metrics and the evidence that is fitted on them must not believe a captioner."""
    for place, colour in enumerate(COLOURS.values()):
        for take in range(2):
            make_clip(tmp_path / f"{place}{take}.mp4", colour, step=1, tone_hz=None, num=8)
    rows = [f"{place}{take}.mp4,{name},warm;{other}" for place, (name, other) in
            enumerate([("red", "green"), ("green", "blue"), ("blue", "red")]) for take in range(2)]  # fmt: skip
    manifest = tmp_path / "clips.csv"
    manifest.write_text("path,labels,synthetic\n" + "".join(f"{row}\n" for row in rows))
    recipe = Recipe.from_dict(
        {
            "name": "told", "model": {"backbone": str(clip_folder), "modalities": ["video"]},
            "objective": {"kind": "sigmoid"},
            "data": {"synthetic_weight": 0.5, "held_out": 0.5, "num_workers": 0, "num_frames": 2, "stride": None},
            "training": {"epochs": 1, "batch_size": 2, "checkpoint_every": 0},
        }
    )  # fmt: skip
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    mov = MOV.from_backbone(backbone, MOVConfig.for_backbone(backbone, modalities=("video",)))
    held_out = open_clips(recipe, manifest, mov, backbone.images).held_out
    assert held_out is not None
    assert [made["target"].sum().item() for made in (held_out[i] for i in range(len(held_out)))] == [1] * len(held_out)
    result = train(recipe, manifest, tmp_path / "run", device="cpu", backbone=backbone)
    assert result.summary["synthetic_classes"] == 1
    assert result.metrics["clips"] == len(held_out)


def test_evidence_of_a_model_trained_by_softmax(world: Backbone) -> None:
    """Untrained it is the world's CLIP, whose standings above the world's other words say what a clip shows."""
    torch.set_num_threads(1)
    mov = MOV.from_backbone(world, MOVConfig.for_backbone(world, modalities=("video",))).eval()
    model = TrainedModel(world, mov, WORDS, "world", ("video",))
    samples = clips(30, seed=4, objects=1)
    found, reasons = fit_model_calibrations(model, collect(model, samples, classes=WORDS, num_workers=0))
    assert reasons == {}
    assert set(found) == {"base", "novel"}
    for path, evidence in found.items():
        assert path in evidence.method
        assert "30 held-out clips of 6 base classes" in evidence.method
        assert evidence.fitted_prevalence == pytest.approx(1 / 6)
        assert evidence.error is not None
    # the novel path is colder (tau_v): its standings are larger, and each worth less
    assert found["novel"].slope < found["base"].slope


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["model.frozen_video=true"],
            r"temporal_branches and the regulariser 'interpolation'.*model\.frozen_video",
        ),
        (["model.frozen_video=true", "model.temporal_branches=0"], r"of a trained video tower"),
        (["objective.kind=softmax", "data.synthetic_weight=0.5"], r"synthetic_weight: several labels .* 'sigmoid'"),
        (["objective.kind=sigmoid", "model.base_score=mean"], r"takes neither training.mixup nor model.base_score"),
        (
            ["model.modalities=video,audio", "data.inputs=audio", "training.mixup=0.3"],
            r"'sigmoid' takes neither training.mixup",
        ),
        (["data.synthetic_weight=-1"], r"data.synthetic_weight must be at least 0"),
        (["labels.encoder=words"], r"labels.encoder must be"),
        (["labels.num_context=0"], r"num_context must be at least 1"),
        (["objective.regularisers=l2"], r"unknown regulariser 'l2'"),
    ],
)
def test_recipes_that_cannot_be(settings: list[str], message: str) -> None:
    with pytest.raises((LexividError, ModelError), match=message):
        load_recipe("world-ovml", settings)
