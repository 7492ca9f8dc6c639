"""Everything that a reproduction found, as one dictionary for `lexivid.synthetic.reproduce.report`."""

from __future__ import annotations

import base64
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

import lexivid.backbones
from lexivid.backbones import Backbone
from lexivid.labels import load_templates
from lexivid.synthetic.reproduce import figures, parts, tables
from lexivid.synthetic.reproduce.packed_clips import NUM_SAMPLED_FRAMES, PackedClips, WorldSize
from lexivid.synthetic.reproduce.plan import kinds_of, systems
from lexivid.synthetic.reproduce.reproduction import Reproduction
from lexivid.synthetic.reproduce.scores import Scores
from lexivid.synthetic.reproduce.temperature import temperature
from lexivid.training.recipe import load_recipe

_PACKAGES = ("lexivid", "torch", "transformers", "av", "numba", "numpy")


def assemble(
    job: Reproduction, backbones: Mapping[str, Backbone], *, calls_s: Sequence[float], command: str = ""
) -> dict[str, Any]:  # fmt: skip
    """The results of rows that are all there (see `lexivid.synthetic.reproduce.report_parts.Results`)."""
    scores = Scores(job)
    made: list[dict[str, Any]] = []
    for name in job.names:
        if name in ("table1", "table2"):
            made.append(tables.open_vocabulary(scores, "motion" if name == "table1" else "sound", name))
        elif name == "table5":
            made.append(tables.fusion(scores))
        elif name == "table6":
            made.append(tables.layers(scores))
        elif name == "table8":
            made += temperature(scores)
        elif name == "table9":
            made += [tables.generalised(scores, kind) for kind in parts.SIDES]
        elif name == "vfa":
            made.append(tables.three_modalities(scores))
    seconds, failures = _seconds_and_failures(job, scores, calls_s)
    return {
        "title": "The MOV paper on Lexivid's synthetic world",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "data": "Lexivid's synthetic world: video files of drawn objects that move and sound. Nothing here is a result "
        "on real data; the paper's numbers stand beside ours for their signs alone.",
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "hardware": f"{_processor()}, {os.cpu_count()} cores, no GPU used",
        "protocol": _protocol(job, scores, backbones),
        "models": [_model(name) for name in backbones],
        "seconds": seconds,
        "tables": made,
        "figures": figures.figures_of(scores, job.names),
        "pictures": _pictures(job),
        "failures": failures,
    }  # fmt: skip


def _protocol(job: Reproduction, scores: Scores, backbones: Mapping[str, Backbone]) -> dict[str, Any]:
    size, scale = job.scale.size, job.scale
    kinds = kinds_of(job.names)
    temperatures = {
        job.clip(seed): scores.temperature(kinds[0], seed) for seed in job.seeds
    }  # fmt: skip
    backbone = next(iter(backbones.values()))
    templates, side = load_templates(backbone.default_templates), backbone.images.crop_size
    recipes = sorted(
        {s.recipe for kind in kinds for s in systems(kind, job.num_layers).values() if s.recipe is not None}
    )
    epochs = {name: max(1, round(load_recipe(name).training.epochs * scale.epochs)) for name in recipes}
    return {
        "Seeds": f"{', '.join(map(str, job.seeds))}: each another class split, other clips, another training; backbone "
        f"of a seed: {', '.join(f'{seed} {job.clip(seed)}' for seed in job.seeds)}",
        "Classes": f"{size.num_base} base and {size.num_novel} novel in each seed; novel ones of the half of all "
        f'combinations that is for "{scale.pool}"',
        "Choice of settings": "epochs, learning rates and the ratio of tau_v to tau were chosen on other seeds (100 "
        'and up) and on novel classes of the other half ("validation"), then frozen'
        + ("" if (size, scale.epochs) == (WorldSize(), 1) else "; this is a small version, sized for its time"),
        "Clips": f"per base class {size.train_clips} to train on, {size.held_out_clips} to calibrate on, "
        f"{size.test_clips} to test on; per novel class {size.test_clips} to test on; 2 s, 64 x 64 pixels, 8 frames a "
        "second, H.264 and AAC",
        "What models see": f"{NUM_SAMPLED_FRAMES} frames spread over the clip, at {side} pixels, with the TV-L1 flow "
        "(made at 64 pixels) of the same frames; 128 mel bins x 200 steps of sound; in training 4 of the frames, "
        "drawn anew in every epoch; no other augmentation",
        "Views": "one per clip",
        "Prompts": list(templates.templates),
        "Temperature tau": ", ".join(f"{name} {tau:.4f}" for name, tau in temperatures.items())
        + ": learnt by the backbone, used everywhere (tau_v too) unless a table says otherwise; beta 0.25, alpha 0.5",
        "Recipes": ", ".join(f"{name} ({number} epochs)" for name, number in epochs.items()),
        "Intervals": "95 %: Student's t over seeds, for differences over the differences within each seed"
        if len(job.seeds) > 1
        else "95 %: bootstrap over the clips of the one seed; another seed may differ by more",
    }  # fmt: skip


