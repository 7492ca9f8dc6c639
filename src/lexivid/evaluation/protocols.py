"""Protocols: from collected features to a result that says how it was made.

    base-novel    MOV, section 4: base clips among the base classes by eq. 10, novel clips among the novel classes by
                  eq. 11 and 12, and their harmonic mean.
    generalized   all classes together (appendix C), without knowing which side a clip is of: by the novel head for all
                  labels ("all-novel"), by the base head for all ("all-base"), and by both with a fitted offset
                  ("calibrated", see `lexivid.scoring.base_novel_offset`).
    calibrate     fits that offset, and the calibration of log odds, on held-out base clips, and stores both with the
                  run.
    multi-label   OVML: each label by itself, any number of which may hold; seen labels (trained on), unseen ones and
                  all: macro mAP, micro and macro F1 at one threshold of the calibrated probability and at the best one,
                  calibration error.

Distractors are names that no clip is of, added to every vocabulary: six classes of UCF101 among all 101 names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lexivid.backbones import Backbone
from lexivid.base.storage import write_atomically
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.labels import TemplateSet
from lexivid.labels.prompt_cache import PromptCache
from lexivid.metrics import multi_label as multi_label_metrics
from lexivid.metrics import single_label
from lexivid.models.calibration import BaseNovelOffset
from lexivid.models.mov import HEADS
from lexivid.models.trained import TrainedModel
from lexivid.scoring import base_novel_offset
from lexivid.scoring.calibration import truth_of
from lexivid.scoring.features import Collected, log_score, of_classes, opinion, score
from lexivid.scoring.per_label import label_probabilities

PROTOCOLS = ("base-novel", "generalized", "calibrate", "multi-label")
Embed = Callable[[Sequence[str]], Tensor]
"""Names -> label vectors (K, D)."""


def base_novel(
    collected: Collected, split: ClassSplit, embed: Embed, *, distractors: Sequence[str] = (), details: bool = True
) -> dict[str, Any]:
    """Base, novel and harmonic mean, each with an interval over groups; per class and per stream.

    Args:
        split: base and novel classes; clips of other classes do not count. A side without clips is left out.
        embed: names -> vectors.
        distractors: see the module.
        details: also per-class accuracy, confusion and each stream by itself.

    Raises:
        LexividError: no clip is of any of the split's classes.
    """
    result: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    correct: list[np.ndarray] = []
    is_base: list[np.ndarray] = []
    groups: list[str] = []
    for side, classes in (("base", split.base), ("novel", split.novel)):
        part, targets, names = _side(collected, classes, distractors)
        if not len(part):
            continue
        vectors = embed(names)
        p = score(part, vectors, head="base" if side == "base" else "novel")
        result[side] = _accuracies(p, targets, part, names, classes, details=details)
        if details:
            result[side]["by_stream"] = _by_stream(part, vectors, targets, side)
        right = single_label.hits(p, targets)
        rows += predictions(p, targets, part, names, side=np.full(len(right), side))
        correct.append(right)
        is_base.append(np.full(len(right), side == "base"))
        groups += part.groups
    if not correct:
        raise LexividError("no clip is of any class of the split: check its names against the data's classes")
    if len(correct) == 2:
        interval = single_label.bootstrap_harmonic_mean(np.concatenate(correct), np.concatenate(is_base), groups)
        result["harmonic_mean"] = interval.to_dict()
    if details:
        result["predictions"] = rows
    return result


def predictions(
    p: np.ndarray, targets: np.ndarray, part: Collected, names: Sequence[str], *, side: np.ndarray
) -> list[dict[str, Any]]:
    """A row for each clip: p (n, K) probabilities of the names, targets (n,), side (n,) "base" or "novel"."""
    best, ranks, right = p.argmax(axis=1), single_label.ranks(p, targets), single_label.hits(p, targets)
    return [
        {
            "path": part.paths[i], "recording": part.groups[i], "side": str(side[i]), "label": names[targets[i]],
            "prediction": names[best[i]], "right": bool(right[i]), "score": round(float(p[i, best[i]]), 6),
            "score_of_label": round(float(p[i, targets[i]]), 6), "rank_of_label": int(ranks[i]) + 1,
        }
        for i in range(len(targets))
    ]  # fmt: skip


def generalized(
    collected: Collected,
    split: ClassSplit,
    embed: Embed,
    *,
    calibration: BaseNovelOffset | Mapping[str, Any] | None = None,
    distractors: Sequence[str] = (),
) -> dict[str, Any]:
    """All classes at once, by three rules: "all-novel", "all-base" and, with an offset, "calibrated".

    Returns:
        rule -> base, novel (each accuracy, top5, interval) and harmonic_mean. Without a calibration the third rule is
        "uncalibrated": both heads joined at offset 0.
    """
    part, targets, names = _side(collected, split.classes, distractors)
    if not len(part):
        raise LexividError("no clip is of any class of the split: check its names against the data's classes")
    vectors = embed(names)
    paths = {head: score(part, vectors, head=head) for head in HEADS}
    fitted = calibration if isinstance(calibration, BaseNovelOffset) else BaseNovelOffset.from_dict(calibration)
    known = set(split.base) | set(collected.base_classes)
    is_base = np.array([name in known for name in names])
    third = "uncalibrated" if fitted.method == "none" else "calibrated"
    rules = {
        "all-novel": paths["novel"],
        "all-base": paths["base"],
        third: joined(part, vectors, is_base, offset=fitted.offset_for(int((~is_base).sum()))),
    }
    on_base_side = np.isin(targets, np.arange(len(split.base)))
    groups = np.array(part.groups)
    result: dict[str, Any] = {"calibration": fitted.to_dict()}
    if warning := fitted.other_views(part.num_views):
        result["warning"] = warning
    for rule, p in rules.items():
        right, five = single_label.hits(p, targets), single_label.hits(p, targets, k=min(5, p.shape[1]))
        row: dict[str, Any] = {}
        for side, mine in (("base", on_base_side), ("novel", ~on_base_side)):
            if mine.any():
                interval = single_label.bootstrap_mean(right[mine], groups[mine])
                row[side] = {"accuracy": interval.to_dict(), "top5": float(five[mine].mean()), "clips": int(mine.sum())}
        if len(row) == 2:
            row["harmonic_mean"] = single_label.bootstrap_harmonic_mean(right, on_base_side, groups).to_dict()
        result[rule] = row
    best = "all-novel" if third == "uncalibrated" else third
    p = rules[best]
    result["predictions"] = predictions(p, targets, part, names, side=np.where(on_base_side, "base", "novel"))
    return result


def joined(collected: Collected, vectors: Tensor, is_base: np.ndarray, *, offset: float) -> np.ndarray:
    """Both heads over one vocabulary, by `lexivid.scoring.base_novel_offset.combine`: (n, K).

    Args:
        vectors: (K, D). is_base: (K,) bool.
    """
    base, novel = (log_score(collected, vectors, head=head) for head in HEADS)
    return base_novel_offset.combine(base, novel, is_base, offset=offset)


def multi_label(
    collected: Collected,
    split: ClassSplit,
    model: TrainedModel | Backbone,
    *,
    prompt_cache: PromptCache,
    templates: TemplateSet,
    threshold: float,
) -> dict[str, Any]:
    """All numbers of `lexivid.metrics.multi_label.report`, and average precision of every label.

    Seen labels are scored by the base head, unseen ones by the novel head. Every clip counts for every label.

    Args:
        split: labels of its base side count as seen; all of its classes are the vocabulary.
        prompt_cache, templates: what embeds labels for the model.
        threshold: on the calibrated probability.

    Raises:
        LexividError: the model has no calibration.
    """
    names = [name for name in split.classes if name in collected.classes]
    seen = np.isin(names, split.base)
    truth = truth_of(collected)[:, [collected.classes.index(name) for name in names]]
    p = label_probabilities(model, collected, names, seen, prompt_cache=prompt_cache, templates=templates)
    measured: dict[str, Any] = multi_label_metrics.report(
        p, truth, threshold=threshold, seen=seen if seen.any() and not seen.all() else None,
        groups=np.array(collected.groups),
    )  # fmt: skip
    precision = multi_label_metrics.average_precision(p, truth)
    measured["average_precision"] = {
        n: None if np.isnan(a) else float(a) for n, a in zip(names, precision, strict=True)
    }
    return measured


def write_result(result: Mapping[str, Any], folder: str | Path) -> Path:
    """Write `<protocol>.json` into a folder -> its path."""
    path = Path(folder) / f"{result['protocol']}.json"
    result = {key: value for key, value in result.items() if key != "predictions"}
    write_atomically(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def _side(
    collected: Collected, classes: Sequence[str], distractors: Sequence[str]
) -> tuple[Collected, np.ndarray, list[str]]:
    """Clips of some classes, their targets (n,) among the names, and the names: the classes, then distractors."""
    names = list(dict.fromkeys((*classes, *distractors)))
    return *of_classes(collected, classes), names


def _accuracies(
    p: np.ndarray, targets: np.ndarray, part: Collected, names: Sequence[str], classes: Sequence[str], *, details: bool
) -> dict[str, Any]:
    right = single_label.hits(p, targets)
    row: dict[str, Any] = {
        "accuracy": single_label.bootstrap_mean(right, part.groups).to_dict(),
        "top5": single_label.top_k_accuracy(p, targets, k=min(5, p.shape[1])),
        "clips": len(targets),
        "names": len(names),
    }
    recall = single_label.per_class_accuracy(targets, right, num_classes=len(classes))
    row["mean_class_accuracy"] = float(np.nanmean(recall))
    if details:
        row["per_class"] = {n: None if np.isnan(r) else float(r) for n, r in zip(classes, recall, strict=True)}
        table = single_label.confusion(targets, p.argmax(axis=1), num_classes=len(names))
        row["confusion"] = {  # what was said of each class, most often first; only what was said
            names[i]: {names[j]: int(table[i, j]) for j in np.argsort(-table[i], kind="stable")[:5] if table[i, j]}
            for i in range(len(classes))
        }
    return row


def _by_stream(part: Collected, vectors: Tensor, targets: np.ndarray, side: str) -> dict[str, float]:
    """Each stream's own accuracy, over the clips that have it."""
    s = part.settings
    result = {}
    for place, modality in enumerate(part.modalities):
        has = part.mask[:, place]
        if not has.any():
            continue
        name = modality if modality != "video" else "v_m" if side == "base" else "v"
        tau = s["tau"] if side == "base" else s["tau_v"] if modality == "video" else s["tau_x"][modality]
        p = opinion(part.select(has), vectors, name=name, tau=tau)
        result[modality] = single_label.top_k_accuracy(p, targets[has])
    return result
