"""`lexivid world`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lexivid.base.interrupts import Interrupted, status_of
from lexivid.cli.console import progress_bar, say, status
from lexivid.cli.root import SYNTHETIC, app
from lexivid.errors import LexividError

if TYPE_CHECKING:
    from lexivid.synthetic.world.multilabel import LabelSets

KindName = Literal["motion", "sound", "both"]
_RECIPES = {"motion": "world-mov", "sound": "world-mov-audio", "both": "world-mov-all"}
_DEFAULT_KIND: KindName = "both"


@app.command(rich_help_panel=SYNTHETIC)
def world(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the clips, new or empty.", show_default=False)],
    kind: Annotated[
        KindName | None, typer.Option(help="What class names say beside the looks.", show_default=_DEFAULT_KIND)
    ] = None,
    clips_per_class: Annotated[int, typer.Option(min=1, help="Training clips of each base class.")] = 20,
    test_clips_per_class: Annotated[int, typer.Option(min=0, help="Test clips of each class, base and novel.")] = 15,
    val_clips_per_class: Annotated[int, typer.Option(min=0, help="Clips of each class for a split named val.")] = 0,
    base: Annotated[
        int | None,
        typer.Option(min=1, help="Base classes: those with training clips.", show_default="40; of nouns 60"),
    ] = None,
    novel: Annotated[
        int | None, typer.Option(min=0, help="Novel classes: test clips alone.", show_default="30; of nouns 40")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and options make the same clips.")] = 0,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="2 to 4 objects in each clip.")] = False,
    label_kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="2 to 4 objects in each clip, each with labels of these kinds: noun (an invented word for a look), "
            "words (that look in plain words), motion, sound; comma-separated, or all. In the other options, classes "
            "are then nouns. Three motions and three sounds are in test clips alone.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes. Default: all cores.")] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw some clips: frames, flow, sound (.png or .jpg).")
    ] = None,
) -> None:
    """Make labelled clips with known ground truth: coloured shapes that move and sound, as real video files.

    lexivid world --out world/ --kind motion --clips-per-class 20

    lexivid world --out world/ --label-kinds all
    """
    if label_kinds is not None and (kind is not None or multi_label):
        raise LexividError("--label-kinds says what clips are labelled with: leave out --kind and --multi-label")
    from lexivid.synthetic.world.files import make_world
    from lexivid.synthetic.world.multilabel import make_label_world

    num_base = base or (40 if label_kinds is None else 60)
    num_novel = (30 if label_kinds is None else 40) if novel is None else novel
    try:
        with progress_bar("drawing") as bar:
            options: dict[str, Any] = {
                "seed": seed, "num_workers": workers,
                "on_progress": bar.show,
            }  # fmt: skip
            sets: LabelSets | None = None
            if label_kinds is None:
                made = make_world(
                    out, kind=kind or _DEFAULT_KIND,
                    clips_per_class=clips_per_class, test_clips_per_class=test_clips_per_class,
                    val_clips_per_class=val_clips_per_class, num_base=num_base, num_novel=num_novel,
                    multi_label=multi_label, **options,
                )  # fmt: skip
            else:
                sets = _label_sets(label_kinds, num_base, num_novel, seed)
                made = make_label_world(
                    out, sets, num_train=clips_per_class * num_base,
                    num_val=val_clips_per_class * (num_base + num_novel),
                    num_test=test_clips_per_class * (num_base + num_novel), **options,
                )  # fmt: skip
    except KeyboardInterrupt as error:
        message = "interrupted: the same call goes on where this one stopped"
        raise Interrupted(message, status=status_of(error)) from None
    new = len(made.clips) - made.num_kept
    existing = f" ({made.num_kept} were there already)" if made.num_kept else ""
    rate = f", {new / made.wall_s:.0f} clips a second" if new else ""
    shown = f"of {num_base} base and {num_novel} novel classes"
    if sets:
        shown = f"with {len(sets.seen)} seen and {len(sets.unseen)} unseen labels ({', '.join(sets.label_kinds)})"
    say(f"{len(made.clips)} clips {shown} in {out}{existing}: {made.wall_s:.0f} s{rate}")
    if contact_sheet:
        from lexivid.synthetic.world.sheet import contact_sheet as draw_sheet

        with status("drawing the contact sheet"):
            draw_sheet(made, contact_sheet)
        say(f"contact sheet: {contact_sheet}")
    clip = made.clips[-1]
    where, data = shlex.quote(str(out / clip.path)), shlex.quote(str(out))
    say("next:")
    if sets:
        # Words that CLIP knows, whatever the labels are: those that the clip shows, and three that it does not show.
        plain = replace(sets, label_kinds=("words", "motion", "sound"))
        clip_labels = plain.labels_of(clip.classes)
        labels = ", ".join([*clip_labels, *[label for label in plain.unseen if label not in clip_labels][:3]])
        say(f"  lexivid classify {where} --model world --multi-label --labels {shlex.quote(labels)}")
    else:
        labels = ", ".join(dict.fromkeys([*clip.labels, *made.split.classes[:3]]))
        say(f"  lexivid classify {where} --model world --labels {shlex.quote(labels)}")
    several = sets is not None or multi_label
    split = shlex.quote(f"data.class_split={out / 'split.json'}")
    if several:
        say(f"  lexivid train world-ovml-labels --data {data} --out LABELS --set {split}")
        say(f"  lexivid train world-mov-ovml --data {data} --out RUN --set {split} --set model.init_from=LABELS")
    else:
        say(f"  lexivid train {_RECIPES[kind or _DEFAULT_KIND]} --data {data} --out RUN --set {split}")
    say(f"  lexivid evaluate RUN --data {data} --protocol {'multi-label' if several else 'base-novel'}")


def _label_sets(kinds: str, num_base: int, num_novel: int, seed: int) -> LabelSets:
    """Labels of the nouns that the packaged language model has read about; these do not depend on the seed."""
    from lexivid.cli.options import split_words
    from lexivid.synthetic.world.multilabel import LABEL_KINDS, draw_label_sets
    from lexivid.synthetic.world.nouns import draw_nouns

    label_kinds = LABEL_KINDS if kinds == "all" else tuple(kind for kind in LABEL_KINDS if kind in split_words(kinds))
    if unknown := set(split_words(kinds)) - {*label_kinds, "all"}:
        raise LexividError(f"--label-kinds {min(unknown)!r}: choose from {', '.join(LABEL_KINDS)}, or all")
    nouns = draw_nouns("look", num=num_base + num_novel)
    return draw_label_sets(nouns, seed=seed, num_novel_nouns=num_novel, kinds=label_kinds)
