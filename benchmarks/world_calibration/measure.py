"""What a label's standing is worth for the packaged CLIPs of the synthetic world: fitted, and checked on other clips.

    OMP_NUM_THREADS=1 python -m benchmarks.world_calibration.measure [--build]

`--build` first writes what ships with the package: the 300 phrases of the world's background, and for each of "world",
"world-1" and "world-2" the fitted calibration (src/lexivid/scoring/background/). Fitted on 600 clips by 108 labels: 100
pairs of colour and shape, and the 8 motions. A quarter of the clips shows one object, the others two to four. Sounds
are no part of the fit: a picture shows them in one clip of five, as a badge. Checked on 300 clips of another seed,
written as video files and read back as `lexivid classify` reads them; there each kind of label and each number of
objects stands by itself too. Writes result.json; a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import Backbone, load_backbone
from lexivid.backbones.base import WORLD_BACKBONES as CHECKPOINTS
from lexivid.backbones.base import weights_of
from lexivid.base.storage import write_atomically
from lexivid.data.splits import ClassSplit
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import PromptCache
from lexivid.media.decode import read_views
from lexivid.media.views import Views
from lexivid.metrics import multi_label
from lexivid.models.calibration import DEFAULT_THRESHOLD
from lexivid.scoring.background import WORLD, background_phrases
from lexivid.scoring.calibration import calibration_for, fit_calibration
from lexivid.scoring.per_label import make_per_label_scorer
from lexivid.synthetic.world.files import WorldClip, render_clip, write_world
from lexivid.synthetic.world.multilabel import LOOK, draw_label_sets, plan_label_clips
from lexivid.synthetic.world.nouns import draw_nouns
from lexivid.synthetic.world.words import COLOURS, MOTIONS, SHAPES, SOUNDS, TEXTURES, WorldClass

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "src/lexivid/scoring/background"
NUM_PHRASES = 300
NUM_FIT, NUM_CHECK = 600, 300
FIT_SEED, CHECK_SEED = 9_001, 9_002  # of no other experiment
SETS = draw_label_sets(draw_nouns(), seed=0, kinds=("words", "motion", "sound"))
KINDS = SETS.kinds
FITTED = ("words", "motion")
METHOD = f"logistic regression on {NUM_FIT} clips of the synthetic world x 108 labels (benchmarks/world_calibration)"


def phrases() -> list[str]:
    """300 phrases for what a clip of the world may show, the same on every machine.

    Every word by itself, every pair of colour and shape, and longer descriptions drawn at random.
    """
    words = [*SHAPES, *COLOURS, *TEXTURES[1:], *MOTIONS, *SOUNDS]
    looks = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    rng, longer = np.random.default_rng(0), dict[str, None]()
    while len(words) + len(looks) + len(longer) < NUM_PHRASES:
        sizes = [len(options) for options in (SHAPES, COLOURS, TEXTURES, MOTIONS, SOUNDS)]
        shape, colour, texture, motion, sound = (int(rng.integers(size)) for size in sizes)
        made = WorldClass(
            shape,
            colour,
            texture,
            motion if rng.random() < 0.7 else None,
            sound if rng.random() < 0.7 else None,
        )
        if made.name not in looks:
            longer[made.name] = None
    return [*words, *looks, *longer]


def write_phrases() -> None:
    words, looks = phrases()[:38], phrases()[38:138]
    parts = {"words by themselves": words, "colours and shapes": looks, "longer descriptions": phrases()[138:]}
    text = "# What a clip of the synthetic world may show; made by benchmarks/world_calibration, see SOURCES.md.\n"
    text += "".join(f"# {name}\n" + "".join(f"{phrase}\n" for phrase in part) for name, part in parts.items())
    write_atomically(PACKAGE / f"{WORLD}.txt", text)
    background_phrases.cache_clear()


def plan(num: int, seed: int) -> list[WorldClip]:
    """Clips of two to four objects, but for every fourth, of which the first object alone is left."""
    clips = plan_label_clips(SETS, {"test": num}, seed=seed)
    for i in range(0, num, 4):
        alone = clips[i].classes[:1]
        clips[i] = replace(clips[i], classes=alone, own_labels=SETS.labels_of(alone))
    return clips


def truth_of(clips: list[WorldClip], labels: list[str]) -> np.ndarray:
    """(n, K) bool."""
    return np.array([[label in clip.labels for label in labels] for clip in clips])


def features(frames: Tensor, backbone: Backbone) -> Tensor:
    """Frames (T, 3, H, W) uint8 -> (D,), as the classifier makes it: the mean of unit vectors."""
    images = backbone.images
    crops = torch.cat([images.crops(images.resize(frame)[None])[0] for frame in frames])
    return F.normalize(backbone.encode_images(crops).mean(0), dim=-1)


def numbers(p: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Of probabilities (n, K)."""
    flat = p.reshape(-1, 1), truth.reshape(-1, 1)
    result: dict[str, Any] = {
        "pairs": truth.size,
        "share that holds": round(float(truth.mean()), 4),
        "mean probability": round(float(p.mean()), 4),
        "mAP": round(multi_label.mean_average_precision(p, truth), 4),
        "pooled average precision": round(float(multi_label.average_precision(*flat)[0]), 4),
        "calibration error": multi_label.bootstrap_calibration_error(p, truth).to_dict(),
    }
    for threshold in (0.2, DEFAULT_THRESHOLD):
        said = p >= threshold
        result[f"at {threshold:g}"] = {
            "share found": round(float((said & truth).sum() / truth.sum()), 3),
            "false alarms a clip": round(float((said & ~truth).sum() / len(p)), 3),
        }
    return result


