"""Both together: does the sound of real clips help, with an audio path that was trained on ESC-50's base classes?

    python -m benchmarks.esc50.measure --data ESC50 ...   (first: it leaves its trained models in the cache folder)
    python -m benchmarks.clips_sound.measure --data CLIPS

Every clip with sound among the 42 names of the folder's labels.txt, by pictures alone (`lite`, zero-shot), by sound
alone (a_m), and by both (eq. 12, beta 0.25). Nothing is chosen here. The audio path of each seed has heard 25 of
ESC-50's classes; the names are new to it, some of them other words for a class that it was trained on ("trained on"),
some for one that it was not ("not trained on"), most for none of ESC-50's ("no such sound").
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.esc50.measure import NAMES, ROWS
from benchmarks.tools import real_media as media
from lexivid.base.storage import write_atomically
from lexivid.data.clips import Clip
from lexivid.data.sampling import ClipSamples, SampleSpec
from lexivid.metrics import single_label
from lexivid.models.trained import TrainedModel
from lexivid.scoring.features import Collected, opinion, score, settings_of

# What a label of these clips is called in ESC-50, where it is the same sound.
SAME = {
    "dog barking": "Dog", "baby crying": "Cryingbaby", "baby laughter": "Laughing", "coughing": "Coughing",
    "fireworks": "Fireworks", "train passing": "Train", "car engine knocking": "Engine",
}  # fmt: skip
FRAMES, SOUND_VIEWS = 16, 6


def features(data: Path, names: Sequence[str], backbone: Any) -> tuple[list[Clip], Any, Any, Any, list[Any]]:
    """-> clips with sound, v (n, D), sounds (n, V_a, 3, 128, 500), has_sound (n,), failures."""
    with (data.parent / "MANIFEST.tsv").open(encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream, delimiter="\t") if r["file"].startswith("clips/")]
    clips = [
        Clip(str(data / Path(r["file"]).name), (r["label"],), "test") for r in rows if r["has_audio"].startswith("yes")
    ]
    spec = SampleSpec(
        images=backbone.images, modalities=("video", "audio"), train=False, num_frames=FRAMES, stride=None,
        num_audio_views=SOUND_VIEWS, audio_s=5.0,
    )  # fmt: skip
    samples = ClipSamples(clips, spec, classes=names)
    kept, v, sounds, has_sound, failures = [], [], [], [], []
    for index, clip in enumerate(clips):
        sample = samples[index]
        if "failed" in sample:
            failures.append([Path(clip.path).name, sample["failed"]])
            continue
        kept.append(clip)
        v.append(backbone.encode_images(sample["video"][0]).mean(dim=0))
        sound = sample["audio"]
        has_sound.append(sound is not None)
        sounds.append(torch.zeros(SOUND_VIEWS, 3, 128, 500) if sound is None else sound)
    return kept, torch.stack(v), torch.stack(sounds), np.array(has_sound), failures


def one_model(
    folder: Path, names: Sequence[str], clips: Any, v: Any, sounds: Any, has_sound: Any, backbone: Any
) -> Any:
    """Ranks (0: right) and probabilities of the true label by pictures, sound and both, for one trained model."""
    model = TrainedModel.from_pretrained(folder, device="cpu", backbone=backbone)
    mask = torch.tensor([[False, True]]).expand(SOUND_VIEWS, 2)
    a_m = torch.stack([model.features(audio=x, mask=mask).x_m["audio"] for x in sounds])  # (n, V_a, D)
    repeated = v[:, None].expand(-1, SOUND_VIEWS, -1)
    targets = np.array([names.index(clip.labels[0]) for clip in clips])
    there = np.stack([np.ones(len(clips), dtype=bool), has_sound], axis=1)
    collected = Collected(
        {"v": repeated.numpy(), "v_m": repeated.numpy(), "audio": a_m.numpy()}, there, ("video", "audio"), targets,
        tuple(c.path for c in clips), tuple(c.path for c in clips), tuple(names), model.base_classes,
        settings_of(model),
    )  # fmt: skip
    vectors = media.label_vectors(backbone, names)
    tau_v, tau_a = collected.settings["tau_v"], collected.settings["tau_x"]["audio"]
    found = {
        "pictures": opinion(collected, vectors, name="v", tau=tau_v),
        "sound": opinion(collected, vectors, name="audio", tau=tau_a),
        "both": score(collected, vectors, head="novel"),
    }
    at = np.arange(len(clips))
    heard = [SAME.get(c.labels[0]) for c in clips]
    kind = [
        "no such sound" if h is None else "trained on" if NAMES[h] in model.base_classes else "not trained on"
        for h in heard
    ]
    return {
        "ranks": {name: single_label.ranks(p, targets) for name, p in found.items()},
        "p": {name: p[at, targets] for name, p in found.items()},
        "said": {name: [names[i] for i in p.argmax(axis=1)] for name, p in found.items()},
        "kind": np.array(kind),
        "settings": collected.settings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of clips with labels.txt beside them")
    args = parser.parse_args()
    from lexivid.backbones.lite import LiteBackbone

    backbone = LiteBackbone.load()
    names = [line for line in (args.data / "labels.txt").read_text().splitlines() if line]
    clips, v, sounds, has_sound, failures = features(args.data, names, backbone)
    folders = sorted((ROWS / "models").iterdir())
    runs = [one_model(folder, names, clips, v, sounds, has_sound, backbone) for folder in folders]
    seeds = [int(folder.name) for folder in folders]
    result = {
        "benchmark": "clips with sound: pictures, sound, both",
        "protocol": "zero-shot over 42 names; both: eq. 12",
        "settings": runs[0]["settings"],
        "prompts": {"templates": "lite", "names": names},
        "frames": FRAMES, "views": f"1 of pictures, {SOUND_VIEWS} of sound (5 s)", "split": "none",
        "audio path": "benchmarks/esc50, trained", "seeds": seeds,
        "decoder": "lexivid.media (PyAV)", "clips_asked": len(clips) + len(failures), "clips_failed": len(failures),
        "failures": failures, "clips without a sound (silence)": int((~has_sound).sum()),
        "results": summarise(runs, clips, has_sound),
        "clip by clip": [one_clip(i, clip, runs, bool(has_sound[i])) for i, clip in enumerate(clips)],
        **media.provenance(),
    }  # fmt: skip
    write_atomically(Path(__file__).with_name("result.json"), json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["results"], indent=1))
    plot(result["clip by clip"])


def summarise(runs: Sequence[Mapping[str, Any]], clips: Sequence[Clip], has_sound: np.ndarray) -> dict[str, Any]:
    """First and in five, over clips and seeds; paired difference of both and pictures."""
    result: dict[str, Any] = {}
    place = np.tile(np.arange(len(clips)), len(runs))
    run = np.repeat(np.arange(len(runs)), len(clips))
    kind = np.concatenate([r["kind"] for r in runs])
    kind[~np.tile(has_sound, len(runs))] = "silent"
    for group in ("with sound", "trained on", "not trained on", "no such sound", "silent"):
        keep = kind != "silent" if group == "with sound" else kind == group
        if not keep.any():
            continue
        row: dict[str, Any] = {"clips": len(set(place[keep])), "clips x seeds": int(keep.sum())}
        ranks = {n: np.concatenate([r["ranks"][n] for r in runs])[keep] for n in ("pictures", "sound", "both")}
        for name, x in ranks.items():
            if group == "silent" and name == "sound":
                continue
            row[name] = {"top1": round(float((x < 1).mean()), 4), "top5": round(float((x < 5).mean()), 4)}
        for k in (1, 5):
            a, b = ((ranks[n] < k).astype(float) for n in ("both", "pictures"))
            row[f"both - pictures, top{k}"] = single_label.bootstrap_difference(a, b, place[keep], run[keep]).to_dict()
        result[group] = row
    return result


def one_clip(i: int, clip: Clip, runs: Sequence[Mapping[str, Any]], has_sound: bool) -> dict[str, Any]:
    """Means over seeds."""
    return {
        "clip": Path(clip.path).name, "label": clip.labels[0], "sound": has_sound,
        "same in ESC-50": SAME.get(clip.labels[0]),
        "trained on in": f"{sum(r['kind'][i] == 'trained on' for r in runs)} of {len(runs)} seeds",
        "mean rank (1: right)": {
            n: round(float(np.mean([r["ranks"][n][i] + 1 for r in runs])), 1) for n in runs[0]["ranks"]
        },
        "probability": {n: round(float(np.mean([r["p"][n][i] for r in runs])), 4) for n in runs[0]["p"]},
        "said by sound": sorted({r["said"]["sound"][i] for r in runs}),
    }  # fmt: skip


def plot(rows: Sequence[Mapping[str, Any]]) -> None:
    """The true label's probability, by pictures and by both."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lexivid"
    from matplotlib import pyplot as plt

    rows = sorted(rows, key=lambda r: r["probability"]["both"] - r["probability"]["pictures"])
    figure, axis = plt.subplots(figsize=(8, 0.22 * len(rows) + 1.2))
    y = np.arange(len(rows))
    for name, colour, marker in (("pictures", "#888888", "o"), ("sound", "#edae49", "|"), ("both", "#1b6ca8", "D")):
        values = [r["probability"][name] if r["sound"] or name != "sound" else np.nan for r in rows]
        axis.plot(values, y, marker, color=colour, label=name, ms=5)
    for place, r in enumerate(rows):
        axis.plot([r["probability"]["pictures"], r["probability"]["both"]], [place, place], color="#1b6ca8", lw=0.8)
    marks = ["*" if r["same in ESC-50"] else "" for r in rows]
    labels = [f"{r['label']}{m}" + ("" if r["sound"] else " (silent)") for r, m in zip(rows, marks, strict=True)]
    axis.set_yticks(y, labels, fontsize=7)
    axis.set_xlabel("probability of the true label among 42 (mean over seeds; *: a class of ESC-50)")
    axis.legend(frameon=False, fontsize=8, loc="upper right")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("plot.svg"), metadata={"Date": None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
