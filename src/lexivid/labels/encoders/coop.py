"""Learned context: vectors before a label, the same for all labels, in place of a sentence (CoOp, Zhou et al. 2022).

    [start] context, label's tokens [end] -> frozen CLIP text encoder -> (K, D)

The comparison system of OVML: what is learned without a language model. Shapes: K labels, C context vectors, W the text
encoder's width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lexivid.errors import ModelError
from lexivid.labels.encoders.base import TrainedLabelEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder


class LearnedContextEncoder(TrainedLabelEncoder):
    """A label encoder of C learned vectors, which start as random ones of deviation 0.02 (the paper's).

    Args:
        text_encoder: frozen. num_context: C.
    """

    kind = "learned_context"

    def __init__(self, text_encoder: FrozenTextEncoder, *, num_context: int = 8) -> None:
        super().__init__()
        if num_context < 1:
            raise ModelError(f"num_context must be at least 1; got {num_context}")
        self.text_encoder = text_encoder
        vectors = 0.02 * torch.randn(num_context, text_encoder.width)
        self.context = nn.Parameter(vectors.to(text_encoder.word_vectors.device))

    def forward(self, labels: Sequence[str]) -> Tensor:
        if not labels:
            return torch.zeros(0, self.text_encoder.embedding_dim, device=self.context.device)
        return self.text_encoder(labels, self.context.expand(len(labels), -1, -1))

    def settings(self) -> dict[str, Any]:
        return {"num_context": len(self.context)}

    @classmethod
    def from_settings(
        cls, about: Mapping[str, Any], text_encoder: FrozenTextEncoder, *, device: str | torch.device
    ) -> LearnedContextEncoder:
        return cls(text_encoder, num_context=about["num_context"])
