"""A small causal language model that has read the world's descriptions: a plain GPT-2 of transformers, in its format.

It stands for a real language model: it knows the appearance of the invented nouns of `lexivid.synthetic.world.nouns`,
and CLIP does not. At most 0.5 million weights, a few minutes on one core.

    LanguageModelRecipe --train_language_model--> (GPT2LMHeadModel, tokenizer) --save--> a folder

Sentences follow each other in one stream, as in any text, so that a noun may stand at any position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.base.storage import write_atomically
from lexivid.data.run_clips import RECIPE_FILE
from lexivid.synthetic.world import nouns as world_nouns
from lexivid.synthetic.world.nouns import FIRST_SYLLABLES, SECOND_SYLLABLES, Noun, NounKind
from lexivid.synthetic.world.words import COLOURS, SHAPES
from lexivid.training.schedule import half_cosine
from lexivid.training.settings import Settings, at_least

_END, _UNKNOWN, _GOES_ON = "<|endoftext|>", "<unk>", "##"
LANGUAGE_MODEL_RECIPE = "world-language-model"


@dataclass(frozen=True)
class LanguageModelRecipe(Settings):
    """Settings of the language model.

    Args:
        kind, num_nouns, noun_seed: which nouns are described, all of them: see `draw_nouns`.
        plain_share: of the sentences, how many are captions without a noun.
        num_layers, width, num_heads: of the network. context_length: tokens that it sees at a time.
        num_steps, batch_size: steps, and streams of `context_length` tokens in each.
        lr, warmup_steps, weight_decay: AdamW, half-cosine decay.
        seed: of the weights and of the order of the sentences.
    """

    kind: NounKind = "look"
    num_nouns: int = 100
    noun_seed: int = 0
    plain_share: float = 0.15
    num_layers: int = 2
    width: int = 128
    num_heads: int = 4
    context_length: int = 48
    num_steps: int = 1500
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(
            self, num_nouns=1, plain_share=0, num_layers=1, num_heads=1, context_length=2, num_steps=0, batch_size=1
        )

    def nouns(self) -> tuple[Noun, ...]:
        """The nouns that it describes."""
        return world_nouns.draw_nouns(self.kind, num=self.num_nouns, seed=self.noun_seed)


def make_noun_tokenizer() -> Any:
    """Words are whole, an invented noun is two tokens: "zumi" -> "zu", "##mi"."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        _END,
        _UNKNOWN,
        *world_nouns.noun_vocabulary(),
        *FIRST_SYLLABLES,
        *(_GOES_ON + s for s in SECOND_SYLLABLES),
    ]
    numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token=_UNKNOWN, continuing_subword_prefix=_GOES_ON))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix=_GOES_ON)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END, bos_token=_END, unk_token=_UNKNOWN)


def make_model(recipe: LanguageModelRecipe, *, vocabulary_size: int, end: int) -> Any:
    """A GPT2LMHeadModel with random weights; the global random state stays as it was."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary_size, n_positions=recipe.context_length, n_embd=recipe.width, n_layer=recipe.num_layers,
        n_head=recipe.num_heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return GPT2LMHeadModel(config)


def train_language_model(
    recipe: LanguageModelRecipe, *, on_progress: Callable[[int, int, float], None] | None = None
) -> tuple[Any, Any]:
    """Train one -> (model, tokenizer). `on_progress` gets step, steps and the loss in nats a token, now and then."""
    tokenizer = make_noun_tokenizer()
    model = make_model(recipe, vocabulary_size=len(tokenizer), end=tokenizer.eos_token_id).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    stream = _Stream(recipe, tokenizer)
    for step in range(recipe.num_steps):
        factor = half_cosine(step, recipe.num_steps, warmup_steps=recipe.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * factor
        ids = stream.take(recipe.batch_size)
        logits = model(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if on_progress and (step % 50 == 0 or step + 1 == recipe.num_steps):
            on_progress(step + 1, recipe.num_steps, float(loss.detach()))
    return model.eval(), tokenizer


class _Stream:
    """Sentences one after the other, as tokens."""

    def __init__(self, recipe: LanguageModelRecipe, tokenizer: Any) -> None:
        self.recipe, self.tokenizer, self.nouns = recipe, tokenizer, recipe.nouns()
        self.rng = np.random.default_rng([recipe.seed, 1])

    def take(self, num: int) -> Tensor:
        """(num, context_length) int64; each row begins with a sentence."""
        return torch.stack([self._row() for _ in range(num)])

    def _row(self) -> Tensor:
        ids: list[int] = []
        while len(ids) < self.recipe.context_length:
            if self.rng.random() < self.recipe.plain_share:
                text = world_nouns.plain_sentence(self.rng)
            else:
                text = world_nouns.describe_noun(self.nouns[self.rng.integers(len(self.nouns))], self.rng)
            ids += [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
        return torch.tensor(ids[: self.recipe.context_length])


@torch.no_grad()
def knowledge(model: Any, tokenizer: Any, nouns: Sequence[Noun]) -> dict[str, float]:
    """How much the model knows at "NOUN is a": share of nouns whose own colour is the likeliest of all colours to come
    next, and whose own shape is the likeliest of all shapes ("colour", "shape"). Chance is 0.1 for each. Of a noun with
    two meanings, either counts."""
    ids = torch.tensor([tokenizer(f"{noun.name} is a")["input_ids"] for noun in nouns])
    logits = model(input_ids=ids, use_cache=False).logits[:, -1]
    right = {}
    for name, words in (("colour", COLOURS), ("shape", SHAPES)):
        columns = torch.tensor([tokenizer.convert_tokens_to_ids(word) for word in words])
        likeliest = logits[:, columns].argmax(dim=-1).tolist()
        true_words = [{getattr(meaning, name) for meaning in noun.meanings} for noun in nouns]
        right[name] = sum(best in any_of for best, any_of in zip(likeliest, true_words, strict=True)) / len(nouns)
    return right


def save_language_model(model: Any, tokenizer: Any, recipe: LanguageModelRecipe, folder: Path) -> None:
    """Write a folder that transformers reads, weights in float16, with its recipe beside them."""
    deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_atomically(folder / RECIPE_FILE, recipe.to_yaml())
