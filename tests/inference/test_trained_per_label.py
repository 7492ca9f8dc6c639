"""Trained models that judge labels one by one: every kind of model, no training (random weights, evidence by hand)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import training_cases as cases
from command_line import call_cli
from language_models import make_gpt2

import lexivid
from lexivid.backbones import load_backbone
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.clips import Clip
from lexivid.data.sampling import ClipSamples
from lexivid.errors import LabelError, ModelError
from lexivid.inference.classifier import Classifier
from lexivid.inference.prediction import Prediction
from lexivid.labels.database import create_database, open_database
from lexivid.labels.encoders.coop import LearnedContextEncoder
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.encoders.soft_attributes import SoftAttributeConfig, SoftAttributeEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder
from lexivid.labels.prompt_cache import PromptCache
from lexivid.media.views import Views
from lexivid.models.calibration import Calibration, posterior
from lexivid.models.label_encoders import open_encoder
from lexivid.models.mov import MOV, MOVFeatures
from lexivid.models.mov_config import MOVConfig
from lexivid.models.trained import TrainedModel
from lexivid.scoring.features import collect
from lexivid.scoring.per_label import label_probabilities

BASE = ("red", "green")
LABELS = ["red", "a dog", "green", "purple"]
SEEN = np.array([True, False, True, False])
EVIDENCE = {"base": Calibration(0.8, 0.4, "by hand, base"), "novel": Calibration(0.3, -0.2, "by hand, novel")}
SCALES = {"v_m": [9.0, -2.0], "v": [7.0, -1.0], "flow": [8.0, -3.0], "audio": [6.0, -2.5]}
ALL = ("video", "flow", "audio")
Make = Callable[..., TrainedModel]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.make_clip(tmp_path_factory.mktemp("film") / "a.mp4", cases.COLOURS["red"], step=2, tone_hz=300.0)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gpt2(tmp_path_factory.mktemp("language-model"))


@pytest.fixture
def make(clip_folder: Path, language_model: Path) -> Make:
    def model(kind: str, **changes: object) -> TrainedModel:
        """ "softmax", "sigmoid" and "context" see all streams; "ovml" pictures alone, and has soft attributes."""
        torch.manual_seed(3)
        backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
        only_video = kind == "ovml"
        settings = {"frozen_video": False, "temporal_branches": 1} if only_video else {}
        config = MOVConfig.for_backbone(
            backbone, num_heads=2, mlp_ratio=1.0, modalities=("video",) if only_video else ALL, zero_init=False,
            tau=0.1, tau_v=0.05, tau_f=0.1, tau_a=0.1, **settings,
        )  # fmt: skip
        encoder = None
        text = FrozenTextEncoder(backbone)
        if kind == "ovml":
            heads = SoftAttributeConfig(num_heads=2)
            encoder = SoftAttributeEncoder(FrozenLanguageModel.load(str(language_model)), text, heads).eval()
        elif kind == "context":
            encoder = LearnedContextEncoder(text, num_context=2).eval()
        made = TrainedModel(
            backbone, MOV.from_backbone(backbone, config).eval(), BASE, "name", config.modalities,
            sampling=ClipSampling(num_frames=4, stride=None, flow_size=32, audio_s=1.0), calibrations=EVIDENCE,
            scales=SCALES if kind in ("sigmoid", "ovml") else None, label_encoder=encoder,
        )  # fmt: skip
        return replace(made, **changes)

    return model


def _scores(prediction: Prediction, name: str | None = None) -> dict[str, float]:
    return {x.label: x.score for x in (prediction.labels if name is None else prediction.by_modality[name])}


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "context", "ovml"])
@pytest.mark.parametrize("views", [None, Views(num_frames=4, num_clips=2, stride=2)])
def test_probabilities_are_those_of_evaluation(make: Make, film: Path, kind: str, views: Views | None) -> None:
    """The same files, read for evaluation: whoever measures a run measures what its users get."""
    model = make(kind)
    spec = model.sample_spec(views, num_audio_views=2)
    samples = ClipSamples([Clip(str(film), ("red",), "test")], spec, classes=BASE, multi_label=True)
    collected = collect(model, samples, classes=BASE, num_clips=spec.num_clips, num_workers=0)
    expected = label_probabilities(model, collected, LABELS, SEEN)[0]
    found = Classifier(model).classify(film, LABELS, multi_label=True, views=views)
    assert found.multi_label
    assert [_scores(found)[label] for label in LABELS] == pytest.approx(expected, abs=1e-5)
    assert found.none_of_these == pytest.approx(1 - expected.max(), abs=1e-5)
    assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "context", "ovml"])
def test_labels_do_not_depend_on_their_order_or_on_others(make: Make, film: Path, kind: str) -> None:
    classifier = Classifier(make(kind))
    for multi_label in (True, False):
        some = _scores(classifier.classify(film, LABELS, multi_label=multi_label))
        turned = _scores(classifier.classify(film, LABELS[::-1], multi_label=multi_label))
        assert turned == pytest.approx(some, abs=1e-6)
        more = _scores(classifier.classify(film, [*LABELS, "blue"], multi_label=multi_label))
        if multi_label:
            assert {label: more[label] for label in LABELS} == pytest.approx(some, abs=1e-6)
        else:
            assert sum(some.values()) == pytest.approx(1, abs=1e-5)
            assert sum(more.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_each_label_takes_its_path(make: Make, film: Path, kind: str) -> None:
    classifier = Classifier(make(kind))
    found = {
        how: _scores(classifier.classify(film, LABELS, multi_label=True, label_split=how))  # type: ignore[arg-type]
        for how in ("base", "novel", "mixed")
    }
    for label, seen in zip(LABELS, SEEN, strict=True):
        assert found["mixed"][label] == pytest.approx(found["base" if seen else "novel"][label], abs=1e-7)
    assert found["base"] != pytest.approx(found["novel"], abs=1e-3)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_streams(make: Make, film: Path, tmp_path: Path, kind: str) -> None:
    """A stream that the file lacks is as one that is not asked for; one stream alone is its own opinion."""
    classifier = Classifier(make(kind))
    silent = cases.make_clip(tmp_path / "silent.mp4", cases.COLOURS["red"], step=2, tone_hz=None)
    without = classifier.classify(silent, LABELS, multi_label=True)
    hidden = classifier.classify(film, LABELS, multi_label=True, modalities=["video", "flow"])
    assert without.modalities == ("video", "flow") == tuple(without.by_modality)
    assert _scores(without) == pytest.approx(_scores(hidden), abs=1e-5)
    assert "no sound" in without.warnings[-1]
    sound = classifier.classify(film, LABELS, multi_label=True, modalities=["audio"])
    assert _scores(sound) == pytest.approx(_scores(sound, "audio"), abs=1e-7)
    assert _scores(sound) != pytest.approx(_scores(hidden), abs=1e-3)
    # On the base path pictures are asked alone (eq. 10).
    base = classifier.classify(film, LABELS, multi_label=True, label_split="base")
    assert _scores(base) == pytest.approx(_scores(base, "video"), abs=1e-7)


def test_pictures_alone(make: Make, film: Path, tmp_path: Path) -> None:
    """Of a model that sees nothing else, sound is neither read nor missed."""
    classifier = Classifier(make("ovml"))
    silent = cases.make_clip(tmp_path / "silent.mp4", cases.COLOURS["red"], step=2, tone_hz=None)
    for timeline_s in (None, 0.8):
        heard, unheard = (
            classifier.classify(path, LABELS, multi_label=True, timeline_s=timeline_s) for path in (film, silent)
        )
        assert heard.modalities == unheard.modalities == ("video",)
        assert unheard.warnings == ()
        assert _scores(heard) == pytest.approx(_scores(unheard), abs=1e-6)
    with pytest.raises(ModelError, match="no path for 'audio'"):
        classifier.classify(film, LABELS, modalities=["audio"])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "ovml"])
def test_none_of_these(make: Make, film: Path, kind: str) -> None:
    """It falls when a label is added that fits better than those there, and by Bayes' rule."""
    classifier = Classifier(make(kind))
    every = classifier.classify(film, LABELS, multi_label=True)
    best, others = every.labels[0].label, [x.label for x in every.labels[1:]]
    for multi_label in (True, False):
        before = classifier.classify(film, others, multi_label=multi_label).none_of_these
        after = classifier.classify(film, [*others, best], multi_label=multi_label).none_of_these
        assert before is not None
        assert after is not None
        assert 0 < after < before < 1
    p = np.array([x.score for x in every.labels])
    ratios = p / (1 - p) * 0.95 / 0.05
    assert after == pytest.approx(1 / (1 + ratios.mean()), abs=1e-5)


