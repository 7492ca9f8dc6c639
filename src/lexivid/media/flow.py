"""Optical flow for the rest of the library: choice of algorithm, flow as pictures, the flow of a whole file.

In: pairs of frames, or a file. Out: flow (N, 2, H, W) float32, pixels per pair, horizontal (right +) then vertical
(down +); or pictures (N, 3, H, W) uint8 of it, as the MOV paper feeds them to a tower (section 4.1).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lexivid.errors import LexividError, MediaError, MissingExtraError
from lexivid.media._flow_writers import writer_for
from lexivid.media._texture import texture_of
from lexivid.media.decode import VideoReader, open_video
from lexivid.media.tvl1 import rgb_to_grey, tvl1

Algorithm = Literal["tvl1", "tvl1-fast", "dis"]
OnPairCount = Callable[[int, int], None]

BOUND_PX = 20.0
"""Flow is clipped to +-20 pixels in a picture of flow."""
ZERO_FLOW = 128
"""A picture's value for no motion: 127.5, rounded as every other value is (half to even)."""


def flow(
    first: np.ndarray | Tensor,
    second: np.ndarray | Tensor,
    *,
    algorithm: Algorithm = "tvl1",
    texture: bool = False,
    device: str | torch.device | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """Optical flow of N pairs: where each pixel of `first` has gone in `second`.

    Args:
        first, second: (N, H, W) grey or (N, H, W, 3) RGB, uint8 or floating point in 0..255. Frames (N, 3, H, W) of
            this library: pass `frames.movedim(1, -1)`.
        algorithm: "tvl1" (the field's), "tvl1-fast" (3 warps instead of 5: twice as fast, 0.07 px off on most pairs,
            more on fast motion), "dis" (OpenCV's DIS, faster still; 0.7 to 1 px away from TV-L1, so no stand-in
            where a model was trained on TV-L1).
        texture: flow of the pictures' texture (Wedel et al. 2009), which follows light that flickers or fades less.
            The field's flow is not computed so, and a model must be trained on it.
        device, num_threads: see `tvl1`; "dis" runs on the CPU with OpenCV's own threads.

    Returns:
        (N, 2, H, W) float32 on `device`: pixels, horizontal (right +) and vertical (down +).

    Raises:
        LexividError: the algorithm is unknown, or the pictures cannot be used.
        MissingExtraError: "dis" without OpenCV.
    """
    if algorithm not in get_args(Algorithm):
        raise LexividError(f"unknown flow algorithm {algorithm!r}: choose {', '.join(get_args(Algorithm))}")
    if texture:
        first = texture_of(rgb_to_grey(first, name="first", device=device))
        second = texture_of(rgb_to_grey(second, name="second", device=device))
    if algorithm == "dis":
        return _dis(first, second).to(device or "cpu")
    return tvl1(first, second, warps=3 if algorithm == "tvl1-fast" else 5, device=device, num_threads=num_threads)


def _dis(first: np.ndarray | Tensor, second: np.ndarray | Tensor) -> Tensor:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError('DIS flow needs OpenCV: pip install "lexivid[dis]", or use "tvl1-fast"') from error
    grey0, grey1 = rgb_to_grey(first, name="first"), rgb_to_grey(second, name="second")
    if grey0.shape != grey1.shape:
        shapes = "x".join(map(str, grey0.shape)), "x".join(map(str, grey1.shape))
        raise LexividError(f"the two pictures of a pair must match: first is {shapes[0]}, second {shapes[1]}")
    num_pairs, height, width = grey0.shape
    if min(height, width) < 16:
        raise LexividError(f'DIS flow needs pictures of at least 16 x 16 pixels, not {height} x {width}: use "tvl1"')
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    bytes0, bytes1 = (grey.round().clamp(0, 255).byte().numpy(force=True) for grey in (grey0, grey1))
    fields = np.empty((num_pairs, 2, height, width), np.float32)
    for pair in range(num_pairs):
        fields[pair] = method.calc(bytes0[pair], bytes1[pair], None).transpose(2, 0, 1)  # type: ignore[call-overload]
    return torch.from_numpy(fields)


def flow_to_image(flow: Tensor, *, bound_px: float = BOUND_PX) -> Tensor:
    """Flow (N, 2, H, W), pixels -> pictures (N, 3, H, W) uint8: horizontal, vertical, and the constant zero flow.

    -bound_px..bound_px becomes 0..255, with no motion at 127.5; what lies beyond is clipped. Values are rounded to the
    nearest whole number, halves to the even one, so no motion is 128 and a step is 0.157 px.

    Raises:
        LexividError: the shape is another.
    """
    _check_flow(flow)
    planes = (flow.float().clamp(-bound_px, bound_px) * (127.5 / bound_px) + 127.5).round().byte()
    return torch.cat((planes, torch.full_like(planes[:, :1], ZERO_FLOW)), dim=1)


def image_to_flow(image: Tensor, *, bound_px: float = BOUND_PX) -> Tensor:
    """The flow (N, 2, H, W) that a picture (N, 3, H, W) of `flow_to_image` stands for, to half a step (0.08 px)."""
    return (image[..., :2, :, :].float() - 127.5) * (bound_px / 127.5)


def mirror_flow_image(image: Tensor) -> Tensor:
    """Pictures of flow (..., 3, H, W) uint8 as if the video had been mirrored left to right.

    The picture is mirrored and its horizontal component negated (x -> 255 - x: no motion, 128, becomes 127, as far
    from 127.5). Twice gives the picture back.
    """
    mirrored = image.flip(-1)
    mirrored[..., 0, :, :] = 255 - mirrored[..., 0, :, :]
    return mirrored


def flow_to_color(flow: Tensor, *, bound_px: float = BOUND_PX) -> Tensor:
    """Flow (N, 2, H, W) -> colour-wheel pictures (N, 3, H, W) uint8 for people: hue is direction, depth is speed.

    No motion is white; `bound_px` pixels and more have the full colour (Baker et al. 2011, through `flow_vis`).

    Raises:
        LexividError: the shape is another.
        MissingExtraError: `flow_vis` is not installed.
    """
    try:
        import flow_vis
    except ImportError as error:
        raise MissingExtraError('pictures of flow need flow-vis: pip install "lexivid[flow]"') from error
    _check_flow(flow)
    scaled = flow.float() / bound_px
    scaled = scaled / scaled.norm(dim=1, keepdim=True).clamp(min=1)
    pictures = [torch.from_numpy(flow_vis.flow_uv_to_colors(*pair)) for pair in scaled.numpy(force=True)]
    if not pictures:
        return torch.zeros(0, 3, *flow.shape[-2:], dtype=torch.uint8)
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous()


def _check_flow(flow: Tensor) -> None:
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise LexividError(f"flow must be (N, 2, H, W), not {tuple(flow.shape)}")


# ---- the flow of a file ----


@dataclass(frozen=True)
class FlowFile:
    """What `flow_file` wrote: `num_pairs` flow fields of `height` x `width` pixels, and what the user should know."""

    path: str
    num_pairs: int
    height: int
    width: int
    warnings: tuple[str, ...]


def flow_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    algorithm: Algorithm = "tvl1",
    texture: bool = False,
    short_side: int | None = 256,
    start_s: float = 0.0,
    end_s: float | None = None,
    every: int = 1,
    gap: int = 1,
    color_bound_px: float = 8.0,
    device: str | torch.device | None = None,
    num_threads: int | None = None,
    on_progress: OnPairCount | None = None,
) -> FlowFile:
    """Write the flow of a video: as something to look at, as pictures, or as data.

    The output appears whole, at the end, or not at all. Memory does not grow with the length of the file.

    Args:
        path: a local video file.
        out: FILE.mp4, a colour-wheel video; FILE.npz, arrays `flow` (N, 2, H, W) float32 in pixels, `times_s` (N,) of
            each pair's first frame in seconds from the start of the file, `frame_rate`, `algorithm`, `texture`, `gap`;
            or a folder (new or empty) of PNG pictures 000000.png, ... as `flow_to_image` maps them, with flow.json,
            which says the same.
        algorithm, texture: see `flow`.
        short_side: larger frames are scaled down to this short side first, in pixels; None: full size. The field's
            flow is computed at 256.
        start_s, end_s: which part, in seconds from the start of the file, which may begin with sound alone.
        every: only every n-th pair.
        gap: frames between the two of a pair; 1: consecutive frames.
        color_bound_px: pixels that get the full colour in a colour-wheel video.
        device, num_threads: see `tvl1`.
        on_progress: called with (pairs done, pairs in all); the second is an estimate until the last call.

    Raises:
        LexividError: an option or `out` cannot be used.
        MediaError: the file cannot be read, or has no two frames there.
        MissingExtraError: "dis" or a colour-wheel video without its package.
    """
    for name, value in (("every", every), ("gap", gap), ("short_side", short_side)):
        if value is not None and value < 1:
            raise LexividError(f"{name} must be at least 1, not {value}")
    if not start_s >= 0 or (end_s is not None and not end_s > start_s):
        raise LexividError(f"start_s and end_s must be 0 <= start < end, not {start_s} and {end_s}")
    if not color_bound_px > 0:
        raise LexividError(f"color_bound_px must be above 0, not {color_bound_px}")
    if algorithm not in get_args(Algorithm):
        raise LexividError(f"unknown flow algorithm {algorithm!r}: choose {', '.join(get_args(Algorithm))}")
    out = os.fspath(out)
    if Path(out).exists() and Path(path).exists() and Path(out).samefile(path):
        raise LexividError(f"{out} is the video itself: choose another output")
    with open_video(path, max_short_side=short_side) as reader:
        rate = (reader.info.frame_rate or 25.0) / every
        info = reader.info
        length_s = min(end_s if end_s is not None else info.end_s, info.end_s) - max(start_s, info.video_start_s)
        expected = max(1, round(length_s * rate - gap / every))
        facts = {"algorithm": algorithm, "texture": texture, "frame_rate": rate, "gap": gap, "bound_px": BOUND_PX}
        to_picture = {
            "color": lambda field: flow_to_color(field, bound_px=color_bound_px),
            "image": flow_to_image,
        }
        done, shape = 0, (0, 0)
        with writer_for(out, facts, to_picture) as writer:
            for times_s, first, second in _batches(reader, start_s, end_s, every, gap):
                shape = (first.shape[1], first.shape[2])
                field = flow(
                    first, second, algorithm=algorithm, texture=texture, device=device, num_threads=num_threads
                )
                writer.add(field, times_s)
                done += len(times_s)
                if on_progress:
                    on_progress(done, max(expected, done))
            if not done:
                raise MediaError(
                    f"{os.fspath(path)}: no two frames {gap} apart between {start_s:g} and "
                    f"{end_s if end_s is not None else info.end_s:g} s, so there is no motion to show"
                )
        if on_progress:
            on_progress(done, done)
        return FlowFile(out, done, *shape, tuple(reader.warnings))


