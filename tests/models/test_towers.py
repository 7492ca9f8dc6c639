"""models/towers.py: towers equal the backbone they came from, train what they should, take any picture size."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, MetaClip2Config, MetaClip2Model, SiglipConfig, SiglipModel

from lexivid.backbones.clip import ClipBackbone
from lexivid.backbones.efficientnet_lite import EfficientNetLite0
from lexivid.backbones.lite import IMAGES, LiteBackbone
from lexivid.backbones.preprocess import ImageProcessing
from lexivid.errors import ModelError
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.system import System
from lexivid.models.towers import ClipTower, LiteTower, make_frozen_tower, make_tower
from lexivid.training.distributed import trained_state

SIDE, PATCH, LAYERS = 32, 8, 4
_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_FAMILIES = {
    "clip": (CLIPConfig, CLIPModel),
    "metaclip_2": (MetaClip2Config, MetaClip2Model),
    "siglip": (SiglipConfig, SiglipModel),
}


def _backbone(family: str = "clip", *, dtype: torch.dtype = torch.float32, seed: int = 0) -> ClipBackbone:
    torch.manual_seed(seed)
    config, model = _FAMILIES[family]
    model = model(
        config(
            vision_config=_SMALL | {"image_size": SIDE, "patch_size": PATCH},
            text_config=_SMALL | {"vocab_size": 60, "max_position_embeddings": 16},
            **({} if family == "siglip" else {"projection_dim": 24}),
        )
    )
    with torch.no_grad():  # the random initialisation is too small to tell anything apart
        for parameter in model.vision_model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = ImageProcessing(resize_to=SIDE, crop_size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return ClipBackbone(model.to(dtype), None, images, name=family, fingerprint=family)


@pytest.fixture(scope="module")
def lite() -> LiteBackbone:
    """lite with random class vectors: the sentence encoder is not needed here."""
    from lexivid.backbones import lite as module

    classes = F.normalize(torch.randn(1000, 384, generator=torch.Generator().manual_seed(0)), dim=-1)
    vision = module.load_vision(module.packaged_vision())
    text: Any = None
    return LiteBackbone(
        vision, text, classes, device=torch.device("cpu"), dtype=torch.float32, fingerprint="test"
    )  # fmt: skip


def _pictures(num: int = 3, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.randint(0, 256, (num, 3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("family", list(_FAMILIES))
def test_clip_tower_equals_the_backbone(family: str) -> None:
    backbone = _backbone(family)
    expected = backbone.encode_images(_pictures())
    pixels = backbone.images.normalise(_pictures())
    for tower in (make_tower(backbone, modality="flow"), make_frozen_tower(backbone)):
        assert torch.allclose(F.normalize(tower(pixels), dim=-1), expected, atol=1e-5)
    assert tower(pixels).shape == (3, backbone.embedding_dim)


@pytest.mark.parametrize("family", list(_FAMILIES))
@pytest.mark.parametrize(("height", "width"), [(32, 200), (64, 64), (16, 40), (128, 800)])
def test_bicubic_positions_equal_transformers(family: str, height: int, width: int) -> None:
    model = _backbone(family).model
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))
    ours = ClipTower(model, interpolation="bicubic")(pixels)
    with torch.no_grad():
        theirs = model.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
        embeddings = model.vision_model.embeddings
        positions = embeddings.interpolate_pos_encoding(embeddings.patch_embedding(pixels).flatten(2).mT, height, width)
    theirs = theirs if isinstance(theirs, Tensor) else theirs.pooler_output
    assert torch.allclose(ours, theirs, atol=1e-5)
    if family == "siglip":  # the others count a class token in what they are given
        tower = ClipTower(model, interpolation="bicubic")
        assert torch.allclose(tower.positions(height // PATCH, width // PATCH), positions, atol=1e-6)


def test_bilinear_positions_by_hand() -> None:
    """The paper's mode: a 4 x 4 grid to 2 x 6, rows at 0.5 and 2.5, columns at (i + 1/2) 4 / 6 - 1/2, edges held."""
    tower = ClipTower(_backbone().model)
    assert tower.interpolation == "bilinear"
    weight = tower.vision.embeddings.position_embedding.weight.detach()
    grid = weight[1:].view(4, 4, -1)
    rows = []
    for r in range(2):
        for c in range(6):
            y, x = (r + 0.5) * 2 - 0.5, min(max((c + 0.5) * 4 / 6 - 0.5, 0), 3)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, 3), min(x0 + 1, 3)
            a, b = y - y0, x - x0
            top, bottom = (1 - b) * grid[y0, x0] + b * grid[y0, x1], (1 - b) * grid[y1, x0] + b * grid[y1, x1]
            rows.append((1 - a) * top + a * bottom)
    ours = tower.positions(2, 6).detach()
    assert torch.equal(ours[0, 0], weight[0])  # the class token's stays
    assert torch.allclose(ours[0, 1:], torch.stack(rows), atol=1e-6)
    assert not torch.allclose(ours, ClipTower(_backbone().model, interpolation="bicubic").positions(2, 6), atol=1e-3)
    assert torch.equal(tower.positions(4, 4)[0], weight)


