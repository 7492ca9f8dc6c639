"""OVML, one model in one file, beside ../shared/papers/ovml-facts.md and the table of choices in docs/ovml.md.

    frames (B, T, 3, H, W) -> CLIP's picture encoder, in whose last blocks attention over time runs beside the attention
                              over space -> one vector a frame -> mean over T -> v (B, D)
    labels (K texts)       -> a label encoder, such as soft attributes (`lexivid.labels.soft_attributes`) -> l (K, D)

    s = cosine of v and l;   p = sigmoid(s / tau + b), for each label on its own

The branch through time starts with an output of zero, so the untrained model is CLIP. Training is regularised, or the
open vocabulary is lost: by a second pass at weights between CLIP's and the current ones (Open-VCLIP, Weng et al. 2023),
by the distance to what frozen CLIP says (FROSTER, Huang et al. 2024), or both; and checkpoints are averaged at the end.

Shapes: B clips, T frames, P patches (and CLIP's class token), W width of the blocks, D embedding width, K labels.
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
from lexivid.models.mov import similarity
from lexivid.models.towers import ClipTower, FrozenTower, make_frozen_tower

FROZEN_PREFIX = "frozen."  # of the state dict: CLIP's own weights, which training leaves as they are
REGULARISERS = ("interpolation", "video_distance", "text_distance")


@dataclass(frozen=True)
class OVMLConfig:
    """Everything but weights; `to_dict` is JSON.

    Args:
        temporal_layers: the last n blocks have a branch through time; None: half of them, rounded up; 0: none.
        trainable_layers: of CLIP's blocks, the last n and what follows them; None: all. The branches always train.
        tau, bias: where scale and bias of the score start; both are learned.
        loss: "bce", or "asymmetric" (Ridnik et al. 2021) with gamma_negative, gamma_positive and margin.
        regularisers: any of "interpolation", "video_distance", "text_distance".
        interpolation: the second pass is at a * CLIP + (1 - a) * now, with a drawn from 0 to this.
        interpolation_weight: factor on its loss.
        distance_weight: factor on 1 - cosine to frozen CLIP's features, of clips and of labels.
        residual: how much of a learned correction is added to a feature before that cosine.
    """

    temporal_layers: int | None = None
    trainable_layers: int | None = None
    tau: float = 0.1
    bias: float = -10.0
    loss: Literal["bce", "asymmetric"] = "bce"
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    margin: float = 0.05
    regularisers: tuple[str, ...] = ("interpolation", "video_distance")
    interpolation: float = 0.6
    interpolation_weight: float = 0.5
    distance_weight: float = 2.0
    residual: float = 0.1

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
        for name in ("temporal_layers", "trainable_layers"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ModelError(f"{name} is a number of blocks from the last; got {value}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"regularisers": list(self.regularisers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OVMLConfig:
        """The reverse of `to_dict`.

        Raises:
            ModelError: a key that is not one of the fields above, or a value out of range.
        """
        if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
            raise ModelError(f"unknown OVML setting {unknown[0]!r}; known: {', '.join(f.name for f in fields(cls))}")
        return cls(**values)


class OVMLLoss(NamedTuple):
    """`total` is what to minimise; `parts`: name -> its share of it, with its factor."""

    total: Tensor
    parts: dict[str, Tensor]


class OVML(nn.Module):
    """The model. Trained: `video` (as far as the configuration says), `scale`, `bias`, `projectors`, `label_encoder`.

    Args:
        config: see OVMLConfig.
        video: CLIP's picture encoder with the branch through time.
        frozen: the same encoder as it was, for the regularisers.
        embedding_dim: D.
        label_encoder: a module from K texts to (K, D); None: label vectors come from elsewhere.
    """

    def __init__(
        self,
        config: OVMLConfig,
        *,
        video: VideoTower,
        frozen: FrozenTower,
        embedding_dim: int,
        label_encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config, self.video, self.frozen, self.label_encoder = config, video, frozen, label_encoder
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.tau)))
        self.bias = nn.Parameter(torch.tensor(float(config.bias)))
        # Correct what the student says before it is compared, so that it may know more than its teacher (FROSTER).
        self.projectors = nn.ModuleDict(
            {
                name: MLP(embedding_dim, 1.0, zero_init=True)
                for name in ("video_distance", "text_distance")
                if name in config.regularisers
            }
        )

    @classmethod
    def from_backbone(
        cls, backbone: Backbone, config: OVMLConfig | None = None, *, label_encoder: nn.Module | None = None
    ) -> OVML:
        """Both picture encoders from a CLIP-family backbone, which is copied and stays as it is.

        Raises:
            ModelError: a backbone of another kind: the branch through time sits in a transformer's blocks.
        """
        config = config or OVMLConfig()
        if not isinstance(backbone, ClipBackbone):
            raise ModelError(
                f"OVML trains a picture encoder of the CLIP family; model {backbone.name!r} is another kind"
            )
        video = VideoTower(
            backbone.model, temporal_layers=config.temporal_layers, trainable_layers=config.trainable_layers
        )
        return cls(
            config,
            video=video,
            frozen=make_frozen_tower(backbone),
            embedding_dim=backbone.embedding_dim,
            label_encoder=label_encoder,
        )

    def forward(self, frames: Tensor) -> Tensor:
        """frames (B, T, 3, H, W) float, normalised as the backbone asks -> clip features (B, D)."""
        return clip_feature(self.video(frames))

    def logits(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (K, D) -> s / tau + b, (B, K) float32."""
        return similarity(features, labels) * self.log_scale.exp() + self.bias

    def probabilities(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (K, D) -> (B, K), each label on its own."""
        return self.logits(features, labels).sigmoid()

    def loss(
        self,
        frames: Tensor,
        labels: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        frozen_labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> OVMLLoss:
        """The objective with the regularisers of the configuration.

        Args:
            frames: (B, T, 3, H, W). labels: (K, D). targets: (B, K), 1 where a label holds.
            weights: what each pair counts, of a shape that broadcasts to (B, K): less for labels that a model wrote,
                more for labels that stand for others (`sample_labels`). None: 1.
            frozen_labels: (K, D), what CLIP's own text encoder says of the labels, for "text_distance".
            generator: of the place between CLIP's weights and the current ones; on the CPU.
        """
        c, parts = self.config, {}
        features = self(frames)
        parts["labels"] = self._objective(features, labels, targets, weights)
        if "interpolation" in c.regularisers:
            a = c.interpolation * float(torch.rand((), generator=generator))
            second = clip_feature(torch.func.functional_call(self.video, self.interpolated(a), (frames,)))
            parts["interpolation"] = c.interpolation_weight * self._objective(second, labels, targets, weights)
        if "video_distance" in c.regularisers:
            teacher = clip_feature(self.frozen(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))
            parts["video_distance"] = c.distance_weight * self._distance("video_distance", features, teacher)
        if "text_distance" in c.regularisers:
            if frozen_labels is None:
                raise ValueError("text_distance needs frozen_labels, CLIP's own vectors of the labels")
            parts["text_distance"] = c.distance_weight * self._distance("text_distance", labels, frozen_labels)
        return OVMLLoss(torch.stack(list(parts.values())).sum(), parts)

    def _objective(self, features: Tensor, labels: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        c, logits = self.config, self.logits(features, labels)
        if c.loss == "bce":
            return bce_loss(logits, targets, weights=weights)
        return asymmetric_loss(
            logits, targets, gamma_negative=c.gamma_negative, gamma_positive=c.gamma_positive, margin=c.margin,
            weights=weights,
        )  # fmt: skip

    def _distance(self, name: str, features: Tensor, teacher: Tensor) -> Tensor:
        return residual_distance(features, teacher, self.projectors[name], residual=self.config.residual)

    def interpolated(self, a: float) -> dict[str, Tensor]:
        """Weights of `video` on the line from now (a = 0) to CLIP (a = 1); the branch's, which CLIP lacks, as they are.

        Gradients pass to the current weights.
        """
        original = dict(self.frozen.tower.named_parameters(prefix="clip"))
        return {
            name: torch.lerp(now, original[name].to(now), a) if name in original else now
            for name, now in self.video.named_parameters()
        }

    def trained_state(self) -> dict[str, Tensor]:
        """The weights that training moves, detached."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def parameter_groups(
        self, *, lr: float, tower_lr: float | None = None, scale_lr: float = 1e-2, weight_decay: float = 0.05
    ) -> list[dict[str, Any]]:
        """For an optimiser: the tower's own weights, scale and bias, and all else, each at its own learning rate.

        Scale and bias have far to go and are not decayed; nor are norms and biases. `peak_lr` is for a schedule
        (`lexivid.training.schedule`).
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            if name in ("log_scale", "bias"):
                rate = scale_lr
            elif name.startswith("video.") and ".branches." not in name and tower_lr is not None:
                rate = tower_lr
            else:
                rate = lr
            groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        return [
            {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]


class VideoTower(nn.Module):
    """CLIP's picture encoder, whose last blocks also look along time: (B, T, 3, H, W) -> (B, T, D).

    Args:
        model: CLIPModel, MetaClip2Model or SiglipModel of transformers; its vision half is copied.
        temporal_layers, trainable_layers: as of OVMLConfig.
    """

    def __init__(self, model: Any, *, temporal_layers: int | None = None, trainable_layers: int | None = None) -> None:
        super().__init__()
        self.clip = ClipTower(model, trainable_layers=trainable_layers)
        num_layers = self.clip.num_layers
        num = min(num_layers, -(-num_layers // 2) if temporal_layers is None else temporal_layers)
        config = self.clip.vision.config
        branches = {
            str(place): TemporalBranch(config.hidden_size, config.num_attention_heads)
            for place in range(num_layers - num, num_layers)
        }
        self.clip.vision.encoder = SpaceTimeEncoder(self.clip.vision.encoder.layers, branches)

    def forward(self, frames: Tensor) -> Tensor:
        self.clip.vision.encoder.num_frames = frames.shape[1]
        return self.clip(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


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


def bce_loss(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy, summed over labels, mean over clips -> ().

    Args:
        logits, targets: (B, K); targets 0 to 1. weights: broadcasts to (B, K).
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return (loss if weights is None else loss * weights).sum(dim=1).mean()


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    margin: float = 0.05,
    weights: Tensor | None = None,
) -> Tensor:
    """The asymmetric loss of Ridnik et al. 2021, summed over labels, mean over clips -> ().

    With q = max(p - margin, 0): -(1 - p)^gamma_positive log p where a label holds, -q^gamma_negative log(1 - q) where
    not. With both gammas and the margin 0 it is `bce_loss`. Shapes as there.
    """
    logits, targets = logits.float(), targets.float()
    p = logits.sigmoid()
    q = (p - margin).clamp_min(0)
    # log(1 - p) from the logit: 1 - p itself is 0 for a large one.
    log_rest = F.logsigmoid(-logits) if margin == 0 else (1 - q).log()
    positive = -((1 - p) ** gamma_positive) * F.logsigmoid(logits)
    negative = -(q**gamma_negative) * log_rest
    loss = targets * positive + (1 - targets) * negative
    return (loss if weights is None else loss * weights).sum(dim=1).mean()


def residual_distance(
    features: Tensor, teacher: Tensor, projector: Callable[[Tensor], Tensor], *, residual: float
) -> Tensor:
    """1 - cosine of x + residual * projector(x) and the teacher's features, with x of unit length: (N, D) -> ()."""
    x = F.normalize(features.float(), dim=-1)
    return (1 - F.cosine_similarity(x + residual * projector(x), teacher.float(), dim=-1)).mean()