def parts(p: np.ndarray, truth: np.ndarray, labels: list[str], num_objects: np.ndarray) -> dict[str, Any]:
    """All fitted labels on all clips; on clips of one object, and of several; and labels kind by kind."""
    kinds = np.array([KINDS[label] for label in labels])
    fitted = np.isin(kinds, FITTED)
    one, several = num_objects == 1, num_objects > 1
    return {
        "fitted labels": numbers(p[:, fitted], truth[:, fitted]),
        "one object": numbers(p[one][:, fitted], truth[one][:, fitted]),
        "two to four objects": numbers(p[several][:, fitted], truth[several][:, fitted]),
        **{str(kind): numbers(p[:, kinds == kind], truth[:, kinds == kind]) for kind in dict.fromkeys(kinds)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    parser.add_argument("--build", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.build:
        write_phrases()
    assert list(background_phrases(WORLD)) == phrases(), "the shipped phrases are others: --build"
    labels = list(KINDS)
    fitted = np.array([KINDS[label] in FITTED for label in labels])
    backbones = {name: load_backbone(name, device="cpu", dtype="float32") for name in CHECKPOINTS}
    clips = plan(NUM_FIT, FIT_SEED)
    seen = {name: torch.empty(NUM_FIT, b.embedding_dim) for name, b in backbones.items()}
    for row, clip in enumerate(clips):
        frames, _ = render_clip(clip, look=LOOK)
        for name, backbone in backbones.items():
            seen[name][row] = features(frames, backbone)
    with tempfile.TemporaryDirectory() as folder:
        checks = plan(NUM_CHECK, CHECK_SEED)
        split = ClassSplit(SETS.seen, SETS.unseen, CHECK_SEED, "benchmarks/world_calibration")
        write_world(folder, checks, split, {}, multi_label=True, look=LOOK, num_workers=0)
        checked = {name: torch.empty(NUM_CHECK, b.embedding_dim) for name, b in backbones.items()}
        for row, clip in enumerate(checks):
            frames = read_views(Path(folder) / clip.path, Views()).frames[0]
            for name, backbone in backbones.items():
                checked[name][row] = features(frames, backbone)
    truth, check_truth = truth_of(clips, labels), truth_of(checks, labels)
    num_objects = np.array([len(clip.classes) for clip in checks])
    result: dict[str, Any] = {
        "about": __doc__.splitlines()[0],
        "made with": {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()},
        "clips": {"fitted on": NUM_FIT, "checked on": NUM_CHECK, "labels fitted": int(fitted.sum())},
        "models": {},
    }
    path = PACKAGE / "evidence.json"
    for name, backbone in backbones.items():
        templates = load_templates(backbone.default_templates)
        per_label = make_per_label_scorer(backbone, PromptCache(backbone, on_disk=False), labels, templates)
        assert per_label is not None
        log_odds = per_label.log_odds(seen[name]).numpy()
        evidence, _ = fit_calibration(log_odds[:, fitted], truth[:, fitted], method=METHOD)
        if args.build:
            stored = json.loads(path.read_text(encoding="utf-8"))
            stored[weights_of(backbone)] = evidence.to_dict()
            write_atomically(path, json.dumps(stored, indent=2) + "\n")
        else:
            assert calibration_for(weights_of(backbone)) == evidence, "the shipped evidence is another"
        p = evidence.probability(per_label.log_odds(checked[name])).numpy()
        result["models"][name] = {"evidence": evidence.to_dict(), "files": parts(p, check_truth, labels, num_objects)}
    write_atomically(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
