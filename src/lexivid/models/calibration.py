"""Calibration: log odds against background labels -> likelihood ratio -> probability.

    log ratio(s) = slope s + intercept           s of a label that holds against s of one that does not
    p = sigmoid(log ratio + logit prevalence)    one label by itself

`slope` and `intercept` are fitted once for a model on clips whose labels are known (logistic regression, Platt 1999),
or assumed. `prevalence` is the share of labels that hold before a clip is seen. It is part of the answer: the same log
odds mean more in a list of five likely labels than among a thousand. As no label's score may depend on the others, it
is one in twenty for all lists; `probability` takes another value.

"None of these" is another question: either one of K labels holds, or none, with even chances beforehand:

    P(none) = 1 / (1 + mean_k ratio(s_k))

`BaseNovelOffset` is something else: it brings base and novel classes of a trained model to one scale inside a softmax,
whose scores still add up to 1 over the labels asked for (`lexivid.scoring.base_novel_offset` fits it).
Shapes: ... any leading ones, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lexivid.errors import LexividError

PREVALENCE = 0.05
"""Share of labels that hold, before a clip is seen."""

DEFAULT_THRESHOLD = 0.5
"""A label with this probability is shown, in multi-label mode."""

NONE_THRESHOLD = 0.61
"""Above this probability that no label holds, the answer is "none of these" (docs/results/none-of-these.md)."""


def says_none(probability: float | None) -> bool:
    """Whether the answer is "none of these"; None or NaN: the model cannot say."""
    return probability is not None and probability > NONE_THRESHOLD


@dataclass(frozen=True)
class Calibration:
    """The map from one model's log odds to probabilities.

    Args:
        slope, intercept: of the log likelihood ratio; all logarithms are natural.
        method: in words: fitted on what, or assumed from what.
        prevalence: the share of (clip, label) pairs that hold, beforehand.
        num_clips, num_pairs: (clip, label) pairs it was fitted on; 0 where nothing was fitted.
        fitted_prevalence: the share of these pairs that hold.
        error, error_low, error_high: expected calibration error at that prevalence, on clips left out of the fit, and
            its 95 % interval over clips. These four are None where nothing was fitted.
    """

    slope: float
    intercept: float
    method: str
    prevalence: float = PREVALENCE
    num_clips: int = 0
    num_pairs: int = 0
    fitted_prevalence: float | None = None
    error: float | None = None
    error_low: float | None = None
    error_high: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept) and self.slope > 0):
            raise LexividError(f"a calibration needs a finite slope above 0; got {self.slope} and {self.intercept}")
        if not 0 < self.prevalence < 1:
            raise LexividError(f"a prevalence lies between 0 and 1; got {self.prevalence}")

    def log_ratio(self, log_odds: Tensor) -> Tensor:
        """Log odds (..., K) -> log likelihood ratios (..., K)."""
        return self.slope * log_odds + self.intercept

    def probability(self, log_odds: Tensor, *, prevalence: float | None = None) -> Tensor:
        """Log odds (..., K) -> probabilities (..., K); `prevalence` None: its own."""
        return posterior(self.log_ratio(log_odds), self.prevalence if prevalence is None else prevalence)

    def none_of_these(self, log_odds: Tensor) -> Tensor:
        """Log odds (..., K) -> the probability (...) that no label holds."""
        return none_of_these(self.log_ratio(log_odds))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The reverse of `to_dict`; unknown keys are ignored.

        Raises:
            LexividError: a number is missing or out of range.
        """
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except TypeError as error:
            raise LexividError(f"a calibration must have slope, intercept and method: {error}") from None


@dataclass(frozen=True)
class BaseNovelOffset:
    """What a checkpoint stores.

    Args:
        offset: added to the novel head's log probabilities of labels that are not base classes.
        offsets: the same by the number of such labels, (number, offset) in ascending order; empty: always `offset`.
        method: "held-out", "classes-out", or "none".
        num_clips: clips it was fitted on, of base classes all. num_folds: vocabularies. num_views: of each clip.
        base, novel, harmonic_mean, before (at offset 0): "classes-out" alone, on those clips.
    """

    offset: float = 0.0
    offsets: tuple[tuple[int, float], ...] = ()
    method: str = "none"
    num_clips: int = 0
    num_folds: int = 0
    num_views: int = 1
    base: float | None = None
    novel: float | None = None
    harmonic_mean: float | None = None
    before: float | None = None

    def offset_for(self, num_others: int) -> float:
        """The offset for a vocabulary with so many labels that are not base classes."""
        if not self.offsets:
            return self.offset
        numbers, offsets = zip(*self.offsets, strict=True)
        return float(np.interp(np.log(max(1, num_others)), np.log(numbers), offsets))

    def other_views(self, num_views: int) -> str | None:
        """What to tell whoever scores clips by another number of views than the offset was fitted with."""
        if self.method == "none" or num_views == self.num_views:
            return None
        return (
            f"the offset between base and novel labels was fitted with {self.num_views} view(s) of a clip, and here "
            f"are {num_views}; `lexivid evaluate RUN --data DIR --protocol calibrate --views CLIPSxCROPS` fits it anew"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"offsets": [list(pair) for pair in self.offsets]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> BaseNovelOffset:
        """The reverse of `to_dict`; None or {} is no calibration. Unknown keys are ignored.

        Raises:
            LexividError: the offset is no finite number.
        """
        known = {field.name for field in fields(cls)}
        fields_given = {key: value for key, value in (values or {}).items() if key in known}
        try:
            fields_given["offsets"] = tuple(
                (int(number), float(offset)) for number, offset in fields_given.get("offsets", ())
            )
            loaded = cls(**fields_given)
            if not np.isfinite([loaded.offset, *(offset for _, offset in loaded.offsets)]).all():
                raise ValueError("not finite")
        except (TypeError, ValueError) as error:
            raise LexividError(f"a calibration's offsets must be numbers ({error}); got {dict(values or {})}") from None
        return loaded


def posterior(log_ratio: Tensor, prevalence: float) -> Tensor:
    """Log likelihood ratios (...) -> probabilities (...), for labels that hold so often beforehand.

    Raises:
        LexividError: a prevalence outside 0 to 1.
    """
    if not 0 < prevalence < 1:
        raise LexividError(f"a prevalence lies between 0 and 1; got {prevalence}")
    return torch.sigmoid(log_ratio + math.log(prevalence / (1 - prevalence)))


def at_most_one(log_ratio: Tensor) -> Tensor:
    """Log likelihood ratios (..., K) -> the probability (..., K) of each label, where at most one of them can hold.

    Beforehand the chances are even that one holds, and all labels are equally likely. The rest to 1 is
    `none_of_these`.
    """
    padded = torch.cat([log_ratio, torch.full_like(log_ratio[..., :1], math.log(log_ratio.shape[-1]))], dim=-1)
    return padded.softmax(dim=-1)[..., :-1]


def none_of_these(log_ratio: Tensor) -> Tensor:
    """Log likelihood ratios (..., K) -> the probability (...) that no label holds, where at most one can."""
    return torch.sigmoid(math.log(log_ratio.shape[-1]) - torch.logsumexp(log_ratio, dim=-1))
