"""How clips are sampled: which frames, which optical flow, how much audio. One dataclass for training and inference.

    recipe's section `data` -> ClipSampling -> config.json of the trained model -> ClipSampling -> `SampleSpec`

What a model was trained on, inference must give it again, so these settings travel with the model. Everything else
about a sample (augmentation, number of views) belongs to training or to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from lexivid.data._reading import MAX_SOUND_S
from lexivid.errors import LexividError
from lexivid.media.flow import Algorithm
from lexivid.media.views import Views

_MOST_PX = 4096
# A model that does not say how its frames were sampled: spread over the whole file.
_UNSAID = {"stride": None, "stride_rate": 30.0}


@dataclass(frozen=True, kw_only=True)
class ClipSampling:
    """How a clip is sampled. Defaults are the paper's (sections 4.1 and 4.2).

    Args:
        num_frames: of a clip in time, as in `Views`.
        stride: frames from one to the next; None: they are spread over the whole clip.
        stride_rate: what the stride counts: frames at this rate per second, or "native" ones of the file.
        flow: algorithm of optical flow: "tvl1", "tvl1-fast" or "dis".
        flow_texture: flow of the frames' texture (see `lexivid.media.flow`), for light that flickers or fades. The
            paper has none.
        flow_size: short side of the frames that flow is computed from, pixels; None: as the backbone resizes its
            frames. Flow is in pixels of that size. Smaller frames are not enlarged before.
        flow_crop: side of a crop of flow, pixels; None: as the backbone crops its frames. A tower that is trained on
            flow from the start can take smaller crops: its cost is the square of this.
        audio_s: length of a crop of audio in seconds.

    Raises:
        LexividError: a value is of the wrong type or out of range.
    """

    num_frames: int = 16
    stride: int | None = 4
    stride_rate: float | Literal["native"] = "native"
    flow: Algorithm = "tvl1"
    flow_texture: bool = False
    flow_size: int | None = None
    flow_crop: int | None = None
    audio_s: float = 8.0

    def __post_init__(self) -> None:
        _ = self.views  # checks the times
        if self.flow not in get_args(Algorithm):
            raise LexividError(f"unknown flow algorithm {self.flow!r}: choose {', '.join(get_args(Algorithm))}")
        if not isinstance(self.flow_texture, bool):
            raise LexividError(f"flow_texture is {self.flow_texture!r}, and must be true or false")
        for name in ("flow_size", "flow_crop"):
            size = getattr(self, name)
            if size is None:
                continue
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MOST_PX:
                raise LexividError(f"{name} is {size!r}, and must be a whole number from 1 to {_MOST_PX}")
        seconds = self.audio_s
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.1 <= seconds <= MAX_SOUND_S:
            raise LexividError(f"audio_s is {seconds!r}, and must be from 0.1 to {MAX_SOUND_S:g} seconds")

    @classmethod
    def of(cls, settings: ClipSampling) -> ClipSampling:
        """The sampling alone of something that has more settings: a recipe's section, a `SampleSpec`."""
        return ClipSampling(**{name: getattr(settings, name) for name in _NAMES})

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without what a subclass adds."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipSampling:
        """What a model's folder says. Unknown keys are ignored: a newer version may have written them.

        A folder that names no stride has its frames spread over the file; the rest has its default.

        Raises:
            LexividError: no mapping, or a value of the wrong type or out of range.
        """
        if not isinstance(values, Mapping):
            raise LexividError(f"sampling is {values!r}, and must be a mapping of settings")
        return ClipSampling(**{**_UNSAID, **{name: values[name] for name in _NAMES if name in values}})

    @property
    def views(self) -> Views:
        """One clip of a file, uncropped."""
        return Views(num_frames=self.num_frames, stride=self.stride, stride_rate=self.stride_rate)


_NAMES = tuple(item.name for item in fields(ClipSampling))
