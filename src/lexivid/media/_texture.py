"""The texture of a picture: what is left when its large shapes, which carry the light, are taken out.

    picture I (N, H, W) --ROF--> structure S     I - 0.95 S: the texture, and a little structure

Light that changes (flicker, fades) changes the structure most, so flow between textures follows light less. Structure
is the picture of least total variation near I (Rudin, Osher, Fatemi 1992), solved in the dual (Chambolle 2004); taking
most of it out before TV-L1 is section 2.3 of Wedel, Pock, Zach, Bischof, Cremers: "An Improved Algorithm for TV-L1
Optical Flow" (2009), whose theta (1/8 for values in -1..1) and share these are; 30 steps take out as much flicker as
their 100.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

THETA = 0.125 * 127.5
"""How far structure may be from the picture: of grey values in 0..255."""
SHARE = 0.95
"""Of the structure that is taken out."""
_STEPS = 30
_STEP_SIZE = 0.25  # the largest that converges


@torch.inference_mode()
def texture_of(grey: Tensor) -> Tensor:
    """(N, H, W) float32 in 0..255 -> the same shape and range; a picture without edges becomes 127.5 or near it."""
    shifted = grey - 127.5
    structure = _structure(shifted)
    return (127.5 + shifted - SHARE * structure).clamp(0, 255)


def _structure(grey: Tensor) -> Tensor:
    """The picture of least total variation near `grey`: S = I + theta div p, with |p| at most 1."""
    px, py = torch.zeros_like(grey), torch.zeros_like(grey)
    structure = grey
    for _ in range(_STEPS):
        px[..., :-1] += _STEP_SIZE / THETA * (structure[..., 1:] - structure[..., :-1])
        py[..., :-1, :] += _STEP_SIZE / THETA * (structure[..., 1:, :] - structure[..., :-1, :])
        length = torch.hypot(px, py).clamp_(min=1)
        px /= length
        py /= length
        div = px - F.pad(px[..., :-1], (1, 0)) + py - F.pad(py[..., :-1, :], (0, 0, 1, 0))
        structure = grey + THETA * div
    return structure
