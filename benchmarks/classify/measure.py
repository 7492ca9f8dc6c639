"""How fast Lexivid classifies with CLIP B/16, against the way most people write it.

    python -m benchmarks.classify.measure [--clips FOLDER] [--repeats 3]

The peer, in the same run on the same clips: decode all frames with PyAV, take 16, transformers' CLIPProcessor and
CLIPModel in float32. The model is randomly initialised at its true size (speed does not depend on the values), with
CLIP's own temperature; label vectors are computed beforehand on both sides. Each measurement is a process of its own,
the systems take turns, medians count. Writes result.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

NUM_CLIPS, CLIP_S, FRAMES, NUM_LABELS = 20, 10, 16, 100
SYSTEMS = ("plain", "lexivid", "lexivid-float32")


def make_checkpoint(folder: Path) -> None:
    """CLIP ViT-B/16 at its true size with random weights, in the Hub's format, with a letter tokenizer."""
    import torch
    from checkpoints import make_clip
    from transformers import CLIPConfig, CLIPModel

    make_clip(folder, image_size=224)
    small = json.loads((folder / "config.json").read_text())["text_config"]
    torch.manual_seed(0)
    text = {key: small[key] for key in ("vocab_size", "eos_token_id", "bos_token_id", "pad_token_id")}
    vision = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16,
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))
    model.logit_scale.data.fill_(math.log(100))
    model.save_pretrained(folder)


