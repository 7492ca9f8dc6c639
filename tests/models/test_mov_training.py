"""models/mov.py: what is trained, what never moves, and streams that are missing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_cases
from mov_cases import (
    ALL,
    CONFIG,
    B,
    D,
    T,
    TinyTower,
    make_clips,
    make_labels,
    make_tokens,
    outputs_of,
    same,
    tiny_model,
)
from torch import Tensor
from torch.nn import functional as F

from lexivid.models.fusion import Attention
from lexivid.models.mov import FROZEN_PREFIX, MOV, probabilities
from lexivid.models.towers import FrozenTower
from lexivid.training.clips import open_clips

# ---- What is trained and what is frozen -----------------------------------------------------------------------------


def test_gradient_reaches_exactly_what_the_paper_trains() -> None:
    model = tiny_model().train()
    model.loss(model(**make_clips()), make_labels(), torch.tensor([0, 1, 2, 3])).backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    frozen = {n for n, _ in model.named_parameters() if n.startswith(FROZEN_PREFIX)}
    assert frozen
    # a key's bias shifts all scores of a query alike; softmax does not see it
    useless = {n for n, _ in model.named_parameters() if n.endswith("key.bias")}
    assert with_gradient | useless == {n for n, _ in model.named_parameters()} - frozen | useless
    assert all(p.grad is None and not p.requires_grad for n, p in model.named_parameters() if n in frozen)


def test_gradient_reaches_the_flow_tower_through_the_video_term_too() -> None:
    """Eq. 5: v_m depends on f_t, so with alpha = 1 the flow tower still learns."""
    model = tiny_model(replace(CONFIG, alpha=1.0)).train()
    model.loss(model(**make_clips()), make_labels(), torch.tensor([0, 1, 2, 3])).backward()
    assert float(model.towers["flow"].conv.weight.grad.abs().sum()) > 0
    model = tiny_model(replace(CONFIG, alpha=0.0)).train()
    model.loss(model(**make_clips()), make_labels(), torch.tensor([0, 1, 2, 3])).backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in model.temporal["video"].parameters())  # eq. 7: not through v_t


@pytest.mark.parametrize("zero_init", [True, False])
def test_frozen_tower_does_not_move_by_one_bit(zero_init: bool) -> None:
    model = tiny_model(replace(CONFIG, zero_init=zero_init)).train()
    frozen = {n: x.clone() for n, x in model.state_dict().items() if n.startswith(FROZEN_PREFIX)}
    assert any("running_mean" in n for n in frozen)
    v = model(**make_clips()).v
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.05)
    for step in range(3):
        optimiser.zero_grad()
        model.loss(model(**make_clips(step)), make_labels(), torch.tensor([0, 1, 2, 3])).backward()
        optimiser.step()
    model.train()
    assert all(torch.equal(model.state_dict()[n], x) for n, x in frozen.items())
    assert torch.equal(model(**make_clips()).v, v)
    assert not any(module.training for module in model.towers["video"].modules())
    assert all(module.training for module in model.towers["flow"].modules())
    assert not torch.equal(model.towers["flow"].norm.running_mean, torch.zeros(8))  # while the others do move


def test_frozen_tower_alone() -> None:
    tower = FrozenTower(TinyTower().train())
    assert not tower.train().training
    assert not tower.tower.norm.training
    assert not tower(torch.randn(2, 3, 8, 8, requires_grad=True)).requires_grad


def test_loss_on_one_batch_goes_to_zero() -> None:
    model = tiny_model(replace(CONFIG, zero_init=True)).train()
    clips, labels, targets = make_clips(), make_labels(), torch.tensor([0, 1, 2, 3])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(150):
        loss = model.loss(model(**clips), labels, targets)
        first = first or float(loss.detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert first is not None
    assert first > 1.0
    assert float(loss.detach()) < 0.01
    assert torch.equal(model.predict_base(model(**clips), labels).argmax(1), targets)


def test_zero_init_starts_as_the_frozen_backbone() -> None:
    model, tokens = tiny_model(replace(CONFIG, zero_init=True)), make_tokens()
    f = model(**tokens)
    assert torch.equal(f.v_m, f.v)
    unit = F.normalize(tokens["flow"], dim=-1) * math.sqrt(D)
    assert torch.allclose(f.x_m["flow"], unit.mean(1), atol=1e-6)
    assert torch.allclose(f.x_m["audio"], F.normalize(tokens["audio"][:, 0], dim=-1) * math.sqrt(D), atol=1e-6)
    assert not torch.allclose(tiny_model()(**tokens).v_m, f.v, atol=0.1)


def test_token_scale() -> None:
    tokens = make_tokens()
    longer = {n: 7.3 * x for n, x in tokens.items()}
    model, raw = tiny_model(), tiny_model(replace(CONFIG, scale_tokens=False))
    assert torch.allclose(model(**tokens).v_m, model(**longer).v_m, atol=1e-5)
    assert not torch.allclose(raw(**tokens).v_m, raw(**longer).v_m, atol=1e-2)
    assert torch.allclose(raw(**tokens).v, tokens["video"].mean(1))


# ---- Frozen features from the cache ---------------------------------------------------------------------------------


def test_cached_features_change_nothing_that_a_clip_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same flow to the bit, and the features of the same pictures: one draw a look, with and without the cache."""
    monkeypatch.setenv("LEXIVID_CACHE", str(tmp_path / "cache"))
    data = training_cases.make_clips(tmp_path / "clips", num=2)
    mov = training_cases.tiny_mov(("video", "flow"))
    images = replace(training_cases.IMAGES, resize_to=16, crop_size=16)
    settings = {"data.num_workers": 0, "data.num_frames": 3, "data.held_out": 0, "data.flow_size": 21}
    settings |= {"model.modalities": ["video", "flow"], "data.stride": 2, "data.flow": "dis", "data.colour": 0.4}
    recipe = training_cases.recipe().with_settings(settings)
    plain = open_clips(recipe, data, mov, images).train
    cached = open_clips(recipe.with_settings({"data.cache_video_features": 3}), data, mov, images).train
    assert len(plain) == len(cached) == 6
    for look in range(3):
        plain.set_epoch(look)
        cached.set_epoch(look + 3)
        for i in range(6):
            a, b = plain[i], cached[i]
            assert torch.equal(a["flow"], b["flow"])
            with torch.no_grad():
                assert torch.equal(mov.towers["video"](images.normalise(a["video"])), b["video"])


