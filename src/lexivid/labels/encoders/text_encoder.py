"""CLIP's text encoder, read from word vectors in place of words: what soft attributes are put into.

    [start] [attributes] own words [end]  --frozen text encoder of transformers-->  (K, D)

transformers' own text model takes words alone, so its pieces are run here: word vectors, positions, layers, last norm,
projection. Without attributes that is equal to its own forward pass. Nothing here is trained: gradients pass through to
the attributes.

Shapes: K labels, A attributes a label, L tokens, W the text encoder's width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexivid.backbones.base import Backbone, weights_of
from lexivid.backbones.clip import ClipBackbone
from lexivid.errors import ModelError


class FrozenTextEncoder(nn.Module):
    """The text half of a CLIP-family model, copied, float32, frozen, in evaluation mode for ever.

    Raises:
        ModelError: a backbone of another kind.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        if not isinstance(backbone, ClipBackbone):
            raise ModelError(
                f"model {backbone.name!r} has no text encoder that reads word vectors: soft attributes need one of the "
                "CLIP family"
            )
        self.backbone_weights = weights_of(backbone)
        self.tokenizer = backbone.tokenizer
        self.text: Any = deepcopy(backbone.model.text_model).float()
        self.projection: nn.Module = deepcopy(getattr(backbone.model, "text_projection", nn.Identity())).float()
        self.context_length = backbone.max_text_tokens
        self.embedding_dim = backbone.embedding_dim
        # SigLIP pools by a head at the last place of a sentence padded to full length, and sees all of it at once.
        self.is_causal = not hasattr(self.text, "head")
        *start, end = self.tokenizer("")["input_ids"][:2]
        self.start, self.end = [int(token) for token in start], int(end)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenTextEncoder:
        """Stays in evaluation mode whatever `mode` says."""
        super().train(False)
        return self

    @property
    def word_vectors(self) -> Tensor:
        """(vocabulary, W)."""
        return self.text.embeddings.token_embedding.weight

    @property
    def width(self) -> int:
        """W."""
        return self.word_vectors.shape[1]

    def forward(
        self, labels: Sequence[str], attributes: Tensor | None = None, *, include_label_tokens: bool = True
    ) -> Tensor:
        """Unit vectors of K labels.

        Args:
            labels: K texts; what does not fit into the context length beside the attributes is cut off at the end.
            attributes: (K, A, W), put between the start and the label's own words; None: none.
            include_label_tokens: whether the label's own words follow.

        Returns:
            (K, D) float32.

        Raises:
            ModelError: the attributes alone do not fit into the context length.
        """
        num_attributes = 0 if attributes is None else attributes.shape[1]
        room = self.context_length - len(self.start) - num_attributes - 1
        if room < 0:
            raise ModelError(
                f"{num_attributes} soft attributes do not fit: this text encoder reads {self.context_length} tokens"
            )
        label_tokens = [self._words(label)[:room] if include_label_tokens else [] for label in labels]
        before = len(self.start) + num_attributes
        ends = torch.tensor([before + len(words) for words in label_tokens], device=self.word_vectors.device)
        length = int(ends.max()) + 1 if self.is_causal else self.context_length
        pad = self.end if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        rows = [[*self.start, *[pad] * num_attributes, *words, self.end] for words in label_tokens]
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows], device=self.word_vectors.device)
        x = self.text.embeddings.token_embedding(ids)  # (K, L, W)
        if attributes is not None:
            x = torch.cat([x[:, : len(self.start)], attributes.to(x.dtype), x[:, before:]], dim=1)
        x = x + self.text.embeddings.position_embedding.weight[:length]
        mask = None
        if self.is_causal:  # a token sees what stands before it; so what pads the end is never seen
            mask = torch.full((length, length), torch.finfo(x.dtype).min, device=x.device, dtype=x.dtype).triu(1)
            mask = mask.expand(len(x), 1, length, length)
        x = self.text.encoder(inputs_embeds=x, attention_mask=mask).last_hidden_state
        x = self.text.final_layer_norm(x)
        if self.is_causal:
            x = self.projection(x[torch.arange(len(x), device=x.device), ends])
        else:
            x = self.text.head(x[:, -1])
        return F.normalize(x, dim=-1)

    def _words(self, label: str) -> list[int]:
        return list(self.tokenizer(label, add_special_tokens=False, verbose=False)["input_ids"])
