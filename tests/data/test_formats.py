"""data/dataset.py: manifests, folders, UCF101's lists; what is wrong with them is said with file and line."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from lexivid.data.clips import Clip
from lexivid.data.formats import read_dataset
from lexivid.data.naming import class_name, split_name
from lexivid.errors import LexividError


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def _manifest(root: Path, text: str) -> Path:
    path = root / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_manifest_with_every_column(tmp_path: Path) -> None:
    path = _manifest(
        tmp_path,
        "path,labels,split,start_s,end_s,group\n"
        'a.mp4,playing drums; singing,Training,1.5,4,g1\n\n"b, c.mp4",dog  barking,validation,,,\n'
        "/x/d.mp4,Cat,mine,2,,\n",
    )
    found = read_dataset(path)
    assert found.clips == (
        Clip(str(tmp_path / "a.mp4"), ("playing drums", "singing"), "train", 1.5, 4.0, "g1"),
        Clip(str(tmp_path / "b, c.mp4"), ("dog barking",), "val"),
        Clip("/x/d.mp4", ("Cat",), "mine", 2.0),
    )
    assert found.classes == ("Cat", "dog barking", "playing drums", "singing")
    assert found.name == tmp_path.name
    assert read_dataset(tmp_path) == found  # auto: the folder holds manifest.csv


def test_manifest_with_two_columns_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("path,label\na.wav,x;y\n", encoding="utf-8-sig")
    found = read_dataset(path)
    assert found.clips == (Clip(str(tmp_path / "a.wav"), ("x;y",), "train"),)  # "label" is one, whatever is in it
    assert found.name == "mine"


def test_manifest_with_synthetic_labels(tmp_path: Path) -> None:
    _manifest(
        tmp_path,
        "path,labels,synthetic\na.mp4,drums,star; something  red;star\nb.mp4,drums;dog,\nc.mp4,dog,;drums\n",
    )
    found = read_dataset(tmp_path, names={"star": "a star"})
    assert [clip.synthetic for clip in found.clips] == [("a star", "something red"), (), ("drums",)]
    assert found.classes == ("dog", "drums")
    assert found.synthetic == ("a star", "drums", "something red")


def test_restricted_to_some_labels(tmp_path: Path) -> None:
    _manifest(
        tmp_path,
        "path,labels,split,synthetic\na.mp4,drums;dog,train,star\nb.mp4,cat;drums,test,\nc.mp4,cat,train,dog\n",
    )
    found = read_dataset(tmp_path)
    part = found.restricted(["drums", "dog"])
    assert part.classes == ("drums", "dog")
    assert [(Path(c.path).name, c.labels, c.synthetic) for c in part.clips] == [
        ("a.mp4", ("drums", "dog"), ("star",)),
        ("b.mp4", ("drums",), ()),
    ]  # a synthetic "dog" does not keep c.mp4
    assert [c.labels for c in found.restricted(["drums"], split="train").clips] == [("drums",)]
    assert [c.labels for c in found.select(classes=["drums", "dog"]).clips] == [("drums", "dog")]  # whole clips alone
    with pytest.raises(LexividError, match="no class 'golf'"):
        found.restricted(["golf"])
    with pytest.raises(LexividError, match="no clips of split 'test' and dog"):
        found.restricted(["dog"], split="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must name"),
        ("a.mp4,drums\n", "first line must name"),
        ("path,label,labels\n", "first line must name"),
        ("path,label,colour\n", "first line must name"),
        ("path,label,path\n", "first line must name"),
        ("path,label\n", "no clips"),
        ("path,label\na.mp4\n", "line 2: 1 fields for 2 columns"),
        ("path,label\na.mp4,x\n,y\n", "line 3: no path"),
        ("path,labels\na.mp4,;\n", "line 2: no label"),
        ("path,label,start_s\na.mp4,x,soon\n", "line 2: 'soon' is no time"),
        ("path,label,start_s\na.mp4,x,nan\n", "line 2: 'nan' is no time"),
        ("path,label,start_s\na.mp4,x,-1\n", "line 2: '-1' is no time"),
        ("path,label,start_s,end_s\na.mp4,x,3,3\n", "line 2: ends at 3 s"),
        ('path,label\n"a.mp4,x\n', "not a CSV file"),
    ],
)
def test_manifest_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LexividError, match=message):
        read_dataset(_manifest(tmp_path, text))


def test_manifest_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,label\na.mp4,häuser\n".encode("latin-1"))
    with pytest.raises(LexividError, match="UTF-8"):
        read_dataset(tmp_path / "m.csv")


def test_folder_per_class(tmp_path: Path) -> None:
    _touch(tmp_path, "HorseRace/b.MP4", "HorseRace/a.mkv", "HorseRace/deep/c.webm", "cat_meowing/x.opus")
    _touch(tmp_path, "HorseRace/notes.txt", "HorseRace/.hidden.mp4", ".git/x.mp4", "readme.mp4")
    found = read_dataset(tmp_path)
    assert [(Path(c.path).name, c.labels, c.split, c.group) for c in found.clips] == [
        ("a.mkv", ("horse race",), "train", None),
        ("b.MP4", ("horse race",), "train", None),
        ("c.webm", ("horse race",), "train", None),
        ("x.opus", ("cat meowing",), "train", None),
    ]


def test_folders_of_splits(tmp_path: Path) -> None:
    _touch(tmp_path, "train/a/1.mp4", "Validation/a/2.mp4", "test/b/3.mp4")
    found = read_dataset(tmp_path)
    assert sorted((c.split, c.labels[0]) for c in found.clips) == [("test", "b"), ("train", "a"), ("val", "a")]


def test_a_class_called_test_is_a_class(tmp_path: Path) -> None:
    _touch(tmp_path, "test/1.mp4", "drums/2.mp4")
    assert read_dataset(tmp_path).classes == ("drums", "test")


def test_names(tmp_path: Path) -> None:
    _touch(tmp_path / "data", "Cryingbaby/1.ogg", "Dog/1.ogg")
    (tmp_path / "names.csv").write_text("Cryingbaby,a crying baby\n")
    assert read_dataset(tmp_path / "data", names=tmp_path / "names.csv").classes == ("a crying baby", "dog")
    assert read_dataset(tmp_path / "data", names={"Dog": "dog barking"}).classes == ("cryingbaby", "dog barking")
    (tmp_path / "names.csv").write_text("Cryingbaby\n")
    with pytest.raises(LexividError, match="line 1: two columns"):
        read_dataset(tmp_path / "data", names=tmp_path / "names.csv")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("HorseRace", "horse race"),
        ("playing_drums", "playing drums"),
        ("playing drums", "playing drums"),
        ("TV", "TV"),
        ("WatchingTVShow", "watching TV show"),
        ("YoYo", "yo yo"),
        ("Drinking-sipping", "drinking-sipping"),
        ("跳舞", "跳舞"),
    ],
)
def test_class_name(folder: str, name: str) -> None:
    assert class_name(folder) == name


def _ucf(root: Path) -> None:
    for group in ("01", "02"):
        for clip in ("01", "02"):
            _touch(root / "videos", *(f"{c}/v_{c}_g{group}_c{clip}.mp4" for c in ("Archery", "HorseRace")))
    lists = root / "lists"
    lists.mkdir()
    both = ("Archery", "HorseRace")
    (lists / "ucf101_testlist02.txt").write_text(
        "".join(f"{c}/v_{c}_g01_c0{i}.avi\r\n" for c in both for i in (1, 2, 3))
    )


def test_ucf101_lists(tmp_path: Path) -> None:
    """The files' ending is another than in the lists; what the lists name and is not there is counted."""
    _ucf(tmp_path)
    found = read_dataset(tmp_path / "videos", list_number=2, lists=tmp_path / "lists")
    assert found.classes == ("archery", "horse race")
    assert {(c.split, c.group) for c in found.clips} == {
        ("test", "v_Archery_g01"),
        ("train", "v_Archery_g02"),
        ("test", "v_HorseRace_g01"),
        ("train", "v_HorseRace_g02"),
    }
    assert len(found.clips) == 8
    assert found.missing == ("Archery/v_Archery_g01_c03", "HorseRace/v_HorseRace_g01_c03")


