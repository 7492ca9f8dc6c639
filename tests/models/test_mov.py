"""models/mov.py and fusion.py: MOV's equations on small cases."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mov_cases import ALL, CONFIG, B, D, K, T, TinyTower, make_clips, make_labels, make_tokens, outputs_of, tiny_model
from torch import Tensor, nn

from lexivid.errors import ModelError
from lexivid.models.fusion import AudioLayer, CrossLayer, TemporalLayer
from lexivid.models.mov import (
    MOV,
    log_predict_base,
    log_predict_novel,
    mov_loss,
    predict_base,
    predict_novel,
    probabilities,
)
from lexivid.models.mov_config import MOVConfig

# ---- The blocks, eq. 2 to 8, against numpy -------------------------------------------------------------------------


def _np(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def _layer_norm(x: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + norm.eps) * _np(norm.weight) + _np(norm.bias)


def _linear(x: np.ndarray, layer: nn.Linear) -> np.ndarray:
    return x @ _np(layer.weight).T + _np(layer.bias)


def _mlp(x: np.ndarray, mlp: Any) -> np.ndarray:
    hidden = _linear(x, mlp.fc1)
    gelu = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return _linear(gelu, mlp.fc2)


def _attend(x: np.ndarray, context: np.ndarray, attention: Any) -> np.ndarray:
    """One clip: (T, D), (S, D) -> (T, D), head by head."""
    q, k, v = _linear(x, attention.query), _linear(context, attention.key), _linear(context, attention.value)
    width = x.shape[-1] // attention.num_heads
    heads = []
    for h in range(attention.num_heads):
        part = slice(h * width, (h + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
    return _linear(np.concatenate(heads, axis=-1), attention.out)


def _random_norms(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.3)


def test_eq_2_3_temporal_layer() -> None:
    torch.manual_seed(0)
    layer = TemporalLayer(D, 2, 4, zero_init=False)
    _random_norms(layer)
    z = torch.randn(T, D)
    normed = _layer_norm(_np(z), layer.norm1)
    y = _attend(normed, normed, layer.attention) + _np(z)  # eq. 2
    expected = _mlp(_layer_norm(y, layer.norm2), layer.mlp) + y  # eq. 3
    np.testing.assert_allclose(_np(layer(z[None])[0]), expected, atol=1e-5)


def _by_hand(model: MOV, tokens: dict[str, Tensor], clip: int) -> dict[str, np.ndarray]:
    """Eq. 2 to 8 for one clip of three streams, written out."""
    raw = {n: _np(x[clip]) for n, x in tokens.items()}
    raw = {n: x / np.linalg.norm(x, axis=-1, keepdims=True) * math.sqrt(D) for n, x in raw.items()}
    t = dict(raw)
    for name in ("video", "flow"):
        for layer in model.temporal[name]:
            normed = _layer_norm(t[name], layer.norm1)
            y = _attend(normed, normed, layer.attention) + t[name]
            t[name] = _mlp(_layer_norm(y, layer.norm2), layer.mlp) + y
    audio = model.temporal["audio"]
    t["audio"] = _mlp(_layer_norm(raw["audio"], audio.norm), audio.mlp) + raw["audio"]
    out = {"v": raw["video"].mean(0)}
    contexts = {"video": np.concatenate([t["flow"], t["audio"]]), "flow": raw["video"], "audio": raw["video"]}
    for name, context in contexts.items():
        (layer,) = model.cross[name]
        x = _attend(_layer_norm(t[name], layer.norm_query), _layer_norm(context, layer.norm_context), layer.attention)
        x = x + t[name]  # eq. 5 and 7
        out[name] = (_mlp(_layer_norm(x, layer.norm_mlp), layer.mlp) + x).mean(0)  # eq. 6 and 8
    return out


def test_eq_2_to_8_whole_forward_by_hand() -> None:
    model = tiny_model()
    _random_norms(model)
    tokens = make_tokens()
    features = model(**tokens)
    for clip in range(B):
        expected = _by_hand(model, tokens, clip)
        np.testing.assert_allclose(_np(features.v[clip]), expected["v"], atol=1e-5)
        np.testing.assert_allclose(_np(features.v_m[clip]), expected["video"], atol=1e-4)
        np.testing.assert_allclose(_np(features.x_m["flow"][clip]), expected["flow"], atol=1e-4)
        np.testing.assert_allclose(_np(features.x_m["audio"][clip]), expected["audio"], atol=1e-4)


def test_eq_1_pictures_and_their_features_are_the_same() -> None:
    model, clips = tiny_model().eval(), make_clips()
    tokens = {n: model.towers[n](clips[n].flatten(0, 1)).unflatten(0, (B, T)) for n in ("video", "flow")}
    tokens["audio"] = model.towers["audio"](clips["audio"])[:, None]
    for whole, cached in zip(outputs_of(model(**clips)), outputs_of(model(**tokens)), strict=True):
        assert torch.allclose(whole.float(), cached.float(), atol=1e-5)
    only_video = {**clips, "video": tokens["video"]}  # what training with cached video features does
    assert torch.allclose(model(**only_video).v_m, model(**clips).v_m, atol=1e-5)


@pytest.mark.parametrize("name", ["flow", "audio"])
def test_eq_7_attends_to_the_frozen_v_and_not_to_v_t(name: str) -> None:
    """phi_v may do what it likes: f_m and a_m do not move by one bit, v_m does. Swapped, this fails."""
    model, tokens = tiny_model(), make_tokens()
    before = model(**tokens)
    with torch.no_grad():
        for parameter in model.temporal["video"].parameters():
            parameter.add_(torch.randn_like(parameter))
    after = model(**tokens)
    assert torch.equal(before.x_m[name], after.x_m[name])
    assert not torch.allclose(before.v_m, after.v_m)
    moved = {**tokens, "video": tokens["video"] + torch.randn(B, T, D)}  # but v itself matters
    assert not torch.allclose(model(**moved).x_m[name], after.x_m[name])


@pytest.mark.parametrize("name", ["flow", "audio"])
def test_eq_5_attends_to_the_trained_f_t_and_a_t(name: str) -> None:
    model, tokens = tiny_model(), make_tokens()
    before = model(**tokens)
    with torch.no_grad():
        for parameter in model.temporal[name].parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.allclose(before.v_m, model(**tokens).v_m)


def test_flow_and_audio_do_not_see_each_other() -> None:
    model, tokens = tiny_model(), make_tokens()
    other = {**tokens, "audio": torch.randn(B, 1, D)}
    assert torch.equal(model(**tokens).x_m["flow"], model(**other).x_m["flow"])


# ---- Eq. 9 to 12 on hand-worked numbers -----------------------------------------------------------------------------

AXES = torch.eye(3)  # three labels along three axes: the cosine is a coordinate of the unit vector


def test_eq_9_by_hand() -> None:
    v_m = torch.tensor([[3.0, 4.0, 0.0]])  # cosines .6, .8, 0
    f_m = torch.tensor([[0.0, 5.0, 12.0]])  # cosines 0, 5/13, 12/13
    nll = lambda cosines, y: -math.log(math.exp(cosines[y] / 0.5) / sum(math.exp(c / 0.5) for c in cosines))  # noqa: E731
    v, f = nll([0.6, 0.8, 0.0], 1), nll([0.0, 5 / 13, 12 / 13], 1)
    loss = mov_loss(v_m, {"flow": f_m}, AXES, torch.tensor([1]), alpha=0.7, tau=0.5)
    assert float(loss) == pytest.approx(0.7 * v + 0.3 * f, abs=1e-6)
    a_m = torch.tensor([[1.0, 0.0, 0.0]])
    a = nll([1.0, 0.0, 0.0], 1)
    three = mov_loss(v_m, {"flow": f_m, "audio": a_m}, AXES, torch.tensor([1]), alpha=0.7, tau=0.5)
    assert float(three) == pytest.approx(0.7 * v + 0.15 * f + 0.15 * a, abs=1e-6)
    alone = mov_loss(v_m, {}, AXES, torch.tensor([1]), alpha=0.7, tau=0.5)
    assert float(alone) == pytest.approx(v, abs=1e-6)


def test_eq_9_averages_over_what_is_there() -> None:
    v_m, f_m, a_m = (torch.randn(4, 3) for _ in range(3))
    targets = torch.tensor([0, 1, 2, 0])
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 1]], dtype=torch.bool)
    loss = mov_loss(v_m, {"flow": f_m, "audio": a_m}, AXES, targets, alpha=0.6, tau=0.5, mask=mask)
    v, f, a = (-probabilities(x, AXES, tau=0.5).log()[torch.arange(4), targets] for x in (v_m, f_m, a_m))
    clips = [
        0.6 * v[0] + 0.2 * f[0] + 0.2 * a[0],
        (0.6 * v[1] + 0.2 * a[1]) / 0.8,
        v[2],
        (f[3] + a[3]) / 2,
    ]
    assert float(loss) == pytest.approx(float(sum(clips) / 4), abs=1e-6)
    nothing = torch.cat([mask, torch.zeros(1, 3, dtype=torch.bool)])
    more = [torch.cat([x, torch.randn(1, 3)]) for x in (v_m, f_m, a_m)]
    five = mov_loss(
        more[0], {"flow": more[1], "audio": more[2]}, AXES, torch.cat([targets, targets[:1]]),
        alpha=0.6, tau=0.5, mask=nothing,
    )  # fmt: skip
    assert float(five) == pytest.approx(float(loss), abs=1e-6)  # a clip that has nothing does not count


def test_eq_10_by_hand() -> None:
    p = predict_base(torch.tensor([[3.0, 4.0, 0.0]]), AXES, tau=0.2)[0]
    e = [math.exp(3), math.exp(4), 1]
    assert p.tolist() == pytest.approx([x / sum(e) for x in e], abs=1e-6)


def test_eq_10_without_video_is_what_the_others_say() -> None:
    v_m, f_m, a_m = (torch.randn(3, 3) for _ in range(3))
    mask = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    p = predict_base(v_m, AXES, tau=0.2, x_m={"flow": f_m, "audio": a_m}, mask=mask)
    v, f, a = (probabilities(x, AXES, tau=0.2) for x in (v_m, f_m, a_m))
    assert torch.allclose(p[0], v[0])
    assert torch.allclose(p[1], (f[1] + a[1]) / 2)
    assert torch.allclose(p[2], a[2])


def test_eq_11_12_by_hand() -> None:
    v, f_m = torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[0.0, 5.0, 12.0]])
    p_v = [math.exp(c / 0.1) for c in (0.6, 0.8, 0.0)]
    p_f = [math.exp(c / 0.5) for c in (0.0, 5 / 13, 12 / 13)]
    expected = [0.25 * f / sum(p_f) + 0.75 * v / sum(p_v) for f, v in zip(p_f, p_v, strict=True)]
    p = predict_novel(v, {"flow": f_m}, AXES, beta=0.25, tau_v=0.1, tau_x=0.5)[0]
    assert p.tolist() == pytest.approx(expected, abs=1e-6)


def test_eq_12_shares_and_renormalises() -> None:
    v, f_m, a_m = (torch.randn(5, 3) for _ in range(3))
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    tau = {"flow": 0.3, "audio": 0.4}
    p = predict_novel(v, {"flow": f_m, "audio": a_m}, AXES, beta=0.4, tau_v=0.2, tau_x=tau, mask=mask)
    pv, pf, pa = (probabilities(x, AXES, tau=t) for x, t in ((v, 0.2), (f_m, 0.3), (a_m, 0.4)))
    expected = [0.6 * pv[0] + 0.2 * pf[0] + 0.2 * pa[0], (0.6 * pv[1] + 0.2 * pa[1]) / 0.8, pv[2], (pf[3] + pa[3]) / 2]
    assert torch.allclose(p[:4], torch.stack(expected), atol=1e-6)
    assert torch.allclose(p[:4].sum(1), torch.ones(4))
    assert torch.equal(p[4], torch.zeros(3))  # nothing there, nothing said
    silent = predict_novel(v, {"flow": f_m}, AXES, beta=0.0, mask=torch.tensor([[False, True]] * 5))
    assert torch.allclose(silent, probabilities(f_m, AXES, tau=0.01))


def test_methods_are_the_functions_with_the_configuration() -> None:
    model, labels, targets = tiny_model(), make_labels(), torch.tensor([0, 1, 2, 3])
    f, c = model(**make_tokens()), CONFIG
    assert torch.equal(model.loss(f, labels, targets), mov_loss(f.v_m, f.x_m, labels, targets, alpha=0.5, tau=0.1))
    assert torch.equal(model.predict_base(f, labels), predict_base(f.v_m, labels, tau=c.tau))
    novel = predict_novel(f.v, f.x_m, labels, beta=0.25, tau_v=0.03, tau_x=0.1)
    assert torch.allclose(model.predict_novel(f, labels), novel)
    base, own = (
        {name: x.exp().float() for name, x in model.log_probabilities_by_modality(f, labels, head=head).items()}
        for head in ("base", "novel")
    )
    assert list(base) == list(own) == list(ALL)
    assert torch.allclose(base["video"], probabilities(f.v_m, labels, tau=c.tau))
    assert torch.allclose(own["video"], probabilities(f.v, labels, tau=c.tau_v))
    assert torch.allclose(0.75 * own["video"] + 0.125 * own["flow"] + 0.125 * own["audio"], novel, atol=1e-6)
    mask = torch.ones(B, 3, dtype=torch.bool)
    mask[0, 2] = False
    silent = model.log_probabilities_by_modality(model(**make_tokens(), mask=mask), labels, head="base")["audio"][0]
    assert torch.equal(silent.exp(), torch.zeros(K, dtype=torch.float64))


def test_unlikely_labels_keep_their_order() -> None:
    """At the paper's tau_v of 0.003 most probabilities are below the smallest number of float32."""
    x, labels = torch.randn(1, 32), torch.randn(40, 32)
    order = torch.nn.functional.cosine_similarity(x, labels).argsort()
    for found in (
        log_predict_base(x, labels, tau=0.001),
        log_predict_novel(x, {"flow": x}, labels, tau_v=0.0003, tau_x=0.0005),
    ):
        assert found.isfinite().all()
        assert torch.equal(found[0].argsort(), order)


