"""What each recipe costs: seconds of one core for each clip, once and in every epoch.

    python -m benchmarks.recipe_costs.measure --films FOLDER_OF_CLASSES --sounds FOLDER_OF_CLASSES [--only RECIPE ...]

Recipes on `lite` train on at most 16 of the films (or sounds), those on `world` on 64 clips of a synthetic world that
is made here. Each runs four times as `lexivid train` with one thread and no worker process, so that its CPU seconds are
those of all work, and other load on the machine does not count:

    a  1 epoch, nothing cached     b  E epochs on the same cache     c  E epochs again     d  1 epoch again

    of each clip and epoch:  (c - d) / (E - 1) / clips
    of each clip once:       ((a - d) + (b - c)) / clips      (decoding, flow, features of the frozen tower)

E is 3 where an epoch takes seconds, and 21 where it takes less than the differences between two starts of Python.

Two cores that do nothing else need half of these seconds, if work is shared evenly. Recipes whose backbone or language
model is on the Hub are named and not measured. Writes result.json, and what `lexivid train --list` says of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGED = HERE.parent.parent / "src" / "lexivid" / "recipes" / "costs.json"
NUM_FILMS, NUM_CLASSES = 16, 4
SLOW = ("lite-flow-only", "lite-mov", "lite-score-fusion")  # lite's flow tower is trained


def main() -> None:
    from lexivid.training.recipe import load_recipe, recipe_names

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=Path, required=True, help="CLASS/CLIP files, such as UCF101's")
    parser.add_argument("--sounds", type=Path, required=True, help="CLASS/SOUND files, such as ESC-50's")
    parser.add_argument("--only", nargs="*", default=[], help="these recipes; the others keep what is known of them")
    args = parser.parse_args()
    path = HERE / "result.json"
    known = json.loads(path.read_text(encoding="utf-8"))["recipes"] if path.is_file() else {}
    recipes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for recipe in recipe_names():
            model = load_recipe(recipe).model.backbone
            if model not in ("lite", "world"):
                recipes[recipe] = {"not_measured": f"needs {model} of the Hub"}
            elif args.only and recipe not in args.only:
                if recipe in known:
                    recipes[recipe] = known[recipe]
            else:
                recipes[recipe] = cost_of(recipe, *data_of(recipe, args.films, args.sounds, scratch), scratch)
                print(recipe, json.dumps(recipes[recipe]), flush=True)
    result = {
        "question": "What does each recipe cost?",
        "unit": "seconds of one core",
        "recipes": recipes,
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in ("lexivid", "torch", "av", "numba")},
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    keys = ("clips", "once_s", "epoch_s", "peak_mb")
    short = {name: {k: row[k] for k in keys} for name, row in recipes.items() if "epoch_s" in row}
    PACKAGED.write_text(json.dumps(short, indent=1) + "\n", encoding="utf-8")


def data_of(recipe: str, films: Path, sounds: Path, scratch: Path) -> tuple[Path, str, list[str]]:
    """A data set that suits the recipe, in words, and the settings that belong to it."""
    from lexivid.training.recipe import load_recipe

    chosen = load_recipe(recipe)
    several = chosen.objective.kind == "sigmoid"
    if chosen.model.backbone == "world":
        folder = scratch / ("labels" if several else "world")
        if not folder.exists():
            kinds = ["--label-kinds", "all"] if several else ["--kind", "both"]
            sizes = ["--base", "16", "--novel", "4", "--clips-per-class", "4", "--test-clips-per-class", "1"]
            call("world", "--out", str(folder), *kinds, *sizes)
        return folder, "clips of `lexivid world` (64 x 64, 2 s)", [f"data.class_split={folder / 'split.json'}"]
    source = sounds if chosen.inputs == ("audio",) else films
    words = "5 s, 22 kHz" if source == sounds else "320 x 240, 4 to 10 s"
    folder = scratch / f"some-{source.name}-{several}"
    if not folder.exists():
        rows = [("path", "labels" if several else "label")]
        for place in sorted(path for path in source.iterdir() if path.is_dir()):
            files = sorted(path for path in place.iterdir() if path.is_file() and (not several or has_sound(path)))
            step = max(1, len(files) // (NUM_FILMS // NUM_CLASSES))
            rows += [(str(file.absolute()), place.name) for file in files[::step][: NUM_FILMS // NUM_CLASSES]]
        rows = rows[: 1 + NUM_FILMS]
        folder.mkdir()
        with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    return folder, f"{'sounds' if source == sounds else 'films with sound' if several else 'films'} ({words})", []


def has_sound(path: Path) -> bool:
    """Whether a film has a sound track."""
    from lexivid.media.decode import open_video

    with open_video(str(path)) as film:
        return film.info.has_audio


def cost_of(recipe: str, data: Path, words: str, settings: list[str], scratch: Path) -> dict[str, Any]:
    """The four runs."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    runs = {}
    many = 3 if recipe in SLOW else 21
    for name, epochs in {"a": 1, "b": many, "c": many, "d": 1}.items():
        own = [f"training.epochs={epochs}", "data.held_out=0", "data.num_workers=0", *settings]
        words_of_call = [part for setting in own for part in ("--set", setting)]
        out = folder / name
        runs[name] = call(
            "train", recipe, "--data", str(data), "--out", str(out), *words_of_call, "--device", "cpu",
            cache=folder / "cache",
        )  # fmt: skip
        num_clips = json.loads((out / "train.json").read_text(encoding="utf-8"))["clips"]
    a, b, c, d = (runs[name]["cpu_s"] for name in "abcd")
    return {
        "clips": f"{num_clips} {words}",
        "num_clips": num_clips,
        "epochs": many,
        "once_s": round(max(0.0, (a - d) + (b - c)) / num_clips, 3),
        "epoch_s": round(max(0.0, c - d) / (many - 1) / num_clips, 3),
        "peak_mb": round(max(run["peak_mb"] for run in runs.values())),
        "runs": runs,
    }


def call(*words: str, cache: Path | None = None) -> dict[str, float]:
    """`lexivid WORDS` in a process of its own -> what it used."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    environment |= {"LEXIVID_CACHE": str(cache)} if cache else {}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "lexivid", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"lexivid {' '.join(words)}: {said[-2000:]}")
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "wall_s": round(time.monotonic() - started, 2),
        "peak_mb": round(used.ru_maxrss / 1024),
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main()
