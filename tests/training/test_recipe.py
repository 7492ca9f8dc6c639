"""training/recipe.py: YAML to dataclasses, errors that help, and the recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from lexivid.errors import LexividError, ModelError
from lexivid.models.mov_config import MOVConfig
from lexivid.training.recipe import Recipe, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_read_and_come_back(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(path) == recipe
    MOVConfig.from_dict(recipe.model.mov_settings())


def test_the_papers_numbers() -> None:
    """MOV, sections 4.1 and 4.2."""
    for name, modalities, epochs, base, all_classes in (
        ("mov-k700", ("video", "flow"), 100, 400, 700),
        ("mov-vggsound", ("video", "audio"), 20, 154, 309),
    ):
        recipe = load_recipe(name)
        model, data, training = recipe.model, recipe.data, recipe.training
        assert model.modalities == modalities
        assert (model.num_temporal_layers, model.num_cross_layers, model.num_heads) == (2, 1, 8)
        assert (model.alpha, model.tau, model.beta, model.tau_v) == (0.5, 0.01, 0.25, 0.003)
        assert model.trainable_layers is None
        assert (data.num_frames, data.stride, data.stride_rate) == (16, 4, "native")
        assert (data.audio_s, data.spec_time, data.spec_mel) == (8.0, 192, 48)
        assert (training.epochs, training.batch_size, training.lr, training.weight_decay) == (epochs, 1024, 1e-4, 0.05)
        assert training.warmup_steps == 0
        assert data.base_fraction is not None
        assert round(data.base_fraction * all_classes) == base
    assert load_recipe("mov-k700").model.tau_f == load_recipe("mov-vggsound").model.tau_a == 0.01


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training": {"epoch": 3}}, r"unknown recipe key 'training.epoch': did you mean 'training.epochs'"),
        ({"trainin": {"epochs": 3}}, r"unknown recipe key 'trainin'"),
        ({"lr": 1}, r"unknown recipe key 'lr': did you mean 'training.lr'"),
        ({"model": {"backbon": "lite"}}, r"did you mean 'model.backbone'"),
        ({"training": 3}, r"'training' is a section"),
        ({"training": {"epochs": "many"}}, r"training.epochs must be a whole number; got 'many'"),
        ({"training": {"epochs": 2.5}}, r"training.epochs must be a whole number; got 2.5"),
        ({"training": {"epochs": True}}, r"training.epochs must be a whole number; got True"),
        ({"training": {"epochs": -1}}, r"training.epochs must be at least 0; got -1"),
        ({"training": {"batch_size": 0}}, r"training.batch_size must be at least 1; got 0"),
        ({"training": {"lr": float("nan")}}, r"training.lr must be a number"),
        ({"training": {"lr": None}}, r"training.lr must be a number; got None"),
        ({"training": {"clip_norm": 0}}, r"training.clip_norm must be above 0"),
        ({"training": {"betas": [0.9]}}, r"training.betas are two numbers"),
        ({"training": {"precision": "fp8"}}, r"must be 'float32' or 'bfloat16'; got 'fp8'"),
        ({"training": {"export": "first"}}, r"'last' or 'best'"),
        ({"model": {"zero_init": "maybe"}}, r"model.zero_init must be true or false"),
        ({"model": {"modalities": 3}}, r"model.modalities must be a list"),
        ({"data": {"held_out": 1}}, r"data.held_out is a share below 1"),
        ({"data": {"base_fraction": 0}}, r"data.base_fraction is a share"),
        ({"data": {"inputs": ["audio"]}}, r"data.inputs names 'audio', but model.modalities are video, flow"),
        ({"data": {"inputs": []}}, r"data.inputs is empty"),
        ({"data": {"inputs": ["flow"], "cache_video_features": 2}}, r"video is not among the inputs"),
        ({"data": {"inputs": ["flow"], "flow_from": "frozen"}}, r"needs both video and flow"),
        ({"data": {"flow_from": "frames", "cache_video_features": 2}}, r"use 'frozen'"),
        ({"training": {"mixup": 0.3}}, r"training.mixup mixes sounds"),
    ],
)
def test_errors_say_what_to_do(values: dict, message: str) -> None:
    with pytest.raises(LexividError, match=message):
        Recipe.from_dict(values)


def test_settings() -> None:
    recipe = load_recipe("lite-mov", ["training.lr=1e-3", "training.clip_norm=null", "model.modalities=video, audio"])
    assert recipe.training.lr == 1e-3
    assert recipe.training.clip_norm is None
    assert recipe.model.modalities == ("video", "audio")
    assert recipe.with_settings({"data.stride_rate": 15}).data.stride_rate == 15.0
    assert recipe.with_settings({"data.stride_rate": "native"}).data.stride_rate == "native"
    assert load_recipe("lite-mov", "training.epochs=3").training.epochs == 3
    assert load_recipe("lite-mov").training.epochs != 3
    for text, message in (
        ("training.lr", "give KEY=VALUE"),
        ("training.lrr=1", "did you mean 'training.lr'"),
        ("lr=1", "did you mean 'training.lr'"),
        ("training=1", "unknown recipe key 'training'"),
        ("training.lr.x=1", "unknown recipe key 'training.lr'"),
        ("training.lr=fast", "must be a number; got 'fast'"),
    ):
        with pytest.raises(LexividError, match=message):
            load_recipe("lite-mov", [text])


def test_files(tmp_path: Path) -> None:
    with pytest.raises(LexividError, match=r"unknown recipe 'lite-mow': did you mean 'lite-mov'"):
        load_recipe("lite-mow")
    with pytest.raises(LexividError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    for text, message in (
        ("a: [", "is no YAML"),
        ("- a", "must be a mapping"),
        ("!!python/name:os.system", "is no YAML"),
    ):
        path = tmp_path / "bad.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(LexividError, match=message):
            load_recipe(path)
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    assert load_recipe(tmp_path / "empty.yaml") == Recipe(name="empty")


def test_a_model_that_cannot_be() -> None:
    with pytest.raises(ModelError, match="'video' first"):
        MOVConfig.from_dict(load_recipe("lite-flow-only", ["model.modalities=flow"]).model.mov_settings())


OLD_KEYS = {"beside_clip": "clip_residual", "own_words": "include_label_tokens", "reading": "readout"}


def test_old_keys_are_read_with_a_warning_that_names_the_new_ones(tmp_path: Path) -> None:
    new = load_recipe("world-ovml-labels", {"labels.soft_attributes.readout": "hidden"})
    assert new.labels.soft_attributes.clip_residual
    text = new.to_yaml()
    for old, name in OLD_KEYS.items():
        assert f"    {name}: " in text
        assert f" {old}: " not in text
        text = text.replace(f"    {name}: ", f"    {old}: ")
    path = tmp_path / "recipe.yaml"  # as a run of an earlier version holds it
    path.write_text(text, encoding="utf-8")
    with pytest.warns(FutureWarning) as warned:
        assert load_recipe(path) == new
    assert sorted(str(item.message).partition(":")[0] for item in warned) == [
        f"the recipe key 'labels.soft_attributes.{old}' is called 'labels.soft_attributes.{name}' now"
        for old, name in sorted(OLD_KEYS.items())
    ]
    with pytest.warns(FutureWarning, match="is called 'labels.soft_attributes.include_label_tokens' now"):
        changed = load_recipe("world-ovml-labels", ["labels.soft_attributes.own_words=false"])
    assert not changed.labels.soft_attributes.include_label_tokens
    with pytest.raises(LexividError, match=r"\.reading is the old name of labels\.soft_attributes\.readout"):
        Recipe.from_dict({"labels": {"soft_attributes": {"reading": "hidden", "readout": "hidden"}}})
    with pytest.raises(LexividError, match=r"unknown recipe key 'labels\.own_words'"):  # of another section
        Recipe.from_dict({"labels": {"own_words": True}})


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_use_no_old_key(name: str, recwarn: pytest.WarningsRecorder) -> None:
    load_recipe(name)
    assert not [item for item in recwarn if issubclass(item.category, FutureWarning)]
