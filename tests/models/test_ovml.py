"""OVML: untrained it is CLIP; the branch sees time; losses and regularisers against hand-worked numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexivid.backbones import load_backbone
from lexivid.backbones.base import Backbone
from lexivid.errors import ModelError
from lexivid.labels.encoders.coop import LearnedContextEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.ovml import (
    SigmoidConfig,
    asymmetric_loss,
    average_weights,
    bce_loss,
    frame_positions,
    interpolated,
    make_video_tower,
    residual_distance,
    sample_labels,
)
from lexivid.models.system import FROZEN, System, make_objective, make_teacher
from lexivid.models.towers import make_frozen_tower
from lexivid.scoring.log_odds import base_log_odds
from lexivid.training.distributed import trained_state
from lexivid.training.recipe import TrainingRecipe
from lexivid.training.schedule import make_optimizer

BRANCH = "encoder.towers.video.clip.vision.encoder.branches.1."
PROJECTION = "encoder.towers.video.clip.projection.weight"
HERE = torch.tensor([[True], [True]])


@pytest.fixture(scope="module", params=["clip_folder", "siglip_folder"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(str(request.getfixturevalue(request.param)), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Backbone:
    return load_backbone(str(clip_folder), device="cpu", dtype="float32")


def frames(backbone: Backbone, *, clips: int = 2, num_frames: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 and normalised, (B, T, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (clips, num_frames, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return pixels, backbone.images.normalise(pixels.flatten(0, 1)).unflatten(0, (clips, num_frames))


def make(backbone: Backbone, labels: Tensor, *, temporal: int = 1, layers: int | None = None, **sigmoid: Any) -> System:
    """OVML as a recipe puts it together: pictures alone, no fusion, the label vectors as they are."""
    config = MOVConfig.for_backbone(
        backbone, modalities=("video",), num_temporal_layers=0, num_cross_layers=0, frozen_video=False,
        temporal_branches=temporal, trainable_layers=layers,
    )  # fmt: skip
    settings = SigmoidConfig(**sigmoid)
    return System(
        MOV.from_backbone(backbone, config), labels, objective=make_objective(settings, config),
        teacher=make_teacher(backbone, settings, config),
    )  # fmt: skip


def logits(system: System, x: Tensor) -> Tensor:
    """(B, T, 3, H, W) -> (B, K)."""
    assert system.objective is not None
    return base_log_odds(system({"video": x}, None).features, system.label_vectors(), system.objective.scales())


def parts(system: System, x: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The parts of the loss of B clips that all have pictures."""
    streams, mask = {"video": x}, torch.ones(len(x), 1, dtype=torch.bool)
    return system._sigmoid(streams, mask, system(streams, mask).features, [(1.0, targets)])


def test_untrained_it_is_clip(backbone: Backbone) -> None:
    labels = backbone.encode_texts(["cat", "dog", "sun"])
    system = make(backbone, labels)
    pixels, x = frames(backbone)
    each = backbone.encode_images(pixels.flatten(0, 1)).unflatten(0, (2, 4))
    v = system({"video": x}, None).features.v_m / math.sqrt(backbone.embedding_dim)
    torch.testing.assert_close(v, each.mean(dim=1), atol=1e-6, rtol=0)
    own = make_frozen_tower(backbone)
    assert torch.equal(system.encoder.towers["video"](x).flatten(0, 1), own(x.flatten(0, 1)))  # bit for bit
    p = torch.sigmoid(F.normalize(each.mean(dim=1), dim=-1) @ labels.T / 0.1 - 10)
    torch.testing.assert_close(logits(system, x).sigmoid().float(), p, atol=1e-6, rtol=0)


def test_the_last_blocks_look_along_time(clip: Backbone) -> None:
    def branches(num: int) -> set[str]:
        tower = make_video_tower(clip, temporal_layers=num)
        return {name.split(".")[4] for name, _ in tower.named_parameters() if ".branches." in name}

    assert branches(1) == {"1"}  # of two blocks
    assert branches(0) == set()
    assert branches(9) == {"0", "1"}


