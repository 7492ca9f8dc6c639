"""Probes of what a CLIP knows of the synthetic world. A checkpoint must pass them before experiments use it.

    words           of all words of an attribute, is the image's word the nearest? On stills as in pre-training
                    (`PICTURE`) and on frames as in clips (`VIDEO`), both at full difficulty and never seen before.
    text variance   how much of the variance of class names' vectors each attribute explains. A word that the text
                    encoder ignores leaves its classes with one vector, and no tower can be trained to tell them apart.
    zero-shot       classes of motion or of sound, named in full, on clips (mean over 8 frames).

backbone -> a dictionary of JSON types. Shapes: N images or clips, K classes, D embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import Backbone
from lexivid.labels import TemplateSet, load_templates
from lexivid.labels.prompt_cache import embed_labels
from lexivid.synthetic.world.draw import (
    NUM_WORDS,
    PICTURE,
    VIDEO,
    Look,
    draw,
    random_scenes,
    random_words,
    sample_scenes,
)
from lexivid.synthetic.world.words import ATTRIBUTES, WorldClass, draw_classes

LOOKS = {"picture": PICTURE, "video": VIDEO}
_CLIP_S = 2.0
_FRAMES = 8


def measure(
    backbone: Backbone,
    *,
    num_pictures: int = 2000,
    clips_per_class: int = 5,
    num_names: int = 1500,
    seed: int = 1_000_003,
) -> dict[str, Any]:
    """All probes of a checkpoint; about 15 s on one core.

    Args:
        num_pictures: stills for each look. clips_per_class: of 40 base and 30 novel validation classes of each kind.
        num_names: class names that the text variance is taken over.
        seed: of the images; one that pre-training is unlikely to use.

    Returns:
        `words[look][attribute]` and `chance[attribute]` in percent, `text_variance[attribute]` in percent of the whole
        (the rest to 100 belongs to no single attribute), `zero_shot[kind]` with base, novel, chance_base and
        chance_novel in percent, `num_pictures`, `num_clips`.
    """
    templates = load_templates(backbone.default_templates)
    generator = torch.Generator().manual_seed(seed)
    vectors = {name: embed_labels(backbone, words, templates) for name, words in ATTRIBUTES.items()}
    words = {look: word_accuracy(backbone, vectors, LOOKS[look], num_pictures, generator) for look in LOOKS}
    zero_shot = {
        kind: _zero_shot(backbone, kind, templates, clips_per_class, generator) for kind in ("motion", "sound")
    }
    return {
        "words": words,
        "chance": {name: 100 / len(options) for name, options in ATTRIBUTES.items()},
        "text_variance": text_variance(backbone, templates, num_names, generator),
        "zero_shot": zero_shot,
        "num_pictures": num_pictures,
        "num_clips": 70 * clips_per_class,
        "temperature": backbone.temperature,
    }


def word_accuracy(
    backbone: Backbone, vectors: dict[str, Tensor], look: Look, num: int, generator: torch.Generator
) -> dict[str, float]:
    """Percent of `num` new stills whose word is the nearest of its attribute's; vectors[attribute]: (words, D)."""
    scenes = random_scenes(num, look, generator)
    times_s = _CLIP_S * torch.rand(num, 1, generator=generator)
    pixels = draw(scenes, times_s, size=backbone.images.crop_size, generator=generator)[:, 0]
    features = backbone.encode_images(pixels)  # (N, D)
    truth = dict(zip(ATTRIBUTES, scenes.words[:, 0].T, strict=True))
    return {name: _percent((features @ v.T).argmax(1) == truth[name]) for name, v in vectors.items()}


