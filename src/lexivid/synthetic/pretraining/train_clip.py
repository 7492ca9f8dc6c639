"""Pre-training of the `world` checkpoint: a tiny CLIP, from nothing, on still images of the world and their captions.

scenes -> images (B, 3, S, S) and their words (B, 5) --caption--> U different captions --> two losses:

    contrastive   CLIP's (Radford et al. 2021): of all captions in the batch, which belongs to the image, and the
                  reverse. Images that share a caption are all right answers to it.
    words         of all words of an attribute, each alone in a short caption, which is true of the image. This is more
                  supervision than CLIP has. Without it, words that images show weakly are not learnt in a few
                  thousand steps (a pre-training of CLIP's size does not need it).

Images begin easy: one object in the middle, clean, with every trail and badge. They reach their full difficulty at
`curriculum`. What is learnt first decides what is learnt at all.

Shapes: B images, U captions, D embedding width, S side in pixels; five attributes, in the order of `ATTRIBUTES`.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import load_backbone
from lexivid.base.storage import write_atomically
from lexivid.errors import LexividError
from lexivid.synthetic.pretraining.clip import (
    ClipModelRecipe,
    image_processing,
    make_clip,
    make_clip_tokenizer,
    save_clip,
)
from lexivid.synthetic.pretraining.probes import clip_model_card, describe_probes, measure
from lexivid.synthetic.world.draw import PICTURE, draw, random_scenes
from lexivid.synthetic.world.words import ATTRIBUTES, PREFIXES, WorldClass, caption
from lexivid.training.log import OnProgress, Progress, Rate
from lexivid.training.settings import Settings, at_least, load_settings

_STILL_S = 2.0  # a still is taken at any time of these first seconds of a clip
_STEPS_PER_DRAWING = 8
WORD_TEMPLATES = (*PREFIXES, "something {}")


@dataclass(frozen=True)
class PicturesRecipe:
    """The supply of images.

    Args:
        pool: how many are kept at a time; the batch of a step is drawn from these.
        fresh: new ones a step, as a share of the batch; they replace the oldest.
        curriculum: the share of the training after which images have their full difficulty (`Look.eased`).
        named: see `lexivid.synthetic.world.words.caption`.
        shuffle_captions: a control: every image gets another image's words.
    """

    pool: int = 8192
    fresh: float = 0.25
    curriculum: float = 0.5
    named: float = 0.7
    shuffle_captions: bool = False

    def __post_init__(self) -> None:
        at_least(self, "pictures.", pool=1, fresh=0, curriculum=1e-6, named=0)


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the losses: of the contrastive one, and of the words of each attribute."""

    contrastive: float = 0.5
    shape: float = 1.5
    colour: float = 0.5
    texture: float = 0.5
    motion: float = 1.5
    sound: float = 1.0

    def __post_init__(self) -> None:
        at_least(self, "loss.", contrastive=0, shape=0, colour=0, texture=0, motion=0, sound=0)


@dataclass(frozen=True)
class ClipTrainingRecipe:
    """AdamW with linear warm-up and half-cosine decay.

    Args:
        weight_decay: on matrices and filters alone.
        max_scale: the learnt 1 / tau goes no higher (100 in CLIP).
        precision: "bfloat16" is autocast; weights stay float32.
    """

    steps: int = 3000
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    betas: tuple[float, ...] = (0.9, 0.98)
    warmup_steps: int = 100
    clip_norm: float = 1.0
    max_scale: float = 100.0
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(
            self,
            "training.",
            steps=1,
            batch_size=2,
            lr=0,
            weight_decay=0,
            warmup_steps=0,
            clip_norm=1e-6,
            max_scale=1,
            seed=0,
        )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise LexividError(f"training.betas are two numbers in [0, 1); got {list(self.betas)}")

    def lr_at(self, step: int) -> float:
        """Of a step counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class ProbesRecipe:
    """How much is measured at the end, see `lexivid.synthetic.pretraining.probes.measure`."""

    num_pictures: int = 2000
    clips_per_class: int = 5
    num_names: int = 1500

    def __post_init__(self) -> None:
        at_least(self, "probes.", num_pictures=1, clips_per_class=1, num_names=2)


@dataclass(frozen=True)
class PretrainRecipe(Settings):
    """One pre-training."""

    model: ClipModelRecipe = field(default_factory=ClipModelRecipe)
    pictures: PicturesRecipe = field(default_factory=PicturesRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    training: ClipTrainingRecipe = field(default_factory=ClipTrainingRecipe)
    probes: ProbesRecipe = field(default_factory=ProbesRecipe)

    renamed: ClassVar[Mapping[str, str]] = {"gates": "probes"}


class PretrainResult(NamedTuple):
    """The checkpoint's folder and its probes (see `lexivid.synthetic.pretraining.probes.measure`)."""

    out: Path
    probes: dict[str, Any]

    def describe(self) -> str:
        """A table for people."""
        return f"{self.out}\n{describe_probes(self.probes)}"


