"""Calibration and protocols on made-up scores and features, where the right answer is known."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.evaluation import protocols
from lexivid.metrics import single_label
from lexivid.models.calibration import BaseNovelOffset
from lexivid.scoring import base_novel_offset
from lexivid.scoring.features import Collected, aligned, log_score, score

D, P, Q = 24, 6, 6
NAMES = tuple(f"class {i}" for i in range(P + Q))
SPLIT = ClassSplit(NAMES[:P], NAMES[P:])


def make_collected(num=40, *, base_pull=3.0, seed=0, views=2):
    """Frozen v knows all classes a little; v_m knows base classes well and pulls novel clips to some base class."""
    rng = np.random.default_rng(seed)
    texts = F.normalize(torch.from_numpy(rng.normal(size=(P + Q, D))).float(), dim=-1)
    targets = np.repeat(np.arange(P + Q), num)
    noise = rng.normal(size=(len(targets), views, D)) * 0.6
    own = texts.numpy()[targets][:, None]
    v = own + noise
    absorbed = np.where(targets < P, targets, rng.integers(P, size=len(targets)))
    v_m = own + noise * 0.4 + base_pull * 0.4 * texts.numpy()[absorbed][:, None]
    flow = rng.normal(size=v.shape) * 0.2 + own * 0.5
    return texts, Collected(
        {"v": v.astype("f4"), "v_m": v_m.astype("f4"), "flow": flow.astype("f4")},
        np.ones((len(targets), 2), dtype=bool),
        ("video", "flow"),
        targets,
        tuple(f"clip {i}" for i in range(len(targets))),
        tuple(f"group {i // 2}" for i in range(len(targets))),
        NAMES,
        NAMES[:P],
        {"tau": 0.1, "tau_v": 0.05, "tau_x": {"flow": 0.1}, "beta": 0.25, "base_score": "v_m"},
    )


def embedding(texts):
    place = {name: i for i, name in enumerate(NAMES)}

    def vector(name):  # of any other name: always the same
        seed = int.from_bytes(name.encode(), "big") % (1 << 31)
        return F.normalize(torch.randn(D, generator=torch.Generator().manual_seed(seed)), dim=-1)

    return lambda names: torch.stack([texts[place[n]] if n in place else vector(n) for n in names])


# ---- calibration ----


def brute_force(folds, offsets):
    return [
        np.mean([single_label.harmonic_mean(*base_novel_offset.accuracies(f, offset=o)) for f in folds])
        for o in offsets
    ]


def random_fold(seed, num=60, num_labels=8):
    rng = np.random.default_rng(seed)
    targets = rng.integers(num_labels, size=num)
    logits = rng.normal(size=(2, num, num_labels))
    logits[:, np.arange(num), targets] += 1.5
    logits[0, :, : num_labels // 2] += 2.0
    paths = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return base_novel_offset.Fold(*np.log(paths), targets, np.arange(num_labels) < num_labels // 2)


@pytest.mark.parametrize("num_folds", [1, 3])
def test_best_offset_equals_brute_force(num_folds):
    folds = [random_fold(seed) for seed in range(num_folds)]
    offset, mean = base_novel_offset.best_offset(folds)
    assert mean == pytest.approx(brute_force(folds, [offset])[0])
    grid = np.linspace(-8, 8, 4001)
    assert mean >= max(brute_force(folds, grid)) - 1e-12
    assert mean > brute_force(folds, [0.0])[0]  # else this test would show nothing


def test_offset_by_hand():
    """Base clip: own 0.6, best novel 0.1. Novel clip: own 0.2, best base 0.5. Both are right from log 2.5 to log 6."""
    base_path = np.log([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2]])
    fold = base_novel_offset.Fold(base_path, base_path, np.array([0, 2]), np.array([True, True, False]))
    offset, mean = base_novel_offset.best_offset([fold])
    assert mean == 1.0
    assert offset == pytest.approx((np.log(2.5) + np.log(6)) / 2)
    assert base_novel_offset.accuracies(fold, offset=0.0) == (1.0, 0.0)
    assert base_novel_offset.accuracies(fold, offset=np.log(6.1)) == (0.0, 1.0)


def test_combine_is_a_distribution_and_keeps_one_sided_vocabularies():
    fold = random_fold(3)
    for offset in (-3.0, 0.0, 5.0):
        p = base_novel_offset.combine(fold.base_path, fold.novel_path, fold.is_base, offset=offset)
        assert p.sum(axis=1) == pytest.approx(np.ones(len(p)))
        for side, path in ((True, fold.base_path), (False, fold.novel_path)):
            alone = base_novel_offset.combine(fold.base_path, fold.novel_path, np.full(8, side), offset=offset)
            assert alone == pytest.approx(np.exp(path))


def test_labels_far_down_do_not_tie():
    """Five best of 12 labels, at temperatures at which most probabilities are below 1e-12, against the equations."""
    texts, collected = make_collected(num=20, views=1)
    collected.settings |= {"scales": None, "tau": 0.01, "tau_v": 0.003, "tau_x": {"flow": 0.01}}
    x = {name: f[:, 0] / np.linalg.norm(f[:, 0], axis=1, keepdims=True) for name, f in collected.features.items()}
    labels = texts.double().numpy()

    def log_softmax(name, tau):
        logits = x[name].astype("f8") @ labels.T / tau
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    novel = np.logaddexp(np.log(0.75) + log_softmax("v", 0.003), np.log(0.25) + log_softmax("flow", 0.01))
    expected = np.where(np.arange(P + Q) < P, log_softmax("v_m", 0.01), novel + 1.5)
    assert np.mean(np.exp(expected) < 1e-12) > 0.3  # else this test would show nothing
    five = single_label.hits(expected, collected.targets, k=5)
    result = protocols.generalized(
        collected, SPLIT, embedding(texts), calibration=BaseNovelOffset(1.5, method="held-out")
    )
    found = [result["calibrated"][side]["top5"] for side in ("base", "novel")]
    assert found == pytest.approx([five[collected.targets < P].mean(), five[collected.targets >= P].mean()])


def test_an_offset_knows_its_views():
    """Fitted with two views, it fits two; for another number that is said."""
    texts, collected = make_collected(num=6, views=2)
    fitted = base_novel_offset.fit_offset(collected, embedding(texts), nothing=[f"nothing {i}" for i in range(4)])
    assert fitted.num_views == 2
    assert BaseNovelOffset.from_dict(fitted.to_dict()) == fitted
    assert "warning" not in protocols.generalized(collected, SPLIT, embedding(texts), calibration=fitted)
    more = make_collected(num=6, views=12)[1]
    told = protocols.generalized(more, SPLIT, embedding(texts), calibration=fitted)["warning"]
    assert "2 view(s)" in told
    assert "12" in told
    assert "warning" not in protocols.generalized(more, SPLIT, embedding(texts))  # no offset, nothing to say
    assert (
        BaseNovelOffset.from_dict({"offset": 1.0, "method": "held-out"}).num_views == 1
    )  # of runs before this was kept


def test_a_larger_offset_moves_answers_to_novel_labels_only():
    fold = random_fold(4)
    shares = [
        (~fold.is_base[base_novel_offset.combine(*fold[:2], fold.is_base, offset=o).argmax(axis=1)]).mean()
        for o in (-2, 0, 2, 9)
    ]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    assert shares[-1] == 1.0


def test_permuting_labels_permutes_scores():
    fold = random_fold(5)
    order = np.random.default_rng(0).permutation(8)
    straight = base_novel_offset.combine(*fold[:2], fold.is_base, offset=0.7)
    permuted = base_novel_offset.combine(
        fold.base_path[:, order], fold.novel_path[:, order], fold.is_base[order], offset=0.7
    )
    assert permuted == pytest.approx(straight[:, order])


@pytest.mark.parametrize("spare", [0.05, 0.1, 0.3])
def test_held_out_offset_costs_base_clips_what_they_can_spare(spare):
    rng = np.random.default_rng(11)
    targets, is_base = rng.integers(5, size=400), np.arange(10) < 5
    folds = []
    for _ in range(3):
        logits = rng.normal(size=(400, 10)) * 1.5
        logits[np.arange(400), targets] += 3.0
        log_p = np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
        folds.append(base_novel_offset.Fold(log_p, log_p, targets, is_base))

    def base_accuracy(offset):
        return np.mean(
            [
                (base_novel_offset.combine(*f[:2], is_base, offset=offset).argmax(axis=1) == targets).mean()
                for f in folds
            ]
        )

    fitted = base_novel_offset.fit_held_out({5: folds}, spare=spare)
    assert base_accuracy(fitted.offset) == pytest.approx((1 - spare) * base_accuracy(-100.0), abs=0.002)
    assert base_accuracy(fitted.offset + 0.2) < (1 - spare) * base_accuracy(-100.0)


def test_held_out_says_what_it_lacks():
    fold = random_fold(0)
    with pytest.raises(LexividError, match="spare"):
        base_novel_offset.fit_held_out({4: [fold]}, spare=0.0)
    with pytest.raises(LexividError, match="no base classes"):
        base_novel_offset.fit_held_out({4: [fold._replace(is_base=np.ones(8, dtype=bool))]})
    with pytest.raises(LexividError, match="train longer"):
        base_novel_offset.fit_held_out(
            {1: [base_novel_offset.Fold(np.log([[0.2, 0.5, 0.3]]), np.zeros((1, 3)), np.array([0]), np.arange(3) < 2)]}
        )


def test_an_offset_for_every_number_of_labels():
    fitted = BaseNovelOffset(0.5, ((1, 3.0), (4, 1.0), (16, 0.0)))
    assert [fitted.offset_for(n) for n in (1, 4, 16)] == [3.0, 1.0, 0.0]
    assert fitted.offset_for(2) == pytest.approx(2.0)  # linear in the logarithm
    assert fitted.offset_for(8) == pytest.approx(0.5)
    assert fitted.offset_for(1000) == 0.0
    assert BaseNovelOffset(0.5).offset_for(7) == 0.5


def test_names_of_nothing_hold_no_base_class():
    names = base_novel_offset.distractor_labels(900, seed=3, exclude=["playing violin", "dog"])
    assert len(set(names)) == 900
    assert not any("dog" in name.lower() for name in names)
    assert "violin" not in names
    assert names == base_novel_offset.distractor_labels(900, seed=3, exclude=["playing violin", "dog"])
    assert names[:5] != base_novel_offset.distractor_labels(5, seed=4)


def test_class_folds_leave_every_class_out_once():
    folds = base_novel_offset.class_folds(NAMES[:7], num_folds=3, seed=1)
    assert sorted(name for fold in folds for name in fold) == sorted(NAMES[:7])
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    with pytest.raises(LexividError, match="two must stay"):
        base_novel_offset.class_folds(NAMES[:2], num_folds=2)


def test_calibration_survives_json():
    fitted = base_novel_offset.fit_classes_out([random_fold(0), random_fold(1)])
    again = BaseNovelOffset.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert BaseNovelOffset.from_dict(None).offset == 0
    with pytest.raises(LexividError, match="offset"):
        BaseNovelOffset.from_dict({"offset": "a lot"})
    with pytest.raises(LexividError, match="offset"):
        BaseNovelOffset.from_dict({"offsets": [[1, float("nan")]]})
    table = BaseNovelOffset(0.5, ((1, 3.0), (4, 1.0)), "held-out")
    assert BaseNovelOffset.from_dict(json.loads(json.dumps(table.to_dict()))) == table


@pytest.mark.parametrize("targets", [np.zeros(60, dtype=int), np.full(60, 7)], ids=["no novel clips", "no base clips"])
def test_calibration_needs_both_sides(targets):
    with pytest.raises(LexividError, match="both sides"):
        base_novel_offset.best_offset([random_fold(0)._replace(targets=targets)])


# ---- protocols ----


def test_base_novel_uses_each_sides_own_path():
    texts, collected = make_collected()
    result = protocols.base_novel(collected, SPLIT, embedding(texts))
    for side, own in (("base", np.arange(P)), ("novel", np.arange(P, P + Q))):
        part = collected.select(np.isin(collected.targets, own))
        p = score(part, texts[own], head=side)
        expected = float((p.argmax(axis=1) == part.targets - own[0]).mean())
        assert result[side]["accuracy"]["value"] == pytest.approx(expected, abs=1e-6)
        assert result[side]["mean_class_accuracy"] == pytest.approx(expected)  # as many clips of each class
        other = score(part, texts[own], head="novel" if side == "base" else "base")
        assert not np.allclose(p, other)
    means = [result[side]["accuracy"]["value"] for side in ("base", "novel")]
    assert result["harmonic_mean"]["value"] == pytest.approx(single_label.harmonic_mean(*means), abs=1e-6)
    assert result["harmonic_mean"]["num_units"] == len(set(collected.groups))
    assert set(result["novel"]["by_stream"]) == {"video", "flow"}
    json.dumps(result)


def test_scores_are_means_over_views():
    texts, collected = make_collected(num=3)
    whole = score(collected, texts, head="novel")
    each = []
    for view in range(2):
        one = make_collected(num=3)[1]
        one.features = {name: x[:, view : view + 1] for name, x in collected.features.items()}
        each.append(score(one, texts, head="novel"))
    assert whole == pytest.approx(np.mean(each, axis=0), abs=1e-6)


def test_distractors_only_make_it_harder():
    texts, collected = make_collected()
    few = protocols.base_novel(collected, SPLIT, embedding(texts))
    more = [f"distractor {i}" for i in range(20)]
    many = protocols.base_novel(collected, SPLIT, embedding(texts), distractors=more)
    for side in ("base", "novel"):
        assert many[side]["names"] == few[side]["names"] + 20
        assert many[side]["accuracy"]["value"] <= few[side]["accuracy"]["value"]
    assert many["novel"]["accuracy"]["value"] < few["novel"]["accuracy"]["value"]


def test_calibrated_beats_both_simple_rules_without_a_novel_clip():
    """The offset comes from models trained without some base classes, here made in the same way as the model itself."""
    texts, collected = make_collected()
    embed = embedding(texts)
    folds = []
    for seed in (1, 2):  # twins: P base classes of which half are novel to them
        _, twin = make_collected(seed=seed)
        chosen = np.isin(twin.targets, [0, 1, 2, P, P + 1, P + 2])
        labels = np.array([0, 1, 2, P, P + 1, P + 2])
        part = twin.select(chosen)
        twin_texts = make_collected(seed=seed)[0][labels]
        p = [log_score(part, twin_texts, head=head) for head in ("base", "novel")]
        folds.append(base_novel_offset.Fold(*p, np.searchsorted(labels, part.targets), labels < P))
    fitted = base_novel_offset.fit_classes_out(folds)
    result = protocols.generalized(collected, SPLIT, embed, calibration=fitted)
    means = {rule: result[rule]["harmonic_mean"]["value"] for rule in ("all-novel", "all-base", "calibrated")}
    assert means["calibrated"] > means["all-novel"] + 0.02
    assert means["calibrated"] > means["all-base"] + 0.02
    assert result["calibration"]["method"] == "classes-out"
    plain = protocols.generalized(collected, SPLIT, embed)
    assert "uncalibrated" in plain
    assert plain["all-base"] == result["all-base"]
    json.dumps(result)


def test_held_out_calibration_sees_base_clips_alone():
    texts, collected = make_collected()
    fitted = base_novel_offset.fit_offset(collected, embedding(texts))
    assert fitted.method == "held-out"
    assert fitted.num_clips == P * 40
    numbers, offsets = zip(*fitted.offsets, strict=True)
    assert numbers == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert offsets[0] > offsets[-1]  # more names cost more
    spoiled = make_collected()[1]
    for x in spoiled.features.values():
        x[spoiled.targets >= P] = 7.0  # whatever novel clips hold
    assert base_novel_offset.fit_offset(spoiled, embedding(texts)) == fitted


def test_a_model_of_no_base_classes_cannot_be_calibrated():
    texts, collected = make_collected(num=2)
    collected.base_classes = ()
    with pytest.raises(LexividError, match="nothing to calibrate"):
        base_novel_offset.fit_offset(collected, embedding(texts))


def test_no_clip_of_the_split_is_an_error():
    texts, collected = make_collected(num=2)
    with pytest.raises(LexividError, match="check its names"):
        protocols.base_novel(collected, ClassSplit(("other 1", "other 2"), ()), embedding(texts))


def test_collected_survives_the_disk(tmp_path):
    _, collected = make_collected(num=2)
    collected.failures = [("broken.mp4", "no frames")]
    collected.save(tmp_path / "features.npz")
    again = Collected.load(tmp_path / "features.npz")
    for name, x in collected.features.items():
        assert np.array_equal(again.features[name], x)
    assert again.failures == collected.failures
    assert again.classes == collected.classes
    assert again.settings == collected.settings
    (tmp_path / "features.npz").write_bytes(b"no such thing")
    with pytest.raises(LexividError, match="holds no collected features"):
        Collected.load(tmp_path / "features.npz")


# ---- views of several streams ----


def views_of(num_pictures, num_sounds):
    pictures = torch.arange(num_pictures).float().view(1, -1, 1, 1, 1, 1)
    sounds = torch.arange(num_sounds).float().view(1, -1, 1, 1, 1)
    return {"video": pictures, "audio": sounds}


def pairs(num_pictures, num_sounds, num_clips):
    return [
        (int(x["video"].item()), int(x["audio"].item())) for x in aligned(views_of(num_pictures, num_sounds), num_clips)
    ]


def test_the_papers_views_are_each_used_once_at_their_time():
    found = pairs(12, 12, 4)  # 4 clips x 3 crops, 12 sounds
    assert sorted(p for p, _ in found) == list(range(12))
    assert sorted(s for _, s in found) == list(range(12))
    assert all(p % 4 == s // 3 for p, s in found)  # the quarter of the file


def test_fewer_sounds_or_fewer_pictures():
    assert pairs(3, 1, 3) == [(0, 0), (1, 0), (2, 0)]
    assert pairs(1, 3, 1) == [(0, 0), (0, 1), (0, 2)]
    found = pairs(4, 12, 4)
    assert [s for _, s in found] == list(range(12))
    assert all(p == s // 3 for p, s in found)


def test_one_stream_alone():
    assert [set(x) for x in aligned({"audio": torch.zeros(1, 2, 3, 8, 10)}, 1)] == [{"audio"}, {"audio"}]
