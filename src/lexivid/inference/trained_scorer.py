"""Features of views or windows of a trained model -> scores, of each of them and of the whole file.

    features (N, ...) -> per-view log probabilities or log odds (N, K), fused and of each modality, by head
    --mean over views, a few at a time--> (1, K) -> scores (K,)

The mean over views is taken before the heads are joined and before anything becomes a probability: the offset of a
mixed vocabulary and the calibration of log odds were fitted to such means. A sum is all that is kept of a film's
windows. Shapes: N views or windows, K labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexivid.inference.protocol import FileScores, Question, ViewAnswers, score_kind
from lexivid.models.calibration import BaseNovelOffset, at_most_one, none_of_these
from lexivid.models.mov import Head, MOVFeatures
from lexivid.models.trained import TrainedModel
from lexivid.scoring.base_novel_offset import combine
from lexivid.scoring.heads import head_log_probabilities
from lexivid.scoring.per_label import TrainedPerLabelScorer, of_one_stream

_FUSED = "all"
_LOG_ODDS = "log odds"
Key = tuple[str, str]  # `_FUSED` or a modality; "base", "novel" or `_LOG_ODDS`


class StreamFeatures(NamedTuple):
    """Features of N views or windows, and the streams that were read for them."""

    features: MOVFeatures
    streams: tuple[str, ...]


class ViewScores(NamedTuple):
    """Raw scores of N views.

    Attributes:
        values: key -> (N, K) log probabilities or log odds. counts: key -> (N,) 0 or 1, views that count in the mean.
    """

    values: dict[Key, Tensor]
    counts: dict[Key, Tensor]


class _MeanOverViews:
    """The mean over views, as they come: a sum of log odds, or of probabilities (as logarithms), and a count."""

    def __init__(self) -> None:
        self._sums: dict[Key, Tensor] = {}
        self._counts: dict[Key, Tensor] = {}

    def add(self, views: ViewScores) -> None:
        for key, value in views.values.items():
            weight = views.counts[key].double()
            count = weight.sum(dim=0, keepdim=True)
            if key[1] == _LOG_ODDS:
                total = (value.double() * weight[:, None]).sum(dim=0, keepdim=True)
                self._sums[key] = self._sums[key] + total if key in self._sums else total
            else:  # all views count
                total = value.double().logsumexp(dim=0, keepdim=True)
                self._sums[key] = torch.logaddexp(self._sums[key], total) if key in self._sums else total
            self._counts[key] = self._counts[key] + count if key in self._counts else count

    def result(self) -> ViewScores:
        """Of one view."""
        values = {}
        for key, total in self._sums.items():
            count = self._counts[key].clamp_min(1)[:, None]
            values[key] = total / count if key[1] == _LOG_ODDS else total - count.log()
        return ViewScores(values, {key: (count > 0).double() for key, count in self._counts.items()})


class TrainedScorer:
    """A `Scorer` of a trained model.

    Args:
        per_label: of the question's vocabulary and this model, or None.
        is_base: (K,) bool, labels that the model was trained on.
    """

    def __init__(
        self, model: TrainedModel, question: Question, per_label: TrainedPerLabelScorer | None, is_base: np.ndarray
    ) -> None:
        self.model, self.question, self.per_label, self.is_base = model, question, per_label, is_base
        self._by_log_odds = question.multi_label or model.scales is not None
        assert per_label is not None or not self._by_log_odds
        self._knows_none = per_label is not None and per_label.lacks(question.label_split) is None
        self.kind = score_kind(question, calibrated=self._knows_none)
        split = question.label_split
        if split == "mixed" and (model.base_novel_offset is None or not is_base.any()):
            split = "novel"
        elif split == "mixed" and is_base.all():
            split = "base"
        self._heads: tuple[Head, ...] = ("base", "novel") if split == "mixed" else (split,)
        self._mean = _MeanOverViews()

    def add(self, features: StreamFeatures) -> ViewAnswers:
        views = self._view_scores(*features)
        self._mean.add(views)
        return self._answers(views)

    def result(self, modalities: Sequence[str]) -> FileScores:
        mean = self._mean.result()
        scores, none = self._answers(mean)
        by_modality: dict[str, Tensor] = {}
        if self.kind != "probability" or self._by_log_odds:  # no modality alone has a probability by softmax
            by_modality = {name: self._scores(mean, name)[0] for name in modalities}
        return FileScores(scores[0], by_modality, None if none is None else float(none[0]), self.kind)

    def _answers(self, views: ViewScores) -> ViewAnswers:
        scores = self._scores(views)
        if self.question.multi_label:
            return ViewAnswers(scores, 1 - scores.amax(dim=-1))
        return ViewAnswers(scores, none_of_these(self._log_ratios(views, _FUSED)) if self._knows_none else None)

    def _view_scores(self, features: MOVFeatures, streams: Iterable[str]) -> ViewScores:
        """On the CPU, fused and of each of the streams."""
        values: dict[Key, Tensor] = {}
        counts: dict[Key, Tensor] = {}
        if self._by_log_odds:
            index = self.model.mov.config.modalities.index
            for name in streams:
                alone = of_one_stream(features, index(name))
                values[name, _LOG_ODDS], counts[name, _LOG_ODDS] = self._log_odds(alone)
        else:
            every = torch.ones(len(features.v))
            vectors = self.question.vocabulary.vectors.to(self.model.device)
            for head in self._heads:
                alone_of = self.model.mov.log_probabilities_by_modality(features, vectors, head=head)
                logs_of = {_FUSED: head_log_probabilities(features, vectors, self.model.settings(), head=head)}
                logs_of |= {name: alone_of[name] for name in streams}
                for name, logs in logs_of.items():
                    values[name, head], counts[name, head] = logs.cpu(), every
        if self._by_log_odds or self._knows_none:
            values[_FUSED, _LOG_ODDS], counts[_FUSED, _LOG_ODDS] = self._log_odds(features)
        return ViewScores(values, counts)

    def _scores(self, views: ViewScores, modality: str = _FUSED) -> Tensor:
        """(N, K), fused or of one modality, as `kind` says."""
        if self.kind != "share" or self._by_log_odds:
            assert self.per_label is not None
            ratios = self._log_ratios(views, modality)
            if self.kind == "per-label probability":
                return self.per_label.probabilities(ratios, self.question.label_split)
            return at_most_one(ratios) if self.kind == "probability" else ratios.softmax(dim=-1)
        each = [views.values[modality, head] for head in self._heads]
        if len(each) == 1:
            return each[0].exp().float()
        offset = BaseNovelOffset.from_dict(self.model.base_novel_offset).offset_for(int((~self.is_base).sum()))
        base, novel = (p.numpy() for p in each)
        return torch.from_numpy(combine(base, novel, self.is_base, offset=offset)).float()

    def _log_odds(self, features: MOVFeatures) -> tuple[Tensor, Tensor]:
        assert self.per_label is not None
        return self.per_label.log_odds(features, self.question.label_split)

    def _log_ratios(self, views: ViewScores, modality: str) -> Tensor:
        assert self.per_label is not None
        key = (modality, _LOG_ODDS)
        return self.per_label.log_ratios_of(views.values[key], views.counts[key] > 0, self.question.label_split)
