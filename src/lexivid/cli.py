"""The command line: reads options, calls the library, prints. No logic that the library lacks.

Data goes to standard output, progress and messages to standard error. Exit status: 0 all done; 1 some files failed
(each is a row that says why); 2 the call itself is wrong; 130 interrupted (what was finished is written).
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from lexivid import __version__
from lexivid.errors import LexividError, MediaError

if TYPE_CHECKING:
    from lexivid.inference import Classifier
    from lexivid.prediction import Prediction, Vocabulary

app = typer.Typer(
    name="lexivid",
    help="Classify any video in your own words, from pictures, motion and sound.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_messages = Console(stderr=True, highlight=False)
_THUMBNAILS_PER_FILE = 6
# A report of a whole library stays a page that a browser can open.
_FILES_WITH_THUMBNAILS = 200

Paths = Annotated[list[str], typer.Argument(help="Video files, or folders to search for them.", show_default=False)]
Labels = Annotated[
    list[str] | None,
    typer.Option("--labels", "-l", help='Your words, with commas between: "playing drums, dog barking". Repeatable.'),
]
LabelsFile = Annotated[Path | None, typer.Option(help="A text file with one label a line (UTF-8).")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help='"lite" (works offline), a CLIP or SigLIP model of the Hugging Face Hub, or a folder with one.',
    ),
]
VocabularyIs = Annotated[
    str,
    typer.Option(
        help='For trained models: labels are "base" classes, "novel" ones, or "mixed" (each by its own path).'
    ),
]
Modalities = Annotated[str | None, typer.Option(help="Streams to use, with commas between: video, flow, audio.")]
ViewsOption = Annotated[
    str, typer.Option("--views", help='"spread": frames spread evenly over the file. "4x3": 4 clips in time x 3 crops.')
]
Frames = Annotated[int, typer.Option(min=1, max=4096, help="Frames per clip.")]
Stride = Annotated[
    int | None,
    typer.Option(help="Frames from one to the next within a clip. Default: 4 with TxC views.", show_default=False),
]
StrideRate = Annotated[
    str, typer.Option(help='What the stride counts: frames at this rate per second, or "native" ones of the file.')
]
Templates = Annotated[
    str | None,
    typer.Option(help='Sentences around a label: a set ("clip-video", "name", ...) or a file. Default: what suits.'),
]
TopK = Annotated[int, typer.Option(min=0, help="The most labels shown per file (0: all).")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="Leave out labels that score less.")]
Timeline = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Also say which label when: a window of this length slides.")
]
Format = Annotated[str | None, typer.Option("--format", "-f", help="table, json, jsonl or csv. Default: by --output.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of printing.")]
Report = Annotated[Path | None, typer.Option(help="Also write a self-contained HTML page with frames and bars.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto (half precision where it is faster), float32, bfloat16, float16.")]


@app.command()
def classify(
    paths: Paths,
    labels: Labels = None,
    labels_file: LabelsFile = None,
    model: Model = "lite",
    modalities: Modalities = None,
    vocabulary_is: VocabularyIs = "mixed",
    views: ViewsOption = "spread",
    frames: Frames = 16,
    stride: Stride = None,
    stride_rate: StrideRate = "30",
    templates: Templates = None,
    top_k: TopK = 5,
    threshold: Threshold = 0.0,
    timeline: Timeline = None,
    format: Format = None,
    output: Output = None,
    report: Report = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Say which of your labels fit each video.

    lexivid classify holiday.mp4 --labels "surfing, playing the piano, a dog on a beach"
    """
    from lexivid.inference import load
    from lexivid.labels import read_labels_file
    from lexivid.media.views import Views

    names = [*(labels or [])]
    words = [word for text in names for word in _split(text)]
    if labels_file:
        words += read_labels_file(labels_file)
    chosen_views = Views.parse(views, num_frames=frames, stride=stride, stride_rate=_rate(stride_rate))
    fmt = _choose_format(format, output)
    with _status(f"loading {model}"):
        classifier = load(model, device=device, dtype=dtype, vocabulary_is=vocabulary_is)
    vocabulary = _prepare(classifier, words, templates)
    asked = [part.strip() for part in modalities.split(",")] if modalities else None
    options: dict[str, Any] = {"views": chosen_views, "modalities": asked, "timeline_s": timeline}
    call = {
        "lexivid": __version__, "model": classifier.fingerprint, "labels": list(vocabulary.labels),
        "templates": vocabulary.templates, "views": str(chosen_views), "timeline_s": timeline, "modalities": asked,
        "vocabulary_is": vocabulary_is, "top_k": top_k, "threshold": threshold,
    }  # fmt: skip
    _run(classifier, paths, vocabulary, options, call, fmt=fmt, output=output, report=report)


