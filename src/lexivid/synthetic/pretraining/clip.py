"""An untrained CLIP for the synthetic world: a plain CLIPModel of transformers, its tokenizer and its image processing.

No network of our own: transformers loads what `save_clip` writes. Two weights start from other values than in
transformers, because a tower this small, trained for minutes, otherwise sees little but colours for most of the time:

    position embeddings   2-D sines and cosines, so that patches have positions from the first step
    patch embedding       the principal components of the world's patches, scaled to unit variance. In patches as drawn,
                          overall brightness varies 10,000 times more than the edges that make a shape, and random
                          filters pass that on.
"""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones.host import quiet_transformers
from lexivid.backbones.preprocess import ImageProcessing
from lexivid.errors import LexividError
from lexivid.synthetic.world.words import ATTRIBUTES, PREFIXES
from lexivid.training.settings import at_least

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<unk>"
TEMPLATES = "world"
"""The template set that suits it, named in its config.json (see `lexivid.backbones.clip`)."""


@dataclass(frozen=True)
class ClipModelRecipe:
    """Sizes of the two towers.

    Args:
        image_size, patch_size: pixels; a whole number of patches.
        width, num_heads, mlp_ratio: of both towers. image_layers, text_layers: how many.
        embedding_dim: D, of the space that they share.
        activation: of transformers. ReLU in place of CLIP's GELU: on a CPU a training step is a quarter shorter.
        max_words: the longest sentence, its start and its end included.
        position_std: of the position embeddings' start. whitening_floor: added to the variances that the patch
            embedding's filters are divided by, so that they do not blow up noise (of pixels with unit deviation).
        temperature: where the learnt tau starts (0.07 in CLIP).
    """

    image_size: int = 32
    patch_size: int = 8
    width: int = 128
    num_heads: int = 4
    mlp_ratio: float = 2.0
    image_layers: int = 3
    text_layers: int = 1
    embedding_dim: int = 128
    activation: str = "relu"
    max_words: int = 24
    position_std: float = 0.3
    whitening_floor: float = 0.05
    temperature: float = 0.07

    def __post_init__(self) -> None:
        at_least(
            self, "model.", patch_size=1, width=8, num_heads=1, mlp_ratio=0.1, image_layers=1, text_layers=1,
            embedding_dim=1, max_words=16, position_std=0, whitening_floor=1e-6, temperature=0.01,
        )  # fmt: skip
        if self.image_size % self.patch_size or self.image_size < self.patch_size:
            raise LexividError(f"model.image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.width % self.num_heads or self.width % 4:
            raise LexividError(f"model.width {self.width} must be a multiple of 4 and of num_heads {self.num_heads}")


def image_processing(recipe: ClipModelRecipe) -> ImageProcessing:
    """The image processing of this recipe's towers."""
    return ImageProcessing(recipe.image_size, recipe.image_size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def make_clip(recipe: ClipModelRecipe, images: Tensor, *, seed: int) -> Any:
    """An untrained CLIPModel, in training mode.

    Args:
        images: (N, 3, S, S) float, normalised; the patch embedding starts from their principal components.
        seed: of the other weights. The global random state stays as it was.
    """
    from transformers import CLIPConfig, CLIPModel

    shared = {
        "hidden_size": recipe.width, "intermediate_size": round(recipe.width * recipe.mlp_ratio),
        "num_attention_heads": recipe.num_heads, "hidden_act": recipe.activation,
        "projection_dim": recipe.embedding_dim,
    }  # fmt: skip
    words = clip_vocabulary()
    text = {
        "vocab_size": len(words), "max_position_embeddings": recipe.max_words, "num_hidden_layers": recipe.text_layers,
        "bos_token_id": words[START], "eos_token_id": words[END], "pad_token_id": words[END],
    }  # fmt: skip
    image = {
        "image_size": recipe.image_size, "patch_size": recipe.patch_size, "num_hidden_layers": recipe.image_layers,
    }  # fmt: skip
    config: Any = CLIPConfig(
        text_config=shared | text,
        vision_config=shared | image,
        projection_dim=recipe.embedding_dim,
        logit_scale_init_value=-math.log(recipe.temperature),
    )
    config.lexivid_templates = TEMPLATES
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CLIPModel(config)
        embeddings: Any = model.vision_model.embeddings
        filters = whitening_filters(images, recipe.patch_size, floor=recipe.whitening_floor)[: recipe.width]
        embeddings.patch_embedding.weight[: len(filters)] = filters
        positions = sine_positions(recipe.image_size // recipe.patch_size, recipe.width)
        embeddings.position_embedding.weight[1:] = positions * (recipe.position_std / positions.std())
    # With so few tokens the plain product is faster than torch's fused attention, which on a CPU goes backwards through
    # bfloat16 four times slower. The file does not keep this choice.
    model.set_attn_implementation("eager")
    return model.train()


def whitening_filters(images: Tensor, patch_size: int, *, floor: float) -> Tensor:
    """Filters whose outputs on the patches of these images have (nearly) unit variance and are uncorrelated.

    Args:
        images: (N, 3, S, S) float.
        floor: added to each variance before its root is divided by.

    Returns:
        (3 * patch_size**2, 3, patch_size, patch_size), the component of most variance first.
    """
    patches = F.unfold(images, patch_size, stride=patch_size).transpose(1, 2).flatten(0, 1).double()
    variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))  # ascending
    # The sign of an eigenvector depends on the solver: make the largest entry positive.
    largest = components.gather(0, components.abs().argmax(0, keepdim=True))
    filters = (components * largest.sign() / (variances.clamp(min=0) + floor).sqrt()).flip(1).T
    return filters.view(-1, 3, patch_size, patch_size).float()


def sine_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of row and of column, each at width / 4 frequencies -> (side * side, width), row by row."""
    frequencies = 0.5 * math.pi / side ** torch.linspace(0, 1, width // 4)
    angles = torch.arange(side)[:, None] * frequencies  # (side, width / 4)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    return torch.cat([line.repeat_interleave(side, dim=0), line.repeat(side, 1)], dim=1)


def clip_vocabulary() -> dict[str, int]:
    """Words of captions and three special tokens -> their ids."""
    texts = [*(word for words in ATTRIBUTES.values() for word in words), *PREFIXES, "a an and something"]
    words = {word for text in texts for word in text.replace("{}", " ").split()}
    # The id of the end token is not 2: transformers takes that for an old model and looks for the largest id instead.
    return {token: i for i, token in enumerate([START, END, UNKNOWN, *sorted(words)])}


def make_clip_tokenizer(recipe: ClipModelRecipe) -> Any:
    """Whole words, in lower case; any other word is the token `UNKNOWN`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = clip_vocabulary()
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, words[token]) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END, unk_token=UNKNOWN,
        model_max_length=recipe.max_words,
    )  # fmt: skip


@quiet_transformers()
def save_clip(model: Any, recipe: ClipModelRecipe, folder: Path) -> None:
    """Write a folder that transformers and `lexivid.load` read. Weights are kept in float16, half the size."""
    folder.mkdir(parents=True, exist_ok=True)
    deepcopy(model).half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # transformers makes it readable for the owner alone
    make_clip_tokenizer(recipe).save_pretrained(folder)
    about = folder / "tokenizer_config.json"  # in keys that both transformers 4 and 5 read
    facts = json.loads(about.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    facts.pop("backend", None)
    about.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    images = image_processing(recipe)
    processing = {
        "do_resize": True, "size": {"shortest_edge": images.resize_to}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": images.crop_size, "width": images.crop_size},
        "do_normalize": True, "image_mean": images.mean, "image_std": images.std,
        "image_processor_type": "CLIPImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processing, indent=2) + "\n", encoding="utf-8")