def test_shares_of_a_sigmoid(make: Make, film: Path) -> None:
    """The belief in each label if exactly one holds: odds over their sum. Without evidence, of the model's own odds."""
    classifier = Classifier(make("sigmoid"))
    p = _scores(classifier.classify(film, LABELS, multi_label=True))
    odds = {label: x / (1 - x) for label, x in p.items()}
    shares = {label: x / sum(odds.values()) for label, x in odds.items()}
    found = classifier.classify(film, LABELS)
    assert _scores(found) == pytest.approx(shares, abs=1e-6)
    assert not found.multi_label
    bare = Classifier(make("sigmoid", calibrations={}))
    found = bare.classify(film, LABELS)
    assert found.none_of_these is None
    assert sum(_scores(found).values()) == pytest.approx(1, abs=1e-6)
    unit = {head: Calibration(1.0, 0.0, "as it is") for head in ("base", "novel")}
    assert _scores(found) == pytest.approx(
        _scores(Classifier(make("sigmoid", calibrations=unit)).classify(film, LABELS)), abs=1e-7
    )


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "ovml"])
def test_timeline(make: Make, film: Path, kind: str) -> None:
    classifier = Classifier(make(kind))
    vocabulary = classifier.prepare(LABELS)

    def line(threshold: float) -> Prediction:
        return classifier.classify(film, vocabulary, multi_label=True, timeline_s=0.8, threshold=threshold)

    whole = line(0.0)
    assert whole.segments is not None
    assert {s.labels[0].label for s in whole.segments} == set(LABELS)
    for segment in whole.segments:  # any number of labels at once, each from its start to its end
        assert len(segment.labels) == 1
        assert (segment.start_s, segment.end_s) == (0.0, pytest.approx(2.0, abs=0.15))
    none = line(1.0).segments
    assert none is not None
    assert [(segment.start_s, segment.labels, segment.answer) for segment in none] == [(0.0, (), "none of these")]
    middle = sorted(s.labels[0].score for s in whole.segments)[2]
    some = line(middle - 1e-9).segments
    assert some
    assert all(s.labels[0].score >= middle - 1e-9 for s in some if s.labels)
    assert whole.labels == line(middle).labels