def sample_labels(targets: Tensor, num: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Which labels a step computes, so that memory does not grow with the label set.

    Every label that holds in a clip of the batch is kept; the others are drawn at random up to `num` labels in all, and
    those drawn weigh for those left out, so that the expected loss is that of all labels.

    Args:
        targets: (B, K). num: at least one more than the labels that hold, unless it is K or more.

    Returns:
        Places (n,) int64, ascending, and weights (n,) float.

    Raises:
        ValueError: no label that does not hold would be seen.
    """
    holds = (targets > 0).any(dim=0).cpu()
    total = len(holds)
    if num >= total:
        return torch.arange(total, device=targets.device), torch.ones(total, device=targets.device)
    kept, others = holds.nonzero()[:, 0], (~holds).nonzero()[:, 0]
    num_drawn = num - len(kept)
    if num_drawn < 1:
        raise ValueError(f"{num} labels a step leave no room beside the {len(kept)} that hold in this batch: take more")
    drawn = others[torch.randperm(len(others), generator=generator)[:num_drawn]]
    places, order = torch.cat([kept, drawn]).sort()
    weights = torch.cat([torch.ones(len(kept)), torch.full((num_drawn,), len(others) / num_drawn)])[order]
    return places.to(targets.device), weights.to(targets.device)


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
