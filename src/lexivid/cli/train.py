"""`lexivid train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lexivid.cli.console import emit, progress_bar, say
from lexivid.cli.options import Device
from lexivid.cli.root import TRAIN, app


@app.command(rich_help_panel=TRAIN)
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe by name (lite-mov, ...) or a YAML file.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder or manifest of labelled clips.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the run.", show_default=False)],
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE on top of the recipe. Repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in this folder where it stopped.")] = False,
    cache_video_features: Annotated[
        int | None,
        typer.Option(min=0, help="Store the frozen tower's features of so many augmented views of each clip."),
    ] = None,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Store the backbone in the folder too.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a model on your own labelled clips.

    lexivid train lite-mov --data clips/ --out run/
    """
    from lexivid import training
    from lexivid.base.interrupts import Interrupted, status_of
    from lexivid.training.checkpoint import where_it_stands

    settings = [*(set or [])]
    if cache_video_features is not None:
        settings.append(f"data.cache_video_features={cache_video_features}")
    try:
        with progress_bar("starting") as bar:
            result = training.train(
                recipe, data, out, set=settings, resume=resume, self_contained=self_contained, device=device,
                on_progress=lambda now: bar.show(now.step, now.total, now.describe()),
            )  # fmt: skip
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted: {where_it_stands(out)}", status=status_of(error)) from None
    if not result.is_main_process:
        return
    for path, reason in result.failures.items():
        say(f"failed: {path}: {reason}", "red")
    for warning in result.warnings():
        say(f"warning: {warning}", "yellow")
    emit(result.describe() + "\n")
    if result.failures:
        raise typer.Exit(1)
