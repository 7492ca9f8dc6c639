"""`load`: a classifier by the name of its model."""

from __future__ import annotations

from pathlib import Path

from lexivid.backbones.base import load_backbone
from lexivid.errors import LabelError, ModelError
from lexivid.inference.classifier import Classifier
from lexivid.inference.trained import Trained
from lexivid.labels.database import LabelDatabase
from lexivid.labels.encoders.base import has_label_encoder
from lexivid.models.serialization import is_trained_model


def load(name: str = "lite", *, device: str = "auto", dtype: str = "auto", label_split: str = "mixed") -> Classifier:
    """A classifier by model name.

    Args:
        name: "lite" (works offline), "world" (for clips of `lexivid world` alone), a CLIP-family model of the Hugging
            Face Hub, a folder in that format, or the run folder of `lexivid train`.
        device: "auto", "cpu", "cuda", "mps". dtype: "auto", "float32", "bfloat16", "float16".
        label_split: of a trained model, see `lexivid.inference.trained`: "base", "novel" or "mixed".

    Raises:
        ModelError: the model is unknown, not here, or not of a supported family.
        MissingExtraError: `lite` without its weight packages.
    """
    if is_trained_model(name):
        return Classifier(Trained.load(name, device=device, dtype=dtype, label_split=label_split))
    if has_label_encoder(name):
        raise ModelError(
            f"folder {name!r} holds a label encoder and no model that sees clips: make a database with it (`lexivid "
            f"labels add DATABASE --model {name}`) and classify with that (`--label-database DATABASE`)"
        )
    return Classifier(load_backbone(name, device=device, dtype=dtype))


def model_of(database: LabelDatabase) -> str:
    """Name of the model, for `load`, that sees clips in the space of a database's vectors.

    The one that made them; of a folder with a label encoder alone, the backbone that it was trained into.

    Raises:
        LabelError: a run made them and is not where it was.
    """
    encoder = database.encoder
    if encoder.kind == "prompts" and not _is_gone(encoder.model):
        return encoder.model
    if not _is_gone(encoder.model) and is_trained_model(encoder.model):
        return encoder.model
    if has_label_encoder(encoder.model):
        return encoder.backbone
    raise LabelError(
        f"{database.describe()}, which is not there any more: name the model that is to see the clips (--model)"
    )


def _is_gone(model: str) -> bool:
    """Whether a name can only be a folder's, and there is none."""
    return Path(model).is_absolute() and not Path(model).is_dir()
