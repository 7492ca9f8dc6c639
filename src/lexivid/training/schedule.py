"""AdamW and its learning rate: half-cosine decay (MOV, section 4.2; He et al., 2019)."""

from __future__ import annotations

import math

import torch
from torch import nn

from lexivid.training.recipe import TrainingRecipe


def half_cosine(step: int, total_steps: int, *, warmup_steps: int = 0) -> float:
    """The factor on the peak learning rate at a step (from 0): linear up, then (1 + cos) / 2 down to nearly 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    rest = max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / rest)))


def make_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW over what is trainable of a system: towers, fusion and label encoder, scale and bias; decayed or not.

    Scale and bias of a sigmoid have far to go and are not decayed; nor are norms and biases. Branches through time are
    new, as fusion blocks are, and learn at their rate. Each group's `peak_lr` is its learning rate before the schedule.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = recipe.lr
        if name.startswith(("objective.log_scale.", "objective.bias.")):
            lr = recipe.scale_lr
        elif name.startswith("encoder.towers.") and ".branches." not in name and recipe.tower_lr is not None:
            lr = recipe.tower_lr
        elif name.startswith("label_encoder.") and recipe.label_lr is not None:
            lr = recipe.label_lr
        groups.setdefault((lr, recipe.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in groups.items()
        ],
        betas=(recipe.betas[0], recipe.betas[1]),
    )


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group at `factor` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
