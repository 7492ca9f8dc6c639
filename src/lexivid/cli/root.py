"""The program itself: `lexivid` without a verb, and how every verb ends."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lexivid import __version__
from lexivid.base.interrupts import sigterm_interrupts, status_of
from lexivid.cli.console import say
from lexivid.errors import LexividError, MediaError

# The panels of `lexivid --help`.
USE, TRAIN, SYNTHETIC = "Use", "Train", "Synthetic world"


_PACKAGE = str(Path(__file__).resolve().parent.parent)


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Lexivid's own Python warnings are printed as its other warnings are: one line, without file and code."""
    with warnings.catch_warnings():
        as_python = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
            if str(Path(filename).resolve()).startswith(_PACKAGE):
                say(f"warning: {message}", "yellow")
            else:
                as_python(message, category, filename, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


class Program(TyperGroup):
    """The verbs. Ctrl-C and SIGTERM end each one with a sentence and status 130 or 143."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with sigterm_interrupts(), _warnings_as_sentences():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            say(str(error) or "interrupted", "yellow")
            raise typer.Exit(status_of(error)) from None


app = typer.Typer(
    name="lexivid",
    cls=Program,
    help="Classify any video in your own words, from pictures, motion and sound.\n\n"
    'lexivid classify holiday.mp4 --labels "surfing, playing the piano"',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"lexivid {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: a user error becomes one sentence and status 2, or 1 if a file is at fault."""
    try:
        app()
    except LexividError as error:
        say(f"error: {error}", "red")
        sys.exit(1 if isinstance(error, MediaError) else 2)
    except BrokenPipeError:  # `lexivid ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
