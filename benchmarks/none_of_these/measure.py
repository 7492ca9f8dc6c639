"""When is "none of these" said, and how often is that right? With `lite`, on two sets of real clips.

    python -m benchmarks.none_of_these.measure [--media DIR]

A list of K labels holds the clip's label, or no label that holds. The answer is the first label of the softmax over the
list; beside it stands P(none) (`lexivid.models.calibration`). "None of these" is said if P(none) exceeds a threshold.
The threshold is the least one at which at most a tenth of the right answers carry it. It is chosen on one set, over all
list lengths, and measured on the other:

    clips   44 clips x 100 labels (`benchmarks/multi_label_real`), each clip left out of the fit that scores it
    ucf6    324 clips of 108 recordings, six classes among the 101 names of UCF101, with the fit that ships

Intervals are bootstraps over recordings (clips of the first set are recordings). Writes result.json and plot.svg.
Frozen features are kept in a cache folder; the first run takes about six minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lite_zero_shot.measure import split_words
from benchmarks.multi_label_real.measure import TEMPERATURE, Clips, features, read_truth
from benchmarks.tools import real_media as media
from lexivid.backbones.base import weights_of
from lexivid.backbones.lite import LiteBackbone
from lexivid.base.storage import write_atomically
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import embed_labels
from lexivid.metrics.multi_label import bootstrap_calibration_error, reliability
from lexivid.models.calibration import NONE_THRESHOLD, Calibration, at_most_one
from lexivid.scoring.background import background_phrases
from lexivid.scoring.calibration import calibration_for, fit_calibration

SIZES = (1, 2, 3, 5, 10, 20, 50)
DRAWS = 20
MOST = 0.1
"""The largest share of right answers that may carry "none of these"."""
COLUMNS = ("recording", "size", "holds", "right", "p_none", "p_first")


def lists(clips: Clips, calibrations: list[Calibration], own: np.ndarray, recordings: np.ndarray) -> np.ndarray:
    """A row (see COLUMNS) for each list drawn: DRAWS of each length with the clip's label, as many without it."""
    rng = np.random.default_rng(0)
    rows = []
    for clip, calibration in enumerate(calibrations):
        ratios = calibration.log_ratio(torch.from_numpy(clips.log_odds[clip])).numpy()
        shares = clips.cosines[clip] / TEMPERATURE
        wrong = np.flatnonzero(~clips.truth[clip] & clips.judged[clip])
        for size in SIZES:
            for _ in range(DRAWS):
                without = rng.choice(wrong, size, replace=False)
                for holds, chosen in ((True, np.append(own[clip], without[1:])), (False, without)):
                    right = holds and shares[chosen].argmax() == 0
                    p_labels = at_most_one(torch.from_numpy(ratios[chosen])).numpy()
                    rows.append((recordings[clip], size, holds, right, 1 - p_labels.sum(), p_labels.max()))
    return np.array(rows, dtype=np.float64)


def threshold_of(table: np.ndarray) -> float:
    """The least threshold, in whole percent, at which at most MOST of the right answers carry "none of these"."""
    p_none = table[table[:, 3] > 0, 4]
    return next(t / 100 for t in range(101) if (p_none > t / 100).mean() <= MOST)


def rates(table: np.ndarray, threshold: float) -> dict[str, Any]:
    """Shares of lists for which "none of these" is said, with 95 % intervals over recordings."""
    said = table[:, 4] > threshold
    kinds = {
        "right answers that carry it": table[:, 3] > 0,
        "wrong answers of lists with the label that carry it": (table[:, 2] > 0) & (table[:, 3] == 0),
        "lists without the label that carry it": table[:, 2] == 0,
    }
    result: dict[str, Any] = {}
    recordings = np.unique(table[:, 0])
    rng = np.random.default_rng(1)
    for name, chosen in kinds.items():
        if not chosen.any():
            continue
        hits = np.array([said[chosen & (table[:, 0] == r)].sum() for r in recordings])
        counts = np.array([(chosen & (table[:, 0] == r)).sum() for r in recordings])
        drawn = rng.integers(len(recordings), size=(2000, len(recordings)))
        shares = hits[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1)
        low, high = np.quantile(shares, [0.025, 0.975])
        result[name] = {
            "share": round(float(hits.sum() / counts.sum()), 3), "low": round(float(low), 3),
            "high": round(float(high), 3), "lists": int(counts.sum()),
        }  # fmt: skip
    return result


def by_size(table: np.ndarray, threshold: float) -> dict[str, Any]:
    """`rates` over all lists and for each length."""
    parts = {f"{size} labels": table[table[:, 1] == size] for size in SIZES}
    return {name: rates(part, threshold) for name, part in {"all lengths": table, **parts}.items()}


