"""Options that several verbs share, and the functions that read their texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lexivid.errors import LexividError

if TYPE_CHECKING:
    from lexivid.media.views import ViewsAsked

Paths = Annotated[list[str], typer.Argument(help="Video files, or folders to search for them.", show_default=False)]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        "-l",
        help='Your words, with commas between: "playing drums, dog barking". A label with a comma stands in double '
        "quotes of its own. Repeatable.",
    ),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        help='One label a line, or "label = phrase that the model reads"; or a table (CSV, TSV, JSON) with a column of '
        "labels."
    ),
]
Names = Annotated[
    Path | None,
    typer.Option(
        help="A table of two columns, name and phrase: the model reads the phrase, the name is shown.",
        show_default=False,
    ),
]
DEFAULT_MODEL = "lite"
_MODELS = '"lite" (works offline), "world" (for `lexivid world`), a CLIP or SigLIP model of the Hub, or a folder.'
Model = Annotated[str, typer.Option("--model", "-m", help=_MODELS)]
ModelOrDatabases = Annotated[
    str | None,
    typer.Option("--model", "-m", help=_MODELS, show_default=f"{DEFAULT_MODEL}, or what made the label database"),
]
LabelDatabase = Annotated[
    Path | None,
    typer.Option(
        help="A folder of `lexivid labels`: its vectors are used as they are. --labels are further labels.",
        show_default=False,
    ),
]
# Choices, as the library states them where it needs PyTorch: tests/cli/test_help.py compares the two.
FormatName = Literal["table", "json", "jsonl", "csv", "vtt", "srt"]
LabelSplitName = Literal["base", "novel", "mixed"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

LabelSplit = Annotated[
    LabelSplitName,
    typer.Option(
        "--label-split",
        "--vocabulary-is",
        help="For trained models: what the labels are. mixed: base and novel classes, each by its own head.",
    ),
]
Modalities = Annotated[str | None, typer.Option(help="Streams to use, with commas between: video, flow, audio.")]
Layout = Annotated[
    str | None,
    typer.Option(
        "--views",
        help='"spread": frames spread evenly over the file. "4x3": 4 clips in time x 3 crops. What a trained model was '
        "trained with stays as it was, unless named here.",
        show_default="spread; of a trained model as trained",
    ),
]
Frames = Annotated[int | None, typer.Option(min=1, max=1024, help="Frames per clip.", show_default="16, or as trained")]
Stride = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Frames from one to the next within a clip.",
        show_default="4 with clips in time, or as trained",
    ),
]
StrideRate = Annotated[
    str | None,
    typer.Option(
        help='What the stride counts: frames at this rate per second, or "native" ones of the file.',
        show_default="30, or as trained",
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(
        help='Sentences around a label: a set ("clip-video", "name", ...) or a file. Default: what suits the model.'
    ),
]
TopK = Annotated[int, typer.Option(min=0, help="The most labels shown per file (0: all).")]
MultiLabel = Annotated[
    bool,
    typer.Option("--multi-label", help="Judge every label by itself: several may hold, or none."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        show_default=False,
        help="Leave out labels that score less. Default: 0.5 with --multi-label, or 0.",
    ),
]
Timeline = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="Also say when each label fits: a window of this length slides over the file."
    ),
]
FORMAT_OF_ENDING = {
    ".txt": "table", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv",
    ".vtt": "vtt", ".srt": "srt",
}  # fmt: skip
Format = Annotated[
    FormatName | None,
    typer.Option(
        "--format",
        "-f",
        help="vtt and srt are subtitles and need --timeline.",
        show_default="by the ending of --output, or table",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write to this file instead of printing. Subtitles of several films: a folder, with a file each.",
    ),
]
Report = Annotated[Path | None, typer.Option(help="Also write a self-contained HTML page with frames and bars.")]
DATA_HELP = "Folder with CLASS/FILE, or train/CLASS/FILE and test/CLASS/FILE; or a manifest.csv (columns path, label)."
SPLIT_HELP = 'JSON: {"base": [...], "novel": [...]}, with classes as their folders are called. Default: the run\'s.'
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, mps, cuda, or one card by its number: cuda:1.")]
Dtype = Annotated[DtypeName, typer.Option(help="auto: half precision where it is faster.")]


def split_words(text: str) -> list[str]:
    """The labels in the text of one `--labels`."""
    from lexivid.labels import split_labels

    return split_labels(text)


def views_asked(layout: str | None, frames: int | None, stride: int | None, stride_rate: str | None) -> ViewsAsked:
    """The views that the options name.

    Raises:
        LexividError: a rate that is neither a number nor "native".
    """
    from lexivid.media.views import ViewsAsked

    rate: float | Literal["native"] | None = None
    if stride_rate == "native":
        rate = "native"
    elif stride_rate is not None:
        try:
            rate = float(stride_rate)
        except ValueError:
            message = f'--stride-rate {stride_rate!r}: give "native" or frames per second, such as 30'
            raise LexividError(message) from None
    return ViewsAsked(layout, frames, stride, rate)


def choose_format(format: str | None, output: Path | None) -> str:
    """`--format`, or else what the name of the output file says, or else a table.

    Raises:
        LexividError: an ending that no format has.
    """
    ending = output.suffix.lower() if output else ""
    if ending and ending not in FORMAT_OF_ENDING:
        raise LexividError(f"--output {str(output)!r}: rows are written as {', '.join(FORMAT_OF_ENDING)}")
    return format or FORMAT_OF_ENDING.get(ending, "table")


def check_paths(paths: list[str], *, sound: bool) -> int:
    """Count the files to classify, before any model is loaded.

    Raises:
        LexividError: none of the paths is there, or no folder has a file that could be used.
    """
    from lexivid.media.files import find_media

    files_below = find_media(paths, sound=sound).files
    reasons = [
        file.error or ("" if Path(file.path).exists() else f"{file.path!r} does not exist") for file in files_below
    ]
    if all(reasons):
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise LexividError(f"nothing to classify: {reasons[0]}{more}; check the path")
    return len(reasons)
