"""Annotation files of several labels a clip. The files here are written by hand in the data sets' forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lexivid.data.clips import Dataset
from lexivid.data.formats import read_dataset
from lexivid.data.formats.multi_label import read_multilabel
from lexivid.errors import LexividError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write text files and empty media files below one folder."""

    def make(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def said(dataset: Dataset) -> dict[str, tuple[tuple[str, ...], str]]:
    return {Path(clip.path).name: (clip.labels, clip.split) for clip in dataset.clips}


def activitynet(root: Path, **database: object) -> Path:
    path = root / "activity.json"
    path.write_text(json.dumps({"version": "VERSION 1.3", "taxonomy": [], "database": database}))
    return path


def test_activitynet(tmp_path: Path) -> None:
    touch(tmp_path, "videos/v_one.mp4", "videos/deep/two.mkv", "notes.txt")
    activitynet(
        tmp_path,
        one={
            "subset": "training", "duration": 80.0, "resolution": "320x240",
            "annotations": [
                {"label": "Making tea", "segment": [3.0, 9.5]}, {"label": "Washing dishes", "segment": [20, 30]},
                {"label": "Making tea", "segment": [40, 44]},
            ],
        },
        two={"subset": "validation", "annotations": [{"label": "Sailing", "segment": [0, 5]}]},
        three={"subset": "validation", "annotations": [{"label": "Surfing", "segment": [0, 5]}]},
        four={"subset": "testing", "annotations": []},
    )  # fmt: skip
    found = read_dataset(tmp_path, kind="activitynet")
    assert said(found) == {
        "v_one.mp4": (("Making tea", "Washing dishes"), "train"),
        "two.mkv": (("Sailing",), "val"),
    }
    assert found.classes == ("Making tea", "Sailing", "Washing dishes")
    assert found.missing == ("three",)
    renamed = read_dataset(tmp_path, kind="activitynet", names={"Sailing": "sailing a boat"})
    assert renamed.clips[1].labels == ("sailing a boat",)


CHARADES_HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


def charades_row(name: str, actions: str) -> str:
    return f'{name},ABCD,Kitchen,6,7,Yes,"Someone, in a kitchen",cup,"says;something","{actions}",30.5\n'


def test_charades(write: Write) -> None:
    root = write(
        lists__Charades_v1_train_dot_csv=CHARADES_HEADER + charades_row("AAAA1", "c001 11.90 21.20;c000 0.00 12.60"),
        lists__Charades_v1_test_dot_csv=CHARADES_HEADER
        + charades_row("BBBB2", "c001 0.0 3.0;c001 5.0 6.0")
        + charades_row("CCCC3", ""),
        lists__Charades_v1_classes_dot_txt="c000 Holding a cup\nc001 Opening a door\n",
    )
    touch(root, "v/AAAA1.mp4", "v/BBBB2.mp4", "v/CCCC3.mp4")
    found = read_dataset(root / "v", kind="charades", lists=root / "lists")
    assert said(found) == {
        "AAAA1.mp4": (("Opening a door", "Holding a cup"), "train"),
        "BBBB2.mp4": (("Opening a door",), "test"),
    }
    alone = read_dataset(root / "v", kind="charades", lists=root / "lists" / "Charades_v1_test.csv")
    assert [clip.split for clip in alone.clips] == ["test"]


def test_youtube8m(write: Write) -> None:
    root = write(
        vocabulary_dot_csv="Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,"
        'WikiDescription\n0,10,/m/01,Game,,Games,,,"A game, played."\n7,9,/m/02,Guitar,,Arts,,,x\n9,3,/m/03,,,,,,\n',
        validation_labels_dot_csv="id,labels\nnXSc,0 7\nabcd,7;0\nnone,9\n",
    )
    touch(root, "nXSc.mp4", "abcd.webm", "none.mp4")
    found = read_dataset(root, kind="youtube8m")
    assert said(found) == {"nXSc.mp4": (("Game", "Guitar"), "val"), "abcd.webm": (("Guitar", "Game"), "val")}
    write(validation_labels_dot_csv="nXSc,0 8\n")
    with pytest.raises(LexividError, match=r"validation_labels\.csv, line 1: '8' is no Index of vocabulary\.csv"):
        read_dataset(root, kind="youtube8m")


VGGSOUNDER = (
    "video_id,label,modality,background_music,static_image,voice_over\n"
    '--U7joUcTCo_000000,"male speech, man speaking",A,False,False,True\n'
    "--U7joUcTCo_000000,people crowd,AV,False,False,True\n"
    "x_000010,playing harp,V,True,False,False\n"
)


def test_vggsounder(write: Write) -> None:
    root = write(vggsounder_dot_csv=VGGSOUNDER)
    touch(root, "--U7joUcTCo_000000.mp4", "x_000010.mp4")
    found = read_dataset(root, kind="vggsounder")
    assert said(found) == {
        "--U7joUcTCo_000000.mp4": (("male speech, man speaking", "people crowd"), "test"),
        "x_000010.mp4": (("playing harp",), "test"),
    }
    seen = read_multilabel(root, "vggsounder", perceived="seen")
    assert [clip.labels for clip in seen.clips] == [("people crowd",), ("playing harp",)]
    heard = read_multilabel(root, "vggsounder", perceived="heard")
    assert [clip.labels for clip in heard.clips] == [("male speech, man speaking", "people crowd")]


@pytest.mark.parametrize(
    ("kind", "files", "says"),
    [
        ("activitynet", {}, r"holds no \*\.json"),
        ("activitynet", {"a_dot_json": "{"}, "cannot be read as JSON"),
        ("activitynet", {"a_dot_json": "[]"}, 'no "database"'),
        ("activitynet", {"a_dot_json": '{"database": {"x": {"annotations": [{}]}}}'}, "video 'x'"),
        ("activitynet", {"a_dot_json": '{"database": {}}', "b_dot_json": "{}"}, r"holds 2 \*\.json"),
        ("charades", {}, "holds no Charades"),
        ("charades", {"Charades_v1_train_dot_csv": "id,actions\na,c000 0 1\n"}, "classes"),
        (
            "charades",
            {"Charades_v1_train_dot_csv": "id,actions\na,c009 0 1\n", "Charades_v1_classes_dot_txt": "c000 Sitting\n"},
            "line 2: 'c009' is no action",
        ),
        (
            "charades",
            {"Charades_v1_train_dot_csv": "name,acts\na,b\n", "Charades_v1_classes_dot_txt": "c000 Sitting\n"},
            "no id",
        ),
        ("charades", {"Charades_v1_train_dot_csv": "x", "Charades_v1_classes_dot_txt": "Sitting\n"}, "line 1"),
        ("youtube8m", {"labels_dot_csv": "a,1\n"}, r"vocabulary\.csv"),
        ("youtube8m", {"vocabulary_dot_csv": "Index,Name\n1,x\n", "l_dot_csv": "a,1,2\n"}, "two columns"),
        ("vggsounder", {"vggsounder_dot_csv": "video_id,label\nx,y\n"}, "no modality"),
        ("vggsounder", {"vggsounder_dot_csv": "video_id,label,modality\nx,y,Z\n"}, "line 2"),
        ("vggsounder", {"vggsounder_dot_csv": VGGSOUNDER}, "none of the 2 files"),
    ],
)
def test_a_list_in_another_form(write: Write, tmp_path: Path, kind: str, files: dict[str, str], says: str) -> None:
    write(**files)
    with pytest.raises(LexividError, match=says):
        read_dataset(tmp_path, kind=kind)  # type: ignore[arg-type]


def test_the_published_class_lists(media: Path) -> None:
    """The form of Charades' published classes' file."""
    lines = (media / "labels/charades_classes.txt").read_text().splitlines()
    assert len(lines) == 157
    assert all(line[0] == "c" and line[1:4].isdigit() and line[4] == " " for line in lines)
