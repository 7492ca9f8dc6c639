"""Frames that hold two moments, one in their even lines and one in their odd lines ("interlaced") -> one moment.

The even lines are one field, half a picture taken at one moment. Where the lines between them comb, as moving things
do, they are computed anew from the field; where they do not, they are kept, so still parts and frames that were only
marked as interlaced keep their detail.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from av.video.frame import VideoFrame
from torch.nn import functional as F

Convert = Callable[[VideoFrame, int, int], np.ndarray]

_COMB = 40  # of `_moving`: edges that comb by seven steps of 255
_AROUND = 9  # pixels, the side of the neighbourhood that decides
_SHARE = 0.08  # of combing pixels in it from which on it counts as moving


def first_field(frame: VideoFrame) -> VideoFrame:
    """The even lines of a frame, as a frame of half the height. (In their own planes: chroma of 4:2:0 is in fields.)"""
    field = VideoFrame(frame.width, (frame.height + 1) // 2, frame.format.name)
    for plane, half in zip(frame.planes, field.planes, strict=True):
        lines = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size].reshape(plane.height, -1)
        target = np.frombuffer(memoryview(half), np.uint8)[: half.height * half.line_size].reshape(half.height, -1)
        num = min(lines.shape[1], target.shape[1])
        even = lines[::2, :num][: half.height]
        target[: len(even), :num] = even
    field.colorspace, field.color_range = frame.colorspace, frame.color_range
    field.color_trc, field.color_primaries = frame.color_trc, frame.color_primaries
    return field


def one_moment(frame: VideoFrame, width: int, height: int, convert: Convert) -> np.ndarray:
    """An interlaced frame as RGB (height, width, 3) uint8 at the moment of its even lines.

    Args:
        convert: a frame and a size -> RGB (height, width, 3) uint8.
        width, height: the size of the result. From half of the frame's height on down the field alone has all lines.
    """
    field = first_field(frame)
    if height <= field.height:
        return convert(field, width, height)
    even = convert(field, frame.width, field.height)
    woven = convert(frame, frame.width, frame.height)
    moving = _moving(woven[..., 1])[..., None]  # (H, W, 1)
    result = woven.copy()
    num_odd = frame.height // 2
    result[::2] = np.where(moving[::2], even, woven[::2])
    result[1::2] = np.where(moving[1::2], _between(even)[:num_odd], woven[1::2])
    return result


def _between(lines: np.ndarray) -> np.ndarray:
    """The lines half-way between each and the next (the last: itself), a cubic through four of them."""
    padded = np.concatenate((lines[:1], lines, lines[-1:], lines[-1:])).astype(np.int16)
    near, far = padded[1:-2] + padded[2:-1], padded[:-3] + padded[3:]
    return np.clip((9 * near - far + 8) >> 4, 0, 255).astype(np.uint8)


def _moving(picture: np.ndarray) -> np.ndarray:
    """Where a picture (H, W) uint8 combs, with what lies around: (H, W) bool."""
    height, width = picture.shape
    if height < 5 or width < 1:
        return np.ones((height, width), bool)
    x = picture.astype(np.int16)
    combs = np.zeros((height, width), np.float32)
    # A line against those of the other field beside it, and with those of its own.
    combing = np.abs(x[:-4] + x[4:] + 4 * x[2:-2] - 3 * (x[1:-3] + x[3:-1]))
    combs[2:-2] = combing > _COMB
    share = F.avg_pool2d(torch.from_numpy(combs)[None, None], _AROUND, 1, _AROUND // 2, count_include_pad=False)
    return (share[0, 0] > _SHARE).numpy()