def test_ucf101_train_list_leaves_out_what_it_does_not_name(tmp_path: Path) -> None:
    _ucf(tmp_path)
    (tmp_path / "lists/trainlist02.txt").write_text("Archery/v_Archery_g02_c01.avi 1\n")
    found = read_dataset(tmp_path / "videos", kind="ucf101", list_number=2, lists=tmp_path / "lists")
    assert [Path(c.path).name for c in found.clips if c.split == "train"] == ["v_Archery_g02_c01.mp4"]


def test_ucf101_lists_are_found_beside_the_videos(tmp_path: Path) -> None:
    _ucf(tmp_path)
    (tmp_path / "lists").rename(tmp_path / "ucfTrainTestlist")
    (tmp_path / "ucfTrainTestlist/ucf101_testlist02.txt").rename(tmp_path / "ucfTrainTestlist/testlist01.txt")
    assert read_dataset(tmp_path / "videos") == read_dataset(tmp_path / "videos", kind="ucf101", list_number=1)
    with pytest.raises(LexividError, match=r"no testlist03\.txt"):
        read_dataset(tmp_path / "videos", list_number=3)


def test_ucf101_lists_that_spell_a_class_in_another_way(tmp_path: Path) -> None:
    """The data set's own: the lists' HandstandPushups is the folder and the files HandStandPushups."""
    for c in ("HandStandPushups", "Archery"):
        _touch(tmp_path, *(f"{c}/v_{c}_g0{g}_c01.avi" for g in (1, 3)))
    test = "HandstandPushups/v_HandStandPushups_g01_c01.avi\nArchery/v_Archery_g01_c01.avi\nYoYo/v_YoYo_g01_c01.avi\n"
    (tmp_path / "testlist01.txt").write_text(test)
    found = read_dataset(tmp_path)
    assert [(c.labels[0], c.group and c.group[-3:], c.split) for c in found.clips] == [
        ("archery", "g01", "test"), ("archery", "g03", "train"),
        ("hand stand pushups", "g01", "test"), ("hand stand pushups", "g03", "train"),
    ]  # fmt: skip
    assert found.missing == ("YoYo/v_YoYo_g01_c01",)  # a part of the data set is no fault
    assert found.warnings == ()


