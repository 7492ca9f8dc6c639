"""Pre-training of a CLIP on the synthetic world: the losses, the start, and that a short run learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import lexivid
from lexivid.backbones import load_backbone
from lexivid.cli import app
from lexivid.errors import LexividError
from lexivid.labels import load_templates
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.prompt_cache import embed_labels
from lexivid.synthetic.pretraining.clip import (
    ClipModelRecipe,
    clip_vocabulary,
    make_clip_tokenizer,
    save_clip,
    sine_positions,
    whitening_filters,
)
from lexivid.synthetic.pretraining.language_model import LanguageModelRecipe
from lexivid.synthetic.pretraining.probes import word_accuracy
from lexivid.synthetic.pretraining.train_clip import (
    PicturePool,
    PretrainRecipe,
    Tokens,
    contrastive_loss,
    fit_clip,
    pretrain_clip,
    words_loss,
)
from lexivid.synthetic.pretraining.train_language_model import pretrain_language_model
from lexivid.synthetic.world.draw import PICTURE
from lexivid.synthetic.world.words import ATTRIBUTES
from lexivid.training.settings import load_one_of, load_settings, settings_names

BACKBONES = Path(lexivid.__file__).parent / "backbones"
TINY = {
    "model.width": 32, "model.num_heads": 2, "model.image_layers": 1, "model.embedding_dim": 16, "pictures.pool": 64,
    "training.batch_size": 16, "training.steps": 10, "training.warmup_steps": 2,
    "probes.num_pictures": 20, "probes.clips_per_class": 1, "probes.num_names": 50,
}  # fmt: skip


@pytest.fixture
def tiny() -> PretrainRecipe:
    return load_settings(PretrainRecipe, "world-clip", TINY)


def test_contrastive_loss_is_clips_where_captions_differ() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    truth = torch.arange(6)
    clips = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
    torch.testing.assert_close(contrastive_loss(logits, truth), clips)


def test_pictures_of_one_caption_are_no_negatives() -> None:
    # Pictures 0 and 1 share caption 0. By hand: its softmax over pictures counts both.
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    to_captions = F.cross_entropy(logits, torch.tensor([0, 0, 1]))
    e = logits.exp()
    to_pictures = -((e[0, 0] + e[1, 0]) / e[:, 0].sum()).log() - (e[2, 1] / e[:, 1].sum()).log()
    torch.testing.assert_close(contrastive_loss(logits, torch.tensor([0, 0, 1])), (to_captions + to_pictures / 2) / 2)


def test_words_loss_takes_each_attribute_by_itself() -> None:
    sizes = [len(words) for words in ATTRIBUTES.values()]
    logits = torch.randn(4, sum(sizes), generator=torch.Generator().manual_seed(1))
    words = torch.tensor([[0, 9, 2, 7, 1]] * 4)
    start = sum(sizes[:3])
    motion = F.cross_entropy(logits[:, start : start + sizes[3]], words[:, 3])
    torch.testing.assert_close(words_loss(logits, words, weights=(0, 0, 0, 2, 0)), 2 * motion)


def test_whitening_filters_decorrelate() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(64, 3, 16, 16, generator=generator).cumsum(-1)  # neighbours alike, brightness dominates
    filters = whitening_filters(pictures, 4, floor=1e-6)
    answers = F.conv2d(pictures, filters, stride=4).transpose(0, 1).flatten(1)
    torch.testing.assert_close(answers @ answers.T / answers.shape[1], torch.eye(48), atol=1e-2, rtol=0)
    variances = F.conv2d(pictures, F.normalize(filters.flatten(1)).view_as(filters), stride=4).square().mean((0, 2, 3))
    assert (variances.diff() <= 1e-4).all()  # most variance first


def test_every_patch_has_its_own_position() -> None:
    positions = sine_positions(4, 32)
    assert positions.shape == (16, 32)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.1
    torch.testing.assert_close(positions[1, :16], positions[2, :16])  # one row
    torch.testing.assert_close(positions[1, 16:], positions[5, 16:])  # one column


def test_tokenizer_knows_the_world_and_says_what_it_does_not() -> None:
    recipe = ClipModelRecipe()
    tokenizer, words = make_clip_tokenizer(recipe), clip_vocabulary()
    ids = tokenizer("A picture of a red striped STAR moving left and humming")["input_ids"]
    assert ids[0] == words["<|startoftext|>"]
    assert ids[-1] == words["<|endoftext|>"]
    assert words["<unk>"] not in ids
    assert ids.count(words["a"]) == 2
    assert words["<unk>"] in tokenizer("surfing")["input_ids"]
    templates = load_templates("world").templates
    assert all(words["<unk>"] not in tokenizer(text.replace("{}", "star"))["input_ids"] for text in templates)


def test_sentences_are_padded_to_the_longest() -> None:
    ids = Tokens(ClipModelRecipe())(["red", "a red star", "red"])
    assert ids.shape == (3, 5)
    assert ids[0].tolist() == ids[2].tolist()
    assert (ids[0, 2:] == clip_vocabulary()["<|endoftext|>"]).all()


def test_pool_gets_harder_and_forgets_the_oldest(tiny: PretrainRecipe) -> None:
    recipe = tiny.with_settings({"training.steps": 400, "pictures.fresh": 1.0})
    pool = PicturePool(recipe, torch.Generator().manual_seed(0))
    first = pool.pixels.clone()
    assert len(first) == 64
    pixels, words = pool.batch(0)
    assert pixels.shape == (16, 3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert words.shape == (16, 5)
    pool.batch(392)
    assert not (pool.pixels == first).flatten(1).all(1).any()

    def roughness(pictures: torch.Tensor) -> float:
        return float(pictures[..., :4, :4].float().diff(dim=-1).abs().mean())  # of a corner: ground and noise alone

    assert roughness(pool.pixels) > 2 * roughness(first)


def test_same_seed_same_weights(tiny: PretrainRecipe, tmp_path: Path) -> None:
    outs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(7)  # the global random state must not matter
        before = torch.random.get_rng_state()
        model, losses = fit_clip(tiny.with_settings({"training.seed": seed}))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert len(losses) == 10
        save_clip(model, tiny.model, tmp_path / name)
        outs.append((tmp_path / name / "model.safetensors").read_bytes())
    assert outs[0] == outs[1]
    assert outs[0] != outs[2]


def test_unknown_settings_name_the_nearest(tiny: PretrainRecipe) -> None:
    with pytest.raises(LexividError, match=r"training\.step'.*training\.steps"):
        tiny.with_settings(["training.step=3"])
    with pytest.raises(LexividError, match="multiple"):
        tiny.with_settings(["model.patch_size=5"])
    assert PretrainRecipe.from_dict(tiny.to_dict()) == tiny
    assert settings_names(PretrainRecipe) == ["world-clip"]


def test_the_probes_are_read_under_their_old_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("gates: {num_names: 40}\n", encoding="utf-8")
    with pytest.warns(FutureWarning, match="the recipe key 'gates' is called 'probes' now"):
        recipe = load_one_of((LanguageModelRecipe, PretrainRecipe), path)
    assert isinstance(recipe, PretrainRecipe)
    assert recipe.probes.num_names == 40
    with pytest.warns(FutureWarning, match=r"'gates\.num_names' is called 'probes\.num_names' now"):
        assert recipe.with_settings(["gates.num_names=30"]).probes.num_names == 30
    with pytest.raises(LexividError, match=r"probes\.num_names must be at least 2"):
        recipe.with_settings({"probes.num_names": 1})
    for name in ("world", "world-1", "world-2"):  # of the shipped weights
        stored = BACKBONES / name / "recipe.yaml"
        assert load_settings(PretrainRecipe, stored).to_yaml() == stored.read_text(encoding="utf-8")


def test_a_folder_in_use_is_refused(tiny: PretrainRecipe, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(LexividError, match="new or empty"):
        pretrain_clip(tiny, tmp_path)


def colour_accuracy(recipe: PretrainRecipe, folder: Path) -> float:
    """Of the checkpoint that the recipe makes, on easy pictures."""
    model, _ = fit_clip(recipe)
    save_clip(model, recipe.model, folder)
    backbone = load_backbone(str(folder), device="cpu", dtype="float32")
    vectors = {"colour": embed_labels(backbone, ATTRIBUTES["colour"], load_templates("world"))}
    generator = torch.Generator().manual_seed(1_000_003)
    return word_accuracy(backbone, vectors, PICTURE.eased(0.1), 400, generator)["colour"]


@pytest.mark.slow
def test_a_short_run_learns_and_shuffled_captions_teach_nothing(tmp_path: Path) -> None:
    # In float32: where a processor lacks AMX, a backward pass in bfloat16 takes ten times as long.
    short = {
        "training.steps": 200, "training.batch_size": 64, "training.warmup_steps": 20, "model.image_layers": 2,
        "pictures.pool": 2048, "pictures.curriculum": 1.0, "training.precision": "float32",
    }  # fmt: skip
    recipe = load_settings(PretrainRecipe, "world-clip", short)
    assert colour_accuracy(recipe, tmp_path / "captions") > 60  # chance is 10
    shuffled = recipe.with_settings({"pictures.shuffle_captions": True})
    assert colour_accuracy(shuffled, tmp_path / "shuffled") < 25


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "clip"
    settings = [f"--set={key}={value}" for key, value in TINY.items()]
    result = CliRunner().invoke(app, ["pretrain", "world-clip", "--out", str(out), "--seed", "5", *settings])
    assert result.exit_code == 0, result.output
    assert "words on video stills" in result.output
    assert "seed: 5" in (out / "recipe.yaml").read_text()
    assert load_settings(PretrainRecipe, out / "recipe.yaml").training.seed == 5
    assert "--seed 5" in (out / "README.md").read_text()
    gates = json.loads((out / "pretrain.json").read_text())["gates"]
    assert set(gates["text_variance"]) == set(ATTRIBUTES)
    assert gates["num_pictures"] == 20


TINY_LANGUAGE_MODEL = {"num_nouns": 2, "num_layers": 1, "width": 32, "num_heads": 2, "num_steps": 150, "batch_size": 4,
                       "lr": 1e-2, "plain_share": 0.0}  # fmt: skip


def test_command_for_the_language_model(tmp_path: Path) -> None:
    """From the recipe's name to a folder that soft attributes can ask."""
    out = tmp_path / "lm"
    settings = [f"--set={key}={value}" for key, value in TINY_LANGUAGE_MODEL.items()]
    words = ["pretrain", "world-language-model", "--out", str(out), "--seed", "5", *settings]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert 'at "NOUN is a", of 2 nouns' in result.stdout
    assert "100.0" in result.stdout
    report = json.loads((out / "pretrain.json").read_text())
    assert report["knowledge"] == {"colour": 1.0, "shape": 1.0}
    assert [step for step, _ in report["losses"]] == [1, 51, 101, 150]
    assert report["losses"][-1][1] < report["losses"][0][1] / 2
    recipe = load_settings(LanguageModelRecipe, out / "recipe.yaml")
    assert (recipe.seed, recipe.num_nouns) == (5, 2)
    loaded = FrozenLanguageModel.load(str(out))
    assert report["num_weights"] == sum(weights.numel() for weights in loaded.model.parameters())
    noun = recipe.nouns()[0]
    assert set(loaded.answer([noun.name], num_tokens=6)[0].split()) & set(noun.words.split())
    with pytest.raises(LexividError, match="new or empty"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_recipe_is_of_the_kind_whose_settings_it_has(tmp_path: Path) -> None:
    kinds = (PretrainRecipe, LanguageModelRecipe)
    assert isinstance(load_one_of(kinds, "world-clip"), PretrainRecipe)
    assert isinstance(load_one_of(kinds, "world-language-model"), LanguageModelRecipe)
    own = tmp_path / "own.yaml"
    own.write_text("num_nouns: 3\nseed: 4\n")
    assert load_one_of(kinds, own, ["seed=5"]) == LanguageModelRecipe(name="own", num_nouns=3, seed=5)
    own.write_text("training: {steps: 3}\n")
    assert load_one_of(kinds, own) == load_settings(PretrainRecipe, own)
    own.write_text("num_nuns: 3\nseed: 4\n")
    with pytest.raises(LexividError, match="'num_nuns': did you mean 'num_nouns'"):
        load_one_of(kinds, own)
    with pytest.raises(LexividError, match=r"did you mean 'world-language-model'.*one of world-clip, world-language"):
        load_one_of(kinds, "world-langage-model")


def test_impossible_nouns_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LexividError, match="there are 100 meanings"):
        pretrain_language_model("world-language-model", tmp_path / "lm", set={"num_nouns": 101})
    assert not (tmp_path / "lm").exists()
