"""Labels judged one by one by a trained model: features of a clip -> each label's probability, and "none of these".

    features (N, ...) --standing, by the path of each label--> (N, K) --mean over views--> log likelihood ratios
    several labels may hold:  p_k = sigmoid(log ratio_k + logit prevalence)
    one label does:           p_k = softmax(log ratio)_k,   P(none) = 1 / (1 + mean_k ratio_k)

Labels that the model was trained on take its base path, others its novel path; what a standing on either is worth was
fitted on held-out clips (`lexivid.labels.evidence`), so both are on one scale and no offset is needed between them. The
softmax over log ratios is the belief in each label if exactly one holds, all alike before looking.

Where a view or a window has no stream at all, nothing is known: its log ratios are 0, and it counts in no mean.
Shapes: N views or windows, K labels, J unrelated phrases, D embedding width, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lexivid.labels.evidence import posterior
from lexivid.models.mov import MOVFeatures
from lexivid.models.standing import Path_, no_evidence
from lexivid.models.trained import TrainedModel

VocabularyIs = Literal["base", "novel", "mixed"]


@dataclass(frozen=True)
class TrainedJudge:
    """Says of each label by itself whether a clip shows it.

    Attributes:
        model: whose paths and evidence are used.
        labels, background: (K, D) and (J, D) or None, see `lexivid.models.label_vectors.standing_vectors`.
        is_base: (K,) bool, labels that the model was trained on.
    """

    model: TrainedModel
    labels: Tensor
    background: Tensor | None
    is_base: Tensor

    @property
    def method(self) -> str:
        """What its probabilities rest on, in words."""
        return "; ".join(dict.fromkeys(found.method for found in self.model.evidence.values()))

    @property
    def is_fitted(self) -> bool:
        """Whether anything was fitted at all; which paths it was, `check` says."""
        return bool(self.model.evidence)

    def lacks(self, kind: VocabularyIs) -> str | None:
        """The path that labels would take and nothing was fitted on; None: all is fitted."""
        return next((path for path in self._paths(kind) if path not in self.model.evidence), None)

    def check(self, kind: VocabularyIs) -> None:
        """Whether each label has a probability.

        Raises:
            ModelError: nothing was fitted on a path that labels take.
        """
        if (path := self.lacks(kind)) is not None:
            raise no_evidence(path, not_fitted=self.model.not_fitted)

    def log_ratios(self, features: MOVFeatures, kind: VocabularyIs, *, mean: bool) -> Tensor:
        """How much likelier these features are if a label holds than if not: (N, K), or of their mean standing (1, K),
        natural logarithm, float64, on the CPU.

        Of a model with a sigmoid and no evidence, its own log odds, whose offset nobody fitted: they order labels.
        """
        standing, seen = self.standings(features, kind)
        if mean:
            standing = (standing * seen[:, None]).sum(dim=0, keepdim=True) / seen.sum().clamp_min(1)
            seen = seen.any(dim=0, keepdim=True)
        return self.of_standings(standing, seen, kind)

    def standings(self, features: MOVFeatures, kind: VocabularyIs) -> tuple[Tensor, Tensor]:
        """How far each label stands by itself (N, K), and whether a view has any stream (N,) bool; on the CPU."""
        device = features.v.device
        labels = self.labels.to(device)
        background = None if self.background is None else self.background.to(device)
        standing = self._by_path(
            kind, lambda path: self.model.standing(features, labels, path=path, background=background).cpu()
        )
        return standing, features.mask.any(dim=1).cpu()

    def of_standings(self, standing: Tensor, seen: Tensor, kind: VocabularyIs) -> Tensor:
        """Log likelihood ratios of standings (N, K), as `log_ratios`."""
        evidence = self.model.evidence if self.lacks(kind) is None else {}
        ratios = self._by_path(kind, lambda path: evidence[path].log_ratio(standing) if path in evidence else standing)
        return torch.where(seen[:, None], ratios, 0.0)

    def probabilities(self, log_ratios: Tensor, kind: VocabularyIs) -> Tensor:
        """Each label by itself: (..., K) -> (..., K)."""
        return self._by_path(kind, lambda path: posterior(log_ratios, self.model.evidence[path].prevalence))

    def _paths(self, kind: VocabularyIs) -> tuple[Path_, ...]:
        if kind != "mixed":
            return (kind,)
        return (*(("base",) if self.is_base.any() else ()), *(("novel",) if not self.is_base.all() else ()))

    def _by_path(self, kind: VocabularyIs, of: Callable[[Path_], Tensor]) -> Tensor:
        """`of` each path that labels take, (..., K), joined label by label."""
        first, *second = (of(path) for path in self._paths(kind))
        return torch.where(self.is_base, first, second[0]) if second else first


def of_one_stream(features: MOVFeatures, place: int) -> MOVFeatures:
    """As if a clip had this stream alone (its number in the model's modalities), with the features of the whole."""
    only = torch.zeros_like(features.mask)
    only[:, place] = features.mask[:, place]
    return features._replace(mask=only)
