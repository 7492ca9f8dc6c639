"""Stored features of the rows -> hits per clip -> numbers with intervals. Nothing is trained or encoded here.

    Collected of each seed --Scores.outcomes(...)--> Outcome per seed --estimate(statistic, ...)--> a cell of a table

A seed is another class split, other clips, another training and (one of three) another pre-trained backbone, so the
interval of several seeds is Student's over their values: it holds all of that variation, the sampling of clips
included. Differences are taken within each seed, on the same clips. With one seed the interval is a bootstrap
over its clips, and holds no other variation.

Accuracies are in percent. Shapes: n test clips, K labels, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from lexivid.evaluation import protocols
from lexivid.metrics import single_label
from lexivid.models.calibration import BaseNovelOffset
from lexivid.scoring.base_novel_offset import fit_offset
from lexivid.scoring.features import Collected, opinion, score
from lexivid.synthetic.reproduce.plan import TableRow
from lexivid.synthetic.reproduce.reproduction import Reproduction
from lexivid.synthetic.reproduce.rows import HELD_OUT, TEST
from lexivid.synthetic.reproduce.world_samples import WorldFeatures
from lexivid.synthetic.world.words import WorldKind

Rule = Literal["all-novel", "calibrated"]
_NUM_RESAMPLES = 2000


class Sides(NamedTuple):
    """Accuracy in percent on the clips of base and of novel classes."""

    base: float
    novel: float


@dataclass(frozen=True)
class Outcome:
    """One system on the test clips of one seed: hits (n,) of 0 and 1, and which clips are of base classes (n,)."""

    hits: np.ndarray
    is_base: np.ndarray

    @cached_property
    def sides(self) -> Sides:
        """Accuracies."""
        return Sides(100 * float(self.hits[self.is_base].mean()), 100 * float(self.hits[~self.is_base].mean()))


Statistic = Callable[..., float]
"""Of the `Sides` of one or more systems."""


def base(a: Sides) -> float:
    """Accuracy on base classes."""
    return a.base


def novel(a: Sides) -> float:
    """Accuracy on novel classes."""
    return a.novel


def harmonic(a: Sides) -> float:
    """The paper's one number for both."""
    return single_label.harmonic_mean(a.base, a.novel)


COLUMNS: dict[str, Statistic] = {"base": base, "novel": novel, "harmonic_mean": harmonic}


