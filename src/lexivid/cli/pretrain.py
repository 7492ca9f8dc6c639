"""`lexivid pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lexivid.cli.console import emit, progress_bar
from lexivid.cli.root import app


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe by name (world-clip) or a YAML file.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the checkpoint, new or empty.", show_default=False)
    ],
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the recipe's.")] = None,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE on top of the recipe. Repeatable.")] = None,
) -> None:
    """Make a CLIP of the synthetic world from nothing, as the model "world" was made.

    OMP_NUM_THREADS=1 lexivid pretrain world-clip --out world-clip/ --seed 3
    """
    from lexivid.training.log import Progress
    from lexivid.training.pretrain import pretrain as run

    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)

        def show(now: Progress) -> None:
            bar.update(task, completed=now.step, total=now.total, description=now.describe())

        result = run(recipe, out, seed=seed, set=set or (), on_progress=show)
    emit(result.describe() + "\n")
