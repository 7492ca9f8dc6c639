"""A trained model: what it computes. `lexivid.models.serialization` reads and writes its folder, `lexivid.models.hub`
publishes and fetches it.

    clips (frames, flow, audio) -> `TrainedModel.features` -> MOVFeatures      labels -> `TrainedModel.embed` -> (K, D)

Shapes: B clips, N clips or spectrograms, T frames, K labels, D embedding width, M modalities, F mel bins,
S spectrogram steps or side of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lexivid.backbones import Backbone
from lexivid.backbones.host import random_state_kept
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.run_clips import RunClips
from lexivid.data.sampling import SampleSpec
from lexivid.errors import ModelError
from lexivid.labels.encoders.base import TrainedLabelEncoder
from lexivid.labels.templates import TemplateSet
from lexivid.media.views import Views
from lexivid.models.calibration import Calibration
from lexivid.models.hub import model_folder, push_to_hub
from lexivid.models.label_vectors import label_templates, prompt_cache_of
from lexivid.models.mov import MOV, MOVFeatures, encode_clips
from lexivid.models.serialization import read_model, save_model


@dataclass
class TrainedModel:
    """A backbone, a video encoder on top of it, and what must be known to use them.

    Attributes:
        backbone: embeds labels; its image encoder is the frozen video tower.
        mov: the network, in evaluation mode.
        base_classes: names it was trained on, in the order of the training targets.
        templates: the sentences around labels in training: a set by its name, or themselves.
        inputs: the streams it was trained with (of `mov.config.modalities`).
        base_score: "v_m" (eq. 10) or "mean" of all streams (score fusion).
        sampling: how clips were sampled in training.
        precision: "auto": bfloat16 on GPUs, float32 on CPUs; or one of these.
        base_novel_offset: fitted on held-out base clips by `lexivid.scoring.base_novel_offset`, as a dictionary.
        calibrations: "base", "novel" -> the calibration of that head's log odds, fitted on held-out base clips.
        scales: of a model trained with a sigmoid: stream -> [1 / tau, b]. None: trained by softmax.
        label_encoder: where one was trained; None: the backbone's prompts.
        not_fitted: what held-out clips did not suffice for ("calibration": the offset; "evidence base": the
            calibration of that head; ...) -> why.
        folder: where it was read from; None: it was made here.
    """

    backbone: Backbone
    mov: MOV
    base_classes: tuple[str, ...]
    templates: str | TemplateSet
    inputs: tuple[str, ...]
    base_score: str = "v_m"
    sampling: ClipSampling = field(default_factory=lambda: ClipSampling.from_dict({}))
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
            sampling=self.sampling,
        )

    @property
    def trained_views(self) -> Views:
        """One view, sampled in time as in training."""
        return self.sampling.views

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

    def embed(self, names: Sequence[str]) -> Tensor:
        """Label vectors (K, D) on the CPU, by the model's label encoder or its backbone's prompts; cached."""
        return prompt_cache_of(self).embed(list(names), label_templates(self))

    def save_pretrained(self, folder: str | Path, *, self_contained: bool = False) -> None:
        """Write the folder that `from_pretrained` reads, see `lexivid.models.serialization.save_model`."""
        save_model(self, Path(folder), self_contained=self_contained)

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

        Nothing is fetched unless a name of the Hub is asked for.

        Args:
            revision, token, local_files_only: for the Hub, as everywhere in its ecosystem.
            backbone: if it is loaded already; it must be the one that the model was trained on.

        Raises:
            ModelError: no such model, damaged, or another backbone than it was trained on.
        """
        folder = model_folder(name, revision=revision, token=token, local_files_only=local_files_only)
        return cls(**read_model(folder, name=str(name), device=device, backbone=backbone))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a Lexivid model",
        self_contained: bool | None = None,
        notes: str = "",
        licence: str | None = None,
    ) -> str:
        """Upload to the Hugging Face Hub -> the address of the commit, see `lexivid.models.hub.push_to_hub`."""
        return push_to_hub(
            self, repo_id, private=private, token=token, commit_message=commit_message, self_contained=self_contained,
            notes=notes, licence=licence,
        )  # fmt: skip
