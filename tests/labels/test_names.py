"""labels/identifiers.py, names.py, lists.py: what a model reads of a name, what is shown, what is one class."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from training_cases import COLOURS, make_clip
from typer.testing import CliRunner

from lexivid.backbones import load_backbone
from lexivid.cli import app
from lexivid.errors import LabelError
from lexivid.inference.classifier import Classifier
from lexivid.labels import Label, check_labels, read_labels_file, read_names, split_labels, with_phrases
from lexivid.labels.database import create_database, open_database
from lexivid.labels.identifiers import class_key, words_of
from lexivid.models.label_encoders import open_encoder
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.trained import TrainedModel


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("PlayingViolin", "playing violin"),
        ("playingViolin", "playing violin"),
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("WatchingTVShow", "watching TV show"),
        ("PlayAGuitar", "play a guitar"),
        ("3DPrinting", "3D printing"),
        ("MP3Player", "MP3 player"),
        ("Drinking2Cups", "drinking 2 cups"),
        ("WatchingYouTube", "watching YouTube"),
        ("McDonaldsRun", "McDonalds run"),
        ("ИгратьНаГитаре", "играть на гитаре"),
        ("brush_hair", "brush hair"),
        ("BRUSH_HAIR", "brush hair"),
        ("playing the_drums", "playing the drums"),
        ("001.Black_footed_Albatross", "black footed albatross"),
        ("2 ApplyLipstick", "apply lipstick"),
        ("c000 Holding some clothes", "Holding some clothes"),
        ("n01440764 tench", "tench"),
        ("PlayingGuitar_01", "playing guitar"),
        ("Formula_1", "formula 1"),
    ],
)
def test_identifiers_are_read_as_words(name: str, words: str) -> None:
    assert words_of([name]) == [words]


@pytest.mark.parametrize(
    "name",
    "TV|NASA|iPhone|eBay|YouTube|TikTok|PlayStation|McDonald's|MacBook|DeLorean|O'Brien|DJ|DJing|DVDs|UFOs|PhD|WiFi|"
    "3D printing|e-bike|well-dressed|hip-hop|T-shirt|K-pop|X-ray|COVID-19|AC/DC|rock'n'roll|merry-go-round|GTA5|mp3|"
    "2 dogs|3 PlayStation|a380 landing|playing the violin|an iPhone on a table|jack-o'-lantern|跳舞|Straße|🥁|@|???|"
    "3.5 mm jack|100 m sprint|S&P 500|C++|Surfing|surfing".split("|"),
)
def test_what_a_person_writes_stays(name: str) -> None:
    assert words_of([name]) == [name]
    assert check_labels([name]) == ([name], [name], [])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        # one list of identifiers: its single words are too
        (["PlayingViolin", "Archery", "TV", "YouTube"], ["playing violin", "archery", "TV", "YouTube"]),
        # among phrases inner capitals are a name's own
        (["FaceSwap", "riding a bike", "a dog"], ["FaceSwap", "riding a bike", "a dog"]),
        (["playing-violin", "brush-hair", "horse-race"], ["playing violin", "brush hair", "horse race"]),
        (["hip-hop", "e-bike", "T-shirt"], ["hip-hop", "e-bike", "T-shirt"]),
        (["1 ApplyEyeMakeup", "2 Archery"], ["apply eye makeup", "archery"]),
        (["1: bend/bow", "3: crouch/kneel"], ["bend/bow", "crouch/kneel"]),
        (["01_walking", "02_running"], ["walking", "running"]),
        ([f"{i} thing {c}" for i, c in enumerate("abcdef")], [f"thing {c}" for c in "abcdef"]),
        (["1 dog", "2 cats"], ["1 dog", "2 cats"]),
        (["1 person", "2 people", "3 people", "4 people", "5 people"],) * 2,  # two would become one
        (["c009 Taking", "c152 Putting"], ["Taking", "Putting"]),
        (["a380 landing", "a320 taking off"],) * 2,
        (["walking1", "running2", "jumping3"], ["walking", "running", "jumping"]),
        (["ps4", "ps5", "gta5"],) * 2,
        (["jump_1", "jump_2"], ["jump 1", "jump 2"]),  # else they would be one
        (["jump_01", "run_02", "sit_03"], ["jump", "run", "sit"]),
        (["jumping3", "running2", "walking1"], ["jumping", "running", "walking"]),
        (["jumping01", "running01", "walking01"], ["jumping", "running", "walking"]),
        (["HorseRace1", "PlayingViolin1", "Archery1"], ["horse race", "playing violin", "archery"]),
        # digits that count nothing, and two capitals at the end, are a name's own
        (["Formula1", "MotoGP"],) * 2,
        (["Formula1", "Moto3", "surfing"],) * 2,
        (["Formula1", "Dota2", "PS5"],) * 2,
        (["Blink182", "Maroon5", "Route66"],) * 2,
        (["MotoGP", "riding a bike", "running"],) * 2,
        (["Formula1", "MotoGP", "PlayingViolin", "Archery"], ["Formula1", "MotoGP", "playing violin", "archery"]),
        (["FinalFantasy7", "StreetFighter2", "Archery"], ["final fantasy 7", "street fighter 2", "archery"]),
        (["WatchTV", "WatchingTV", "UnboxingPS"], ["watch TV", "watching TV", "unboxing PS"]),
        (["WatchingMotoGP", "HorseRace"], ["watching MotoGP", "horse race"]),
    ],
)
def test_a_list_is_more_evidence_than_a_name(names: list[str], words: list[str]) -> None:
    assert words_of(names) == words


@example(["-", "_-", "1Xa"])
@given(st.lists(st.text("abXY12 _-'.", min_size=1, max_size=8), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_no_two_names_become_one(names: list[str]) -> None:
    names = [" ".join(name.split()) for name in names if name.split()]
    keys = {class_key(name) for name in names}
    words = words_of(names)
    assert len(words) == len(names)
    assert len({class_key(text) for text in words}) == len(keys)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Surfing", "surfing"),
        ("Café", unicodedata.normalize("NFD", "Café")),
        ("Straße", "STRASSE"),
        ("dog\u00a0barking", "dog barking"),
        ("children's party", "children\u2019s party"),
        ("hip-hop", "Hip\u2010Hop"),
        ("HandStandPushups", "HandstandPushups"),
        ("HandStandPushups", "hand stand pushups"),
        ("ﬁre", "fire"),
        ("Ａｒｃｈｅｒｙ", "archery"),
    ],
)
def test_spellings_of_one_class(one: str, other: str) -> None:
    assert class_key(one) == class_key(other)
    names, _, warnings = check_labels([one, "something else", other])
    assert len(names) == 2
    assert names[0] == " ".join(unicodedata.normalize("NFC", one).split())
    assert warnings
    assert "one, called as the first" in warnings[0] or "duplicate" in warnings[0]


@pytest.mark.parametrize(("one", "other"), [("C++", "C"), ("1 1", "11"), ("a dog", "dogs"), ("!", "?"), ("-", "_")])
def test_different_classes(one: str, other: str) -> None:
    assert check_labels([one, other]).names == [one, other]


def test_the_user_is_told_once_and_what_he_says_counts() -> None:
    names, phrases, warnings = check_labels(["PlayingViolin", "HorseRace", Label("BasketballDunk", "a slam dunk")])
    assert names == ["PlayingViolin", "HorseRace", "BasketballDunk"]
    assert phrases == ["playing violin", "horse race", "a slam dunk"]
    (warning,) = warnings
    assert "'PlayingViolin' as 'playing violin', 'HorseRace' as 'horse race'" in warning
    assert "name = phrase" in warning
    assert check_labels({"PlayingViolin": "PlayingViolin"}) == (["PlayingViolin"], ["PlayingViolin"], [])
    labels, warnings = with_phrases(["playingviolin", "golf"], {"PlayingViolin": "on the violin", "HorseRace": "x"})
    assert check_labels(labels).phrases == ["on the violin", "golf"]
    assert warnings == ["names that no label has: 'HorseRace'"]


def test_what_a_model_was_trained_on_is_read_as_it_was() -> None:
    found = check_labels(
        ["HorseRace", "SURFING", Label("golf", "golf swing")], known=["horse  race", "Surfing", "golf"]
    )
    assert found.names == ["HorseRace", "SURFING", "golf"]
    assert found.phrases == ["horse  race", "Surfing", "golf swing"]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('"people eating, drinking", dancing', ["people eating, drinking", "dancing"]),
        ("children's party, dog's bark", ["children's party", "dog's bark"]),
        ('"unclosed, b', ['"unclosed', "b"]),
        ('a 12" record, b', ['a 12" record', "b"]),
        ('"say ""hi"", now", b', ['say "hi", now', "b"]),
        ("“a, b”, c", ["a, b", "c"]),
        (",,", []),
        ("'surfing', 'diving', dancing", ["surfing", "diving", "dancing"]),
        ("'people eating, drinking', dancing", ["people eating, drinking", "dancing"]),
        ("‘a, b’, c", ["a, b", "c"]),
        ("'children's party', 'dogs' bark', 'rock 'n' roll'", ["children's party", "dogs' bark", "rock 'n' roll"]),
        ("'tis the season, the dogs', x", ["'tis the season", "the dogs'", "x"]),
        ("'90s dance, '80s disco", ["'90s dance", "'80s disco"]),
        ("'rock' and 'roll', b", ["'rock' and 'roll'", "b"]),
        ("'unclosed, b", ["'unclosed", "b"]),
        ("dogs', 'cats", ["dogs'", "'cats"]),
        ("'', b", ["''", "b"]),
    ],
)
def test_quotes_in_a_list(text: str, labels: list[str]) -> None:
    assert split_labels(text) == labels


def test_single_quotes_around_phrases_and_lines(tmp_path: Path) -> None:
    found = split_labels("PlayingViolin = 'playing the violin', 'a, b' = 'c, d'")
    assert [(name, name.phrase) for name in found] == [("PlayingViolin", "playing the violin"), ("a, b", "c, d")]
    path = tmp_path / "labels.txt"
    path.write_text("'surfing'\n'people eating, drinking'\nchildren's party\nx = 'the letter x'\n'90s dance\n")
    labels = read_labels_file(path)
    assert labels == ["surfing", "people eating, drinking", "children's party", "x", "'90s dance"]
    assert labels[3].phrase == "the letter x"


def test_phrases_in_a_list() -> None:
    found = split_labels('PlayingViolin = playing the violin, "a, b" = "c, d", x=y, e')
    assert found == ["PlayingViolin", "a, b", "x=y", "e"]
    assert [name.phrase for name in found if isinstance(name, Label)] == ["playing the violin", "c, d"]


@pytest.mark.parametrize(
    ("file", "text", "labels"),
    [
        ("classInd.txt", "1 ApplyEyeMakeup\n2 ApplyLipstick\n", ["ApplyEyeMakeup", "ApplyLipstick"]),
        ("charades.txt", "c000 Holding some clothes\nc001 Putting\n", ["Holding some clothes", "Putting"]),
        ("plain.txt", '"a, b"\nc, d\n\n', ["a, b", "c, d"]),
        ("plain.txt", "action\ndrama, war\nlabel\n", ["action", "drama, war", "label"]),
        ("one.csv", 'label\n"a, b"\nc\n', ["a, b", "c"]),
        ("no_header.csv", "action\ndrama\n", ["action", "drama"]),
        ("audioset.csv", 'index,mid,display_name\n0,/m/1,"Speech"\n1,/m/2,"Male, man"\n', ["Speech", "Male, man"]),
        ("audioset.txt", 'index,mid,display_name\n0,/m/1,"Speech"\n1,/m/2,"Male, man"\n', ["Speech", "Male, man"]),
        (
            "kinetics.csv",
            "label,youtube_id,time_start,time_end,split\nabseiling,0347ZoDXyP0,95,105,validate\n"
            '"yoga, hot",-4-aIJzz4m8,1,11,validate\nabseiling,x7ZoDXyP0-_,95,105,validate\n',
            ["abseiling", "yoga, hot"],
        ),
        (
            "vggsound.csv",
            '---g-f_I2yQ,1,"people marching, parading",test\n--0PQM4-hqg,30,waterfall burbling,train\n'
            "--56QUhyDQM,185,playing tennis,train\n",
            ["people marching, parading", "waterfall burbling", "playing tennis"],
        ),
        ("classes.csv", '"bird chirping, tweeting",1050,animals\ncar,1,vehicle\n', ["bird chirping, tweeting", "car"]),
        ("objects.tsv", "1\tPerson\n2\tSneakers\n", ["Person", "Sneakers"]),
        ("lvis.txt", "1\tacorn\tacorn.n.01\n2\taerosol_can\taerosol.n.02\n", ["acorn", "aerosol_can"]),
        ("row.csv", "dog,cat,bird\n", ["dog", "cat", "bird"]),
        ("moments.txt", "clapping,0\npraying,1\n", ["clapping", "praying"]),
        ("numbers.txt", "0,clapping\n1,praying\n", ["clapping", "praying"]),
        ("commas.txt", "dog, brown\ncat, 2\n", ["dog, brown", "cat, 2"]),
        ("europe.csv", "id;name\n1;dog barking\n2;cat, meowing\n", ["dog barking", "cat, meowing"]),
        ("comment.txt", "# of last year\n#dance\nit's raining\n", ["#dance", "it's raining"]),
        ("sports.csv", "youtube_id,kind of sport\n0347ZoDXyP0,rowing\nx7ZoDXyP0-_,judo\n", ["rowing", "judo"]),
        ("commas.csv", "dog, brown\ncat\n", ["dog, brown", "cat"]),
        ("map.json", json.dumps({"1": "air drumming", "0": "abseiling"}), ["abseiling", "air drumming"]),
        ("ids.json", json.dumps({'"riding a bike"': 1, "zumba": 0}), ["zumba", "riding a bike"]),
        ("list.json", json.dumps([{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]), ["cat", "dog"]),
        ("plain.json", json.dumps({"labels": ["a", "b"]}), ["a", "b"]),
    ],
)
def test_lists_in_files(tmp_path: Path, file: str, text: str, labels: list[str]) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert read_labels_file(tmp_path / file) == labels


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.csv", "id,label\n1,a\n2,b,c\n", "between 2 and 3 columns; put names with commas in double quotes"),
        ("a.csv", "0347ZoDXyP0,95\n1347ZoDXyP0,96\n", "none of its 2 columns holds names"),
        (
            "test.csv",
            "youtube_id,split\n0347ZoDXyP0,test\n",
            "none of its 2 columns holds names",
        ),  # Kinetics' test list
        (
            "segments.csv",  # AudioSet's, which name classes by number
            '# YTID, start_seconds, positive_labels\n--4gqARaEJE, 0.0, "/m/068hy,/m/07q6cd_"\n'
            '-0p7hKXZ1ww, 30.0, "/m/04rlf"\n',
            "none of its 3 columns holds names",
        ),
        ("a.json", '{"a": [1]}', "no list of labels"),
        ("a.json", "[", "no JSON"),
    ],
)
def test_files_that_are_no_lists(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(LabelError, match=message):
        read_labels_file(tmp_path / file)


def test_phrases_in_files(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("PlayingViolin = playing the violin\nHorseRace\n")
    violin, race = read_labels_file(tmp_path / "labels.txt")
    assert isinstance(violin, Label)
    assert (violin, violin.phrase, race) == ("PlayingViolin", "playing the violin", "HorseRace")
    (tmp_path / "labels.csv").write_text("name,phrase\nPlayingViolin,playing the violin\n")
    assert [x.phrase for x in read_labels_file(tmp_path / "labels.csv") if isinstance(x, Label)] == [violin.phrase]
    for text in ('name,phrase\nA,"b, c"\n', "A\tb, c\n", "A = b, c\n"):
        (tmp_path / "names.csv").write_text(text)
        assert read_names(tmp_path / "names.csv") == {"A": "b, c"}
    (tmp_path / "names.csv").write_text("A,b\nC\n")
    with pytest.raises(LabelError, match="line 2: two columns, name and phrase"):
        read_names(tmp_path / "names.csv")


def test_what_is_read_and_what_is_shown(clip_folder: Path) -> None:
    """The phrase decides the vector; order and spelling of names do not."""
    classifier = Classifier(load_backbone(str(clip_folder), device="cpu", dtype="float32"))
    written = classifier.prepare(["HorseRace", "brush_hair", "golf"])
    words = classifier.prepare(["horse race", "brush hair", "golf"])
    assert written.labels == ("HorseRace", "brush_hair", "golf")
    assert written.phrases == words.phrases == words.labels
    assert torch.equal(written.vectors, words.vectors)
    assert sum("as words" in warning for warning in written.warnings) == 1
    assert not any("as words" in warning for warning in words.warnings)
    turned = classifier.prepare(["golf", "HorseRace", "brush_hair"])
    torch.testing.assert_close(turned.vectors, written.vectors[[2, 0, 1]])
    said = classifier.prepare({"HorseRace": "horses on a track"})
    assert said.labels == ("HorseRace",)
    assert torch.equal(said.vectors, classifier.prepare(["horses on a track"]).vectors)


@pytest.mark.parametrize(
    "lines",
    [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nArchery/v_Archery_g01_c01.avi\n",
        "clip.mp4 0\nother.MP4 1\n",
        "\n".join(f"brush_hair/clip_{number} {number} 0" for number in range(8)),
    ],
)
def test_a_list_of_clips_is_no_list_of_labels(tmp_path: Path, lines: str) -> None:
    path = tmp_path / "testlist01.txt"
    path.write_text(lines)
    with pytest.raises(LabelError, match="lists clips, not labels"):
        read_labels_file(path)
    path.write_text("cat/dog\nnight/day\nnode.js tutorial\n")
    assert read_labels_file(path) == ["cat/dog", "night/day", "node.js tutorial"]


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (["surfing playing chess cooking dinner"], "if it is several labels"),
        (["dog barking cat meowing", "rain"], "if it is several labels"),
        (["surfing skiing dancing"], "if it is several labels"),
        (["surfing; chess"], "if it is several labels"),
        (["surfing", "or playing chess"], "begins with no"),
        (["surfing", "and chess"], "begins with no"),
        (["a dog running on a lawn", "man playing guitar and singing", "orange juice", "android phone"], ""),
        (["people walking in the morning", "something burning", "playing string instruments"], ""),
    ],
)
def test_a_label_that_looks_like_several_gets_a_hint(labels: list[str], hint: str) -> None:
    checked = check_labels(labels)
    assert checked.names == labels
    assert hint in " ".join(checked.warnings)
    assert bool(hint) == bool(checked.warnings)


def test_a_label_database_keeps_name_and_phrase(clip_folder: Path, tmp_path: Path) -> None:
    encoder = open_encoder(str(clip_folder), device="cpu")
    made = create_database(tmp_path / "db", encoder)
    added = made.add(["HorseRace", Label("golf", "a golf swing")], encoder)
    assert added == (["HorseRace", "golf"], [])
    assert made.add(["horse race", "HORSERACE", "GOLF", "surfing"], encoder).new == ["surfing"]
    opened = open_database(tmp_path / "db")
    assert opened.labels == ("HorseRace", "golf", "surfing")
    assert opened.phrases == ("horse race", "a golf swing", "surfing")
    assert torch.equal(opened.select(["horse_race"]), encoder.encode(["horse race"]))
    asked = opened.only(["Surfing", "horse race"])
    assert (asked.labels, asked.phrases) == (("Surfing", "horse race"), ("surfing", "horse race"))
    assert "Horse Race" in opened
    assert "tennis" not in opened
    vocabulary = Classifier(load_backbone(str(clip_folder), device="cpu", dtype="float32")).prepare(opened)
    assert (vocabulary.labels, vocabulary.phrases) == (opened.labels, opened.phrases)
    torch.testing.assert_close(vocabulary.vectors, opened.vectors)


def test_a_database_of_before_keeps_its_vectors(clip_folder: Path, tmp_path: Path) -> None:
    """Its labels were read as they stand, identifiers or not."""
    encoder = open_encoder(str(clip_folder), device="cpu")
    create_database(tmp_path / "db", encoder).add({"HorseRace": "HorseRace"}, encoder)
    assert "phrases" not in json.loads((tmp_path / "db" / "labels.json").read_text())
    vocabulary = Classifier(load_backbone(str(clip_folder), device="cpu", dtype="float32")).prepare(
        open_database(tmp_path / "db")
    )
    assert (vocabulary.labels, vocabulary.phrases) == (("HorseRace",), ("HorseRace",))
    torch.testing.assert_close(vocabulary.vectors, encoder.encode(["HorseRace"]))


def test_a_trained_model_knows_its_base_classes_by_name_and_phrase(clip_folder: Path) -> None:
    """However a label is spelled, it is read as in training; what the user says counts more."""
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    mov = MOV.from_backbone(backbone, MOVConfig.for_backbone(backbone, modalities=("video",))).eval()
    model = TrainedModel(backbone, mov, ("horse race", "Brush_Hair", "surfing"), "name", ("video",))
    classifier = Classifier(model)
    made = classifier.prepare(["golf", "HorseRace", "brush hair", "SURFING", Label("horse", "horse race")])
    assert made.labels == ("golf", "HorseRace", "brush hair", "SURFING", "horse")
    assert made.phrases == ("golf", "horse race", "Brush_Hair", "surfing", "horse race")
    assert classifier.video_model.are_base(made.phrases).tolist() == [False, True, True, True, True]
    assert not classifier.video_model.are_base(classifier.prepare({"surfing": "surfing the web"}).phrases).any()


def test_names_on_the_command_line(clip_folder: Path, tmp_path: Path) -> None:
    film = tmp_path / "a.mp4"
    make_clip(film, COLOURS["red"], step=1, tone_hz=None, num=8)
    (tmp_path / "classInd.txt").write_text("1 HorseRace\n2 BrushHair\n")
    (tmp_path / "names.csv").write_text("HorseRace,horses on a track\nGolf,golf\n")
    words = [
        "classify", str(film), "--labels-file", str(tmp_path / "classInd.txt"), "--names", str(tmp_path / "names.csv"),
        "--model", str(clip_folder), "--device", "cpu", "--format", "csv",
    ]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert {row["label"] for row in csv.DictReader(done.stdout.splitlines())} == {"HorseRace", "BrushHair"}
    said = " ".join(done.stderr.split())
    assert "names that no label has: 'Golf'" in said
    assert said.count("'BrushHair' as 'brush hair'") == 1
    assert "'HorseRace' as" not in said