def test_permuting_labels_permutes_scores() -> None:
    model, labels, order = tiny_model(), make_labels(), torch.tensor([3, 0, 4, 1, 2])
    f = model(**make_tokens())
    assert torch.allclose(model.predict_base(f, labels[order]), model.predict_base(f, labels)[:, order], atol=1e-6)
    assert torch.allclose(model.predict_novel(f, labels[order]), model.predict_novel(f, labels)[:, order], atol=1e-6)


# ---- Configuration and errors ---------------------------------------------------------------------------------------


def test_config_is_json_and_the_papers_numbers() -> None:
    config = MOVConfig(modalities=ALL, trainable_layers=3)
    assert MOVConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    c = MOVConfig()
    assert (c.embedding_dim, c.num_heads, c.num_temporal_layers, c.num_cross_layers) == (512, 8, 2, 1)
    assert (c.alpha, c.tau, c.beta, c.tau_v, c.tau_f, c.tau_a) == (0.5, 0.01, 0.25, 0.003, 0.01, 0.01)
    large = MOVConfig.for_backbone(SimpleNamespace(embedding_dim=768, temperature=0.01), modalities=["video", "audio"])
    assert (large.num_heads, large.tau, large.modalities) == (12, 0.01, ("video", "audio"))
    assert large.tau_v == pytest.approx(0.003)