# ---- Streams that are missing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("missing", [["flow"], ["audio"], ["flow", "audio"], ["video"], ["video", "audio"]])
def test_a_masked_stream_changes_no_bit(pictures: bool, missing: list[str]) -> None:
    """Neither other content, nor NaN, nor leaving the stream out changes any output of any clip, loss or gradient."""
    model = tiny_model().train()
    state = {n: x.clone() for n, x in model.state_dict().items()}
    inputs = make_clips() if pictures else make_tokens()
    mask = torch.ones(B, 3, dtype=torch.bool)
    for name in missing:
        mask[:, ALL.index(name)] = False  # for all clips ...
        if len(missing) == 1:
            mask[0] = True  # ... or for all but one
    results = []
    for content in (0.0, 1e4, float("nan")):
        changed = dict(inputs)
        for name in missing:
            gone = ~mask[:, ALL.index(name)].view(-1, *[1] * (inputs[name].ndim - 1))
            changed[name] = torch.where(gone, content, inputs[name])
        model.load_state_dict(state)
        model.zero_grad()
        features = model(**changed, mask=mask)
        loss = model.loss(features, make_labels(), torch.tensor([0, 1, 2, 3]))
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        buffers = [b.clone() for b in model.buffers()]
        outputs = [
            *outputs_of(features),
            model.predict_base(features, make_labels()),
            model.predict_novel(features, make_labels()),
        ]
        results.append([*outputs, loss, *gradients, *buffers])
    assert all(bool(x.isfinite().all()) for x in results[0])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
    for name in missing:
        mask[:, ALL.index(name)] = False
    model.load_state_dict(state)
    masked = model(**inputs, mask=mask)
    model.load_state_dict(state)
    assert same(masked, model(**{n: x for n, x in inputs.items() if n not in missing}))


