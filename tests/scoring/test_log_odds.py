"""scoring/log_odds.py: labels scored one by one, by both heads, against numbers by hand; means over views."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import system_cases as cases
import torch
from torch import Tensor

from lexivid.backbones import load_backbone
from lexivid.data.loader import collate
from lexivid.models.mov import HEADS, MOVFeatures
from lexivid.models.trained import TrainedModel
from lexivid.scoring.features import Collected, clip_log_odds, score
from lexivid.scoring.heads import predict
from lexivid.scoring.log_odds import base_log_odds, log_odds

SCALES = {"v_m": [2.0, -1.0], "flow": [3.0, 0.5], "audio": [1.0, -0.2], "v": [4.0, -2.0]}
SETTINGS = {"tau": 0.5, "tau_v": 0.2, "tau_x": {"flow": 0.4, "audio": 0.25}, "beta": 0.4, "scales": SCALES}
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
LABELS = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
UNRELATED = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])


def features() -> MOVFeatures:
    """Of any length; rows of missing streams hold numbers all the same."""
    g = torch.Generator().manual_seed(0)
    v, v_m, flow, audio = torch.randn(4, 4, 2, generator=g)
    return MOVFeatures(v, v_m, {"flow": flow, "audio": audio}, MASK)


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x.double() @ y.double() / x.double().norm() / y.double().norm())


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_sigmoid(name: str, x: Tensor, k: int) -> float:
    scale, bias = SCALES[name]
    return scale * cosine(x, LABELS[k]) + bias


def against_unrelated(x: Tensor, k: int, tau: float) -> float:
    mean = sum(math.exp(cosine(x, other) / tau) for other in UNRELATED) / 3
    return cosine(x, LABELS[k]) / tau - math.log(mean)


@pytest.mark.parametrize("trained_by", ["sigmoid", "softmax"])
def test_the_base_path_by_hand(trained_by: str) -> None:
    """v_m; without pictures the mean of what is there."""
    f = features()
    settings = SETTINGS if trained_by == "sigmoid" else {**SETTINGS, "scales": None}
    found = log_odds(f, LABELS, settings, head="base", background=UNRELATED)
    assert found.dtype == torch.float64
    for row, used in enumerate((["v_m"], ["v_m"], ["flow", "audio"], ["audio"])):
        for k in range(2):
            own = []
            for name in used:
                x = f.v_m[row] if name == "v_m" else f.x_m[name][row]
                own.append(by_sigmoid(name, x, k) if trained_by == "sigmoid" else against_unrelated(x, k, 0.5))
            assert float(found[row, k]) == pytest.approx(sum(own) / len(own), rel=1e-5, abs=1e-6)
    if trained_by == "sigmoid":
        assert torch.equal(found, base_log_odds(f, LABELS, SCALES))


@pytest.mark.parametrize("trained_by", ["sigmoid", "softmax"])
def test_the_novel_path_by_hand(trained_by: str) -> None:
    """Probabilities of the frozen v and the others, mixed as in eq. 12 over what is there."""
    f = features()
    settings = SETTINGS if trained_by == "sigmoid" else {**SETTINGS, "scales": None}
    found = log_odds(f, LABELS, settings, head="novel", background=UNRELATED)
    taus = {"v": 0.2, "flow": 0.4, "audio": 0.25}
    shares = [{"v": 0.6, "flow": 0.2, "audio": 0.2}, {"v": 1.0}, {"flow": 0.5, "audio": 0.5}, {"audio": 1.0}]
    for row, own in enumerate(shares):
        for k in range(2):
            p = 0.0
            for name, share in own.items():
                x = f.v[row] if name == "v" else f.x_m[name][row]
                s = by_sigmoid(name, x, k) if trained_by == "sigmoid" else against_unrelated(x, k, taus[name])
                p += share * sigmoid(s)
            assert float(found[row, k]) == pytest.approx(math.log(p / (1 - p)), rel=1e-5, abs=1e-6)


def test_unlikely_labels_keep_their_order() -> None:
    """A mixture of probabilities far below 1e-12 has log odds of its own."""
    settings = {**SETTINGS, "scales": {name: [30.0, -60.0] for name in SCALES}}
    f = features()
    labels = torch.nn.functional.normalize(torch.randn(20, 2, generator=torch.Generator().manual_seed(1)), dim=-1)
    found = log_odds(f, labels, settings, head="novel")
    assert len(found[0].unique()) == 20
    own = {name: 30 * np.array([cosine(x[0], y) for y in labels]) - 60 for name, x in {"v": f.v, **f.x_m}.items()}
    mixed = np.logaddexp.reduce([np.log(share) + own[name] for name, share in zip(own, (0.6, 0.2, 0.2), strict=True)])
    assert found[0].numpy() == pytest.approx(mixed, rel=1e-5)  # log p and log odds are one down there
    nothing = MOVFeatures(f.v, f.v_m, f.x_m, torch.zeros(4, 3, dtype=torch.bool))
    assert log_odds(nothing, labels, settings, head="novel").isfinite().all()


def test_where_nothing_follows_the_tower_both_paths_are_one() -> None:
    """Then v is v_m, and has no scale of its own."""
    f = features()
    alone = MOVFeatures(f.v_m, f.v_m, {}, torch.ones(4, 1, dtype=torch.bool))
    settings = {**SETTINGS, "tau_x": {}, "scales": {"v_m": SCALES["v_m"]}}
    paths = [log_odds(alone, LABELS, settings, head=head) for head in ("base", "novel")]  # type: ignore[arg-type]
    torch.testing.assert_close(paths[0], paths[1])


def test_a_trained_models_predictions_are_its_standings(clip_folder: Path) -> None:
    """Of a model with a sigmoid, each label's probability is its own: it does not depend on which others are asked."""
    system = cases.system(cases.recipe(cases.MOV_SETTINGS, backbone=str(clip_folder)))
    assert system.objective is not None
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    with torch.no_grad():
        for i, parameter in enumerate(system.objective.parameters()):
            parameter.add_(0.3 * i)
    model = TrainedModel(
        backbone, system.encoder.eval(), cases.NAMES, "name", cases.ALL, scales=system.objective.scales(),
        precision="float32",
    )  # fmt: skip
    made = cases.samples(6)
    whole = collate([made[i] for i in range(6)])
    found = model.features(**whole.streams, mask=whole.mask)
    labels = backbone.encode_texts(list(cases.NAMES))
    for head in HEADS:
        p = predict(model, found, labels, head=head)
        expected = log_odds(found, labels, model.settings(), head=head).sigmoid().float()
        assert torch.equal(p, expected)
        torch.testing.assert_close(predict(model, found, labels[2:3], head=head), p[:, 2:3])
    scale, bias = system.objective.scales()["v_m"]
    with_pictures = found.mask[:, 0]
    cosines = torch.nn.functional.cosine_similarity(found.v_m[:, None], labels[None], dim=-1)
    by_hand = torch.sigmoid(cosines * scale + bias)
    torch.testing.assert_close(
        predict(model, found, labels, head="base")[with_pictures], by_hand[with_pictures], atol=1e-5, rtol=1e-4
    )


