"""OVML: untrained it is CLIP; the branch sees time; losses and regularisers against hand-worked numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexivid.backbones import load_backbone
from lexivid.backbones.base import Backbone
from lexivid.errors import ModelError
from lexivid.models.ovml import (
    OVML,
    OVMLConfig,
    asymmetric_loss,
    average_weights,
    bce_loss,
    frame_positions,
    residual_distance,
    sample_labels,
)


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


def test_untrained_it_is_clip(backbone: Backbone) -> None:
    model = OVML.from_backbone(backbone)
    pixels, x = frames(backbone)
    each = backbone.encode_images(pixels.flatten(0, 1)).unflatten(0, (2, 4))
    torch.testing.assert_close(model(x), each.mean(dim=1), atol=1e-6, rtol=0)
    assert torch.equal(model.video(x).flatten(0, 1), model.frozen(x.flatten(0, 1)))  # bit for bit
    labels = backbone.encode_texts(["cat", "dog", "sun"])
    p = torch.sigmoid(F.normalize(each.mean(dim=1), dim=-1) @ labels.T / 0.1 - 10)
    torch.testing.assert_close(model.probabilities(model(x), labels), p, atol=1e-6, rtol=0)


def test_half_of_the_blocks_look_along_time(clip: Backbone) -> None:
    names = {n.split(".")[4] for n, _ in OVML.from_backbone(clip).video.named_parameters() if ".branches." in n}
    assert names == {"1"}  # of two
    none = OVML.from_backbone(clip, OVMLConfig(temporal_layers=0))
    assert not [n for n, _ in none.video.named_parameters() if ".branches." in n]
    both = OVML.from_backbone(clip, OVMLConfig(temporal_layers=9))
    assert len(both.video.clip.vision.encoder.branches) == 2


def test_the_branch_learns_the_order_of_frames(backbone: Backbone) -> None:
    """A clip that grows brighter and the same clip backwards: only with the branch are they not one and the same."""
    pixels = torch.linspace(0, 255, 4).to(torch.uint8).view(4, 1, 1, 1).expand(4, 3, 32, 32)
    forwards = backbone.images.normalise(pixels)[None]
    x, targets = torch.cat([forwards, forwards.flip(1)]), torch.eye(2)
    for num, sees in ((None, True), (0, False)):
        torch.manual_seed(0)
        labels = torch.randn(2, backbone.embedding_dim)
        model = OVML.from_backbone(backbone, OVMLConfig(temporal_layers=num, bias=0.0, regularisers=()))
        start, end = model(x).detach()
        torch.testing.assert_close(start, end, atol=1e-6, rtol=0)
        optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-2))
        for _ in range(20):
            model.loss(x, labels, targets).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        p = model.probabilities(model(x), labels).detach()
        apart = float(p.diag().mean() - p.fliplr().diag().mean())
        assert (apart > 0.5) if sees else (abs(apart) < 1e-3), apart


def test_clips_of_a_batch_do_not_mix_in_time(clip: Backbone) -> None:
    model = OVML.from_backbone(clip)
    for branch in model.video.clip.vision.encoder.branches.values():
        nn.init.normal_(branch.attention.out.weight, std=0.5)
    x = frames(clip, clips=3)[1]
    together = model(x)
    torch.testing.assert_close(together, torch.cat([model(x[i : i + 1]) for i in range(3)]), atol=1e-6, rtol=1e-4)
    assert (model(x.flip(1)) - together).abs().max() > 1e-3


def test_frame_positions_differ_and_are_bounded() -> None:
    table = frame_positions(64, 31)
    assert table.shape == (64, 31)
    assert table.abs().max() <= 1
    far = torch.cdist(table, table) + 10 * torch.eye(64)
    assert far.min() > 0.5


def test_what_trains_and_what_does_not(clip: Backbone) -> None:
    torch.manual_seed(0)
    x, labels = frames(clip)[1], torch.randn(3, 24)
    model = OVML.from_backbone(clip, OVMLConfig(trainable_layers=1)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-3))
    for _ in range(2):
        model.loss(x, labels, torch.eye(2, 3)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"log_scale", "bias"} <= moved
    assert not [name for name in moved if name.startswith("frozen.")]
    assert not [name for name in moved if ".layers.0." in name or ".embeddings." in name]
    for part in (".layers.1.", ".branches.1.", "projection", "post_layernorm", "projectors.video_distance"):
        assert [name for name in moved if part in name], part
    assert set(model.trained_state()) >= {name for name in moved if "frozen" not in name}
    assert not [name for name in model.trained_state() if name.startswith("frozen.")]


def test_learning_rates(clip: Backbone) -> None:
    model = OVML.from_backbone(clip)
    groups = model.parameter_groups(lr=1e-3, tower_lr=1e-5, scale_lr=1e-2, weight_decay=0.1)
    rate = {id(p): (g["peak_lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    named = dict(model.named_parameters())
    assert len(rate) == sum(p.requires_grad for p in named.values())
    assert rate[id(named["bias"])] == rate[id(named["log_scale"])] == (1e-2, 0.0)
    assert rate[id(named["video.clip.projection.weight"])] == (1e-5, 0.1)
    assert rate[id(named["video.clip.vision.encoder.branches.1.attention.out.weight"])] == (1e-3, 0.1)
    assert rate[id(named["video.clip.vision.post_layernorm.weight"])] == (1e-5, 0.0)


def test_bce_by_hand() -> None:
    logits, targets = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # p = .5, .75: -log .5 - log .25 and -log .75 - log .5; their mean
    expected = (math.log(2) + math.log(4) + math.log(4 / 3) + math.log(2)) / 2
    assert float(bce_loss(logits, targets)) == pytest.approx(expected, rel=1e-6)
    weighted = (math.log(2) + 5 * math.log(4) + math.log(4 / 3) + 5 * math.log(2)) / 2
    assert float(bce_loss(logits, targets, weights=torch.tensor([1.0, 5.0]))) == pytest.approx(weighted, rel=1e-6)


def test_asymmetric_loss_against_its_formula() -> None:
    p, m = [0.9, 0.5, 0.03, 0.3], 0.05
    logits = torch.tensor([[math.log(x / (1 - x)) for x in p]])
    targets = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    expected = -(1 - 0.9) * math.log(0.9) - (0.5 - m) ** 4 * math.log(1 - (0.5 - m)) - 0.7 * math.log(0.3)
    assert float(asymmetric_loss(logits, targets)) == pytest.approx(expected, rel=1e-5)  # 0.03 is below the margin
    same = asymmetric_loss(logits, targets, gamma_negative=0, gamma_positive=0, margin=0)
    torch.testing.assert_close(same, bce_loss(logits, targets))
    far = torch.tensor([[60.0, -60.0]], requires_grad=True)
    asymmetric_loss(far, torch.tensor([[0.0, 1.0]])).backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_residual_distance_by_hand() -> None:
    x, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    zero = residual_distance(x, teacher, torch.zeros_like, residual=0.1)
    assert float(zero) == pytest.approx((1 + 0) / 2)
    # x becomes (1, 1) / sqrt 2 for the first clip, (0, 2) for the second
    moved = residual_distance(x, teacher, lambda z: torch.tensor([[0.0, 2.0], [0.0, 2.0]]), residual=0.5)
    assert float(moved) == pytest.approx((1 - math.sqrt(0.5)) / 2, rel=1e-6)


def test_weights_between_clip_and_now(clip: Backbone) -> None:
    model = OVML.from_backbone(clip, OVMLConfig(interpolation=0.5))
    name, branch = "clip.projection.weight", "clip.vision.encoder.branches.1.attention.out.bias"
    with torch.no_grad():
        for parameter in model.video.parameters():
            parameter.add_(1.0)
    original = model.frozen.tower.projection.weight
    torch.testing.assert_close(model.interpolated(0.25)[name], original + 0.75)
    torch.testing.assert_close(model.interpolated(1.0)[name], original)
    torch.testing.assert_close(model.interpolated(0.25)[branch], torch.ones(32))  # CLIP has none
    model.interpolated(0.25)[name].sum().backward()
    torch.testing.assert_close(model.video.clip.projection.weight.grad, torch.full_like(original, 0.75))


def test_the_second_pass_is_at_weights_between(clip: Backbone) -> None:
    torch.manual_seed(0)
    x, labels, targets = frames(clip)[1], torch.randn(3, 24), torch.eye(2, 3)
    config = OVMLConfig(interpolation=0.6, interpolation_weight=0.5, regularisers=("interpolation",))
    model = OVML.from_backbone(clip, config)
    with torch.no_grad():
        model.video.clip.projection.weight.add_(torch.randn(24, 32))
    loss = model.loss(x, labels, targets, generator=torch.Generator().manual_seed(3))
    a = 0.6 * float(torch.rand((), generator=torch.Generator().manual_seed(3)))
    between = OVML.from_backbone(clip, config)
    between.video.load_state_dict(model.video.state_dict() | model.interpolated(a))
    assert set(loss.parts) == {"labels", "interpolation"}
    second = bce_loss(between.logits(between(x), labels), targets)
    torch.testing.assert_close(loss.parts["interpolation"], 0.5 * second)
    torch.testing.assert_close(loss.total, loss.parts["labels"] + 0.5 * second)
    assert (second - loss.parts["labels"]).abs() > 1e-4


def test_distances_to_frozen_clip(clip: Backbone) -> None:
    torch.manual_seed(0)
    x, labels, targets = frames(clip)[1], torch.randn(3, 24), torch.eye(2, 3)
    model = OVML.from_backbone(clip, OVMLConfig(regularisers=("video_distance", "text_distance"), distance_weight=2.0))
    other = torch.randn(3, 24)
    with torch.no_grad():
        parts = model.loss(x, labels, targets, frozen_labels=other).parts
    assert float(parts["video_distance"]) == pytest.approx(0, abs=1e-6)  # untrained it is CLIP
    expected = 2 * (1 - F.cosine_similarity(labels, other, dim=-1)).mean()
    torch.testing.assert_close(parts["text_distance"], expected)
    with torch.no_grad():
        model.video.clip.projection.weight.mul_(-1)
        turned = model.loss(x, labels, targets, frozen_labels=other).parts["video_distance"]
    assert float(turned) == pytest.approx(4, rel=1e-5)  # 2 * (1 - -1)
    with pytest.raises(ValueError, match="frozen_labels"):
        model.loss(x, labels, targets)


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
        assert len(set(places.tolist())) == 20
        drawn.append(bce_loss(logits[:, places], targets[:, places], weights=weights))
    spread = torch.stack(drawn).std() / math.sqrt(300)
    assert abs(torch.stack(drawn).mean() - whole) < 4 * spread
    places, weights = sample_labels(targets, 200)
    assert torch.equal(places, torch.arange(200))
    assert torch.equal(weights, torch.ones(200))
    with pytest.raises(ValueError, match="take more"):
        sample_labels(targets, 3)


def test_average_of_checkpoints() -> None:
    first, second = {"a": torch.tensor([1.0, 3.0])}, {"a": torch.tensor([2.0, 5.0])}
    torch.testing.assert_close(average_weights([first, second, second])["a"], torch.tensor([5 / 3, 13 / 3]))
    with pytest.raises(ModelError, match="names or shapes differ"):
        average_weights([first, {"b": torch.zeros(2)}])
    with pytest.raises(ModelError, match="no checkpoints"):
        average_weights([])


def test_configuration() -> None:
    config = OVMLConfig(regularisers=("text_distance",), trainable_layers=3)
    assert OVMLConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ModelError, match="unknown OVML setting 'tua'"):
        OVMLConfig.from_dict({"tua": 1})
    with pytest.raises(ModelError, match="unknown regulariser 'l2'"):
        OVMLConfig(regularisers=("l2",))
    with pytest.raises(ModelError, match="tau is a temperature"):
        OVMLConfig(tau=0)


def test_needs_a_transformer() -> None:
    class Other:
        name = "other"

    with pytest.raises(ModelError, match="'other' is another kind"):
        OVML.from_backbone(Other())  # type: ignore[arg-type]
