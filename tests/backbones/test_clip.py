"""CLIP-family backbones against transformers' own forward pass and its own image processors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel, SiglipModel

from lexivid.backbones import ImageProcessing, load_backbone
from lexivid.backbones.base import choose_device, choose_dtype
from lexivid.errors import ModelError

TEXTS = ["a video of a person playing drums.", "dog", "a photo of a cat's tail, 3 of them"]


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth picture with some texture (3, H, W) uint8."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, 9, 13))).float()
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    noise = torch.from_numpy(generator.normal(0, 6, (3, height, width)))
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def features(output: object) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output  # type: ignore[attr-defined]


@pytest.mark.parametrize(("family", "model_class"), [("clip", CLIPModel), ("siglip", SiglipModel)])
def test_towers_equal_transformers(family: str, model_class: type, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{family}_folder")
    backbone = load_backbone(str(folder), device="cpu", dtype="float32")
    reference = model_class.from_pretrained(folder).eval()
    pixels = torch.stack([picture(32, 32, seed) for seed in range(5)])
    with torch.no_grad():
        expected = features(reference.get_image_features(pixel_values=backbone.images.normalise(pixels)))
    torch.testing.assert_close(backbone.encode_images(pixels), F.normalize(expected, dim=-1), atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXTS, padding="max_length", max_length=77 if family == "clip" else 64, return_tensors="pt")
    inputs = {"input_ids": tokens["input_ids"]}
    if family == "clip":
        inputs["attention_mask"] = tokens["attention_mask"]
    with torch.no_grad():
        expected = features(reference.get_text_features(**inputs))
    torch.testing.assert_close(backbone.encode_texts(TEXTS), F.normalize(expected, dim=-1), atol=1e-5, rtol=0)
    assert backbone.embedding_dim == expected.shape[1]
    assert backbone.temperature == pytest.approx(float((-reference.logit_scale.detach()).exp()))


def test_nothing_can_be_trained_by_accident(clip_folder: Path) -> None:
    backbone = load_backbone(str(clip_folder), device="cpu")
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())  # type: ignore[attr-defined]
    assert not backbone.model.training  # type: ignore[attr-defined]


def test_a_text_does_not_depend_on_its_neighbours(clip_folder: Path) -> None:
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    alone = torch.cat([backbone.encode_texts([text]) for text in TEXTS])
    torch.testing.assert_close(backbone.encode_texts(TEXTS), alone, atol=1e-6, rtol=0)
    many = backbone.encode_texts([*TEXTS, *("x" * n for n in range(1, 150))])
    torch.testing.assert_close(many[:3], alone, atol=1e-6, rtol=0)


def test_half_precision_is_close(clip_folder: Path) -> None:
    pixels = torch.stack([picture(32, 32, seed) for seed in range(5)])
    exact = load_backbone(str(clip_folder), device="cpu", dtype="float32").encode_images(pixels)
    half = load_backbone(str(clip_folder), device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert (half.encode_images(pixels) - exact).abs().max() < 1e-2
    assert half.encode_images(pixels).norm(dim=-1).sub(1).abs().max() < 1e-6


def _reference_processor(kind: str, size: int):
    import transformers

    names = {
        "clip": ("CLIPImageProcessorPil", "CLIPImageProcessor"),
        "siglip": ("SiglipImageProcessorPil", "SiglipImageProcessor"),
    }
    for name in names[kind]:
        found = getattr(transformers, name, None)
        if found is None:
            continue
        try:
            if kind == "clip":
                return found(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
            return found(size={"height": size, "width": size}, resample=3)
        except ImportError:
            continue
    pytest.fail("transformers has no PIL image processor to compare with")


@pytest.mark.parametrize("shape", [(360, 640), (640, 360), (224, 224), (100, 90), (1080, 1920), (225, 301)])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pixels_equal_the_reference_processor(kind: str, shape: tuple[int, int]) -> None:
    """Mean absolute difference of normalised pixels within 1 % of their range (DESIGN section 5)."""
    frame = picture(*shape)
    processor = _reference_processor(kind, 224)
    expected = processor(Image.fromarray(frame.permute(1, 2, 0).numpy()), return_tensors="pt")["pixel_values"][0]
    images = ImageProcessing(
        224,
        224,
        tuple(processor.image_mean),
        tuple(processor.image_std),
        fit="short_side" if kind == "clip" else "squash",
    )
    ours = images.normalise(images.crops(images.resize(frame)[None])[0, 0])
    assert ours.shape == expected.shape
    span = 1 / min(processor.image_std)
    assert (ours - expected).abs().mean() < 0.01 * span
    assert (ours - expected).abs().mean() < 0.002 * span  # what is reached, so that a slip shows


def test_three_crops_cover_the_long_side() -> None:
    images = ImageProcessing(32, 32, (0, 0, 0), (1, 1, 1))
    wide = torch.arange(64, dtype=torch.uint8).expand(1, 3, 32, 64)
    left, centre, right = images.crops(wide, 3)[:, 0, 0, 0]
    assert (left[0], left[-1], right[0], right[-1]) == (0, 31, 32, 63)
    assert torch.equal(images.crops(wide, 1)[0, 0, 0, 0], centre)
    tall = wide.transpose(2, 3)
    assert torch.equal(images.crops(tall, 3)[2, 0, 0, :, 0], right)


def test_a_frame_smaller_than_the_crop_is_padded() -> None:
    images = ImageProcessing(16, 32, (0, 0, 0), (1, 1, 1))
    assert images.crops(torch.full((2, 3, 16, 40), 7, dtype=torch.uint8)).shape == (1, 2, 3, 32, 32)


def test_a_one_pixel_frame_is_resized() -> None:
    images = ImageProcessing(32, 32, (0, 0, 0), (1, 1, 1))
    assert images.resize(torch.zeros(3, 1, 1, dtype=torch.uint8)).shape == (3, 32, 32)


def test_an_extreme_strip_does_not_take_the_memory() -> None:
    images = ImageProcessing(32, 32, (0, 0, 0), (1, 1, 1))
    assert images.resize(torch.zeros(3, 1, 16000, dtype=torch.uint8)).shape == (3, 32, 16 * 32)
    assert images.resize(torch.zeros(3, 64, 640, dtype=torch.uint8)).shape == (3, 32, 320)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no-such-model", "unknown model"),
        ("./no/such/folder", "unknown model"),
        ("openai/clip-vit-base-patch16", '"lite" works offline'),
    ],
)
def test_a_model_that_is_not_here(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load_backbone(name, device="cpu")


def test_folders_that_hold_no_usable_model(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_backbone(str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="of the kind 'bert'"):
        load_backbone(str(tmp_path), device="cpu")
    with pytest.raises(ModelError, match="is a file"):
        load_backbone(str(tmp_path / "config.json"), device="cpu")


def test_weights_in_a_pickle_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(clip_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save(CLIPModel.from_pretrained(clip_folder).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no pickle"):
        load_backbone(str(folder), device="cpu")


def test_damaged_weights_are_an_error(clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(clip_folder, folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="could not be loaded"):
        load_backbone(str(folder), device="cpu")


def test_fingerprint_follows_the_weights(clip_folder: Path, tmp_path: Path) -> None:
    from checkpoints import make_clip

    first = load_backbone(str(clip_folder), device="cpu").fingerprint
    assert load_backbone(str(clip_folder), device="cpu").fingerprint == first
    assert load_backbone(str(make_clip(tmp_path / "other", seed=1)), device="cpu").fingerprint != first
    assert (
        load_backbone(str(clip_folder), device="cpu", dtype="bfloat16").fingerprint
        != load_backbone(str(clip_folder), device="cpu", dtype="float32").fingerprint
    )


def test_unknown_devices_and_dtypes() -> None:
    with pytest.raises(ModelError, match="device 'tpu9'"):
        choose_device("tpu9")
    with pytest.raises(ModelError, match="unknown dtype 'int3'"):
        choose_dtype("int3", torch.device("cpu"))


def test_long_sentences_are_noticed(clip_folder: Path) -> None:
    backbone = load_backbone(str(clip_folder), device="cpu")
    assert backbone.is_truncated("x" * 100)
    assert not backbone.is_truncated("x" * 70)
