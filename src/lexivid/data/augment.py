"""What varies between two looks at one training clip (MOV, section 4.2).

Pictures and flow: the standard ImageNet augmentation (random resized crop, mirroring, optionally colour), drawn once
per clip and used for all its frames and for its flow, so that motion stays motion. Sound: a random window of 8 s, then
SpecAugment (Park et al., 2019). In and out: uint8 pictures, float32 spectrograms; normalising for the backbone comes
after. Every draw comes from the `torch.Generator` (CPU) that the caller seeds: one seed, one clip, one result.

Shapes: T frames, H and W pixels, S side of the crop, F mel bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lexivid.media.spectrogram import STEPS_PER_S, window_of

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL converts to grey


@dataclass(frozen=True)
class ClipAugmentation:
    """One draw: the same box, mirror and colours for every frame of a clip and for its flow.

    Args:
        top, left, height, width: the box, as fractions of the picture, so that flow that was computed at another
            size is cut at the same place.
        mirror: whether left and right are swapped.
        brightness, contrast, saturation: factors, 1 for none; never applied to flow.
    """

    top: float
    left: float
    height: float
    width: float
    mirror: bool
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def frames(self, frames: Tensor, size: int, *, interpolation: Literal["bicubic", "bilinear"] = "bicubic") -> Tensor:
        """(T, 3, H, W) uint8 -> (T, 3, size, size) uint8."""
        out = self._crop(frames, size, interpolation)
        if self.brightness == self.contrast == self.saturation == 1.0:
            return out
        return _jitter(out.float(), self.brightness, self.contrast, self.saturation).round().to(torch.uint8)

    def flow(self, flow: Tensor, size: int, *, interpolation: Literal["bicubic", "bilinear"] = "bilinear") -> Tensor:
        """Flow as pictures (T, 3, H, W), 0..255 with 127.5 for no motion -> (T, 3, size, size), the same type.

        Mirrored, what moved right moves left: x of the horizontal channel becomes 255 - x. Colours stay, and motion is
        not rescaled with the crop: the paper treats flow as pictures.
        """
        out = self._crop(flow, size, interpolation)
        if self.mirror:
            out = torch.cat([255 - out[:, :1], out[:, 1:]], dim=1)
        return out

    def _crop(self, pictures: Tensor, size: int, interpolation: str) -> Tensor:
        height, width = pictures.shape[-2:]
        top, bottom = _pixels(self.top, self.height, height)
        left, right = _pixels(self.left, self.width, width)
        out = pictures[..., top:bottom, left:right]
        if self.mirror:
            out = out.flip(-1)
        out = F.interpolate(out, size=(size, size), mode=interpolation, antialias=True)
        return out if out.dtype == torch.uint8 else out.clamp(0, 255)  # bicubic overshoots


def _pixels(start: float, length: float, size: int) -> tuple[int, int]:
    """A part of a side as shares -> its first pixel and the one behind its last, each edge to the nearest."""
    first = min(round(start * size), size - 1)
    return first, min(max(round((start + length) * size), first + 1), size)


def sample_clip_augmentation(
    height: int,
    width: int,
    *,
    generator: Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    mirror: bool = True,
    colour: float = 0.0,
) -> ClipAugmentation:
    """Draw one augmentation for a clip whose frames are `height` x `width` pixels.

    Args:
        scale: the box's area, as a share of the picture's (ImageNet's standard, Szegedy et al., 2015).
        ratio: the box's width over its height, uniform in the logarithm.
        mirror: mirror every second clip. Off where left and right are part of the label.
        colour: brightness, contrast and saturation factors are uniform in 1 +- colour (0.4: He et al., 2019).
            Off by default, as in He et al., 2016.
    """
    mirrored = mirror and _uniform(0, 1, generator) < 0.5
    top, left, h, w = _resized_box(height, width, generator, scale, ratio)
    factors = [_uniform(1 - colour, 1 + colour, generator) if colour else 1.0 for _ in range(3)]
    return ClipAugmentation(top / height, left / width, h / height, w / width, mirrored, *factors)


def _resized_box(
    height: int, width: int, generator: Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop: ten tries, then the largest central box of an allowed shape."""
    for _ in range(10):
        area = height * width * _uniform(*scale, generator)
        shape = math.exp(_uniform(math.log(ratio[0]), math.log(ratio[1]), generator))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return _integer(height - h, generator), _integer(width - w, generator), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def _jitter(pictures: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """(T, 3, H, W) float 0..255 -> the same; each factor blends with black, the clip's mean grey, and grey."""
    luma = torch.tensor(_LUMA, device=pictures.device).view(3, 1, 1)
    pictures = (pictures * brightness).clamp(0, 255)
    mean = (pictures * luma).sum(dim=1).mean()  # of the whole clip: a mean per frame would flicker
    pictures = (mean + contrast * (pictures - mean)).clamp(0, 255)
    grey = (pictures * luma).sum(dim=1, keepdim=True)
    return (grey + saturation * (pictures - grey)).clamp(0, 255)


def random_window(spectrogram: Tensor, *, generator: Generator, num_steps: int = 8 * STEPS_PER_S) -> Tensor:
    """(3, F, S) -> (3, F, num_steps): all bins of a random 8 s.

    A sound shorter than that is repeated from a random moment on (why not padded: see `window_of`).
    """
    total = spectrogram.shape[-1]
    start = _integer(total - num_steps if total >= num_steps else max(0, total - 1), generator)
    return window_of(spectrogram, num_steps, start=start)


def spec_augment(
    spectrogram: Tensor,
    *,
    generator: Generator,
    max_time_steps: int = 192,
    max_mel_bins: int = 48,
    num_masks: int = 1,
) -> Tensor:
    """Mask up to 192 steps (1.92 s) and up to 48 mel bins of a normalised spectrogram (3, F, S) with 0, its mean.

    Widths are uniform from 0 to the given range, places uniform over where they fit; all three channels alike.
    Returns a copy.
    """
    out = spectrogram.clone()
    num_bins, num_steps = out.shape[-2:]
    for _ in range(num_masks):
        width = _integer(min(max_time_steps, num_steps), generator)
        start = _integer(num_steps - width, generator)
        out[..., :, start : start + width] = 0.0
        width = _integer(min(max_mel_bins, num_bins), generator)
        start = _integer(num_bins - width, generator)
        out[..., start : start + width, :] = 0.0
    return out


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _integer(high: int, generator: Generator) -> int:
    """0..high, both included."""
    return int(torch.randint(high + 1, (), generator=generator))