def _model(name: str) -> dict[str, Any]:
    """A backbone, with what pre-training measured of it (`lexivid pretrain`) where that is beside its weights."""
    folder = Path(name) if Path(name).is_dir() else Path(lexivid.backbones.__file__).parent / name
    try:
        gates = json.loads((folder / "pretrain.json").read_text(encoding="utf-8"))["gates"]
        measured = {
            "word_accuracy": gates["words"]["picture"],
            "chance": gates["chance"], "text_variance": gates["text_variance"],
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return {"id": name}
    return {"id": name} | {
        what: {word: percent / 100 for word, percent in values.items()} for what, values in measured.items()
    }


def _pictures(job: Reproduction) -> list[dict[str, str]]:
    """Some clips of each world."""
    pictures = []
    for kind in kinds_of(job.names):
        path = job.place.sheet(kind)
        if path.is_file():
            png = base64.b64encode(_small(path)).decode("ascii")
            alt = "Rows of frames, optical flow as colours and spectrograms, each under the name of its class."
            pictures.append(
                {"title": f"Clips of the {kind} world, as a reader of the files gets them", "png": png, "alt": alt}
            )
    return pictures[:1]


def _small(path: Path) -> bytes:
    """A picture at half its size and in 64 colours: the page holds it."""
    picture = Image.open(path).convert("RGB")
    buffer = io.BytesIO()
    picture.reduce(2).quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _seconds_and_failures(
    job: Reproduction, scores: Scores, calls_s: Sequence[float]
) -> tuple[dict[str, float], list[dict[str, str]]]:
    """Where the time went, interrupted calls included, and the clips that could not be read."""
    seconds: dict[str, float] = {}
    failures = []
    for kind in kinds_of(job.names):
        for seed in job.seeds:
            path = job.place.packed(kind, seed)
            if path.is_file():
                packed = PackedClips.about(path)
                for stage, value in packed["seconds"].items():
                    seconds[stage] = seconds.get(stage, 0.0) + value
                failures += [{"what": what, "why": why} for what, why in packed["failures"]]
            stage = "features of the frozen tower"
            seconds[stage] = seconds.get(stage, 0.0) + scores.world(kind, seed).seconds
    for row in job.rows:
        spent = scores.collected(row.kind, row.seed, row.system).facts["seconds"]
        for stage, label in (("training", f"training, {row.kind} world"), ("scoring", "running models on test clips")):
            label += " (of one core)"
            seconds[label] = seconds.get(label, 0.0) + spent[stage]
    number = f"{len(calls_s)} calls" if len(calls_s) > 1 else "the call"
    seconds[f"all together, by the clock ({number}, from start to report)"] = sum(calls_s)
    return {stage: round(value, 1) for stage, value in seconds.items()}, failures


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
