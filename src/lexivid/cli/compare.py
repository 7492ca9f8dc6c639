"""`lexivid compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lexivid.cli.console import emit, progress_bar, say
from lexivid.cli.options import DATA_HELP, SPLIT_HELP, Device, Frames, Layout, Names, Stride, StrideRate, views_asked
from lexivid.cli.root import TRAIN, app

# As `lexivid.evaluation.compare.COMPARISON_FORMATS`, which needs PyTorch; tests/cli/test_help.py compares the two.
TableFormat = Literal["table", "csv", "markdown", "latex", "json"]
_ENDINGS: dict[str, TableFormat] = {".csv": "csv", ".md": "markdown", ".tex": "latex", ".json": "json", ".txt": "table"}


@app.command(rich_help_panel=TRAIN)
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help='Runs of `lexivid train`, "lite", CLIP models; the first is compared with.', show_default=False
        ),
    ],
    data: Annotated[Path, typer.Option(help=DATA_HELP, show_default=False)],
    split: Annotated[Path | None, typer.Option(help=SPLIT_HELP)] = None,
    part: Annotated[str, typer.Option(help="Which clips of the data.")] = "test",
    kind: Annotated[
        str | None, typer.Option(help="Layout of the data, as of `evaluate`.", show_default="the run's recipe, or auto")
    ] = None,
    names: Names = None,
    views: Layout = None,
    frames: Frames = None,
    stride: Stride = None,
    stride_rate: StrideRate = None,
    format: Annotated[
        TableFormat | None, typer.Option("--format", "-f", show_default="by the ending of --output, or table")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the table here: .txt, .csv, .md, .tex or .json.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 2,
    device: Device = "auto",
) -> None:
    """Compare models on the same clips: one table, with paired intervals of the differences.

    lexivid compare run-a run-b lite --data clips --output table.md
    """
    from lexivid.errors import LexividError

    if output is not None and output.suffix.lower() not in _ENDINGS:
        raise LexividError(f"--output {str(output)!r}: a table ends in {', '.join(_ENDINGS)}")
    fmt = format or (_ENDINGS[output.suffix.lower()] if output else "table")
    from lexivid.base.storage import write_atomically
    from lexivid.evaluation.compare import compare as compare_models
    from lexivid.evaluation.compare import format_comparison

    asked: dict[str, Any] = {
        "views": views_asked(views, frames, stride, stride_rate), "split": split, "part": part, "kind": kind,
        "names": names, "num_workers": workers, "device": device,
    }  # fmt: skip
    with progress_bar("comparing") as bar:
        comparison = compare_models(
            models, data, on_progress=lambda name, done, total: bar.show(done, total, what=name), **asked
        )
    text = format_comparison(comparison, fmt)
    if output is None:
        emit(text)
    else:
        write_atomically(output, text)
        say(f"{len(models)} models, {comparison['clips']} clips: {output}")
    for name, result in comparison["results"].items():
        for warning in result["warnings"]:
            say(f"warning: {name}: {warning}", "yellow")
        if result["clips_trained_on"]:
            say(
                f"warning: {name} was trained on {result['clips_trained_on']} of these clips: its numbers flatter it",
                "yellow",
            )
        if result["failures"]:
            say(f"{name}: {len(result['failures'])} clips failed; the table has those that all models could use", "red")
