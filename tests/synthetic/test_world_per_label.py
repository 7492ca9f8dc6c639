"""The CLIPs of the synthetic world judge labels one by one, against phrases in the world's words, by their own fit."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import ColourBackbone
from torch.nn import functional as F

from lexivid import cli
from lexivid.backbones import load_backbone
from lexivid.backbones.base import WORLD_BACKBONES as CHECKPOINTS
from lexivid.backbones.base import weights_of
from lexivid.inference.loading import load
from lexivid.scoring.background import WORLD, background_for, background_phrases
from lexivid.scoring.calibration import calibration_for
from lexivid.synthetic.world.files import WorldClip, encode_clip, render_clip
from lexivid.synthetic.world.multilabel import LOOK, draw_label_sets, plan_label_clips
from lexivid.synthetic.world.nouns import draw_nouns
from lexivid.synthetic.world.words import WorldClass


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_background_is_in_words_that_they_know(name: str) -> None:
    backbone = load_backbone(name, device="cpu", dtype="float32")
    phrases = background_for(backbone)
    assert phrases == background_phrases(WORLD)
    assert phrases is not None
    assert len(phrases) == len(set(phrases)) == 300
    assert not [word for phrase in phrases for word in backbone.unknown_words(phrase)]


def test_everyday_words_are_for_all_others() -> None:
    assert background_for(ColourBackbone()) == background_phrases() != background_phrases(WORLD)


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_has_a_fit_of_its_own_in_any_precision(name: str, dtype: str) -> None:
    evidence = calibration_for(weights_of(load_backbone(name, device="cpu", dtype=dtype)))
    assert evidence.num_clips == 600
    assert evidence.error is not None
    assert evidence.error < 0.01


def test_what_ships_is_what_was_measured() -> None:
    measured = Path(__file__).parents[2] / "benchmarks" / "world_calibration" / "result.json"
    for name, numbers in json.loads(measured.read_text(encoding="utf-8"))["models"].items():
        assert calibration_for(weights_of(load_backbone(name, device="cpu"))).to_dict() == numbers["evidence"]


def test_probabilities_are_right_on_the_whole() -> None:
    """Of new clips of one to four objects: labels that hold stand higher, and as many hold as is said, about."""
    sets = draw_label_sets(draw_nouns(), seed=0, kinds=("words", "motion"))
    clips = plan_label_clips(sets, {"test": 60}, seed=77)
    clips[::4] = [replace(c, classes=c.classes[:1], own_labels=sets.labels_of(c.classes[:1])) for c in clips[::4]]
    labels = list(sets.kinds)
    classifier = load("world", device="cpu", dtype="float32")
    images = classifier.backbone.images
    features = []
    for clip in clips:
        frames, _ = render_clip(clip, look=LOOK)
        small = torch.stack([images.resize(frame) for frame in frames])
        features.append(classifier.backbone.encode_images(images.crops(small)[0]).mean(0))
    per_label = classifier.prepare(labels).per_label
    assert per_label is not None
    p = per_label.probabilities(F.normalize(torch.stack(features), dim=-1)).numpy()
    truth = np.array([[label in clip.labels for label in labels] for clip in clips])
    assert p[truth].mean() > 2 * p[~truth].mean()
    assert p.mean() == pytest.approx(truth.mean(), abs=0.015)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One yellow cross, which this model sees well: it is found, what is not there is not, and nothing is assumed."""
    clip = WorldClip((WorldClass(shape=4, colour=2, texture=0, motion=4, sound=0),), "test", 0, seed=3)
    assert clip.classes[0].name == "yellow cross spinning and humming"
    film = tmp_path / "cross.mp4"
    film.write_bytes(encode_clip(*render_clip(clip, look=LOOK)))
    words = ["classify", str(film), "-m", "world", "--multi-label", "-f", "json", "--threshold", "0", "--top-k", "0"]
    monkeypatch.setattr(sys, "argv", ["lexivid", *words, "-l", "yellow cross, yellow, blue heart, red, pink moon"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    scores = {x["label"]: x["score"] for x in row["labels"]}
    assert min(scores["yellow cross"], scores["yellow"]) > 0.2
    assert max(scores["blue heart"], scores["red"], scores["pink moon"]) < 0.02
    assert row["none_of_these"] < 0.7
    assert "assumed" not in captured.err