def _batches(
    reader: VideoReader, start_s: float, end_s: float | None, every: int, gap: int
) -> Iterator[tuple[list[float], Tensor, Tensor]]:
    """(times, first (N, H, W) uint8, second) of a few megapixels each, so that threads or a GPU have work.

    Times count from the start of the file, those of the reader from the first picture.
    """
    offset_s = reader.info.video_start_s
    own_end_s = None if end_s is None else end_s - offset_s
    recent: deque[tuple[float, Tensor]] = deque(maxlen=gap + 1)
    times: list[float] = []
    firsts: list[Tensor] = []
    seconds: list[Tensor] = []
    for index, (at_s, frame) in enumerate(reader.frames_between(max(start_s - offset_s, 0.0), own_end_s)):
        grey = rgb_to_grey(frame.movedim(0, -1)[None])[0].byte()
        if recent and recent[-1][1].shape != grey.shape:
            raise MediaError(
                f"{reader.info.path} changes its picture size at {offset_s + at_s:.2f} s, from "
                f"{_size(recent[-1][1])} to {_size(grey)}: write its parts one by one (start, end)"
            )
        recent.append((offset_s + at_s, grey))
        if index < gap or (index - gap) % every:
            continue
        times.append(recent[0][0])
        firsts.append(recent[0][1])
        seconds.append(grey)
        if len(times) >= max(1, min(64, 4_000_000 // grey.numel())):
            yield times, torch.stack(firsts), torch.stack(seconds)
            times, firsts, seconds = [], [], []
    if times:
        yield times, torch.stack(firsts), torch.stack(seconds)


def _size(picture: Tensor) -> str:
    return f"{picture.shape[-1]} x {picture.shape[-2]}"