def minus(statistic: Statistic) -> Statistic:
    """The same statistic of a first system minus that of a second."""
    return lambda a, b: statistic(a) - statistic(b)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, and its value in each seed."""

    value: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    def cell(self) -> dict[str, Any]:
        """As the report stores it."""
        rounded = {"value": round(self.value, 3), "low": round(self.low, 3), "high": round(self.high, 3)}
        return rounded | {"per_seed": [round(x, 3) for x in self.per_seed]}

    def __str__(self) -> str:
        has_interval = not np.isnan(self.low)
        interval = f"{self.low:+.1f} to {self.high:+.1f}" if has_interval else "one seed, no interval"
        return f"{self.value:+.1f} ({interval})".replace("-", "−")


def estimate(statistic: Statistic, *systems: Sequence[Outcome]) -> Estimate:
    """A statistic of systems, each with an outcome per seed (see the module for the interval)."""
    per_seed = tuple(statistic(*(outcome.sides for outcome in seed)) for seed in zip(*systems, strict=True))
    if len(per_seed) > 1:
        interval = single_label.t_interval(per_seed)
        return Estimate(interval.value, interval.low, interval.high, per_seed)
    columns = [np.where(mask, o.hits, np.nan) for (o,) in systems for mask in (o.is_base, ~o.is_base)]
    means = 100 * single_label.resampled_means(np.stack(columns, axis=1), num_resamples=_NUM_RESAMPLES)
    drawn = [statistic(*(Sides(*row[i : i + 2]) for i in range(0, len(row), 2))) for row in means]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(per_seed[0], float(low), float(high), per_seed)


class Scores:
    """All rows of a reproduction, read when they are asked for."""

    def __init__(self, job: Reproduction) -> None:
        self.job = job
        self.collected = lru_cache(maxsize=None)(self._collected)
        self.world = lru_cache(maxsize=None)(self._world)
        self.outcomes = lru_cache(maxsize=None)(self._outcomes)

    def _collected(self, kind: WorldKind, seed: int, system: str, *, control: bool = False) -> Collected:
        return Collected.load(self.job.place.row(TableRow(kind, seed, system), control=control))

    def _world(self, kind: WorldKind, seed: int) -> WorldFeatures:
        features = WorldFeatures.load(self.job.place.features(kind, seed))
        return replace(features, frames=features.frames[:0])  # large, and only the rows need them

    def temperature(self, kind: WorldKind, seed: int) -> float:
        """The temperature of the backbone."""
        return self.world(kind, seed).temperature

    def _outcomes(
        self,
        kind: WorldKind,
        system: str,
        *,
        control: bool = False,
        beta: float | None = None,
        tau_v: float | None = None,
        absolute: bool = False,
    ) -> tuple[Outcome, ...]:
        """One per seed: base clips among the base classes (eq. 10), novel clips among the novel ones (eq. 11, 12).

        Args:
            control: with every clip's flow or sound taken from another.
            beta, tau_v: in place of the model's; tau_v in units of the backbone's temperature, unless `absolute`.
        """
        outcomes = []
        for seed in self.job.seeds:
            collected = self.collected(kind, seed, system, control=control)
            settings: dict[str, float] = {} if beta is None else {"beta": beta}
            if tau_v is not None:
                settings["tau_v"] = tau_v if absolute else tau_v * self.temperature(kind, seed)
            outcomes.append(
                self._sides(collected, kind, seed, lambda c, v, head, s=settings: score(c, v, head=head, **s))
            )
        return tuple(outcomes)

    def stream(self, kind: WorldKind, system: str, name: str) -> tuple[Outcome, ...]:
        """One stream of a system alone: "v", "v_m", "flow" or "audio"."""
        outcomes = []
        for seed in self.job.seeds:
            tau = self.temperature(kind, seed)
            collected = self.collected(kind, seed, system)
            outcomes.append(
                self._sides(collected, kind, seed, lambda c, v, head, t=tau: opinion(c, v, name=name, tau=t))
            )
        return tuple(outcomes)

    def entropy(self, kind: WorldKind, system: str, name: str) -> float:
        """Mean entropy, in nats, of a stream's probabilities for novel clips among the novel classes."""
        entropies = []
        for seed in self.job.seeds:
            collected = self.collected(kind, seed, system)
            num_base = len(self.split_base(collected))
            part = collected.select((np.array(collected.groups) == TEST) & (collected.targets >= num_base))
            labels = self.world(kind, seed).labels[num_base:]
            p = opinion(part, labels, name=name, tau=self.temperature(kind, seed))
            entropies.append(float(-(p * np.log(np.maximum(p, 1e-12))).sum(axis=1).mean()))
        return float(np.mean(entropies))

    def _sides(self, collected: Collected, kind: WorldKind, seed: int, answer: Callable[..., np.ndarray]) -> Outcome:
        labels, num_base = self.world(kind, seed).labels, len(self.split_base(collected))
        test = np.array(collected.groups) == TEST
        parts = []
        for head, of_side, vectors, first in (
            ("base", collected.targets < num_base, labels[:num_base], 0),
            ("novel", collected.targets >= num_base, labels[num_base:], num_base),
        ):
            part = collected.select(test & of_side)
            parts.append(single_label.hits(answer(part, vectors, head), part.targets - first))
        return Outcome(np.concatenate(parts), np.arange(sum(map(len, parts))) < len(parts[0]))

    def split_base(self, collected: Collected) -> tuple[str, ...]:
        """The base classes; they come first among the classes."""
        return collected.classes[: self.job.scale.size.num_base]

    def generalised(self, kind: WorldKind, system: str, rule: Rule) -> tuple[Outcome, ...]:
        """Every test clip among all classes, without saying which side it is of (appendix C).

        "all-novel" takes every class for a novel one, as the paper does. "calibrated" is ours: each class by its own
        head, novel ones with an offset that was fitted on held-out base clips (`lexivid.scoring.base_novel_offset`).
        """
        outcomes = []
        for seed in self.job.seeds:
            collected = self.collected(kind, seed, system)
            test = collected.select(np.array(collected.groups) == TEST)
            labels, num_base = self.world(kind, seed).labels, len(self.split_base(collected))
            if rule == "calibrated":
                offset = self.calibration(kind, seed, system).offset_for(len(labels) - num_base)
                p = protocols.joined(test, labels, np.arange(len(labels)) < num_base, offset=offset)
            else:
                p = score(test, labels, head="novel")
            outcomes.append(Outcome(single_label.hits(p, test.targets), test.targets < num_base))
        return tuple(outcomes)

    def calibration(self, kind: WorldKind, seed: int, system: str) -> BaseNovelOffset:
        """Fitted on the held-out clips of base classes, among their names and distractor labels."""
        collected, world = self.collected(kind, seed, system), self.world(kind, seed)
        held_out = collected.select(np.array(collected.groups) == HELD_OUT)
        held_out.base_classes = self.split_base(collected)
        names, vectors = (
            (*collected.classes, *world.distractor_labels),
            torch.cat([world.labels, world.distractor_vectors]),
        )
        row_of = {name: i for i, name in enumerate(names)}
        return fit_offset(
            held_out, lambda asked: vectors[[row_of[name] for name in asked]], nothing=world.distractor_labels
        )

    def per_class(self, kind: WorldKind, system: str) -> dict[str, list[float]]:
        """Accuracy of each class in percent, in every seed that has it."""
        accuracies: dict[str, list[float]] = {}
        for seed, outcome in zip(self.job.seeds, self.outcomes(kind, system), strict=True):
            collected = self.collected(kind, seed, system)
            test = collected.targets[np.array(collected.groups) == TEST]
            num_base = len(self.split_base(collected))
            targets = np.concatenate([test[test < num_base], test[test >= num_base]])  # the order of an outcome
            recall = single_label.per_class_accuracy(targets, outcome.hits, num_classes=len(collected.classes))
            for name, value in zip(collected.classes, recall, strict=True):
                if not np.isnan(value):
                    accuracies.setdefault(name, []).append(100 * float(value))
        return accuracies
