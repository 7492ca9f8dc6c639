"""`lexivid evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lexivid.cli.console import emit, progress_bar, say
from lexivid.cli.options import (
    DATA_HELP,
    SPLIT_HELP,
    Device,
    Frames,
    Layout,
    Names,
    Stride,
    StrideRate,
    Templates,
    views_asked,
)
from lexivid.cli.root import TRAIN, app

# As the library states them where it needs PyTorch; tests/cli/test_help.py compares the two.
ProtocolName = Literal["base-novel", "generalized", "calibrate", "multi-label"]
KindName = Literal["auto", "csv", "folders", "ucf101", "activitynet", "charades", "youtube8m", "vggsounder"]


@app.command(rich_help_panel=TRAIN)
def evaluate(
    model: Annotated[
        str, typer.Argument(help='A run of `lexivid train`, "lite", or a CLIP model.', show_default=False)
    ],
    data: Annotated[Path, typer.Option(help=DATA_HELP, show_default=False)],
    protocol: Annotated[
        ProtocolName, typer.Option(help="What is measured. docs/terms.md explains each.")
    ] = "base-novel",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the result (JSON), a report (HTML), a row for each clip (CSV), and the features."
        ),
    ] = None,
    views: Layout = None,
    frames: Frames = None,
    stride: Stride = None,
    stride_rate: StrideRate = None,
    split: Annotated[Path | None, typer.Option(help=SPLIT_HELP)] = None,
    part: Annotated[str, typer.Option(help="Which clips of the data.")] = "test",
    list_number: Annotated[
        int | None, typer.Option(min=1, max=3, help="Which of UCF101's lists. Default: the recipe's.")
    ] = None,
    lists: Annotated[Path | None, typer.Option(help="Folder of UCF101's lists. Default: the recipe's.")] = None,
    distractors: Annotated[
        Path | None,
        typer.Option(help="Distractor labels for every list of labels: a file as --labels-file of `classify`."),
    ] = None,
    templates: Templates = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="multi-label: the least probability of a label that holds.")
    ] = 0.5,
    kind: Annotated[
        KindName | None,
        typer.Option(
            metavar="KIND",
            help="Layout of the data: auto, csv, folders, ucf101, activitynet, charades, youtube8m or vggsounder.",
            show_default="that of the run's recipe, or auto",
        ),
    ] = None,
    names: Names = None,
    leave_classes_out: Annotated[
        int,
        typer.Option(
            "--leave-classes-out", "--twins", min=0, help="calibrate: train so many models that leave classes out."
        ),
    ] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 2,
    device: Device = "auto",
) -> None:
    """Measure a model on labelled clips, by a protocol that the result file names.

    lexivid evaluate run --data clips --out result

    docs/train.md says how clips are laid out and which number to report.
    """
    from lexivid.evaluation import evaluate as runs
    from lexivid.evaluation.summary import legend, report_this, summary
    from lexivid.labels import read_labels_file

    chosen = views_asked(views, frames, stride, stride_rate)
    with progress_bar("evaluating") as bar:
        result = runs.evaluate(
            model, data, protocol=protocol, out=out, views=chosen, split=split, part=part, list_number=list_number,
            lists=lists, distractors=read_labels_file(distractors) if distractors else (), templates=templates,
            threshold=threshold, kind=kind, names=names, num_workers=workers, device=device,
            leave_classes_out=leave_classes_out, on_progress=bar.show,
        )  # fmt: skip
    emit(format_lines(summary(result)))
    for name, text in legend(result):
        say(f"{name}: {text}", "dim")
    if sentence := report_this(result):
        say(f"report this number: {sentence}")
    for warning in result["warnings"]:
        say(f"warning: {warning}", "yellow")
    if trained_on := result["clips_trained_on"]:
        say(
            f"warning: {trained_on} of the {result['clips_asked']} clips were trained on, so these numbers flatter the "
            "model: keep clips apart in a folder test beside train, or by a manifest's split",
            "yellow",
        )
    elif trained_on is None:
        say(
            "warning: nothing says which clips this model was trained on (an earlier Lexivid trained it, or its clips "
            "were no files): these clips may be among them",
            "yellow",
        )
    for what, why in result.get("not_fitted", {}).items():
        say(f"warning: {what} could not be fitted: {why}", "yellow")
    for path, reason in result["failures"]:
        say(f"failed: {reason or path}", "red")
    if out:
        say(f"written: {out / (protocol + '.json')}, and {protocol}.html to read")
    if result["failures"]:
        raise typer.Exit(1)


def format_lines(lines: list[tuple[str, ...]]) -> str:
    """Lines of cells in columns."""
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(max(map(len, lines)))]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths, strict=False)] for line in lines]
    return "".join("  ".join(line).rstrip() + "\n" for line in cells)
