"""The two heads of a model: features -> log probabilities over labels.

    base    labels that were trained: eq. 10, or the mean over modalities (score fusion, table 5)
    novel   all others: eq. 11 and 12

Of a model trained with a sigmoid both are each label's own probability (`lexivid.scoring.log_odds`).
Shapes: B clips, K labels, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lexivid.models.mov import (
    BaseScore,
    Head,
    MOVFeatures,
    base_weights,
    log_mean,
    log_predict_novel,
    log_probabilities,
)
from lexivid.models.trained import TrainedModel
from lexivid.scoring.log_odds import log_odds


def head_log_probabilities(features: MOVFeatures, labels: Tensor, settings: Mapping[str, Any], *, head: Head) -> Tensor:
    """Labels (K, D) -> (B, K) float64.

    Args:
        settings: as `lexivid.models.trained.TrainedModel.settings` gives them.
    """
    s = settings
    if s.get("scales") is not None:
        return F.logsigmoid(log_odds(features, labels, s, head=head))
    if head == "base":
        return log_base_probabilities(features, labels, tau=s["tau"], how=s["base_score"])
    return log_predict_novel(
        features.v, features.x_m, labels, beta=s["beta"], tau_v=s["tau_v"], tau_x=s["tau_x"], mask=features.mask
    )


def predict(model: TrainedModel, features: MOVFeatures, labels: Tensor, *, head: Head) -> Tensor:
    """Probabilities of a trained model: labels (K, D) -> (B, K) float32."""
    return head_log_probabilities(features, labels, model.settings(), head=head).exp().float()


def log_base_probabilities(features: MOVFeatures, labels: Tensor, *, tau: float, how: BaseScore = "v_m") -> Tensor:
    """Of base classes, (B, p) float64: eq. 10, or the "mean" of v_m, f_m and a_m (score fusion, table 5)."""
    each = [log_probabilities(x, labels, tau=tau) for x in (features.v_m, *features.x_m.values())]
    return log_mean(each, base_weights(features.mask, how))
