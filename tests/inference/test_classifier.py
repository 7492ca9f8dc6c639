"""The classifier on films whose right answer is known."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import ColourBackbone, colour_classifier, colour_film
from hypothesis import given, settings
from hypothesis import strategies as st

import lexivid
from lexivid.errors import LabelError, LexividError, MediaError, ModelError
from lexivid.inference.classifier import Classifier
from lexivid.inference.library import classify_library
from lexivid.inference.prediction import Prediction, Vocabulary
from lexivid.inference.timeline import join_cells
from lexivid.labels.prompt_cache import PromptCache
from lexivid.media.views import Views

LABELS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of red, six of blue."""
    return colour_film(tmp_path_factory.mktemp("films") / "film.mp4", [("red", 4), ("blue", 6)], sound=True)


def test_scores_are_a_softmax_of_cosines(film: Path) -> None:
    """The whole path by hand: unit vectors of 16 frames, mean, unit length, softmax over labels."""
    classifier = colour_classifier()
    prediction = classifier.classify(film, LABELS)
    assert [x.label for x in prediction.labels] == ["blue", "red", "green"]
    assert sum(x.score for x in prediction.labels) == pytest.approx(1)
    share = sum(t < 4 for t in (np.arange(16) + 0.5) * 10 / 16) / 16
    mean = torch.tensor([share, 0.0, 1 - share])
    expected = torch.softmax(mean / mean.norm() / 0.05, 0)
    scores = {x.label: x.score for x in prediction.labels}
    assert [scores[name] for name in LABELS] == pytest.approx(expected.tolist(), abs=0.02)
    assert prediction.duration_s == pytest.approx(10, abs=0.2)
    assert prediction.modalities == ("video",)
    assert prediction.by_modality["video"] == prediction.labels
    assert prediction.error is None
    assert prediction.top(1)[0].label == "blue"


def test_the_whole_file_is_seen_and_not_its_first_second(tmp_path: Path) -> None:
    late = colour_film(tmp_path / "late.mp4", [("red", 1), ("green", 19)])
    assert colour_classifier().classify(late, LABELS).labels[0].label == "green"


def test_permuting_labels_permutes_scores(film: Path) -> None:
    classifier = colour_classifier()
    first = {x.label: x.score for x in classifier.classify(film, LABELS).labels}
    second = {x.label: x.score for x in classifier.classify(film, LABELS[::-1]).labels}
    assert first == pytest.approx(second, abs=1e-12)


def test_views_are_averaged(film: Path) -> None:
    classifier = colour_classifier()
    views = Views.parse("4x3", num_frames=4)
    prediction = classifier.classify(film, LABELS, views=views)
    times = views.times_s(10.0, 10.0)
    each = []
    for clip in times:
        share = float((clip < 4).mean())
        mean = torch.tensor([share, 0.0, 1 - share])
        each.append(torch.softmax(mean / mean.norm() / 0.05, 0))
    expected = torch.stack(each).mean(0).tolist()
    scores = {x.label: x.score for x in prediction.labels}
    assert [scores[name] for name in LABELS] == pytest.approx(expected, abs=0.03)


def test_a_shared_frame_is_encoded_once(tmp_path: Path) -> None:
    short = colour_film(tmp_path / "short.mp4", [("red", 0.3)])
    classifier = colour_classifier()
    assert classifier.classify(short, LABELS).labels[0].label == "red"
    assert isinstance(classifier.backbone, ColourBackbone)
    assert classifier.backbone.num_images <= 3


def test_timeline_finds_the_cut(film: Path) -> None:
    prediction = colour_classifier().classify(film, LABELS, timeline_s=2.0)
    assert prediction.segments is not None
    assert [s.labels[0].label for s in prediction.segments] == ["red", "blue"]
    assert prediction.segments[0].start_s == 0
    assert prediction.segments[0].end_s == pytest.approx(4, abs=1.0)
    assert prediction.segments[1].start_s == prediction.segments[0].end_s
    assert prediction.segments[1].end_s == pytest.approx(prediction.duration_s or 0)
    assert prediction.labels[0].label == "blue"


def test_timeline_joins_adjacent_windows_and_keeps_returns(tmp_path: Path) -> None:
    path = colour_film(tmp_path / "abca.mp4", [("red", 5), ("green", 5), ("blue", 5), ("red", 5)])
    segments = colour_classifier().classify(path, LABELS, timeline_s=1.0).segments or ()
    assert [s.labels[0].label for s in segments] == ["red", "green", "blue", "red"]
    for segment, end_s in zip(segments, (5, 10, 15, 20), strict=True):
        assert segment.end_s == pytest.approx(end_s, abs=0.6)


