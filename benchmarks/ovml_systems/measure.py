"""OVML and its parts on the synthetic world of several labels: real files, five seeds, everything trained by `train`.

    python -m benchmarks.ovml_systems.measure [--seeds 0 1 2 3 4] [--systems ovml ...] [--out FOLDER] [--workers 2]

Clips show two to four objects that move and sound (lexivid.synthetic.world.multilabel). Labels are of four kinds:
invented nouns, which only the language model has read of; the same things in plain words; motions; sounds. Training
clips show 60 nouns, 5 motions and 5 sounds of the 100, 8 and 8; test clips show all. What is measured is macro mAP of
seen and unseen labels, F1 of both means at 0.5 of the calibrated probability and at the best shared threshold, and the
calibration error; intervals are Student's t over seeds. A seed has nouns, a language model, a split, clips and training
of its own, and the three CLIPs of the world in turn.

Rows lie in FOLDER as they come, so that a stopped run goes on; benchmarks/ovml_systems/result.json is made of them.
Settings were chosen on seed 100 (validation.json has all that was tried).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ovml_world.measure import language_model
from lexivid import __version__
from lexivid.backbones import load_backbone
from lexivid.backbones.base import WORLD_BACKBONES
from lexivid.base.storage import cache_dir, write_atomically
from lexivid.base.workers import start_worker
from lexivid.labels import load_templates
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.prompt_cache import PromptCache
from lexivid.metrics.multi_label import average_precision, report
from lexivid.metrics.single_label import t_interval
from lexivid.models.trained import TrainedModel
from lexivid.scoring.calibration import fit_calibration
from lexivid.scoring.features import Collected, clip_log_odds, collect
from lexivid.synthetic.reproduce.packed_clips import PackedClips, pack_label_world
from lexivid.synthetic.reproduce.world_samples import WorldFeatures, WorldSamples, encode_world
from lexivid.synthetic.world.multilabel import LabelSets, draw_label_sets
from lexivid.training import train
from lexivid.training.clips import TrainingClips
from lexivid.training.recipe import Recipe, load_recipe

RESULTS = Path(__file__).with_name("result.json")
SIZE: dict[str, Any] = {"num_train": 1000, "num_held_out": 150, "num_test": 800}
NUM_NOVEL_NOUNS = 40
VIEWS = 2
"""Clips in time at test: 4 moments each, 0.25 s apart, as in training. A motion starts over every second."""


@dataclass(frozen=True)
class System:
    """How a row is made.

    Args:
        says: for readers. recipe: None for the backbone as it is. settings: on top of it.
        answers: labels with words that CLIP was never taught are replaced by what the language model says they are.
        scrambled: the language model is handed another noun, always the same one.
        synthetic: training sees the captioner's labels as well.
        start: the stage that training starts from, see STAGES; None: from CLIP.
    """

    says: str
    recipe: str | None = "world-ovml"
    settings: dict[str, Any] = field(default_factory=dict)
    answers: bool = False
    scrambled: bool = False
    synthetic: bool = False
    start: str | None = "labels"


_PROMPTS = {"labels.encoder": "prompts"}
_PLAIN = {"model.temporal_branches": 0, "objective.regularisers": [], "training.export": "last"}
_HOT = {"training.tower_lr": 3e-3}
STAGES = ("labels", "scrambled labels")
"""First stages: soft attributes alone, CLIP's picture encoder frozen."""
SYSTEMS: dict[str, System] = {
    "zero-shot": System("CLIP as it is, a sigmoid fitted on held-out clips", None),
    "answers": System("the same; the language model says in words what unknown words mean", None, answers=True),
    "fine-tuned": System("CLIP's picture encoder fine-tuned, prompts", settings=_PLAIN | _PROMPTS, start=None),
    "coop": System(
        "learned context (CoOp), CLIP frozen", "world-ovml-labels", {"labels.encoder": "learned_context"}, start=None
    ),
    "labels": System("OVML's first stage: soft attributes alone, CLIP's picture encoder frozen", "world-ovml-labels"),
    "ovml": System("OVML whole"),
    "no-soft-attributes": System("without soft attributes (prompts)", settings=_PROMPTS, start=None),
    "no-branch": System("without the branch through time", settings={"model.temporal_branches": 0}),
    "no-interpolation": System("without interpolated weights", settings={"objective.regularisers": ["video_distance"]}),
    "no-distance": System("without the distance to CLIP", settings={"objective.regularisers": ["interpolation"]}),
    "no-regulariser": System("without either regulariser", settings={"objective.regularisers": []}),
    "mov-ovml": System("MOV x OVML: pictures, motion and sound", "world-mov-ovml"),
    "scrambled labels": System(
        "control of the first stage: the language model is handed another noun", "world-ovml-labels", scrambled=True
    ),
    "synthetic": System("with synthetic labels", settings={"data.synthetic_weight": 0.5}, synthetic=True),
    "no-average": System("without the average of checkpoints", settings={"training.export": "last"}),
    "mov-prompts": System(
        "MOV with a sigmoid, without soft attributes", "world-mov-ovml", settings=_PROMPTS, start=None
    ),
    "mov-ovml-video": System("MOV x OVML: pictures alone", "world-mov-ovml", {"model.modalities": ["video"]}),
    # Added when seeds 0 to 2 had been seen: after 10 epochs one of them had not learnt any sound.
    "mov-ovml-20": System("MOV x OVML, 20 epochs", "world-mov-ovml", {"training.epochs": 20}),
    "asymmetric": System("with the asymmetric loss", settings={"objective.loss": "asymmetric"}),
    "one-stage": System("OVML in one stage of 20 epochs", settings={"training.epochs": 20}, start=None),
    # Does a regulariser help where fine-tuning forgets? The tower at three times the rate.
    "hot": System("OVML whole, tower at 3e-3", settings=_HOT),
    "hot-no-interpolation": System(
        "the same without interpolated weights", settings=_HOT | {"objective.regularisers": ["video_distance"]}
    ),
    "hot-no-distance": System(
        "the same without the distance to CLIP", settings=_HOT | {"objective.regularisers": ["interpolation"]}
    ),
    "hot-no-regulariser": System("the same without either regulariser", settings=_HOT | {"objective.regularisers": []}),
}


