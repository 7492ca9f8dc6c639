"""Files -> frames and waveforms."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lexivid.media._container import MediaInfo
    from lexivid.media.audio import Sound, read_sound, read_waveform
    from lexivid.media.decode import SampledFrames, VideoReader, open_video, probe, read_views
    from lexivid.media.views import Views

_MODULE_OF = {
    "MediaInfo": "lexivid.media._container",
    "SampledFrames": "lexivid.media.decode",
    "Sound": "lexivid.media.audio",
    "VideoReader": "lexivid.media.decode",
    "Views": "lexivid.media.views",
    "open_video": "lexivid.media.decode",
    "probe": "lexivid.media.decode",
    "read_sound": "lexivid.media.audio",
    "read_views": "lexivid.media.decode",
    "read_waveform": "lexivid.media.audio",
}
__all__ = [
    "MediaInfo",
    "SampledFrames",
    "Sound",
    "VideoReader",
    "Views",
    "open_video",
    "probe",
    "read_sound",
    "read_views",
    "read_waveform",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported at its first use, so that files are found, and wrong calls refused, at once."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lexivid.media' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
