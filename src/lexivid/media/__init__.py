"""Files -> frames and waveforms."""

from lexivid.media.audio import read_waveform
from lexivid.media.decode import MediaInfo, SampledFrames, VideoReader, open_video, probe, read_views
from lexivid.media.views import Views

__all__ = ["MediaInfo", "SampledFrames", "VideoReader", "Views", "open_video", "probe", "read_views", "read_waveform"]
