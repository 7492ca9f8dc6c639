"""MOV, one model in one file, in the order of the paper (Qian et al. 2022, section 3, eq. 1 to 12).

    video (B, T, 3, H, W) -> h_v, frozen -> v (B, T, D) --phi_v--> v_t --attends to [f_t, a_t]--> v_m (B, D)
    flow  (B, T, 3, H, W) -> h_f, trained -> f (B, T, D) --phi_f--> f_t --attends to v----------> f_m (B, D)
    audio (B, 3, F, S)    -> h_a, trained -> a (B, 1, D) ---MLP---> a_t --attends to v----------> a_m (B, D)

Base classes are predicted from v_m alone (eq. 10), novel ones from f_m, a_m and the frozen v (eq. 11, 12): v, which
saw no training, keeps the backbone's open vocabulary; v_t, trained on the base classes, has lost it, and so nothing on
the novel path touches v_t.

The paper fuses video with one other modality and calls more an easy extension. Here it is: video attends to the
concatenated tokens of flow and audio; each of them attends to v; 1 - alpha (eq. 9) and beta (eq. 12) are shared out
equally between them.

A clip may lack any stream. A masked stream changes no bit of any output; the weights of eq. 9 and 12 are
renormalised over the streams that are there.

Shapes: B clips, T frames, D embedding width, K labels (p base, q novel), M modalities of the model, F mel bins,
S spectrogram steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexivid.backbones.base import Backbone
from lexivid.errors import ModelError
from lexivid.models.fusion import AudioLayer, CrossLayer, TemporalLayer
from lexivid.models.mov_config import MOVConfig
from lexivid.models.ovml import make_video_tower
from lexivid.models.towers import FrozenTower, make_frozen_tower, make_tower

FROZEN_PREFIX = "towers.video.tower."  # of the state dict: what a `FrozenTower` holds, the backbone's own weights

Head = Literal["base", "novel"]
HEADS: tuple[Head, ...] = ("base", "novel")
BaseScore = Literal["v_m", "mean"]


class MOVFeatures(NamedTuple):
    """What one forward pass gives. Rows of `v`, `v_m` and `x_m` whose stream is missing are zeros.

    Attributes:
        v: (B, D), frozen features, mean over time: for novel classes.
        v_m: (B, D), fused video features (eq. 6): for base classes.
        x_m: "flow" -> f_m (B, D), "audio" -> a_m (B, D) (eq. 8), in the order of the configuration.
        mask: (B, M) bool, which streams were there: video first, then as `x_m`.
    """

    v: Tensor
    v_m: Tensor
    x_m: dict[str, Tensor]
    mask: Tensor


class MOV(nn.Module):
    """The model. Weights: `towers` (video frozen), `temporal` (phi_v, phi_f, the audio MLP), `cross`.

    Args:
        config: see MOVConfig.
        towers: modality -> module from pictures (N, 3, H, W) to features (N, D), see `lexivid.models.towers`. A
            modality without one takes tokens instead of pictures. The video tower is frozen here, and nowhere else,
            unless `frozen_video` is false.
    """

    def __init__(self, config: MOVConfig, *, towers: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.config = config
        towers = dict(towers or {})
        if extra := sorted(set(towers) - set(config.modalities)):
            raise ModelError(f"a tower for {extra[0]!r}, but the model's modalities are {config.modalities}")
        # "we freeze the video encoder" (section 3.3): no gradient, evaluation mode for ever
        if "video" in towers and config.frozen_video:
            video = towers["video"]
            towers["video"] = video if isinstance(video, FrozenTower) else FrozenTower(video)
        self.towers = nn.ModuleDict(towers)
        dim, heads, ratio, zero = config.embedding_dim, config.num_heads, config.mlp_ratio, config.zero_init
        self.temporal = nn.ModuleDict()
        self.cross = nn.ModuleDict()
        for name in config.modalities:
            self.temporal[name] = (
                AudioLayer(dim, ratio, zero_init=zero)
                if name == "audio" and config.num_temporal_layers
                else nn.Sequential(
                    *(TemporalLayer(dim, heads, ratio, zero_init=zero) for _ in range(config.num_temporal_layers))
                )
            )
            self.cross[name] = nn.ModuleList(
                CrossLayer(dim, heads, ratio, zero_init=zero, has_context=len(config.modalities) > 1)
                for _ in range(config.num_cross_layers)
            )

    @classmethod
    def from_backbone(cls, backbone: Backbone, config: MOVConfig | None = None) -> MOV:
        """All towers from the backbone's picture encoder: theta_v = theta_f = theta_a = theta_h (section 3.1).

        The backbone itself is copied and stays as it is.
        """
        config = config or MOVConfig.for_backbone(backbone)
        if config.embedding_dim != backbone.embedding_dim:
            raise ModelError(f"embedding_dim {config.embedding_dim}, but {backbone.name} has {backbone.embedding_dim}")
        towers: dict[str, nn.Module] = {}
        for name in config.modalities:
            if name == "video" and config.frozen_video:
                towers[name] = make_frozen_tower(backbone)
            elif name == "video" and config.temporal_branches:
                towers[name] = make_video_tower(
                    backbone, temporal_layers=config.temporal_branches, trainable_layers=config.trainable_layers
                )
            else:
                towers[name] = make_tower(
                    backbone,
                    modality=name,
                    trainable_layers=config.trainable_layers,
                    batch_norm_momentum=config.audio_batch_norm_momentum if name == "audio" else None,
                    spectrogram_pooling=config.spectrogram_pooling,
                )
        return cls(config, towers=towers)

    def forward(
        self,
        *,
        video: Tensor | None = None,
        flow: Tensor | None = None,
        audio: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> MOVFeatures:
        """Features of B clips.

        Args:
            video, flow: frames (B, T, 3, H, W) float, normalised as the backbone asks, or features (B, T, D), such as
                cached ones of the frozen tower. None: no clip has the stream.
            audio: spectrogram (B, 3, F, S) float, or feature (B, 1, D).
            mask: (B, M) bool in the order of `config.modalities`; false where the clip lacks the stream, whose
                content is then ignored. None: all that is given is there.

        Trained with DDP, a batch in which no clip has flow leaves the flow tower without a gradient: set
        `find_unused_parameters`.
        """
        given = {"video": video, "flow": flow, "audio": audio}
        if extra := [name for name, x in given.items() if x is not None and name not in self.config.modalities]:
            raise ModelError(f"{extra[0]} was given, but the model's modalities are {self.config.modalities}")
        present = self._presence(given, mask)  # name -> (B,)
        # eq. 1
        tokens = {name: self._encode(name, given, present[name], some=mask is not None) for name in present}
        v, others = tokens["video"], self.config.modalities[1:]
        # eq. 4, of which phi is eq. 2 and 3
        t = {name: self.temporal[name](x) for name, x in tokens.items()}
        # eq. 5 and 6: video attends to what training made of flow and audio
        context = context_mask = None
        if others:
            context = torch.cat([t[name] for name in others], dim=1)
            context_mask = torch.cat([present[name][:, None].expand(t[name].shape[:2]) for name in others], dim=1)
        v_m = self._fuse("video", t["video"], context, context_mask, present["video"])
        # eq. 7 and 8: flow and audio attend to the frozen v, not to v_t, which has forgotten the novel classes
        v_mask = present["video"][:, None].expand(v.shape[:2])
        x_m = {name: self._fuse(name, t[name], v, v_mask, present[name]) for name in others}
        return MOVFeatures(v.mean(dim=1), v_m, x_m, torch.stack(list(present.values()), dim=1))

    def _presence(self, given: Mapping[str, Tensor | None], mask: Tensor | None) -> dict[str, Tensor]:
        first = next((x for x in given.values() if x is not None), None)
        if first is None:
            raise ValueError("give at least one of video, flow and audio")
        if mask is None:
            mask = torch.ones(len(first), len(self.config.modalities), dtype=torch.bool, device=first.device)
        if mask.dtype != torch.bool or mask.shape != (len(first), len(self.config.modalities)):
            raise ValueError(f"mask is (B, M) bool; got {tuple(mask.shape)} {mask.dtype} for {len(first)} clips")
        mask = mask.to(first.device)
        return {
            name: mask[:, i] if given[name] is not None else torch.zeros_like(mask[:, i])
            for i, name in enumerate(self.config.modalities)
        }

    def _encode(self, name: str, given: Mapping[str, Tensor | None], present: Tensor, *, some: bool) -> Tensor:
        """Eq. 1 for one modality -> tokens (B, T, D) or (B, 1, D); zeros where the clip lacks it.

        The tower sees only the pictures that are there: nothing else can reach a batch norm or cost time.
        """
        x, dim = given[name], self.config.embedding_dim
        dtype = next((p.dtype for p in self.parameters()), torch.float32)
        if x is None:  # as many tokens as the clips have frames: the same arithmetic, bit for bit, as when masked
            frames = next((y for n in ("video", "flow") if (y := given[n]) is not None), None)
            num_tokens = 1 if name == "audio" or frames is None else frames.shape[1]
            return torch.zeros(len(present), num_tokens, dim, device=present.device, dtype=dtype)
        if x.ndim == 3:  # features already
            if x.shape[-1] != dim:
                raise ModelError(f"{name} features are {x.shape[-1]} wide; the model's are {dim}")
            tokens = torch.where(present[:, None, None], x, 0.0)
        else:
            if name not in self.towers:
                raise ModelError(f"{name} came as pictures, but the model has no {name} tower: give features (B, T, D)")
            pictures = x[:, None] if name == "audio" else x  # (B, T, 3, H, W)
            existing = pictures[present] if some else pictures
            features = (
                encode_clips(self.towers[name], existing)
                if len(existing)
                else pictures.new_zeros(0, *existing.shape[1:2], dim)
            )
            tokens = features.new_zeros(len(present), pictures.shape[1], dim)
            tokens[present] = features
        if self.config.scale_tokens:
            tokens = F.normalize(tokens.float(), dim=-1) * math.sqrt(dim)
        return tokens.to(dtype)

    def _fuse(
        self, name: str, x: Tensor, context: Tensor | None, context_mask: Tensor | None, present: Tensor
    ) -> Tensor:
        """Eq. 5 and 6, or 7 and 8: (B, T, D) -> (B, D), zeros where the clip lacks the modality."""
        for layer in self.cross[name].children():
            x = layer(x, context, context_mask=context_mask)
        return torch.where(present[:, None], x.mean(dim=1), 0.0)  # AvgPool

    def loss(self, features: MOVFeatures, labels: Tensor, targets: Tensor) -> Tensor:
        """Eq. 9 with this model's alpha and tau. labels (p, D): base classes; targets (B,) int."""
        c = self.config
        return mov_loss(features.v_m, features.x_m, labels, targets, alpha=c.alpha, tau=c.tau, mask=features.mask)

    def predict_base(self, features: MOVFeatures, labels: Tensor) -> Tensor:
        """Eq. 10: labels (p, D) -> probabilities (B, p)."""
        return predict_base(features.v_m, labels, tau=self.config.tau, x_m=features.x_m, mask=features.mask)

    def predict_novel(self, features: MOVFeatures, labels: Tensor) -> Tensor:
        """Eq. 11 and 12: labels (q, D) -> probabilities (B, q)."""
        return self.log_predict_novel(features, labels).exp().float()

    def log_predict_novel(self, features: MOVFeatures, labels: Tensor) -> Tensor:
        """The logarithm of `predict_novel`: (B, q) float64."""
        c = self.config
        return log_predict_novel(
            features.v, features.x_m, labels, beta=c.beta, tau_v=c.tau_v, tau_x=self._tau_x, mask=features.mask
        )

    def log_probabilities_by_modality(self, features: MOVFeatures, labels: Tensor, *, head: Head) -> dict[str, Tensor]:
        """The prediction of each modality alone: name -> log probabilities (B, K) float64, -inf where it is missing.

        "base": v_m, f_m and a_m at tau (the terms of eq. 9). "novel": v, f_m and a_m at their own (eq. 11).
        """
        if head == "base":
            taus = dict.fromkeys(self.config.modalities, self.config.tau)
        else:
            taus = {"video": self.config.tau_v, **self._tau_x}
        features_of = {"video": features.v_m if head == "base" else features.v, **features.x_m}
        return {
            name: torch.where(features.mask[:, i, None], log_probabilities(x, labels, tau=taus[name]), -torch.inf)
            for i, (name, x) in enumerate(features_of.items())
        }

    @property
    def _tau_x(self) -> dict[str, float]:
        return {"flow": self.config.tau_f, "audio": self.config.tau_a}


