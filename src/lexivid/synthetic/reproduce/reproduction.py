"""The work of a call of `reproduce`: its rows, and those that are missing."""

from __future__ import annotations

from dataclasses import dataclass

from lexivid.synthetic.reproduce.plan import Scale, TableRow, rows_of, systems
from lexivid.synthetic.reproduce.rows import Workplace, is_done


@dataclass(frozen=True)
class Reproduction:
    """The rows to make and their settings.

    Attributes:
        names: tables and figures. clips: backbones; seed s uses clips[s % len(clips)].
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    clips: tuple[str, ...]
    scale: Scale
    place: Workplace
    num_layers: int

    @property
    def rows(self) -> list[TableRow]:
        """All of them, done or not."""
        return rows_of(self.names, seeds=self.seeds, num_layers=self.num_layers)

    def clip(self, seed: int) -> str:
        """The backbone of a seed."""
        return self.clips[seed % len(self.clips)]

    def missing(self) -> list[TableRow]:
        """The missing rows, the slowest of each world first, so that processes end at about the same time."""
        left = [
            row
            for row in self.rows
            if not is_done(row, self.place, self.scale, clip=self.clip(row.seed), num_layers=self.num_layers)
        ]
        return sorted(left, key=lambda row: (row.seed, row.kind, -self.cost(row)))

    def cost(self, row: TableRow) -> float:
        """Seconds of one process, about."""
        size = self.scale.size
        share = size.num_base * size.train_clips / 800 * self.scale.epochs
        return 2 + systems(row.kind, self.num_layers)[row.system].cost * share
