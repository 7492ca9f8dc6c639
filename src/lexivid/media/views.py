"""Which moments of a file are looked at.

The paper's recipe (MOV, section 4): 16 frames with a stride of 4, from 4 clips placed evenly in time, each seen through
3 crops. The quick default: 16 frames spread over the whole file. In: the length and frame rate of a file. Out: times
(num_clips, num_frames) in seconds, each in the middle of the time during which a frame is shown, so that a timestamp
that was rounded never picks the neighbour.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lexivid.errors import LexividError

MAX_FRAMES = 1024  # per clip
MAX_CLIPS = 1000
MAX_CROPS = 9
MAX_STRIDE = 1000
PAPER_STRIDE = 4
"""Of clips in time, where nothing says what the model was trained with."""


@dataclass(frozen=True)
class Views:
    """Clips in time, frames in each, crops of each frame.

    Args:
        num_frames: frames per clip (T).
        num_clips: clips, placed evenly from the start of the file to its end.
        num_crops: crops of each frame (taken by whoever prepares the pictures, not here).
        stride: steps from one frame of a clip to the next. None: the frames are spread evenly over the whole file
            (with several clips: the file is cut into that many equal parts), at the middle of equal segments.
        stride_rate: steps per second. 30.0: a stride of 4 spans the same time whatever the frame rate of the file.
            "native": a step is one of the file's own frames, as in the paper.

    Raises:
        LexividError: a number is out of range.
    """

    num_frames: int = 16
    num_clips: int = 1
    num_crops: int = 1
    stride: int | None = None
    stride_rate: float | Literal["native"] = 30.0

    def __post_init__(self) -> None:
        limits = [("frames", self.num_frames, MAX_FRAMES), ("clips", self.num_clips, MAX_CLIPS)]
        limits += [("crops", self.num_crops, MAX_CROPS)]
        if self.stride is not None:
            limits.append(("stride", self.stride, MAX_STRIDE))
        for what, value, most in limits:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise LexividError(f"views: {what} is {value!r}, and must be a whole number from 1 to {most}")
        rate = self.stride_rate
        known = isinstance(rate, int | float) and not isinstance(rate, bool)
        if rate != "native" and not (known and 0.01 <= rate <= 1000):
            raise LexividError(f'views: stride_rate is {rate!r}, and must be "native" or 0.01 to 1000 steps per second')

    def __str__(self) -> str:
        """In words: "16 frames spread evenly over the file", "4 clips in time x 3 crops, 16 frames, stride 4 ..."."""
        several = (
            f"{self.num_clips} clips in time x {self.num_crops} crops, " if self.num_clips * self.num_crops > 1 else ""
        )
        if self.stride is None:
            return f"{several}{self.num_frames} frames spread evenly over the file"
        steps = (
            "the file's own frames" if self.stride_rate == "native" else f"frames at {self.stride_rate:g} per second"
        )
        return f"{several}{self.num_frames} frames, stride {self.stride} in {steps}"

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        num_frames: int | None = None,
        stride: int | None = None,
        stride_rate: float | Literal["native"] | None = None,
    ) -> Views:
        """Read "spread" (frames over the whole file) or CLIPSxCROPS such as "4x3" (the paper's views, stride 4).

        Raises:
            LexividError: the text is neither, or a number is out of range.
        """
        return ViewsAsked(text, num_frames, stride, stride_rate).on(cls(), clip_stride=PAPER_STRIDE)

    def times_s(self, duration_s: float, frame_rate: float) -> np.ndarray:
        """The moments to look at, (num_clips, num_frames) float64 in seconds from the start of the video.

        Every time is in [0, duration_s) and no time of a clip is before the one to its left. The first clip begins with
        the file, the last ends with it; a single clip is centred. A file shorter than a clip has its frames
        spread evenly over the whole file. A frame rate that is not known (0 or nan) counts as 30.
        """
        if not math.isfinite(duration_s) or duration_s <= 0:
            return np.zeros((self.num_clips, self.num_frames))
        if not math.isfinite(frame_rate) or frame_rate <= 0:
            frame_rate = 30.0
        if self.stride is None:
            starts = np.arange(self.num_clips)[:, None] / self.num_clips
            inside = (np.arange(self.num_frames) + 0.5) / (self.num_frames * self.num_clips)
            times = (starts + inside) * duration_s
        else:
            times = self._strided_s(duration_s, frame_rate)
        # To the middle of the frame on show; the small term keeps k / rate in frame k in spite of rounding.
        last = max(np.ceil(duration_s * frame_rate - 1e-6) - 1, 0)
        shown = np.clip(np.floor(times * frame_rate + 1e-6), 0, last)
        return np.minimum((shown + 0.5) / frame_rate, np.nextafter(duration_s, 0.0))

    def _strided_s(self, duration_s: float, frame_rate: float) -> np.ndarray:
        """Times of clips with a stride, (num_clips, num_frames)."""
        assert self.stride is not None
        rate, stride = frame_rate, self.stride
        if self.stride_rate != "native":
            # A file whose rate is a multiple of that (60 for 30; 29.97 counts as 30) is counted in its own frames.
            multiple = round(frame_rate / self.stride_rate)
            if multiple >= 1 and abs(frame_rate / self.stride_rate - multiple) <= 0.01 * multiple:
                stride = self.stride * multiple
            else:
                rate = self.stride_rate
        num_steps = max(duration_s * rate, 1.0)
        if rate == frame_rate:
            num_steps = float(max(round(num_steps), 1))
        span = (self.num_frames - 1) * stride + 1  # steps that a clip covers
        if num_steps < span:
            even = (np.arange(self.num_frames) + 0.5) / self.num_frames * duration_s
            return np.tile(even, (self.num_clips, 1))
        room = num_steps - span
        starts = np.linspace(0.0, room, self.num_clips) if self.num_clips > 1 else np.array([room / 2])
        if rate == frame_rate:
            starts = np.floor(starts + 1e-6)
        steps = starts[:, None] + np.arange(self.num_frames) * stride
        return (steps + 0.5) / rate


@dataclass(frozen=True)
class ViewsAsked:
    """What a user names of the views; the rest stays as the model was trained, or as it is usual for the model.

    Args:
        layout: "spread" (frames over the whole file) or CLIPSxCROPS such as "4x3". None: not named, as are the others.
        num_frames, stride, stride_rate: as in `Views`.
    """

    layout: str | None = None
    num_frames: int | None = None
    stride: int | None = None
    stride_rate: float | Literal["native"] | None = None

    def on(self, usual: Views, *, clip_stride: int | None = None) -> Views:
        """The usual views with what was named in its place.

        Args:
            clip_stride: stride of CLIPSxCROPS where the usual frames are spread. None: they stay spread, each clip over
                its part of the file.

        Raises:
            LexividError: the layout cannot be read, or a number is out of range.
        """
        named = {"num_frames": self.num_frames, "stride": self.stride, "stride_rate": self.stride_rate}
        changes: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        if self.layout is not None:
            layout = self.layout.strip().lower()
            match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", layout)
            if layout == "spread":
                changes |= {"num_clips": 1, "num_crops": 1, "stride": self.stride}
            elif match and int(match[1]) and int(match[2]):
                changes |= {"num_clips": int(match[1]), "num_crops": int(match[2])}
                if usual.stride is None and clip_stride is not None:
                    changes.setdefault("stride", clip_stride)
            else:
                shown = self.layout if len(self.layout) <= 40 else self.layout[:40] + "..."
                raise LexividError(
                    f'views {shown!r} cannot be read: give "spread", or CLIPSxCROPS with both at least 1, such as "4x3"'
                )
        return replace(usual, **changes)
