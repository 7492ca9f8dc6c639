"""`lexivid flow`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lexivid.cli.console import progress_bar, say
from lexivid.cli.root import USE, app

# As `lexivid.media.flow.Algorithm`, which needs PyTorch; tests/cli/test_help.py compares the two.
AlgorithmName = Literal["tvl1", "tvl1-fast", "dis"]


@app.command(rich_help_panel=USE)
def flow(
    video: Annotated[str, typer.Argument(help="A video file.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="FILE.mp4 to look at, FILE.npz as data, or a folder for PNG pictures."),
    ],
    algorithm: Annotated[
        AlgorithmName,
        typer.Option(help="tvl1: as OpenCV's. tvl1-fast: 3 warps, less faithful. dis: needs lexivid\\[dis]."),
    ] = "tvl1",
    texture: Annotated[
        bool, typer.Option("--texture", help="Flow of the pictures' texture: follows flicker and fades less.")
    ] = False,
    size: Annotated[
        int, typer.Option(min=0, help="Short side in pixels that frames are scaled to (0: as they are).")
    ] = 256,
    start: Annotated[float, typer.Option(metavar="SECONDS", help="Where to begin.")] = 0.0,
    end: Annotated[float | None, typer.Option(metavar="SECONDS", help="Where to end. Default: the end.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Only every n-th pair of frames.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")] = None,
) -> None:
    """Compute the optical flow of a video: what moves where, from each frame to the next.

    lexivid flow holiday.mp4 --out flow.mp4
    """
    from lexivid.media.flow import flow_file

    with progress_bar("flow") as bar:
        written = flow_file(
            video,
            out,
            algorithm=algorithm,
            texture=texture,
            short_side=size or None,
            start_s=start,
            end_s=end,
            every=every,
            device=device,
            on_progress=bar.show,
        )
    for warning in written.warnings:
        say(f"warning: {video}: {warning}", "yellow")
    say(f"{written.num_pairs} pairs of frames at {written.width} x {written.height}: {out}")