def pretrain_clip(
    recipe: str | Path | PretrainRecipe,
    out: str | Path,
    *,
    seed: int | None = None,
    set: Iterable[str] | Mapping[str, Any] = (),
    on_progress: OnProgress | None = None,
) -> PretrainResult:
    """Make a CLIP of the world. On one thread (OMP_NUM_THREADS=1), the same call makes the same file, bit for bit.

    Args:
        recipe: "world-clip", a YAML file, or a `PretrainRecipe`.
        out: a new or empty folder: a model in Hugging Face's format, recipe.yaml, pretrain.json (probes, losses,
            time).
        seed: in place of the recipe's.
        set: settings on top of the recipe.

    Raises:
        LexividError: the recipe or the folder cannot be used.
    """
    recipe = load_settings(PretrainRecipe, recipe, set)
    if seed is not None:
        recipe = recipe.with_settings({"training.seed": seed})
    out = claim_new_folder(out)
    started = time.monotonic()
    model, losses = fit_clip(recipe, on_progress=on_progress)
    save_clip(model, recipe.model, out)
    trained_s = time.monotonic() - started
    # Measured on the written files: float16 weights, read back.
    probes = measure(load_backbone(str(out), device="cpu", dtype="float32"), **asdict(recipe.probes))
    write_atomically(out / "recipe.yaml", recipe.to_yaml())
    report = {
        "gates": probes, "losses": losses, "pictures_seen": recipe.training.steps * recipe.training.batch_size,
        "training_s": round(trained_s, 1), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "machine": platform.machine(),
    }  # fmt: skip
    write_atomically(out / "pretrain.json", json.dumps(report, indent=1) + "\n")
    write_atomically(out / "README.md", clip_model_card(recipe, probes))
    return PretrainResult(out, probes)


def claim_new_folder(out: str | Path) -> Path:
    """The folder that a checkpoint goes to.

    Raises:
        LexividError: the folder is not empty.
    """
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise LexividError(f"{str(out)!r} exists already: name a new or empty folder for the checkpoint")
    return out