def make_clips(folder: Path) -> None:
    """Films of 10 s, 640 x 360, 30 frames per second, H.264: a panned texture with moving discs and some noise."""
    import av
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:360, 0:640]
    for number in range(NUM_CLIPS):
        random = np.random.default_rng(number)
        texture = np.kron(random.integers(0, 256, (40, 120, 3)), np.ones((12, 12, 1))).astype(np.uint8)
        with av.open(str(folder / f"clip{number:02d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "23"})
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            for t in range(30 * CLIP_S):
                picture = texture[t // 4 : t // 4 + 360, t : t + 640].copy()
                disc = (rows - 180 - 100 * math.sin(t / 20 + number)) ** 2 + (columns - 2 * t % 640) ** 2 < 50**2
                picture[disc] = (250, 40 * (number % 6), 60)
                picture[::2, ::2] ^= random.integers(0, 8, (180, 320, 1), dtype=np.uint8)
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)


def labels() -> list[str]:
    return [f"class number {i} of many" for i in range(NUM_LABELS)]


def run_plain(model_folder: Path, clips: list[Path], vectors_file: Path) -> dict[str, object]:
    """The way most people write it."""
    import av
    import numpy as np
    import torch
    from transformers import CLIPImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(model_folder).eval()
    processor = CLIPImageProcessor.from_pretrained(model_folder)
    vectors = torch.load(vectors_file, weights_only=True)
    scores, started = [], time.perf_counter()
    for clip in clips:
        with av.open(str(clip)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        # Middles of 16 equal parts, as Lexivid's default has it, so that both see the same frames.
        chosen = [frames[int(len(frames) * (i + 0.5) / FRAMES)] for i in range(FRAMES)]
        with torch.no_grad():
            output = model.get_image_features(**processor(images=chosen, return_tensors="pt"))
        features = output if isinstance(output, torch.Tensor) else output.pooler_output
        video = (features / features.norm(dim=-1, keepdim=True)).mean(0)
        scores.append(torch.softmax(100 * (video / video.norm()) @ vectors.T, -1))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "scores": np.stack([s.numpy() for s in scores]).tolist()}


def run_lexivid(model_folder: Path, clips: list[Path], dtype: str) -> dict[str, object]:
    """Lexivid, as a user calls it, with the time of each stage (stages overlap: decoding runs ahead in a thread)."""
    import lexivid
    from lexivid.backbones.preprocess import ImageProcessing

    spent = dict.fromkeys(("decode", "preprocess", "tower", "labels"), 0.0)

    def timed(stage: str, function):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[stage] += time.perf_counter() - started

        return call

    classifier = lexivid.load(str(model_folder), dtype=dtype)
    classifier.prepare(labels(), templates="name")
    started = time.perf_counter()
    vocabulary = classifier.prepare(labels(), templates="name")
    spent["labels"] = time.perf_counter() - started
    from lexivid.inference import classifier as inference

    original = ImageProcessing.resize
    ImageProcessing.resize = timed("preprocess", original)  # type: ignore[method-assign]
    classifier.backbone.encode_images = timed("tower", classifier.backbone.encode_images)  # type: ignore[method-assign]
    inference.read_views = timed("decode", inference.read_views)
    started = time.perf_counter()
    predictions = list(classifier.classify_many(clips, vocabulary))
    seconds = time.perf_counter() - started
    spent["decode"] -= spent["preprocess"]  # resizing happens while decoding
    by_label = [{x.label: x.score for x in prediction.labels} for prediction in predictions]
    return {
        "seconds": seconds,
        "stages_s": spent,
        "dtype": str(classifier.backbone.dtype),
        "scores": [[scores[label] for label in labels()] for scores in by_label],
    }


def worker(system: str, model_folder: Path, clips: list[Path], vectors_file: Path) -> None:
    """One system over all clips; prints one JSON line."""
    if system == "plain":
        result = run_plain(model_folder, clips, vectors_file)
    else:
        result = run_lexivid(model_folder, clips, "float32" if system.endswith("float32") else "auto")
    result["peak_mib"] = peak_mib()
    print(json.dumps(result))


def peak_mib() -> float:
    """Of this program alone: ru_maxrss would carry over the peak of the process that started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def processor_name() -> str:
    """The CPU's own name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of clips to use instead of generated ones")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        system, folder = options.worker[0], Path(options.worker[1])
        clips = sorted((options.clips or folder / "clips").glob("*.mp4"))[:NUM_CLIPS]
        worker(system, folder / "model", clips, folder / "vectors.pt")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["LEXIVID_CACHE"] = str(folder / "cache")
        (folder / "model").mkdir()
        print("making the checkpoint and the clips ...", file=sys.stderr)
        make_checkpoint(folder / "model")
        if not options.clips:
            make_clips(folder / "clips")
        import torch

        import lexivid

        exact = lexivid.load(str(folder / "model"), dtype="float32", device="cpu")
        torch.save(exact.prepare(labels(), templates="name").vectors, folder / "vectors.pt")
        del exact
        runs: dict[str, list[dict]] = {system: [] for system in SYSTEMS}
        for repeat in range(options.repeats):
            for system in SYSTEMS:
                command = [sys.executable, "-m", "benchmarks.classify.measure", "--worker", system, temporary]
                command += ["--clips", str(options.clips)] if options.clips else []
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                runs[system].append(json.loads(output.splitlines()[-1]))
                print(f"{repeat + 1}: {system}: {runs[system][-1]['seconds']:.1f} s", file=sys.stderr)
    result = summarise(runs, options)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def summarise(runs: dict[str, list[dict]], options: argparse.Namespace) -> dict[str, object]:
    """Medians, ratios within each round, differences of the scores."""

    def difference(system: str) -> float:
        pairs = zip(runs["plain"][0]["scores"], runs[system][0]["scores"], strict=True)
        return max(abs(a - b) for first, second in pairs for a, b in zip(first, second, strict=True))

    def spread(system: str) -> float:
        return max(max(row) - min(row) for row in runs[system][0]["scores"])

    systems: dict[str, object] = {}
    for system, measured in runs.items():
        entry: dict[str, object] = {
            "seconds": statistics.median(run["seconds"] for run in measured),
            "peak_mib": round(statistics.median(run["peak_mib"] for run in measured)),
            "largest_spread_of_scores_in_a_clip": spread(system),
        }
        if system != "plain":
            ratios = [plain["seconds"] / run["seconds"] for plain, run in zip(runs["plain"], measured, strict=True)]
            stages = {
                stage: statistics.median(run["stages_s"][stage] for run in measured)
                for stage in measured[0]["stages_s"]
            }
            total = sum(stages.values())
            entry |= {
                "times_faster": statistics.median(ratios),
                "times_faster_each_round": ratios,
                "largest_difference_of_a_score": difference(system),
                "dtype": measured[0]["dtype"],
                "share_of_stage": {stage: seconds / total for stage, seconds in stages.items()},
                "stage_seconds": stages,
            }
        systems[system] = entry
    return {
        "what": f"{NUM_CLIPS} clips of {CLIP_S} s, {FRAMES} frames each, CLIP ViT-B/16 (random weights), labels known",
        "clips": str(options.clips.name) if options.clips else "generated: 640 x 360, 30 frames per second, H.264",
        "repeats": options.repeats,
        "systems": systems,
        "hardware": {"cpu": processor_name(), "cores": len(os.sched_getaffinity(0))},
        "versions": {name: version(name) for name in ("lexivid", "torch", "transformers", "av")}
        | {"python": platform.python_version()},
    }


if __name__ == "__main__":
    main()
