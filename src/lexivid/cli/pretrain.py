"""`lexivid pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lexivid.cli.console import emit, progress_bar
from lexivid.cli.root import SYNTHETIC, app


@app.command(rich_help_panel=SYNTHETIC)
def pretrain(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe by name (world-clip, world-language-model) or a YAML file.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the checkpoint, new or empty.", show_default=False)
    ],
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the recipe's.")] = None,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE on top of the recipe. Repeatable.")] = None,
) -> None:
    """Make a model of the synthetic world from nothing: a CLIP, as "world" was made, or a small language model.

    OMP_NUM_THREADS=1 lexivid pretrain world-clip --out world-clip/ --seed 3

    OMP_NUM_THREADS=1 lexivid pretrain world-language-model --out world-language-model/
    """
    from lexivid.synthetic.pretraining.language_model import LanguageModelRecipe
    from lexivid.synthetic.pretraining.train_clip import PretrainRecipe, pretrain_clip
    from lexivid.synthetic.pretraining.train_language_model import pretrain_language_model
    from lexivid.training.log import Progress
    from lexivid.training.settings import load_one_of

    chosen = load_one_of((PretrainRecipe, LanguageModelRecipe), recipe, set or ())
    with progress_bar("starting") as bar:

        def show(now: Progress) -> None:
            bar.show(now.step, now.total, now.describe())

        if isinstance(chosen, LanguageModelRecipe):
            text = pretrain_language_model(chosen, out, seed=seed, on_progress=show).describe()
        elif isinstance(chosen, PretrainRecipe):
            text = pretrain_clip(chosen, out, seed=seed, on_progress=show).describe()
    emit(text + "\n")