def fit_clip(recipe: PretrainRecipe, *, on_progress: OnProgress | None = None) -> tuple[Any, list[tuple[int, float]]]:
    """Train from nothing -> the CLIPModel in evaluation mode, and (step, loss) pairs, at most 50 of them."""
    how = recipe.training
    generator = torch.Generator().manual_seed(how.seed)
    rng = np.random.default_rng(how.seed)
    images = image_processing(recipe.model)
    pool = PicturePool(recipe, generator)
    model = make_clip(recipe.model, images.normalise(pool.pixels), seed=how.seed)
    encode = Tokens(recipe.model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=how.lr, betas=(how.betas[0], how.betas[1]), fused=True,
    )  # fmt: skip
    rate, losses = Rate(how.steps), []
    for step in range(how.steps):
        pixels, words = pool.batch(step)
        if recipe.pictures.shuffle_captions:
            words = words[torch.randperm(len(words), generator=generator)]
        captions = [caption(WorldClass(*row), rng, named=recipe.pictures.named) for row in words.tolist()]
        asked = [t.replace("{}", word) for t, word in _single_words(rng)]
        different = list(dict.fromkeys(captions))
        with torch.autocast("cpu", torch.bfloat16, enabled=how.precision == "bfloat16"):
            pictures = _unit(model.get_image_features(pixel_values=images.normalise(pixels)))
            texts = _unit(model.get_text_features(input_ids=encode([*different, *asked])))
        scale = model.logit_scale.clamp(max=math.log(how.max_scale)).exp()
        logits = scale * pictures @ texts.T  # (B, U + all words)
        place = {text: i for i, text in enumerate(different)}
        truth = torch.tensor([place[text] for text in captions])
        loss = recipe.loss.contrastive * contrastive_loss(logits[:, : len(different)], truth)
        loss = loss + words_loss(logits[:, len(different) :], words, weights=astuple(recipe.loss)[1:])
        for group in optimiser.param_groups:
            group["lr"] = how.lr_at(step)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), how.clip_norm)
        optimiser.step()
        if (step + 1) % max(1, how.steps // 50) == 0:
            losses.append((step + 1, round(loss.item(), 4)))
        if on_progress:
            per_s, eta_s = rate.update(step + 1, len(pixels))
            on_progress(
                Progress(
                    "pre-training", step + 1, how.steps, loss=loss.item(), lr=how.lr_at(step), clips_per_s=per_s,
                    eta_s=eta_s,
                )
            )  # fmt: skip
    return model.eval(), losses[-50:]


def contrastive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """CLIP's symmetric loss for batches in which several images share a caption.

    Args:
        logits: (B, U), images against the different captions. truth: (B,) int64, each image's caption.

    Returns:
        The mean of two losses: the image's caption among all captions (mean over B), and any image of the caption among
        all images (mean over U). If every caption occurs once, this is CLIP's loss.
    """
    is_true = F.one_hot(truth, logits.shape[1]).bool()
    true_logits = logits.masked_fill(~is_true, -math.inf).logsumexp(0)
    return (F.cross_entropy(logits, truth) + (logits.logsumexp(0) - true_logits).mean()) / 2


def words_loss(logits: Tensor, words: Tensor, *, weights: Sequence[float]) -> Tensor:
    """Weighted sum over attributes of the cross entropy among the words of each.

    Args:
        logits: (B, all words), attributes side by side in the order of `ATTRIBUTES`. words: (B, 5) int64, the truth.
    """
    parts = logits.split([len(options) for options in ATTRIBUTES.values()], dim=1)
    return torch.stack(
        [w * F.cross_entropy(p, words[:, i]) for i, (p, w) in enumerate(zip(parts, weights, strict=True))]
    ).sum()


class PicturePool:
    """An endless supply of images with their words, harder as training goes on.

    Drawing an image costs as much as training on it, so each is used a few times; captions are made anew at each use.
    """

    def __init__(self, recipe: PretrainRecipe, generator: torch.Generator) -> None:
        self.recipe, self.generator = recipe, generator
        self.pixels, self.words = self._draw(min(1024, recipe.pictures.pool), step=0)  # (N, 3, S, S) uint8, (N, 5)
        self._oldest = 0

    def _draw(self, num: int, step: int) -> tuple[Tensor, Tensor]:
        look = PICTURE.eased(step / self.recipe.training.steps, until=self.recipe.pictures.curriculum)
        scenes = random_scenes(num, look, self.generator)
        times_s = _STILL_S * torch.rand(num, 1, generator=self.generator)
        pixels = draw(scenes, times_s, size=self.recipe.model.image_size, generator=self.generator)
        return pixels[:, 0], scenes.words[:, 0]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step; steps must come in order: pixels (B, 3, S, S) uint8, words (B, 5) int64."""
        size = self.recipe.training.batch_size
        fresh = round(size * self.recipe.pictures.fresh * _STEPS_PER_DRAWING)
        if step % _STEPS_PER_DRAWING == 0 and fresh:
            self._add(*self._draw(min(fresh, self.recipe.pictures.pool), step))
        chosen = torch.randint(len(self.words), (size,), generator=self.generator)
        return self.pixels[chosen], self.words[chosen]

    def _add(self, pixels: Tensor, words: Tensor) -> None:
        room = self.recipe.pictures.pool - len(self.words)
        if room:
            self.pixels = torch.cat([self.pixels, pixels[:room]])
            self.words = torch.cat([self.words, words[:room]])
            pixels, words = pixels[room:], words[room:]
        at = (self._oldest + torch.arange(len(words))) % len(self.words)
        self.pixels[at], self.words[at] = pixels, words
        self._oldest = (self._oldest + len(words)) % len(self.words)


class Tokens:
    """Sentences -> ids (K, L), each sentence tokenised once: captions repeat by the thousand."""

    def __init__(self, recipe: ClipModelRecipe) -> None:
        self.tokenizer = make_clip_tokenizer(recipe)
        self.ids: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self.ids]
        if new:
            self.ids |= dict(zip(new, self.tokenizer(new)["input_ids"], strict=True))
        rows = [self.ids[text] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in rows])


def _single_words(rng: np.random.Generator) -> list[tuple[str, str]]:
    """(sentence, word) for every word of every attribute; one sentence for all words of an attribute."""
    pairs = []
    for options in ATTRIBUTES.values():
        template = WORD_TEMPLATES[rng.integers(len(WORD_TEMPLATES))]
        pairs += [(template, word) for word in options]
    return pairs


def _unit(output: Any) -> Tensor:
    """transformers 4 returns the projected features themselves, transformers 5 an object that holds them."""
    features = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(features.float(), dim=-1)