@dataclass(frozen=True)
class Bench:
    """A seed: clips, labels, both models."""

    seed: int
    clip: str
    sets: LabelSets
    packed: PackedClips
    frozen: Tensor
    language_model: str


def place_of(out: Path, seed: int, name: str) -> Path:
    return out / "rows" / f"{seed}-{name.replace(' ', '-')}.json"


def clip_of(seed: int) -> str:
    return WORLD_BACKBONES[seed % len(WORLD_BACKBONES)]


def prepare(out: Path, seed: int, workers: int) -> None:
    """The clips of a seed as one file, and its language model."""
    sets = draw_label_sets(language_model(seed, "look")[1].nouns(), seed=seed, num_novel_nouns=NUM_NOVEL_NOUNS)
    path = out / "tensors" / f"{seed}.safetensors"
    if path.is_file():
        return
    backbone = load_backbone(clip_of(seed), device="cpu", dtype="float32")
    started = time.monotonic()
    packed = pack_label_world(
        out / "clips" / str(seed), sets=sets, seed=seed, **SIZE, images=backbone.images, num_workers=workers
    )
    encode_world(packed, backbone, distractor_labels=()).save(out / "tensors" / f"{seed}-features.safetensors")
    packed.save(path)
    print(f"seed {seed}: {len(packed.paths)} clips in {time.monotonic() - started:.0f} s", flush=True)


@lru_cache(maxsize=1)
def bench(out: Path, seed: int) -> Bench:
    torch.set_num_threads(1)
    model, recipe = language_model(seed, "look")
    sets = draw_label_sets(recipe.nouns(), seed=seed, num_novel_nouns=NUM_NOVEL_NOUNS)
    packed = PackedClips.load(out / "tensors" / f"{seed}.safetensors")
    assert packed.split.classes == (*sets.seen, *sets.unseen)
    frozen = WorldFeatures.load(out / "tensors" / f"{seed}-features.safetensors").frames
    return Bench(seed, clip_of(seed), sets, packed, frozen, model.name)


