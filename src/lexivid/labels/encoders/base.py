"""Label encoders that are trained, as two files: what `lexivid train` and `SoftAttributeEncoder.save` write.

    label_encoder.json          kind, settings, the frozen models by name and fingerprint
    label_encoder.safetensors   the trained weights; those of the frozen models are not among them

Kinds: "soft_attributes" (OVML, `lexivid.labels.encoders.soft_attributes`) and "learned_context" (CoOp,
`lexivid.labels.encoders.coop`). Shapes: K labels, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lexivid.backbones.base import lasting_name
from lexivid.base.storage import write_atomically
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder

if TYPE_CHECKING:
    from typing_extensions import Self

CONFIG_FILE, WEIGHTS_FILE = "label_encoder.json", "label_encoder.safetensors"


class TrainedLabelEncoder(nn.Module):
    """Labels -> (K, D), unit length, with gradients to its own weights alone.

    Attributes:
        kind: of the files.
        text_encoder: CLIP's, frozen.
    """

    kind: ClassVar[str]
    text_encoder: FrozenTextEncoder

    @abstractmethod
    def forward(self, labels: Sequence[str]) -> Tensor:
        """K labels -> (K, D) float32."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides vectors but weights, as JSON types."""

    @classmethod
    @abstractmethod
    def from_settings(
        cls, about: Mapping[str, Any], text_encoder: FrozenTextEncoder, *, device: str | torch.device
    ) -> Self:
        """The reverse of `settings`, with untrained weights."""

    def trained_state(self) -> dict[str, Tensor]:
        """The weights that training moves, on the CPU; those of the frozen models are not among them."""
        return {
            name: value.detach().cpu().contiguous() for name, value in self.named_parameters() if value.requires_grad
        }

    @property
    def fingerprint(self) -> str:
        """Identifies everything that decides a label's vector: settings, trained weights, frozen models."""
        # Not the language model's name, which may be a place; its own fingerprint is among the settings.
        decisive = {key: value for key, value in self.settings().items() if key != "language_model"}
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
        for name, value in sorted((self.trained_state() | self.text_encoder.state_dict(prefix="clip.")).items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def save(self, folder: str | Path, *, backbone: str) -> None:
        """Write settings and trained weights; the frozen models are named, not copied.

        backbone: the name that `load_backbone` finds the CLIP model by.
        """
        from safetensors.torch import save

        folder = Path(folder)
        write_atomically(folder / WEIGHTS_FILE, save(self.trained_state()))
        about = {
            "kind": self.kind,
            "backbone": lasting_name(backbone),
            "fingerprint": self.fingerprint,
            **self.settings(),
        }
        write_atomically(folder / CONFIG_FILE, json.dumps(about, indent=2) + "\n")


def has_label_encoder(folder: str | Path) -> bool:
    """Whether a folder holds a trained label encoder."""
    return (Path(folder) / CONFIG_FILE).is_file()