def test_views_are_averaged() -> None:
    """Standings as they are, probabilities as they are."""
    views = [features(), MOVFeatures(*[-x for x in features()[:2]], {n: -x for n, x in features().x_m.items()}, MASK)]
    stacked = {
        name: np.stack([(v._asdict() | v.x_m)[name].numpy() for v in views], axis=1)
        for name in ("v", "v_m", "flow", "audio")
    }
    for scales in (SCALES, None):
        collected = Collected(
            stacked, MASK.numpy(), cases.ALL, np.zeros(4, dtype=np.int64), tuple("abcd"), tuple("abcd"), ("x", "y"), (),
            {**SETTINGS, "base_score": "v_m", "scales": scales},
        )  # fmt: skip
        for head in ("base", "novel"):
            own = [log_odds(v, LABELS, collected.settings, head=head, background=UNRELATED) for v in views]  # type: ignore[arg-type]
            found = clip_log_odds(collected, LABELS, head=head, background=UNRELATED)  # type: ignore[arg-type]
            np.testing.assert_allclose(found, (own[0] + own[1]).numpy() / 2, rtol=1e-6)
            assert not np.allclose(own[0].numpy(), own[1].numpy())
            if scales is not None:
                p = score(collected, LABELS, head=head)  # type: ignore[arg-type]
                np.testing.assert_allclose(p, (own[0].sigmoid() + own[1].sigmoid()).numpy() / 2, rtol=1e-6)