def probabilities_of_few(table: np.ndarray) -> dict[str, Any]:
    """Lists of one and two labels, half of them with the label: is the probability of the first label true?"""
    result = {}
    for size in (1, 2):
        part = table[table[:, 1] == size]
        p, right = part[:, 5:6], part[:, 3:4] > 0
        error = bootstrap_calibration_error(p, right, groups=part[:, 0])
        said, held, counts = reliability(p, right, num_bins=5)
        bins = [
            {"said": round(float(a), 3), "held": round(float(b), 3), "lists": int(n)}
            for a, b, n in zip(said, held, counts, strict=True) if n
        ]  # fmt: skip
        result[f"{size} labels"] = {"calibration_error": error.to_dict(), "bins": bins}
    return result


def plot(path: Path, tables: dict[str, np.ndarray]) -> None:
    """Shares against the threshold, for both sets."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"font.size": 9, "svg.hashsalt": "lexivid", "axes.spines.top": False, "axes.spines.right": False}
    figure, axes = plt.subplots(1, len(tables), figsize=(8.4, 3.4), layout="constrained", sharey=True)
    thresholds = np.arange(101) / 100
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        for label, chosen, colour in (
            ("lists without the label", table[:, 2] == 0, "#0b6e99"),
            ("wrong answers, the label is in the list", (table[:, 2] > 0) & (table[:, 3] == 0), "#d9730d"),
            ("right answers", table[:, 3] > 0, "#4b4b4b"),
        ):
            axis.plot(thresholds, [(table[chosen, 4] > t).mean() for t in thresholds], color=colour, label=label)
        axis.axhline(MOST, color="#999", lw=1, ls="--")
        axis.axvline(NONE_THRESHOLD, color="#999", lw=1, ls=":")
        axis.set(title=name, xlabel="threshold of P(none)")
    axes[0].set_ylabel('share that carries "none of these"')
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=os.environ.get("LEXIVID_MEDIA"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    args = parser.parse_args()
    if args.media is None:
        parser.error("--media DIR, or LEXIVID_MEDIA")
    torch.set_num_threads(1)
    backbone = LiteBackbone.load()
    templates = load_templates(backbone.default_templates)
    background = embed_labels(backbone, list(background_phrases()), templates)

    files, labels, truth, judged, own = read_truth(args.media)
    clips = Clips(
        features(files, "clips", backbone), embed_labels(backbone, labels, templates), background, truth, judged
    )
    left_out = []
    for clip in range(len(files)):
        others = np.arange(len(files)) != clip
        left_out.append(fit_calibration(clips.log_odds[others], truth[others], method="", judged=judged[others])[0])
    names = [split_words(name) for name in (args.media / "labels/ucf101_names.txt").read_text().split()]
    ucf_files = sorted((args.media / "ucf6").glob("*/*.mp4"))
    ucf_own = np.array([names.index(split_words(path.parent.name)) for path in ucf_files])
    ucf_truth = np.arange(len(names)) == ucf_own[:, None]
    vectors = embed_labels(backbone, names, templates)
    ucf = Clips(features(ucf_files, "ucf6", backbone), vectors, background, ucf_truth, np.ones_like(ucf_truth))
    groups = [path.stem.rsplit("_c", 1)[0] for path in ucf_files]
    numbers = np.array([sorted(set(groups)).index(group) for group in groups])
    tables = {
        "clips": lists(clips, left_out, np.array([labels.index(x) for x in own]), np.arange(len(files))),
        "ucf6": lists(ucf, [calibration_for(weights_of(backbone))] * len(ucf_files), ucf_own, numbers),
    }
    thresholds = {name: threshold_of(table) for name, table in tables.items()}
    result = {
        "about": __doc__.splitlines()[0],
        "made with": media.provenance() | {"model": "lite", "fingerprint": backbone.fingerprint},
        "recordings": {name: len(np.unique(table[:, 0])) for name, table in tables.items()},
        "accuracy of lists with the label": {
            name: {f"{size} labels": round(float(t[(t[:, 1] == size) & (t[:, 2] > 0), 3].mean()), 3) for size in SIZES}
            for name, t in tables.items()
        },
        "threshold chosen on": thresholds,
        "threshold in use": NONE_THRESHOLD,
        "probability of the first of one or two labels": {n: probabilities_of_few(t) for n, t in tables.items()},
        "at 0.5": {name: by_size(table, 0.5) for name, table in tables.items()},
        "at the threshold in use": {name: by_size(table, NONE_THRESHOLD) for name, table in tables.items()},
        "at the threshold of the other set": {
            name: by_size(tables[name], thresholds[other]) for name, other in (("clips", "ucf6"), ("ucf6", "clips"))
        },
    }  # fmt: skip
    write_atomically(args.out, json.dumps(result, indent=1) + "\n")
    plot(args.out.with_name("plot.svg"), tables)


if __name__ == "__main__":
    main()
