"""What benchmarks/ucf6, esc50 and clips_sound share: real clips decoded once, rows kept on disk, plots.

The expensive, unchanging part of each clip (frozen features, flow pictures, spectrograms) is computed once and kept in
a cache folder (LEXIVID_BENCH_CACHE, or the temporary folder), never in the repository: the footage belongs to third
parties. A row of a benchmark is one JSON file there, so that a benchmark that is stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import Backbone
from lexivid.base.storage import write_atomically
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import PromptCache

CACHE = Path(os.environ.get("LEXIVID_BENCH_CACHE") or Path(tempfile.gettempdir()) / "lexivid-bench")
FLOW_SIDE, FLOW_CROP = 160, 160  # pixels: flow of 214 x 160 pictures, central square
SPECTROGRAM_STEPS = 500  # 5 s, the length of an ESC-50 recording
FROZEN_BLOCKS = 11  # of the flow tower's 16, never trained here, so that what they make is computed once


def ucf6_clips(root: Path, frames: int, backbone: Backbone, tower: Any) -> dict[str, Any]:
    """All clips of ucf6, looked at once -> arrays in the order of `names`.

    Returns:
        names (n,): "Archery/v_Archery_g08_c01". rgb (n, 2, T, D) float32: frozen `lite` features of T frames spread
        over the clip, as it is and mirrored. low (n, 2, T, C, h, w) float16: what the first FROZEN_BLOCKS blocks of
        the flow tower make of the flow pictures at the same moments, as they are and mirrored.
    """
    from lexivid.media.decode import open_video
    from lexivid.media.flow import flow, flow_to_image, mirror_flow_image

    files = sorted(root.glob("*/*.mp4"))
    folder = CACHE / f"ucf6-{frames}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(files):
        target = folder / f"{path.stem}.npz"
        if target.exists():
            continue
        started = time.monotonic()
        with open_video(path) as reader:
            every = [frame for _, frame in reader.frames_between()]
        at = [int((i + 0.5) * (len(every) - 1) / frames) for i in range(frames)]
        crops = torch.stack([backbone.images.crops(backbone.images.resize(every[i])[None])[0, 0] for i in at])
        rgb = torch.stack([backbone.encode_images(crops), backbone.encode_images(crops.flip(-1))])
        pairs = [_shrink(torch.stack([every[i + j] for i in at])) for j in (0, 1)]
        found = flow(pairs[0].movedim(1, -1), pairs[1].movedim(1, -1), num_threads=1)
        pictures = _centre(flow_to_image(found))
        both = torch.cat([pictures, mirror_flow_image(pictures)])
        with torch.no_grad():
            low = lower_blocks(tower, backbone.images.normalise(both)).unflatten(0, (2, frames))
        _save(target, rgb=rgb.numpy(), low=low.half().numpy())
        if number % 20 == 0:
            print(f"{number}/{len(files)} {path.stem} {time.monotonic() - started:.2f} s", flush=True)
    loaded = [np.load(folder / f"{path.stem}.npz") for path in files]
    return {
        "names": [f"{path.parent.name}/{path.stem}" for path in files],
        "rgb": torch.from_numpy(np.stack([x["rgb"] for x in loaded])),
        "low": torch.from_numpy(np.stack([x["low"] for x in loaded])),
    }


def lower_blocks(tower: Any, pictures: Tensor) -> Tensor:
    """(N, 3, H, W) float -> (N, C, h, w): the part of a `LiteTower` that ucf6 never trains."""
    trunk = tower.trunk
    x = F.relu6(trunk.bn0(trunk.conv_stem(pictures.contiguous(memory_format=torch.channels_last))))
    return trunk.blocks[:FROZEN_BLOCKS](x)


def upper_blocks(tower: Any, low: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, D): the rest of it."""
    trunk = tower.trunk
    x = trunk.blocks[FROZEN_BLOCKS:](low.contiguous(memory_format=torch.channels_last))
    return tower.head(F.relu6(trunk.bn1(trunk.conv_head(x))).mean(dim=(2, 3)))


def spectrograms(paths: Sequence[Path], name: str, *, num_steps: int = SPECTROGRAM_STEPS) -> np.ndarray:
    """Normalised log-mel of the first `num_steps` steps of each file, one channel: (n, 128, num_steps) float16."""
    from lexivid.media.audio import read_waveform
    from lexivid.media.spectrogram import log_mel, normalise, window_of

    target = CACHE / f"{name}-{num_steps}.npy"
    if not target.exists():
        rows = []
        for path in paths:
            waveform = read_waveform(path, duration_s=num_steps / 100)
            rows.append(window_of(normalise(log_mel(waveform)), num_steps).half().numpy())
        CACHE.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=CACHE, suffix=".npy")
        os.close(handle)
        np.save(temporary, np.stack(rows))
        Path(temporary).replace(target)
    return np.load(target, mmap_mode="r")


def label_vectors(backbone: Backbone, labels: Sequence[str], templates: str | None = None) -> Tensor:
    """(K, D), unit length."""
    return PromptCache(backbone).embed(list(labels), load_templates(templates or backbone.default_templates)).clone()


def row(folder: Path, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row from its file, or computed now and written whole."""
    path = folder / f"{key}.json"
    if path.exists():
        return json.loads(path.read_text())
    started = time.monotonic()
    result = compute() | {"seconds": round(time.monotonic() - started, 1)}
    write_atomically(path, json.dumps(result))
    print(f"{key}: {result['seconds']} s", flush=True)
    return result


def provenance() -> dict[str, Any]:
    """What a result file says about where it was made."""
    import lexivid

    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    return {
        "lexivid": lexivid.__version__,
        "torch": torch.__version__,
        "av": version("av"),
        "python": platform.python_version(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }


def _shrink(frames: Tensor) -> Tensor:
    height, width = frames.shape[-2:]
    scale = FLOW_SIDE / min(height, width)
    size = (round(height * scale), round(width * scale))
    return F.interpolate(frames, size=size, mode="bilinear", antialias=True)


def _centre(pictures: Tensor) -> Tensor:
    top, left = ((side - FLOW_CROP) // 2 for side in pictures.shape[-2:])
    return pictures[..., top : top + FLOW_CROP, left : left + FLOW_CROP]


def _save(target: Path, **arrays: np.ndarray) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as stream:
        np.savez(stream, **arrays)
    Path(temporary).replace(target)