def scrambled(name: str, nouns: Sequence[str], seed: int) -> str:
    """The same language model behind a tokenizer that hands it another noun for each."""
    from tokenizers import normalizers

    folder = cache_dir() / "ovml_systems" / f"scrambled-{seed}"
    model = FrozenLanguageModel.load(name)
    order = np.random.default_rng(seed).permutation(len(nouns))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # one cycle: no noun keeps its place
    steps: list[Any] = [normalizers.Lowercase()]
    steps += [normalizers.Replace(noun, f"<{i}>") for i, noun in enumerate(nouns)]
    steps += [normalizers.Replace(f"<{i}>", nouns[other[i]]) for i in range(len(nouns))]
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return str(folder)


def recipe_of(system: System, seed: int, clip: str, model: str) -> Recipe:
    assert system.recipe is not None
    fixed = {"model.backbone": clip, "labels.language_model": model, "training.seed": seed, "data.num_workers": 0}
    return load_recipe(system.recipe, {**fixed, **system.settings})


def train_run(out: Path, seed: int, name: str) -> Path:
    """Train a system -> its run folder; stages are kept for those that start from them."""
    system, b = SYSTEMS[name], bench(out, seed)
    run = out / "runs" / f"{seed}-{name.replace(' ', '-')}"
    if name in STAGES and (run / "config.json").is_file():
        return run
    model = b.language_model
    if system.scrambled:
        model = scrambled(model, [noun.name for noun in (*b.sets.nouns.base, *b.sets.nouns.novel)], seed)
    recipe = recipe_of(system, seed, b.clip, model)
    if system.start is not None and name not in STAGES:
        recipe = recipe.with_settings({"model.init_from": str(train_run(out, seed, system.start))})
    said = {label for own in b.packed.synthetic for label in own} if system.synthetic else set()
    synthetic = tuple(sorted(said - set(b.packed.split.classes)))
    samples = WorldSamples(
        b.packed, b.packed.indices("train"), modalities=recipe.model.modalities, inputs=recipe.inputs,
        frozen=b.frozen if recipe.model.frozen_video else None, seed=seed, num_frames=recipe.data.num_frames,
        following=True, classes=(*b.sets.seen, *synthetic),
    )  # fmt: skip
    shutil.rmtree(run, ignore_errors=True)
    clips = TrainingClips(samples, None, b.sets.seen, b.packed.split, {}, synthetic)
    train(recipe, clips, run, device="cpu", backbone=load_backbone(b.clip, device="cpu", dtype="float32"))
    return run


def make_row(out: Path, seed: int, name: str) -> dict[str, Any]:
    """Train a system, run it over the test clips, measure it."""
    system, b = SYSTEMS[name], bench(out, seed)
    backbone = load_backbone(b.clip, device="cpu", dtype="float32")
    names = list(b.packed.split.classes)
    model: Any = backbone
    modalities: tuple[str, ...] = ("video",)
    frozen, facts = None, {}
    if system.start is not None and system.recipe is not None and name not in STAGES:
        train_run(out, seed, system.start)
    started = time.process_time()
    if system.recipe is not None:
        run = train_run(out, seed, name)
        model = TrainedModel.from_pretrained(run, device="cpu", backbone=backbone)
        modalities = model.mov.config.modalities
        frozen = b.frozen if model.mov.config.frozen_video else None
        facts = {"scales": model.scales, "steps": json.loads((run / "train.json").read_text())["steps"]}
        if name not in STAGES:
            shutil.rmtree(run)
    trained_s = time.process_time() - started
    found: dict[str, Collected] = {}
    for part in ("held-out", "test"):
        places = b.packed.indices(part)
        samples = WorldSamples(
            b.packed, places, modalities=modalities, inputs=modalities, frozen=frozen, seed=seed, views=VIEWS
        )
        found[part] = collect(model, samples, classes=names, num_clips=VIEWS, batch_size=32, num_workers=0)
    labels = label_vectors(system, b, backbone, model, names)
    p, evidence = probabilities(model, found, labels, len(b.sets.seen))
    return {
        "seed": seed, "system": name, "clip": b.clip, "key": key_of(name),
        **measure(p, found["test"].targets.astype(bool), b.sets), "evidence": evidence, **facts,
        "seconds": {"training": round(trained_s, 1), "all": round(time.process_time() - started, 1)},
    }  # fmt: skip