@pytest.mark.parametrize("window_s", [0.1, 9.0, 10.0, 11.0, 1000.0])
def test_timeline_windows_of_any_length(film: Path, window_s: float) -> None:
    segments = colour_classifier().classify(film, LABELS, timeline_s=window_s).segments or ()
    assert segments[0].start_s == 0
    assert segments[-1].end_s == pytest.approx(10, abs=0.2)
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(segments))


def test_timeline_encodes_each_frame_once(film: Path) -> None:
    classifier = colour_classifier()
    classifier.classify(film, LABELS, timeline_s=0.2)  # a grid far finer than the file's 100 frames
    assert isinstance(classifier.backbone, ColourBackbone)
    assert classifier.backbone.num_images == 100


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.floats(0.1, 5))
@settings(max_examples=100, deadline=None)
def test_segments_partition_the_file(best: list[int], hop_s: float) -> None:
    cells = torch.nn.functional.one_hot(torch.tensor(best), 3).double()
    cells = torch.cat([cells, torch.full((len(best), 1), math.nan)], dim=1)  # a model that cannot say "none"
    vocabulary = Vocabulary(("red", "green", "blue"), torch.eye(3), "name")
    duration_s = hop_s * (len(best) - 0.5)
    segments = join_cells(cells, vocabulary, hop_s, duration_s)
    assert segments[0].start_s == 0
    assert segments[-1].end_s == duration_s
    for left, right in itertools.pairwise(segments):
        assert left.end_s == right.start_s
        assert left.labels[0].label != right.labels[0].label
    changes = 1 + sum(a != b for a, b in itertools.pairwise(best))
    assert len(segments) == changes


@pytest.mark.parametrize("timeline_s", [0.0, -1.0, math.nan, math.inf, 0.01])
def test_impossible_timelines(film: Path, timeline_s: float) -> None:
    with pytest.raises(LexividError, match="timeline"):
        colour_classifier().classify(film, LABELS, timeline_s=timeline_s)


def test_a_modality_without_a_path_is_an_error(film: Path) -> None:
    with pytest.raises(ModelError, match="has no path for 'audio'"):
        colour_classifier().classify(film, LABELS, modalities=["video", "audio"])
    with pytest.raises(ModelError, match="unknown modality 'smell'"):
        colour_classifier().classify(film, LABELS, modalities=["smell"])
    assert colour_classifier().classify(film, LABELS, modalities=["video"]).labels[0].label == "blue"


