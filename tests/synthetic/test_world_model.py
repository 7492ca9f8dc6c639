"""The `world` checkpoint that comes with the package."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

import lexivid
from lexivid.backbones import load_backbone
from lexivid.backbones.base import WORLD_BACKBONES
from lexivid.backbones.clip import ClipBackbone
from lexivid.labels import load_templates
from lexivid.labels.prompt_cache import PromptCache
from lexivid.synthetic.pretraining.probes import describe_probes, measure, text_variance
from lexivid.synthetic.world.draw import PICTURE, draw, random_scenes
from lexivid.synthetic.world.words import ATTRIBUTES

BACKBONES = Path(lexivid.__file__).parent / "backbones"


@pytest.fixture(scope="module")
def world() -> ClipBackbone:
    backbone = load_backbone("world", device="cpu", dtype="float32")
    assert isinstance(backbone, ClipBackbone)
    return backbone


def test_it_is_small_and_no_pickle() -> None:
    files = [file for name in WORLD_BACKBONES for file in (BACKBONES / name).iterdir()]
    assert sum(file.stat().st_size for file in files) <= 8 << 20
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".yaml", ".md"}


def test_it_is_a_plain_clip(world: ClipBackbone) -> None:
    """transformers alone makes the same vectors, from pictures and words."""
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(BACKBONES / "world", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(BACKBONES / "world")
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["a red star", "a picture of a blue striped circle moving left and humming"]
    with torch.inference_mode():
        out = model(pixel_values=(pixels / 255 - 0.5) / 0.25, **tokenizer(texts, padding=True, return_tensors="pt"))
    torch.testing.assert_close(F.normalize(out.image_embeds, dim=-1), world.encode_images(pixels), atol=1e-5, rtol=0)
    torch.testing.assert_close(F.normalize(out.text_embeds, dim=-1), world.encode_texts(texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", WORLD_BACKBONES)
def test_float16_weights_hold_what_the_card_says(name: str) -> None:
    folder = BACKBONES / name
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}  # noqa: SIM118
    gates = json.loads((folder / "pretrain.json").read_text())["gates"]
    card = (folder / "README.md").read_text()
    assert describe_probes(gates) in card
    assert "lexivid pretrain world-clip" in card


@pytest.mark.parametrize("name", WORLD_BACKBONES)
def test_gates(name: str) -> None:
    """Measured anew on other pictures, and few: bounds are well below what pretrain.json says, far above chance."""
    gates = measure(
        load_backbone(name, device="cpu", dtype="float32"), num_pictures=400, clips_per_class=1, num_names=800, seed=17
    )
    least = {"shape": 40, "colour": 90, "texture": 75, "motion": 32, "sound": 48}
    assert all(gates["words"]["picture"][attribute] > bound for attribute, bound in least.items())
    assert all(share > 5 for share in gates["text_variance"].values())
    assert sum(gates["text_variance"].values()) < 103
    for kind in ("motion", "sound"):
        assert gates["zero_shot"][kind]["base"] > 25
        assert gates["zero_shot"][kind]["novel"] > 25


def test_variance_shares_of_vectors_that_are_known() -> None:
    """A text encoder that reads shapes with weight 2 and colours with weight 1 has shares of 80 % and 20 %."""

    class Reads:
        def encode_texts(self, texts: list[str]) -> torch.Tensor:
            rows = []
            for text in texts:
                words = text.split()
                shape = torch.tensor([float(word in words) for word in ATTRIBUTES["shape"]])
                colour = torch.tensor([float(word in words) for word in ATTRIBUTES["colour"]])
                rows.append(torch.cat([2 * shape, colour]))
            return F.normalize(torch.stack(rows), dim=-1)

    generator = torch.Generator().manual_seed(0)
    shares = text_variance(Reads(), load_templates("world"), 3000, generator)  # type: ignore[arg-type]
    assert shares["shape"] == pytest.approx(80, abs=1)
    assert shares["colour"] == pytest.approx(20, abs=1)
    assert max(abs(shares[name]) for name in ("texture", "motion", "sound")) < 1


def test_bfloat16_changes_little(world: ClipBackbone) -> None:
    half = load_backbone("world", device="cpu", dtype="bfloat16")
    generator = torch.Generator().manual_seed(3)
    scenes = random_scenes(64, PICTURE, generator)
    pixels = draw(scenes, torch.zeros(1), size=32, generator=generator)[:, 0]
    assert (world.encode_images(pixels) * half.encode_images(pixels)).sum(-1).min() > 0.98


def test_unknown_words_are_said() -> None:
    classifier = lexivid.Classifier(load_backbone("world", device="cpu"))
    made = classifier.prepare(["red star", "surfing", "a dog surfing"])
    assert len(made.warnings) == 1
    assert "'surfing', 'dog'" in made.warnings[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert classifier.prepare(["red star", "An ORANGE moon spinning and wailing"]).warnings == ()


def test_a_copy_elsewhere_shares_its_label_vectors(world: ClipBackbone, tmp_path: Path) -> None:
    """The fingerprint is of the content, not of the place or the time."""
    for file in (BACKBONES / "world").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    copy = load_backbone(str(tmp_path), device="cpu", dtype="float32")
    assert copy.fingerprint == world.fingerprint
    assert copy.default_templates == "world"
    prompt_cache = PromptCache(world, on_disk=False)
    assert prompt_cache.embed(["red star"], load_templates("world")).shape == (1, world.embedding_dim)
