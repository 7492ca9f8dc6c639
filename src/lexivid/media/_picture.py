"""One decoded frame -> RGB (3, H, W) uint8, upright.

Colours as `ffmpeg -pix_fmt rgb24` gives them (the frame's own matrix and range; alpha is dropped), turned and mirrored
as the file's display matrix says.
"""

from __future__ import annotations

import struct

import torch
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """How to show a stored picture: (quarter turns clockwise, whether it is first mirrored left to right).

    Angles that are no multiple of 90 degrees count as the nearest one.
    """
    data = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if data is None:
        return 0, False
    raw = bytes(data)
    if len(raw) < 36:
        return 0, False
    # A stored point (x, y) is shown at (a x + c y, b x + d y), y downwards, 16.16 fixed point.
    a, b, _, c, d = struct.unpack("=5i", raw[:20])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    # (a, b) is where the stored picture's rightward direction points: right, down, left or up.
    turns = (0 if a > 0 else 2) if abs(a) >= abs(b) else (1 if b > 0 else 3)
    return (turns if a or b else 0), mirrored


def to_rgb(frame: VideoFrame, *, max_short_side: int | None = None) -> torch.Tensor:
    """RGB (3, H, W) uint8, upright, perhaps not contiguous; a shorter side above `max_short_side` is scaled to it."""
    width, height = frame.width, frame.height
    if max_short_side is not None and min(width, height) > max_short_side:
        scale = max_short_side / min(width, height)
        width, height = max(round(width * scale), 1), max(round(height * scale), 1)
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC")
    picture = torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1)  # (3, H, W)
    turns, mirrored = orientation(frame)
    if mirrored:
        picture = picture.flip(2)
    return torch.rot90(picture, -turns, (1, 2)) if turns else picture
