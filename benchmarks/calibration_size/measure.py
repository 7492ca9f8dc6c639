"""How many held-out clips does a calibration need? With `lite`, on 44 real clips x 100 labels.

    python -m benchmarks.calibration_size.measure [--media DIR]

Draws n of the 44 clips (`benchmarks/multi_label_real`), fits slope and intercept on them, and measures the fit on the
other clips: calibration error over the pairs that the full fit gives 0.1 or more (most pairs are plainly absent, and
hide errors), and the difference of the probability from that of the fit on all other clips, left out in turn. A fit on
too few clips fails in some draws: labels that hold may stand lower than others. Writes result.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch

from benchmarks.multi_label_real.measure import Clips, as_probability, features, read_truth
from benchmarks.tools import real_media as media
from lexivid.backbones.lite import LiteBackbone
from lexivid.base.storage import write_atomically
from lexivid.errors import LexividError
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import embed_labels
from lexivid.metrics.multi_label import calibration_error
from lexivid.scoring import calibration
from lexivid.scoring.background import background_phrases

SIZES = (2, 3, 5, 8, 10, 15, 20, 30)
DRAWS = 100


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
    files, labels, truth, judged, _ = read_truth(args.media)
    background = embed_labels(backbone, list(background_phrases()), templates)
    vectors = embed_labels(backbone, labels, templates)
    clips = Clips(features(files, "clips", backbone), vectors, background, truth, judged)
    _, ratios = calibration.fit_calibration(clips.log_odds, truth, method="", judged=judged)
    reference = as_probability(ratios)
    likely = judged & (reference >= 0.1)
    rng = np.random.default_rng(0)
    rows = []
    for size in SIZES:
        errors, distances, failed = [], [], 0
        for _ in range(DRAWS):
            chosen = np.isin(np.arange(len(files)), rng.choice(len(files), size, replace=False))
            try:
                use = judged[chosen]
                slope, intercept, _ = calibration._fit(clips.log_odds[chosen][use], truth[chosen][use])
            except LexividError:
                failed += 1
                continue
            p = as_probability(slope * clips.log_odds + intercept)
            use = likely & ~chosen[:, None]
            errors.append(calibration_error(p, truth, judged=use))
            distances.append(float(np.abs(p - reference)[use].mean()))
        quantiles = {q: np.quantile(errors, q / 100) for q in (50, 90)}
        rows.append({
            "clips": size, "draws": DRAWS, "failed": failed,
            "calibration_error": {f"{q} % of draws below": round(float(v), 3) for q, v in quantiles.items()},
            "distance_from_the_full_fit": {
                f"{q} % of draws below": round(float(np.quantile(distances, q / 100)), 3) for q in (50, 90)
            },
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "about": __doc__.splitlines()[0],
        "made with": media.provenance() | {"model": "lite", "fingerprint": backbone.fingerprint},
        "calibration_error of the full fit, left out": round(calibration_error(reference, truth, judged=likely), 3),
        "pairs": int(likely.sum()),
        "rows": rows,
    }
    write_atomically(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