def test_test_clips_never_become_training_clips(tmp_path: Path) -> None:
    """A list that does not match stops the run, and names both sides."""
    for c in ("Archery", "HandStand"):
        _touch(tmp_path, f"{c}/v_{c}_g01_c01.avi", f"{c}/v_{c}_g09_c01.avi")
    archery = "Archery/v_Archery_g01_c01.avi\n"
    (tmp_path / "testlist01.txt").write_text(f"{archery}HandstandPushups/v_HandstandPushups_g01_c01.avi\n")
    with pytest.raises(LexividError, match=r"folder 'HandStand' .* its class 'HandstandPushups' has no folder"):
        read_dataset(tmp_path)
    (tmp_path / "testlist01.txt").write_text(f"{archery}HandStand/HandStand_01_01.avi\n")
    with pytest.raises(
        LexividError, match=r"class 'HandStand', such as .* is called like the files of folder 'HandStand'"
    ):
        read_dataset(tmp_path)
    (tmp_path / "testlist01.txt").write_text(f"{archery}HandStand/v_HandStand_g02_c01.avi\n")
    assert sum(c.split == "test" for c in read_dataset(tmp_path).clips) == 1  # its test clips are not at hand
    (tmp_path / "testlist01.txt").write_text(archery)
    (warning,) = read_dataset(tmp_path).warnings
    assert "names no clip of 1 folders, for instance 'HandStand'" in warning
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g09_c01.avi 1\n")
    assert read_dataset(tmp_path).classes == ("archery",)  # of neither list


def test_names_in_either_unicode_form(tmp_path: Path) -> None:
    """macOS writes the letter é as two characters."""
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    _touch(tmp_path / "mac", f"{decomposed}/a.mp4")
    assert read_dataset(tmp_path / "mac").classes == (composed.lower(),)
    (tmp_path / "names.csv").write_text(f"{composed},coffee house\n", encoding="utf-8")
    assert read_dataset(tmp_path / "mac", names=tmp_path / "names.csv").classes == ("coffee house",)
    manifest = tmp_path / "mac" / "list.csv"
    manifest.write_text(f"path,label\n{composed}/a.mp4,{composed}\n{decomposed}/a.mp4,{decomposed}\n", encoding="utf-8")
    found = read_dataset(manifest)
    assert found.classes == (composed,)
    assert [Path(c.path).exists() for c in found.clips] == [True, True]
    assert found.warnings == ()
    assert read_dataset(manifest, names={decomposed: "coffee"}).classes == ("coffee",)
    manifest.write_text(f"path,label\n{composed}/none.mp4,x\n", encoding="utf-8")
    assert not Path(read_dataset(manifest).clips[0].path).exists()  # what is not there stays in the data set


