"""The parts of tables and figures: rows, differences, expectations, and their wording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lexivid.synthetic.reproduce.scores import Estimate
from lexivid.synthetic.world.words import WorldKind

Part = dict[str, Any]
WORLD_NAMES = {"motion": "motion world", "sound": "sound world"}
PAPER_DATA = {"motion": "Kinetics-700", "sound": "VGGSound"}
SCORE_NAMES = {"base": "base", "novel": "novel", "harmonic_mean": "harmonic mean"}
LETTERS = {"flow": "V, F, T", "audio": "V, A, T"}
RATIOS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""tau_v in units of the backbone's temperature; the paper's 0.01 to 0.0001 are 1 to 0.01."""
ABSOLUTE = (0.01, 0.003, 0.001, 0.0003, 0.0001)
SIDES: tuple[WorldKind, WorldKind] = ("motion", "sound")


def expect(text: str, holds: bool | None, measured: str, reason: str = "") -> Part:
    """An expectation; a reason belongs to one that does not hold."""
    return {"text": text, "holds": holds, "measured": measured, "reason": "" if holds else reason}


def expect_sign(text: str, estimate: Estimate, *, sign: int = 1, least: float = 0.0, reason: str = "") -> Part:
    """The mean of an estimate is above `least` (sign -1: below -least), and its whole interval, if any, is above 0."""
    low, value = (estimate.low, estimate.value) if sign > 0 else (-estimate.high, -estimate.value)
    low = value if math.isnan(low) else low
    holds = bool(low > 0 and value >= least)
    if abs(value) < 0.05:
        why = "There is no difference here."
    elif value < 0:
        why = "The sign is the opposite one here."
    elif not low > 0:
        why = "The sign is as expected, but the interval includes 0: so many seeds and clips do not settle it."
    else:
        why = f"The difference is smaller than {least:g} points."
    return expect(text, holds, f"{estimate} points", f"{why} {reason}".strip())


def difference(of: str, subtracted: str, column: str, estimate: Estimate) -> Part:
    """A paired difference as the report stores it."""
    return {"of": of, "minus": subtracted, "column": column, **estimate.cell()}


def row(
    system: str, modalities: str, values: dict[str, Estimate], published: dict[str, float] | None = None
) -> Part:  # fmt: skip
    """A row of a table."""
    cells = {key: estimate.cell() for key, estimate in values.items()}
    return {"system": system, "modalities": modalities, "values": cells, "published": published or {}, "best": False}


def mark_best(rows: Sequence[Part], column: str) -> None:
    """The row with the highest value."""
    have = [one for one in rows if column in one["values"]]
    max(have, key=lambda one: one["values"][column]["value"])["best"] = True
