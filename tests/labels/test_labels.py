"""Labels, templates, the prompt ensemble and its cache."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lexivid.backbones import load_backbone
from lexivid.errors import LabelError
from lexivid.labels import TemplateSet, check_labels, load_templates, read_labels_file, split_labels
from lexivid.labels.prompt_cache import PromptCache, embed_labels
from lexivid.labels.templates import template_names


class CountingBackbone:
    """Encodes each sentence into a vector of its own, and counts what it was asked."""

    fingerprint = "counting"
    embedding_dim = 16

    def __init__(self) -> None:
        self.sentences = 0

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        self.sentences += len(texts)
        rows = [torch.randn(16, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
        return F.normalize(torch.stack(rows), dim=-1)


PAIR = TemplateSet("pair", ("a photo of {}.", "a video of {}."))


def test_clips_28_templates_are_the_published_ones(media: Path) -> None:
    published = json.loads((media / "labels/clip_prompts_k700_ucf101.json").read_text())
    assert list(load_templates("clip-video").templates) == published["Kinetics700"]["templates"]
    assert list(load_templates("clip-ucf101").templates) == published["UCF101"]["templates"]


def test_ensemble_is_normalise_mean_normalise(clip_folder: Path) -> None:
    """MOV paper, section 3.1, step by step for one label."""
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    templates = load_templates("clip-video")
    assert len(templates.templates) == 28
    each = [backbone.encode_texts([t.replace("{}", "playing drums")])[0] for t in templates.templates]
    mean = torch.stack([v / v.norm() for v in each]).mean(0)
    ours = embed_labels(backbone, ["dog", "playing drums"], templates)
    torch.testing.assert_close(ours[1], mean / mean.norm(), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(2))


def test_known_labels_are_not_encoded_again(tmp_path: Path) -> None:
    backbone = CountingBackbone()
    labels = [f"label {i}" for i in range(50)]
    first = PromptCache(backbone, folder=tmp_path).embed(labels, PAIR)
    assert backbone.sentences == 100
    again = PromptCache(backbone, folder=tmp_path).embed([*labels[::-1], "one more"], PAIR)
    assert backbone.sentences == 102
    assert torch.equal(again[:50], first.flip(0))


@pytest.mark.parametrize("change", ["model", "templates"])
def test_another_model_or_template_is_another_vector(tmp_path: Path, change: str) -> None:
    backbone = CountingBackbone()
    PromptCache(backbone, folder=tmp_path).embed(["dog"], PAIR)
    if change == "model":
        backbone.fingerprint = "other"
    templates = PAIR if change == "model" else TemplateSet("pair", ("a photo of {}.", "a film of {}."))
    before = backbone.sentences
    PromptCache(backbone, folder=tmp_path).embed(["dog"], templates)
    assert backbone.sentences == before + 2


def test_a_second_run_with_1000_labels_takes_under_50_ms(tmp_path: Path) -> None:
    labels = [f"label number {i}" for i in range(1000)]
    PromptCache(CountingBackbone(), folder=tmp_path).embed(labels, PAIR)
    seconds = []
    for _ in range(5):
        backbone = CountingBackbone()
        started = time.perf_counter()
        vectors = PromptCache(backbone, folder=tmp_path).embed(labels, PAIR)
        seconds.append(time.perf_counter() - started)
        assert backbone.sentences == 0
        assert vectors.shape == (1000, 16)
    assert min(seconds) < 0.05


def test_a_damaged_cache_is_an_empty_one(tmp_path: Path) -> None:
    backbone = CountingBackbone()
    (tmp_path / "labels.sqlite").write_bytes(b"this is no database at all, but long enough to look like one" * 100)
    first = PromptCache(backbone, folder=tmp_path).embed(["dog"], PAIR)
    assert torch.equal(PromptCache(backbone, folder=tmp_path).embed(["dog"], PAIR), first)
    PromptCache(backbone, folder=tmp_path).embed(["dog"], PAIR)
    assert backbone.sentences <= 4  # mended by the second run at the latest


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    prompt_cache = PromptCache(CountingBackbone(), folder=tmp_path / "file")
    assert prompt_cache.embed(["dog"], PAIR).shape == (1, 16)


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lexivid.labels.prompt_cache._MAX_ROWS", 100)
    prompt_cache = PromptCache(CountingBackbone(), folder=tmp_path)
    for start in range(0, 400, 40):
        prompt_cache.embed([f"label {i}" for i in range(start, start + 40)], PAIR)
    with sqlite3.connect(tmp_path / "labels.sqlite") as connection:
        (rows,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
    assert 0 < rows <= 100


def test_progress_tells_of_new_labels_only(tmp_path: Path) -> None:
    prompt_cache = PromptCache(CountingBackbone(), folder=tmp_path)
    calls: list[tuple[int, int]] = []
    prompt_cache.embed([f"label {i}" for i in range(1300)], PAIR, on_progress=lambda *call: calls.append(call))
    assert calls[-1] == (1300, 1300)
    assert len(calls) > 1
    prompt_cache.embed(["label 1"], PAIR, on_progress=lambda *call: pytest.fail("nothing was to be computed"))


def test_own_templates(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("a drone shot of {}\n\n{} from above\n", encoding="utf-8")
    assert load_templates(file).templates == ("a drone shot of {}", "{} from above")
    assert load_templates("name").fill("a {brace} b") == ["a {brace} b"]
    file.write_text("no place for it\n")
    with pytest.raises(LabelError, match="exactly once"):
        load_templates(file)
    file.write_text("\n")
    with pytest.raises(LabelError, match="is empty"):
        load_templates(file)
    with pytest.raises(LabelError, match="clip-video"):
        load_templates("no-such-set")
    assert {"clip-video", "clip-ucf101", "name"} <= set(template_names())


def test_labels_are_cleaned() -> None:
    assert split_labels(" playing drums ,dog,, \n cat ") == ["playing drums", "dog", "cat"]
    names, _, warnings = check_labels(["dog", " dog ", "playing  drums"])
    assert names == ["dog", "playing drums"]
    assert warnings == ["duplicate labels are counted once: 'dog'"]
    assert check_labels("a, b").names == ["a", "b"]


@pytest.mark.parametrize("labels", ["", " , ,", [], ["", "  "]])
def test_no_labels(labels: str | list[str]) -> None:
    with pytest.raises(LabelError, match="no labels"):
        check_labels(labels)


def test_labels_that_no_model_could_use() -> None:
    with pytest.raises(LabelError, match="10,000 characters"):
        check_labels(["dog", "x" * 10_000])
    with pytest.raises(LabelError, match="not a string"):
        check_labels(["dog", 5])  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["打鼓", "играет на барабанах", "العزف على الطبول", "ドラムを叩く", "🥁"])
def test_labels_in_any_language(name: str) -> None:
    names, _, warnings = check_labels([name, "schöne Überraschung", "dog"], english_only=True)
    assert names == [name, "schöne Überraschung", "dog"]
    assert len(warnings) == (0 if name == "🥁" else 1)
    assert check_labels([name]).warnings == []


@given(st.lists(st.text(max_size=40), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_text_is_cleaned_or_refused(labels: list[str]) -> None:
    try:
        names, *_ = check_labels(labels, english_only=True)
    except LabelError:
        assert not any(label.split() for label in labels)
        return
    assert len(set(names)) == len(names) >= 1
    assert check_labels(names).names == names


def test_labels_file(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffdog, brown\r\nplaying drums\r\n\r\n".encode())
    assert read_labels_file(file) == ["dog, brown", "playing drums"]
    file.write_bytes(b"\xff\xfe\x00d")
    with pytest.raises(LabelError, match="UTF-8"):
        read_labels_file(file)
    with pytest.raises(LabelError, match="does not exist"):
        read_labels_file(tmp_path / "none.txt")
    with pytest.raises(LabelError, match="cannot be read"):
        read_labels_file(tmp_path)


def test_the_cache_folder_is_the_users_choice(own_cache: Path) -> None:
    from lexivid.base.storage import cache_dir

    assert cache_dir() == own_cache
    del os.environ["LEXIVID_CACHE"]
    assert cache_dir().name == "lexivid"
