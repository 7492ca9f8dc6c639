"""A timeline keeps no more of a long film than of a short one, and says the same however few windows go at once."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from colours import colour_classifier, colour_film
from torch import Tensor

from lexivid.backbones import load_backbone
from lexivid.data import hops
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.hops import HopReader
from lexivid.inference import tokens as tokens_module
from lexivid.inference import zero_shot as zero_shot_module
from lexivid.inference.classifier import Classifier
from lexivid.inference.prediction import Prediction
from lexivid.inference.tokens import FilmWindows
from lexivid.media.decode import probe
from lexivid.media.views import Views
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.trained import TrainedModel
from lexivid.scoring.heads import predict

LABELS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def classifier(clip_folder: Path) -> Classifier:
    """A model of all three streams that was never trained: what it says is as good as any."""
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    torch.manual_seed(0)
    config = MOVConfig.for_backbone(
        backbone, modalities=("video", "flow", "audio"), num_heads=2, mlp_ratio=1.0, tau=0.1, zero_init=False
    )
    sampling = ClipSampling(num_frames=4, stride=None, flow="tvl1-fast", flow_size=32, audio_s=1.0)
    mov = MOV.from_backbone(backbone, config).eval()
    model = TrainedModel(backbone, mov, ("red",), "name", ("video", "flow", "audio"), sampling=sampling)
    return Classifier(model, label_split="novel")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """4.1 and 16.4 s, with sound."""
    folder = tmp_path_factory.mktemp("films")
    return tuple(
        cases.make_clip(folder / f"{num}.mp4", cases.COLOURS["red"], step=2, tone_hz=440.0, num=num)
        for num in (61, 246)
    )  # type: ignore[return-value]


def _same(one: Prediction, other: Prediction) -> None:
    assert [x.label for x in one.labels] == [x.label for x in other.labels]
    for a, b in [(one.labels, other.labels), *((one.by_modality[k], other.by_modality[k]) for k in one.by_modality)]:
        assert [x.score for x in a] == pytest.approx([x.score for x in b], abs=1e-5)
    assert [(s.start_s, s.end_s) for s in one.segments or ()] == [(s.start_s, s.end_s) for s in other.segments or ()]
    for s, t in zip(one.segments or (), other.segments or (), strict=True):
        assert [x.score for x in s.labels] == pytest.approx([x.score for x in t.labels], abs=1e-5)


def test_the_same_however_few_at_once(
    classifier: Classifier, films: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = classifier.classify(films[0], LABELS, timeline_s=0.8)
    assert whole.modalities == ("video", "flow", "audio")
    monkeypatch.setattr(tokens_module, "_WINDOWS_AT_ONCE", 1)
    monkeypatch.setattr(hops, "_HOPS_AT_ONCE", 3)
    _same(classifier.classify(films[0], LABELS, timeline_s=0.8), whole)


def test_as_if_all_windows_had_been_taken_together(classifier: Classifier, films: tuple[Path, Path]) -> None:
    """By the definition: scores of all windows in one batch, a hop the mean of its two, the file the mean of all."""
    model, hop_s = classifier.video_model.model, 0.4
    spec = model.sample_spec(Views(num_frames=4), inputs=model.inputs)
    parts = list(FilmWindows(model, spec, HopReader(probe(films[0]), spec, hop_s)))
    tokens = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
    features = model.features(**tokens, mask=torch.cat([part[1] for part in parts]))
    vocabulary = classifier.prepare(LABELS)
    windows = predict(model, features, vocabulary.vectors, head="novel")
    assert len(windows) == 10  # of 11 hops in 4.1 s
    cells = (windows[[0, *range(10)]] + windows[[*range(10), -1]]) / 2
    found = classifier.classify(films[0], vocabulary, timeline_s=0.8)
    assert [x.score for x in found.labels] == pytest.approx(windows.mean(0).sort(descending=True)[0].tolist(), abs=1e-5)
    assert found.segments is not None
    starts = [round(s.start_s / hop_s) for s in found.segments]
    assert starts == [0, *[i for i in range(1, 11) if cells[i].argmax() != cells[i - 1].argmax()]]
    for segment, (a, b) in zip(found.segments, itertools.pairwise([*starts, 11]), strict=True):
        expected = cells[a:b].mean(0).sort(descending=True)[0]
        assert [x.score for x in segment.labels] == pytest.approx(expected.tolist(), abs=1e-5)


def test_hops_lie_where_the_segments_say(films: tuple[Path, Path], classifier: Classifier) -> None:
    """The last hop, which is shorter than the others, does not stretch them."""
    spec = classifier.video_model.model.sample_spec(Views(num_frames=4), inputs=("video", "audio"))
    reader = HopReader(probe(films[0]), spec, 1.0)
    (part,) = list(reader)
    assert len(part.sound) == 5
    assert [x.shape[1] for x in part.sound[:4] if x is not None] == [100] * 4
    times = hops._HopTimes(0, 5, 1.0, 0.0).times_s(4.0 + 1 / 15, 15.0)
    assert np.allclose(np.floor(times[:4] * 15), np.floor((np.arange(4)[:, None] + [0.125, 0.375, 0.625, 0.875]) * 15))
    assert (times[4] >= 4).all()
    assert (times[4] < 4 + 1 / 15).all()


def test_before_the_first_picture_the_first_counts() -> None:
    times = hops._HopTimes(0, 4, 1.0, 1.5).times_s(2.5, 10.0)
    assert (times[0] == times[0, 0]).all()
    assert times[0, 0] == pytest.approx(0.05)
    assert times[2] == pytest.approx(np.array([0.65, 0.85, 1.15, 1.35]))


class Alive:
    """How many of some objects are alive at once, at most."""

    def __init__(self) -> None:
        self.known: list[weakref.ref[Any]] = []
        self.most = self.num = 0

    def add(self, one: Any) -> None:
        self.num += 1
        self.known = [ref for ref in self.known if ref() is not None] + [weakref.ref(one)]
        self.most = max(self.most, len(self.known))


def _watched(function: Callable[..., Tensor], alive: Alive) -> Callable[..., Tensor]:
    def call(*args: Any, **named: Any) -> Tensor:
        made = function(*args, **named)
        alive.add(made)
        return made

    return call


def test_no_spectrogram_is_kept(
    classifier: Classifier, films: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    most, seen = [], []
    monkeypatch.setattr(hops, "_HOPS_AT_ONCE", 8)
    for film in films:
        spectrograms, pictures = Alive(), Alive()
        with monkeypatch.context() as patch:
            patch.setattr(tokens_module, "views_of", _watched(tokens_module.views_of, spectrograms))
            patch.setattr(hops, "test_views", lambda parts, spec, p=pictures: _views(parts, spec, p))
            classifier.classify(film, LABELS, timeline_s=0.8)
        most.append((spectrograms.most, pictures.most))
        seen.append((spectrograms.num, pictures.num))
    assert seen[1][0] > 3.5 * seen[0][0]
    assert all(count <= 2 * 8 for count, _ in most)  # a batch, and the one before
    assert all(count <= 5 for _, count in most)  # parts in the queue, and in work


def _views(parts: dict[str, Tensor], spec: Any, alive: Alive) -> dict[str, Tensor]:
    from lexivid.data.sampling import test_views

    views = test_views(parts, spec)
    alive.add(views["video"])
    return views


def test_no_frame_is_kept_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = colour_classifier()
    monkeypatch.setattr(zero_shot_module, "_TIMELINE_BATCH", 4)
    most = []
    for seconds in (5, 40):
        film = colour_film(tmp_path / f"{seconds}.mp4", [("red", seconds / 2), ("blue", seconds / 2)])
        alive = Alive()
        with monkeypatch.context() as patch:
            patch.setattr(classifier.video_model, "transform", lambda views, a=alive: _watched(torch.clone, a))
            found = classifier.classify(film, LABELS, timeline_s=2.0)
        assert [s.labels[0].label for s in found.segments or ()] == ["red", "blue"]
        most.append(alive.most)
        gc.collect()
    assert max(most) <= 5 * 4