def text_variance(backbone: Backbone, templates: TemplateSet, num: int, generator: torch.Generator) -> dict[str, float]:
    """Percent of the variance of class names' vectors that each attribute's own word explains.

    For random names of all five attributes, words are independent, so the shares of the attributes' main effects (the
    mean vector of all names with a word, about the mean of all) add up to at most the whole. Less what chance explains.
    """
    words = random_words(num, generator)
    names = [WorldClass(*row).name for row in words.tolist()]
    vectors = embed_labels(backbone, names, templates).double()
    vectors = vectors - vectors.mean(0)
    whole = vectors.square().sum()
    shares = {}
    for i, (attribute, size) in enumerate(zip(ATTRIBUTES, NUM_WORDS, strict=True)):
        member = F.one_hot(words[:, i], size).double()  # (N, words)
        counts = member.sum(0).clamp(min=1)[:, None]
        explained = (counts * (member.T @ vectors / counts).square()).sum() / whole
        by_chance = (size - 1) / (num - 1)
        shares[attribute] = round(100 * float((explained - by_chance) / (1 - by_chance)), 2)
    return shares


def _zero_shot(
    backbone: Backbone, kind: Any, templates: TemplateSet, clips_per_class: int, generator: torch.Generator
) -> dict[str, float]:
    result: dict[str, float] = {}
    drawn = draw_classes(kind, seed=0, pool="validation")
    for side, classes in (("base", drawn.base), ("novel", drawn.novel)):
        names = embed_labels(backbone, [made.name for made in classes], templates)
        truth = torch.arange(len(classes)).repeat(clips_per_class)
        scenes = sample_scenes([classes[i] for i in truth.tolist()], look=VIDEO, generator=generator)
        times_s = (torch.arange(_FRAMES) + 0.5) * _CLIP_S / _FRAMES
        frames = draw(scenes, times_s, size=backbone.images.crop_size, generator=generator)  # (N, T, 3, S, S)
        features = backbone.encode_images(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)
        result |= {side: _percent((features @ names.T).argmax(1) == truth), f"chance_{side}": 100 / len(classes)}
    return result


def _percent(hits: Tensor) -> float:
    return round(100 * float(hits.double().mean()), 2)


def describe_probes(probes: dict[str, Any]) -> str:
    """The probes as a table in Markdown."""
    rows = ["| | " + " | ".join(ATTRIBUTES) + " |", "|---" * 6 + "|"]
    tables = {f"words on {look} stills, %": values for look, values in probes["words"].items()}
    tables |= {"chance, %": probes["chance"], "share of the text variance, %": probes["text_variance"]}
    rows += [
        f"| {name} | " + " | ".join(f"{values[a]:.1f}" for a in ATTRIBUTES) + " |" for name, values in tables.items()
    ]
    rows.append("")
    for kind, z in probes["zero_shot"].items():
        rows.append(
            f"Zero-shot, classes of appearance and {kind}: {z['base']:.1f} % of 40 base classes (chance "
            f"{z['chance_base']:.1f}), {z['novel']:.1f} % of 30 novel ones (chance {z['chance_novel']:.1f})."
        )
    return "\n".join(rows)


def clip_model_card(recipe: Any, probes: dict[str, Any]) -> str:
    """README.md of a checkpoint: what it is, the command that made it, what it knows."""
    how = recipe.training
    trails = f"Of these, {100 * PICTURE.trail:.0f} and {100 * VIDEO.trail:.0f} %"
    badges = f"{100 * PICTURE.badge:.0f} and {100 * VIDEO.badge:.0f} %"
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# A CLIP of Lexivid's synthetic world

A plain `CLIPModel`, trained on {how.steps * how.batch_size:,} pictures of coloured shapes that move and sound. It knows
the words of `lexivid.synthetic.world.words` and no others; its numbers say nothing of real footage.

Made by `OMP_NUM_THREADS=1 lexivid pretrain {recipe.name} --seed {how.seed} --out DIR`, from nothing; settings in
recipe.yaml, losses and time in pretrain.json. Beside CLIP's own loss it was trained to choose each attribute's single
word, which is more supervision than a caption gives. Weights are stored in float16.

{describe_probes(probes)}

Stills are new ones at the full difficulty of pre-training (picture) and of clips (video). {trails} leave a
trail, {badges} show a badge, and other objects and bars hide much: 100 % is out of reach. For the variance, class
names have all five words.
"""
