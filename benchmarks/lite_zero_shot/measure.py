"""How well `lite` names real footage that it was never trained on, clip by clip, and what each of its parts is worth.

    python -m benchmarks.lite_zero_shot.measure --media DIR --out benchmarks/lite_zero_shot/result.json

DIR holds clips/ (44 clips, MANIFEST.tsv, clips/labels.txt with 42 labels), ucf6/ (six classes of UCF101) and
labels/ucf101_names.txt. The protocol is the product's: 16 frames spread over the file, centre crop, mean of unit
vectors, cosine with the labels' vectors. Every clip counts: one that fails to decode would be counted wrong.
The ablations change one thing each, on the same logits. `ideas.json`, beside this file, is the log of every idea
that was tried while the recipe was made; it is copied into the result.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import lexivid
from lexivid.backbones import lite
from lexivid.errors import MediaError
from lexivid.labels import load_templates
from lexivid.media.decode import read_views
from lexivid.media.views import Views

TextEncoder = Callable[[list[str]], Tensor]


def read_sets(media: Path) -> tuple[list[tuple[Path, str]], list[str], list[tuple[Path, str]], list[str]]:
    """Files with their labels, and the vocabulary, of both sets."""
    with (media / "MANIFEST.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["file"].startswith("clips/")]
    clips = [(media / row["file"], row["label"]) for row in rows]
    labels = (media / "clips/labels.txt").read_text().split("\n")
    names = (media / "labels/ucf101_names.txt").read_text().split()
    ucf = [(path, split_words(path.parent.name)) for path in sorted((media / "ucf6").glob("*/*.mp4"))]
    return clips, [label for label in labels if label], ucf, [split_words(name) for name in names]


def split_words(name: str) -> str:
    """ "PlayingPiano" -> "playing piano"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def frame_logits(files: list[tuple[Path, str]], backbone: lite.LiteBackbone, times: dict[str, float]) -> Tensor:
    """(B, T, C): logits of every frame; nan for a file that fails."""
    rows = []
    for path, _ in files:
        start = time.perf_counter()
        try:
            frames = read_views(path, Views(), transform=backbone.images.resize).frames[0]
        except MediaError as error:
            print(f"{path}: {error}")
            rows.append(torch.full((Views().num_frames, 1000), float("nan")))
            continue
        pixels = backbone.images.crops(frames)[0]
        read = time.perf_counter()
        with torch.inference_mode():
            x = backbone.images.normalise(pixels).contiguous(memory_format=torch.channels_last)
            rows.append(backbone.vision(x))
        times["decode"] += read - start
        times["network"] += time.perf_counter() - read
    return torch.stack(rows)


def video_vectors(logits: Tensor, classes: Tensor, *, tau: float = 1.0) -> Tensor:
    """(B, T, C) logits and class vectors (C, D) -> (B, D), unit length."""
    return F.normalize(F.normalize((logits / tau).softmax(-1) @ classes, dim=-1).mean(1), dim=-1)


def ensemble(encode: TextEncoder, templates: tuple[str, ...]) -> TextEncoder:
    """As the label module does it: mean over templates of unit vectors, unit length."""
    return lambda labels: F.normalize(
        sum((encode([t.replace("{}", label) for label in labels]) for t in templates), torch.zeros(())), dim=-1
    )


def ranks(scores: Tensor, truth: Tensor) -> Tensor:
    """(B, K), (B,) -> the true label's rank, 1 is best; a file that failed gets the last."""
    rank = (scores > scores.gather(1, truth[:, None])).sum(1) + 1
    return torch.where(scores.isnan().any(1), scores.shape[1], rank)


def accuracy(rank: Tensor, k: int) -> float:
    return round((rank <= k).double().mean().item() * 100, 1)


class Bench:
    """Both sets with their logits; `measure` scores one way to encode videos and labels."""

    def __init__(self, media: Path, backbone: lite.LiteBackbone) -> None:
        self.clips, self.labels, self.ucf, self.names = read_sets(media)
        self.times = {"decode": 0.0, "network": 0.0}
        self.logits = [frame_logits(files, backbone, self.times) for files in (self.clips, self.ucf)]
        self.six = sorted({label for _, label in self.ucf})
        self.truth = torch.tensor([self.labels.index(label) for _, label in self.clips])
        self.truth_101 = torch.tensor([self.names.index(label) for _, label in self.ucf])
        self.truth_6 = torch.tensor([self.six.index(label) for _, label in self.ucf])

    def scores(self, videos: Callable[[Tensor], Tensor], texts: TextEncoder) -> dict[str, tuple[Tensor, Tensor]]:
        clips, ucf = (videos(logits) for logits in self.logits)
        names = texts(self.names)
        six = names[[self.names.index(name) for name in self.six]]
        return {
            "clips_42": (clips @ texts(self.labels).T, self.truth),
            "ucf_6": (ucf @ six.T, self.truth_6),
            "ucf_101": (ucf @ names.T, self.truth_101),
        }

    def measure(self, videos: Callable[[Tensor], Tensor], texts: TextEncoder) -> dict[str, Any]:
        found = {name: ranks(*pair) for name, pair in self.scores(videos, texts).items()}
        return {
            "clips_42": {"top1": accuracy(found["clips_42"], 1), "top3": accuracy(found["clips_42"], 3)},
            "ucf_6": {"top1": accuracy(found["ucf_6"], 1)},
            "ucf_101": {"top1": accuracy(found["ucf_101"], 1), "top5": accuracy(found["ucf_101"], 5)},
            "mean_log2_rank": {k: round(found[k].double().log2().mean().item(), 3) for k in ("clips_42", "ucf_101")},
        }