@app.command()
def demo(
    video: Annotated[str | None, typer.Argument(help="A video of yours. Default: two films that come along.")] = None,
    labels: Labels = None,
    model: Model = "lite",
    report: Report = Path("demo-report/index.html"),
) -> None:
    """See it work: classify real clips, print the table, write a page with pictures."""
    from lexivid import demo as content
    from lexivid.inference import load
    from lexivid.media.views import Views

    paths = [video] if video else content.find_clips()
    with _status(f"loading {model}"):
        classifier = load(model)
    words = [word for text in labels for word in _split(text)] if labels else list(content.LABELS)
    vocabulary = _prepare(classifier, words, None)
    call = {"views": str(Views()), "top_k": 5, "threshold": 0.0}
    _run(classifier, paths, vocabulary, {}, call, fmt="table", output=None, report=report)


@app.command()
def flow(
    video: Annotated[str, typer.Argument(help="A video file.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="FILE.mp4 to look at, FILE.npz as data, or a folder for PNG pictures."),
    ],
    algorithm: Annotated[
        str, typer.Option(help="tvl1 (as OpenCV's), tvl1-fast (3 warps, less faithful), dis (needs lexivid[dis]).")
    ] = "tvl1",
    size: Annotated[
        int, typer.Option(min=0, help="Short side in pixels that frames are scaled to (0: as they are).")
    ] = 256,
    start: Annotated[float, typer.Option(metavar="SECONDS", help="Where to begin.")] = 0.0,
    end: Annotated[float | None, typer.Option(metavar="SECONDS", help="Where to end. Default: the end.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Only every n-th pair of frames.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")] = None,
) -> None:
    """Compute the optical flow of a video: what moves where, from each frame to the next.

    lexivid flow holiday.mp4 --out flow.mp4
    """
    from lexivid.media.flow import flow_file

    with _progress("flow") as progress:
        task = progress.add_task("flow", total=None)
        written = flow_file(
            video,
            out,
            algorithm=algorithm,  # type: ignore[arg-type]
            short_side=size or None,
            start_s=start,
            end_s=end,
            every=every,
            device=device,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for warning in written.warnings:
        _say(f"warning: {video}: {warning}", "yellow")
    _say(f"{written.num_pairs} pairs of frames at {written.width} x {written.height}: {out}")


def _split(text: str) -> list[str]:
    from lexivid.labels import split_labels

    return split_labels(text)


def _rate(text: str) -> float | Literal["native"]:
    if text == "native":
        return "native"
    try:
        return float(text)
    except ValueError:
        raise LexividError(f'--stride-rate {text!r}: give "native" or frames per second, such as 30') from None


def _choose_format(format: str | None, output: Path | None) -> str:
    from lexivid.output import FORMATS

    by_name = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
    chosen = format or (by_name.get(output.suffix.lower(), "table") if output else "table")
    if chosen not in FORMATS:
        raise LexividError(f"unknown format {chosen!r}: choose {', '.join(FORMATS)}")
    return chosen


def _prepare(classifier: Classifier, words: list[str], templates: str | None) -> Vocabulary:
    with _progress("reading labels") as progress:
        task = progress.add_task("reading labels", total=None, visible=False)
        vocabulary = classifier.prepare(
            words,
            templates=templates,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total, visible=True),
        )
    for warning in vocabulary.warnings:
        _say(f"warning: {warning}", "yellow")
    return vocabulary


def _run(
    classifier: Classifier,
    paths: list[str],
    vocabulary: Vocabulary,
    options: dict[str, Any],
    call: dict[str, Any],
    *,
    fmt: str,
    output: Path | None,
    report: Path | None,
) -> None:
    """Classify, print or write, and leave with the right status; Ctrl-C leaves what is finished written."""
    from lexivid.library import classify_library
    from lexivid.output import Journal, csv_header, format_rows, write_row
    from lexivid.prediction import Prediction
    from lexivid.storage import write_atomically

    journal = Journal(output, call).open() if output else None
    known = {path: Prediction.from_dict(row) for path, row in journal.rows.items()} if journal else {}
    if known:
        _say(f"going on with an interrupted run: {len(known)} files are done already")
    done: list[Prediction] = []
    rows: list[dict[str, Any]] = []
    interrupted, started = False, time.monotonic()
    streams = output is None and fmt in ("jsonl", "csv")
    if streams and fmt == "csv":
        _print(csv_header())
    with _progress("classifying") as progress:
        task = progress.add_task("classifying", total=None)
        predictions = classify_library(
            classifier,
            paths,
            vocabulary,
            known=known,
            on_total=lambda total: progress.update(task, total=total),
            num_thumbnails=_THUMBNAILS_PER_FILE if report else 0,
            **options,
        )
        try:
            for prediction in predictions:
                row = prediction.to_dict(top_k=call["top_k"], threshold=call["threshold"])
                rows.append(row)
                done.append(prediction)
                if journal:
                    journal.add(row)
                elif streams:
                    _print(write_row(row, fmt))
                progress.update(task, advance=1, description=Path(prediction.path).name[:40])
        except KeyboardInterrupt:
            interrupted = True
    for prediction in done:
        for warning in prediction.warnings:
            _say(f"warning: {prediction.path}: {warning}", "yellow")
    if output and journal:
        write_atomically(output, format_rows(rows, fmt, width=160))
        if not interrupted:
            journal.discard()
    elif not streams:
        terminal = sys.stdout.isatty()
        _print(format_rows(rows, fmt, width=None if terminal else 120, colour=terminal))
    if report:
        from lexivid.report import render_report

        pictures = [p if i < _FILES_WITH_THUMBNAILS else p.without_thumbnails() for i, p in enumerate(done)]
        settings = {
            "Views": call["views"],
            "Backbone": f"{classifier.backbone.name} on {classifier.backbone.device}",
            "Time": f"{time.monotonic() - started:.1f} s",
        }
        command = shlex.join(["lexivid", *sys.argv[1:]])
        page = render_report(pictures, vocabulary, top_k=call["top_k"], command=command, settings=settings)
        write_atomically(report, page)
        _say(f"report: {report}")
    if interrupted:
        again = "; the same command goes on from there" if output else ""
        _say(f"interrupted: {len(done)} files are done and written{again}", "yellow")
        raise typer.Exit(130)
    failed = sum(prediction.error is not None for prediction in done)
    if failed:
        if output or fmt != "table":
            for prediction in done:
                if prediction.error:
                    _say(f"failed: {prediction.error}", "red")
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe by name (lite-mov, ...) or a YAML file.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder or manifest of labelled clips.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the run.", show_default=False)],
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE on top of the recipe. Repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in this folder stopped.")] = False,
    cache_video_features: Annotated[
        int | None, typer.Option(min=0, help="Keep the frozen tower's features of so many looks at each clip.")
    ] = None,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Hold the backbone in the folder too.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a model on your own labelled clips.

    lexivid train lite-mov --data clips/ --out run/
    """
    from lexivid import training

    settings = [*(set or [])]
    if cache_video_features is not None:
        settings.append(f"data.cache_video_features={cache_video_features}")
    with _progress("training") as bar:
        task = bar.add_task("starting", total=None)

        def show(now: training.Progress) -> None:
            bar.update(task, completed=now.step, total=now.total, description=now.describe())

        result = training.train(
            recipe, data, out, set=settings, resume=resume, self_contained=self_contained, device=device,
            on_progress=show,
        )  # fmt: skip
    if not result.is_main_process:
        return
    for path, reason in result.failures.items():
        _say(f"failed: {path}: {reason}", "red")
    _print(result.describe() + "\n")
    if result.failures:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help='A run of `lexivid train`, "lite", or a CLIP model.', show_default=False)
    ],
    data: Annotated[Path, typer.Option(help="Folder or manifest of labelled clips.", show_default=False)],
    protocol: Annotated[str, typer.Option(help="base-novel, generalized or calibrate.")] = "base-novel",
    out: Annotated[Path | None, typer.Option(help="Folder for the result (JSON) and the features.")] = None,
    views: ViewsOption = "spread",
    frames: Annotated[int | None, typer.Option(min=1, max=4096, help="Frames per clip. Default: as trained.")] = None,
    stride: Stride = None,
    stride_rate: StrideRate = "30",
    split: Annotated[Path | None, typer.Option(help="JSON with base and novel classes. Default: the run's.")] = None,
    part: Annotated[str, typer.Option(help="Which clips of the data.")] = "test",
    list_number: Annotated[int | None, typer.Option(help="Which of UCF101's lists, 1 to 3.")] = None,
    lists: Annotated[Path | None, typer.Option(help="Folder of UCF101's lists.")] = None,
    distractors: Annotated[Path | None, typer.Option(help="A text file with more names for every vocabulary.")] = None,
    templates: Templates = None,
    twins: Annotated[int, typer.Option(min=0, help="calibrate: train so many twins of the run for it.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 2,
    device: Device = "auto",
) -> None:
    """Measure a model on labelled clips, by a protocol that the result file names."""
    from lexivid.evaluation import runs
    from lexivid.labels import read_labels_file
    from lexivid.media.views import Views

    chosen = None
    if frames is not None or stride is not None or views != "spread":
        chosen = Views.parse(views, num_frames=frames or 16, stride=stride, stride_rate=_rate(stride_rate))
    with _progress("evaluating") as progress:
        task = progress.add_task("evaluating", total=None)
        result = runs.evaluate(
            model, data, protocol=protocol, out=out, views=chosen, split=split, part=part, list_number=list_number,
            lists=lists, distractors=read_labels_file(distractors) if distractors else (), templates=templates,
            num_workers=workers, device=device, twins=twins,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    for line in runs.summary(result):
        _print("  ".join(cell.ljust(20) for cell in line).rstrip() + "\n")
    for path, reason in result["failures"]:
        _say(f"failed: {reason or path}", "red")
    if out:
        _say(f"written: {out / (protocol + '.json')}")
    if result["failures"]:
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"lexivid {__version__}")
        raise typer.Exit


def _say(message: str, style: str = "") -> None:
    """A message on standard error. (As Text: brackets in file names are no markup.)"""
    from lexivid.output import printable

    _messages.print(Text(printable(message), style=style), soft_wrap=True)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """A bar on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_messages, transient=True, disable=not _messages.is_terminal) as progress:
        yield progress


@contextmanager
def _status(message: str) -> Iterator[None]:
    if not _messages.is_terminal:
        yield
        return
    with _messages.status(message):
        yield


def main() -> None:
    """Entry point: user errors become one sentence and status 2 (1: a file is at fault); Ctrl-C status 130."""
    try:
        app()
    except LexividError as error:
        _say(f"error: {error}", "red")
        sys.exit(1 if isinstance(error, MediaError) else 2)
    except KeyboardInterrupt:
        _say("interrupted", "yellow")
        sys.exit(130)
    except BrokenPipeError:  # `lexivid ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    main()