@pytest.mark.parametrize(("values", "message"), [
    ({"modalities": ("flow", "video")}, "'video' first"),
    ({"modalities": ("video", "smell")}, "smell"),
    ({"modalities": ("video", "flow", "flow")}, "each once"),
    ({"num_heads": 7}, "no multiple"),
    ({"tau_v": 0.0}, "tau_v"),
    ({"beta": 1.5}, "beta"),
    ({"alfa": 0.5}, "alfa"),
])  # fmt: skip
def test_wrong_settings_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        MOVConfig.from_dict(values)


def test_wrong_inputs_are_errors() -> None:
    model, tokens = MOV(replace(CONFIG, modalities=("video", "flow"))), make_tokens()
    with pytest.raises(ModelError, match="audio was given"):
        model(**tokens)
    with pytest.raises(ModelError, match="no video tower"):
        model(video=make_clips()["video"])
    with pytest.raises(ModelError, match="8 wide"):
        model(video=torch.randn(B, T, 8))
    with pytest.raises(ValueError, match="at least one"):
        model()
    with pytest.raises(ValueError, match="mask"):
        model(video=tokens["video"], mask=torch.ones(B, 3, dtype=torch.bool))
    with pytest.raises(ModelError, match="tower for 'audio'"):
        MOV(replace(CONFIG, modalities=("video", "flow")), towers={"audio": TinyTower()})


def test_zero_init_blocks_are_the_identity() -> None:
    x, context = torch.randn(2, T, D), torch.randn(2, 4, D)
    assert torch.equal(TemporalLayer(D, 2, 4, zero_init=True)(x), x)
    assert torch.equal(AudioLayer(D, 4, zero_init=True)(x), x)
    assert torch.equal(CrossLayer(D, 2, 4, zero_init=True)(x, context), x)