def ablations(bench: Bench, backbone: lite.LiteBackbone, templates: tuple[str, ...]) -> dict[str, Any]:
    """One change each against the shipped recipe."""
    encode = backbone.text
    known = lite._stored_class_vectors(lite.file_digest(lite.packaged_file(*lite._TEXT)))
    assert known is not None, "lite_classes.safetensors is not up to date: run benchmarks/tools/build_lite_classes.py"
    whitened, texts = backbone.whitened_classes.cpu(), ensemble(backbone.encode_texts, templates)

    def shipped(logits: Tensor) -> Tensor:
        return video_vectors(logits, whitened)

    def in_space_of(classes: Tensor, label_encoder: TextEncoder) -> dict[str, Any]:
        fresh = lite.LiteBackbone(
            lite.load_vision(lite.packaged_vision()), encode, classes,
            device=backbone.device, dtype=backbone.dtype, fingerprint="ablation",
        )  # fmt: skip
        to_label = ensemble(lambda labels: F.normalize(label_encoder(labels) @ fresh._root, dim=-1), templates)
        return bench.measure(lambda logits: video_vectors(logits, fresh.whitened_classes), to_label)

    def with_words(labels: list[str]) -> Tensor:
        return lite.label_vectors(labels, encode)

    plain, contexts = lite.class_meanings(encode), lite.class_contexts(encode)
    permuted = contexts[torch.randperm(len(contexts), generator=torch.Generator().manual_seed(0))]
    raw = ensemble(with_words, templates)
    return {
        "shipped recipe": bench.measure(shipped, texts),
        "no class contexts": in_space_of(plain, with_words),
        "class contexts permuted over the classes (control)": in_space_of(
            F.normalize(plain + lite.CONTEXT_WEIGHT * permuted, dim=-1), with_words
        ),
        "no words of a label": in_space_of(known, encode),
        "neither (names and definitions; the first prototype's recipe)": in_space_of(plain, encode),
        "raw cosine instead of the z score": bench.measure(lambda logits: video_vectors(logits, known), raw),
        "centred cosine instead of the z score": bench.measure(
            lambda logits: F.normalize(F.normalize(logits.softmax(-1) @ known - known.mean(0), dim=-1).mean(1), dim=-1),
            lambda labels: F.normalize(raw(labels) - known.mean(0), dim=-1),
        ),
        "contexts alone": in_space_of(contexts, with_words),
        "bare names": bench.measure(shipped, backbone.encode_texts),
        "8 frames": bench.measure(lambda logits: shipped(logits[:, ::2]), texts),
        "1 frame": bench.measure(lambda logits: shipped(logits[:, 8:9]), texts),
        "softmax over classes at 0.5": bench.measure(lambda logits: video_vectors(logits, whitened, tau=0.5), texts),
        "softmax over classes at 2": bench.measure(lambda logits: video_vectors(logits, whitened, tau=2.0), texts),
        "logits averaged over frames": bench.measure(lambda logits: shipped(logits.mean(1, keepdim=True)), texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=os.environ.get("LEXIVID_MEDIA"), required=False)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    args = parser.parse_args()
    if args.media is None:
        parser.error("--media DIR, or LEXIVID_MEDIA")

    start = time.perf_counter()
    backbone = lite.LiteBackbone.load()
    load_s = time.perf_counter() - start
    templates = load_templates(backbone.default_templates).templates
    bench = Bench(args.media, backbone)
    videos, texts = (lambda x: video_vectors(x, backbone.whitened_classes)), ensemble(backbone.encode_texts, templates)
    scores = bench.scores(videos, texts)
    likelihood = {
        name: {str(tau): round(F.cross_entropy(s / tau, y).item(), 3) for tau in (0.03, 0.05, 0.07, 0.1, 0.15)}
        for name, (s, y) in scores.items()
    }
    clip_scores, truth = scores["clips_42"]
    rank = ranks(clip_scores, truth).tolist()
    probabilities = (clip_scores / backbone.temperature).softmax(-1)
    best = [tuple(map(Tensor.tolist, row.topk(3))) for row in probabilities]
    per_clip = [
        {
            "file": path.name, "label": label, "rank": rank[i],
            "top3": [[bench.labels[j], round(p, 3)] for p, j in zip(*best[i], strict=True)],
        }
        for i, (path, label) in enumerate(bench.clips)
    ]  # fmt: skip
    rank_101 = ranks(*scores["ucf_101"])
    recall = {name: accuracy(rank_101[bench.truth_6 == i], 1) for i, name in enumerate(bench.six)}
    num_files = len(bench.clips) + len(bench.ucf)
    result = {
        "what": "zero-shot accuracy (per cent) of the backbone lite; nothing is trained",
        "version": lexivid.__version__, "torch": torch.__version__, "recipe": lite.RECIPE,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "protocol": {"frames": 16, "views": "spread over the file, centre crop", "size": backbone.images.crop_size,
                     "templates": list(templates), "temperature": backbone.temperature,
                     "clips": [len(bench.clips), len(bench.ucf)],
                     "clips_failed": sum(int(x.isnan().any(-1).any(-1).sum()) for x in bench.logits)},
        "result": bench.measure(videos, texts),
        "ucf_101_recall_by_class": recall,
        "negative_log_likelihood_by_temperature": likelihood,
        "seconds": {"load": round(load_s, 2), **{k: round(v / num_files, 3) for k, v in bench.times.items()},
                    "note": "decode and network: mean of a clip; the machine may have been shared"},
        "ablations": ablations(bench, backbone, templates),
        "per_clip": per_clip,
        "ideas_tried": json.loads(Path(__file__).with_name("ideas.json").read_text()),
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("per_clip", "ideas_tried")}, indent=1))


if __name__ == "__main__":
    main()
