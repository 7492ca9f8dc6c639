"""A tiny MOV and clips for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig

B, T, D, K = 4, 3, 16, 5
ALL = ("video", "flow", "audio")
CONFIG = MOVConfig(
    embedding_dim=D, num_heads=2, modalities=ALL, zero_init=False, tau=0.1, tau_v=0.03, tau_f=0.1, tau_a=0.1
)


class TinyTower(nn.Module):
    """Pictures (N, 3, H, W) -> (N, D), with a batch norm that would tell if it saw anything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, D)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(F.gelu(self.norm(self.conv(pictures))).mean(dim=(2, 3)))


def tiny_model(config: MOVConfig = CONFIG, *, seed: int = 0) -> MOV:
    torch.manual_seed(seed)
    return MOV(config, towers={name: TinyTower() for name in config.modalities})


def make_clips(seed: int = 0, num: int = B) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randn(num, T, 3, 8, 8, generator=g),
        "flow": torch.randn(num, T, 3, 8, 8, generator=g),
        "audio": torch.randn(num, 3, 8, 20, generator=g),
    }


def make_tokens(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(B, 1 if name == "audio" else T, D, generator=g) for name in ALL}


def make_labels(num: int = K, seed: int = 9) -> Tensor:
    return F.normalize(torch.randn(num, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


def outputs_of(features: Any) -> list[Tensor]:
    return [features.v, features.v_m, *features.x_m.values(), features.mask]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(outputs_of(a), outputs_of(b), strict=True))
