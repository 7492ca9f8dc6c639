"""`lexivid demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lexivid.cli.console import status
from lexivid.cli.options import Labels, Model, Report, split_words
from lexivid.cli.root import USE, app
from lexivid.cli.running import prepare, run


@app.command(rich_help_panel=USE)
def demo(
    video: Annotated[
        str | None,
        typer.Argument(help="A video of yours. Default: two films that a package of the extra `demo` brings."),
    ] = None,
    labels: Labels = None,
    model: Model = "lite",
    report: Report = Path("demo-report/index.html"),
) -> None:
    """Show what Lexivid does: classify real clips, print the table, write a page with pictures."""
    from lexivid import demo as content
    from lexivid.inference.loading import load
    from lexivid.media.views import Views

    paths = [video] if video else content.find_clips()
    with status(f"loading {model}"):
        classifier = load(model)
    words = [word for text in labels for word in split_words(text)] if labels else list(content.LABELS)
    vocabulary = prepare(classifier, words, None)
    call = {"views": str(Views()), "top_k": 5, "threshold": 0.0}
    run(classifier, paths, vocabulary, {}, call, fmt="table", output=None, report=report)