def test_what_nothing_is_known_of(make: Make) -> None:
    """A window without any stream: as likely as before looking; it counts in no mean."""
    model = make("sigmoid")
    classifier = Classifier(model)
    per_label = classifier.prepare(LABELS).per_label
    assert per_label is not None
    g = torch.Generator().manual_seed(0)
    v, v_m, flow, audio = (torch.randn(3, model.backbone.embedding_dim, generator=g) for _ in range(4))
    mask = torch.tensor([[True, True, False], [False, False, False], [False, True, True]])
    features = MOVFeatures(v, v_m, {"flow": flow, "audio": audio}, mask)
    ratios = per_label.log_ratios(features, "mixed", mean=False)  # type: ignore[union-attr]
    assert (ratios[1] == 0).all()
    assert (ratios[[0, 2]] != 0).all()
    p = per_label.probabilities(ratios, "mixed")  # type: ignore[union-attr]
    assert p[1].numpy() == pytest.approx(0.05)
    both = MOVFeatures(*(x[[0, 2]] for x in (v, v_m)), {"flow": flow[[0, 2]], "audio": audio[[0, 2]]}, mask[[0, 2]])
    mean, expected = (per_label.log_ratios(x, "mixed", mean=True) for x in (features, both))  # type: ignore[union-attr]
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(p[0], posterior(ratios[0], 0.05))


