"""`lexivid reproduce`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lexivid.cli.console import emit, progress_bar, say
from lexivid.cli.root import SYNTHETIC, app
from lexivid.errors import LexividError

if TYPE_CHECKING:
    from lexivid.synthetic.reproduce import RunProgress


@app.command(rich_help_panel=SYNTHETIC)
def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="table1, table2, table5, table6, table8, table9, figure1, figure3, vfa (three modalities), or all.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything; a second call goes on there.")],
    world: Annotated[bool, typer.Option("--world", help="In the synthetic world, whose clips are made first.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds; each has its own split, clips and training.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="A small world and few epochs: about two minutes.")] = False,
    clip: Annotated[
        list[str] | None, typer.Option(help="Another backbone than the package's, by name or folder. Repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: all cores.")] = None,
) -> None:
    """Make the MOV paper's tables and figures from nothing, with a report to read.

    lexivid reproduce table1 --world --out world-run/
    """
    from lexivid.synthetic.reproduce import reproduce as make
    from lexivid.synthetic.reproduce.plan import CLIPS

    if not world:
        raise LexividError(
            "--world is missing: the tables are made in the synthetic world; for your own data use `lexivid train`"
        )
    command = shlex.join(["lexivid", *sys.argv[1:]])
    with progress_bar("starting") as bar:

        def show(now: RunProgress) -> None:
            left = "" if now.left_s is None else f", about {now.left_s / 60:.0f} min left"
            bar.show(round(100 * now.share), 100, f"{now.what}{left}")

        results = make(
            names, out, seeds=seeds, quick=quick, clips=clip or CLIPS, num_workers=workers, command=command,
            on_progress=show,
        )  # fmt: skip
    for part in (*results["tables"], *results["figures"]):
        for one in part["expectations"]:
            mark = "holds" if one["holds"] else "does not hold"
            emit(f"{part['id']}  {mark:13s}  {one['text']}  {one['measured']}\n")
    for failure in results["failures"]:
        say(f"failed: {failure['what']}: {failure['why']}", "red")
    say(f"report: {out / 'report.html'}")
    if results["failures"]:
        raise typer.Exit(1)
