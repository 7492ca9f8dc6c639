"""Small systems with a sigmoid objective, and clips of several labels. Run as a program: one process of several."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lexivid.backbones import load_backbone
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.system import System, make_objective, make_teacher
from lexivid.training.batches import MemorySamples
from lexivid.training.loop import FitResult, fit
from lexivid.training.recipe import Recipe
from lexivid.training.run import make_label_encoder

NAMES = ("red", "green", "blue", "low tone", "a tone", "high tone")
ALL = ("video", "flow", "audio")

MOV_SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "model.modalities": list(ALL), "model.mlp_ratio": 1, "model.num_temporal_layers": 1, "model.trainable_layers": 1,
    "objective.kind": "sigmoid", "objective.bias": -3, "labels.num_context": 2, "labels.soft_attributes.num_heads": 2,
    "labels.soft_attributes.num_attributes": 2, "labels.soft_attributes.num_layers": 1, "data.num_workers": 0,
    "training.epochs": 3, "training.batch_size": 8, "training.lr": 3e-3, "training.checkpoint_every": 1,
    "training.clip_norm": 1.0,
}  # fmt: skip
"""Three streams, the pictures' tower frozen (MOV x OVML)."""

OVML_SETTINGS: dict[str, Any] = MOV_SETTINGS | {
    "model.modalities": ["video"], "model.frozen_video": False, "model.num_temporal_layers": 0,
    "model.num_cross_layers": 0, "model.temporal_branches": 1, "model.trainable_layers": None,
    "training.tower_lr": 1e-3, "objective.labels_per_step": 4,
    "objective.regularisers": ["interpolation", "video_distance", "text_distance"],
}  # fmt: skip
"""Pictures alone, their tower trained, with everything that is drawn at random in a step."""


SETTINGS = {"mov": MOV_SETTINGS, "ovml": OVML_SETTINGS}


def recipe(*parts: Mapping[str, Any], **backbone: str) -> Recipe:
    """Settings by dotted keys, later ones on top. backbone, language_model: folders."""
    settings: dict[str, Any] = {}
    for part in parts:
        settings |= part
    name = settings.pop("name", "tiny")
    settings |= {"model.backbone": backbone["backbone"]}
    if "language_model" in backbone:
        settings |= {"labels.language_model": backbone["language_model"]}
    return Recipe.from_dict({"name": name}).with_settings(settings)


def system(recipe: Recipe) -> System:
    backbone = load_backbone(recipe.model.backbone, device="cpu", dtype="float32")
    torch.manual_seed(recipe.training.seed)
    config = MOVConfig.for_backbone(backbone, **recipe.model.mov_settings())
    mov, label_encoder = MOV.from_backbone(backbone, config), make_label_encoder(recipe, backbone)
    settings = recipe.objective.sigmoid()
    return System(
        mov, backbone.encode_texts(list(NAMES)), names=NAMES, label_encoder=label_encoder,
        objective=make_objective(settings, config), teacher=make_teacher(backbone, settings, config),
    )  # fmt: skip


def samples(num: int = 18, *, modalities: tuple[str, ...] = ALL, seed: int = 1) -> MemorySamples:
    """Clips of one colour and one tone, which is seen as a stripe too; some lack a stream."""
    g = torch.Generator().manual_seed(seed)
    made: list[dict[str, Any]] = []
    for i in range(num):
        colour, tone = i % 3, i // 3 % 3
        video = torch.randint(0, 60, (2, 3, 32, 32), generator=g).to(torch.uint8)
        video[:, colour] += 100
        video[..., tone * 10 : tone * 10 + 10, :] += 80
        flow = torch.randint(100, 150, (2, 3, 32, 32), generator=g).to(torch.uint8)
        flow[:, :, tone * 10 : tone * 10 + 10] += 100
        audio = torch.randn(3, 8, 16, generator=g)
        audio[:, tone * 2] += 4
        there = {"video": i % 5 != 1, "flow": i % 4 != 0, "audio": i % 7 != 3}
        streams = {"video": video, "flow": flow, "audio": audio}
        target = torch.zeros(len(NAMES), dtype=torch.bool)
        target[colour] = target[3 + tone] = True
        if modalities == ("video",):
            there = {"video": True}
        mask = torch.tensor([there[name] for name in modalities])
        made.append({"mask": mask, "target": target} | {n: streams[n] if there[n] else None for n in modalities})
    return MemorySamples(made)


def run(out: Path, recipe: Recipe, *, resume: bool = False, num: int = 18) -> tuple[System, FitResult]:
    torch.set_num_threads(1)
    model, modalities = system(recipe), recipe.model.modalities
    images = load_backbone(recipe.model.backbone, device="cpu", dtype="float32").images
    result = fit(
        model, samples(num, modalities=modalities), recipe, out, images=images,
        held_out=samples(9, modalities=modalities, seed=2), resume=resume, device="cpu",
    )  # fmt: skip
    return model, result


if __name__ == "__main__":
    asked = eval(sys.argv[2])
    result = run(Path(sys.argv[1]), recipe(MOV_SETTINGS, asked["settings"], **asked["folders"]))[1]
    if int(os.environ.get("RANK", "0")) == 0:
        from safetensors.torch import save_file

        save_file(result.weights, Path(sys.argv[1]) / "final.safetensors")