def test_one_broken_file_is_one_row(film: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("I am no film. " * 100)
    predictions = list(colour_classifier().classify_many([empty, film, "missing.mp4", text, film], LABELS))
    assert [p.error is None for p in predictions] == [False, True, False, False, True]
    assert all(Path(p.path).name in (p.error or "") for p in predictions if p.error)
    with pytest.raises(MediaError, match=r"empty\.mp4"):
        colour_classifier().classify(empty, LABELS)


def test_an_unforeseen_failure_is_a_row_too(film: Path) -> None:
    classifier = colour_classifier()
    original = classifier.backbone.encode_images
    calls = []

    def fails_once(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of luck")
        return original(pixels)

    classifier.backbone.encode_images = fails_once  # type: ignore[method-assign]
    first, second = classifier.classify_many([film, film], LABELS)
    assert "out of luck" in (first.error or "")
    assert second.error is None


def test_labels_are_checked_before_any_file(film: Path) -> None:
    with pytest.raises(LabelError, match="no labels"):
        colour_classifier().classify(film, [])
    assert colour_classifier().classify(film, "red, blue, red").warnings == (
        "duplicate labels are counted once: 'red'",
    )


def test_long_labels_are_told_of() -> None:
    vocabulary = colour_classifier().prepare(["red", "blue " * 60])
    assert "is longer than the model reads" in " ".join(vocabulary.warnings)


def test_thumbnails_lie_within_the_file(film: Path) -> None:
    for timeline_s in (None, 2.0):
        prediction = colour_classifier().classify(film, LABELS, num_thumbnails=4, timeline_s=timeline_s)
        assert len(prediction.thumbnails) == 4
        times = [time_s for time_s, _ in prediction.thumbnails]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= 10
        assert prediction.thumbnails[0][1].float().mean((1, 2)).argmax() == 0
        assert prediction.thumbnails[-1][1].float().mean((1, 2)).argmax() == 2


def test_rows_survive_a_round_trip(film: Path) -> None:
    prediction = colour_classifier().classify(film, LABELS, timeline_s=3.0)
    row = prediction.to_dict()
    assert list(row) == [
        "path", "duration_s", "model", "modalities", "labels", "answer", "score_kind", "multi_label", "none_of_these",
        "by_modality", "segments", "warnings", "error",
    ]  # fmt: skip
    assert Prediction.from_dict(row).to_dict() == row
    assert "segments" not in colour_classifier().classify(film, LABELS).to_dict()
    assert len(prediction.to_dict(top_k=1)["labels"]) == 1
    assert all(x["score"] >= 0.5 for x in prediction.to_dict(threshold=0.5)["labels"])


def test_a_library_in_order_with_what_is_known(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    for name in ("b.mp4", "a.mp4", "sub/c.mp4", ".hidden.mp4"):
        colour_film(folder / name, [("green", 1)])
    (folder / "notes.txt").write_text("no film")
    (tmp_path / "empty").mkdir()
    classifier = colour_classifier()
    vocabulary = classifier.prepare(LABELS)
    known = {str(folder / "b.mp4"): Prediction(str(folder / "b.mp4"), "earlier")}
    totals: list[int] = []
    rows = list(
        classify_library(
            classifier, [folder, tmp_path / "empty", film], vocabulary, known=known, on_total=totals.append
        )
    )
    names = [str(Path(row.path).relative_to(tmp_path)) if "film" not in row.path else "film" for row in rows]
    assert names == ["library/a.mp4", "library/b.mp4", "library/sub/c.mp4", "empty", "film"]
    assert rows[1].model == "earlier"
    assert "no video files" in (rows[3].error or "")
    assert totals == [5]


def test_a_folder_that_cannot_be_read_is_a_row(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refuse(path: str = ".") -> object:  # the tests may run as root, who can read everything
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    classifier = colour_classifier()
    rows = list(classify_library(classifier, [closed, film], classifier.prepare(LABELS)))
    assert "cannot be read (Permission denied)" in (rows[0].error or "")
    assert rows[1].error is None


def test_closing_early_leaves_no_thread_behind(film: Path) -> None:
    import threading

    predictions = colour_classifier().classify_many([film] * 50, LABELS)
    next(predictions)
    predictions.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "lexivid-decode"]


def test_a_clip_model_end_to_end(film: Path, clip_folder: Path) -> None:
    classifier = lexivid.load(str(clip_folder), dtype="float32")
    prediction = classifier.classify(film, ["dog", "cat", "bird"])
    frames = [x.score for x in prediction.labels]
    assert sum(frames) == pytest.approx(1)
    assert prediction.model == str(clip_folder)
    half = lexivid.load(str(clip_folder), dtype="bfloat16").classify(film, ["dog", "cat", "bird"])
    scores = {x.label: x.score for x in half.labels}
    assert all(scores[x.label] == pytest.approx(x.score, abs=1e-2) for x in prediction.labels)


def test_the_bank_is_shared_by_all_calls(film: Path) -> None:
    backbone = ColourBackbone()
    classifier = Classifier(backbone, prompt_cache=PromptCache(backbone, on_disk=False))
    first = classifier.prepare(LABELS)
    backbone.encode_texts = None  # type: ignore[assignment, method-assign]
    assert torch.equal(classifier.prepare(LABELS).vectors, first.vectors)


def test_classify_many_checks_its_arguments_when_called() -> None:
    classifier = colour_classifier()
    with pytest.raises(ModelError, match="no path for 'audio'"):
        classifier.classify_many([], LABELS, modalities=["audio"])
    with pytest.raises(LexividError, match="too short"):
        classifier.classify_many([], LABELS, timeline_s=0.01)
    with pytest.raises(ModelError, match="label_split is for trained models"):
        classifier.classify_many([], LABELS, label_split="base")


def test_a_timeline_says_how_far_it_is(tmp_path: Path) -> None:
    films = [colour_film(tmp_path / f"{name}.mp4", [(name, 30)]) for name in ("red", "blue")]
    calls: list[tuple[str, float, float]] = []
    rows = list(
        colour_classifier().classify_many(films, LABELS, timeline_s=0.5, on_progress=lambda *call: calls.append(call))
    )
    assert [row.error for row in rows] == [None, None]
    assert list(dict.fromkeys(path for path, _, _ in calls)) == [str(film) for film in films]
    for film in films:
        done = [done_s for path, done_s, _ in calls if path == str(film)]
        assert len(done) > 5
        assert done == sorted(done)
        assert done[-1] == pytest.approx(30, abs=0.5)
    assert all(total_s == pytest.approx(30, abs=0.1) for _, _, total_s in calls)
