"""Metrics of several labels a clip: each against scikit-learn, or against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as oracle

from lexivid.errors import LexividError
from lexivid.metrics import multi_label


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores in steps (so that they tie), truth and judged, (n, K)."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    scores = draw(arrays.arrays(np.float64, shape, elements=st.integers(0, 8).map(lambda x: x / 8)))
    truth = draw(arrays.arrays(np.bool_, shape))
    judged = draw(st.one_of(st.just(np.ones(shape, dtype=bool)), arrays.arrays(np.bool_, shape)))
    return scores, truth, judged


@settings(max_examples=150, deadline=None)
@given(cases())
def test_average_precision_is_sklearns(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, truth, judged = case
    found = multi_label.average_precision(scores, truth, judged)
    for k in range(truth.shape[1]):
        use = judged[:, k]
        if truth[use, k].any():
            assert found[k] == pytest.approx(oracle.average_precision_score(truth[use, k], scores[use, k]))
        else:
            assert np.isnan(found[k])
    absent = multi_label.labels_without_clips(truth, judged)
    assert absent.tolist() == np.flatnonzero(np.isnan(found)).tolist()
    mean = multi_label.mean_average_precision(scores, truth, judged)
    assert np.isnan(mean) if len(absent) == truth.shape[1] else mean == pytest.approx(np.nanmean(found))


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(0, 9))
def test_f1_is_sklearns(case: tuple[np.ndarray, np.ndarray, np.ndarray], step: int) -> None:
    scores, truth, judged = case
    threshold = step / 8
    found = multi_label.f1(scores, truth, threshold=threshold, judged=judged)
    said = (scores >= threshold)[judged]
    assert found.micro == (pytest.approx(oracle.f1_score(truth[judged], said, zero_division=0)) if judged.any() else 0)
    of_labels = [
        oracle.f1_score(truth[judged[:, k], k], scores[judged[:, k], k] >= threshold, zero_division=0)
        for k in range(truth.shape[1])
        if (truth & judged)[:, k].any()
    ]
    assert np.isnan(found.macro) if not of_labels else found.macro == pytest.approx(np.mean(of_labels))


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from(["micro", "macro"]))
def test_no_threshold_beats_the_best(case: tuple[np.ndarray, np.ndarray, np.ndarray], average: str) -> None:
    scores, truth, judged = case
    if not (truth & judged).any():
        with pytest.raises(LexividError, match="no label holds"):
            multi_label.best_f1(scores, truth, average=average, judged=judged)
        return
    best = multi_label.best_f1(scores, truth, average=average, judged=judged)
    tried = [getattr(multi_label.f1(scores, truth, threshold=t, judged=judged), average) for t in np.unique(scores)]
    assert getattr(best, average) == pytest.approx(max(tried))


def test_all_labels_at_once_as_sklearn_has_them() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((60, 7)) < 0.3
    scores = rng.random((60, 7)) + 0.4 * truth
    assert multi_label.mean_average_precision(scores, truth) == pytest.approx(
        oracle.average_precision_score(truth, scores, average="macro")
    )
    found = multi_label.f1(scores, truth, threshold=0.7)
    for average in ("micro", "macro"):
        assert getattr(found, average) == pytest.approx(oracle.f1_score(truth, scores >= 0.7, average=average))


def test_a_label_that_never_holds() -> None:
    truth = np.array([[1, 0], [0, 0]])
    scores = np.array([[0.9, 0.8], [0.1, 0.2]])
    assert multi_label.mean_average_precision(scores, truth) == 1.0  # of the first label alone
    assert multi_label.labels_without_clips(truth).tolist() == [1]
    found = multi_label.f1(scores, truth, threshold=0.5)
    assert found.macro == 1.0
    assert found.micro == pytest.approx(2 / 3)  # its false alarm counts
    numbers = multi_label.report(scores, truth, seen=np.array([True, False]))
    assert numbers["unseen"]["labels_without_clips"] == 1
    assert numbers["unseen"]["mean_average_precision"] is None
    assert "best_f1_micro" not in numbers["unseen"]


@settings(max_examples=100, deadline=None)
@given(cases())
def test_reliability_is_sklearns_calibration_curve(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    from sklearn.calibration import calibration_curve

    # sklearn's bins are open on the left, ours on the right: no value may lie on a border.
    p, truth, judged = case[0] * 0.98 + 0.007, case[1], case[2]
    if not judged.any():
        assert np.isnan(multi_label.calibration_error(p, truth, judged=judged))
        return
    said, held, counts = multi_label.reliability(p, truth, num_bins=5, judged=judged)
    their_held, their_said = calibration_curve(truth[judged], p[judged], n_bins=5)
    there = counts > 0
    assert held[there] == pytest.approx(their_held)
    assert said[there] == pytest.approx(their_said)
    error = multi_label.calibration_error(p, truth, num_bins=5, judged=judged)
    assert error == pytest.approx(np.sum(np.abs(their_held - their_said) * counts[there]) / judged.sum())
    interval = multi_label.bootstrap_calibration_error(p, truth, num_bins=5, judged=judged, num_resamples=20)
    assert interval.value == pytest.approx(error)
    assert interval.low <= interval.high


def test_calibration_error_by_hand() -> None:
    p = np.array([[0.05, 0.95], [0.05, 0.55]])
    truth = np.array([[0, 1], [1, 0]])
    # bins: 0.05, 0.05 (held 0.5), 0.95 (held 1), 0.55 (held 0)
    assert multi_label.calibration_error(p, truth) == pytest.approx((2 * 0.45 + 0.05 + 0.55) / 4)
    assert multi_label.reliability(np.array([[1.0]]), np.array([[1]])).counts.tolist() == [0] * 9 + [1]


def test_the_interval_is_over_clips_or_their_groups() -> None:
    """Fifty copies of one clip say no more than it does."""
    rng = np.random.default_rng(0)
    p = rng.random((8, 20))
    truth = rng.random((8, 20)) < p
    many, owner = np.repeat(p, 50, axis=0), np.repeat(np.arange(8), 50)
    as_clips = multi_label.bootstrap_calibration_error(many, np.repeat(truth, 50, axis=0))
    as_groups = multi_label.bootstrap_calibration_error(many, np.repeat(truth, 50, axis=0), groups=owner)
    plain = multi_label.bootstrap_calibration_error(p, truth)
    assert as_groups.num_units == plain.num_units == 8
    assert as_groups.value == as_clips.value
    assert as_groups.high - as_groups.low > 2 * (as_clips.high - as_clips.low)
    assert as_groups.high == pytest.approx(plain.high)


def test_report_of_seen_unseen_and_all() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((40, 6)) < 0.4
    p = np.clip(0.5 * truth + 0.6 * rng.random((40, 6)), 0, 1)
    seen = np.array([1, 1, 0, 0, 1, 0], dtype=bool)
    found = multi_label.report(p, truth, seen=seen)
    assert [found[part]["labels"] for part in ("all", "seen", "unseen")] == [6, 3, 3]
    assert {found[part]["clips"] for part in found} == {40}
    assert found["seen"]["mean_average_precision"] == pytest.approx(
        oracle.average_precision_score(truth[:, seen], p[:, seen]), abs=1e-6
    )
    assert found["unseen"]["f1_micro"] == pytest.approx(
        oracle.f1_score(truth[:, ~seen], p[:, ~seen] >= 0.5, average="micro"), abs=1e-6
    )
    assert list(multi_label.report(p, truth)) == ["all"]
    assert list(multi_label.report(p, truth, seen=np.ones(6, dtype=bool))) == ["all", "seen"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p, y: multi_label.average_precision(p[:, :1], y), "alike"),
        (lambda p, y: multi_label.average_precision(p * np.nan, y), "not a number"),
        (lambda p, y: multi_label.f1(p, y + 1, threshold=0.5), "0 or 1"),
        (lambda p, y: multi_label.f1(p, y, threshold=0.5, judged=y[:1] > 0), "judged"),
        (lambda p, y: multi_label.best_f1(p, y, average="weighted"), "weighted"),
        (lambda p, y: multi_label.reliability(p + 1, y), "between 0 and 1"),
        (lambda p, y: multi_label.reliability(p, y, num_bins=0), "bin"),
        (lambda p, y: multi_label.report(p, y, seen=np.ones(5, dtype=bool)), "seen"),
        (lambda p, y: multi_label.bootstrap_calibration_error(p, y, judged=y > 5), "no pair"),
    ],
)
def test_wrong_input(call: object, says: str) -> None:
    p, truth = np.array([[0.2, 0.9], [0.5, 0.1]]), np.array([[1, 0], [0, 1]])
    with pytest.raises(LexividError, match=says):
        call(p, truth)  # type: ignore[operator]
