"""`lexivid train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lexivid.base.interrupts import Interrupted, status_of
from lexivid.cli.console import emit, progress_bar, say
from lexivid.cli.options import DATA_HELP, Device
from lexivid.cli.root import TRAIN, app
from lexivid.errors import LexividError


@app.command(rich_help_panel=TRAIN)
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe by name (lite-mov, ...) or a YAML file. With --resume: RUN.", show_default=False),
    ] = None,
    data: Annotated[Path | None, typer.Option(help=DATA_HELP, show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run.", show_default=False)] = None,
    set: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE on top of the recipe (keys: --show). Repeatable.")
    ] = None,
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
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Also write every step as CSV: loss, learning rate, held-out clips. (RUN/log.jsonl and "
            "RUN/tensorboard have them in any case.)",
            show_default=False,
        ),
    ] = None,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="Print the recipes: what each is, needs and costs.")
    ] = False,
    show_recipe: Annotated[
        bool, typer.Option("--show", help="Print the recipe with every key for --set, its value and what it means.")
    ] = False,
) -> None:
    """Train a model on your own labelled clips: one folder per class, or a manifest.csv.

    lexivid train lite-mov --data clips --out run

    lexivid train --resume run

    docs/train.md is the page "Train on your own videos".
    """
    if list_recipes:
        _print_recipes()
        return
    if show_recipe:
        from lexivid.training.catalogue import show as show_settings
        from lexivid.training.recipe import load_recipe

        if recipe is None:
            raise LexividError("--show prints a recipe: name one (lexivid train lite-mov --show)")
        emit(show_settings(load_recipe(recipe, set or ())))
        return
    if resume and recipe is not None and data is None and out is None:
        out, recipe = Path(recipe), None
    if out is None or (not resume and (recipe is None or data is None)) or (recipe is not None and data is None):
        raise LexividError(
            "train takes a recipe and the folders --data and --out (lexivid train lite-mov --data clips --out run), or "
            "a run that was stopped (lexivid train --resume run)"
        )
    if log is not None and (log.suffix.lower() != ".csv" or log.is_dir()):
        raise LexividError(f"--log {str(log)!r}: the log is written as CSV: name a file that ends in .csv")
    if data is not None and not resume and not data.exists():  # at once: PyTorch takes seconds to import
        raise LexividError(f"data {str(data)!r} does not exist; check the path")
    from lexivid import training
    from lexivid.training.report import REPORT_FILE, size_text
    from lexivid.training.run_folder import where_it_stands

    settings = [*(set or [])]
    if cache_video_features is not None:
        settings.append(f"data.cache_video_features={cache_video_features}")
    options = "" if device == "auto" else f" --device {device}"
    try:
        with progress_bar("starting") as bar:
            is_announced = False

            def show(now: training.Progress) -> None:
                nonlocal is_announced
                if now.phase == "training" and not is_announced:
                    is_announced = True
                    _say_where_the_log_is(out)
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
        _write_log(log, out)
        raise Interrupted(f"interrupted: {where_it_stands(out, options=options)}", status=status_of(error)) from None
    if not result.is_main_process:
        return
    _write_log(log, out)
    for path, reason in result.failures.items():
        say(f"failed: {path}: {reason}", "red")
    for warning in result.warnings():
        say(f"warning: {warning}", "yellow")
    if result.num_bytes_freed:
        say(
            f"deleted: {size_text(result.num_bytes_freed)} of checkpoints, which only an unfinished run needs "
            "(training.delete_checkpoints=false keeps them)"
        )
    say(f"report: {out / REPORT_FILE}")
    if not result.had_ended:
        run = shlex.quote(str(out))
        say(f"measure it on test clips (held-out clips choose and calibrate): lexivid evaluate {run} --data DIR")
    emit(result.describe() + "\n")
    if result.failures:
        raise typer.Exit(1)


def _say_where_the_log_is(out: Path) -> None:
    from lexivid.training.log import has_tensorboard

    board = f"; curves while it trains: tensorboard --logdir {shlex.quote(str(out / 'tensorboard'))}"
    say(f"every step is logged in {out / 'log.jsonl'}{board if has_tensorboard() else ''}")


def _write_log(path: Path | None, out: Path) -> None:
    """The log of a run as CSV; of one that did no step, nothing."""
    from lexivid.base.storage import write_atomically
    from lexivid.training.log import log_table, read_log

    if path is not None and (rows := read_log(out)):
        write_atomically(path, log_table(rows))
        say(f"log: {path} ({len(rows)} steps)")


def _print_recipes() -> None:
    """A table as wide as the terminal, or of 120 columns."""
    from lexivid.training import catalogue

    table = Table("recipe", "what it is", "needs", "cost on two cores", box=SIMPLE_HEAD, pad_edge=False, expand=True)
    table.columns[0].no_wrap = True
    for column, share in zip(table.columns[1:], (5, 3, 4), strict=True):
        column.ratio, column.overflow = share, "fold"
    group = None
    for row in catalogue.rows():
        if row.group != group:
            table.add_section()
            table.add_row(f"for {row.group}" if row.group.startswith("your") else row.group, style="bold")
            group = row.group
        table.add_row(*map(Text, row[1:]))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with console.capture() as captured:
        console.print(table)
        console.print(Text(f"{catalogue.cost_note()}\nThe keys of a recipe: lexivid train RECIPE --show"))
    emit("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
