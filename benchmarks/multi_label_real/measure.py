"""Several things at once, or none of them: what `lite` says of 44 real clips by 100 labels, each judged by itself.

    python -m benchmarks.multi_label_real.measure [--media DIR] [--build]

`--build` first computes what ships with the package: the background's vectors and the fitted evidence
(src/lexivid/scoring/background/). The clips' truth is truth.json, written down from frames and
descriptions before any score was seen; doubtful pairs are left out. Every probability of these clips comes from a fit
without the clip in question. The shipped fit is on all of them, so a second set that had no part in it stands beside:
UCF101's six classes of media/ucf6 (324 clips) among all 101 names.
Writes result.json and plot.svg. Frozen features are kept in a cache folder; the first run takes
about six minutes on one core, a further one 20 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.lite_zero_shot.measure import split_words
from benchmarks.tools import real_media as media
from lexivid.backbones.base import weights_of
from lexivid.backbones.lite import LiteBackbone
from lexivid.base.storage import write_atomically
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import embed_labels
from lexivid.metrics import multi_label
from lexivid.models.calibration import DEFAULT_THRESHOLD, PREVALENCE, Calibration, posterior
from lexivid.scoring.background import background_phrases, write_background_vectors
from lexivid.scoring.calibration import ASSUMED, calibration_for, fit_calibration
from lexivid.scoring.log_odds import log_odds_above
from lexivid.scoring.per_label import PerLabelScorer

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "src/lexivid/scoring/background"
SIZES = (1, 2, 5, 10, 20, 40, 80)  # of the vocabularies of "none of these"
DRAWS = 20
TEMPERATURE = LiteBackbone.temperature
METHOD = "logistic regression on 44 real clips x 100 labels (benchmarks/multi_label_real)"


def features(files: list[Path], name: str, backbone: LiteBackbone) -> Tensor:
    """What the product makes of a file, 16 frames spread over it, mean of unit vectors: (n, D)."""
    from lexivid.media.decode import read_views
    from lexivid.media.views import Views

    target = media.CACHE / f"multilabel-{name}-{backbone.fingerprint}.npy"
    if not target.exists():
        rows = []
        for number, path in enumerate(files):
            frames = read_views(path, Views(), transform=backbone.images.resize).frames[0]
            rows.append(backbone.encode_images(backbone.images.crops(frames)[0]).mean(0).numpy())
            if number % 20 == 0:
                print(f"{name}: {number}/{len(files)}", flush=True)
        media.CACHE.mkdir(parents=True, exist_ok=True)
        np.save(target, np.stack(rows))
    return F.normalize(torch.from_numpy(np.load(target)), dim=-1)


class Clips:
    """Clips, labels and truth of one set, and what the model makes of them.

    Attributes:
        features (n, D), labels (K, D), truth and judged (n, K) bool; cosines, shares (softmax over all labels),
        standings and deviations (the cosine in the background's mean and deviation: the rejected standing) (n, K).
    """

    def __init__(self, features: Tensor, labels: Tensor, background: Tensor, truth: np.ndarray, judged: np.ndarray):
        self.features, self.labels, self.truth, self.judged = features, labels, truth, judged
        self.cosines = (features.double() @ labels.double().T).numpy()
        self.shares = (torch.from_numpy(self.cosines) / TEMPERATURE).softmax(-1).numpy()
        self.log_odds = log_odds_above(features, labels, background, temperature=TEMPERATURE).numpy()
        unrelated = (features.double() @ background.double().T).numpy()
        self.deviations = (self.cosines - unrelated.mean(1, keepdims=True)) / unrelated.std(1, keepdims=True)


def read_truth(root: Path) -> tuple[list[Path], list[str], np.ndarray, np.ndarray, list[str]]:
    """Files, the 100 labels, truth and judged (n, 100), each clip's own label."""
    stored = json.loads((HERE / "truth.json").read_text(encoding="utf-8"))
    labels, clips = stored["vocabulary"], stored["clips"]
    truth, judged = np.zeros((len(clips), len(labels)), bool), np.ones((len(clips), len(labels)), bool)
    for row, clip in enumerate(clips.values()):
        truth[row, [labels.index(x) for x in (clip["label"], *clip["also"])]] = True
        judged[row, [labels.index(x) for x in clip["doubtful"]]] = False
    return [root / name for name in clips], labels, truth, judged, [clip["label"] for clip in clips.values()]


def decisions(said: np.ndarray, clips: Clips) -> dict[str, Any]:
    """What a decision (n, K) finds and falsely claims."""
    said = said & clips.judged
    found, false = int((said & clips.truth).sum()), int((said & ~clips.truth).sum())
    return {
        "true labels found": found,
        "of": int((clips.truth & clips.judged).sum()),
        "false alarms": false,
        "false alarms a clip": round(false / len(clips.truth), 3),
        "precision": round(found / max(1, found + false), 3),
        "clips with no label said": int((~said.any(axis=1)).sum()),
    }


def best_threshold_elsewhere(scores: np.ndarray, clips: Clips) -> np.ndarray:
    """(n, K) decisions, each clip by the threshold with the best micro F1 on the other clips."""
    said = np.zeros(scores.shape, bool)
    for row in range(len(scores)):
        others = np.arange(len(scores)) != row
        best = multi_label.best_f1(scores[others], clips.truth[others], average="micro", judged=clips.judged[others])
        said[row] = scores[row] >= best.threshold
    return said


def as_probability(log_ratios: np.ndarray, prevalence: float = PREVALENCE) -> np.ndarray:
    return posterior(torch.from_numpy(log_ratios), prevalence).numpy()


def compare(clips: Clips, left_out: np.ndarray) -> dict[str, Any]:
    """The three scores: at 0.5 where that means something, and at a threshold chosen on other clips."""
    systems = {"probability": left_out, "softmax share": clips.shares, "cosine": clips.cosines}
    result: dict[str, Any] = {}
    for name, scores in systems.items():
        row: dict[str, Any] = {
            "mAP": round(multi_label.mean_average_precision(scores, clips.truth, clips.judged), 4),
            "pooled average precision": pooled_ap(scores, clips),
            "threshold chosen on other clips": decisions(best_threshold_elsewhere(scores, clips), clips),
        }
        if name != "cosine":
            row["at 0.5"] = decisions(scores >= DEFAULT_THRESHOLD, clips)
            row["calibration_error"] = errors(scores, clips)
        result[name] = row
    controls = {
        "logistic on the cosine, no background (control)": clips.cosines,
        "logistic on the cosine in the background's mean and deviation (rejected)": clips.deviations,
    }
    for name, scores in controls.items():
        p = as_probability(fit_calibration(scores, clips.truth, method="", judged=clips.judged)[1])
        result[name] = {
            "pooled average precision": pooled_ap(p, clips),
            "at 0.5": decisions(p >= DEFAULT_THRESHOLD, clips),
            "calibration_error": errors(p, clips),
        }
    return result


def pooled_ap(scores: np.ndarray, clips: Clips) -> float:
    """Average precision over all pairs: whether one threshold serves all labels."""
    flat = scores[clips.judged][:, None], clips.truth[clips.judged][:, None]
    return round(float(multi_label.average_precision(*flat)[0]), 4)


def errors(p: np.ndarray, clips: Clips) -> dict[str, Any]:
    """Calibration error over all pairs, and over those that are not plainly absent: most pairs are, and hide it."""
    likely = clips.judged & (p >= 0.1)
    return {
        "all pairs": multi_label.bootstrap_calibration_error(p, clips.truth, judged=clips.judged).to_dict(),
        "pairs with 0.1 or more": multi_label.bootstrap_calibration_error(p, clips.truth, judged=likely).to_dict(),
        "number of those": int(likely.sum()),
    }


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The chance that a true one scores above a false one; ties count half."""
    order = np.argsort(scores, kind="stable")
    _, place = np.unique(scores[order], return_inverse=True)
    ranks = np.empty(len(scores))
    mean = np.bincount(place, weights=np.arange(1, len(scores) + 1)) / np.bincount(place)
    ranks[order] = mean[place]
    positives = truth.sum()
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def none_of_these(clips: Clips, own: np.ndarray) -> dict[str, Any]:
    """Vocabularies with the clip's own label and without any true one, evenly: can the scores tell which?

    own: (n,) column of each clip's own label. All other labels are false ones, drawn at random.
    """
    rng = np.random.default_rng(0)
    rows: list[tuple[int, int, bool, float, float, float, float]] = []
    for clip in range(len(own)):
        others = np.arange(len(own)) != clip
        evidence, _ = fit_calibration(
            clips.log_odds[others], clips.truth[others], method="", judged=clips.judged[others]
        )
        wrong = np.flatnonzero(~clips.truth[clip] & clips.judged[clip])
        for size in SIZES:
            for _ in range(DRAWS):
                without = rng.choice(wrong, size, replace=False)
                for there, chosen in ((True, np.append(own[clip], without[1:])), (False, without)):
                    log_odds = torch.from_numpy(clips.log_odds[clip, chosen])
                    share = (torch.from_numpy(clips.cosines[clip, chosen]) / TEMPERATURE).softmax(0).max()
                    rows.append((
                        clip, size, there, 1 - float(evidence.none_of_these(log_odds)), float(share),
                        float(clips.cosines[clip, chosen].max()), float(log_odds.max()),
                    ))  # fmt: skip
    table = np.array(rows, dtype=np.float64)
    result: dict[str, Any] = {"vocabularies": len(table)}
    for size in (*SIZES, None):
        part = table if size is None else table[table[:, 1] == size]
        there, some = part[:, 2] > 0, part[:, 3]
        result["all sizes" if size is None else f"{size} labels"] = {
            "auroc": {
                name: round(auroc(part[:, column], there), 3)
                for name, column in (("none_of_these", 3), ("highest softmax share", 4), ("highest cosine", 5),
                                     ("highest standing", 6))
            },
            "one holds and it is said": round(float((some[there] > 0.5).mean()), 3),
            "none holds and it is said": round(float((some[~there] <= 0.5).mean()), 3),
            "calibration_error": multi_label.bootstrap_calibration_error(
                some[:, None], there[:, None], groups=part[:, 0]
            ).to_dict(),
        }  # fmt: skip
    return result


def backgrounds(clips: Clips, background: Tensor) -> dict[str, Any]:
    """Other backgrounds, each with a fit of its own."""
    near = (clips.labels @ background.T).max(0).values
    chosen = {
        "all 300 phrases": slice(None),
        "every second": slice(0, None, 2),
        "every third": slice(0, None, 3),
        f"{int((near < 0.75).sum())} phrases with no cosine of 0.75 or more to any of the 100 labels": near < 0.75,
    }
    result = {}
    for name, part in chosen.items():
        other = Clips(clips.features, clips.labels, background[part], clips.truth, clips.judged)
        p = as_probability(fit_calibration(other.log_odds, clips.truth, method="", judged=clips.judged)[1])
        result[name] = {"pooled average precision": pooled_ap(p, clips), "at 0.5": decisions(p >= 0.5, clips)}
    return result


def probabilities(evidence: Calibration, clips: Clips, prevalence: float | None = None) -> np.ndarray:
    return evidence.probability(torch.from_numpy(clips.log_odds), prevalence=prevalence).numpy()


def clip_rows(files: list[Path], labels: list[str], p: np.ndarray, clips: Clips) -> list[dict[str, Any]]:
    def words(at: np.ndarray, row: int) -> dict[str, float]:
        return {labels[k]: round(float(p[row, k]), 3) for k in sorted(np.flatnonzero(at), key=lambda k: -p[row, k])}

    said = p >= DEFAULT_THRESHOLD
    return [
        {
            "file": path.name,
            "found": words(said[i] & clips.truth[i], i),
            "missed": words(~said[i] & clips.truth[i], i),
            "false alarms": words(said[i] & ~clips.truth[i] & clips.judged[i], i),
            "doubtful, said": words(said[i] & ~clips.judged[i], i),
        }
        for i, path in enumerate(files)
    ]


def curve(scores: np.ndarray, clips: Clips) -> list[tuple[float, float]]:
    """(false alarms a clip, share of true labels found) as the threshold falls."""
    order = np.argsort(-scores[clips.judged], kind="stable")
    holds = clips.truth[clips.judged][order]
    return list(zip(np.cumsum(~holds) / len(clips.truth), np.cumsum(holds) / holds.sum(), strict=True))


def plot(path: Path, sets: dict[str, tuple[np.ndarray, Clips]], systems: dict[str, np.ndarray], clips: Clips) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"font.size": 9, "svg.hashsalt": "lexivid", "axes.spines.top": False, "axes.spines.right": False}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.7), layout="constrained")
    left.plot([0, 1], [0, 1], color="#999", lw=1, ls="--")
    for colour, (name, (p, among)) in zip(("#0b6e99", "#d9730d"), sets.items(), strict=True):
        said, held, counts = multi_label.reliability(p, among.truth, judged=among.judged, num_bins=5)
        left.plot(said, held, marker="o", color=colour, label=name)
        for x, y, count in zip(said, held, counts, strict=True):
            if count:
                left.annotate(
                    f"{count:,}", (x, y), xytext=(4, -10), textcoords="offset points", fontsize=7, color=colour
                )
    left.set(
        xlabel="probability said",
        ylabel="share that held (number of pairs)",
        title="Does 0.5 mean a half, at the set's own prevalence?",
    )
    left.legend(frameon=False, fontsize=8)
    for colour, (name, scores) in zip(("#0b6e99", "#9065b0", "#787774"), systems.items(), strict=True):
        x, y = zip(*curve(scores, clips), strict=True)
        right.plot(x, y, color=colour, label=name)
    right.set(xlim=(0, 5), ylim=(0, 1), xlabel="false alarms a clip, of 100 labels", ylabel="true labels found",
              title="44 real clips, one threshold for all labels")  # fmt: skip
    right.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=os.environ.get("LEXIVID_MEDIA"))
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    parser.add_argument("--build", action="store_true")
    args = parser.parse_args()
    if args.media is None:
        parser.error("--media DIR, or LEXIVID_MEDIA")
    torch.set_num_threads(1)
    backbone = LiteBackbone.load()
    templates = load_templates(backbone.default_templates)
    if args.build:
        write_background_vectors(backbone, templates, PACKAGE)
    embed: Callable[[list[str]], Tensor] = lambda words: embed_labels(backbone, words, templates)  # noqa: E731
    background = embed(list(background_phrases()))
    files, labels, truth, judged, own = read_truth(args.media)
    clips = Clips(features(files, "clips", backbone), embed(labels), background, truth, judged)
    evidence, log_ratios = fit_calibration(clips.log_odds, truth, method=METHOD, judged=judged)
    left_out, at_own = as_probability(log_ratios), as_probability(log_ratios, evidence.fitted_prevalence or PREVALENCE)
    if args.build:
        stored = json.loads((PACKAGE / "evidence.json").read_text(encoding="utf-8"))
        stored[weights_of(backbone)] = evidence.to_dict()
        write_atomically(PACKAGE / "evidence.json", json.dumps(stored, indent=2) + "\n")
    assert args.build or calibration_for(weights_of(backbone)) == evidence, "the shipped evidence is of other clips"

    names = [split_words(name) for name in (args.media / "labels/ucf101_names.txt").read_text().split()]
    ucf_files = sorted((args.media / "ucf6").glob("*/*.mp4"))
    ucf_truth = np.array([[name == split_words(path.parent.name) for name in names] for path in ucf_files])
    ucf = Clips(features(ucf_files, "ucf6", backbone), embed(names), background, ucf_truth, np.ones_like(ucf_truth))
    ucf_p, ucf_prior = probabilities(evidence, ucf), probabilities(evidence, ucf, 1 / len(names))
    per_label = PerLabelScorer(clips.labels, background, TEMPERATURE, evidence)
    assert np.allclose(per_label.probabilities(clips.features).numpy(), probabilities(evidence, clips))

    result = {
        "about": __doc__.splitlines()[0],
        "made with": media.provenance() | {"model": "lite", "fingerprint": backbone.fingerprint},
        "evidence": evidence.to_dict(),
        "clips": {
            "clips": len(files), "labels": len(labels), "true": int(truth.sum()), "doubtful": int((~judged).sum()),
        },
        "judged by themselves, clips left out of the fit": multi_label.report(left_out, truth, judged=judged),
        "the same at the prevalence of these clips": {
            "at 0.5": decisions(at_own >= 0.5, clips), "calibration_error": errors(at_own, clips),
        },
        "threshold, labels found of 115, false alarms a clip": [
            (t, found["true labels found"], found["false alarms a clip"])
            for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8) for found in [decisions(left_out >= t, clips)]
        ],
        "probability, share and cosine": compare(clips, left_out),
        "none of these": none_of_these(clips, np.array([labels.index(x) for x in own])),
        "UCF101, six classes among 101 names, no part in the fit": {
            "prevalence 1 in 20": decisions(ucf_p >= 0.5, ucf) | {"calibration_error": errors(ucf_p, ucf)},
            "prevalence 1 in 101": decisions(ucf_prior >= 0.5, ucf) | {"calibration_error": errors(ucf_prior, ucf)},
            "softmax share": decisions(ucf.shares >= 0.5, ucf) | {"calibration_error": errors(ucf.shares, ucf)},
        },
        "the assumed evidence of models without a fit, on lite's clips": {
            "at 0.5": decisions(probabilities(ASSUMED, clips) >= 0.5, clips),
            "calibration_error": errors(probabilities(ASSUMED, clips), clips),
        },
        "other backgrounds": backgrounds(clips, background),
        "clip by clip": clip_rows(files, labels, left_out, clips),
    }  # fmt: skip
    write_atomically(args.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    plot(
        args.out.with_name("plot.svg"),
        {"44 clips, left out of the fit": (at_own, clips), "UCF101, no part in the fit": (ucf_prior, ucf)},
        {"probability": left_out, "softmax share": clips.shares, "cosine": clips.cosines},
        clips,
    )


if __name__ == "__main__":
    main()
