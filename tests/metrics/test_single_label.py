"""Every metric against another program's, or against a case worked by hand."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from lexivid.errors import LexividError
from lexivid.metrics import single_label


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    targets = rng.integers(7, size=200)
    scores = rng.normal(size=(200, 7))
    scores[np.arange(200), targets] += 0.8
    return scores, targets


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k_equals_sklearn(scored, k):
    scores, targets = scored
    ours = single_label.top_k_accuracy(scores, targets, k=k)
    theirs = sklearn.metrics.top_k_accuracy_score(targets, scores, k=k, labels=np.arange(7)) if k < 7 else 1.0
    assert ours == pytest.approx(theirs)


def test_a_constant_answer_is_no_hit():
    assert single_label.top_k_accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 0])) == 0.0
    assert single_label.top_k_accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 0]), k=3) == 1.0


def test_ranks_by_hand():
    """A tie counts against the right label; the last column and the first are columns; nothing has no accuracy."""
    scores = np.array([[3.0, 2, 1], [1, 1, 0], [1, 1, 1], [0, 1, 2]])
    assert single_label.ranks(scores, np.array([0, 0, 2, 0])).tolist() == [0, 1, 2, 2]
    assert single_label.hits(scores, np.array([0, 0, 2, 0]), k=2).tolist() == [1, 1, 0, 0]
    assert single_label.hits(scores, np.array([2, 2, 2, 2]), k=1).tolist() == [0, 0, 0, 1]
    assert np.isnan(single_label.top_k_accuracy(np.zeros((0, 3)), np.zeros(0, int)))
    assert single_label.confusion(np.array([0, 2]), np.array([2, 2]), num_classes=3).tolist() == [
        [0, 0, 1], [0, 0, 0], [0, 0, 1]
    ]  # fmt: skip


def test_resamples_in_parts_are_those_of_one(monkeypatch):
    values = (np.random.default_rng(4).random(30) < 0.5).astype(float)
    whole = single_label.bootstrap_mean(values, num_resamples=101)
    monkeypatch.setattr(single_label, "_CHUNK", 70)  # two resamples at a time, and one that is left
    assert single_label.bootstrap_mean(values, num_resamples=101) == pytest.approx(whole)


def test_confusion_and_recall_equal_sklearn(scored):
    scores, targets = scored
    said = scores.argmax(axis=1)
    ours = single_label.confusion(targets, said, num_classes=7)
    assert np.array_equal(ours, sklearn.metrics.confusion_matrix(targets, said, labels=np.arange(7)))
    recall = single_label.per_class_accuracy(targets, single_label.hits(scores, targets), num_classes=7)
    assert recall == pytest.approx(sklearn.metrics.recall_score(targets, said, average=None))


def test_a_class_without_clips_has_no_accuracy():
    found = single_label.per_class_accuracy(np.array([0, 2]), np.array([1.0, 0.0]), num_classes=3)
    assert found[0] == 1
    assert np.isnan(found[1])
    assert found[2] == 0


@pytest.mark.parametrize(("base", "novel"), [(0.9, 0.5), (0.2, 0.2), (1.0, 0.01)])
def test_harmonic_mean_equals_scipy(base, novel):
    assert single_label.harmonic_mean(base, novel) == pytest.approx(scipy.stats.hmean([base, novel]))


def test_harmonic_mean_of_several_runs_is_of_all_their_clips():
    """Two runs: base 1.0 and 0.5, novel 0.25 and 0.75; not the mean of 0.4 and 0.6."""
    hits = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 0], dtype=float)
    is_base = np.array([True] * 4 + [False] * 4 + [True] * 4 + [False] * 4)
    found = single_label.bootstrap_harmonic_mean(hits, is_base, np.repeat([0, 1], 8))
    assert found.value == pytest.approx(2 * 0.75 * 0.5 / (0.75 + 0.5))


def test_harmonic_mean_of_nothing():
    assert single_label.harmonic_mean(0.0, 0.9) == 0.0
    assert single_label.harmonic_mean(0.0, 0.0) == 0.0


def test_bootstrap_over_clips_equals_scipy():
    values = (np.random.default_rng(1).random(80) < 0.7).astype(float)
    ours = single_label.bootstrap_mean(values, num_resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == values.mean()
    assert ours.num_units == 80
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.013)


def test_groups_of_equal_clips_count_once():
    """Ten copies of each clip say nothing new: the interval is that of the clips, far wider than of 800 clips."""
    values = (np.random.default_rng(3).random(80) < 0.5).astype(float)
    copied, group = np.repeat(values, 10), np.repeat(np.arange(80), 10)
    alone = single_label.bootstrap_mean(values)
    grouped = single_label.bootstrap_mean(copied, group)
    naive = single_label.bootstrap_mean(copied)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))  # the same draws
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)
    assert grouped.num_units == 80


def test_runs_crossed_with_clips_by_hand():
    """Two runs, two clips, explicit weights: every resample is a mean under a product of counts."""
    values = np.array([1.0, 0.0, 0.0, 1.0])  # run 0: clips a, b; run 1: clips a, b
    run, clip = np.array([0, 0, 1, 1]), np.array(["a", "b", "a", "b"])
    (run_place, clip_place), (runs, clips) = single_label.resampled_weights([run, clip], num_resamples=50, seed=5)
    drawn = single_label.resampled_means(values[:, None], run, clip, num_resamples=50, seed=5)[:, 0]
    for b in range(50):
        weight = [runs[b][r] * clips[b][c] for r, c in zip(run_place, clip_place, strict=True)]
        assert drawn[b] == pytest.approx(np.average(values, weights=weight))
    assert runs.sum(axis=1).tolist() == [2] * 50


def test_a_spread_over_runs_widens_the_interval():
    run = np.repeat(np.arange(4), 100)
    values = np.concatenate([np.zeros(200), np.ones(200)])  # runs differ entirely
    clip = np.tile(np.arange(100), 4)
    by_clip = single_label.bootstrap_mean(values, clip)
    crossed = single_label.bootstrap_mean(values, clip, run)
    assert by_clip.low == by_clip.high == 0.5
    assert crossed.low == 0.0
    assert crossed.high == 1.0
    assert crossed.num_units == 4


def test_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(7)
    hard = rng.random(300)
    first, second = (hard < 0.6).astype(float), (hard < 0.55).astype(float)
    paired = single_label.bootstrap_difference(first, second)
    assert paired.value == pytest.approx((first - second).mean())
    assert paired.low > 0
    alone = single_label.bootstrap_mean(first)
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_harmonic_mean_interval():
    rng = np.random.default_rng(8)
    is_base = np.arange(400) < 200
    correct = np.where(is_base, rng.random(400) < 0.8, rng.random(400) < 0.3).astype(float)
    found = single_label.bootstrap_harmonic_mean(correct, is_base)
    base, novel = correct[is_base].mean(), correct[~is_base].mean()
    assert found.value == pytest.approx(scipy.stats.hmean([base, novel]))
    assert found.low < found.value < found.high
    with pytest.raises(LexividError, match="base and novel"):
        single_label.bootstrap_harmonic_mean(correct, np.ones(400, dtype=bool))


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(9)
    covered = 0
    for trial in range(200):
        found = single_label.bootstrap_mean((rng.random(120) < 0.6).astype(float), num_resamples=400, seed=trial)
        covered += found.low <= 0.6 <= found.high
    assert 180 <= covered <= 199  # 95 %, percentile intervals a little less; 200 of 200 would be too wide


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: single_label.hits(np.zeros((2, 3)), np.array([0, 3])), "0 to 2"),
        (lambda: single_label.hits(np.zeros((2, 3)), np.array([0, -1])), "0 to 2"),
        (lambda: single_label.hits(np.zeros((2, 3)), np.array([0])), "got"),
        (lambda: single_label.hits(np.zeros(3), np.array([0])), "got"),
        (lambda: single_label.confusion(np.array([-1]), np.array([0]), num_classes=3), "0 to 2"),
        (lambda: single_label.confusion(np.array([3]), np.array([0]), num_classes=3), "0 to 2"),
        (lambda: single_label.bootstrap_mean(np.ones(3), level=0.0), "level"),
        (lambda: single_label.hits(np.full((1, 3), np.nan), np.array([0])), "not a number"),
        (lambda: single_label.hits(np.zeros((1, 3)), np.array([0]), k=0), "at least 1"),
        (lambda: single_label.confusion(np.array([0]), np.array([5]), num_classes=3), "0 to 2"),
        (lambda: single_label.bootstrap_mean(np.ones(3), [0, 1]), "factors"),
        (lambda: single_label.bootstrap_mean(np.ones(3), level=1.0), "level"),
        (lambda: single_label.bootstrap_difference(np.ones(3), np.ones(2)), "same clips"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(LexividError, match=message):
        call()


@pytest.mark.parametrize("degrees", [1, 2, 4, 29])
def test_student_quantile_equals_scipy(degrees):
    for probability in (0.5, 0.9, 0.975):
        ours = single_label.student_quantile(probability, degrees)
        assert ours == pytest.approx(scipy.stats.t.ppf(probability, degrees), rel=1e-5, abs=1e-9)


def test_t_interval_equals_scipy():
    values = [3.0, 4.5, 2.0, 7.0, 5.5]
    found = single_label.t_interval(values)
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert found == pytest.approx((np.mean(values), low, high, 5), rel=1e-6)
    one = single_label.t_interval([3.0])
    assert one.value == 3.0
    assert np.isnan(one.low)
    with pytest.raises(LexividError, match="n above 0"):
        single_label.t_interval([])
