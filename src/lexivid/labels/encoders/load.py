"""A trained label encoder from its two files (`lexivid.labels.encoders.base`)."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lexivid.backbones.base import Backbone, load_backbone
from lexivid.errors import ModelError
from lexivid.labels.encoders.base import CONFIG_FILE, WEIGHTS_FILE, TrainedLabelEncoder
from lexivid.labels.encoders.coop import LearnedContextEncoder
from lexivid.labels.encoders.soft_attributes import SoftAttributeEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder


def load_label_encoder(
    folder: str | Path, *, backbone: Backbone | None = None, device: str | torch.device = "cpu"
) -> TrainedLabelEncoder:
    """Read a trained label encoder.

    Args:
        backbone: the CLIP model if it is loaded already; None: the one inside the folder, or else by its name.

    Raises:
        ModelError: a file is missing or damaged, or a frozen model is no longer the one that it was trained with.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    kinds: dict[str, type[TrainedLabelEncoder]] = {
        kind.kind: kind for kind in (SoftAttributeEncoder, LearnedContextEncoder)
    }
    folder = Path(folder)
    try:
        about = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        weights = load((folder / WEIGHTS_FILE).read_bytes())
        kind, name = kinds[about["kind"]], str(about["backbone"])
        if backbone is None:
            inside = folder / "backbone"  # of a self-contained run
            where = str(inside) if (inside / "config.json").is_file() else name
            backbone = load_backbone(where, device=device, dtype="float32")
        text = FrozenTextEncoder(backbone)
        encoder = kind.from_settings(about, text, device=device)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{str(folder)!r} holds no trained label encoder that can be read ({type(error).__name__}: {error}): it "
            f"needs {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from None
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in encoder.trained_state().items()}:
        raise ModelError(f"{str(folder / WEIGHTS_FILE)!r} does not fit its configuration")
    encoder.load_state_dict(weights, strict=False)
    if encoder.fingerprint != about.get("fingerprint"):
        raise ModelError(
            f"{str(folder)!r} was trained with another CLIP than {name!r} is now (its weights differ), or by another "
            "version of Lexivid: train again"
        )
    return encoder.to(device).eval()
