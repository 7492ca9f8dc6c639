"""`lexivid push`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lexivid.cli.console import emit, say, status
from lexivid.cli.root import TRAIN, app


@app.command(rich_help_panel=TRAIN)
def push(
    run: Annotated[Path, typer.Argument(help="A finished run of `lexivid train`.", show_default=False)],
    name: Annotated[str, typer.Argument(help='Where to: "owner/name" on the Hugging Face Hub.', show_default=False)],
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="Results of `evaluate --out` (JSON) for the model card; repeat for several.", show_default=False
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help='Licence of the model for the card, such as "cc-by-4.0".', show_default=False)
    ] = None,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Publish the backbone's weights too, if its licence allows.")
    ] = False,
    backbone_licence: Annotated[
        str | None,
        typer.Option(
            help="Licence of a backbone that Lexivid does not know: your word that it allows copies.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only you can see it.")] = False,
) -> None:
    """Publish a run on the Hugging Face Hub, with a model card. Log in first: `hf auth login`.

    lexivid push my-run owner/name --results measured/base-novel.json
    """
    from lexivid.backbones.hub import is_hub_name
    from lexivid.errors import LexividError, ModelError
    from lexivid.evaluation.summary import results_in_markdown
    from lexivid.models.hub import licence_to_copy
    from lexivid.models.serialization import is_trained_model
    from lexivid.models.trained import TrainedModel

    if not is_hub_name(name):
        raise LexividError(f'{name!r} is no name of the Hub: give "owner/name"')
    if not run.is_dir() or not is_trained_model(run):
        raise ModelError(f"{str(run)!r} is no finished run of `lexivid train`: there is no model in it")
    notes = []
    for path in results or []:
        try:
            notes.append(results_in_markdown(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError) as error:
            raise LexividError(f"--results {str(path)!r} is no result of `lexivid evaluate --out`: {error}") from None
    with status(f"publishing {name}"):
        model = TrainedModel.from_pretrained(run, device="cpu")
        if self_contained:
            notes.append(
                f"The backbone's weights are part of this model; licence: {licence_to_copy(model, backbone_licence)}."
            )
        address = model.push_to_hub(
            name,
            private=private or None,
            self_contained=self_contained or None,
            notes="\n\n".join(notes),
            licence=licence,
        )
    emit(f"{address}\n")
    say(f'use it by lexivid.load("{name}"), or --model {name}')