def test_audio_tower_takes_spectrograms() -> None:
    tower = make_tower(_backbone(), modality="audio")
    features = tower(torch.randn(2, 3, 128, 800))
    assert features.shape == (2, 24)
    features.sum().backward()
    assert float(tower.vision.embeddings.position_embedding.weight.grad.abs().sum()) > 0  # through the interpolation


def _trained(tower: nn.Module) -> set[str]:
    return {name for name, p in tower.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", list(_FAMILIES))
def test_clip_last_layers(family: str) -> None:
    """Table 6."""
    backbone = _backbone(family)
    everything = {name for name, _ in make_tower(backbone, modality="flow").named_parameters()}
    for layers in (None, LAYERS, LAYERS + 1):
        assert _trained(make_tower(backbone, modality="flow", trainable_layers=layers)) == everything
    after = {n for n in everything if n.startswith(("vision.post_layernorm", "vision.head", "projection"))}
    assert _trained(make_tower(backbone, modality="flow", trainable_layers=0)) == after
    two = _trained(make_tower(backbone, modality="flow", trainable_layers=2))
    assert two == after | {
        n for n in everything if n.startswith(("vision.encoder.layers.2", "vision.encoder.layers.3"))
    }
    tower = make_tower(backbone, modality="flow", trainable_layers=2)
    tower(torch.randn(2, 3, SIDE, SIDE)).pow(2).sum().backward()
    assert {n for n, p in tower.named_parameters() if p.grad is not None} == two


def test_towers_are_float32_copies() -> None:
    backbone = _backbone(dtype=torch.bfloat16)
    before = {n: x.clone() for n, x in backbone.model.state_dict().items()}
    tower = make_tower(backbone, modality="flow")
    assert {p.dtype for p in tower.parameters()} == {torch.float32}
    optimiser = torch.optim.AdamW(tower.parameters(), lr=0.1)
    tower(torch.randn(2, 3, SIDE, SIDE)).sum().backward()
    optimiser.step()
    assert all(torch.equal(x, before[n]) for n, x in backbone.model.state_dict().items())
    assert not any(p.requires_grad for p in backbone.model.parameters())


def test_lite_frozen_tower_equals_the_backbone(lite: LiteBackbone) -> None:
    pictures = _pictures(2, 224, 224)
    ours = F.normalize(make_frozen_tower(lite)(IMAGES.normalise(pictures)), dim=-1)
    assert torch.allclose(ours, lite.encode_images(pictures), atol=1e-5)


def test_lite_head_starts_from_the_classifier(lite: LiteBackbone) -> None:
    """W = (whitened class vectors)' fc / 30: features = whitened' logits / 30."""
    pixels = IMAGES.normalise(_pictures(2, 96, 96))
    with torch.no_grad():
        ours = make_tower(lite, modality="flow")(pixels)
        expected = lite.vision(pixels) @ lite.whitened_classes / 30
    assert torch.allclose(ours, expected, atol=1e-3, rtol=1e-3)


def test_lite_batch_norms(lite: LiteBackbone) -> None:
    """Flow: evaluation mode, scale and shift trained. Sound: they learn, at momentum 0.1. Frozen ones: never."""
    pictures = torch.randn(2, 3, 64, 64)
    flow = make_tower(lite, modality="flow").train()
    before = {n: b.clone() for n, b in flow.named_buffers()}
    flow(pictures).sum().backward()
    assert flow.training
    assert all(torch.equal(b, before[n]) for n, b in flow.named_buffers())
    assert flow.trunk.bn0.weight.grad is not None
    audio = make_tower(lite, modality="audio", trainable_layers=3, batch_norm_momentum=0.1).train()
    before = {n: b.clone() for n, b in audio.named_buffers()}
    audio(torch.randn(2, 3, 64, 64)).sum().backward()
    moved = {n.rsplit(".", 1)[0] for n, b in audio.named_buffers() if not torch.equal(b, before[n])}
    norms = {n for n, m in audio.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert moved == {
        n for n in norms if n.startswith(("trunk.blocks.13", "trunk.blocks.14", "trunk.blocks.15", "trunk.bn1"))
    }
    assert {audio.get_submodule(n).momentum for n in norms} == {0.1}
    audio.eval()
    assert not any(m.training for m in audio.modules())


def test_lite_last_layers(lite: LiteBackbone) -> None:
    everything = {n for n, _ in make_tower(lite, modality="flow").named_parameters()}
    assert _trained(make_tower(lite, modality="flow")) == everything
    assert _trained(make_tower(lite, modality="flow", trainable_layers=16)) == everything
    assert _trained(make_tower(lite, modality="flow", trainable_layers=0)) == {"head.weight", "head.bias"}
    last = ("head", "trunk.conv_head", "trunk.bn1", "trunk.blocks.15")
    assert _trained(make_tower(lite, modality="flow", trainable_layers=1)) == {
        n for n in everything if n.startswith(last)
    }


def test_lite_spectrograms(lite: LiteBackbone) -> None:
    """Four steps become one and the deviation a half, as the notes measured."""
    tower = make_tower(lite, modality="audio").eval()
    assert isinstance(tower, LiteTower)
    sound = torch.randn(1, 3, 128, 202)
    plain = LiteTower(EfficientNetLite0(), lite.whitened_classes)
    plain.load_state_dict(tower.state_dict())
    pooled = torch.stack([sound[..., i : i + 4].mean(-1) for i in range(0, 202, 4)], dim=-1)
    with torch.no_grad():
        assert torch.allclose(tower(sound), plain.eval()(pooled * 0.5), atol=1e-4)
    with pytest.raises(ValueError, match="pooling"):
        LiteTower(EfficientNetLite0(), lite.whitened_classes, pooling=(1, 0))


def test_clip_spectrograms() -> None:
    """Pooling comes before the patches, and only where sound is concerned."""
    backbone = _backbone()
    tower = make_tower(backbone, modality="audio", spectrogram_pooling=(4, 2)).eval()
    plain = make_tower(backbone, modality="audio").eval()
    sound = torch.randn(2, 3, 64, 50)
    pooled = sound.unflatten(2, (16, 4)).mean(3).unflatten(3, (25, 2)).mean(4)
    with torch.no_grad():
        assert torch.allclose(tower(sound), plain(pooled), atol=1e-5)
    flow = make_tower(backbone, modality="flow", spectrogram_pooling=(4, 2))
    assert isinstance(flow, ClipTower)
    assert flow.pooling == (1, 1)
    assert MOVConfig.from_dict({"spectrogram_pooling": [4, 2]}).spectrogram_pooling == (4, 2)
    assert MOVConfig.from_dict({"spectrogram_pooling": 4}).spectrogram_pooling is None  # of older configurations
    with pytest.raises(ModelError, match="spectrogram_pooling"):
        MOVConfig(spectrogram_pooling=(4, 0))


def test_video_tower_can_be_trained() -> None:
    """The comparison of figure 1: its weights learn, are kept, and are no longer the backbone's."""
    backbone = _backbone()
    config = MOVConfig.for_backbone(
        backbone, modalities=("video",), frozen_video=False, num_temporal_layers=0, num_cross_layers=0, tau_v_ratio=1.0
    )
    assert config.tau_v == config.tau
    model = MOV.from_backbone(backbone, config).train()
    frames = backbone.images.normalise(_pictures(4, SIDE, SIDE)).unflatten(0, (2, 2))
    before = model(video=frames)
    zero_shot = backbone.encode_images(_pictures(4, SIDE, SIDE)).unflatten(0, (2, 2)).mean(1)
    assert torch.allclose(F.normalize(before.v_m, dim=-1), F.normalize(zero_shot, dim=-1), atol=1e-5)
    assert torch.allclose(before.v, before.v_m)
    model.loss(before, torch.randn(5, config.embedding_dim), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n.startswith("towers.video"))
    labels = torch.zeros(1, config.embedding_dim)
    assert len(trained_state(System(model, labels))) == len(model.state_dict()) > 0
    assert trained_state(System(MOV.from_backbone(backbone, replace(config, frozen_video=True)), labels)) == {}


@pytest.mark.parametrize("kind", ["clip", "lite"])
def test_mov_from_backbone(kind: str, lite: LiteBackbone) -> None:
    """All three streams as pictures; at step 0 the video path is the backbone's zero-shot."""
    backbone: Any = lite if kind == "lite" else _backbone()
    config = MOVConfig.for_backbone(backbone, modalities=("video", "flow", "audio"), trainable_layers=1)
    assert config.tau == pytest.approx(backbone.temperature)
    assert config.tau_v == pytest.approx(0.3 * backbone.temperature)
    torch.manual_seed(0)
    model = MOV.from_backbone(backbone, config).train()
    pictures = _pictures(4, SIDE, SIDE)
    frames = backbone.images.normalise(pictures).unflatten(0, (2, 2))
    features = model(video=frames, flow=frames, audio=torch.randn(2, 3, 128, 64))
    zero_shot = backbone.encode_images(pictures).unflatten(0, (2, 2)).mean(1)
    assert torch.allclose(F.normalize(features.v_m, dim=-1), F.normalize(zero_shot, dim=-1), atol=1e-5)
    model.loss(features, torch.randn(5, config.embedding_dim), torch.tensor([0, 1])).backward()
    names = [n for n, p in model.named_parameters() if p.grad is not None]
    assert not any(n.startswith("towers.video") for n in names)
    assert any(n.startswith("towers.flow") for n in names)
    assert any(n.startswith("towers.audio") for n in names)
    if kind == "lite":
        assert (model.towers["flow"].batch_norm_momentum, model.towers["audio"].batch_norm_momentum) == (None, 0.1)
        assert (model.towers["flow"].pooling, model.towers["audio"].pooling) == ((1, 1), (1, 4))
    if kind == "clip":  # the same weights behind all three (section 3.1)
        assert torch.allclose(model.towers["flow"](frames[0]), model.towers["video"](frames[0]), atol=1e-5)


def test_errors() -> None:
    with pytest.raises(ModelError, match="smell"):
        make_tower(_backbone(), modality="smell")
    with pytest.raises(ModelError, match="-1"):
        make_tower(_backbone(), modality="flow", trainable_layers=-1)
    stranger: Any = SimpleNamespace(name="stranger", embedding_dim=8)
    with pytest.raises(ModelError, match="stranger"):
        make_tower(stranger, modality="flow")
    with pytest.raises(ModelError, match="stranger"):
        make_frozen_tower(stranger)
    with pytest.raises(ModelError, match="embedding_dim 512"):
        MOV.from_backbone(_backbone(), MOVConfig())
