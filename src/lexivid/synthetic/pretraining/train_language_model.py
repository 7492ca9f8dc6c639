"""Pre-training of the world's language model as a whole run: recipe -> a folder and its probes.

The network, its texts and its loop are `lexivid.synthetic.pretraining.language_model`'s.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lexivid.base.storage import write_atomically
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.synthetic.pretraining.language_model import (
    LanguageModelRecipe,
    knowledge,
    save_language_model,
    train_language_model,
)
from lexivid.synthetic.pretraining.train_clip import claim_new_folder
from lexivid.training.log import OnProgress, Progress
from lexivid.training.settings import load_settings

CHANCE = {"colour": 0.1, "shape": 0.1}


class LanguageModelResult(NamedTuple):
    """The checkpoint's folder, the number of nouns, and how many of them it knows (see `knowledge`)."""

    out: Path
    num_nouns: int
    known: dict[str, float]

    def describe(self) -> str:
        """A table for people."""
        rows = [f'{self.out}\nat "NOUN is a", of {self.num_nouns} nouns, %', f"{'':10}{'right':>8}{'chance':>8}"]
        rows += [f"{name:10}{100 * right:8.1f}{100 * CHANCE[name]:8.1f}" for name, right in self.known.items()]
        return "\n".join(rows)


def pretrain_language_model(
    recipe: str | Path | LanguageModelRecipe,
    out: str | Path,
    *,
    seed: int | None = None,
    set: Iterable[str] | Mapping[str, Any] = (),
    on_progress: OnProgress | None = None,
) -> LanguageModelResult:
    """Make a language model of the world, from nothing.

    Args:
        recipe: "world-language-model", a YAML file, or a `LanguageModelRecipe`.
        out: a new or empty folder: a model in Hugging Face's format, which `FrozenLanguageModel.load` reads, with
            recipe.yaml and pretrain.json (what it knows, losses, time).
        seed: in place of the recipe's.
        set: settings on top of the recipe.

    Raises:
        LexividError: the recipe or the folder cannot be used.
    """
    recipe = load_settings(LanguageModelRecipe, recipe, set)
    if seed is not None:
        recipe = recipe.with_settings({"seed": seed})
    nouns = recipe.nouns()  # too many is an error, before anything is written
    out = claim_new_folder(out)
    started, losses = time.monotonic(), list[tuple[int, float]]()

    def show(step: int, steps: int, loss: float) -> None:
        losses.append((step, round(loss, 4)))
        if on_progress:
            on_progress(Progress("pre-training", step, steps, loss=loss))

    model, tokenizer = train_language_model(recipe, on_progress=show)
    save_language_model(model, tokenizer, recipe, out)
    trained_s = time.monotonic() - started
    # Measured on the written files: float16 weights, read back.
    loaded = FrozenLanguageModel.load(str(out))
    result = LanguageModelResult(out, len(nouns), knowledge(loaded.model, loaded.tokenizer, nouns))
    num_weights = sum(weights.numel() for weights in loaded.model.parameters())
    report = {
        "knowledge": result.known, "chance": CHANCE, "num_nouns": len(nouns), "num_weights": num_weights,
        "losses": losses, "training_s": round(trained_s, 1), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(),
    }  # fmt: skip
    write_atomically(out / "pretrain.json", json.dumps(report, indent=1) + "\n")
    write_atomically(out / "README.md", _model_card(recipe, result, num_weights))
    return result


def _model_card(recipe: LanguageModelRecipe, result: LanguageModelResult, num_weights: int) -> str:
    knows = ", ".join(f"{name} {100 * right:.0f} %" for name, right in result.known.items())
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# A language model of Lexivid's synthetic world

A plain GPT-2 of transformers with {num_weights:,} weights, made by `lexivid pretrain` from nothing; settings in
recipe.yaml, losses and time in pretrain.json. In {recipe.num_steps:,} steps it has read descriptions of
{result.num_nouns} invented nouns. It knows these and the words of `lexivid.synthetic.world.words`, and nothing else: it
stands where a real language model would.

At "NOUN is a", the noun's own is the likeliest of all: {knows} of the nouns (chance is 10 %).
"""
