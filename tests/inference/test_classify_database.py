"""Classifying with a label database: its vectors are taken as they are, by the model that they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from colours import ColourBackbone, colour_classifier, colour_film
from command_line import call_cli
from language_models import make_gpt2
from torch import Tensor

from lexivid.backbones import load_backbone
from lexivid.backbones.base import weights_of
from lexivid.errors import LabelError, ModelError
from lexivid.inference.classifier import Classifier
from lexivid.inference.loading import load, model_of
from lexivid.inference.zero_shot import ZeroShot
from lexivid.labels import TemplateSet
from lexivid.labels.database import LabelDatabase, create_database, open_database
from lexivid.labels.encoders.identity import EncoderIdentity, LabelEncoder, prompts_identity
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.encoders.soft_attributes import SoftAttributeConfig, SoftAttributeEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder
from lexivid.labels.prompt_cache import PromptCache, embed_labels
from lexivid.labels.templates import short_templates
from lexivid.models.label_encoders import open_encoder
from lexivid.scoring.background import background_phrases

LABELS = ["red", "a red car", "green", "blue"]
# More sentences than labels and background are compared in, the fifth of which reads everything as green.
FIVE = TemplateSet("five", ("{}", "a {}", "one {}", "the {}", "{} on green"))


class ListeningBackbone(ColourBackbone):
    """Keeps the sentences that it was asked for; `fingerprint` tells models apart."""

    def __init__(self, fingerprint: str = "colours-1") -> None:
        super().__init__()
        self.fingerprint, self.asked = fingerprint, list[str]()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        return super().encode_texts(texts)


def classifier_of(backbone: ColourBackbone) -> Classifier:
    return Classifier(backbone, prompt_cache=PromptCache(backbone, on_disk=False))


def make_database(folder: Path, labels: Sequence[str] = LABELS, templates: TemplateSet = FIVE) -> LabelDatabase:
    """As `lexivid labels add` makes one, of the model that knows colours."""
    backbone = ColourBackbone()
    encoder = LabelEncoder(
        prompts_identity(backbone, templates),
        lambda names: embed_labels(backbone, names, templates),
        lambda names: embed_labels(backbone, names, short_templates(templates)),
    )
    database = create_database(folder, encoder)
    database.add(labels, encoder)
    return open_database(folder)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return colour_film(tmp_path / "red.mp4", [("red", 1)])


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_answer_is_that_of_the_labels_and_no_label_is_read(film: Path, tmp_path: Path, multi_label: bool) -> None:
    database = make_database(tmp_path / "db")
    backbone = ListeningBackbone()
    stored = classifier_of(backbone).classify(film, database, multi_label=multi_label)
    unrelated = {text for phrase in background_phrases() for text in short_templates(FIVE).fill(phrase)}
    assert set(backbone.asked) == unrelated
    plain = colour_classifier()
    fresh = plain.classify(film, plain.prepare(LABELS, templates=FIVE), multi_label=multi_label)
    assert [x.label for x in stored.labels] == [x.label for x in fresh.labels]
    assert [x.score for x in stored.labels] == pytest.approx([x.score for x in fresh.labels], abs=1e-6)
    assert stored.none_of_these == pytest.approx(fresh.none_of_these, abs=1e-6)


def test_labels_are_judged_in_the_backgrounds_sentences(film: Path, tmp_path: Path) -> None:
    """The fifth sentence says green of everything: it changes shares, but not what is held against the background."""
    database = make_database(tmp_path / "db")
    vocabulary = colour_classifier().prepare(database)
    assert vocabulary.per_label is not None
    assert database.short is not None
    torch.testing.assert_close(vocabulary.per_label.labels, database.short)
    assert (database.short - database.vectors).abs().max() > 0.01
    four = colour_classifier().prepare(LABELS, templates=short_templates(FIVE))
    assert four.per_label is not None
    torch.testing.assert_close(vocabulary.per_label.labels, four.per_label.labels)
    torch.testing.assert_close(vocabulary.per_label.background, four.per_label.background)


def test_a_database_and_further_labels(film: Path, tmp_path: Path) -> None:
    """Their union: only the new label is embedded, and the scores are those of one list of all labels."""
    database = make_database(tmp_path / "db", ["red", "green"])
    backbone = ListeningBackbone()
    classifier = classifier_of(backbone)
    classifier.prepare(database)
    backbone.asked.clear()
    vocabulary = classifier.prepare(database.also("blue, Red, a red car"))
    assert vocabulary.labels == ("red", "green", "blue", "a red car")
    assert not [text for text in backbone.asked if "green" in text and "on green" not in text]
    assert any("blue" in text for text in backbone.asked)
    found = classifier.classify(film, vocabulary)
    whole = classifier.classify(film, classifier.prepare(list(vocabulary.labels), templates=FIVE))
    assert found.labels == whole.labels
    assert len(database) == 2
    assert database.also("blue").digest not in (database.digest, database.also("blue, white").digest)
    with pytest.raises(LabelError, match="'red' is read as 'a crimson thing' here and as 'red' in label database"):
        database.also({"red": "a crimson thing"})


def test_some_of_the_labels(film: Path, tmp_path: Path) -> None:
    database = make_database(tmp_path / "db")
    found = colour_classifier().classify(film, database.only("blue, red"))
    assert [x.label for x in found.labels] == ["red", "blue"]
    assert found.none_of_these is not None
    assert sum(x.score for x in found.labels) == pytest.approx(1 - found.none_of_these)
    assert len(database) == 4
    with pytest.raises(LabelError, match=r"'violet' is not in label database .* `lexivid labels add`"):
        database.only("violet")


def test_another_models_database_is_refused(film: Path, tmp_path: Path) -> None:
    database = make_database(tmp_path / "db")
    with pytest.raises(
        LabelError, match=r"was made by colours \(sentences 'five'\), and model 'colours' cannot compare"
    ):
        classifier_of(ListeningBackbone("colours-2")).classify(film, database)


def test_precision_makes_no_other_model(film: Path, tmp_path: Path) -> None:
    """A database is float32; a machine that computes in bfloat16 uses it all the same."""
    database = make_database(tmp_path / "db")
    backbone = ListeningBackbone("colours-1-bfloat16")
    backbone.dtype = torch.bfloat16
    assert weights_of(backbone) == "colours-1"
    assert classifier_of(backbone).classify(film, database).labels[0].label == "red"


def test_a_database_has_its_own_sentences(film: Path, tmp_path: Path) -> None:
    database = make_database(tmp_path / "db")
    with pytest.raises(LabelError, match="do not come from the sentences 'clip-video'"):
        colour_classifier().prepare(database, templates="clip-video")
    assert colour_classifier().prepare(database, templates=FIVE).templates == "five"


def test_an_empty_database_is_said(film: Path, tmp_path: Path) -> None:
    identity = prompts_identity(ColourBackbone(), FIVE)
    database = create_database(tmp_path / "db", LabelEncoder(identity, lambda names: torch.zeros(len(names), 3)))
    with pytest.raises(LabelError, match="is empty"):
        colour_classifier().classify(film, database)


def test_a_model_of_another_kind_says_what_it_accepts(film: Path, tmp_path: Path) -> None:
    class Picky(ZeroShot):
        def accepts(self, encoder: EncoderIdentity) -> bool:
            return encoder.fingerprint == "mine"

    backbone = ColourBackbone()
    picky = Classifier(Picky(backbone, prompt_cache=PromptCache(backbone, on_disk=False)))
    database = make_database(tmp_path / "db")
    with pytest.raises(LabelError, match="cannot compare"):
        picky.classify(film, database)
    database.encoder = replace(database.encoder, fingerprint="mine")
    assert picky.classify(film, database).labels[0].label in ("red", "a red car")


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    first, again = make_database(tmp_path / "a"), make_database(tmp_path / "b")
    other = make_database(tmp_path / "c", templates=short_templates(FIVE))
    assert first.digest == again.digest == first.only(LABELS).digest
    assert len({first.digest, first.only("red").digest, first.only("blue, red").digest, other.digest}) == 4


# ---- soft attributes ----


@pytest.fixture
def soft_folder(clip_folder: Path, tmp_path: Path) -> Path:
    """A label encoder of tiny random models."""
    language_model = FrozenLanguageModel.load(str(make_gpt2(tmp_path / "lm")))
    text = FrozenTextEncoder(load_backbone(str(clip_folder), device="cpu", dtype="float32"))
    encoder = SoftAttributeEncoder(language_model, text, SoftAttributeConfig(num_heads=2))
    encoder.save(tmp_path / "soft", backbone=str(clip_folder))
    return tmp_path / "soft"


def test_soft_attributes_need_their_backbone(film: Path, soft_folder: Path, clip_folder: Path, tmp_path: Path) -> None:
    encoder = open_encoder(str(soft_folder), device="cpu")
    database = create_database(tmp_path / "db", encoder)
    database.add("red, blue", encoder)
    database = open_database(tmp_path / "db")
    assert model_of(database) == str(clip_folder)
    classifier = load(model_of(database), device="cpu", dtype="bfloat16")
    vocabulary = classifier.prepare(database)
    torch.testing.assert_close(vocabulary.vectors, encoder.encode(["red", "blue"]))
    assert vocabulary.templates is None
    found = classifier.classify(film, vocabulary)
    assert sum(x.score for x in found.labels) == pytest.approx(1)
    assert found.none_of_these is None
    with pytest.raises(ModelError, match="trained label encoder cannot be scored one by one"):
        classifier.classify(film, vocabulary, multi_label=True)
    with pytest.raises(LabelError, match="do not come from the sentences 'name'"):
        classifier.prepare(database, templates="name")
    with pytest.raises(LabelError, match=r"soft attributes\), and model 'world' cannot compare"):
        load("world", device="cpu").prepare(database)


# ---- the command line ----

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return partial(call_cli, monkeypatch, capsys)


def test_from_labels_to_a_classified_film(run: Run, film: Path, soft_folder: Path, clip_folder: Path) -> None:
    """The model need not be named a second time; what does not fit is a sentence and status 2."""
    folder = film.parent / "labels"
    assert run("labels", "add", folder, "--model", soft_folder, "-l", "red, blue, green", "--device", "cpu")[0] == 0
    status, out, _ = run("classify", film, "--label-database", folder, "-f", "json", "--report", film.parent / "x.html")
    (row,) = json.loads(out)
    assert status == 0
    assert {x["label"] for x in row["labels"]} == {"red", "blue", "green"}
    assert row["model"] == str(clip_folder)
    assert "none: a trained label encoder" in (film.parent / "x.html").read_text()
    status, out, _ = run("classify", film, "--label-database", folder, "-l", "blue", "-f", "json")
    assert len(json.loads(out)[0]["labels"]) == 3  # it is there already
    for words, says in (
        (["-l", "violet"], "it cannot read 'violet'; put further labels there by `lexivid labels add"),
        (["--model", "world"], "cannot compare clips with its vectors"),
        (["--model", soft_folder], "holds a label encoder and no model that sees clips"),
        (["--multi-label"], "cannot be scored one by one"),
        (["--templates", "name"], "do not come from the sentences 'name'"),
    ):
        status, out, err = run("classify", film, "--label-database", folder, *words)
        assert (status, out) == (2, "")
        assert says in err
    assert "is no label database" in run("classify", film, "--label-database", film.parent)[2]


def test_an_interrupted_run_goes_on_only_with_the_same_database(
    run: Run, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done with other vectors of the same labels is done again."""
    from lexivid.inference.output import Journal

    keys = []
    kept = Journal.open
    monkeypatch.setattr(Journal, "open", lambda self: keys.append(self.call) or kept(self))
    monkeypatch.setattr("lexivid.inference.loading.load", lambda name, **_: colour_classifier())
    for name, templates in (("a", FIVE), ("b", FIVE), ("c", short_templates(FIVE))):
        make_database(tmp_path / name, templates=replace(templates, name="five"))
        assert run("classify", film, "--label-database", tmp_path / name, "-o", tmp_path / "rows.json")[0] == 0
    assert keys[0] == keys[1] != keys[2]


def test_doubtful_labels_are_told_of_when_they_are_added(run: Run, tmp_path: Path) -> None:
    status, _, err = run("labels", "add", tmp_path / "db", "--model", "world", "-l", "red star, surfing")
    assert status == 0
    assert "was never taught 'surfing'" in err
    assert "surfing" not in run("labels", "add", tmp_path / "db", "-l", "moon, surfing")[2]
