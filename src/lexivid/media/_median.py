"""The exact 5 x 5 median as a network of minima and maxima (no sorting, no branches: it runs on any vector unit).

The five values of each column are sorted first; neighbouring windows share that work. Of the 25 values, now in rows
of equal rank, 58 comparisons select the 13th. The network was pruned from sorted rows and Batcher's merge exchange,
and is checked in the tests on all 7,776 binary inputs that sorted columns allow (the 0-1 principle: that proves it).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SORT_5 = ((0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3))
"""Comparators (low, high) that sort five values."""

# fmt: off
SELECT_13TH_OF_25 = (
    (0, 3), (1, 4), (0, 2), (1, 3), (2, 4), (2, 3), (5, 8), (5, 7), (6, 8), (5, 6), (7, 9), (6, 7), (8, 9), (7, 8),
    (10, 13), (11, 14), (10, 12), (10, 11), (12, 14), (11, 12), (13, 14), (15, 18), (16, 19), (15, 17), (15, 16),
    (17, 19), (16, 17), (17, 18), (20, 23), (21, 24), (20, 22), (21, 23), (20, 21), (22, 24), (21, 22), (15, 7),
    (11, 3), (12, 4), (20, 13), (16, 8), (21, 9), (7, 3), (12, 20), (4, 13), (7, 11), (4, 20), (11, 20), (16, 17),
    (11, 12), (3, 4), (21, 17), (4, 20), (8, 21), (12, 16), (4, 8), (3, 4), (20, 16), (4, 20),
)
# fmt: on
"""Comparators (low, high) after which value 20 is the median; value 5 * r + c is the r-th smallest of column c."""
MEDIAN_AT = 20


def _compare(values: list[Tensor], low: int, high: int) -> None:
    values[low], values[high] = torch.minimum(values[low], values[high]), torch.maximum(values[low], values[high])


def median_5x5(planes: Tensor) -> Tensor:
    """The median of each pixel's 5 x 5 neighbourhood, the border replicated: (..., H, W) -> (..., H, W), exact."""
    height, width = planes.shape[-2:]
    padded = F.pad(planes.reshape(1, -1, height, width), (2, 2, 2, 2), mode="replicate")
    ranks = [padded[..., dy : dy + height, :] for dy in range(5)]
    for low, high in SORT_5:
        _compare(ranks, low, high)
    window = [rank[..., dx : dx + width] for rank in ranks for dx in range(5)]
    for low, high in SELECT_13TH_OF_25:
        _compare(window, low, high)
    return window[MEDIAN_AT].reshape(planes.shape)
