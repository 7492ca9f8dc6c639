"""How a backbone's picture encoder becomes a tower: h_v, h_f and h_a of eq. 1, all from the same weights theta_h.

In: pictures (N, 3, H, W) float, normalised as the backbone asks, or spectrograms (N, 3, F, S). Out: features (N, D),
of any length. A tower is a copy: the backbone stays as it is, and every tower is float32 whatever the backbone's type
(mixed precision is the trainer's).

    make_tower         trainable, all of it or the last n layers (MOV, table 6), whatever follows the layers included
    make_frozen_tower  the backbone's own features, never trained
    FrozenTower        the one place where a tower is frozen as a whole
    tower_fingerprint  identifies a frozen tower's weights
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexivid.backbones import lite
from lexivid.backbones.base import Backbone
from lexivid.backbones.clip import ClipBackbone
from lexivid.backbones.efficientnet_lite import FEATURE_DIM, EfficientNetLite0
from lexivid.errors import ModelError

LITE_LOGIT_SCALE = 1 / 30  # logits of the trunk's classifier -> weights of the class vectors (docs/results/motion.md)
LITE_SPECTROGRAM_POOLING = (1, 4)  # 800 steps become 200, a quarter of the cost, as measured (docs/results/sound.md)
LITE_SPECTROGRAM_STD = 0.5  # the trunk was trained on (x - 127) / 128, whose deviation is about that
_SAMPLES_PER_TENSOR = 4096  # of a fingerprint


class FrozenTower(nn.Module):
    """A tower that nothing moves: no gradient, evaluation mode also when the model around it is set to train."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenTower:
        """Stays in evaluation mode whatever `mode` says."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """As the tower's: (N, 3, H, W) -> (N, D)."""
        return self.tower(pictures)


def make_tower(
    backbone: Backbone,
    *,
    modality: str,
    trainable_layers: int | None = None,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    batch_norm_momentum: float | None = None,
    spectrogram_pooling: tuple[int, int] | None = None,
) -> ClipTower | LiteTower:
    """A trainable copy of the backbone's picture encoder, for "video", "flow" or "audio".

    Args:
        trainable_layers: the last n layers and what follows them; None (or at least as many as there are) for all,
            the input layers included; 0 for what follows alone: CLIP's last norm and projection, lite's head.
            `tower.num_layers` says how many there are (lite: blocks, 16).
        interpolation: CLIP family, see ClipTower.
        batch_norm_momentum: lite, see LiteTower. MOV takes None (evaluation mode) for flow and 0.1 for audio.
        spectrogram_pooling: audio alone: (mel bins, steps) of which the tower sees the mean; None: (1, 4) for lite,
            (1, 1) for the CLIP family.

    Raises:
        ModelError: a backbone of another kind, an unknown modality, a negative number of layers.
    """
    if modality not in ("video", "flow", "audio"):
        raise ModelError(f"unknown modality {modality!r}: use 'video', 'flow' or 'audio'")
    if trainable_layers is not None and trainable_layers < 0:
        raise ModelError(
            f"trainable_layers is a number of layers from the last, or None for all; got {trainable_layers}"
        )
    if isinstance(backbone, ClipBackbone):
        return ClipTower(
            backbone.model,
            trainable_layers=trainable_layers,
            interpolation=interpolation,
            pooling=(spectrogram_pooling or (1, 1)) if modality == "audio" else (1, 1),
        )
    if isinstance(backbone, lite.LiteBackbone):
        return LiteTower(
            lite.load_vision(lite.packaged_vision()),  # the backbone's own has its batch norms folded away
            backbone.whitened_classes,
            trainable_layers=trainable_layers,
            batch_norm_momentum=batch_norm_momentum,
            pooling=(spectrogram_pooling or LITE_SPECTROGRAM_POOLING) if modality == "audio" else (1, 1),
            input_scale=LITE_SPECTROGRAM_STD if modality == "audio" else 1.0,
        )
    raise ModelError(f"model {backbone.name!r} has no picture encoder that Lexivid knows how to train")


