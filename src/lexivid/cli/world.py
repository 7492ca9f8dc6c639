"""`lexivid world`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lexivid.cli.console import progress_bar, say, status
from lexivid.cli.root import app

_RECIPES = {"motion": "world-mov", "sound": "world-mov-audio", "both": "world-mov-all"}


@app.command()
def world(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the clips, new or empty.", show_default=False)],
    kind: Annotated[str, typer.Option(help="What class names say beside the looks: motion, sound or both.")] = "both",
    clips_per_class: Annotated[int, typer.Option(min=1, help="Training clips of each base class.")] = 20,
    test_clips_per_class: Annotated[int, typer.Option(min=0, help="Test clips of each class, base and novel.")] = 15,
    val_clips_per_class: Annotated[int, typer.Option(min=0, help="Clips of each class for a split named val.")] = 0,
    base: Annotated[int, typer.Option(min=1, help="Base classes: those with training clips.")] = 40,
    novel: Annotated[int, typer.Option(min=0, help="Novel classes: test clips alone.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Same seed and options, same clips.")] = 0,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="2 to 4 objects in each clip.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes. Default: all cores.")] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw some clips: frames, flow, sound (.png or .jpg).")
    ] = None,
) -> None:
    """Make labelled clips with known ground truth: coloured shapes that move and sound, as real video files.

    lexivid world --out world/ --kind motion --clips-per-class 20
    """
    from lexivid.data.world.files import make_world

    try:
        with progress_bar() as progress:
            task = progress.add_task("drawing", total=None)
            made = make_world(
                out, kind=kind,  # type: ignore[arg-type]
                clips_per_class=clips_per_class, test_clips_per_class=test_clips_per_class,
                val_clips_per_class=val_clips_per_class, num_base=base, num_novel=novel, seed=seed,
                multi_label=multi_label, num_workers=workers,
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )  # fmt: skip
    except KeyboardInterrupt:
        say("interrupted: the same call goes on where this one stopped", "yellow")
        raise typer.Exit(130) from None
    new = len(made.clips) - made.num_kept
    kept = f" ({made.num_kept} were there already)" if made.num_kept else ""
    rate = f", {new / made.wall_s:.0f} clips a second" if new else ""
    say(f"{len(made.clips)} clips of {base} base and {novel} novel classes in {out}{kept}: {made.wall_s:.0f} s{rate}")
    if contact_sheet:
        from lexivid.data.world.sheet import contact_sheet as draw_sheet

        with status("drawing the contact sheet"):
            draw_sheet(made, contact_sheet)
        say(f"contact sheet: {contact_sheet}")
    clip = made.clips[-1]
    labels = ", ".join(dict.fromkeys([*(c.name for c in clip.classes), *made.split.classes[:3]]))
    say("next:")
    say(f"  lexivid classify {shlex.quote(str(out / clip.path))} --model world --labels {shlex.quote(labels)}")
    split = f"data.class_split={out / 'split.json'}"
    say(f"  lexivid train {_RECIPES[kind]} --data {shlex.quote(str(out))} --out RUN --set {shlex.quote(split)}")
