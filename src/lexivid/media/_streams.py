"""Which of a file's streams are used, and what they are called.

In: an open PyAV container. Out: its streams of pictures and of sound, the name of a codec, the rate of frames.
"""

from __future__ import annotations

import re

import av
from av.container import InputContainer
from av.video.stream import VideoStream


def pick_video(container: InputContainer) -> VideoStream | None:
    """The video stream that ffmpeg would take: the largest picture, or the one marked as default; no cover art."""
    best: tuple[float, VideoStream] | None = None
    for stream in container.streams.video:
        disposition = stream.disposition
        if disposition & (av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails):
            continue
        size = stream.width * stream.height if stream.codec_context else 0
        score = size + 5_000_000 * bool(disposition & av.stream.Disposition.default)
        if best is None or score > best[0]:
            best = (score, stream)
    return best[1] if best else None


def pick_audio(container: InputContainer) -> av.AudioStream | None:
    """The audio stream that ffmpeg would take: the most channels, or the one marked as default."""
    best: tuple[float, av.AudioStream] | None = None
    for stream in container.streams.audio:
        if not stream.codec_context:
            continue
        score = stream.channels + 5_000_000 * bool(stream.disposition & av.stream.Disposition.default)
        if best is None or score > best[0]:
            best = (score, stream)
    return best[1] if best else None


def codec_name(stream: av.stream.Stream) -> str:
    """The name of a stream's codec; of one that has no decoder here, the four letters that the file gives it."""
    if stream.codec_context:
        return stream.codec_context.codec.canonical_name  # "av1", where the decoder is "libdav1d"
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)  # FFmpeg tells it in a log line only
    try:
        described = stream.container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_level(level)
    found = re.search(rf"Stream #0:{stream.index}\b.*?: \w+: none(?: \((.{{4}}) /)?", described)
    return found[1] if found and found[1] and found[1].isprintable() else "unknown"


def frame_rate_of(stream: VideoStream) -> float:
    """Frames per second on average, 0 where unknown or absurd."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return float(rate)
    return 0.0
