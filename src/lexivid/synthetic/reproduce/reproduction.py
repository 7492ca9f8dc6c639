"""What a call of `reproduce` is to make: its rows, and those that are missing."""

from __future__ import annotations

from dataclasses import dataclass

from lexivid.synthetic.reproduce.plan import Scale, TableRow, rows_of, systems
from lexivid.synthetic.reproduce.rows import Workplace, is_done


@dataclass(frozen=True)
class Reproduction:
    """What there is to do.

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
        """The rows still to be made, the dearest of each world first, so that no process waits long for the last."""
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
