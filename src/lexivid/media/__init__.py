"""Files -> frames and waveforms."""

from lexivid.media._container import MediaInfo
from lexivid.media.audio import Sound, read_sound, read_waveform
from lexivid.media.decode import SampledFrames, VideoReader, open_video, probe, read_views
from lexivid.media.views import Views

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
