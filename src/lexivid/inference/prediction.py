"""What a classifier says: labels with scores, segments of a timeline, and how scores become these.

Shapes: K labels, W windows and H hops of a timeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lexivid.models.calibration import DEFAULT_THRESHOLD, says_none

if TYPE_CHECKING:
    from lexivid.scoring.per_label import PerLabelScorer, TrainedPerLabelScorer


ScoreKind = Literal["share", "probability", "per-label probability"]
"""What scores are.

    share                   softmax: the shares of all labels asked for sum to 1
    probability             of one or two labels: that the label holds, if at most one of them can; the rest to 1 is
                            `none_of_these`
    per-label probability   multi-label mode: that the label holds, whatever the others do
"""
NONE_OF_THESE = "none of these"


@dataclass(frozen=True)
class LabelScore:
    """A label and its score, 0..1, see `ScoreKind`."""

    label: str
    score: float


@dataclass(frozen=True)
class Segment:
    """A stretch of a timeline; its scores are means over its windows.

    Of all labels, best first. In multi-label mode of the one label that holds there, or of none; segments overlap.

    none_of_these: the probability that no label holds there; None: the model cannot say.
    """

    start_s: float
    end_s: float
    labels: tuple[LabelScore, ...]
    none_of_these: float | None = None

    @property
    def answer(self) -> str:
        """The best label, or `NONE_OF_THESE`."""
        return NONE_OF_THESE if not self.labels or says_none(self.none_of_these) else self.labels[0].label


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a classifier says of one file.

    Attributes:
        labels: all labels, best first. by_modality: the same for each stream alone.
        multi_label: whether labels are scored one by one.
        score_kind: what the scores are.
        none_of_these: the probability that no label holds (in multi-label mode that the best one does not); None where
            the model cannot say.
        segments: of a timeline, in time order; None where none was asked for.
        error: why the file could not be classified; `labels` is then empty.
        thumbnails: (time_s, frame (3, h, w) uint8) pairs, where asked for.
    """

    path: str
    model: str
    duration_s: float | None = None
    modalities: tuple[str, ...] = ()
    labels: tuple[LabelScore, ...] = ()
    by_modality: dict[str, tuple[LabelScore, ...]] = field(default_factory=dict)
    multi_label: bool = False
    score_kind: ScoreKind = "share"
    none_of_these: float | None = None
    segments: tuple[Segment, ...] | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None
    thumbnails: tuple[tuple[float, Tensor], ...] = field(default=(), repr=False, compare=False)

    @property
    def answer(self) -> str | None:
        """The best label, or `NONE_OF_THESE`; None for a file that could not be classified."""
        if not self.labels:
            return None
        is_none = self.labels[0].score < DEFAULT_THRESHOLD if self.multi_label else says_none(self.none_of_these)
        return NONE_OF_THESE if is_none else self.labels[0].label

    def __repr__(self) -> str:
        name = Path(self.path).name
        if self.error is not None:
            return f"<Prediction {name!r}: failed: {self.error[:80]}>"
        best = ", ".join(f"{x.label} {x.score:.0%}" for x in self.labels[:3])
        segments = "" if self.segments is None else f", {len(self.segments)} segments"
        none = f", none of these {self.none_of_these:.0%}" if says_none(self.none_of_these) else ""
        return f"<Prediction {name!r}: {best}{none}{segments}>"

    def top(self, k: int = 5) -> tuple[LabelScore, ...]:
        """The k best labels (all of them for k = 0)."""
        return self.labels[: k or None]

    def to_dict(self, *, top_k: int = 0, threshold: float = 0.0) -> dict[str, Any]:
        """The JSON object of the command line.

        Args:
            top_k: the most labels in each list (0: all of them).
            threshold: labels that score less are left out.
        """

        def rows(labels: Sequence[LabelScore]) -> list[dict[str, Any]]:
            return [
                {"label": x.label, "score": round(x.score, 6)} for x in labels[: top_k or None] if x.score >= threshold
            ]

        def answer(of: Prediction | Segment) -> str | None:
            """None: the best label scores less than the threshold."""
            if self.multi_label and of.labels:
                return of.labels[0].label if of.labels[0].score >= threshold else NONE_OF_THESE
            enough = of.answer == NONE_OF_THESE or (of.labels and of.labels[0].score >= threshold)
            return of.answer if enough else None

        result: dict[str, Any] = {
            "path": self.path,
            "duration_s": None if self.duration_s is None else round(self.duration_s, 3),
            "model": self.model,
            "modalities": list(self.modalities),
            "labels": rows(self.labels),
            "answer": answer(self),
            "score_kind": self.score_kind,
            "multi_label": self.multi_label,
            "none_of_these": None if self.none_of_these is None else round(self.none_of_these, 6),
            "by_modality": {name: rows(labels) for name, labels in self.by_modality.items()},
        }
        if self.segments is not None:
            result["segments"] = [
                {
                    "start_s": round(s.start_s, 3),
                    "end_s": round(s.end_s, 3),
                    "labels": rows(s.labels),
                    "answer": answer(s),
                    "none_of_these": None if s.none_of_these is None else round(s.none_of_these, 6),
                }
                for s in self.segments
            ]
        return result | {"warnings": list(self.warnings), "error": self.error}

    def without_thumbnails(self) -> Prediction:
        """The same prediction, light enough to be kept by the thousand."""
        return replace(self, thumbnails=())

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Prediction:
        """The inverse of `to_dict`, as far as the row goes."""

        def scores(rows: Sequence[dict[str, Any]]) -> tuple[LabelScore, ...]:
            return tuple(LabelScore(x["label"], x["score"]) for x in rows)

        return cls(
            row["path"],
            row["model"],
            duration_s=row["duration_s"],
            modalities=tuple(row["modalities"]),
            labels=scores(row["labels"]),
            by_modality={name: scores(rows) for name, rows in row["by_modality"].items()},
            multi_label=row["multi_label"],
            score_kind=row["score_kind"],
            none_of_these=row["none_of_these"],
            segments=tuple(
                Segment(s["start_s"], s["end_s"], scores(s["labels"]), s["none_of_these"]) for s in row["segments"]
            )
            if "segments" in row
            else None,
            warnings=tuple(row["warnings"]),
            error=row["error"],
        )


@dataclass(frozen=True)
class Vocabulary:
    """Labels with their unit vectors (K, D): made once by `Classifier.prepare`, used for any number of files.

    labels: as they are shown. phrases: as the model reads them; mostly the same (`lexivid.labels.names`).
    templates: name of the sentences around a label; None: a trained label encoder, which needs none.
    per_label: scores each label by itself; None: the model cannot.
    """

    labels: tuple[str, ...]
    vectors: Tensor
    templates: str | None
    warnings: tuple[str, ...] = ()
    per_label: PerLabelScorer | TrainedPerLabelScorer | None = None
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.phrases:
            object.__setattr__(self, "phrases", self.labels)


def ranked(scores: Tensor, vocabulary: Vocabulary) -> tuple[LabelScore, ...]:
    """Scores (K,) as labels, best first."""
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    values = scores.tolist()
    return tuple(LabelScore(vocabulary.labels[i], values[i]) for i in order)


def pick_thumbnails(times_s: np.ndarray, frames: Tensor, count: int) -> tuple[tuple[float, Tensor], ...]:
    if not count:
        return ()
    order = np.argsort(times_s, kind="stable")
    chosen = dict.fromkeys(order[np.linspace(0, len(order) - 1, count).astype(int)].tolist())
    unique = {float(times_s[i]): frames[i].clone() for i in chosen}
    return tuple(unique.items())