def test_the_branch_learns_the_order_of_frames(backbone: Backbone) -> None:
    """A clip that grows brighter and the same clip backwards: only with the branch are they not one and the same."""
    pixels = torch.linspace(0, 255, 4).to(torch.uint8).view(4, 1, 1, 1).expand(4, 3, 32, 32)
    forwards = backbone.images.normalise(pixels)[None]
    x, targets = torch.cat([forwards, forwards.flip(1)]), torch.eye(2)
    for temporal, sees in ((2, True), (0, False)):
        torch.manual_seed(0)
        system = make(backbone, torch.randn(2, backbone.embedding_dim), temporal=temporal, bias=0.0)
        start, end = system({"video": x}, None).features.v_m.detach()
        torch.testing.assert_close(start, end, atol=1e-5, rtol=0)
        optimizer = make_optimizer(system, TrainingRecipe(lr=1e-2))
        for _ in range(20):
            system({"video": x}, None, [(1.0, targets)]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        p = logits(system, x).sigmoid().detach()
        apart = float(p.diag().mean() - p.fliplr().diag().mean())
        assert (apart > 0.5) if sees else (abs(apart) < 1e-3), apart


def test_clips_of_a_batch_do_not_mix_in_time(clip: Backbone) -> None:
    tower = make_video_tower(clip, temporal_layers=2)
    for name, value in tower.named_parameters():
        if name.endswith("attention.out.weight"):
            nn.init.normal_(value, std=0.5)
    x = frames(clip, clips=3)[1]
    together = tower(x)
    torch.testing.assert_close(together, torch.cat([tower(x[i : i + 1]) for i in range(3)]), atol=1e-6, rtol=1e-4)
    assert (tower(x.flip(1)).flip(1) - together).abs().max() > 1e-3


def test_a_clip_without_pictures_reaches_no_branch(clip: Backbone) -> None:
    """The tower sees the clips that are there, whole ones, also beside one that is not."""
    system = make(clip, torch.randn(3, 24, generator=torch.Generator().manual_seed(1)))
    nn.init.normal_(system.get_parameter(f"{BRANCH}attention.out.weight"), std=0.5)
    x = frames(clip, clips=3)[1]
    x[1] = float("nan")
    mask = torch.tensor([[True], [False], [True]])
    found = system({"video": x}, mask).features
    torch.testing.assert_close(found.v_m[[0, 2]], system({"video": x[[0, 2]]}, None).features.v_m)
    assert torch.equal(found.v_m[1], torch.zeros(24))


def test_frame_positions_differ_and_are_bounded() -> None:
    table = frame_positions(64, 31)
    assert table.shape == (64, 31)
    assert table.abs().max() <= 1
    far = torch.cdist(table, table) + 10 * torch.eye(64)
    assert far.min() > 0.5


def test_what_trains_and_what_does_not(clip: Backbone) -> None:
    torch.manual_seed(0)
    x, targets = frames(clip)[1], torch.eye(2, 3)
    system = make(clip, torch.randn(3, 24), layers=1, regularisers=("interpolation", "video_distance")).train()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    optimizer = make_optimizer(system, TrainingRecipe(lr=1e-3))
    for _ in range(2):
        system({"video": x}, HERE, [(1.0, targets)]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in system.state_dict().items() if not torch.equal(value, before[name])}
    assert {"objective.log_scale.v_m", "objective.bias.v_m"} <= moved
    assert not [name for name in moved if name.startswith(FROZEN)]
    assert not [name for name in moved if ".layers.0." in name or ".embeddings." in name]
    for part in (".layers.1.", ".branches.1.", "projection", "post_layernorm", "projectors.video_distance"):
        assert [name for name in moved if part in name], part
    assert set(trained_state(system)) >= moved
    assert not [name for name in trained_state(system) if name.startswith("teacher.")]


def test_learning_rates(clip: Backbone) -> None:
    system = make(clip, torch.zeros(3, 24))
    system.label_encoder = LearnedContextEncoder(FrozenTextEncoder(clip), num_context=2)
    recipe = TrainingRecipe(lr=1e-3, tower_lr=1e-5, label_lr=1e-4, scale_lr=1e-2, weight_decay=0.1)
    groups = make_optimizer(system, recipe).param_groups
    rate = {id(p): (g["peak_lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    named = dict(system.named_parameters())
    assert len(rate) == sum(p.requires_grad for p in named.values())
    assert rate[id(named["objective.bias.v_m"])] == rate[id(named["objective.log_scale.v_m"])] == (1e-2, 0.0)
    assert rate[id(named[PROJECTION])] == (1e-5, 0.1)
    assert rate[id(named[f"{BRANCH}attention.out.weight"])] == (1e-3, 0.1)
    assert rate[id(named["encoder.towers.video.clip.vision.post_layernorm.weight"])] == (1e-5, 0.0)
    assert rate[id(named["label_encoder.context"])] == (1e-4, 0.1)


def test_bce_by_hand() -> None:
    logits, targets = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # p = .5, .75: -log .5 - log .25 and -log .75 - log .5; their mean
    first, second = math.log(2) + math.log(4), math.log(4 / 3) + math.log(2)
    assert float(bce_loss(logits, targets)) == pytest.approx((first + second) / 2, rel=1e-6)
    assert bce_loss(logits, targets, reduction="none").tolist() == pytest.approx([first, second], rel=1e-6)
    weighted = (math.log(2) + 5 * math.log(4) + math.log(4 / 3) + 5 * math.log(2)) / 2
    assert float(bce_loss(logits, targets, weights=torch.tensor([1.0, 5.0]))) == pytest.approx(weighted, rel=1e-6)
    pairs = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    own = [math.log(2), 5 * math.log(2)]
    assert bce_loss(logits, targets, weights=pairs, reduction="none").tolist() == pytest.approx(own, rel=1e-6)


def test_asymmetric_loss_against_its_formula() -> None:
    p, m = [0.9, 0.5, 0.03, 0.3], 0.05
    logits = torch.tensor([[math.log(x / (1 - x)) for x in p]])
    targets = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    expected = -(1 - 0.9) * math.log(0.9) - (0.5 - m) ** 4 * math.log(1 - (0.5 - m)) - 0.7 * math.log(0.3)
    assert float(asymmetric_loss(logits, targets)) == pytest.approx(expected, rel=1e-5)  # 0.03 is below the margin
    both = asymmetric_loss(logits.expand(2, -1), torch.cat([targets, 1 - targets]), reduction="none")
    turned = -((0.9 - m) ** 4) * math.log(1 - 0.9 + m) - 0.5 * math.log(0.5) - 0.97 * math.log(0.03)
    turned -= (0.3 - m) ** 4 * math.log(1 - 0.3 + m)
    assert both.tolist() == pytest.approx([expected, turned], rel=1e-5)
    same = asymmetric_loss(logits, targets, gamma_negative=0, gamma_positive=0, margin=0)
    torch.testing.assert_close(same, bce_loss(logits, targets))
    far = torch.tensor([[60.0, -60.0]], requires_grad=True)
    asymmetric_loss(far, torch.tensor([[0.0, 1.0]])).backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 4.0])
def test_asymmetric_loss_has_its_gradient_everywhere(gamma: float, margin: float) -> None:
    """At saturated logits too, against the derivative of its formula in float64."""
    x = torch.tensor([-200.0, -90.0, -20.0, -4.0, -2.944, -2.0, 0.3, 5.0, 17.0, 30.0, 90.0, 200.0], requires_grad=True)
    for target in (0.0, 1.0):
        goal = torch.full((1, len(x)), target)
        loss = asymmetric_loss(
            x[None], goal, gamma_negative=gamma, gamma_positive=gamma, margin=margin, reduction="none"
        )
        assert loss.isfinite().all()
        (slope,) = torch.autograd.grad(loss.sum(), x)
        for at, found in zip(x.tolist(), slope.tolist(), strict=True):
            p, rest = 1 / (1 + math.exp(-at)), 1 / (1 + math.exp(at))
            if target:  # d/dx of -(1 - p)^g log p
                expected = gamma * p * rest**gamma * math.log(p) - rest ** (gamma + 1) if p > 1e-80 else -1.0
            elif p <= margin:
                expected = 0.0
            else:  # d/dx of -q^g log(1 - q), with dq/dx = p (1 - p)
                q, left = p - margin, rest if margin == 0 else 1 - p + margin
                expected = p * rest * (q**gamma / left - (gamma * q ** (gamma - 1) * math.log(left) if gamma else 0))
            assert found == pytest.approx(expected, rel=2e-3, abs=1e-6), (at, target)


def test_the_objective_takes_the_loss_that_is_asked_for(clip: Backbone) -> None:
    torch.manual_seed(0)
    x, labels, targets = frames(clip)[1], torch.randn(3, 24), torch.eye(2, 3)
    for name, by_hand in (("bce", bce_loss), ("asymmetric", asymmetric_loss)):
        system = make(clip, labels, loss=name, bias=-1.0)
        expected = by_hand(logits(system, x).float(), targets)
        torch.testing.assert_close(system({"video": x}, None, [(1.0, targets)]).loss, expected, atol=1e-5, rtol=1e-5)


def test_residual_distance_by_hand() -> None:
    x, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    zero = residual_distance(x, teacher, torch.zeros_like, residual=0.1)
    assert zero.tolist() == pytest.approx([1, 0])
    # x becomes (1, 1) for the first clip, (0, 2) for the second
    moved = residual_distance(x, teacher, lambda z: torch.tensor([[0.0, 2.0], [0.0, 2.0]]), residual=0.5)
    assert moved.tolist() == pytest.approx([1 - math.sqrt(0.5), 0], abs=1e-6)


def test_weights_between_clip_and_now(clip: Backbone) -> None:
    tower, teacher = make_video_tower(clip, temporal_layers=1), make_frozen_tower(clip).tower
    name, branch = "clip.projection.weight", "clip.vision.encoder.branches.1.attention.out.bias"
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(1.0)
    original = teacher.projection.weight
    quarter = interpolated(tower, teacher, 0.25)
    assert quarter.keys() == dict(tower.named_parameters()).keys()
    torch.testing.assert_close(quarter[name], original + 0.75)
    torch.testing.assert_close(interpolated(tower, teacher, 1.0)[name], original)
    torch.testing.assert_close(interpolated(tower, teacher, 0.0)[name], original + 1)
    torch.testing.assert_close(quarter[branch], torch.ones(32))  # CLIP has none
    quarter[name].sum().backward()
    torch.testing.assert_close(tower.clip.projection.weight.grad, torch.full_like(original, 0.75))
    assert original.grad is None


def test_the_second_pass_is_at_weights_between(clip: Backbone) -> None:
    torch.manual_seed(0)
    x, labels, targets = frames(clip)[1], torch.randn(3, 24), torch.eye(2, 3)
    settings = {"interpolation": 0.6, "interpolation_weight": 0.5, "regularisers": ("interpolation",)}
    system = make(clip, labels, **settings)
    with torch.no_grad():
        system.get_parameter(PROJECTION).add_(torch.randn(24, 32))
        nn.init.normal_(system.get_parameter(f"{BRANCH}attention.out.weight"), std=0.5)
    torch.manual_seed(5)
    found = parts(system, x, targets)
    torch.manual_seed(5)
    a = 0.6 * float(torch.rand(()))
    assert 0.05 < a < 0.55
    between = make(clip, labels, **settings)
    assert system.teacher is not None
    weights = interpolated(system.encoder.towers["video"], system.teacher.tower, a)
    between.encoder.towers["video"].load_state_dict(weights, strict=False)
    assert set(found) == {"labels", "interpolation"}
    second = bce_loss(logits(between, x).float(), targets)
    torch.testing.assert_close(found["interpolation"], 0.5 * second, atol=1e-4, rtol=1e-5)
    assert (second - found["labels"]).abs() > 1e-3
    torch.manual_seed(5)
    total = system({"video": x}, HERE, [(1.0, targets)]).loss
    torch.testing.assert_close(total, found["labels"] + found["interpolation"])
    # the gradient of the second pass alone reaches the branch, whole, and the projection by 1 - a
    system.zero_grad()
    found["interpolation"].backward()
    (0.5 * bce_loss(_with_grad(between, x, labels), targets)).backward()
    for name, share in ((PROJECTION, 1 - a), (f"{BRANCH}attention.out.weight", 1.0)):
        grad = between.get_parameter(name).grad
        assert grad is not None
        torch.testing.assert_close(system.get_parameter(name).grad, share * grad, atol=1e-5, rtol=1e-3)


def _with_grad(system: System, x: Tensor, labels: Tensor) -> Tensor:
    assert system.objective is not None
    v = F.normalize(system({"video": x}, None).features.v_m, dim=-1)
    return system.objective.logits("v_m", v @ F.normalize(labels, dim=-1).T)


def test_distances_to_frozen_clip(clip: Backbone) -> None:
    torch.manual_seed(0)
    x, labels, targets = frames(clip)[1], torch.randn(3, 24), torch.eye(2, 3)
    system = make(clip, labels, regularisers=("video_distance", "text_distance"), distance_weight=2.0)
    other = torch.randn(3, 24)
    system.label_encoder = lambda names: other  # type: ignore[assignment]
    with torch.no_grad():
        found = parts(system, x, targets)
    assert set(found) == {"labels", "video_distance", "text_distance"}
    assert float(found["video_distance"]) == pytest.approx(0, abs=1e-6)  # untrained it is CLIP
    expected = 2 * (1 - F.cosine_similarity(labels, other, dim=-1)).mean()
    torch.testing.assert_close(found["text_distance"], expected)
    with torch.no_grad():
        system.get_parameter(PROJECTION).mul_(-1)
        turned = parts(system, x, targets)["video_distance"]
    assert float(turned) == pytest.approx(4, rel=1e-5)  # 2 * (1 - -1)


def test_sampled_labels_stand_for_all() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 200, generator=generator)
    targets = torch.zeros(4, 200)
    targets[0, 7] = targets[1, 3] = targets[2, 3] = targets[3, 190] = 1
    whole = bce_loss(logits, targets)
    drawn = []
    for _ in range(300):
        places, weights = sample_labels(targets, 20, generator=generator)
        assert len(places) == 20
        assert {3, 7, 190} <= set(places.tolist())
        assert weights[[places.tolist().index(i) for i in (3, 7, 190)]].tolist() == [1, 1, 1]
        assert sorted(set(places.tolist())) == places.tolist()
        drawn.append(bce_loss(logits[:, places], targets[:, places], weights=weights))
    spread = torch.stack(drawn).std() / math.sqrt(300)
    assert abs(torch.stack(drawn).mean() - whole) < 4 * spread
    places, weights = sample_labels(targets, 200)
    assert torch.equal(places, torch.arange(200))
    assert torch.equal(weights, torch.ones(200))


@pytest.mark.parametrize(("num_hold", "kept"), [(10, True), (11, False), (20, False), (60, False)])
def test_where_many_labels_hold_all_are_drawn_alike(num_hold: int, kept: bool) -> None:
    """Up to half of the places are for labels that hold; where there are more, these too stand for one another."""
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(4, 100, generator=generator), torch.zeros(4, 100)
    targets[torch.arange(num_hold) % 4, torch.arange(num_hold)] = 1
    whole, drawn = bce_loss(logits, targets), []
    for _ in range(400):
        places, weights = sample_labels(targets, 20, generator=generator)
        assert len(set(places.tolist())) == 20
        assert (set(range(num_hold)) <= set(places.tolist())) == kept
        if not kept:
            assert weights.tolist() == [5.0] * 20  # 100 / 20
        drawn.append(bce_loss(logits[:, places], targets[:, places], weights=weights))
    spread = torch.stack(drawn).std() / math.sqrt(400)
    assert abs(torch.stack(drawn).mean() - whole) < 4 * spread


def test_a_step_computes_the_labels_it_draws(clip: Backbone) -> None:
    """Their weights and those of the labels themselves multiply, and the distance is between the same labels."""
    torch.manual_seed(0)
    x, labels, targets = frames(clip)[1], torch.randn(12, 24), torch.eye(2, 12)
    system = make(clip, labels, labels_per_step=6, regularisers=("text_distance",))
    system.label_weights = torch.arange(12.0)
    asked: list[list[str]] = []

    def encode(names: list[str]) -> Tensor:
        asked.append(list(names))
        return labels[[int(name) for name in names]]

    system.names, system.label_encoder = tuple(str(i) for i in range(12)), encode  # type: ignore[assignment]
    torch.manual_seed(4)
    with torch.no_grad():
        found = parts(system, x, targets)
    torch.manual_seed(4)
    places, weights = sample_labels(targets, 6)
    assert asked == [[str(i) for i in places.tolist()]]
    v = F.normalize(system({"video": x}, None).features.v_m, dim=-1)
    z = v @ F.normalize(labels[places], dim=-1).T / 0.1 - 10
    expected = bce_loss(z, targets[:, places], weights=weights * places.float())
    torch.testing.assert_close(found["labels"], expected, atol=1e-5, rtol=1e-5)
    assert float(found["text_distance"]) == pytest.approx(0, abs=1e-6)


def test_average_of_checkpoints() -> None:
    first, second = {"a": torch.tensor([1.0, 3.0])}, {"a": torch.tensor([2.0, 5.0])}
    torch.testing.assert_close(average_weights([first, second, second])["a"], torch.tensor([5 / 3, 13 / 3]))
    with pytest.raises(ModelError, match="names or shapes differ"):
        average_weights([first, {"b": torch.zeros(2)}])
    with pytest.raises(ModelError, match="no checkpoints"):
        average_weights([])


def test_configuration() -> None:
    config = SigmoidConfig(regularisers=("text_distance",), labels_per_step=3)
    assert SigmoidConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ModelError, match="unknown setting 'tua'"):
        SigmoidConfig.from_dict({"tua": 1})
    for wrong, says in (
        ({"regularisers": ("l2",)}, "unknown regulariser 'l2'"),
        ({"tau": 0}, "tau is a temperature"),
        ({"loss": "mse"}, "unknown loss 'mse'"),
        ({"interpolation": 1.5}, "interpolation is between 0 and 1; got 1.5"),
        ({"margin": -1}, "margin is between 0 and 1"),
        ({"labels_per_step": 1}, "labels_per_step must be at least 2; got 1"),
    ):
        with pytest.raises(ModelError, match=says):
            SigmoidConfig(**wrong)
    with pytest.raises(ModelError, match="frozen_video: false"):
        MOVConfig(temporal_branches=2)


def test_needs_a_transformer() -> None:
    class Other:
        name = "other"

    with pytest.raises(ModelError, match="'other' is another kind"):
        make_video_tower(Other(), temporal_layers=1)  # type: ignore[arg-type]
