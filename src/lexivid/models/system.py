"""system = label encoder x video encoder x objective: what is trained, whatever the paper.

    streams, mask --video encoder (MOV's, of which OVML's is one with pictures alone)--> features v, v_m, x_m
    names ---------label encoder: fixed prompt vectors, learned context, soft attributes--> l (K, D)
    features, l, targets --objective: softmax (MOV, eq. 9), or sigmoid (OVML), with its regularisers--> loss

Everything that has weights is used inside one `forward`, which is what data-parallel wrappers ask for.

Shapes: B clips, T frames, D embedding width, K labels, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexivid.backbones.base import Backbone
from lexivid.backbones.clip import ClipBackbone
from lexivid.errors import ModelError
from lexivid.models import mov
from lexivid.models.mov import MOV, MOVFeatures, mov_loss, similarity
from lexivid.models.mov_config import MOVConfig
from lexivid.models.ovml import SigmoidConfig, SigmoidObjective, clip_feature, interpolated, sample_labels
from lexivid.models.towers import FrozenTower, make_frozen_tower

FROZEN = (f"encoder.{mov.FROZEN_PREFIX}", "label_encoder.language_model.", "label_encoder.text_encoder.", "teacher.")
"""How names of the state dict begin whose values no training changes."""


class SystemOutput(NamedTuple):
    """Features of B clips and, where targets were given, the mean loss of the clips that have any stream."""

    features: MOVFeatures
    loss: Tensor | None


class Draws(NamedTuple):
    """What an objective draws once for all clips of a step, however they are spread over micro-batches and processes.

    Attributes:
        labels: places (n,) of the labels that are computed, and their weights (n,); None: all.
        interpolation: a, where between the video tower as it was (1) and as it is (0) the second pass is.
    """

    labels: tuple[Tensor, Tensor] | None = None
    interpolation: float = 0.0


class System(nn.Module):
    """A video encoder, label vectors or what makes them, and an objective.

    Args:
        encoder: the video encoder.
        labels: (K, D), fixed vectors of the labels: a prompt ensemble's.
        names: the K labels, for a label encoder.
        label_encoder: from texts to (K, D) with gradients; None: `labels` as they are.
        objective: None: softmax over the labels, eq. 9.
        teacher: the video tower as it was, for the regularisers of a system that trains it.
        label_weights: (K,), what each label counts in the sigmoid's loss; None: 1.
    """

    labels: Tensor
    label_weights: Tensor

    def __init__(
        self,
        encoder: MOV,
        labels: Tensor,
        *,
        names: Sequence[str] = (),
        label_encoder: nn.Module | None = None,
        objective: SigmoidObjective | None = None,
        teacher: FrozenTower | None = None,
        label_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.label_encoder, self.objective, self.teacher = encoder, label_encoder, objective, teacher
        self.names = tuple(names)
        self.register_buffer("labels", labels.detach().float(), persistent=False)
        weights = torch.ones(len(labels)) if label_weights is None else label_weights.float()
        self.register_buffer("label_weights", weights, persistent=False)

    @property
    def config(self) -> MOVConfig:
        """Of the video encoder."""
        return self.encoder.config

    def label_vectors(self, places: Tensor | None = None) -> Tensor:
        """Vectors (n, D) of some of the labels, or of all."""
        if self.label_encoder is None:
            return self.labels if places is None else self.labels[places]
        return self.label_encoder(self.names if places is None else [self.names[i] for i in places.tolist()])

    def forward(
        self,
        streams: Mapping[str, Tensor],
        mask: Tensor | None,
        goals: Sequence[tuple[float, Tensor]] = (),
        weights: Tensor | None = None,
        draws: Draws | None = None,
    ) -> SystemOutput:
        """Features of B clips, and the loss where there are goals.

        Args:
            streams, mask: as `MOV.forward` takes them.
            goals: targets with their weights (several where clips were mixed): (B,) int64, or (B, K) bool for a
                sigmoid objective.
            weights: (B, K), what each pair of clip and label counts in the sigmoid's loss, on top of `label_weights`;
                None: 1.
            draws: see `draw`; None: drawn for these clips.
        """
        features: MOVFeatures = self.encoder(**streams, mask=mask)
        if not goals:
            return SystemOutput(features, None)
        if self.objective is not None:
            parts = self._sigmoid(streams, mask, features, goals, weights, draws)
            return SystemOutput(features, torch.stack(list(parts.values())).sum())
        labels, c = self.label_vectors(), self.config
        with self._exactly():
            each = [
                weight * mov_loss(features.v_m, features.x_m, labels, t, alpha=c.alpha, tau=c.tau, mask=features.mask)
                for weight, t in goals
            ]
        return SystemOutput(features, torch.stack(each).sum())

    def draw(self, holds: Tensor, *, generator: torch.Generator | None = None) -> Draws:
        """What a step draws: holds (K,) bool, the labels that hold in any of its clips. For a sigmoid objective."""
        assert self.objective is not None
        c = self.objective.config
        labels = None
        if c.labels_per_step is not None:
            labels = sample_labels(holds[None], c.labels_per_step, generator=generator)
        second = "interpolation" in c.regularisers
        return Draws(labels, c.interpolation * float(torch.rand((), generator=generator)) if second else 0.0)

    def _exactly(self) -> torch.autocast:
        """Losses are computed in float32, whatever the models are."""
        return torch.autocast(self.labels.device.type, enabled=False)

    def _sigmoid(
        self,
        streams: Mapping[str, Tensor],
        mask: Tensor | None,
        features: MOVFeatures,
        goals: Sequence[tuple[float, Tensor]],
        pair_weights: Tensor | None = None,
        draws: Draws | None = None,
    ) -> dict[str, Tensor]:
        """The parts of OVML's loss by name."""
        objective = self.objective
        assert objective is not None
        c, num = objective.config, len(self.labels)
        targets = torch.stack([w * (t if t.ndim == 2 else F.one_hot(t, num)).float() for w, t in goals]).sum(dim=0)
        places: Tensor | None = None
        weights = self.label_weights if pair_weights is None else self.label_weights * pair_weights
        draws = draws or self.draw((targets > 0).any(dim=0))
        if draws.labels is not None:
            places, drawn = draws.labels
            targets, weights = targets[:, places], weights[..., places] * drawn
        labels = self.label_vectors(places)
        second = said = None
        if "interpolation" in c.regularisers:
            assert self.teacher is not None
            between = interpolated(self.encoder.towers["video"], self.teacher.tower, draws.interpolation)
            between = {f"towers.video.{name}": value for name, value in between.items()}
            second = torch.func.functional_call(self.encoder, between, (), {**streams, "mask": mask})
        if "video_distance" in c.regularisers:
            said = features.v if self.teacher is None else self._teacher_says(streams.get("video"), features.v)
        with self._exactly():
            parts = {"labels": self.label_loss(features, labels, targets, weights)}
            if second is not None:
                parts["interpolation"] = c.interpolation_weight * self.label_loss(second, labels, targets, weights)
            if said is not None:
                far = objective.distance("video_distance", features.v_m, said) * features.mask[:, 0]
                parts["video_distance"] = far.sum() / features.mask.any(dim=1).sum().clamp_min(1)
            if "text_distance" in c.regularisers:
                own = self.labels if places is None else self.labels[places]
                parts["text_distance"] = objective.distance("text_distance", labels, own).mean()
        return parts

    def label_loss(self, features: MOVFeatures, labels: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The objective over all streams, mean over the clips that have any -> ().

        The streams share as in eq. 9. The frozen v, where it is one of its own, counts as much as v_m: no gradient
        passes through it, but labels must be found by it too, as novel ones will be (eq. 12).

        Args:
            labels: (K, D). targets: (B, K). weights: (K,) or (B, K).
        """
        objective = self.objective
        assert objective is not None
        present = {name: features.mask[:, i] for i, name in enumerate(("v_m", *features.x_m))}
        modality_weights = mov.modality_weights(
            self.config.alpha, len(features.x_m), features.mask, features.v_m
        )  # (B, M)
        streams = {"v_m": features.v_m, **features.x_m}
        count = {name: modality_weights[:, i] for i, name in enumerate(streams)}
        if "v" in objective.bias:
            streams["v"], count["v"] = features.v, self.config.alpha * present["v_m"]
        each = [
            objective.label_loss(name, similarity(x, labels), targets, weights) * count[name]
            for name, x in streams.items()
        ]
        return torch.stack(each).sum() / features.mask.any(dim=1).sum().clamp_min(1)

    def _teacher_says(self, video: Tensor | None, like: Tensor) -> Tensor:
        """Clip features (B, D) of the video tower as it was."""
        if video is None or video.ndim == 3:
            return like
        assert self.teacher is not None
        return clip_feature(self.teacher(video.flatten(0, 1)).unflatten(0, video.shape[:2]))


def streams_of(config: MOVConfig) -> tuple[str, ...]:
    """Which streams of features a sigmoid objective scores: v_m, each other modality, and v where it is frozen and
    another than v_m."""
    changed = config.num_temporal_layers or config.num_cross_layers
    frozen = ("v",) if config.frozen_video and changed else ()
    return ("v_m", *config.modalities[1:], *frozen)


def make_objective(config: SigmoidConfig, encoder: MOVConfig) -> SigmoidObjective:
    """A sigmoid objective for a video encoder.

    Raises:
        ModelError: weights between CLIP's and now, where no video tower is trained.
    """
    if "interpolation" in config.regularisers and encoder.frozen_video:
        raise ModelError("the regulariser 'interpolation' needs a trained video tower: set model.frozen_video to false")
    return SigmoidObjective(config, streams=streams_of(encoder), embedding_dim=encoder.embedding_dim)


def make_teacher(backbone: Backbone, config: SigmoidConfig, encoder: MOVConfig) -> FrozenTower | None:
    """The backbone's own video tower, where a regulariser asks for one that the encoder does not hold.

    Raises:
        ModelError: weights between the backbone's and now, of a backbone whose trained tower has other weights.
    """
    asked: set[Any] = {"interpolation", "video_distance"} & set(config.regularisers)
    if "interpolation" in asked and not isinstance(backbone, ClipBackbone):
        raise ModelError(f"the regulariser 'interpolation' needs a backbone of the CLIP family; got {backbone.name!r}")
    return make_frozen_tower(backbone) if asked and not encoder.frozen_video else None