def make_frozen_tower(backbone: Backbone) -> FrozenTower:
    """The backbone's own picture features: the frozen h_v of section 3.3.

    Raises:
        ModelError: a backbone of another kind.
    """
    if isinstance(backbone, ClipBackbone):
        return FrozenTower(ClipTower(backbone.model))
    if isinstance(backbone, lite.LiteBackbone):
        return FrozenTower(ConseTower(backbone.vision, backbone.whitened_classes))
    raise ModelError(f"model {backbone.name!r} has no picture encoder that Lexivid knows how to use as a tower")


class ClipTower(nn.Module):
    """The vision transformer and projection of a CLIP-family model of transformers, for pictures of any size.

    Args:
        model: CLIPModel, MetaClip2Model or SiglipModel; its vision half is copied.
        trainable_layers: as `make_tower`.
        interpolation: how position embeddings are fitted to pictures of another size, such as spectrograms of
            128 x 800 (8 x 50 patches of 16, rows are mel bins). "bilinear" is the paper's (section 4.2, after Gong
            et al., 2021). "bicubic" is what transformers does under `interpolate_pos_encoding=True`, equal to it, but
            overshoots between positions. Both without aligned corners. Pictures of the model's own size need neither.
        pooling: rows and columns of the input that become one, their mean, before the patches; the last mean of a
            side may be of fewer.
    """

    def __init__(
        self,
        model: Any,
        *,
        trainable_layers: int | None = None,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        pooling: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.interpolation, self.pooling = interpolation, _checked(pooling)
        self.vision: Any = deepcopy(model.vision_model).float()
        self.projection: nn.Module = deepcopy(getattr(model, "visual_projection", nn.Identity())).float()
        self.patch_size: int = self.vision.embeddings.patch_size
        self.num_layers = len(self.vision.encoder.layers)
        self.train(False)  # as it was loaded; a training loop calls train()
        self.requires_grad_(True)
        if trainable_layers is not None and trainable_layers < self.num_layers:
            self.requires_grad_(False)
            last = self.vision.encoder.layers[self.num_layers - trainable_layers :]
            head = getattr(self.vision, "head", None)  # SigLIP pools by attention
            for module in (last, self.vision.post_layernorm, head, self.projection):
                if module is not None:
                    module.requires_grad_(True)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D). H and W are at least one patch; what is over a multiple of it is cut off."""
        vision = self.vision
        pictures = _pooled(pictures, self.pooling)
        x = vision.embeddings.patch_embedding(pictures.to(vision.embeddings.patch_embedding.weight.dtype))
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (N, P, width)
        if hasattr(vision.embeddings, "class_embedding"):
            x = torch.cat([vision.embeddings.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = x + self.positions(rows, columns)
        if hasattr(vision, "pre_layrnorm"):  # CLIP
            x = vision.encoder(inputs_embeds=vision.pre_layrnorm(x)).last_hidden_state
            return self.projection(vision.post_layernorm(x[:, 0]))
        x = vision.post_layernorm(vision.encoder(inputs_embeds=x).last_hidden_state)  # SigLIP
        return self.projection(vision.head(x))

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings of a grid of patches -> (1, [1 +] rows * columns, width); the class token's is kept."""
        weight = self.vision.embeddings.position_embedding.weight  # ([1 +] side * side, width)
        num_class_tokens = int(hasattr(self.vision.embeddings, "class_embedding"))
        side = round((len(weight) - num_class_tokens) ** 0.5)
        if (rows, columns) == (side, side):
            return weight[None]
        grid = weight[num_class_tokens:].T.unflatten(-1, (side, side))[None]  # (1, width, side, side)
        grid = F.interpolate(grid, size=(rows, columns), mode=self.interpolation, align_corners=False)
        return torch.cat([weight[None, :num_class_tokens], grid.flatten(2).transpose(1, 2)], dim=1)