def test_what_cannot_be_judged(make: Make, film: Path) -> None:
    for kind in ("softmax", "sigmoid"):
        bare = Classifier(make(kind, calibrations={}))
        with pytest.raises(
            ModelError, match=r"it has no calibration.* data.held_out above 0, or .* --protocol calibrate"
        ):
            bare.classify(film, LABELS, multi_label=True)
        assert bare.classify(film, LABELS).none_of_these is None
        half = Classifier(make(kind, calibrations={"base": EVIDENCE["base"]}))
        with pytest.raises(ModelError, match="it has no calibration of its novel head"):
            half.classify(film, LABELS, multi_label=True)
        assert len(half.classify(film, list(BASE), multi_label=True).labels) == 2
        assert half.classify(film, LABELS).none_of_these is None
    ours, another = Classifier(make("sigmoid")), Classifier(make("ovml"))
    with pytest.raises(ModelError, match="were prepared by another model"):
        ours.classify(film, another.prepare(LABELS))
    with pytest.raises(ModelError, match="were prepared by another model"):
        ours.classify(film, another.prepare(LABELS), multi_label=True)
    with pytest.raises(ModelError, match="one by one"):
        Classifier(ours.backbone).classify(film, another.prepare(LABELS), multi_label=True)
    with pytest.raises(LabelError, match="leave templates out"):
        another.prepare(LABELS, templates="clip-video")
    ours.prepare(LABELS, templates="clip-video")


def test_the_label_encoder_is_asked_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said lies in the cache for the next process; other weights are another encoder."""
    names = ["a cat", "asked for in this test alone"]
    model = make("context")
    first = Classifier(model).prepare(names)
    torch.testing.assert_close(first.vectors, model.embed(names))
    assert first.templates is None
    asked: list[str] = []
    forward = LearnedContextEncoder.forward
    monkeypatch.setattr(LearnedContextEncoder, "forward", lambda self, x: asked.extend(x) or forward(self, x))
    again = make("context")
    assert torch.equal(Classifier(again).prepare(names).vectors, first.vectors)
    assert asked == []
    assert isinstance(again.label_encoder, LearnedContextEncoder)
    with torch.no_grad():
        again.label_encoder.context.normal_()
    assert (Classifier(again).prepare(names).vectors - first.vectors).abs().max() > 0.01
    assert set(names) <= set(asked)


def test_databases(make: Make, film: Path, tmp_path: Path, clip_folder: Path) -> None:
    """Of the label encoder that the run trained; of nothing else. A run on prompts takes its backbone's."""
    make("ovml").save_pretrained(tmp_path / "run")
    encoder = open_encoder(str(tmp_path / "run"), device="cpu")
    create_database(tmp_path / "db", encoder).add(LABELS, encoder)
    database = open_database(tmp_path / "db")
    classifier = lexivid.load(str(tmp_path / "run"), device="cpu")
    for multi_label in (True, False):
        stored = classifier.classify(film, database, multi_label=multi_label)
        fresh = classifier.classify(film, LABELS, multi_label=multi_label)
        assert _scores(stored) == pytest.approx(_scores(fresh), abs=1e-6)
        assert stored.none_of_these == pytest.approx(fresh.none_of_these, abs=1e-6)
    prompts = open_encoder(str(clip_folder), templates="name", device="cpu")
    create_database(tmp_path / "prompts", prompts).add(LABELS, prompts)
    with pytest.raises(LabelError, match="cannot compare clips with its vectors"):
        classifier.classify(film, open_database(tmp_path / "prompts"))
    on_prompts = Classifier(make("softmax"), prompt_cache=PromptCache(make("softmax").backbone, on_disk=False))
    stored = on_prompts.classify(film, open_database(tmp_path / "prompts"), multi_label=True)
    assert _scores(stored) == pytest.approx(_scores(on_prompts.classify(film, LABELS, multi_label=True)), abs=1e-6)
    with pytest.raises(LabelError, match="cannot compare clips with its vectors"):
        on_prompts.classify(film, database)


def test_command_line(
    make: Make, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make("ovml").save_pretrained(tmp_path / "run")

    run = partial(call_cli, monkeypatch, capsys, "classify", film, "--model", tmp_path / "run")
    page = tmp_path / "page.html"
    words = ("-l", ", ".join(LABELS), "--multi-label", "--threshold", "0", "--device", "cpu", "-f", "json")
    status, out, err = run(*words, "--timeline", "1", "--report", str(page))
    (row,) = json.loads(out)
    assert (status, row["multi_label"], row["modalities"]) == (0, True, ["video"])
    assert 0 < row["none_of_these"] < 1
    assert {s["labels"][0]["label"] for s in row["segments"]} == set(LABELS)
    assert "warning" not in err
    assert "by hand, base; by hand, novel" in page.read_text(encoding="utf-8")
    status, _, err = run(*words, "--templates", "name")
    assert status == 2
    assert "leave templates out" in err
