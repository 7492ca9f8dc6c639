"""What a label's standing above unrelated words is worth: a likelihood ratio, and from it probabilities.

    log ratio(s) = slope s + intercept           how much likelier s is of a label that holds than of one that does not
    p = sigmoid(log ratio + logit prevalence)    one label, judged by itself

`slope` and `intercept` are fitted once for a model on clips whose labels are known (logistic regression, Platt 1999),
or assumed. `prevalence` is how often a label of a list holds, before looking. It is part of the answer: the same
standing in a list of five likely labels deserves more belief than among a thousand. As no label's score may depend on
the others', it is the same for all lists, one in twenty; who knows better says so (`probability`).

"None of these" asks something else: either one of K labels holds, or none, with even chances before looking, so that

    P(none) = 1 / (1 + mean_k ratio(s_k))

This is not `lexivid.evaluation.calibration`, which brings base and novel classes of a trained model to one scale inside
a softmax, and whose scores are still shares among the labels asked for.
Shapes: ... any leading ones, K labels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from lexivid.errors import LexividError

PREVALENCE = 0.05
"""What is believed of a label before looking."""

DEFAULT_THRESHOLD = 0.5
"""A label with this probability is shown, in multi-label mode; above it, "none of these" is said."""


@dataclass(frozen=True)
class Evidence:
    """What one model's standings are worth.

    Args:
        slope, intercept: of the log likelihood ratio; all logarithms are natural.
        method: in words: fitted on what, or assumed from what.
        prevalence: the share of (clip, label) pairs that hold, before looking.
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
            raise LexividError(f"evidence needs a finite slope above 0; got {self.slope} and {self.intercept}")
        if not 0 < self.prevalence < 1:
            raise LexividError(f"a prevalence lies between 0 and 1; got {self.prevalence}")

    def log_ratio(self, standing: Tensor) -> Tensor:
        """Standings (..., K) -> log likelihood ratios (..., K)."""
        return self.slope * standing + self.intercept

    def probability(self, standing: Tensor, *, prevalence: float | None = None) -> Tensor:
        """Standings (..., K) -> probabilities (..., K); `prevalence` None: its own."""
        return posterior(self.log_ratio(standing), self.prevalence if prevalence is None else prevalence)

    def none_of_these(self, standing: Tensor) -> Tensor:
        """Standings (..., K) -> the probability (...) that no label holds."""
        return none_of_these(self.log_ratio(standing))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evidence:
        """The reverse of `to_dict`; unknown keys are ignored.

        Raises:
            LexividError: a number is missing, or is none that evidence can have.
        """
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except TypeError as error:
            raise LexividError(f"evidence must have slope, intercept and method: {error}") from None


# The standing taken at its word, as the log ratio that a softmax over pairs learns. It is no fit: models are often too
# sure of themselves (`lite`'s slope is 0.6), and it has been checked on no CLIP.
ASSUMED = Evidence(1.0, 0.0, "assumed: the model's softmax against everyday words, taken at its word; not fitted")


def posterior(log_ratio: Tensor, prevalence: float) -> Tensor:
    """Log likelihood ratios (...) -> probabilities (...), for labels that hold so often before looking.

    Raises:
        LexividError: a prevalence outside 0 to 1.
    """
    if not 0 < prevalence < 1:
        raise LexividError(f"a prevalence lies between 0 and 1; got {prevalence}")
    return torch.sigmoid(log_ratio + math.log(prevalence / (1 - prevalence)))


def none_of_these(log_ratio: Tensor) -> Tensor:
    """Log likelihood ratios (..., K) -> the probability (...) that no label holds, where at most one can."""
    return torch.sigmoid(math.log(log_ratio.shape[-1]) - torch.logsumexp(log_ratio, dim=-1))


def evidence_for(weights: str) -> Evidence:
    """What was fitted for the model of these weights (`lexivid.backbones.base.weights_of`), or else `ASSUMED`."""
    return _stored().get(weights, ASSUMED)


@cache
def _stored() -> dict[str, Evidence]:
    text = (files("lexivid.labels") / "background" / "evidence.json").read_text(encoding="utf-8")
    return {weights: Evidence.from_dict(values) for weights, values in json.loads(text).items()}
