"""Folders: what can be seen or heard is found, whatever it is called; the rest is left out and counted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from colours import colour_classifier, colour_film
from command_line import call_cli
from media_files import ffmpeg, png, source

from lexivid.data.formats import read_dataset
from lexivid.errors import LexividError
from lexivid.media._signatures import kind_of_head
from lexivid.media.decode import probe
from lexivid.media.files import AUDIO_SUFFIXES, VIDEO_SUFFIXES, find_media, kind_of_file, media_below
from lexivid.training.clips import draw_clips
from lexivid.training.recipe import load_recipe

X264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p"]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    ffmpeg(*source(size="64x48", seconds=0.4), *X264, path)
    return path


def names(paths: list[Path]) -> list[str]:
    return sorted(path.name for path in paths)


# ---- endings

# Each of these once dropped out of a folder in silence.
ENDINGS = (
    "3gpp 3gp2 3g2 insv qt mp4v m2t mpe mod tod vro m2p 264 265 h265 avc apng webp lrv lrf 360 dvr-ms mj2 m1v mk3d tp "
    "trp rec dat video bin MP4 Qt"
).split()


def test_every_file_that_decodes_is_found_whatever_its_ending(film: Path, tmp_path: Path) -> None:
    for ending in ENDINGS:
        shutil.copy(film, tmp_path / f"a.{ending}")
    shutil.copy(film, tmp_path / "no ending")
    shutil.copy(film, tmp_path / "2026-11-30 10.15.00")
    found = find_media([tmp_path])
    assert [Path(file.path).name for file in found.files] == sorted(path.name for path in tmp_path.iterdir())
    assert str(found.left_out) == ""
    assert all(probe(file.path).has_video for file in found.files)


VIDEOS = {
    "mkv": X264, "webm": ["-c:v", "libvpx"], "avi": ["-c:v", "mpeg4"], "wmv": ["-c:v", "wmv2"], "flv": ["-c:v", "flv"],
    "ts": X264, "m2ts": X264, "mpg": ["-c:v", "mpeg1video"], "vob": ["-c:v", "mpeg2video"], "nut": ["-c:v", "mpeg4"],
    "mov": X264, "3gp": X264, "gif": [], "apng": [], "y4m": [], "h264": X264, "ivf": ["-c:v", "libvpx"],
    "m2v": ["-c:v", "mpeg2video"], "ogv": ["-c:v", "libtheora"], "mxf": ["-c:v", "mpeg2video"], "wtv": X264,
    "dv": ["-s", "720x576", "-pix_fmt", "yuv420p"], "rm": ["-c:v", "rv10", "-s", "176x144"],
    "gxf": ["-c:v", "mpeg2video", "-s", "720x576"], "drc": ["-c:v", "vc2"], "roq": ["-c:v", "roqvideo", "-r", "30"],
}  # fmt: skip
SOUNDS = {
    "wav": [], "mp3": ["-id3v2_version", "3"], "m4a": [], "flac": [], "ogg": ["-c:a", "libvorbis"], "opus": [],
    "aiff": [], "caf": [], "au": [], "mka": ["-c:a", "flac"], "wma": [], "w64": [], "voc": [], "tta": [], "wv": [],
}  # fmt: skip


@pytest.mark.parametrize("ending", [*VIDEOS, *SOUNDS])
def test_the_first_bytes_tell_what_a_file_is(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    if ending in VIDEOS:
        ffmpeg(*source(size="64x64", seconds=0.4), "-s", "64x64", *VIDEOS[ending], path)
    else:
        ffmpeg("-f", "lavfi", "-i", "sine=d=0.5", *SOUNDS[ending], path)
    kind = "video" if ending in VIDEOS else "sound"
    assert kind_of_head(path.read_bytes()[:4096]) == kind
    assert kind_of_file(path) == kind
    path.rename(tmp_path / "recording")
    assert kind_of_file(tmp_path / "recording") == kind


def riff(what: bytes) -> bytes:
    return b"RIFF\x00\x10\x00\x00" + what + bytes(200)


NOT_MEDIA = {
    "component.ts": b"export const G = 1;\n" * 200,
    "G.ts": b"G" * 4000,
    "translation.ts": b'<?xml version="1.0"?><!DOCTYPE TS><TS/>',
    "module.mts": "export default 'ü';\n".encode() * 300,
    "empty.ts": b"",
    "board.dts": b"/dts-v1/;\n/ { };\n",
    "go.mod": b"module example.org/a\n\ngo 1.22\n",
    "fortran.mod": b"\x1f\x8b\x08\0" + bytes(range(256)) * 4,
    "tracker.mod": b"song title".ljust(1080, b"\0") + b"M.K." + bytes(2000),
    "squirrel.nut": b"function main() {}\n",
    "defs.avc": b"AVP Antiviral Database. (c)" + bytes(100),
    "photo.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100),
    "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    "photo.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(100),
    "photo.CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100),
    "photo.jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + bytes(100),
    "picture.png": png(8, 8),
    "sticker.webp": riff(b"WEBPVP8X"),
    "notes.txt": b"notes",
    "data.bin": bytes(5000),
    "noise": bytes((i * 37 + i * i * 11) % 256 for i in range(5000)),
    "subtitles.srt": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    "disc.ifo": b"DVDVIDEO-VMG" + bytes(2000),
    "playlist.m3u8": b"#EXTM3U\nhttp://example.org/a.ts\n",
    "fragment.m4s": b"\0\0\0\x18styp" + bytes(100),
    "film.mp4.part": b"\0\0\0\x20ftypisom" + bytes(100),
}


def test_files_that_only_share_an_ending_are_left_out_and_counted(tmp_path: Path) -> None:
    for name, content in NOT_MEDIA.items():
        (tmp_path / name).write_bytes(content)
    found = find_media([tmp_path], sound=True)
    (only,) = found.files
    assert only.error is not None
    assert only.error.startswith(
        f"{tmp_path}: no video or sound files in this folder (left out: 25 files that are no media"
    )
    assert sum(found.left_out.endings.values()) == len(NOT_MEDIA) - 1
    assert found.left_out.unfinished == 1
    assert "4 .ts" in str(found.left_out)
    assert "3 .mod" in str(found.left_out)
    assert media_below(tmp_path) == []


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x1cftypavis\0\0\0\0avismif1miaf", "video"),  # animated AVIF
        (b"\0\0\0\x1cftypavif\0\0\0\0avifavismiaf", "video"),
        (b"\0\0\0\x18ftypM4A \0\0\2\0isomiso2", "sound"),
        (b"\0\0\0\x08wide\0\x10\0\0mdat", "video"),
        (b"\0\0\0\x01mdat\0\0\0\0\0\x10\0\0", "video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypmjp2\0\0\0\0mjp2", "video"),
        (png(8, 8, animated=True), "video"),
        (riff(b"CDXAfmt "), "video"),  # a Video CD's .dat
        (riff(b"WAVEfmt "), "sound"),
        (b"#!AMR\n\x3c", "sound"),
        (b"\0\0\0\x01\x67\x42\0\x0a", "video"),
        (b"\0\0\x01\x40\x01\x0c", "video"),
        (b"", None),
        (b"\0\0\0\x01", None),
        (b"\0\0\0\x01\x99", None),
        (b"\x1aE", None),
        (b"\xff\xfeT\0e\0x\0t\0", None),  # UTF-16
        (bytes(3) + (b"\x47" + bytes(187)) * 8, "video"),  # cut out of the middle of a transport stream
        ((b"\x47" + bytes(191)) * 8, "video"),
    ],
)
def test_first_bytes(head: bytes, kind: str | None) -> None:
    assert kind_of_head(head) == kind


def test_a_broken_recording_is_a_row_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "b.mkv").write_text("an error page")
    (tmp_path / "c.ts").write_bytes(bytes(3000))
    assert [Path(file.path).name for file in find_media([tmp_path]).files] == ["a.mp4", "b.mkv", "c.ts"]


def test_each_ending_is_of_one_kind() -> None:
    assert not VIDEO_SUFFIXES & AUDIO_SUFFIXES
    assert all(ending == ending.lower() and ending.startswith(".") for ending in VIDEO_SUFFIXES | AUDIO_SUFFIXES)


# ---- sound


def test_sound_files_are_found_where_somebody_listens(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.wav", "c.m4a", "d.MP3", "e"):
        (tmp_path / name).write_bytes(riff(b"WAVEfmt "))
    seen = find_media([tmp_path])
    assert [Path(file.path).name for file in seen.files] == ["a.mp4"]
    assert str(seen.left_out) == "left out: 4 sound files, which nothing here listens to"
    heard = find_media([tmp_path], sound=True)
    assert [Path(file.path).name for file in heard.files] == ["a.mp4", "b.wav", "c.m4a", "d.MP3", "e"]
    assert str(heard.left_out) == ""


def test_ogg_may_be_either(tmp_path: Path) -> None:
    page = b"OggS\0\2" + bytes(20) + b"\x01\x2a"
    (tmp_path / "film.ogg").write_bytes(page + b"\x80theora" + bytes(100))
    (tmp_path / "song.ogg").write_bytes(page + b"\x01vorbis" + bytes(100))
    (tmp_path / "broken.ogg").write_bytes(bytes(100))
    assert [kind_of_file(tmp_path / name) for name in ("film.ogg", "song.ogg", "broken.ogg")] == [
        "video", "sound", "sound",
    ]  # fmt: skip


# ---- folders of the system, links, pipes


def test_system_and_hidden_folders_are_left_out(tmp_path: Path) -> None:
    inside = [
        "$RECYCLE.BIN", "System Volume Information", "@eaDir", ".Trash-1000", "__MACOSX", "lost+found", ".thumbnails",
        "#recycle", "LOST.DIR",
    ]  # fmt: skip
    for folder in [*inside, "films"]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").write_bytes(b"x")
    (tmp_path / "films" / "._a.mp4").write_bytes(b"\0\5\x16\7")
    found = find_media([tmp_path])
    assert [file.path for file in found.files] == [str(tmp_path / "films" / "a.mp4")]
    told = str(found.left_out)
    assert "3 hidden, 7 system folders (#recycle, $RECYCLE.BIN, @eaDir, LOST.DIR, System Volume Information," in told
    # ... but one that is named itself is searched
    named = find_media([tmp_path / "@eaDir", tmp_path / ".thumbnails"])
    assert len(named.files) == 2
    assert str(named.left_out) == ""


def test_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.mp4").write_bytes(b"x")
    (tmp_path / "inner" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "inner" / "a.mp4")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")  # opening it to look would wait for ever
    found = find_media([tmp_path, tmp_path / "link.mp4"])
    assert [Path(file.path).name for file in found.files] == ["link.mp4", "a.mp4"]
    told = str(found.left_out)
    assert (
        told == "left out: 1 file that is no media (1 without ending), 1 file that cannot be read, 1 link to a folder"
    )


# ---- who asks


def test_data_sets_find_the_same_files(film: Path, tmp_path: Path) -> None:
    for name in ("dance/a.insv", "dance/b", "dance/c.txt", "sing/d.wav", "sing/e.ts", "@eaDir/f.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(film, tmp_path / name)
    (tmp_path / "sing" / "e.ts").write_text("export {}")
    data = read_dataset(tmp_path)
    assert data.classes == ("dance", "sing")
    assert [Path(clip.path).name for clip in data.clips] == ["a.insv", "b", "d.wav"]
    assert data.left_out == "left out: 2 files that are no media (1 .txt, 1 .ts)"
    assert data.select(split="train").left_out == data.left_out
    shutil.rmtree(tmp_path / "dance")
    (tmp_path / "sing" / "d.wav").unlink()
    with pytest.raises(LexividError, match=r"no clips there .*; left out: 1 file that is no media \(1 \.ts\)"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("modalities", [("video",), ("video", "audio")])
def test_classify_says_in_one_line_what_it_left_out(
    modalities: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = colour_classifier()
    classifier.video_model.modalities = modalities
    monkeypatch.setattr("lexivid.inference.loading.load", lambda name, **_: classifier)
    colour_film(tmp_path / "a.mp4", [("red", 1)])
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.wav")
    (tmp_path / "c.txt").write_text("notes")
    status, out, err = call_cli(monkeypatch, capsys, "classify", tmp_path, "-l", "red, blue", "-f", "jsonl")
    assert status == 0
    hears = "audio" in modalities
    assert [Path(json.loads(line)["path"]).name for line in out.splitlines()] == ["a.mp4", "b.wav"][: 1 + hears]
    sound = "" if hears else ", 1 sound file, which nothing here listens to"
    assert err.count(f"left out: 1 file that is no media (1 .txt){sound}\n") == 1
    named = call_cli(monkeypatch, capsys, "classify", tmp_path / "a.mp4", "-l", "red, blue", "-f", "jsonl")
    assert "left out" not in named[2]
    narrowed = call_cli(
        monkeypatch, capsys, "classify", tmp_path, "-l", "red, blue", "-f", "jsonl", "--modalities", "video"
    )
    assert len(narrowed[1].splitlines()) == 1


def test_what_a_data_folder_leaves_out_is_said_by_training_and_evaluation(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "a/2.mp4", "a/notes.xyz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"plain words, no media")
    dataset = read_dataset(tmp_path)
    assert dataset.remarks == (dataset.left_out,)
    assert "1 file that is no media (1 .xyz)" in dataset.left_out
    clips = draw_clips(load_recipe("lite-mov", {"data.held_out": 0}), tmp_path)
    assert clips.warnings == dataset.remarks


@pytest.mark.parametrize(
    ("name", "is_list"),
    [("train.csv", True), ("brush_hair_test_split1.txt", True), ("validate.csv", True), ("testlist.txt", True),
     ("contest.txt", False), ("readme.txt", False), ("training notes.md", False)],
)  # fmt: skip
def test_a_list_of_parts_that_is_not_read_is_told_of(tmp_path: Path, name: str, is_list: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").write_bytes(b"a clip")
    (tmp_path / name).write_text("a/1.mp4 1\n")
    warnings = read_dataset(tmp_path, kind="folders").warnings
    assert [name in warning for warning in warnings] == [True] * is_list


@pytest.mark.parametrize("folder", ["testTrainMulti_7030_splits", "splits"])
def test_lists_of_parts_in_a_folder_of_their_own_are_told_of(tmp_path: Path, folder: str) -> None:
    """As HMDB51 is unpacked; a list beside the clips of a class is a class's own."""
    (tmp_path / "brush_hair").mkdir()
    (tmp_path / "brush_hair" / "1.mp4").write_bytes(b"a clip")
    (tmp_path / "brush_hair" / "test.txt").write_text("of the clip\n")
    assert read_dataset(tmp_path, kind="folders").warnings == ()
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "brush_hair_test_split1.txt").write_text("1.avi 1\n")
    (warning,) = read_dataset(tmp_path, kind="folders").warnings
    assert f"brush_hair_test_split1.txt in {tmp_path / folder} seems to list the parts" in warning
