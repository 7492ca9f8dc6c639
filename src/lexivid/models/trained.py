"""A trained model as a folder: what `lexivid train` writes, `lexivid.load` reads, and the Hub can hold.

    config.json        model_type "lexivid-mov": the network's settings, the backbone by name, revision and
                       fingerprint, the base classes, how clips are looked at, calibration and evidence
    model.safetensors  the trained weights: all but the frozen video tower, which is the backbone's
    label_encoder.*    only where one was trained: see `lexivid.labels.encoders.identity`
    clips.jsonl        what it was trained on and what was kept back (`lexivid.data.run_clips`); split.json: its classes
    backbone/          only where the folder is self-contained: the backbone itself, in the Hub's format

`from_pretrained` takes such a folder, or "owner/name[@revision]" of the Hub; nothing is fetched unless a name of the
Hub is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lexivid import __version__
from lexivid.backbones import Backbone, load_backbone
from lexivid.backbones.base import choose_device, name_of
from lexivid.backbones.host import random_state_kept
from lexivid.base.storage import write_atomically
from lexivid.data.run_clips import RunClips
from lexivid.data.sampling import SampleSpec
from lexivid.errors import ModelError
from lexivid.labels.encoders.base import TrainedLabelEncoder, has_label_encoder
from lexivid.labels.encoders.load import load_label_encoder
from lexivid.labels.templates import TemplateSet, stored_templates, templates_to_store
from lexivid.media.views import Views
from lexivid.models.calibration import Calibration
from lexivid.models.label_vectors import label_templates, prompt_cache_of
from lexivid.models.mov import (
    FROZEN_PREFIX,
    MOV,
    MOVConfig,
    MOVFeatures,
    encode_clips,
)
from lexivid.models.serialization import (
    MODEL_TYPE,
    backbone_name,
    forget_places,
    model_card,
    model_folder,
    read_config,
    save_backbone,
)
from lexivid.models.towers import make_frozen_tower

_OF_FLOW_AND_SOUND = ("flow", "flow_texture", "flow_size", "flow_crop", "audio_s")  # of `sampling`
_SAMPLES_PER_TENSOR = 4096


@dataclass
class TrainedModel:
    """A backbone, a video encoder on top of it, and what must be known to use them.

    Attributes:
        backbone: embeds labels; its picture encoder is the frozen video tower.
        mov: the network, in evaluation mode.
        base_classes: names it was trained on, in the order of the training targets.
        templates: the sentences around labels in training: a set by its name, or themselves.
        inputs: the streams it was trained with (of `mov.config.modalities`).
        base_score: "v_m" (eq. 10) or "mean" of all streams (score fusion).
        sampling: how clips were looked at: num_frames, stride, stride_rate, flow, flow_texture, flow_size, audio_s.
        precision: "auto": bfloat16 on GPUs, float32 on CPUs; or one of these.
        calibration: what `lexivid.scoring.base_novel_offset` fitted on held-out base clips, such as {"offset": ...}.
        evidence: "base", "novel" -> what a label's standing on that path is worth, fitted on held-out base clips.
        scales: of a model trained with a sigmoid: stream -> [1 / tau, b]. None: trained by softmax.
        label_encoder: where one was trained; None: the backbone's prompts.
        not_fitted: what held-out clips did not suffice for ("calibration", "evidence base", ...) -> why.
        folder: where it was read from; None: it was made here.
    """

    backbone: Backbone
    mov: MOV
    base_classes: tuple[str, ...]
    templates: str | TemplateSet
    inputs: tuple[str, ...]
    base_score: str = "v_m"
    sampling: dict[str, Any] = field(default_factory=dict)
    base_novel_offset: dict[str, Any] | None = None
    precision: str = "auto"
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    scales: dict[str, list[float]] | None = None
    label_encoder: TrainedLabelEncoder | None = None
    not_fitted: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None

    @cached_property
    def clips(self) -> RunClips | None:
        """What it was trained on; None: nothing says so."""
        return None if self.folder is None else RunClips.load(self.folder)

    @torch.no_grad()
    def features(
        self,
        *,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        audio: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> MOVFeatures:
        """Features of B clips, on the model's device.

        Args:
            video, flow: (B, T, 3, S, S) uint8, or tower features (B, T, D) float. audio: (B, 3, F, S) or (B, 1, D).
            mask: (B, M) bool, see `MOV.forward`. Streams that training left out are masked whatever it says.
        """
        given = {"video": video, "flow": flow, "audio": audio}
        streams = {name: self.prepare(x) for name, x in given.items() if x is not None and name in self.inputs}
        if not streams:
            raise ModelError(f"this model was trained on {', '.join(self.inputs)}; the clips have none of it")
        modalities = self.mov.config.modalities
        if mask is None:
            mask = torch.ones(len(next(iter(streams.values()))), len(modalities), dtype=torch.bool)
        shown = torch.tensor([name in streams for name in modalities])
        with self.autocast():
            return self.mov(**streams, mask=(mask.cpu() & shown).to(self.device))

    @torch.no_grad()
    def tokens(self, name: str, clips: Tensor) -> Tensor:
        """What one tower makes of clips (N, T, 3, H, W) uint8 -> (N, T, D), or of spectrograms (N, 3, F, S) float ->
        (N, 1, D)."""
        clips = clips[:, None] if name == "audio" else clips
        at_once = max(1, 32 // clips.shape[1])
        tower = self.mov.towers[name]
        with self.autocast():
            parts = [encode_clips(tower, self.prepare(part)).float() for part in clips.split(at_once)]
        return torch.cat(parts) if parts else torch.zeros(0, 1, self.mov.config.embedding_dim, device=self.device)

    def settings(self) -> dict[str, Any]:
        """The temperatures and weights of eq. 9 to 12, and of a sigmoid."""
        c = self.mov.config
        tau_x = {name: tau for name, tau in (("flow", c.tau_f), ("audio", c.tau_a)) if name in c.modalities}
        return {
            "tau": c.tau, "tau_v": c.tau_v, "tau_x": tau_x, "beta": c.beta, "base_score": self.base_score,
            "scales": self.scales,
        }  # fmt: skip

    def sample_spec(
        self,
        views: Views | None = None,
        *,
        inputs: tuple[str, ...] | None = None,
        num_audio_views: int | None = None,
    ) -> SampleSpec:
        """How a clip is read for this model outside training.

        Args:
            views: None: one view, sampled in time as in training.
            inputs: the streams that are read; None: all that it was trained with.
            num_audio_views: None: as many as `views` has.
        """
        return SampleSpec.of_views(
            self.backbone.images,
            views or self.trained_views,
            modalities=self.mov.config.modalities,
            inputs=self.inputs if inputs is None else inputs,
            num_audio_views=num_audio_views,
            **{k: self.sampling[k] for k in _OF_FLOW_AND_SOUND if k in self.sampling},
        )

    @property
    def trained_views(self) -> Views:
        """One view, sampled in time as in training."""
        return Views(**{k: self.sampling[k] for k in ("num_frames", "stride", "stride_rate") if k in self.sampling})

    def prepare(self, x: Tensor) -> Tensor:
        """To the device; uint8 pictures are normalised as the backbone asks."""
        x = x.to(self.device)
        return self.backbone.images.normalise(x) if x.dtype == torch.uint8 else x.float()

    def autocast(self) -> torch.autocast:
        """As `precision` says."""
        half = self.precision == "bfloat16" or (self.precision == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    @property
    def device(self) -> torch.device:
        return next(self.mov.parameters()).device

    def to_config(self) -> dict[str, Any]:
        """config.json."""
        name = name_of(self.backbone)
        source, _, revision = (name, "", "") if Path(name).is_absolute() else name.partition("@")
        return {
            "model_type": MODEL_TYPE,
            "lexivid_version": __version__,
            "backbone": {
                "name": source,
                "revision": revision or None,
                "fingerprint": _backbone_fingerprint(self.backbone, self.mov),
            },
            "label_encoder": None if self.label_encoder is None else self.label_encoder.kind,
            "mov": self.mov.config.to_dict(),
            "base_classes": list(self.base_classes),
            "templates": templates_to_store(self.templates),
            "inputs": list(self.inputs),
            "base_score": self.base_score,
            "sampling": self.sampling,
            "calibration": self.base_novel_offset,
            "evidence": {head: found.to_dict() for head, found in self.calibrations.items()},
            "not_fitted": self.not_fitted,
            "scales": self.scales,
        }

    def save_pretrained(self, folder: str | Path, *, self_contained: bool = False) -> None:
        """Write what it was trained on, model.safetensors, then config.json, which makes it a model; each whole or not
        at all.

        Args:
            self_contained: also hold the backbone, so that the folder needs nothing else.

        Raises:
            ModelError: the backbone cannot be held inside: `lite` comes with pip packages.
            LexividError: the folder cannot be written.
        """
        folder = Path(folder)
        if self_contained:
            save_backbone(self.backbone, folder / "backbone")
        if self.clips is not None:
            self.clips.save(folder)
        self.save_weights(folder)
        self.save_config(folder)

    def save_weights(self, folder: Path) -> None:
        """model.safetensors, without the frozen tower's weights, and the files of a trained label encoder."""
        own = {k: v for k, v in self.mov.state_dict().items() if not k.startswith(FROZEN_PREFIX)}
        data = save({k: v.detach().cpu().contiguous() for k, v in own.items()}, metadata={"format": "pt"})
        write_atomically(folder / "model.safetensors", data)
        if self.label_encoder is not None:
            self.label_encoder.save(folder, backbone=name_of(self.backbone))

    def save_config(self, folder: Path) -> None:
        """config.json, which makes the folder a model."""
        write_atomically(folder / "config.json", json.dumps(self.to_config(), indent=2, ensure_ascii=False) + "\n")

    def embed(self, names: Sequence[str]) -> Tensor:
        """Label vectors (K, D) on the CPU, by the model's label encoder or its backbone's prompts; kept in a bank."""
        return prompt_cache_of(self).embed(list(names), label_templates(self))

    @classmethod
    @random_state_kept()
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        device: str | torch.device = "auto",
        backbone: Backbone | None = None,
    ) -> TrainedModel:
        """Read a folder that `save_pretrained` or `lexivid train` wrote, or "owner/name[@revision]" of the Hub.

        Args:
            revision, token, local_files_only: for the Hub, as everywhere in its ecosystem.
            backbone: if it is loaded already; it must be the one that the model was trained on.

        Raises:
            ModelError: no such model, damaged, or another backbone than it was trained on.
        """
        folder = model_folder(name, revision=revision, token=token, local_files_only=local_files_only)
        config = read_config(folder)
        try:
            wanted = config["backbone"]
            where = choose_device(device)
            if backbone is None:
                backbone = load_backbone(backbone_name(folder, wanted), device=where, dtype="float32")
            mov = MOV.from_backbone(backbone, MOVConfig.from_dict(config["mov"]))
            if (found := _backbone_fingerprint(backbone, mov)) != wanted["fingerprint"]:
                raise ModelError(
                    f"model {str(name)!r} was trained on the backbone {wanted['name']!r} with other weights "
                    f"(fingerprint {wanted['fingerprint']}, found {found}): use that one, or train again"
                )
            weights = load_file(folder / "model.safetensors")
            missing, unexpected = mov.load_state_dict(weights, strict=False)
            missing = [key for key in missing if not key.startswith(FROZEN_PREFIX)]
            if missing or unexpected:
                raise ModelError(f"model {str(name)!r}: model.safetensors does not fit config.json ({missing[:2]} ...)")
            has_encoder = has_label_encoder(folder)
            if not has_encoder and config.get("label_encoder"):
                raise ModelError(
                    f"model {str(name)!r} lacks its label encoder (label_encoder.json): copy the folder whole, or "
                    "fetch it again"
                )
            return cls(
                backbone,
                mov.to(where).eval(),
                tuple(config["base_classes"]),
                stored_templates(config["templates"]),
                tuple(config["inputs"]),
                config["base_score"],
                dict(config["sampling"]),
                config.get("calibration"),
                calibrations={head: Calibration.from_dict(e) for head, e in (config.get("evidence") or {}).items()},
                scales=config.get("scales"),
                label_encoder=load_label_encoder(folder, backbone=backbone, device=where) if has_encoder else None,
                not_fitted=dict(config.get("not_fitted") or {}),
                folder=folder,
            )
        except (KeyError, TypeError, OSError, RuntimeError, SafetensorError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ModelError(f"model {str(name)!r} cannot be read ({reason})") from None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a Lexivid model",
        self_contained: bool | None = None,
    ) -> str:
        """Upload to the Hugging Face Hub with a short model card -> the address of the commit.

        With it goes what it was trained on, as contents and labels without file names, so that whoever has those clips
        is told. Nothing in it names a folder of this machine.

        Args:
            self_contained: the backbone goes too; None: where it is a folder of this machine, which nobody else has.

        Raises:
            ModelError: the label encoder reads with a language model that is a folder of this machine.
        """
        import tempfile

        from huggingface_hub import HfApi

        if self_contained is None:
            self_contained = Path(name_of(self.backbone)).is_absolute()
        language_model = self.label_encoder.settings().get("language_model") if self.label_encoder else None
        if language_model and Path(language_model).is_absolute():
            raise ModelError(
                f"the label encoder reads with the language model {language_model!r}, which nobody else has: publish "
                "that one first, and train with its name on the Hub"
            )
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder, self_contained=self_contained)
            if self.clips is not None:
                self.clips.without_names().save(folder)
            forget_places(folder)
            write_atomically(folder / "README.md", model_card(folder, repo_id))
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))


def _backbone_fingerprint(backbone: Backbone, mov: MOV) -> str:
    """Of the backbone's picture tower, which a model that trained its video tower no longer holds."""
    return tower_fingerprint(mov.towers["video"] if mov.config.frozen_video else make_frozen_tower(backbone))


def tower_fingerprint(tower: torch.nn.Module) -> str:
    """Of a frozen tower's weights: names, shapes and 4,096 values of each tensor. The same wherever its file lies."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        flat = tensor.detach().flatten()
        part = flat[:: max(1, len(flat) // _SAMPLES_PER_TENSOR)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]
