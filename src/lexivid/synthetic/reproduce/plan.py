"""The systems of each table. A table is some rows; a row is one system on one world with one seed.

A system is a recipe (src/lexivid/recipes/world-*.yaml) and perhaps a setting on top; "clip" is the backbone as it is.
Tables share rows: what was trained for table 1 is scored again for tables 8 and 9 and figure 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lexivid.backbones.base import WORLD_BACKBONES
from lexivid.errors import LexividError
from lexivid.synthetic.reproduce.packed_clips import WorldSize
from lexivid.synthetic.world.words import WorldKind

CLIPS = WORLD_BACKBONES
"""Separately pre-trained backbones, taken in turn by the seeds."""
OTHER: dict[WorldKind, str] = {"motion": "flow", "sound": "audio"}
"""The modality beside video in the worlds that stand for Kinetics-700 and for VGGSound."""
ZERO_SHOT = "clip"
GENTLE = "video-tower-gentle"
"""The video tower fine-tuned at half the rate: the loss on novel classes depends on the rate."""


@dataclass(frozen=True)
class TableSystem:
    """How one row is made.

    Args:
        recipe: its name; None for the backbone as it is. settings: on top of it.
        curve: measure base and novel accuracy after every epoch too (figure 1).
        control: also score it with every clip's flow (or sound) taken from another clip.
        cost: seconds it takes about, for the time left.
    """

    recipe: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    curve: bool = False
    control: bool = False
    cost: float = 30.0


def systems(kind: WorldKind, num_layers: int) -> dict[str, TableSystem]:
    """Every system of a world, by name. num_layers: of the backbone's image tower."""
    if kind == "both":
        return {
            ZERO_SHOT: TableSystem(None, cost=3),
            "mov-flow": TableSystem("world-mov", cost=40),
            "mov-audio": TableSystem("world-mov-audio", cost=20),
            "mov-all": TableSystem("world-mov-all", cost=50),
        }
    suffix, light = ("", 1.0) if kind == "motion" else ("-audio", 0.5)
    tower = f"world-{OTHER[kind]}-tower"
    return {
        ZERO_SHOT: TableSystem(None, cost=3),
        "video-tower": TableSystem("world-video-tower", curve=True, cost=45),
        GENTLE: TableSystem("world-video-tower", {"training.lr": 5e-4}, curve=True, cost=45),
        "tower": TableSystem(tower, curve=True, cost=45 * light),
        **{
            f"tower-last-{n}": TableSystem(tower, {"model.trainable_layers": n}, cost=25 * light)
            for n in range(1, num_layers)
        },
        "score-fusion": TableSystem(f"world-score-fusion{suffix}", cost=40 * light),
        "mov": TableSystem(f"world-mov{suffix}", control=True, cost=40 * light),
    }


@dataclass(frozen=True, order=True)
class TableRow:
    """One system on one world."""

    kind: WorldKind
    seed: int
    system: str

    def __str__(self) -> str:
        return f"{self.kind} {self.seed} {self.system}"


_SIDES: tuple[WorldKind, ...] = ("motion", "sound")
# Of each table: the worlds, and the systems ("*" at the end: all that begin so).
_NEEDS: dict[str, tuple[tuple[WorldKind, ...], tuple[str, ...]]] = {
    "table1": (("motion",), (ZERO_SHOT, "video-tower", GENTLE, "score-fusion", "mov")),
    "table2": (("sound",), (ZERO_SHOT, "video-tower", GENTLE, "score-fusion", "mov")),
    "table5": (_SIDES, (ZERO_SHOT, "score-fusion", "mov")),
    "table6": (_SIDES, ("tower", "tower-last-*")),
    "table8": (_SIDES, (ZERO_SHOT, "mov")),
    "table9": (_SIDES, (ZERO_SHOT, "mov")),
    "figure1": (_SIDES, ("video-tower", GENTLE, "tower")),
    "figure3": (_SIDES, (ZERO_SHOT, "mov")),
    "vfa": (("both",), (ZERO_SHOT, "mov-flow", "mov-audio", "mov-all")),
}
NAMES = tuple(_NEEDS)


def parse_names(names: Iterable[str]) -> tuple[str, ...]:
    """Tables and figures in their order; "all" stands for every one.

    Raises:
        LexividError: an unknown one, or none.
    """
    asked = [part.strip() for name in names for part in name.split(",") if part.strip()]
    for name in asked:
        if name not in (*NAMES, "all"):
            raise LexividError(f"unknown table or figure {name!r}: choose {', '.join(NAMES)} or all")
    if not asked:
        raise LexividError(f"name what to reproduce: {', '.join(NAMES)} or all")
    return NAMES if "all" in asked else tuple(name for name in NAMES if name in asked)


def kinds_of(names: Sequence[str]) -> tuple[WorldKind, ...]:
    """The worlds that these tables need."""
    return tuple(kind for kind in (*_SIDES, "both") if any(kind in _NEEDS[name][0] for name in names))  # type: ignore[misc]


def rows_of(names: Sequence[str], *, seeds: Iterable[int], num_layers: int) -> list[TableRow]:
    """The rows that these tables need, each once, seed by seed."""
    rows = []
    for seed in seeds:
        for kind in kinds_of(names):
            wanted = [text for name in names if kind in _NEEDS[name][0] for text in _NEEDS[name][1]]
            rows += [
                TableRow(kind, seed, system)
                for system in systems(kind, num_layers)
                if any(system == text or (text[-1] == "*" and system.startswith(text[:-1])) for text in wanted)
            ]
    return rows


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Args:
        size: of each world. epochs: factor on every recipe's. curve_every: epochs between two points of figure 1.
        pool: of `draw_classes`: "report", or "validation" for choosing settings.
    """

    size: WorldSize = field(default_factory=WorldSize)
    epochs: float = 1.0
    curve_every: int = 2
    pool: Literal["report", "validation"] = "report"


QUICK = Scale(WorldSize(num_base=20, num_novel=16, train_clips=16), epochs=2.0, curve_every=8)
