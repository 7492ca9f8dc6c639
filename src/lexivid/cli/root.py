"""The program itself: what `lexivid` without a verb knows, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from lexivid import __version__
from lexivid.cli.console import say
from lexivid.errors import LexividError, MediaError

app = typer.Typer(
    name="lexivid",
    help="Classify any video in your own words, from pictures, motion and sound.",
    no_args_is_help=True,
    add_completion=False,
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
    """Entry point: user errors become one sentence and status 2 (1: a file is at fault); Ctrl-C status 130."""
    try:
        app()
    except LexividError as error:
        say(f"error: {error}", "red")
        sys.exit(1 if isinstance(error, MediaError) else 2)
    except KeyboardInterrupt:
        say("interrupted", "yellow")
        sys.exit(130)
    except BrokenPipeError:  # `lexivid ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
