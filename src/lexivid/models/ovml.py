"""OVML, one model in one file (Gupta et al., ECCV 2024), beside the table of choices in docs/ovml.md.

    frames (B, T, 3, H, W) -> CLIP's picture encoder, in whose last blocks attention over time runs beside the attention
                              over space -> one vector a frame -> mean over T -> v (B, D)
    labels (K texts)       -> a label encoder, such as `lexivid.labels.encoders.soft_attributes` -> l (K, D)

    s = cosine of v and l;   p = sigmoid(s / tau + b), for each label on its own

The branch through time starts with an output of zero, so the untrained model is CLIP. Training is regularised, or the
open vocabulary is lost: by a second pass at weights between CLIP's and the current ones (Open-VCLIP, Weng et al. 2023),
by the distance to what frozen CLIP says (FROSTER, Huang et al. 2024), or both; and checkpoints are averaged at the end.

The score and the losses work for any streams of features, so that they serve MOV's fused ones as well (MOV x OVML):
each stream has its own tau and b. How encoder, labels and this objective become one system: `lexivid.models.system`.

Shapes: B clips, T frames, P patches (and CLIP's class token), W width of the blocks, D embedding width, K labels,
M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexivid.backbones.base import Backbone
from lexivid.backbones.clip import ClipBackbone
from lexivid.errors import ModelError
from lexivid.models.fusion import MLP, Attention
from lexivid.models.towers import ClipTower

REGULARISERS = ("interpolation", "video_distance", "text_distance")


@dataclass(frozen=True)
class SigmoidConfig:
    """The objective: everything but weights; `to_dict` is JSON.

    Args:
        tau: where the temperature of the score starts; its inverse, the scale, is learned, for each stream.
        bias: where the bias of the score starts; it is learned, for each stream.
        loss: "bce", or "asymmetric" (Ridnik et al. 2021) with gamma_negative, gamma_positive and margin.
        gamma_negative: of the asymmetric loss: how much easy labels that do not hold are discounted.
        gamma_positive: of the asymmetric loss: how much easy labels that hold are discounted.
        margin: of the asymmetric loss: probabilities of labels that do not hold count from here on.
        regularisers: any of "interpolation", "video_distance", "text_distance".
        interpolation: the second pass is at a * CLIP + (1 - a) * now, with a drawn from 0 to this.
        interpolation_weight: factor on its loss.
        distance_weight: factor on 1 - cosine to frozen CLIP's features, of clips and of labels.
        residual: how much of a learned correction is added to a feature before that cosine.
        labels_per_step: how many labels a step computes (`sample_labels`); None: all.
    """

    tau: float = 0.1
    bias: float = -10.0
    loss: Literal["bce", "asymmetric"] = "bce"
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    margin: float = 0.05
    regularisers: tuple[str, ...] = ()
    interpolation: float = 0.6
    interpolation_weight: float = 0.5
    distance_weight: float = 2.0
    residual: float = 0.1
    labels_per_step: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "regularisers", tuple(self.regularisers))
        for name in self.regularisers:
            if name not in REGULARISERS:
                raise ModelError(f"unknown regulariser {name!r}: choose among {', '.join(REGULARISERS)}")
        if self.loss not in ("bce", "asymmetric"):
            raise ModelError(f"unknown loss {self.loss!r}: choose bce or asymmetric")
        if not self.tau > 0:
            raise ModelError(f"tau is a temperature and must be above 0; got {self.tau}")
        for name in ("interpolation", "margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name} is between 0 and 1; got {getattr(self, name)}")
        if self.labels_per_step is not None and self.labels_per_step < 2:
            raise ModelError(f"labels_per_step must be at least 2; got {self.labels_per_step}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"regularisers": list(self.regularisers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SigmoidConfig:
        """The reverse of `to_dict`.

        Raises:
            ModelError: a key that is not one of the fields above, or a value out of range.
        """
        if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
            raise ModelError(f"unknown setting {unknown[0]!r}; known: {', '.join(f.name for f in fields(cls))}")
        return cls(**values)


class SigmoidObjective(nn.Module):
    """p = sigmoid(cosine / tau + b), tau and b learned for each stream, and the losses about it.

    Args:
        config: see SigmoidConfig.
        streams: names, such as "v_m" and "flow".
        embedding_dim: D.
    """

    def __init__(self, config: SigmoidConfig, *, streams: Sequence[str], embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        start = -math.log(config.tau)
        self.log_scale = nn.ParameterDict({name: nn.Parameter(torch.tensor(start)) for name in streams})
        self.bias = nn.ParameterDict({name: nn.Parameter(torch.tensor(float(config.bias))) for name in streams})
        # Correct what the student says before it is compared, so that it may know more than its teacher (FROSTER).
        self.projectors = nn.ModuleDict(
            {
                name: MLP(embedding_dim, 1.0, zero_init=True)
                for name in ("video_distance", "text_distance")
                if name in config.regularisers
            }
        )

    def logits(self, name: str, cosines: Tensor) -> Tensor:
        """Cosines of one stream (B, K) -> s / tau + b, (B, K)."""
        return cosines * self.log_scale[name].exp() + self.bias[name]

    def label_loss(self, name: str, cosines: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of one stream, summed over labels: (B, K) -> (B,). targets (B, K), weights broadcast to it."""
        c, logits = self.config, self.logits(name, cosines)
        if c.loss == "bce":
            return bce_loss(logits, targets, weights=weights, reduction="none")
        return asymmetric_loss(
            logits, targets, gamma_negative=c.gamma_negative, gamma_positive=c.gamma_positive, margin=c.margin,
            weights=weights, reduction="none",
        )  # fmt: skip

    def distance(self, name: str, features: Tensor, teacher: Tensor) -> Tensor:
        """`residual_distance` with the projector of that regulariser and the factor of the configuration: -> (N,)."""
        far = residual_distance(features, teacher, self.projectors[name], residual=self.config.residual)
        return self.config.distance_weight * far

    def scales(self) -> dict[str, list[float]]:
        """Stream -> [1 / tau, b], as JSON types."""
        return {
            name: [float(scale.detach().exp()), float(self.bias[name].detach())]
            for name, scale in self.log_scale.items()
        }


