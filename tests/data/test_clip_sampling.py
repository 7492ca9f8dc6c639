"""How clips are sampled: one dataclass in the recipe, in a model's folder and in the sample spec."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import pytest

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.sampling import SampleSpec
from lexivid.errors import LexividError
from lexivid.media.views import Views
from lexivid.training.recipe import load_recipe

IMAGES = ImageProcessing(resize_to=64, crop_size=64, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_recipe_is_stored_with_a_model_and_read_into_a_spec() -> None:
    recipe = load_recipe("lite-mov", {"data.num_frames": 6, "data.stride": 3, "data.stride_rate": 12.5})
    sampling = ClipSampling.of(recipe.data)
    stored = json.loads(json.dumps(sampling.to_dict()))
    assert list(stored) == [
        "num_frames", "stride", "stride_rate", "flow", "flow_texture", "flow_size", "flow_crop", "audio_s",
    ]  # fmt: skip
    assert (stored["num_frames"], stored["stride"], stored["stride_rate"]) == (6, 3, 12.5)
    assert ClipSampling.from_dict(stored) == sampling
    spec = SampleSpec.of_views(IMAGES, Views(num_frames=2), sampling=sampling)
    assert (spec.num_frames, spec.stride, spec.stride_rate) == (2, None, 30.0)  # of the views
    assert (spec.flow, spec.flow_size, spec.audio_s) == (recipe.data.flow, recipe.data.flow_size, recipe.data.audio_s)
    own = {item.name for item in fields(ClipSampling)}
    assert asdict(ClipSampling.of(spec)) == {name: value for name, value in asdict(spec).items() if name in own}


def test_what_older_and_newer_folders_say() -> None:
    oldest = ClipSampling.from_dict({})
    assert oldest.views == Views(num_frames=16, stride=None, stride_rate=30.0)
    assert (oldest.flow, oldest.flow_texture, oldest.flow_size, oldest.flow_crop, oldest.audio_s) == (
        "tvl1", False, None, None, 8.0,
    )  # fmt: skip
    assert ClipSampling.from_dict({"audio_s": 5, "of_tomorrow": 1}) == ClipSampling(
        stride=None, stride_rate=30.0, audio_s=5
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": "16"}, "frames is '16'"),
        ({"num_frames": 10**6}, "frames is 1000000"),
        ({"stride": True}, "stride is True"),
        ({"stride": 4, "stride_rate": [1]}, r"stride_rate is \[1\]"),
        ({"stride_rate": float("nan")}, "stride_rate is nan"),
        ({"flow": "farneback"}, "unknown flow algorithm 'farneback'"),
        ({"flow": ["tvl1"]}, "unknown flow algorithm"),
        ({"flow_texture": 1}, "flow_texture is 1"),
        ({"flow_size": "64"}, "flow_size is '64'"),
        ({"flow_crop": 0}, "flow_crop is 0"),
        ({"flow_crop": 10**6}, "flow_crop is 1000000"),
        ({"audio_s": None}, "audio_s is None"),
        ({"audio_s": float("inf")}, "audio_s is inf"),
        ([], r"sampling is \[\]"),
    ],
)
def test_damaged_values_are_named(values: dict, message: str) -> None:
    with pytest.raises(LexividError, match=message):
        ClipSampling.from_dict(values)
