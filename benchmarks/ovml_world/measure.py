"""Soft attributes on the synthetic world: does a language model find, through CLIP, what CLIP was never told?

    OMP_NUM_THREADS=1 python -m benchmarks.ovml_world.measure [--model world] [--seeds 5] [--rows ROW ...]

100 invented nouns, each a shape and a colour ("zumi" is a red star). CLIP was trained on words and pictures and has met
no noun; the small language model was trained on descriptions and has met all of them. Clips show two objects and are
labelled with their nouns; label encoders train on clips of the 60 base nouns. Every number is macro mAP in per cent
over the 60 base or the 40 novel nouns, on clips that show any two of the 100; guessing gives about 2.

    bare             CLIP reads the noun itself, which to it is an unknown word
    true words       CLIP reads what the noun means: "red star"
    answer           the language model says in words what the noun is, CLIP reads that; nothing is trained
    next word        soft attributes from the expected next word after "NOUN is a": the default
    last hidden      soft attributes from the last state after "NOUN is a"
    next word, prefixes      as "next word", with 8 learned vectors before the noun
    prefixes only    soft attributes as the paper describes them: learned vectors before the noun, nothing after it
    next word, scrambled     control: the language model is asked about another noun, always the same one
    last hidden, scrambled   the same control for the other reading
    no model         a learned vector for each noun in place of what the language model says

Clips are drawn as tensors; CLIP's picture tower is frozen, so each clip is encoded once. Seeds vary the meanings of the
nouns, the language model, the split, the clips and the training. Rows are written to result.json as they
come; started again, the script goes on with what is missing. Language models are kept in the cache folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lexivid import __version__
from lexivid.backbones import load_backbone
from lexivid.backbones.clip import ClipBackbone
from lexivid.base.storage import cache_dir, write_atomically
from lexivid.labels.encoders.language_model import WORLD_LANGUAGE_MODEL, FrozenLanguageModel
from lexivid.labels.encoders.soft_attributes import PromptingTransformer, SoftAttributeConfig, SoftAttributeEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder
from lexivid.metrics.multi_label import mean_average_precision
from lexivid.metrics.single_label import t_interval
from lexivid.models.mov import similarity
from lexivid.models.ovml import bce_loss, clip_feature
from lexivid.synthetic.pretraining.language_model import (
    LANGUAGE_MODEL_RECIPE,
    LanguageModelRecipe,
    knowledge,
    save_language_model,
    train_language_model,
)
from lexivid.synthetic.world.draw import PICTURE, draw, sample_multi_scenes
from lexivid.synthetic.world.nouns import Noun, NounKind, split_nouns
from lexivid.training.schedule import half_cosine
from lexivid.training.settings import load_settings

RESULTS = Path(__file__).with_name("result.json")
ROWS = (
    "bare", "true words", "answer", "next word", "next word, scrambled", "no model", "last hidden",
    "last hidden, scrambled", "next word, prefixes", "prefixes only",
)  # fmt: skip
SETTINGS = {
    "novel_nouns": 40, "train_clips": 3000, "test_clips": 3000, "objects": 2, "frames": 3, "image_size": "the model's",
    "look": "PICTURE without distractors", "steps": 300, "batch": 128, "lr": 1e-3, "scale_lr": 1e-2,
    "weight_decay": 0.01, "tau": 0.1, "bias": -10.0,
}  # fmt: skip
TIMES_S = torch.tensor([0.0, 0.4, 0.8])


class Clips(NamedTuple):
    """features (n, D), CLIP's, mean over frames; truth (n, 100) bool, which nouns are shown; words (n, objects, 5)
    int64, what the objects are, as in `Scenes.words`."""

    features: Tensor
    truth: Tensor
    words: Tensor


def make_clips(backbone: ClipBackbone, nouns: Sequence[Noun], shown: Sequence[int], *, num: int, seed: int) -> Clips:
    """Clips of two different nouns out of `shown` (places in `nouns`). Where a noun means two things, one is shown, and
    every noun that means it holds as well."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    pairs = np.array([rng.choice(len(shown), size=SETTINGS["objects"], replace=False) for _ in range(num)])
    pairs = np.asarray(shown)[pairs]
    seen = [[nouns[i].meanings[rng.integers(2) if nouns[i].other else 0] for i in pair] for pair in pairs]
    truth = torch.tensor([[not set(noun.meanings).isdisjoint(group) for noun in nouns] for group in seen])
    look, features, words = replace(PICTURE, distractor=0.0), [], []
    for start in range(0, num, 250):
        scenes = sample_multi_scenes(seen[start : start + 250], look=look, generator=generator)
        words.append(scenes.words[:, : SETTINGS["objects"]])
        frames = draw(scenes, TIMES_S, size=backbone.images.crop_size, generator=generator)  # (n, T, 3, S, S)
        encoded = backbone.encode_images(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        features.append(clip_feature(encoded))
    return Clips(torch.cat(features), truth, torch.cat(words))


class LearnedVectors(nn.Module):
    """No language model: each noun is a vector of its own, read by the same prompting transformer."""

    def __init__(self, config: SoftAttributeConfig, text: FrozenTextEncoder, names: Sequence[str], width: int) -> None:
        super().__init__()
        self.text, self.places = text, {name: i for i, name in enumerate(names)}
        self.vectors = nn.Parameter(torch.randn(len(names), 1, width) * 0.02)
        std = float(text.word_vectors.std())
        self.prompting = PromptingTransformer(config, input_width=width, width=text.width, word_std=std)

    def forward(self, labels: Sequence[str]) -> Tensor:
        attributes = self.prompting(self.vectors[[self.places[label] for label in labels]])
        return self.text(labels, attributes)


def train(encode: Callable[[], Tensor], encoder: nn.Module, clips: Clips, *, seed: int, steps: int) -> float:
    """Train a label encoder against the clips' features; encode() gives the vectors of the labels -> the last loss."""
    s = SETTINGS
    log_scale = nn.Parameter(torch.tensor(float(np.log(1 / s["tau"]))))
    bias = nn.Parameter(torch.tensor(s["bias"]))
    weights = [p for p in encoder.parameters() if p.requires_grad]
    groups = [
        {"params": weights, "lr": s["lr"], "peak": s["lr"], "weight_decay": s["weight_decay"]},
        {"params": [log_scale, bias], "lr": s["scale_lr"], "peak": s["scale_lr"], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    generator, loss = torch.Generator().manual_seed(seed), torch.zeros(())
    encoder.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * half_cosine(step, steps, warmup_steps=20)
        chosen = torch.randint(len(clips.features), (s["batch"],), generator=generator)
        logits = similarity(clips.features[chosen], encode()) * log_scale.exp() + bias
        loss = bce_loss(logits, clips.truth[chosen].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encoder.eval()
    return float(loss.detach())


def language_model(seed: int, kind: NounKind) -> tuple[FrozenLanguageModel, LanguageModelRecipe]:
    """The language model of a seed and a kind of nouns: the packaged one, or from the cache folder, or trained now."""
    recipe = load_settings(LanguageModelRecipe, LANGUAGE_MODEL_RECIPE, {"seed": seed, "noun_seed": seed, "kind": kind})
    if recipe == load_settings(LanguageModelRecipe, LANGUAGE_MODEL_RECIPE):
        return FrozenLanguageModel.load(WORLD_LANGUAGE_MODEL), recipe  # the packaged one was made from it
    which = f"{seed}" if kind == "look" else f"{kind}-{seed}"
    folder = cache_dir() / "ovml_world" / f"language-model-{which}"
    if not (folder / "config.json").is_file():
        print(f"seed {seed}: training the language model on nouns of kind {kind!r}", flush=True)
        model, tokenizer = train_language_model(recipe)
        save_language_model(model, tokenizer, recipe, folder)
    return FrozenLanguageModel.load(str(folder)), recipe


class Experiment:
    """One seed: nouns, their split, clips and both models; `row` makes one line of the table."""

    kind: NounKind = "look"
    steps: int = SETTINGS["steps"]

    def __init__(self, backbone: ClipBackbone, seed: int) -> None:
        self.seed, self.text = seed, FrozenTextEncoder(backbone)
        self.model, recipe = language_model(seed, self.kind)
        split = split_nouns(recipe.nouns(), num_novel=SETTINGS["novel_nouns"], seed=seed)
        self.nouns = [*split.base, *split.novel]
        self.names, self.num_base = [noun.name for noun in self.nouns], len(split.base)
        base = range(self.num_base)
        clips = make_clips(backbone, self.nouns, base, num=SETTINGS["train_clips"], seed=2 * seed)
        self.train_clips = clips._replace(truth=clips.truth[:, : self.num_base])
        everything = range(len(self.nouns))
        self.test_clips = make_clips(backbone, self.nouns, everything, num=SETTINGS["test_clips"], seed=2 * seed + 1)
        self.known = knowledge(self.model.model, self.model.tokenizer, self.nouns)

    def row(self, name: str) -> dict[str, Any]:
        """mAP of one way to make label vectors, in per cent."""
        started = time.monotonic()
        scores, extra = self.scores(name)
        truth, p = self.test_clips.truth.numpy(), self.num_base
        return (
            {
                "base": round(100 * mean_average_precision(scores[:, :p], truth[:, :p]), 2),
                "novel": round(100 * mean_average_precision(scores[:, p:], truth[:, p:]), 2),
                "seconds": round(time.monotonic() - started, 1),
            }
            | extra
            | {"language_model": self.known}
        )

    def scores(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Of one row: scores (n, K) of the test clips, and what else there is to say."""
        extra: dict[str, Any] = {}
        if name == "bare":
            labels = self.text(self.names)
        elif name == "true words":
            labels = self.text([noun.words for noun in self.nouns])
        elif name == "answer":
            said = self.model.answer(self.names, num_tokens=6)
            labels = self.text(said)
            extra["answers_with_every_word"] = float(
                np.mean([set(n.words.split()) <= set(a.split()) for n, a in zip(self.nouns, said, strict=True)])
            )
        else:
            labels, extra["loss"] = self._trained(name)
        return similarity(self.test_clips.features, labels.detach()).numpy(), extra

    def _trained(self, name: str) -> tuple[Tensor, float]:
        torch.manual_seed(self.seed)
        kind, _, control = name.partition(", ")
        config = {
            "next word": SoftAttributeConfig(),
            "last hidden": SoftAttributeConfig(readout="hidden", attend="last"),
            "prefixes only": SoftAttributeConfig.paper(),
            "no model": SoftAttributeConfig(),
        }[kind]
        asked, encoder = list(self.names), None
        if control == "scrambled":  # every noun's own clips, another noun's description
            order = np.random.default_rng(self.seed).permutation(len(asked))
            asked = [asked[i] for i in order]
        elif control == "prefixes":
            config = replace(config, num_prefixes=8)
        if kind == "no model":
            encoder = LearnedVectors(config, self.text, self.names, self.model.word_vectors.shape[1])
        else:
            encoder = SoftAttributeEncoder(self.model, self.text, config)
        base = asked[: self.num_base]
        loss = train(lambda: encoder(base), encoder, self.train_clips, seed=self.seed, steps=self.steps)
        with torch.no_grad():
            return encoder(asked), loss


def by_row(rows: Mapping[str, dict[str, Any]], names: Sequence[str]) -> dict[str, dict[int, dict[str, Any]]]:
    """Rows by "seed/name" -> name -> seed -> row."""
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in names}
    for key, row in rows.items():
        seed, _, name = key.partition("/")
        if name in found:
            found[name][int(seed)] = row
    return {name: seeds for name, seeds in found.items() if seeds}


def spread(values: Sequence[float]) -> str:
    """The mean over seeds with its 95 % interval (Student's t), for people."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    interval = t_interval(values)
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def summary(rows: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Row -> mAP over seeds."""
    return {
        name: {"seeds": str(len(seeds))} | {p: spread([row[p] for row in seeds.values()]) for p in ("base", "novel")}
        for name, seeds in by_row(rows, ROWS).items()
    }


class Fillable(Protocol):
    """What makes rows for one seed."""

    def row(self, name: str) -> dict[str, Any]: ...


def fill(
    make: Callable[[ClipBackbone, int], Fillable],
    names: Sequence[str],
    summarise: Callable[[Mapping[str, dict[str, Any]]], dict[str, Any]],
    *,
    about: str | None,
    settings: dict[str, Any],
    results: Path,
) -> None:
    """The command line: rows that are not yet in the results are made and written, one at a time."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="world", help="a CLIP of the world")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="settings are chosen on seeds from 100 on")
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(args.model, device="cpu", dtype="float32")
    assert isinstance(backbone, ClipBackbone)
    weights = torch.cat([value.flatten()[:16].float() for value in backbone.model.state_dict().values()])
    made_with = {
        "model": args.model, "model_weights": f"{float(weights.abs().sum()):.6f}", "settings": settings,
        "version": __version__, "torch": torch.__version__, "machine": f"{platform.machine()}, 1 thread",
    }  # fmt: skip
    stored = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    rows = stored.get("rows", {}) if {k: stored.get(k) for k in made_with} == made_with else {}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        if all(f"{seed}/{name}" in rows for name in args.rows):
            continue
        experiment = make(backbone, seed)
        for name in args.rows:
            if f"{seed}/{name}" not in rows:
                rows[f"{seed}/{name}"] = experiment.row(name)
                print(seed, name, rows[f"{seed}/{name}"], flush=True)
                content = made_with | {"summary": summarise(rows), "rows": rows}
                write_atomically(args.out, json.dumps(content, indent=1) + "\n")
    for name, values in summarise(rows).items():
        print(f"{name:24} {values}")


if __name__ == "__main__":
    fill(Experiment, ROWS, summary, about=__doc__, settings=SETTINGS, results=RESULTS)
