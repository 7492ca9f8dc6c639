"""What a trained model says of views or windows -> scores, of each window or of the whole file.

    features (N, ...) --`Scorer.says`--> raw sayings (N, K) of the fused model and of each stream, by path
    --`SayingsMean`, a few windows at a time--> (1, K) --`Scorer.scores`--> scores (K,)

The mean over views is taken of the raw sayings, before the paths are joined and before anything becomes a probability:
the offset of a mixed vocabulary, and what a standing is worth, were fitted to such means. A sum is all that is kept of
a film's windows.

Shapes: N views or windows, K labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexivid.inference.prediction import Vocabulary
from lexivid.models.calibration import BaseNovelOffset, none_of_these
from lexivid.models.mov import Head, MOVFeatures
from lexivid.models.trained import TrainedModel
from lexivid.scoring.base_novel_offset import combine
from lexivid.scoring.heads import head_log_probabilities
from lexivid.scoring.per_label import LabelSplit, TrainedPerLabelScorer, of_one_stream

FUSED = "all"
_STANDING = "standing"
Key = tuple[str, str]  # who speaks, `FUSED` or a stream; "base", "novel" or the standing of a judge


class Asked(NamedTuple):
    """What is asked about each file."""

    vocabulary: Vocabulary
    kind: LabelSplit
    multi_label: bool
    threshold: float


class Sayings(NamedTuple):
    """What is said of N views.

    values: (N, K) by who speaks and how, log probabilities or standings. counts: (N,) 0 or 1: whether a view counts in
    the mean.
    """

    values: dict[Key, Tensor]
    counts: dict[Key, Tensor]


class SayingsMean:
    """The mean over views, as they come: a sum, of standings or of probabilities (these as logarithms), and a count."""

    def __init__(self) -> None:
        self._sums: dict[Key, Tensor] = {}
        self._counts: dict[Key, Tensor] = {}

    def add(self, sayings: Sayings) -> None:
        for key, value in sayings.values.items():
            weight = sayings.counts[key].double()
            count = weight.sum(dim=0, keepdim=True)
            if key[1] == _STANDING:
                total = (value.double() * weight[:, None]).sum(dim=0, keepdim=True)
                self._sums[key] = self._sums[key] + total if key in self._sums else total
            else:  # all views count
                total = value.double().logsumexp(dim=0, keepdim=True)
                self._sums[key] = torch.logaddexp(self._sums[key], total) if key in self._sums else total
            self._counts[key] = self._counts[key] + count if key in self._counts else count

    def result(self) -> Sayings:
        """Of one view."""
        values = {}
        for key, total in self._sums.items():
            count = self._counts[key].clamp_min(1)[:, None]
            values[key] = total / count if key[1] == _STANDING else total - count.log()
        return Sayings(values, {key: (count > 0).double() for key, count in self._counts.items()})


class Scorer:
    """A trained model asked about one vocabulary.

    Args:
        judge: of this vocabulary and model, or None.
        is_base: (K,) bool, labels that the model was trained on.
    """

    def __init__(
        self, model: TrainedModel, asked: Asked, per_label: TrainedPerLabelScorer | None, is_base: np.ndarray
    ) -> None:
        self.model, self.asked, self.per_label, self.is_base = model, asked, per_label, is_base
        self._judged = asked.multi_label or model.scales is not None
        assert per_label is not None or not self._judged
        self._knows_none = per_label is not None and per_label.lacks(asked.kind) is None
        kind = asked.kind
        if kind == "mixed" and (model.base_novel_offset is None or not is_base.any()):
            kind = "novel"
        elif kind == "mixed" and is_base.all():
            kind = "base"
        self._paths: tuple[Head, ...] = ("base", "novel") if kind == "mixed" else (kind,)

    def says(self, features: MOVFeatures, streams: Iterable[str]) -> Sayings:
        """On the CPU, of the fused model and of each of the streams."""
        values: dict[Key, Tensor] = {}
        counts: dict[Key, Tensor] = {}
        if self._judged:
            places = self.model.mov.config.modalities.index
            for name in streams:
                own = of_one_stream(features, places(name))
                values[name, _STANDING], counts[name, _STANDING] = self._standings(own)
        else:
            every = torch.ones(len(features.v))
            vectors = self.asked.vocabulary.vectors.to(self.model.device)
            for head in self._paths:
                opinions = self.model.mov.log_probabilities_by_modality(features, vectors, head=head)
                said = {FUSED: head_log_probabilities(features, vectors, self.model.settings(), head=head)}
                said |= {name: opinions[name] for name in streams}
                for name, logs in said.items():
                    values[name, head], counts[name, head] = logs.cpu(), every
        if self._judged or self._knows_none:
            values[FUSED, _STANDING], counts[FUSED, _STANDING] = self._standings(features)
        return Sayings(values, counts)

    def scores(self, sayings: Sayings, who: str = FUSED) -> Tensor:
        """(N, K), of the fused model or of one stream: shares, or each label's own probability."""
        if self._judged:
            assert self.per_label is not None
            ratios = self._log_ratios(sayings, who)
            if self.asked.multi_label:
                return self.per_label.probabilities(ratios, self.asked.kind)
            return ratios.softmax(dim=-1)
        each = [sayings.values[who, head] for head in self._paths]
        if len(each) == 1:
            return each[0].exp().float()
        offset = BaseNovelOffset.from_dict(self.model.base_novel_offset).offset_for(int((~self.is_base).sum()))
        base, novel = (p.numpy() for p in each)
        return torch.from_numpy(combine(base, novel, self.is_base, offset=offset)).float()

    def none_of_these(self, mean: Sayings) -> float | None:
        """The probability that no label holds, of the whole file; None where the model cannot say."""
        if self.asked.multi_label:
            return 1 - float(self.scores(mean).max())
        return float(none_of_these(self._log_ratios(mean, FUSED))[0]) if self._knows_none else None

    def _standings(self, features: MOVFeatures) -> tuple[Tensor, Tensor]:
        assert self.per_label is not None
        return self.per_label.log_odds(features, self.asked.kind)

    def _log_ratios(self, sayings: Sayings, who: str) -> Tensor:
        assert self.per_label is not None
        key = (who, _STANDING)
        return self.per_label.log_ratios_of(sayings.values[key], sayings.counts[key] > 0, self.asked.kind)


def mean_of(scorer: Scorer, features: MOVFeatures, streams: Sequence[str]) -> Sayings:
    """Of all views at once."""
    mean = SayingsMean()
    mean.add(scorer.says(features, streams))
    return mean.result()