class VideoTower(nn.Module):
    """CLIP's picture encoder, whose last blocks also look along time: (B, T, 3, H, W) -> (B, T, D).

    Args:
        model: CLIPModel, MetaClip2Model or SiglipModel of transformers; its vision half is copied.
        temporal_layers: the last n blocks have a branch through time. trainable_layers: of CLIP's own blocks, the last
            n and what follows them; None: all. The branches always train.
    """

    along_time = True  # takes the frames of a clip together, unlike other towers

    def __init__(self, model: Any, *, temporal_layers: int, trainable_layers: int | None = None) -> None:
        super().__init__()
        self.clip = ClipTower(model, trainable_layers=trainable_layers)
        self.num_layers = num_layers = self.clip.num_layers
        num = min(num_layers, temporal_layers)
        config = self.clip.vision.config
        branches = {
            str(place): TemporalBranch(config.hidden_size, config.num_attention_heads)
            for place in range(num_layers - num, num_layers)
        }
        self.clip.vision.encoder = SpaceTimeEncoder(self.clip.vision.encoder.layers, branches)

    def forward(self, frames: Tensor) -> Tensor:
        self.clip.vision.encoder.num_frames = frames.shape[1]
        return self.clip(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


def make_video_tower(backbone: Backbone, *, temporal_layers: int, trainable_layers: int | None = None) -> VideoTower:
    """A trainable copy of the backbone's picture encoder with branches through time.

    Raises:
        ModelError: a backbone of another kind: the branch through time sits in a transformer's blocks.
    """
    if not isinstance(backbone, ClipBackbone):
        raise ModelError(f"OVML trains a picture encoder of the CLIP family; model {backbone.name!r} is another kind")
    return VideoTower(backbone.model, temporal_layers=temporal_layers, trainable_layers=trainable_layers)


class SpaceTimeEncoder(nn.Module):
    """The blocks of a CLIP picture encoder, some with a branch; called as transformers' own encoder is.

    num_frames, T: how the B * T pictures of a call follow each other, clip by clip.
    """

    def __init__(self, layers: nn.ModuleList, branches: Mapping[str, TemporalBranch]) -> None:
        super().__init__()
        self.layers, self.branches = layers, nn.ModuleDict(branches)
        self.num_frames = 1

    def forward(self, inputs_embeds: Tensor) -> SpaceTimeOutput:
        x = inputs_embeds  # (B * T, P, W)
        for place, layer in enumerate(self.layers):
            block: Any = layer
            added = block.self_attn(block.layer_norm1(x))[0]  # over space, as it was
            if str(place) in self.branches:
                added = added + self.branches[str(place)](x, num_frames=self.num_frames)  # beside it, over time
            x = x + added
            x = x + block.mlp(block.layer_norm2(x))
        return SpaceTimeOutput(x)


class SpaceTimeOutput(NamedTuple):
    """Under the name that transformers' encoders give it."""

    last_hidden_state: Tensor


class TemporalBranch(nn.Module):
    """Attention over the T frames at each patch position; its output starts at zero.

    It knows the order of frames from sines and cosines of their numbers, added to what it alone sees.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, zero_init=True)

    def forward(self, x: Tensor, *, num_frames: int) -> Tensor:
        """(B * T, P, W) -> (B * T, P, W)."""
        y = self.norm(x).unflatten(0, (-1, num_frames)).transpose(1, 2)  # (B, P, T, W)
        y = y + frame_positions(num_frames, y.shape[-1]).to(y)
        shape = y.shape
        y = y.flatten(0, 1)
        return self.attention(y, y).view(shape).transpose(1, 2).flatten(0, 1)


def frame_positions(num_frames: int, width: int) -> Tensor:
    """(T, W): sines and cosines of the frame's number, at wavelengths from 6 frames to 2,000."""
    rates = torch.exp(torch.linspace(0, -math.log(300), width // 2))
    angles = torch.arange(num_frames)[:, None] * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def clip_feature(frames: Tensor) -> Tensor:
    """Features of frames (B, T, D) -> (B, D): the mean of unit vectors, as CLIP zero-shot takes it."""
    return F.normalize(frames.float(), dim=-1).mean(dim=1)


def bce_loss(
    logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, reduction: Literal["mean", "none"] = "mean"
) -> Tensor:
    """Binary cross entropy, summed over labels -> its mean over clips (), or of each clip (B,) with "none".

    Args:
        logits, targets: (B, K); targets 0 to 1. weights: broadcasts to (B, K).
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return _over_labels(loss, weights, reduction)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    margin: float = 0.05,
    weights: Tensor | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """The asymmetric loss of Ridnik et al. 2021, summed over labels -> () or (B,) as `bce_loss`.

    With q = max(p - margin, 0): -(1 - p)^gamma_positive log p where a label holds, -q^gamma_negative log(1 - q) where
    not. With both gammas and the margin 0 it is `bce_loss`. Shapes as there.
    """
    logits, targets = logits.float(), targets.float()
    # Powers and logarithms of p and 1 - p from the logit: of a large one 1 - p is 0, where a root's slope is infinite.
    log_p, log_rest = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = -(gamma_positive * log_rest).exp() * log_p
    if margin == 0:
        negative = -(gamma_negative * log_p).exp() * log_rest
    else:
        p = log_p.exp()
        inside = p > margin
        q = torch.where(inside, p - margin, 0.5)  # 0.5: any value whose gradient is finite
        negative = torch.where(inside, -(q**gamma_negative) * (1 - q).log(), 0.0)
    loss = targets * positive + (1 - targets) * negative
    return _over_labels(loss, weights, reduction)


def _over_labels(loss: Tensor, weights: Tensor | None, reduction: str) -> Tensor:
    each = (loss if weights is None else loss * weights).sum(dim=1)
    return each.mean() if reduction == "mean" else each


def residual_distance(
    features: Tensor, teacher: Tensor, projector: Callable[[Tensor], Tensor], *, residual: float
) -> Tensor:
    """1 - cosine of x + residual * projector(x) and the teacher's features, with x of unit length: (N, D) -> (N,)."""
    x = F.normalize(features.float(), dim=-1)
    return 1 - F.cosine_similarity(x + residual * projector(x), teacher.float(), dim=-1)


def interpolated(tower: nn.Module, teacher: nn.Module, a: float) -> dict[str, Tensor]:
    """Weights of a tower on the line from now (a = 0) to CLIP (a = 1); the branches', which CLIP lacks, as they are.

    Gradients pass to the current weights.

    Args:
        tower: a `VideoTower`, or a tower without branches. teacher: the tower as it was.
    """
    original = dict(teacher.named_parameters())
    weights = {}
    for name, now in tower.named_parameters():
        before = original.get(name.removeprefix("clip."))
        weights[name] = now if before is None else torch.lerp(now, before.to(now), a)
    return weights


def sample_labels(targets: Tensor, num: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Which labels a step computes, so that memory does not grow with the label set.

    Every label that holds in a clip of the batch is kept; the others are drawn at random up to `num` labels in all, and
    those drawn weigh for those left out, so that the expected loss is that of all labels. Where so many hold that fewer
    than half of `num` would be left for the others, `num` are drawn from all alike, and weigh for all.

    Args:
        targets: (B, K). num: at least 2.

    Returns:
        Places (n,) int64, ascending, and weights (n,) float.
    """
    holds = (targets > 0).any(dim=0).cpu()
    total = len(holds)
    if num >= total:
        return torch.arange(total, device=targets.device), torch.ones(total, device=targets.device)
    if int(holds.sum()) > num // 2:
        holds = torch.zeros_like(holds)
    true_labels, others = holds.nonzero()[:, 0], (~holds).nonzero()[:, 0]
    num_drawn = num - len(true_labels)
    drawn = others[torch.randperm(len(others), generator=generator)[:num_drawn]]
    indices, order = torch.cat([true_labels, drawn]).sort()
    weights = torch.cat([torch.ones(len(true_labels)), torch.full((num_drawn,), len(others) / num_drawn)])[order]
    return indices.to(targets.device), weights.to(targets.device)


def average_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of checkpoints, name by name.

    Raises:
        ModelError: none, or of different models.
    """
    if not states:
        raise ModelError("no checkpoints to average")
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise ModelError("checkpoints of different models cannot be averaged: names or shapes differ")
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
