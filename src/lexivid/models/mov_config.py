"""The settings of MOV (`lexivid.models.mov`), and their checks. Section 4.2 of the paper has the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lexivid.backbones.base import Backbone
from lexivid.errors import ModelError
from lexivid.media.modalities import MODALITIES


@dataclass(frozen=True)
class MOVConfig:
    """Everything but weights; `to_dict` is JSON. Defaults are the paper's (B/16) where the paper has a number.

    Args:
        embedding_dim: D.
        num_heads: 8 for D = 512 (B/16), 12 for D = 768 (L/14): section 4.2 and 4.3.
        num_temporal_layers: L of phi_v and phi_f; 0 leaves out the audio MLP of eq. 4 too.
        num_cross_layers: layers of eq. 5 and 6, and of eq. 7 and 8.
        mlp_ratio: hidden width of each MLP, in D.
        modalities: "video" first, then "flow", "audio" or both.
        alpha: weight of the video term in eq. 9; the others share 1 - alpha.
        tau: temperature of eq. 9 and 10.
        beta: weight of the others in eq. 12, shared; v has 1 - beta.
        tau_v, tau_f, tau_a: temperatures of eq. 11 (appendix B on why tau_v is smaller).
        frozen_video: false trains the video tower as well, which MOV does not: the comparison of figure 1 (a-d).
        trainable_layers: of the trained towers, the last n; None for all (table 6).
        temporal_branches: of a trained video tower of the CLIP family, the last n blocks also attend along time: OVML's
            branch (`lexivid.models.ovml`), which MOV does not have.
        spectrogram_pooling: mel bins and steps of a spectrogram that the audio tower sees as one, their mean; None:
            (1, 4) for `lite`, (1, 1) for the CLIP family. A CLIP of few and large patches wants more.
        audio_batch_norm_momentum: of lite's audio tower alone, see `LiteTower`.
        scale_tokens: bring every token of eq. 1 to the length sqrt(D). The paper does not say. On for every backbone:
            it makes one learning rate fit all, and unit-length tokens, which some backbones give, drown in the
            residual stream (docs/results/motion.md: novel classes fell from 38 % to 2 %).
        zero_init: every block of the fusion starts as the identity, so that at step 0 v_m is the mean of v. The paper
            does not say. On for every backbone, as it never measured worse. Both off is the paper to the letter.
    """

    embedding_dim: int = 512
    num_heads: int = 8
    num_temporal_layers: int = 2
    num_cross_layers: int = 1
    mlp_ratio: float = 4.0
    modalities: tuple[str, ...] = ("video", "flow")
    alpha: float = 0.5
    tau: float = 0.01
    beta: float = 0.25
    tau_v: float = 0.003
    tau_f: float = 0.01
    tau_a: float = 0.01
    frozen_video: bool = True
    trainable_layers: int | None = None
    temporal_branches: int = 0
    spectrogram_pooling: tuple[int, int] | None = None
    audio_batch_norm_momentum: float | None = 0.1
    scale_tokens: bool = True
    zero_init: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))
        known = tuple(name for name in MODALITIES if name in self.modalities)
        if sorted(self.modalities) != sorted(known) or self.modalities[:1] != ("video",):
            raise ModelError(
                f"modalities {self.modalities!r}: MOV takes 'video' first, then 'flow', 'audio' or both, each once"
            )
        if self.embedding_dim % self.num_heads:
            raise ModelError(f"embedding_dim {self.embedding_dim} is no multiple of num_heads {self.num_heads}")
        if self.spectrogram_pooling is not None:
            object.__setattr__(self, "spectrogram_pooling", tuple(self.spectrogram_pooling))
            if len(self.spectrogram_pooling) != 2 or min(self.spectrogram_pooling) < 1:
                raise ModelError(
                    f"spectrogram_pooling is mel bins and steps, both at least 1; got {self.spectrogram_pooling}"
                )
        if self.temporal_branches < 0 or (self.temporal_branches and self.frozen_video):
            raise ModelError(
                f"temporal_branches is a number of blocks of a trained video tower (frozen_video: false); got "
                f"{self.temporal_branches}"
            )
        for name in ("tau", "tau_v", "tau_f", "tau_a"):
            if not getattr(self, name) > 0:
                raise ModelError(f"{name} is a temperature and must be above 0; got {getattr(self, name)}")
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name} is a weight between 0 and 1; got {getattr(self, name)}")

    @classmethod
    def for_backbone(cls, backbone: Backbone, *, tau_v_ratio: float = 0.3, **overrides: Any) -> MOVConfig:
        """The defaults that suit a backbone: heads 64 wide, as the paper's; temperatures from the backbone's own.

        With CLIP's temperature of 0.01 these are the paper's numbers; `lite`, at 0.07, gets tau = tau_f = tau_a = 0.07
        and tau_v = 0.021, the paper's ratio. tau_v_ratio: another one.
        """
        dim, tau = backbone.embedding_dim, backbone.temperature
        defaults = {
            "embedding_dim": dim,
            "num_heads": dim // 64 if dim % 64 == 0 else 8 if dim % 8 == 0 else 1,
            "tau": tau,
            "tau_f": tau,
            "tau_a": tau,
            "tau_v": tau_v_ratio * tau,
        }
        return cls.from_dict(defaults | overrides)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        pooling = list(self.spectrogram_pooling) if self.spectrogram_pooling else None
        return asdict(self) | {"modalities": list(self.modalities), "spectrogram_pooling": pooling}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MOVConfig:
        """The reverse of `to_dict`.

        Raises:
            ModelError: a key that is not one of the fields above, or a value out of range.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ModelError(f"unknown MOV setting {unknown[0]!r}; known: {', '.join(f.name for f in fields(cls))}")
        values = dict(values)
        if values.get("spectrogram_pooling") == 4:  # of configurations that are older than the pair: the default
            values["spectrogram_pooling"] = None
        return cls(**values)