def test_spellings_of_one_class_are_one(tmp_path: Path) -> None:
    _manifest(
        tmp_path,
        "path,label\n1.mp4,surfing\n2.mp4,Surfing\n3.mp4,Surfing\n4.mp4,PlayingViolin\n5.mp4,playing violin\n"
        "6.mp4,Straße\n",
    )
    found = read_dataset(tmp_path)
    assert found.classes == ("Straße", "Surfing", "playing violin")
    assert [c.labels[0] for c in found.clips][:2] == ["Surfing"] * 2
    spelled, split = found.warnings
    assert "1 classes are spelled in several ways, and are one each: 'Surfing' and 'surfing'" in spelled
    assert "'PlayingViolin' as 'playing violin'" in split
    assert [c.labels[0] for c in found.select(classes=["SURFING"]).clips] == ["Surfing"] * 3
    assert found.spelled_as(["STRASSE", "surfing"]).classes == ("STRASSE", "playing violin", "surfing")
    assert read_dataset(tmp_path, names={"PLAYINGVIOLIN": "the violin"}).classes == ("Straße", "Surfing", "the violin")
    _touch(tmp_path / "folders", "Surfing/1.mp4", "surf-ing/2.mp4")
    assert len(read_dataset(tmp_path / "folders").classes) == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Training", "train"), ("trn", "train"), ("train_set", "train"), ("unbalanced_train_segments", "train"),
        ("validate", "val"), ("Validation", "val"), ("val_1", "val"), ("dev", "val"), ("testing", "test"),
        ("Test Split", "test"), ("eval", "test"), ("tst", "test"), (" TEST ", "test"), ("mine", None), ("1", None),
        ("", None), ("constraint", None), ("trainer", None), ("contest", None),
    ],
)  # fmt: skip
def test_parts_in_every_spelling(text: str, part: str | None) -> None:
    assert split_name(text) == part


def test_parts_of_no_known_name_are_kept_and_told(tmp_path: Path) -> None:
    _manifest(tmp_path, "path,label,split\na.mp4,x,Validate\nb.mp4,x,fold1\nc.mp4,y,tst\n")
    found = read_dataset(tmp_path)
    assert [c.split for c in found.clips] == ["val", "fold1", "test"]
    assert found.warnings == (
        "parts of no known name are neither trained on nor tested unless they are named: 'fold1' (1 clips)",
    )
    _touch(tmp_path / "data", "training/a/1.mp4", "testing/a/2.mp4", "holdback/a/3.mp4")
    assert [c.split for c in read_dataset(tmp_path / "data").clips] == ["holdback", "test", "train"]
    _touch(tmp_path / "trains", "train/1.mp4", "bus/2.mp4")
    assert read_dataset(tmp_path / "trains").classes == ("bus", "train")  # a class


def test_recordings_on_both_sides_are_told(tmp_path: Path) -> None:
    _manifest(
        tmp_path,
        "path,label,split,group,start_s,end_s\na.mp4,x,train,g1,,\nb.mp4,y,test,g1,,\nc.mp4,x,train,,0,1\n"
        "c.mp4,y,test,,1,2\nc.mp4,y,test,,2,3\nd.mp4,y,test,g2,,\n",
    )
    (warning,) = read_dataset(tmp_path).warnings
    assert "2 recordings" in warning
    assert "in train and in test, for instance 'g1': 3 clips of test" in warning


def test_select(tmp_path: Path) -> None:
    _ucf(tmp_path)
    found = read_dataset(tmp_path / "videos", list_number=2, lists=tmp_path / "lists")
    part = found.select(split="test", classes=["horse race"])
    assert part.classes == ("horse race",)
    assert [c.group for c in part.clips] == ["v_HorseRace_g01"] * 2
    with pytest.raises(LexividError, match="no class 'golf'"):
        found.select(classes=["golf"])
    with pytest.raises(LexividError, match="no clips of split 'val'"):
        found.select(split="val")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(LexividError, match="does not exist"):
        read_dataset(tmp_path / "none")
    with pytest.raises(LexividError, match="no clips"):
        read_dataset(tmp_path)
    with pytest.raises(LexividError, match="unknown kind"):
        read_dataset(tmp_path, kind="hmdb")  # type: ignore[arg-type]


def test_real_ucf6(media: Path) -> None:
    """Official splits 2 and 3: 7 test groups, 3 clips of each, of 6 classes; no group on both sides."""
    for number in (2, 3):
        found = read_dataset(media / "ucf6", list_number=number, lists=media / "labels")
        groups = {split: {c.group for c in found.clips if c.split == split} for split in ("train", "test")}
        assert sum(c.split == "test" for c in found.clips) == 7 * 3 * 6
        assert len(found.clips) == 18 * 3 * 6
        assert not groups["train"] & groups["test"]
