"""A label encoder by name: prompt ensembles and trained label encoders behind one call.

open_encoder("openai/clip-vit-base-patch16")   the backbone's text encoder with its templates
open_encoder("runs/soft")                      a run of `lexivid train`, a folder or of the Hub: the label encoder that
                                               it trained, or its backbone's text encoder with its templates
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lexivid.backbones import load_backbone
from lexivid.backbones.base import choose_device
from lexivid.errors import LabelError
from lexivid.labels.encoders.base import CONFIG_FILE, has_label_encoder
from lexivid.labels.encoders.identity import EncoderIdentity, LabelEncoder, doubts, prompts_identity
from lexivid.labels.encoders.load import load_label_encoder
from lexivid.labels.prompt_cache import PromptCache
from lexivid.labels.templates import TemplateSet, load_templates, short_templates, stored_templates
from lexivid.models.hub import lasting_model_name, model_folder
from lexivid.models.serialization import backbone_name, is_trained_model, read_config


def open_encoder(model: str, *, templates: str | TemplateSet | None = None, device: str = "auto") -> LabelEncoder:
    """Load what turns labels into vectors.

    Args:
        model: a backbone's name (see `load_backbone`), a folder with a trained label encoder, or another run of
            `lexivid train` (a folder, or of the Hub), whose backbone, as pinned there, and templates then count.
        templates: of a backbone; None: what suits it.

    Raises:
        ModelError: no such model. LabelError: templates for a trained label encoder, which has none.
    """
    run = model_folder(model) if is_trained_model(model) else None
    folder = run or Path(model)
    named = lasting_model_name(model, folder) if folder.is_dir() else model
    about = read_config(run) if run else None
    if about is not None:
        assert run is not None
        model = backbone_name(run, about["backbone"])
    if has_label_encoder(folder):
        if templates is not None:
            raise LabelError(f"{named!r} trained its label encoder, which needs no templates: leave them out")
        return _open_trained(folder, named, device, backbone=model if about is not None else None)
    if about is not None:
        templates = templates or stored_templates(about["templates"])
    # In float32 on every machine, or vectors made on one could not be added to those of another.
    backbone = load_backbone(model, device=device, dtype="float32")
    chosen = load_templates(templates or backbone.default_templates)
    prompt_cache, short = PromptCache(backbone), short_templates(chosen)
    identity = prompts_identity(backbone, chosen)
    if about is not None:  # whoever has the vectors finds the model that sees clips, and not its backbone alone
        identity = replace(identity, model=named)
    return LabelEncoder(
        identity,
        lambda labels: prompt_cache.embed(labels, chosen),
        lambda labels: prompt_cache.embed(labels, short),
        lambda labels: doubts(backbone, labels, chosen),
    )


def _open_trained(folder: Path, name: str, device: str, *, backbone: str | None) -> LabelEncoder:
    """backbone: as a run's config.json names and pins it; None: as the label encoder's own file does."""
    where = choose_device(device)
    loaded = None if backbone is None else load_backbone(backbone, device=where, dtype="float32")
    encoder = load_label_encoder(folder, backbone=loaded, device=where)
    backbone = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["backbone"]

    def encode(labels: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            return encoder(labels).float().cpu()

    weights = encoder.text_encoder.backbone_weights
    return LabelEncoder(EncoderIdentity(encoder.kind, name, None, encoder.fingerprint, backbone, weights), encode)