def label_vectors(system: System, b: Bench, backbone: Any, model: Any, names: list[str]) -> Tensor:
    if isinstance(model, TrainedModel):
        return model.embed(names)
    if system.answers:
        asked = [name for name in names if backbone.unknown_words(name)]
        said = dict(zip(asked, FrozenLanguageModel.load(b.language_model).answer(asked, num_tokens=6), strict=True))
        names = [said.get(name, name) for name in names]
    return PromptCache(backbone).embed(names, load_templates(backbone.default_templates))


def probabilities(
    model: Any, found: dict[str, Collected], labels: Tensor, num_seen: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Calibrated on held-out clips, which show seen labels alone: seen labels by the base path, others by the novel."""
    if not isinstance(model, TrainedModel):
        for collected in found.values():
            collected.settings["scales"] = {"v_m": [1 / model.temperature, 0.0]}
    parts, error = [], {}
    for head, at in (("base", slice(0, num_seen)), ("novel", slice(num_seen, None))):
        own = clip_log_odds(found["held-out"], labels[:num_seen], head=head)  # type: ignore[arg-type]
        truth = found["held-out"].targets[:, :num_seen].astype(bool)
        evidence, _ = fit_calibration(own, truth, method="held-out clips of the seed")
        error[head] = {"slope": evidence.slope, "intercept": evidence.intercept, "error": evidence.error}
        log_odds = clip_log_odds(found["test"], labels[at], head=head)  # type: ignore[arg-type]
        parts.append(evidence.probability(torch.from_numpy(log_odds)).numpy())
    return np.concatenate(parts, axis=1), error


def measure(p: np.ndarray, truth: np.ndarray, sets: LabelSets) -> dict[str, Any]:
    kinds = np.array(list(sets.kinds.values()))
    seen = np.arange(len(kinds)) < len(sets.seen)
    precision = average_precision(p, truth)
    by_kind = {
        f"{kind} {side}": round(100 * float(np.nanmean(precision[(kinds == kind) & own])), 2)
        for kind in dict.fromkeys(kinds.tolist())
        for side, own in (("seen", seen), ("unseen", ~seen))
    }
    numbers = report(p, truth, seen=seen)
    kept = ("mean_average_precision", "f1_micro", "f1_macro", "best_f1_micro", "best_f1_macro", "calibration_error")
    return {
        "by_kind": by_kind,
        "report": {part: {key: numbers[part][key] for key in kept if key in numbers[part]} for part in numbers},
        "chance": round(100 * float(truth.mean()), 2),
    }


def key_of(name: str) -> list[Any]:
    """What a row depends on beside its seed: a row of other recipes is made again."""
    system = SYSTEMS[name]
    own = recipe_of(system, 0, "world", "world").to_dict() if system.recipe else None
    before = key_of(system.start) if system.recipe and system.start is not None and name not in STAGES else None
    return [SIZE, VIEWS, own, before]


def is_done(out: Path, seed: int, name: str) -> bool:
    path = place_of(out, seed, name)
    return path.is_file() and json.loads(path.read_text())["key"] == json.loads(json.dumps(key_of(name)))


def task(out: Path, seed: int, name: str) -> str:
    if is_done(out, seed, name):
        return ""
    row = make_row(out, seed, name)
    write_atomically(place_of(out, seed, name), json.dumps(row, indent=1) + "\n")
    return f"{seed} {name} {row['by_kind']} {row['seconds']}"


COLUMNS = {
    "mAP seen": lambda r: 100 * r["report"]["seen"]["mean_average_precision"],
    "mAP unseen": lambda r: 100 * r["report"]["unseen"]["mean_average_precision"],
    "noun unseen": lambda r: r["by_kind"]["noun unseen"],
    "words unseen": lambda r: r["by_kind"]["words unseen"],
    "motion unseen": lambda r: r["by_kind"]["motion unseen"],
    "sound unseen": lambda r: r["by_kind"]["sound unseen"],
    "noun seen": lambda r: r["by_kind"]["noun seen"],
    "words seen": lambda r: r["by_kind"]["words seen"],
    "motion seen": lambda r: r["by_kind"]["motion seen"],
    "sound seen": lambda r: r["by_kind"]["sound seen"],
    "micro F1 at 0.5, all": lambda r: 100 * r["report"]["all"]["f1_micro"],
    "macro F1 at 0.5, all": lambda r: 100 * r["report"]["all"]["f1_macro"],
    "best micro F1, all": lambda r: 100 * r["report"]["all"]["best_f1_micro"]["value"],
    "best macro F1, all": lambda r: 100 * r["report"]["all"]["best_f1_macro"]["value"],
    "calibration error, all": lambda r: 100 * r["report"]["all"]["calibration_error"]["value"],
}  # fmt: skip


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """System -> column -> mean with its interval."""
    table: dict[str, Any] = {}
    for name, system in SYSTEMS.items():
        own = {row["seed"]: row for row in rows if row["system"] == name}
        if not own:
            continue
        cells: dict[str, Any] = {"says": system.says, "seeds": len(own)}
        for column, value in COLUMNS.items():
            values = [value(row) for row in own.values()]
            cells[column] = _cell(values)
        table[name] = cells
    return table


PAIRS = (
    ("ovml", "answers"), ("labels", "answers"), ("labels", "scrambled labels"), ("scrambled labels", "zero-shot"),
    ("ovml", "labels"), ("ovml", "fine-tuned"), ("ovml", "no-soft-attributes"), ("ovml", "no-branch"),
    ("ovml", "no-interpolation"), ("ovml", "no-distance"), ("ovml", "no-regulariser"), ("ovml", "no-average"),
    ("synthetic", "ovml"), ("fine-tuned", "zero-shot"), ("mov-ovml", "ovml"), ("mov-ovml", "zero-shot"),
    ("mov-ovml", "mov-prompts"), ("mov-ovml", "mov-ovml-video"), ("mov-ovml-20", "mov-ovml"), ("hot", "ovml"),
    ("hot", "hot-no-regulariser"), ("hot-no-regulariser", "no-regulariser"),
)  # fmt: skip


def comparisons(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """ "A less B" -> column -> mean difference, seed by seed, with its interval."""
    found = {(row["system"], row["seed"]): row for row in rows}
    table = {}
    for first, second in PAIRS:
        seeds = [seed for name, seed in found if name == first and (second, seed) in found]
        if len(seeds) > 1:
            table[f"{first} less {second}"] = {
                column: _cell([value(found[first, s]) - value(found[second, s]) for s in seeds])
                for column, value in COLUMNS.items()
            }
    return table


def _cell(values: list[float]) -> list[float]:
    """Mean, and the bounds of its interval where there are several values."""
    if len(values) < 2:
        return [round(values[0], 2)]
    interval = t_interval(values)
    return [round(x, 2) for x in (interval.value, interval.low, interval.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--out", type=Path, default=cache_dir() / "ovml_systems")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    out = args.out.resolve()
    (out / "tensors").mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        prepare(out, seed, args.workers)
    rest = [name for name in SYSTEMS if name not in STAGES]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, context, initializer=start_worker) as pool:
        for group in (STAGES, rest[: rest.index("mov-ovml") + 1], rest[rest.index("mov-ovml") + 1 :]):
            asked = [(out, seed, name) for seed in args.seeds for name in group if name in args.systems]
            for said in pool.map(task, *zip(*asked, strict=True)) if asked else ():
                print(said, flush=True)
    places = [place_of(out, seed, name) for seed in args.seeds for name in SYSTEMS]
    rows = [json.loads(path.read_text()) for path in places if path.is_file()]
    table = summary(rows)
    content = {
        "size": SIZE, "views": VIEWS, "num_novel_nouns": NUM_NOVEL_NOUNS, "version": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {args.workers} processes of one thread",
        "recipes": {n: load_recipe(n).to_dict() for n in ("world-ovml-labels", "world-ovml", "world-mov-ovml")},
        "settings": {n: s.settings for n, s in SYSTEMS.items()},
        "summary": table, "comparisons": comparisons(rows),
        "rows": [{k: v for k, v in row.items() if k != "key"} for row in rows],
    }  # fmt: skip
    write_atomically(args.results, json.dumps(content, indent=1) + "\n")
    for name, cells in table.items():
        print(
            f"{name:20}", {k: v for k, v in cells.items() if k.startswith(("mAP", "noun", "words", "motion", "sound"))}
        )


if __name__ == "__main__":
    main()
