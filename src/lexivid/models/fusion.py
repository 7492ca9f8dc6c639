"""The three blocks that MOV is made of: temporal layer, cross-attention layer, audio MLP (MOV, sections 3.1 and 3.2).

All are pre-norm residual blocks over tokens of width D. In a pre-norm stream every block adds to its input, so two
things decide whether what the backbone knows survives (both measured, docs/results/motion.md): tokens must come in at
the scale sqrt(D), which is the caller's part, and with `zero_init` every block starts as the identity.

Shapes: B clips, T tokens, S context tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention of queries (B, T, D) over a context (B, S, D): MSA where both are the same, else MCA."""

    def __init__(self, dim: int, num_heads: int, *, zero_init: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        if zero_init:
            _zero(self.out)

    def forward(self, x: Tensor, context: Tensor, *, context_mask: Tensor | None = None) -> Tensor:
        """(B, T, D), (B, S, D), mask (B, S) bool or None -> (B, T, D).

        A context token whose mask is false has no weight at all, not merely little; a clip without any context gets
        exact zeros, not the output's bias, so that a missing stream adds nothing.
        """
        q, k, v = (
            layer(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, T or S, D / heads)
            for layer, tokens in ((self.query, x), (self.key, context), (self.value, context))
        )
        if context_mask is None:
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        has_context = context_mask.any(dim=1)[:, None]  # (B, 1)
        attend = (context_mask | ~has_context)[:, None, None]  # softmax over nothing would be NaN: let it see all ...
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attend).transpose(1, 2).flatten(2)
        return torch.where(has_context[..., None], self.out(out), 0.0)  # ... and drop what it saw


class MLP(nn.Module):
    """Linear, GELU, linear: (..., D) -> (..., D) through ratio * D."""

    def __init__(self, dim: int, ratio: float, *, zero_init: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, int(dim * ratio))
        self.fc2 = nn.Linear(int(dim * ratio), dim)
        if zero_init:
            _zero(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TemporalLayer(nn.Module):
    """One transformer layer of phi_v or phi_f: eq. 2 and 3."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, *, zero_init: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, zero_init=zero_init)
        self.mlp = MLP(dim, mlp_ratio, zero_init=zero_init)

    def forward(self, z: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        normed = self.norm1(z)
        y = self.attention(normed, normed) + z  # eq. 2
        return self.mlp(self.norm2(y)) + y  # eq. 3


class AudioLayer(nn.Module):
    """The MLP of eq. 4 on the one audio token, as the pre-norm residual block of eq. 3: MLP(LN(a)) + a.

    The paper writes a_t = MLP(a) and says no more. A plain MLP would begin by replacing the backbone's feature with a
    random one, and could not be zero-initialised; the residual lets audio start where video and flow do.
    """

    def __init__(self, dim: int, mlp_ratio: float, *, zero_init: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_ratio, zero_init=zero_init)

    def forward(self, a: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), each token by itself."""
        return self.mlp(self.norm(a)) + a


class CrossLayer(nn.Module):
    """One layer of cross-attention: eq. 5 and 6, or 7 and 8, before the pooling.

    Queries and context have separate layer norms (section 4.2). `has_context=False` leaves the attention out, for a
    model with no other modality: the MLP remains.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, *, zero_init: bool, has_context: bool = True
    ) -> None:
        super().__init__()
        if has_context:
            self.norm_query, self.norm_context = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.attention = Attention(dim, num_heads, zero_init=zero_init)
        self.has_context = has_context
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_ratio, zero_init=zero_init)

    def forward(self, x: Tensor, context: Tensor | None, *, context_mask: Tensor | None = None) -> Tensor:
        """(B, T, D), (B, S, D), mask (B, S) bool -> (B, T, D)."""
        if self.has_context:
            assert context is not None
            # eq. 5 and 7
            x = self.attention(self.norm_query(x), self.norm_context(context), context_mask=context_mask) + x
        return self.mlp(self.norm_mlp(x)) + x  # eq. 6 and 8


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
