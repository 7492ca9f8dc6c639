"""`lexivid train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lexivid.base.interrupts import Interrupted, status_of
from lexivid.cli.console import emit, progress_bar, say
from lexivid.cli.options import Device
from lexivid.cli.root import TRAIN, app
from lexivid.errors import LexividError


@app.command(rich_help_panel=TRAIN)
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe by name (lite-mov, ...) or a YAML file. With --resume: RUN.", show_default=False),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder or manifest of labelled clips.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run.", show_default=False)] = None,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE on top of the recipe. Repeatable.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped, with its recipe, clips and split.")
    ] = False,
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

    lexivid train --resume run/
    """
    from lexivid import training
    from lexivid.training.run_folder import where_it_stands

    if resume and recipe is not None and data is None and out is None:
        out, recipe = Path(recipe), None
    if out is None or (not resume and (recipe is None or data is None)) or (recipe is not None and data is None):
        raise LexividError(
            "train takes a recipe and the folders --data and --out (lexivid train lite-mov --data clips --out run), or "
            "a run that was stopped (lexivid train --resume run)"
        )
    settings = [*(set or [])]
    if cache_video_features is not None:
        settings.append(f"data.cache_video_features={cache_video_features}")
    options = "" if device == "auto" else f" --device {device}"
    try:
        with progress_bar("starting") as bar:

            def show(now: training.Progress) -> None:
                bar.show(now.step, now.total, now.describe())

            if recipe is None:
                result = training.resume(
                    out, data=data, set=settings, self_contained=self_contained, device=device, on_progress=show
                )
            else:
                assert data is not None
                result = training.train(
                    recipe, data, out, set=settings, resume=resume, self_contained=self_contained, device=device,
                    on_progress=show,
                )  # fmt: skip
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted: {where_it_stands(out, options=options)}", status=status_of(error)) from None
    if not result.is_main_process:
        return
    for path, reason in result.failures.items():
        say(f"failed: {path}: {reason}", "red")
    for warning in result.warnings():
        say(f"warning: {warning}", "yellow")
    if result.num_bytes_freed:
        say(
            f"deleted: {result.num_bytes_freed / 1e6:.0f} MB of checkpoints, which only an unfinished run needs "
            "(training.delete_checkpoints=false keeps them)"
        )
    emit(result.describe() + "\n")
    if result.failures:
        raise typer.Exit(1)
