"""Pairs of pictures for the tests and the benchmark of optical flow: known motion, and real clips."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from lexivid.media.decode import open_video
from lexivid.media.tvl1 import rgb_to_grey

MOTIONS = ("translation", "rotation", "zoom", "smooth")
SCENE_CUT = 30.0
"""Grey levels: a pair that differs by more, on average, is taken for a scene cut."""


def motion(kind: str, height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """A flow field (2, H, W) of a few pixels: horizontal, then vertical."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - height / 2, x - width / 2
    if kind == "translation":
        return np.stack((np.full_like(x, 2.3), np.full_like(x, -1.6)))
    if kind == "rotation":
        return np.stack((-0.03 * y, 0.03 * x))
    if kind == "zoom":
        return np.stack((0.03 * x, 0.03 * y))
    field = torch.from_numpy(rng.normal(size=(1, 2, 4, 4)))
    smooth = F.interpolate(field, (height, width), mode="bicubic", align_corners=True)[0].numpy()
    return 3 * smooth / np.abs(smooth).max()


def moved(kind: str, height: int, width: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first, second (H, W) uint8, flow (2, H, W)): a texture of waves, computed exactly at the moved places."""
    rng = np.random.default_rng(seed)
    count = 48
    length = rng.uniform(5, 60, count)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, count))
    fx, fy = 2 * np.pi * np.cos(angle) / length, 2 * np.pi * np.sin(angle) / length

    def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        waves = sum(np.sqrt(length[k]) * np.sin(fx[k] * x + fy[k] * y + phase[k]) for k in range(count))
        return np.clip(128 + 100 * waves / np.sqrt((length / 2).sum() * 4), 0, 255).round().astype(np.uint8)

    y, x = np.mgrid[:height, :width].astype(np.float64)
    flow = motion(kind, height, width, seed=seed)
    return texture(x + flow[0], y + flow[1]), texture(x, y), flow


def real_pairs(
    folder: Path, *, size: tuple[int, int] = (256, 340), at: tuple[int, ...] = (10,), num_clips: int | None = None
) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """Consecutive frames of the real clips: (names, first (N, H, W) uint8, second, names of scene cuts left out)."""
    names, firsts, seconds, cuts = [], [], [], []
    clips = sorted(path for path in (folder / "clips").iterdir() if path.suffix in (".mp4", ".mkv", ".avi", ".webm"))
    for path in clips[:num_clips]:
        with open_video(path, num_threads=1) as reader:
            frames = [frame for _, frame in islice(reader.frames_between(), max(at) + 2)]
        for index in at:
            start = min(index, len(frames) - 2)
            pair = [
                F.interpolate(rgb_to_grey(frame.movedim(0, -1)[None])[None], size, mode="bilinear", antialias=True)
                for frame in frames[start : start + 2]
            ]
            first, second = (picture[0, 0].round().byte().numpy() for picture in pair)
            name = f"{path.name}:{start}"
            if np.abs(first.astype(float) - second).mean() > SCENE_CUT:
                cuts.append(name)
                continue
            names.append(name)
            firsts.append(first)
            seconds.append(second)
    return names, np.stack(firsts), np.stack(seconds), cuts


def opencv_tvl1(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """OpenCV's flow (2, H, W) of one grey pair (H, W) uint8, by a fresh object (it remembers scales)."""
    import cv2

    return cv2.optflow.createOptFlow_DualTVL1().calc(first, second, None).transpose(2, 0, 1)


def distance(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> np.ndarray:
    """End-point difference (..., H, W) of two flows (..., 2, H, W), pixels."""
    return np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64), axis=-3)


def write_moving_texture(path: Path, *, num_frames: int = 7, size: tuple[int, int] = (48, 64), rate: int = 10) -> Path:
    """A texture that moves by two pixels to the right in each frame."""
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 256, (12, 40), dtype=np.uint8)).resize((size[1] * 3, size[0]), Image.BICUBIC)
    texture = np.asarray(wide)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for index in range(num_frames):
            left = size[1] - 2 * index
            picture = np.repeat(texture[:, left : left + size[1], None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return path
