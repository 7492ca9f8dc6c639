"""The label database: grows without training, is never half written, and never mixes encoders."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_models import make_gpt2
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from lexivid.backbones import load_backbone
from lexivid.cli import app
from lexivid.errors import LabelError
from lexivid.inference.loading import model_of
from lexivid.labels.database import INDEX_FILE, create_database, open_database
from lexivid.labels.encoders.identity import EncoderIdentity, LabelEncoder
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.encoders.soft_attributes import SoftAttributeConfig, SoftAttributeEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder
from lexivid.models.label_encoders import open_encoder

AXES = {"north": (0.0, 1.0), "east": (1.0, 0.0), "south": (0.0, -1.0), "north-east": (1.0, 1.0)}


def compass(fingerprint: str = "a") -> tuple[LabelEncoder, list[str]]:
    """An encoder whose vectors are known, and the labels that it was asked for."""
    asked: list[str] = []

    def encode(labels: Sequence[str]) -> Tensor:
        asked.extend(labels)
        return F.normalize(torch.tensor([AXES.get(label, (0.3, 0.1)) for label in labels]), dim=-1)

    return LabelEncoder(EncoderIdentity("prompts", f"compass {fingerprint}", "name", fingerprint), encode), asked


def test_grows_and_pays_for_new_labels_only(tmp_path: Path) -> None:
    encoder, asked = compass()
    database = create_database(tmp_path / "db", encoder)
    assert len(database) == 0
    assert database.add(["north", "east"], encoder) == (["north", "east"], [])
    assert database.add("south, north", encoder) == (["south"], ["north"])
    assert asked == ["north", "east", "south"]
    again = open_database(tmp_path / "db")
    assert again.labels == ("north", "east", "south")
    assert again.encoder == encoder.identity
    torch.testing.assert_close(again.vectors, torch.tensor([[0.0, 1], [1, 0], [0, -1]]))
    torch.testing.assert_close(again.select(["south", "east"]), torch.tensor([[0.0, -1], [1, 0]]))
    with pytest.raises(LabelError, match=r"'up' is not in label database .*: `lexivid labels add`"):
        again.select(["up"])
    with pytest.raises(LabelError, match="'up', 'down' are not in"):
        again.only("up, north, down")
    assert len(list((tmp_path / "db").glob("vectors-*"))) == 1  # old files go


def test_labels_are_removed(tmp_path: Path) -> None:
    encoder, _ = compass()
    database = create_database(tmp_path / "db", encoder)
    database.add("north, east, south", encoder)
    elsewhere = open_database(tmp_path / "db")
    elsewhere.add("north-east", encoder)
    assert database.remove("South, north") == ["north", "south"]  # in any spelling, with what others added since
    assert database.labels == open_database(tmp_path / "db").labels == ("east", "north-east")
    torch.testing.assert_close(database.vectors[0], torch.tensor([1.0, 0]))
    with pytest.raises(LabelError, match="'up' is not in"):
        database.remove("east, up")
    assert open_database(tmp_path / "db").labels == ("east", "north-east")


def test_a_renamed_label_keeps_its_vector_and_its_phrase(tmp_path: Path) -> None:
    encoder, asked = compass()
    database = create_database(tmp_path / "db", encoder)
    database.add("north, east", encoder)
    assert database.rename("north", "up") == "north"
    again = open_database(tmp_path / "db")
    assert again.labels == ("up", "east")
    assert again.phrases == ("north", "east")
    torch.testing.assert_close(again.vectors, torch.tensor([[0.0, 1], [1, 0]]))
    assert asked == ["north", "east"]
    assert again.rename("up", "Up") == "up"
    with pytest.raises(LabelError, match=r"'east' is a label of .* already"):
        again.rename("Up", "east")
    with pytest.raises(LabelError, match="'west' is not in"):
        again.rename("west", "left")


def test_search(tmp_path: Path) -> None:
    encoder, asked = compass()
    database = create_database(tmp_path / "db", encoder)
    database.add(["north", "east", "south"], encoder)
    asked.clear()
    found = database.search("north")
    assert [match.label for match in found] == ["east", "south"]
    assert [match.cosine for match in found] == pytest.approx([0, -1])
    assert asked == []  # a label's own vector is here
    found = database.search("north-east", encoder=encoder, top_k=2)
    assert {match.label for match in found} == {"north", "east"}
    assert found[0].cosine == pytest.approx(0.5**0.5)
    best = database.search(torch.tensor([0.0, 9.0]), top_k=1)
    assert best == [("north", pytest.approx(1.0))]
    with pytest.raises(LabelError, match="its encoder is needed"):
        database.search("up")
    with pytest.raises(LabelError, match="cannot be compared"):
        database.search(torch.zeros(3))


def test_encoders_are_not_mixed(tmp_path: Path) -> None:
    (first, _), (second, asked) = compass("a"), compass("b")
    database = create_database(tmp_path / "db", first)
    database.add(["north"], first)
    with pytest.raises(
        LabelError, match=r"made by compass a \(sentences 'name'\); vectors of compass b \(sentences 'name'\) cannot"
    ):
        database.add(["east"], second)
    with pytest.raises(LabelError, match="cannot stand"):
        database.search("east", encoder=second)
    assert asked == []
    with pytest.raises(LabelError, match="is a label database already"):
        create_database(tmp_path / "db", second)


def test_a_writer_that_dies_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lexivid.labels import database as module

    encoder, _ = compass()
    database = create_database(tmp_path / "db", encoder)
    database.add(["north"], encoder)
    written = module.write_atomically

    def dies(path: Path, content: str | bytes) -> None:
        if path.name == INDEX_FILE:
            raise KeyboardInterrupt
        written(path, content)

    monkeypatch.setattr(module, "write_atomically", dies)
    with pytest.raises(KeyboardInterrupt):
        open_database(tmp_path / "db").add(["east"], encoder)
    assert open_database(tmp_path / "db").labels == ("north",)
    monkeypatch.undo()
    open_database(tmp_path / "db").add(["east"], encoder)
    assert open_database(tmp_path / "db").labels == ("north", "east")
    assert len(list((tmp_path / "db").glob("vectors-*"))) == 1  # what the dead one left is gone


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    encoder, _ = compass()
    create_database(tmp_path / "db", encoder)
    opened = [open_database(tmp_path / "db") for _ in range(6)]
    threads = [
        threading.Thread(target=database.add, args=([f"label {n}", "north"], encoder))
        for n, database in enumerate(opened)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = open_database(tmp_path / "db").labels
    assert sorted(labels) == sorted(["north", *(f"label {n}" for n in range(6))])


def test_damage_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="is no label database"):
        open_database(tmp_path)
    encoder, _ = compass()
    database = create_database(tmp_path / "db", encoder)
    database.add(["north"], encoder)
    index = tmp_path / "db" / INDEX_FILE
    about = json.loads(index.read_text())
    index.write_text(json.dumps(about | {"labels": ["north", "east"]}))
    with pytest.raises(LabelError, match=r"is damaged: 2 labels and vectors of \(1, 2\)"):
        open_database(tmp_path / "db")
    index.write_text("{")
    with pytest.raises(LabelError, match="is damaged"):
        open_database(tmp_path / "db")
    index.write_text(json.dumps(about))
    next((tmp_path / "db").glob("vectors-*")).unlink()
    with pytest.raises(LabelError, match="its vectors are missing"):
        open_database(tmp_path / "db")


def test_export(tmp_path: Path) -> None:
    encoder, _ = compass()
    database = create_database(tmp_path / "db", encoder)
    database.add(["north", "éast"], encoder)
    for suffix in (".txt", ".json", ".npz"):
        database.export(tmp_path / f"out{suffix}")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "north\néast\n"
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert rows["encoder"]["model"] == "compass a"
    assert rows["labels"][0] == {"label": "north", "vector": [0.0, 1.0]}
    arrays = np.load(tmp_path / "out.npz", allow_pickle=False)
    assert arrays["labels"].tolist() == ["north", "éast"]
    np.testing.assert_allclose(arrays["vectors"], database.vectors.numpy())
    with pytest.raises(LabelError, match=r"written as \.txt, \.json, \.npz"):
        database.export(tmp_path / "out.xls")


def test_prompts_and_soft_attributes_by_name(clip_folder: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    plain = open_encoder(str(clip_folder), templates="name", device="cpu")
    assert plain.identity.kind == "prompts"
    assert plain.identity.templates == "name"
    torch.testing.assert_close(plain.encode(["cat", "dog"]), backbone.encode_texts(["cat", "dog"]))
    others = open_encoder(str(clip_folder), device="cpu")
    assert others.identity.fingerprint != plain.identity.fingerprint  # other sentences
    language_model = FrozenLanguageModel.load(str(make_gpt2(tmp_path / "lm")))
    soft = SoftAttributeEncoder(
        language_model, FrozenTextEncoder(backbone), SoftAttributeConfig(num_prefixes=2, num_heads=2)
    )
    soft.save(tmp_path / "soft", backbone=str(clip_folder))
    opened = open_encoder(str(tmp_path / "soft"), device="cpu")
    assert opened.identity.kind == "soft_attributes"
    torch.testing.assert_close(opened.encode(["cat", "dog"]), soft(["cat", "dog"]).detach())
    assert opened.identity.fingerprint == soft.fingerprint
    with torch.no_grad():
        soft.prefixes[0, 0] += 1e-3
    assert opened.identity.fingerprint != soft.fingerprint
    with pytest.raises(LabelError, match=r"needs? no templates"):
        open_encoder(str(tmp_path / "soft"), templates="name")


def test_command_line(clip_folder: Path, tmp_path: Path) -> None:
    runner, folder = CliRunner(), str(tmp_path / "db")

    def run(*words: str) -> str:
        result = runner.invoke(app, ["labels", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    run("add", folder, "--labels", "cat, dog", "--model", str(clip_folder), "--device", "cpu")
    file = tmp_path / "more.txt"
    file.write_text("playing drums\ncat\n")
    run("add", folder, "--labels-file", str(file), "--device", "cpu")  # the model is known
    assert run("list", folder) == "cat\ndog\nplaying drums\n"
    lines = run("search", folder, "cat").splitlines()
    assert {line.split("  ")[1] for line in lines} == {"dog", "playing drums"}
    assert len(run("search", folder, "a cat", "--top-k", "1", "--device", "cpu").splitlines()) == 1
    run("export", folder, "--output", str(tmp_path / "out.txt"))
    assert (tmp_path / "out.txt").read_text() == "cat\ndog\nplaying drums\n"
    with pytest.raises(LabelError, match="no labels"):
        runner.invoke(app, ["labels", "add", str(tmp_path / "new")], catch_exceptions=False)
    assert not (tmp_path / "new").exists()


def _run_folder(folder: Path, **backbone: str) -> Path:
    """config.json of a run without a label encoder, as far as labels need it."""
    folder.mkdir()
    about = {"model_type": "lexivid-mov", "backbone": backbone, "templates": "name"}
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def test_a_run_without_a_label_encoder_reads_with_its_backbone(clip_folder: Path, tmp_path: Path) -> None:
    run = _run_folder(tmp_path / "run", name=str(clip_folder))
    by_run, by_backbone = open_encoder(str(run)), open_encoder(str(clip_folder), templates="name")
    assert by_run.identity.fingerprint == by_backbone.identity.fingerprint
    assert torch.equal(by_run.encode(["a dog"]), by_backbone.encode(["a dog"]))
    assert by_run.identity.model == str(run)  # which sees clips better than its backbone


def test_the_pinned_revision_of_a_runs_backbone_counts(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lexivid.models import label_encoders

    run = _run_folder(tmp_path / "run", name="owner/clip", revision="abc123")
    asked = []

    def load(name: str, **options: Any) -> Any:
        asked.append(name)
        return load_backbone(str(clip_folder), **options)

    monkeypatch.setattr(label_encoders, "load_backbone", load)
    open_encoder(str(run), device="cpu")
    soft = SoftAttributeEncoder(
        FrozenLanguageModel.load(str(make_gpt2(tmp_path / "lm"))),
        FrozenTextEncoder(load_backbone(str(clip_folder), device="cpu", dtype="float32")),
        SoftAttributeConfig(num_prefixes=2, num_heads=2),
    )
    soft.save(run, backbone="owner/clip")
    open_encoder(str(run), device="cpu")
    assert asked == ["owner/clip@abc123", "owner/clip@abc123"]


def test_the_model_of_a_database_is_found_from_anywhere(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run named by a relative path, and a database made with it: from elsewhere, moved together, and gone."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("run", "soft"):
        _run_folder(home / name, name=str(clip_folder))
    language_model = FrozenLanguageModel.load(str(make_gpt2(tmp_path / "lm")))
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    soft = SoftAttributeEncoder(
        language_model, FrozenTextEncoder(backbone), SoftAttributeConfig(num_prefixes=2, num_heads=2)
    )
    soft.save(home / "soft", backbone=str(clip_folder))
    monkeypatch.chdir(home)
    for name in ("run", "soft"):
        encoder = open_encoder(name, device="cpu")
        create_database(Path(f"labels-{name}"), encoder).add(["cat"], encoder)
    monkeypatch.chdir(tmp_path)
    for name in ("run", "soft"):
        assert model_of(open_database(home / f"labels-{name}")) == str(home / name)
    home.rename(tmp_path / "moved")
    for name in ("run", "soft"):
        assert model_of(open_database(Path("moved") / f"labels-{name}")) == str(tmp_path / "moved" / name)
        (tmp_path / "moved" / name).rename(tmp_path / f"elsewhere-{name}")
        with pytest.raises(LabelError, match=r"which is not there any more: name the model .* \(--model\)"):
            model_of(open_database(Path("moved") / f"labels-{name}"))