class LiteTower(nn.Module):
    """EfficientNet-Lite0's 1,280 features and a linear head into text space, for motion and sound.

    The softmax mixture that lite uses for pictures trains badly (docs/results/motion.md: on flow it is nearly uniform,
    then collapses). The head is linear and starts from the same knowledge: W = (whitened class vectors)' fc / 30.

    Args:
        trunk: with its batch norms; copied.
        whitened_classes: (C, D).
        trainable_layers: as `make_tower`; a layer is one of the 16 blocks.
        batch_norm_momentum: None keeps the batch norms in evaluation mode, for short training (60 steps on flow: their
            running statistics cannot follow). A number lets those of the trainable layers learn their statistics, for
            long training on inputs unlike pictures (sound; the package's 0.01 is too slow). Their scales and shifts
            train either way. Frozen layers' stay in evaluation mode always.
        pooling: as of `ClipTower`.
        input_scale: factor on the input.
    """

    def __init__(
        self,
        trunk: EfficientNetLite0,
        whitened_classes: Tensor,
        *,
        trainable_layers: int | None = None,
        batch_norm_momentum: float | None = None,
        pooling: tuple[int, int] = (1, 1),
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.pooling, self.input_scale, self.batch_norm_momentum = _checked(pooling), input_scale, batch_norm_momentum
        self.trunk = deepcopy(trunk).float()
        classes, fc = whitened_classes.detach().float().cpu(), self.trunk.fc
        self.head = nn.Linear(FEATURE_DIM, classes.shape[1])
        with torch.no_grad():
            self.head.weight.copy_(classes.T @ fc.weight * LITE_LOGIT_SCALE)
            self.head.bias.copy_(classes.T @ fc.bias * LITE_LOGIT_SCALE)
        self.trunk.fc = nn.Identity()  # type: ignore[assignment]  # its work is now the head's
        self.num_layers = len(self.trunk.blocks)
        self.requires_grad_(True)
        if trainable_layers is not None and trainable_layers < self.num_layers:
            self.requires_grad_(False)
            self.head.requires_grad_(True)
            if trainable_layers > 0:
                for module in (self.trunk.blocks[-trainable_layers:], self.trunk.conv_head, self.trunk.bn1):
                    module.requires_grad_(True)
        for norm in self._batch_norms():
            if batch_norm_momentum is not None:
                norm.momentum = batch_norm_momentum
        self.train(False)

    def _batch_norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.trunk.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> LiteTower:
        """As usual, but batch norms stay in evaluation mode where they are frozen or were asked to."""
        super().train(mode)
        for norm in self._batch_norms():
            norm.train(mode and self.batch_norm_momentum is not None and norm.weight.requires_grad)
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D)."""
        pictures = _pooled(pictures, self.pooling) * self.input_scale
        return self.head(self.trunk.features(pictures.contiguous(memory_format=torch.channels_last)))


def _checked(pooling: tuple[int, int]) -> tuple[int, int]:
    if len(pooling) != 2 or min(pooling) < 1:
        raise ValueError(f"pooling is (rows, columns), (1, 1) for none; got {pooling}")
    return pooling


def _pooled(pictures: Tensor, pooling: tuple[int, int]) -> Tensor:
    return pictures if pooling == (1, 1) else F.avg_pool2d(pictures, pooling, ceil_mode=True)


class ConseTower(nn.Module):
    """lite's own picture features, softmax(logits) @ whitened classes: equal to `LiteBackbone.encode_images`."""

    def __init__(self, vision: nn.Module, whitened_classes: Tensor) -> None:
        super().__init__()
        self.vision = deepcopy(vision).float()
        self.register_buffer("classes", whitened_classes.detach().clone().float())

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D)."""
        logits = self.vision(pictures.contiguous(memory_format=torch.channels_last)).float()
        return (logits / lite.TAU_CLASSES).softmax(dim=-1) @ self.classes


def tower_fingerprint(tower: torch.nn.Module) -> str:
    """Of a frozen tower's weights: names, shapes and 4,096 values of each tensor. The same wherever its file lies."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        flat = tensor.detach().flatten()
        part = flat[:: max(1, len(flat) // _SAMPLES_PER_TENSOR)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]
