"""How a backbone wants its pictures: resize, crop and normalise in torch, equal to the reference processors.

In: one RGB frame (3, H, W) uint8, as decoded. Out: crops (V, T, 3, S, S) uint8, then float32, normalised.
Resizing happens frame by frame while a file is decoded, so that full-size frames are never collected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

# A frame more oblong than this is squeezed to it: a strip of 1 x 16,000 pixels must not grow to gigabytes.
_MAX_ASPECT = 16


@dataclass(frozen=True)
class ImageProcessing:
    """What a backbone's own image processor does, as numbers.

    Args:
        resize_to: the short side after resizing ("short_side"), or both sides ("squash"), in pixels.
        crop_size: side of the square crop, in pixels.
        mean, std: per channel, for values in 0..1.
        interpolation: "bicubic" or "bilinear", always antialiased, as PIL does it.
        fit: "short_side" keeps the aspect ratio and crops; "squash" stretches the whole frame into the square.
    """

    resize_to: int
    crop_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fit: Literal["short_side", "squash"] = "short_side"

    def resize(self, frame: Tensor, *, keep_aspect: bool = False) -> Tensor:
        """Resize one frame (3, H, W) uint8 to (3, h, w) uint8.

        keep_aspect: resize by the short side even where `fit` is "squash" (needed for more than one crop).
        """
        height, width = frame.shape[-2:]
        if self.fit == "squash" and not keep_aspect:
            size = (self.resize_to, self.resize_to)
        else:  # the long side is truncated, as the reference processors do
            short = min(height, width)
            longest = _MAX_ASPECT * self.resize_to
            size = (
                min(max(1, height * self.resize_to // short), longest),
                min(max(1, width * self.resize_to // short), longest),
            )
        if size == (height, width):
            return frame
        return F.interpolate(frame[None], size=size, mode=self.interpolation, antialias=True)[0]

    def crops(self, frames: Tensor, num_crops: int = 1) -> Tensor:
        """Square crops of resized frames (T, 3, h, w) -> (num_crops, T, 3, S, S).

        One crop is the centre; more are spread evenly along the long side (3: start, centre, end), as in
        multi-view testing of video models (MOV, section 4.2). A side shorter than S is padded with zeros.
        """
        size = self.crop_size
        height, width = frames.shape[-2:]
        if height < size or width < size:
            pad_h, pad_w = max(0, size - height), max(0, size - width)
            frames = F.pad(frames, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
            height, width = frames.shape[-2:]
        crops = []
        for i in range(num_crops):
            position = 0.5 if num_crops == 1 else i / (num_crops - 1)
            top = int((height - size) * (position if height > width else 0.5))
            left = int((width - size) * (position if width >= height else 0.5))
            crops.append(frames[..., top : top + size, left : left + size])
        return torch.stack(crops)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(..., 3, S, S) uint8 -> float32 of the same shape, (x / 255 - mean) / std."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.float() / 255 - mean) / std
