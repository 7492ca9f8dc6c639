"""Trained models on the Hugging Face Hub: fetching one, and publishing one with a model card.

What is published names no folder of this machine.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lexivid.backbones.base import name_of
from lexivid.backbones.hub import is_hub_name
from lexivid.base.storage import write_atomically
from lexivid.data.run_clips import CLIPS_FILE, SPLIT_FILE
from lexivid.errors import ModelError
from lexivid.labels.encoders.base import CONFIG_FILE as LABEL_ENCODER_FILE
from lexivid.models.serialization import MODEL_CONFIG_FILE, MODEL_WEIGHTS_FILE, read_config, save_model

if TYPE_CHECKING:
    from lexivid.models.trained import TrainedModel


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


def push_to_hub(
    model: TrainedModel,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload a Lexivid model",
    self_contained: bool | None = None,
    notes: str = "",
    licence: str | None = None,
) -> str:
    """Upload to the Hugging Face Hub with a short model card -> the address of the commit.

    With it goes what it was trained on, as contents and labels without file names, so that whoever has those clips
    is told. Nothing in it names a folder of this machine.

    Args:
        self_contained: the backbone goes too; None: where it is a folder of this machine, which nobody else has.
        notes: Markdown for the end of the model card, such as results.
        licence: of the model, for the model card.

    Raises:
        ModelError: the label encoder reads with a language model that is a folder of this machine.
    """
    from huggingface_hub import HfApi

    if self_contained is None:
        self_contained = Path(name_of(model.backbone)).is_absolute()
    language_model = model.label_encoder.settings().get("language_model") if model.label_encoder else None
    if language_model and Path(language_model).is_absolute():
        raise ModelError(
            f"the label encoder reads with the language model {language_model!r}, which nobody else has: publish "
            "that one first, and train with its name on the Hub"
        )
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(model, folder, self_contained=self_contained)
        if model.clips is not None:
            model.clips.without_names().save(folder)
        forget_places(folder)
        write_atomically(folder / "README.md", model_card(folder, repo_id, notes=notes, licence=licence))
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))


def _download(name: str, revision: str | None, token: str | bool | None, local_files_only: bool) -> Path:
    source, _, at = name.partition("@")
    from huggingface_hub import snapshot_download

    files = [MODEL_CONFIG_FILE, MODEL_WEIGHTS_FILE, "label_encoder.*", "backbone/*", CLIPS_FILE, SPLIT_FILE]
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
    for name in (MODEL_CONFIG_FILE, LABEL_ENCODER_FILE):
        if not (folder / name).is_file():
            continue
        about = json.loads((folder / name).read_text(encoding="utf-8"))
        holder, key = (about["backbone"], "name") if isinstance(about["backbone"], dict) else (about, "backbone")
        if Path(holder[key]).is_absolute():
            holder[key] = Path(holder[key]).name
            write_atomically(folder / name, json.dumps(about, indent=2, ensure_ascii=False) + "\n")


_LICENCES = {
    "openai/clip-": "MIT",
    "laion/CLIP-": "MIT",
    "google/siglip-": "Apache-2.0",
    "google/siglip2-": "Apache-2.0",
    "world": "Apache-2.0",
}
"""Licences of backbones, by how their names begin; all allow copies."""


def licence_to_copy(model: TrainedModel, given: str | None = None) -> str:
    """The licence under which the backbone's weights may be published with the model.

    given: what the user says of a backbone that is not known here.

    Raises:
        ModelError: the licence is not known, and none is given.
    """
    name = name_of(model.backbone)
    known = next((licence for begin, licence in _LICENCES.items() if name.startswith(begin)), None)
    if known is None and given is None:
        raise ModelError(
            f"the licence of the backbone {name!r} is not known here: give --backbone-licence NAME if it allows "
            "copies, or leave --self-contained out"
        )
    return given or str(known)


def model_card(folder: Path, name: str, *, notes: str = "", licence: str | None = None) -> str:
    """README.md of a model's folder, for the Hub."""
    config = read_config(folder)
    classes = config["base_classes"]
    shown = ", ".join(classes[:50]) + (" ..." if len(classes) > 50 else "")
    return (
        f"---\nlibrary_name: lexivid\npipeline_tag: video-classification\ntags: [lexivid, open-vocabulary, video]\n"
        f"{f'license: {licence}' + chr(10) if licence else ''}"
        f"---\n\n# {name}\n\nAn open-vocabulary video classifier (MOV) on the backbone `{config['backbone']['name']}`, "
        f"trained with {', '.join(config['inputs'])}.\n\n```python\nimport lexivid\n\n"
        f"classifier = lexivid.load({name!r})\n"
        f'classifier.classify("clip.mp4", labels=["your", "own", "words"])\n```\n\n'
        f"Base classes ({len(classes)}): {shown}\n" + (f"\n{notes}\n" if notes else "")
    )