def encode_clips(tower: nn.Module, pictures: Tensor) -> Tensor:
    """(B, T, 3, H, W) -> (B, T, D): picture by picture, or all of a clip together where the tower looks along time."""
    if getattr(tower, "along_time", False):
        return tower(pictures)
    return tower(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])


def similarity(features: Tensor, labels: Tensor) -> Tensor:
    """sim of eq. 9 to 11, the cosine: (B, D), (K, D) -> (B, K) float32."""
    return F.normalize(features.float(), dim=-1) @ F.normalize(labels.float(), dim=-1).T


def probabilities(features: Tensor, labels: Tensor, *, tau: float) -> Tensor:
    """softmax(sim / tau) over the labels: (B, D), (K, D) -> (B, K) float32."""
    return (similarity(features, labels) / tau).softmax(dim=-1)


def log_probabilities(features: Tensor, labels: Tensor, *, tau: float) -> Tensor:
    """The logarithm of `probabilities`, (B, K) float64: at small tau those of unlikely labels are 0, and all alike."""
    return (similarity(features, labels).double() / tau).log_softmax(dim=-1)


def log_mean(logs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The logarithm of a weighted mean of probabilities: M logarithms (B, K) each, weights (B, M) -> (B, K) float64."""
    return torch.logsumexp(torch.stack(list(logs), dim=1) + weights.double().log()[..., None], dim=1)


def mov_loss(
    v_m: Tensor,
    x_m: Mapping[str, Tensor],
    labels: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.5,
    tau: float = 0.01,
    mask: Tensor | None = None,
) -> Tensor:
    """Eq. 9, mean over clips -> ().

    Args:
        v_m: (B, D). x_m: name -> (B, D); 1 - alpha is shared out equally. labels: (p, D). targets: (B,) int.
        mask: (B, 1 + len(x_m)) bool, video first. The weights are renormalised over what a clip has; a clip that has
            nothing does not count.
    """
    nll = [F.cross_entropy(similarity(x, labels) / tau, targets, reduction="none") for x in (v_m, *x_m.values())]
    weights = modality_weights(alpha, len(x_m), mask, v_m)  # (B, M)
    has_any = weights.sum(dim=1) > 0
    return (torch.stack(nll, dim=1) * weights).sum() / has_any.sum().clamp_min(1)


def predict_base(
    v_m: Tensor,
    labels: Tensor,
    *,
    tau: float = 0.01,
    x_m: Mapping[str, Tensor] | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Eq. 10: v_m (B, D), base labels (p, D) -> probabilities (B, p).

    Given x_m and mask (B, 1 + len(x_m)), a clip without video, for which the paper has no answer, gets the mean of
    what its other streams say at the same tau. A clip with video is not touched by them.
    """
    return log_predict_base(v_m, labels, tau=tau, x_m=x_m, mask=mask).exp().float()


def log_predict_base(
    v_m: Tensor,
    labels: Tensor,
    *,
    tau: float = 0.01,
    x_m: Mapping[str, Tensor] | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The logarithm of `predict_base`: (B, p) float64."""
    if not x_m or mask is None:
        return log_probabilities(v_m, labels, tau=tau)
    return log_mean([log_probabilities(x, labels, tau=tau) for x in (v_m, *x_m.values())], base_weights(mask))


def predict_novel(
    v: Tensor,
    x_m: Mapping[str, Tensor],
    labels: Tensor,
    *,
    beta: float = 0.25,
    tau_v: float = 0.003,
    tau_x: float | Mapping[str, float] = 0.01,
    mask: Tensor | None = None,
) -> Tensor:
    """Eq. 11 and 12: novel labels (q, D) -> probabilities (B, q).

    Args:
        v: (B, D), frozen features, mean over time. x_m: name -> (B, D); beta is shared out equally.
        tau_x: tau_f and tau_a, by name or one for all.
        mask: (B, 1 + len(x_m)) bool, video first; the weights are renormalised over what a clip has.
    """
    return log_predict_novel(v, x_m, labels, beta=beta, tau_v=tau_v, tau_x=tau_x, mask=mask).exp().float()


def log_predict_novel(
    v: Tensor,
    x_m: Mapping[str, Tensor],
    labels: Tensor,
    *,
    beta: float = 0.25,
    tau_v: float = 0.003,
    tau_x: float | Mapping[str, float] = 0.01,
    mask: Tensor | None = None,
) -> Tensor:
    """The logarithm of `predict_novel`: (B, q) float64."""
    tau = tau_x if isinstance(tau_x, Mapping) else dict.fromkeys(x_m, tau_x)
    # eq. 11
    p = [log_probabilities(v, labels, tau=tau_v)]
    p += [log_probabilities(x, labels, tau=tau[name]) for name, x in x_m.items()]
    return log_mean(p, modality_weights(1 - beta, len(x_m), mask, v))  # eq. 12


def base_weights(mask: Tensor, how: BaseScore = "v_m") -> Tensor:
    """Weights of the modalities in the base head: mask (B, M) bool, video first -> (B, M) float64; zeros for no stream.

    "v_m" (eq. 10): video alone, and where a clip has none, for which the paper has no answer, its other modalities
    alike. "mean" (score fusion, table 5): all that a clip has, alike.
    """
    present = mask.double()
    if how == "v_m":
        present[:, 1:] *= 1 - present[:, :1]
    return present / present.sum(dim=1, keepdim=True).clamp_min(1)


def modality_weights(video: float, num_others: int, mask: Tensor | None, like: Tensor) -> Tensor:
    """(B, M): `video` for video, the rest equally for the others, renormalised over the mask; zeros for no stream.

    Where all that is there has weight 0, it shares equally, the limit of small weights.
    """
    shared_out = [video, *[(1 - video) / max(1, num_others)] * num_others]
    weights = torch.tensor(shared_out, device=like.device).expand(len(like), -1)
    if mask is not None:
        weights = torch.where((weights * mask).sum(dim=1, keepdim=True) > 0, weights, 1.0) * mask
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
