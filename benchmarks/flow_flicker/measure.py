"""Flow in changing light: of pictures as they are, and of their texture.

    LEXIVID_MEDIA=FOLDER OMP_NUM_THREADS=1 python -m benchmarks.flow_flicker.measure

Writes result.json. Still pictures (a frame of real clips, 256 x 340) are made darker and brighter
by 5 and 15 %, and faded to black over a second (frames 5 and 15 of 25): nothing moves, so the mean length of their flow
is error. Scenes with a known motion (tests/support/flow_scenes.py), in steady light and with 15 % less in the second
picture: end-point error. Time: CPU time of the process on one core, per pair of the still pictures.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from flow_scenes import MOTIONS, distance, moved, real_pairs

from benchmarks.flow.measure import processor  # benchmarks/flow
from lexivid.media._texture import texture_of
from lexivid.media.flow import Algorithm, flow

ALGORITHMS: tuple[Algorithm, ...] = ("tvl1", "tvl1-fast", "dis")
NUM_STILLS, FADE = 3, 25
SIZE = (192, 256)


def lit(pictures: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(pictures * factor, 0, 255).round().astype(np.uint8)


def lights(still: np.ndarray) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By kind of light: pairs of pictures (N, H, W) in which nothing moves."""
    fades = [(lit(still, 1 - k / FADE), lit(still, 1 - (k + 1) / FADE)) for k in (5, 15)]
    flicker = {f"{share:.0%} flicker": [(still, lit(still, 1 + s * share)) for s in (-1, 1)] for share in (0.05, 0.15)}
    return {**flicker, "fade": fades}


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    names, stills, _, _ = real_pairs(Path(os.environ["LEXIVID_MEDIA"]), num_clips=NUM_STILLS)
    scenes = [moved(kind, *SIZE) for kind in MOTIONS]
    first, second, truth = (np.stack([scene[i] for scene in scenes]) for i in range(3))
    rows: list[dict[str, Any]] = []
    for algorithm in ALGORITHMS:
        for texture in (False, True):
            flow(stills[:1], stills[:1], algorithm=algorithm, texture=texture)  # compiles
            row: dict[str, Any] = {"algorithm": algorithm, "texture": texture, "still_px": {}, "scenes_px": {}}
            began, num_pairs = time.process_time(), 0
            for kind, pairs in lights(stills).items():
                found = [flow(a, b, algorithm=algorithm, texture=texture).norm(dim=1).mean().item() for a, b in pairs]
                row["still_px"][kind] = round(float(np.mean(found)), 4)
                num_pairs += len(pairs) * len(stills)
            row["cpu_s_per_pair"] = round((time.process_time() - began) / num_pairs, 3)
            for name, factor in (("steady", 1.0), ("15% darker", 0.85)):
                error = distance(flow(first, lit(second, factor), algorithm=algorithm, texture=texture), truth)
                row["scenes_px"][name] = dict(
                    zip(MOTIONS, (round(float(e), 4) for e in error.mean((1, 2))), strict=True)
                )
                row["scenes_px"][name]["mean"] = round(float(error.mean()), 4)
            rows.append(row)
            print(json.dumps(row), flush=True)
    began = time.process_time()
    texture_of(torch.from_numpy(stills).float())
    result = {
        "stills": names,
        "scenes": f"{SIZE[1]} x {SIZE[0]}",
        "rows": rows,
        "texture_cpu_s_per_picture": round((time.process_time() - began) / len(stills), 4),
        "machine": f"{processor()}, one core, other work beside it",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
    }
    Path(__file__).with_name("result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
