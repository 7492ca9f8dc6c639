"""models/system.py: the objective over MOV's features, and systems with a sigmoid trained by MOV's loop."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import system_cases as cases
import torch
from language_models import make_gpt2
from safetensors.torch import load_file
from torch import Tensor

from lexivid.backbones import load_backbone
from lexivid.data.loader import collate
from lexivid.errors import ModelError
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.encoders.soft_attributes import SoftAttributeConfig, SoftAttributeEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder
from lexivid.metrics.multi_label import mean_average_precision
from lexivid.models.mov import MOVFeatures, mov_loss
from lexivid.models.mov_config import MOVConfig
from lexivid.models.ovml import SigmoidConfig
from lexivid.models.system import FROZEN, System, make_objective, make_teacher, streams_of
from lexivid.scoring.log_odds import base_log_odds
from lexivid.synthetic.world.nouns import draw_nouns
from lexivid.training import loop
from lexivid.training.checkpoint import list_checkpoints, load_checkpoint
from lexivid.training.step import Step

pytest.importorskip("accelerate")
ENCODERS = ["prompts", "learned_context", "soft_attributes"]
PREFIXES = {"labels.encoder": "soft_attributes", "labels.soft_attributes.num_prefixes": 2}


@pytest.fixture(scope="module")
def folders(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"backbone": str(clip_folder), "language_model": str(make_gpt2(tmp_path_factory.mktemp("gpt2")))}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What survives a power cut is not asked here, and asking the disk takes longer than the steps."""
    monkeypatch.setattr("lexivid.training.checkpoint._to_disk", lambda path: None)


