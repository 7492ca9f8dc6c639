"""One decoded frame -> RGB (3, H, W) uint8 as a viewer shows it.

Cropped to what the file says is the picture, one moment of interlaced frames (`_fields.py`), in the colours of an
ordinary screen (`_colour.py`), its pixels square, turned and mirrored as the file's display matrix says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import torch
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

from lexivid.media._colour import has_alpha, is_plain, rgb_of
from lexivid.media._fields import one_moment


@dataclass(frozen=True)
class Presentation:
    """How a stream's pictures are shown, as its container says; what single frames say is read from them.

    Args:
        crop: pixels of the stored picture that are not shown: left, right, top, bottom.
        pixel_aspect: width of a pixel over its height.
        background: grey value behind transparent parts; None: the alpha channel means nothing.
    """

    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    pixel_aspect: float = 1.0
    background: int | None = 0

    def kept(self, frame: VideoFrame) -> tuple[int, int, int, int]:
        """The part of a stored picture that is shown: left, top, width, height."""
        left, right, top, bottom = self.crop
        width, height = frame.width - left - right, frame.height - top - bottom
        if width < 1 or height < 1:
            return 0, 0, frame.width, frame.height
        return left, top, width, height

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height before it is turned, of square pixels. The height stays as stored."""
        _, _, width, height = self.kept(frame)
        return max(round(width * self.pixel_aspect), 1), height


AS_STORED = Presentation()


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


def to_rgb(
    frame: VideoFrame, presentation: Presentation = AS_STORED, *, max_short_side: int | None = None
) -> torch.Tensor:
    """RGB (3, H, W) uint8, upright, perhaps not contiguous; a shorter side above `max_short_side` is scaled to it.

    Raises:
        MediaError: the format of its pixels cannot be converted.
    """
    width, height = presentation.size(frame)
    if max_short_side is not None and min(width, height) > max_short_side:
        scale = max_short_side / min(width, height)
        width, height = max(round(width * scale), 1), max(round(height * scale), 1)
    picture = torch.from_numpy(_converted(frame, presentation, width, height)).permute(2, 0, 1)  # (3, H, W)
    turns, mirrored = orientation(frame)
    if mirrored:
        picture = picture.flip(2)
    return torch.rot90(picture, -turns, (1, 2)) if turns else picture


def _converted(frame: VideoFrame, presentation: Presentation, width: int, height: int) -> np.ndarray:
    """Cropped and scaled to a size, RGB (height, width, 3) uint8."""
    cropped = any(presentation.crop)
    if not cropped and not frame.interlaced_frame and is_plain(frame):
        return rgb_of(frame, width, height)

    def convert(part: VideoFrame, to_width: int, to_height: int) -> np.ndarray:
        return rgb_of(part, to_width, to_height, background=presentation.background)

    # Hidden colours must not bleed into their neighbours, and a crop is exact, before anything is scaled.
    first = (frame.width, frame.height) if cropped or has_alpha(frame.format.name) else (width, height)
    if frame.interlaced_frame and not frame.format.has_palette and frame.height > 1:
        picture = one_moment(frame, *first, convert)
    else:
        picture = convert(frame, *first)
    if cropped and picture.shape[:2] == (frame.height, frame.width):
        left, top, kept_width, kept_height = presentation.kept(frame)
        picture = picture[top : top + kept_height, left : left + kept_width]
    if picture.shape[:2] == (height, width):
        return picture
    whole = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return whole.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
