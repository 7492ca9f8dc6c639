"""Is the synthetic world honest? How far come simple classifiers on raw pixels, on flow, on sound.

    OMP_NUM_THREADS=1 python -m benchmarks.world_honest.measure

Writes result.json. For each kind of world: 40 base classes, 20 training and 15 test clips each, read
back from their files. Two classifiers: the nearest neighbour (Euclidean) among the training clips, and a linear one
(ridge regression on the classes), on

    pixels   all 16 frames at 32 x 32
    flow     TV-L1 between successive frames, at 16 x 16
    sound    the normalised log-mel picture, at 32 bands x 25 steps
    all      the three side by side, each scaled to the same mean distance

Beside them stands what it is worth to know one thing for certain and nothing else: the motion or sound word, or the
looks. A world is honest if none of the classifiers comes near to solving it, and the words can be heard.
Needs scikit-learn and, to be quick, the extra `flow`.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.linear_model import RidgeClassifier
from torch import Tensor
from torch.nn import functional as F

from lexivid import __version__
from lexivid.media.audio import read_waveform
from lexivid.media.decode import read_views
from lexivid.media.flow import flow
from lexivid.media.spectrogram import log_mel, normalise
from lexivid.media.views import Views
from lexivid.synthetic.world.files import NUM_FRAMES, VERSION, World, make_world
from lexivid.synthetic.world.words import KINDS, WorldClass, WorldKind

STREAMS = ("pixels", "flow", "sound")


def features(file: Path) -> dict[str, Tensor]:
    """Each stream of a file as one row of numbers."""
    frames = read_views(file, Views(num_frames=NUM_FRAMES)).frames[0]
    pictures = frames.movedim(1, -1)
    moved = flow(pictures[:-1], pictures[1:], num_threads=1)
    heard = normalise(log_mel(read_waveform(file)))
    return {
        "pixels": F.avg_pool2d(frames.float() / 255, 2).flatten(),
        "flow": F.avg_pool2d(moved, 4).flatten(),
        "sound": F.avg_pool2d(heard[None], (4, 8)).flatten(),
    }


def read(world: World, split: str) -> tuple[dict[str, Tensor], list[WorldClass]]:
    """Streams (N, ...) and classes of the clips of a split."""
    clips = [clip for clip in world.clips if clip.split == split]
    rows = [features(Path(world.path) / clip.path) for clip in clips]
    return {name: torch.stack([row[name] for row in rows]) for name in STREAMS}, [clip.classes[0] for clip in clips]


def known_for_certain(classes: Sequence[WorldClass]) -> dict[str, float]:
    """Accuracy of who knows one thing about every clip, and guesses among the classes that share it."""
    facts = {
        "motion": lambda c: c.motion,
        "sound": lambda c: c.sound,
        "looks": lambda c: (c.shape, c.colour, c.texture),
    }
    return {name: round(len(Counter(map(of, classes))) / len(classes), 4) for name, of in facts.items()}


def accuracy(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    return round(float(np.mean([p == t for p, t in zip(predicted, true, strict=True)])), 4)


def measure(kind: WorldKind, seed: int, folder: Path) -> dict[str, Any]:
    world = make_world(folder, kind=kind, clips_per_class=20, test_clips_per_class=15, num_novel=0, seed=seed)
    seen, seen_classes = read(world, "train")
    asked, asked_classes = read(world, "test")
    names = {"train": [c.name for c in seen_classes], "test": [c.name for c in asked_classes]}
    distances, scaled = {}, {}
    for name in STREAMS:
        distances[name] = torch.cdist(asked[name], seen[name])
        scale = distances[name].mean()
        scaled[name] = seen[name] / scale, asked[name] / scale
    distances["all"] = sum((distances[name] / distances[name].mean()) ** 2 for name in STREAMS)
    scaled["all"] = tuple(torch.cat([scaled[name][i] for name in STREAMS], dim=1) for i in range(2))
    result: dict[str, Any] = {"chance": round(1 / len(set(names["test"])), 4)}
    result["known_for_certain"] = known_for_certain(sorted(set(seen_classes)))
    for name, found in distances.items():
        nearest = [seen_classes[i] for i in found.argmin(dim=1).tolist()]
        linear = RidgeClassifier(alpha=1.0).fit(scaled[name][0].numpy(), names["train"])
        row = {
            "nearest_neighbour": accuracy([c.name for c in nearest], names["test"]),
            "linear": accuracy(linear.predict(scaled[name][1].numpy()), names["test"]),
        }
        for word in ("motion", "sound", "shape", "colour"):
            true = [getattr(c, word) for c in asked_classes]
            if true[0] is not None:
                row[f"nearest_neighbour_{word}_word"] = accuracy([getattr(c, word) for c in nearest], true)
        result[name] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.time()
    kinds = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            kinds[kind] = measure(kind, arguments.seed, Path(folder) / "world")
        print(kind, json.dumps(kinds[kind], indent=1), flush=True)
    result = {
        "what": __doc__.splitlines()[0],
        "base_classes": 40, "train_clips_per_class": 20, "test_clips_per_class": 15,
        "seed": arguments.seed, "world_version": VERSION, "kinds": kinds,
        "standard_error_at_30_percent": round((0.3 * 0.7 / 600) ** 0.5, 4),
        "lexivid": __version__, "torch": torch.__version__, "scikit_learn": sklearn.__version__,
        "python": platform.python_version(), "wall_s": round(time.time() - began),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
