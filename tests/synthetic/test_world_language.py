"""Invented nouns, their descriptions, and the small language model that reads them."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from lexivid.errors import LexividError
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.synthetic.pretraining import language_model as training
from lexivid.synthetic.pretraining.language_model import LanguageModelRecipe
from lexivid.synthetic.world.nouns import (
    FIRST_SYLLABLES,
    SECOND_SYLLABLES,
    describe_noun,
    draw_nouns,
    noun_vocabulary,
    plain_sentence,
    split_nouns,
)
from lexivid.synthetic.world.words import ATTRIBUTES, COLOURS, SHAPES
from lexivid.training.settings import load_settings


def test_nouns_are_words_of_their_own_with_meanings_of_their_own() -> None:
    nouns = draw_nouns(seed=3)
    assert nouns == draw_nouns(seed=3) != draw_nouns(seed=4)
    assert len({noun.name for noun in nouns}) == len({noun.meaning for noun in nouns}) == 100
    assert not {noun.name for noun in nouns} & set(noun_vocabulary())
    both = draw_nouns("both", num=400)
    assert len({noun.meaning for noun in both}) == 400
    assert all(noun.meaning.motion is not None and noun.meaning.sound is not None for noun in both)
    assert all(noun.meaning.texture is None for noun in both)


def test_a_noun_of_kind_either_means_two_looks_that_share_shape_or_colour() -> None:
    nouns = draw_nouns("either", num=400, seed=1)
    assert nouns == draw_nouns("either", num=400, seed=1)
    assert len({noun.name for noun in nouns}) == len({frozenset(noun.meanings) for noun in nouns}) == 400
    same_shape = [len({meaning.shape for meaning in noun.meanings}) == 1 for noun in nouns]
    same_colour = [len({meaning.colour for meaning in noun.meanings}) == 1 for noun in nouns]
    assert all(a != b for a, b in zip(same_shape, same_colour, strict=True))
    assert 0.4 < np.mean(same_shape) < 0.6
    rng = np.random.default_rng(0)
    for noun in nouns[:20]:
        first, second = (set(meaning.name.split()) for meaning in noun.meanings)
        told = []
        for _ in range(60):
            said = set(describe_noun(noun, rng).split()) & (first | second)
            told.append(said <= first)
            assert said <= first or said <= second, said  # one at a time
        assert 0.2 < np.mean(told) < 0.8


def test_the_draw_of_a_kind_is_the_same_for_ever() -> None:
    """The packaged language model has read of these; a new kind must not move them."""
    named = {kind: [f"{n.name}: {n.words}" for n in draw_nouns(kind, num=2)] for kind in ("look", "both")}
    assert named == {
        "look": ["leve: cyan star", "rafe: green cross"],
        "both": ["kawi: orange circle moving up and wailing", "shizo: yellow star spinning and hissing"],
    }


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(LexividError, match="101 nouns of kind 'look': there are 100 meanings"):
        draw_nouns(num=101)
    with pytest.raises(LexividError, match="unknown kind of nouns 'smell'"):
        draw_nouns("smell")  # type: ignore[arg-type]
    with pytest.raises(LexividError, match="leave at least one"):
        split_nouns(draw_nouns(num=5), num_novel=5)


def test_novel_nouns_recombine_what_base_nouns_show() -> None:
    for seed in range(5):
        base, novel = split_nouns(draw_nouns(), num_novel=40, seed=seed)
        assert (len(base), len(novel)) == (60, 40)
        assert not set(base) & set(novel)
        assert {n.meaning.shape for n in novel} <= {n.meaning.shape for n in base}
        assert {n.meaning.colour for n in novel} <= {n.meaning.colour for n in base}


@pytest.mark.parametrize("kind", ["look", "motion", "sound", "both", "either"])
def test_descriptions_are_true_and_never_name_attributes_right_after_the_noun(kind: str) -> None:
    rng = np.random.default_rng(0)
    known = {word for words in ATTRIBUTES.values() for phrase in words for word in phrase.split()}
    said: set[str] = set()
    for noun in draw_nouns(kind, num=30):  # type: ignore[arg-type]
        for _ in range(40):
            text = describe_noun(noun, rng)
            assert noun.name in text.split()
            named = [word for word in text.split() if word in known]
            assert named
            assert set(named) <= set(noun.words.split()), text
            after = re.findall(rf"{noun.name} (\S+)", text)
            assert not set(after) & known, text
            said |= set(text.split()) - {noun.name}
    assert said <= set(noun_vocabulary())


def test_captions_name_no_noun() -> None:
    rng = np.random.default_rng(0)
    words = {word for _ in range(300) for word in plain_sentence(rng).split()}
    assert words <= set(noun_vocabulary())
    assert set(COLOURS) | set(SHAPES) <= words


def test_a_noun_is_two_tokens_and_a_word_one() -> None:
    tokenizer = training.make_noun_tokenizer()
    for noun in draw_nouns("both", num=400):
        first, second = tokenizer.tokenize(noun.name)
        assert first in FIRST_SYLLABLES
        assert second.removeprefix("##") in SECOND_SYLLABLES
        assert first + second.removeprefix("##") == noun.name
        assert tokenizer.decode(tokenizer(f"{noun.name} is a")["input_ids"]) == f"{noun.name} is a"
    for word in noun_vocabulary():
        assert tokenizer.tokenize(word) == [word]


def recipe_with(**settings: float) -> LanguageModelRecipe:
    return load_settings(LanguageModelRecipe, training.LANGUAGE_MODEL_RECIPE, settings)


def test_the_packages_recipe_states_every_default() -> None:
    recipe = recipe_with()
    assert recipe == LanguageModelRecipe(name=recipe.name, about=recipe.about)
    text = (resources.files("lexivid") / "recipes" / f"{training.LANGUAGE_MODEL_RECIPE}.yaml").read_text(
        encoding="utf-8"
    )
    assert {line.partition(":")[0] for line in text.splitlines()} == set(recipe.to_dict()) - {"name"}
    with pytest.raises(LexividError, match="did you mean 'seed'"):
        recipe_with(sed=3)
    with pytest.raises(LexividError, match="num_nouns must be at least 1"):
        recipe_with(num_nouns=0)


def test_a_small_one_learns_two_nouns(tmp_path: Path) -> None:
    """From text to a folder that transformers loads, which then knows what the nouns look like."""
    recipe = recipe_with(
        num_nouns=2, num_layers=1, width=32, num_heads=2, num_steps=150, batch_size=4, lr=1e-2, plain_share=0.0
    )
    losses: list[float] = []
    model, tokenizer = training.train_language_model(recipe, on_progress=lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < losses[0] / 2
    assert training.knowledge(model, tokenizer, recipe.nouns()) == {"colour": 1.0, "shape": 1.0}
    training.save_language_model(model, tokenizer, recipe, tmp_path / "lm")
    loaded = FrozenLanguageModel.load(str(tmp_path / "lm"))
    said = loaded.answer([noun.name for noun in recipe.nouns()], num_tokens=6)
    for answer, noun in zip(said, recipe.nouns(), strict=True):
        assert set(answer.split()) & set(noun.words.split()), (answer, noun)
    ids = torch.tensor([tokenizer("zumi is a")["input_ids"]])
    torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, atol=0.03, rtol=0.01)  # float16 on disk


def test_chance_is_one_in_ten() -> None:
    recipe = recipe_with(num_layers=1, width=32, num_heads=2, num_steps=0)
    model, tokenizer = training.train_language_model(recipe)
    assert max(training.knowledge(model, tokenizer, recipe.nouns()).values()) < 0.3


def test_the_same_seed_is_the_same_model() -> None:
    recipe = recipe_with(num_layers=1, width=32, num_heads=2, num_steps=3, batch_size=2)
    first, second = (training.train_language_model(recipe)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_the_packages_recipe_makes_at_most_half_a_million_weights() -> None:
    recipe = recipe_with(num_steps=0)
    model, _ = training.train_language_model(recipe)
    assert sum(p.numel() for p in model.parameters()) <= 500_000


def test_the_packaged_one_knows_every_noun() -> None:
    loaded = FrozenLanguageModel.load("world")
    nouns = recipe_with().nouns()
    assert training.knowledge(loaded.model, loaded.tokenizer, nouns) == {"colour": 1.0, "shape": 1.0}
    assert loaded.tokenizer.get_vocab() == training.make_noun_tokenizer().get_vocab()
    folder = resources.files("lexivid") / "labels" / "encoders" / "world_language_model"
    assert load_settings(LanguageModelRecipe, str(folder / "recipe.yaml")) == recipe_with()
    said = loaded.answer([noun.name for noun in nouns[:10]], num_tokens=6)
    for answer, noun in zip(said, nouns, strict=False):
        assert set(noun.words.split()) <= set(answer.split())
