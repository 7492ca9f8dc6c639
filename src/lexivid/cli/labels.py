"""`lexivid labels`: databases of labels and their vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lexivid.cli.console import emit, say, status
from lexivid.cli.options import DEFAULT_MODEL, Device, Labels, LabelsFile, Names, split_words
from lexivid.cli.root import USE, app
from lexivid.cli.running import told

if TYPE_CHECKING:
    from lexivid.labels import TemplateSet

labels_app = typer.Typer(help="Keep labels and their vectors in a database that grows.", no_args_is_help=True)
app.add_typer(labels_app, name="labels", rich_help_panel=USE)

Database = Annotated[Path, typer.Argument(help="Folder of the database.", show_default=False)]


@labels_app.command()
def add(
    database: Database,
    labels: Labels = None,
    labels_file: LabelsFile = None,
    names: Names = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="What makes the vectors: a model as of `classify`, or a folder with a trained label encoder. "
            f'Default: what made those that are there, or "{DEFAULT_MODEL}".',
            show_default=False,
        ),
    ] = None,
    templates: Annotated[
        str | None, typer.Option(help="Sentences around a label: a set or a file. Default: what suits the model.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Add labels; the database is made if it is not there.

    lexivid labels add my-labels/ --labels "playing drums, dog barking"

    lexivid classify holiday.mp4 --label-database my-labels/
    """
    from lexivid.labels import check_labels, read_labels_file
    from lexivid.labels.database import INDEX_FILE, create_database, open_database
    from lexivid.models.label_encoders import open_encoder

    given = [word for text in labels or [] for word in split_words(text)]
    given += read_labels_file(labels_file) if labels_file else []
    given = told(given, names) if names else given
    checked = check_labels(given)
    warnings, read = checked.warnings, dict(zip(checked.names, checked.phrases, strict=True))
    existing = open_database(database) if (database / INDEX_FILE).is_file() else None
    sentences: str | TemplateSet | None = templates
    if existing is not None and model is None:
        model, sentences = existing.encoder.model, templates or existing.encoder.template_set
    with status("encoding"):
        encoder = open_encoder(model or DEFAULT_MODEL, templates=sentences, device=device)
        added = (existing or create_database(database, encoder)).add(given, encoder)
        warnings += encoder.doubts([read[name] for name in added.new]) if encoder.doubts else []
    for warning in warnings:
        say(f"warning: {warning}", "yellow")
    say(f"{len(added.new)} new, {len(added.known)} known already: {database}")


@labels_app.command()
def remove(database: Database, labels: Labels = None, labels_file: LabelsFile = None) -> None:
    """Take labels out.

    lexivid labels remove my-labels/ --labels "dog barking"
    """
    from lexivid.labels import read_labels_file
    from lexivid.labels.database import open_database

    given = [word for text in labels or [] for word in split_words(text)]
    given += read_labels_file(labels_file) if labels_file else []
    opened = open_database(database)
    removed = opened.remove(given)
    say(f"{len(removed)} removed, {len(opened)} left: {database}")


@labels_app.command()
def rename(
    database: Database,
    label: Annotated[str, typer.Argument(help="As it is listed.", show_default=False)],
    name: Annotated[str, typer.Argument(help="What it is shown as from now on.", show_default=False)],
) -> None:
    """Show a label under another name; the model goes on reading the phrase that it was made of.

    lexivid labels rename my-labels/ "dog barking" "angry dog"
    """
    from lexivid.labels.database import open_database

    before = open_database(database).rename(label, name)
    say(f"{before!r} is now {name!r}: {database}")


@labels_app.command("list")
def list_labels(database: Database) -> None:
    """Print the labels, one a line."""
    from lexivid.labels.database import open_database

    opened = open_database(database)
    say(f"{len(opened)} labels of {opened.encoder.describe()}")
    emit("".join(f"{label}\n" for label in opened.labels))


@labels_app.command()
def export(
    database: Database,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="FILE.txt (labels alone), FILE.json or FILE.npz.", show_default=False)
    ],
) -> None:
    """Write the labels, and their vectors, to one file."""
    from lexivid.labels.database import open_database

    opened = open_database(database)
    opened.export(output)
    say(f"{len(opened)} labels: {output}")


@labels_app.command()
def search(
    database: Database,
    text: Annotated[str, typer.Argument(help="A label, or any text.", show_default=False)],
    top_k: Annotated[int, typer.Option(min=0, help="The most labels shown (0: all).")] = 10,
    device: Device = "auto",
) -> None:
    """Find the labels nearest to a text."""
    from lexivid.labels.database import open_database
    from lexivid.models.label_encoders import open_encoder

    opened = open_database(database)
    encoder = None
    if text not in opened:
        with status("encoding"):
            encoder = open_encoder(opened.encoder.model, templates=opened.encoder.template_set, device=device)
    for match in opened.search(text, top_k=top_k, encoder=encoder):
        emit(f"{match.cosine:.3f}  {match.label}\n")