def batch(system: System, num: int = 12) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Streams as an encoder takes them, mask, targets."""
    made = cases.samples(num, modalities=system.config.modalities)
    found = collate([made[i] for i in range(num)])
    streams = {name: x if name == "audio" else x.float() / 127.5 - 1 for name, x in found.streams.items()}
    return streams, found.mask, found.targets


# ---- the objective over the streams of MOV


def test_which_streams_are_scored() -> None:
    def of(*modalities: str, **settings: Any) -> tuple[str, ...]:
        return streams_of(MOVConfig(modalities=("video", *modalities), **settings))

    nothing_after = {"num_temporal_layers": 0, "num_cross_layers": 0}
    assert of("flow", "audio") == ("v_m", "flow", "audio", "v")
    assert of("audio", frozen_video=False) == ("v_m", "audio")
    assert of(**nothing_after) == ("v_m",)  # v_m is v
    assert of(frozen_video=False, temporal_branches=2, **nothing_after) == ("v_m",)
    assert of(num_temporal_layers=0, num_cross_layers=1) == ("v_m", "v")


def random_features(num: int = 5) -> MOVFeatures:
    """Of three streams; what is masked holds numbers all the same."""
    g = torch.Generator().manual_seed(0)
    v, v_m, flow, audio = torch.randn(4, num, 24, generator=g)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    return MOVFeatures(v, v_m, {"flow": flow, "audio": audio}, mask)


def test_the_loss_of_several_streams_by_hand(folders: dict[str, str]) -> None:
    """Shares of eq. 9, renormalised over what a clip has; the frozen v counts alpha beside them."""
    model = cases.system(cases.recipe(cases.MOV_SETTINGS, {"model.alpha": 0.6}, **folders))
    assert model.objective is not None
    with torch.no_grad():
        for i, name in enumerate(("v_m", "flow", "audio", "v")):
            model.objective.log_scale[name].fill_(math.log(i + 1))
            model.objective.bias[name].fill_(-0.5 * i)
    features, labels = random_features(), torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
    targets = (torch.arange(30).view(5, 6) % 3 == 0).float()
    weights = torch.tensor([1.0, 1, 0.5, 2, 0, 1])
    shares = [
        {"v_m": 0.6, "flow": 0.2, "audio": 0.2, "v": 0.6},
        {"v_m": 0.75, "audio": 0.25, "v": 0.6},  # .6 and .2 of .8
        {"flow": 0.5, "audio": 0.5},
        {"v_m": 1.0, "v": 0.6},
        {},
    ]
    streams = {"v_m": features.v_m, **features.x_m, "v": features.v}
    total = 0.0
    for row, own in enumerate(shares):
        for name, share in own.items():
            i = ("v_m", "flow", "audio", "v").index(name)
            for k in range(6):
                x, y = streams[name][row].double(), labels[k].double()
                p = 1 / (1 + math.exp(-(float(x @ y / x.norm() / y.norm()) * (i + 1) - 0.5 * i)))
                total -= share * float(weights[k]) * math.log(p if targets[row, k] else 1 - p)
    found = model.label_loss(features, labels, targets, weights).detach()
    assert float(found) == pytest.approx(total / 4, rel=1e-5)  # one of the five clips has nothing


def test_a_masked_stream_changes_nothing(folders: dict[str, str]) -> None:
    """Neither the loss nor a gradient, whatever stands in its place, also by the regularisers."""
    wanted = {"labels.encoder": "learned_context", "objective.regularisers": ["video_distance", "text_distance"]}
    model = cases.system(cases.recipe(cases.MOV_SETTINGS, wanted, **folders))
    streams, mask, targets = batch(model)
    junk = {}
    for i, name in enumerate(cases.ALL):
        gone = ~mask[:, i].view(-1, *[1] * (streams[name].ndim - 1))
        assert gone.any()
        junk[name] = torch.where(gone, torch.full_like(streams[name], 1e3), streams[name])
    results = []
    for given in (streams, junk):
        model.zero_grad()
        loss = model(given, mask, [(1.0, targets)]).loss
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(grad.isfinite().all() for grad in grads.values())
        results.append((loss.detach(), grads))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    assert all(torch.equal(grad, results[1][1][name]) for name, grad in results[0][1].items())


def test_a_clip_without_any_stream_does_not_count(folders: dict[str, str]) -> None:
    """Nor does it in the regularisers: the loss of a batch is that of the clips that are there."""
    wanted = {"objective.regularisers": ["video_distance", "text_distance"], "objective.residual": 0.5}
    model = cases.system(cases.recipe(cases.MOV_SETTINGS, wanted, **folders))
    assert model.objective is not None
    for projector in model.objective.projectors.values():
        torch.nn.init.normal_(projector.fc2.weight)
    streams, mask, targets = batch(model)
    mask[3:6] = False
    keep = mask.any(dim=1)
    loss = model(streams, mask, [(1.0, targets)]).loss
    alone = model({name: x[keep] for name, x in streams.items()}, mask[keep], [(1.0, targets[keep])]).loss
    torch.testing.assert_close(loss, alone)


def test_the_frozen_v_teaches_the_label_encoder_alone(folders: dict[str, str]) -> None:
    model = cases.system(cases.recipe(cases.MOV_SETTINGS, PREFIXES, **folders)).train()
    streams, mask, targets = batch(model)
    features = model.encoder(**streams, mask=mask)
    assert not features.v.requires_grad
    assert features.v_m.requires_grad
    # v alone counts: the others are cut off
    cut = MOVFeatures(features.v, features.v_m.detach(), {n: x.detach() for n, x in features.x_m.items()}, mask)
    model.label_loss(cut, model.label_vectors(), targets.float(), model.label_weights).backward()
    assert not [name for name, p in model.encoder.named_parameters() if p.grad is not None]
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert not [name for name in grads if name.startswith(FROZEN)]
    assert grads["label_encoder.prompting.queries"].abs().max() > 0
    assert grads["objective.bias.v"].abs() > 0


def test_targets_are_places_or_rows_and_may_be_mixed(folders: dict[str, str]) -> None:
    model = cases.system(cases.recipe(cases.MOV_SETTINGS, **folders))
    streams, mask, targets = batch(model)
    places = torch.arange(12) % 6
    rows = torch.eye(6, dtype=torch.bool)[places]
    by_place, by_row = (model(streams, mask, [(1.0, t)]).loss for t in (places, rows))
    torch.testing.assert_close(by_place, by_row, rtol=0, atol=0)
    both = model(streams, mask, [(0.25, rows), (0.75, targets)]).loss  # binary cross entropy is linear in its targets
    torch.testing.assert_close(both, 0.25 * by_row + 0.75 * model(streams, mask, [(1.0, targets)]).loss)
    assert model(streams, mask).loss is None


def test_a_softmax_system_is_movs_loss(folders: dict[str, str]) -> None:
    """Also with a label encoder, which its gradient reaches."""
    recipe = cases.recipe(cases.MOV_SETTINGS, {"labels.encoder": "learned_context"}, **folders)
    model = cases.system(recipe)
    model.objective = None
    streams, mask, _ = batch(model)
    places = torch.arange(12) % 6
    output = model(streams, mask, [(1.0, places)])
    f, c = output.features, model.config
    expected = mov_loss(f.v_m, f.x_m, model.label_vectors(), places, alpha=c.alpha, tau=c.tau, mask=f.mask)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    grad = model.get_parameter("label_encoder.context").grad
    assert grad is not None
    assert grad.abs().max() > 0


def test_regularisers_that_cannot_be(clip_folder: Path) -> None:
    interpolation = SigmoidConfig(regularisers=("interpolation",))
    with pytest.raises(ModelError, match=r"needs a trained video tower: set model\.frozen_video to false"):
        make_objective(interpolation, MOVConfig())
    lite = load_backbone("lite", device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="needs a backbone of the CLIP family; got 'lite'"):
        make_teacher(lite, interpolation, MOVConfig(frozen_video=False))
    clip = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    distance = SigmoidConfig(regularisers=("video_distance",))
    assert make_teacher(clip, distance, MOVConfig()) is None  # the encoder holds it already
    assert make_teacher(clip, SigmoidConfig(), MOVConfig(frozen_video=False)) is None
    assert make_teacher(clip, distance, MOVConfig(frozen_video=False)) is not None


# ---- trained by the loop


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", ["mov", "ovml"])
def test_it_learns_one_batch(kind: str, encoder: str, folders: dict[str, str], tmp_path: Path) -> None:
    """Twelve clips by heart; what is frozen stays, and is in no checkpoint."""
    fast = {
        "labels.encoder": encoder, "training.epochs": 50, "training.batch_size": 12, "training.lr": 1e-2,
        "training.tower_lr": 5e-3, "training.scale_lr": 0.1, "training.clip_norm": 5.0, "training.checkpoint_every": 0,
        "training.evaluate_every": 50, "objective.labels_per_step": None,
    }  # fmt: skip
    recipe = cases.recipe(cases.SETTINGS[kind], fast, **folders)
    before = {name: value for name, value in cases.system(recipe).state_dict().items() if name.startswith(FROZEN)}
    model, result = cases.run(tmp_path, recipe, num=12)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    streams, mask, targets = batch(model)
    assert model.objective is not None
    with torch.no_grad():
        features = model(streams, mask).features
        found = base_log_odds(features, model.label_vectors(), model.objective.scales())
    assert mean_average_precision(found.numpy(), targets.numpy()) > 0.85
    right = float(((found > 0) == targets).double().mean())
    assert right > 0.8  # two of six labels hold: saying that none does is right by two thirds
    metrics = result.state.metrics
    assert set(metrics) == {"mean_average_precision", "loss", "clips"}
    assert metrics["clips"] == 9
    assert metrics["mean_average_precision"] > 0.85  # chance is about a third
    after = model.state_dict()
    frozen = {"mov": "encoder.towers.video.", "ovml": "teacher."}[kind]
    assert any(name.startswith(frozen) for name in before)
    assert encoder == "prompts" or any(name.startswith("label_encoder.text_encoder.") for name in before)
    assert encoder != "soft_attributes" or any(name.startswith("label_encoder.language_model.") for name in before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    saved = load_checkpoint(list_checkpoints(tmp_path / "checkpoints", "step")[-1])
    assert not [name for name in saved.model if name.startswith(FROZEN)]
    assert not [name for name in saved.optimizer if name.startswith(FROZEN)]
    assert not [name for name in result.weights if name.startswith(FROZEN)]
    assert "objective.bias.v_m" in saved.model
    assert (encoder == "soft_attributes") == ("label_encoder.prompting.queries" in saved.model)


def test_gradients_reach_prefixes_through_both_frozen_models(folders: dict[str, str]) -> None:
    """In the whole system: from the loss over clips, through CLIP's text encoder and through the language model."""
    model = cases.system(cases.recipe(cases.OVML_SETTINGS, PREFIXES, **folders)).train()
    streams, mask, targets = batch(model)
    model(streams, mask, [(1.0, targets)]).loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert grads["label_encoder.prefixes"].abs().sum(dim=-1).min() > 0  # each of them
    assert not [name for name in grads if name.startswith(FROZEN)]
    trainable = {name for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    assert trainable - grads.keys() == set()


def _stop(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Interrupt the loop before step `after`."""
    step, done = Step.__call__, []

    def stopping(self: Step, *args: Any, **kwargs: Any) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Step, "__call__", stopping)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mov", {"labels.encoder": "learned_context"}),
        ("ovml", PREFIXES),
        ("ovml", {"labels.encoder": "soft_attributes", "training.export": "average", "training.average_epochs": 2}),
    ],
    ids=["mov", "prefixes", "average"],
)
def test_resume_equals_no_resume(
    kind: str, settings: dict[str, Any], folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with labels and weights drawn at random: stopped within an epoch, and before the last step."""
    recipe = cases.recipe(cases.SETTINGS[kind], settings, **folders)
    whole = cases.run(tmp_path / "whole", recipe)[1]
    assert whole.state.step == 6
    for after in (1, 5):
        with monkeypatch.context() as patch:
            _stop(patch, after)
            with pytest.raises(KeyboardInterrupt):
                cases.run(tmp_path / str(after), recipe)
        again = cases.run(tmp_path / str(after), recipe, resume=True)[1]
        assert again.state.metrics == whole.state.metrics
        assert again.weights.keys() == whole.weights.keys()
        for name, value in whole.weights.items():
            assert torch.equal(again.weights[name], value), name


def test_what_a_language_model_said_does_not_depend_on_company(clip_folder: Path) -> None:
    """Not by one bit: after a resume, labels are asked for in another company than before."""
    text = FrozenTextEncoder(load_backbone(str(clip_folder), device="cpu", dtype="float32"))
    labels = [noun.name for noun in draw_nouns("look", num=40, seed=0)]
    results = []
    for groups in ([labels], [*([label] for label in labels), labels]):
        torch.manual_seed(0)
        encoder = SoftAttributeEncoder(
            FrozenLanguageModel.load("world"), text, SoftAttributeConfig(num_heads=2)
        ).train()
        with torch.no_grad():
            results.append([encoder(group) for group in groups][-1])
    assert torch.equal(*results)


@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_killed_between_the_average_and_the_step(
    checkpoint_every: int, folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch's weights are on disk for the average, its step is not: it is trained again, to the same weights."""
    settings = {
        "labels.encoder": "learned_context", "training.export": "average", "training.average_epochs": 2,
        "training.checkpoint_every": checkpoint_every,
    }  # fmt: skip
    recipe = cases.recipe(cases.OVML_SETTINGS, settings, **folders)
    whole = cases.run(tmp_path / "whole", recipe)[1]
    save = loop.save_checkpoint

    def stopping(*args: Any, **kwargs: Any) -> Path:
        path = save(*args, **kwargs)
        if path.name == "average-00000004":
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stopping)
        with pytest.raises(KeyboardInterrupt):
            cases.run(tmp_path / "killed", recipe)
    assert list_checkpoints(tmp_path / "killed" / "checkpoints", "average")
    again = cases.run(tmp_path / "killed", recipe, resume=True)[1]
    last = list_checkpoints(tmp_path / "killed" / "checkpoints", "average")
    assert [path.name for path in last] == ["average-00000004", "average-00000006"]
    states = [load_checkpoint(path).model for path in last]
    for name, value in whole.weights.items():
        assert torch.equal(again.weights[name], value), name
        mean = (states[0][name].double() + states[1][name].double()) / 2
        torch.testing.assert_close(value, mean.to(value.dtype), rtol=1e-6, atol=1e-7)
    moved = states[0]["objective.bias.v_m"] != states[1]["objective.bias.v_m"]
    assert moved  # or the mean would say nothing


def _assert_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """All weights but the keys' biases, which change no output (see test_training.py)."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        if "k_proj.bias" not in name and "key.bias" not in name and "in_proj_bias" not in name:
            torch.testing.assert_close(
                value, b[name], atol=2e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
            )


EVEN = {
    "labels.encoder": "soft_attributes", "labels.soft_attributes.num_prefixes": 1, "training.epochs": 2,
    "objective.regularisers": ["video_distance", "text_distance"],
}  # fmt: skip
"""Nothing is drawn in a step; clips lack streams, so that parts of a batch have other clips with pictures."""


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_micro_batches_are_the_whole_batch(micro_batch: int, folders: dict[str, str], tmp_path: Path) -> None:
    settings = cases.MOV_SETTINGS | EVEN | {"labels.encoder": "learned_context"}
    whole = cases.run(tmp_path / "whole", cases.recipe(settings, **folders))[1]
    parts = cases.recipe(settings, {"training.micro_batch": micro_batch}, **folders)
    _assert_close(cases.run(tmp_path / "parts", parts)[1].weights, whole.weights)


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_step_draws_once(micro_batch: int, folders: dict[str, str], tmp_path: Path) -> None:
    """Which labels are computed, and where between two towers: the same for all micro-batches."""
    settings = cases.OVML_SETTINGS | {"labels.encoder": "learned_context", "training.epochs": 2}
    whole = cases.run(tmp_path / "whole", cases.recipe(settings, **folders))[1]
    parts = cases.recipe(settings, {"training.micro_batch": micro_batch}, **folders)
    _assert_close(cases.run(tmp_path / "parts", parts)[1].weights, whole.weights)


@pytest.mark.slow
def test_two_processes_train_the_same_system(folders: dict[str, str], tmp_path: Path) -> None:
    """DDP over gloo, with a label encoder and distances, against one process."""
    one, result = cases.run(tmp_path / "one", cases.recipe(cases.MOV_SETTINGS, EVEN, **folders))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(Path(cases.__file__)), str(tmp_path / "two"), repr({"settings": EVEN, "folders": folders})]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LEXIVID_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    _assert_close(load_file(tmp_path / "two" / "final.safetensors"), result.weights)
    metrics = load_checkpoint(list_checkpoints(tmp_path / "two" / "checkpoints", "step")[-1]).state["metrics"]
    assert metrics == pytest.approx(result.state.metrics, rel=1e-2)
    assert not one.training