def test_a_clip_without_flow_and_audio_is_v_t_alone() -> None:
    model, tokens = tiny_model(), make_tokens()
    f = model(video=tokens["video"])
    v = F.normalize(tokens["video"], dim=-1) * math.sqrt(D)
    v_t = model.temporal["video"](v)
    (layer,) = model.cross["video"]
    expected = (layer.mlp(layer.norm_mlp(v_t)) + v_t).mean(1)
    assert torch.allclose(f.v_m, expected, atol=1e-6)
    assert torch.equal(f.x_m["flow"], torch.zeros(B, D))
    assert f.mask.tolist() == [[True, False, False]] * B
    labels, targets = make_labels(), torch.tensor([0, 1, 2, 3])
    nll = F.nll_loss(probabilities(f.v_m, labels, tau=0.1).log(), targets)
    assert torch.allclose(model.loss(f, labels, targets), nll)
    assert torch.allclose(model.predict_novel(f, labels), probabilities(f.v, labels, tau=0.03))


def test_a_clip_in_mixed_company_is_the_clip_alone() -> None:
    """Whether its neighbours have flow changes nothing but rounding."""
    model, tokens = tiny_model(), make_tokens()
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=torch.bool)
    together = model(**tokens, mask=mask)
    for i in range(B):
        alone = model(**{n: x[i : i + 1] for j, (n, x) in enumerate(tokens.items()) if mask[i, j]})
        for whole, single in zip(outputs_of(together), outputs_of(alone), strict=True):
            assert torch.allclose(whole[i : i + 1].float(), single.float(), atol=1e-5)


def test_towers_see_only_what_is_there() -> None:
    seen = []

    class Spy(TinyTower):
        def forward(self, pictures: Tensor) -> Tensor:
            seen.append(len(pictures))
            return super().forward(pictures)

    model = MOV(CONFIG, towers={"video": TinyTower(), "flow": Spy(), "audio": TinyTower()})
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    model(**make_clips(), mask=mask)
    assert seen == [2 * T]
    model(**make_clips(), mask=mask & torch.tensor([True, False, True]))
    assert seen == [2 * T]


def test_attention_over_nothing_is_zero() -> None:
    torch.manual_seed(0)
    attention = Attention(D, 2, zero_init=False)
    x, context = torch.randn(2, T, D), torch.randn(2, 4, D)
    mask = torch.tensor([[True, False, True, False], [False] * 4])
    out = attention(x, context, context_mask=mask)
    assert torch.equal(out[1], torch.zeros(T, D))
    assert torch.allclose(out[0], attention(x[:1], context[:1, ::2])[0], atol=1e-6)


@pytest.mark.parametrize("modalities", [("video",), ("video", "flow"), ("video", "audio")])
def test_any_set_of_modalities(modalities: tuple[str, ...]) -> None:
    model = tiny_model(replace(CONFIG, modalities=modalities)).train()
    clips = {n: x for n, x in make_clips().items() if n in modalities}
    features = model(**clips)
    assert list(features.x_m) == list(modalities[1:])
    model.loss(features, make_labels(), torch.tensor([0, 1, 2, 3])).backward()
    for path in (model.predict_base, model.predict_novel):
        assert torch.allclose(path(features, make_labels()).sum(1), torch.ones(B))
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith(FROZEN_PREFIX))


def test_flow_alone_is_a_masked_video() -> None:
    """The lone-stream baseline: no video anywhere, and everything still adds up."""
    model = tiny_model()
    features = model(flow=make_tokens()["flow"])
    assert torch.equal(features.v_m, torch.zeros(B, D))
    base = model.predict_base(features, make_labels())
    assert torch.allclose(base, probabilities(features.x_m["flow"], make_labels(), tau=0.1))


def test_bfloat16_autocast() -> None:
    model = tiny_model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(model(**make_clips()), make_labels(), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert loss.dtype == torch.float32
    model = tiny_model().train()
    assert torch.allclose(loss, model.loss(model(**make_clips()), make_labels(), torch.arange(4)), rtol=0.1)
