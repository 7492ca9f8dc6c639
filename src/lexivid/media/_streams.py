"""Which of a file's streams are used and how their pictures are shown, as its container says.

In: an open PyAV container. Out: its streams of pictures and of sound, why these, their codec and rate, and
`Presentation`. What PyAV does not tell (programmes, cropping, tiles) is read from FFmpeg's own description.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import av
from av.container import Container, InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from lexivid.media._picture import Presentation

_NO_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
_PART_OF_PICTURE = Disposition.dependent | Disposition.still_image
_FOR_SOME = (
    Disposition.comment
    | Disposition.karaoke
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.clean_effects
    | Disposition.non_diegetic
    | Disposition.descriptions
)
_CHANNELS_APART = frozenset({"mov", "mxf", "gxf"})  # containers whose mono streams are channels of one programme
_MAX_TRACKS = 16
_STILL_CODECS = frozenset("png mjpeg bmp gif tiff webp jpeg2000 jpegls jpegxl".split())
_LONGEST_COVER_S = 0.5  # of a picture that a tool gave the length of a frame, or a few
_MOST_OBLONG = 16.0  # a pixel's sides; what is beyond counts as square
_LEAST_OBLONG = 1.04  # and what is below: the rounding of whoever scaled a film (DVD's pixels begin at 1.067)
_describing = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """The streams that are used: their numbers in the file (None: there is none), of how many, and why in words."""

    video: int | None
    audio: int | None
    num_video: int
    num_audio: int
    reason: str


def pick_video(container: InputContainer) -> VideoStream | None:
    """The stream of moving pictures that a player shows.

    Cover art and thumbnails are none, nor is the still beside the track of an animated AVIF or HEIC. First what
    decodes, then the default one, the largest picture, the first.
    """
    streams = _moving_pictures(container)
    return max(streams, key=_video_merit) if streams else None


def pick_audio(container: InputContainer) -> av.AudioStream | None:
    """The stream of sound that a player plays to `pick_video`'s pictures: of the same programme.

    First sound for everybody (no commentary, nothing for the hard of hearing), then the default one, the most
    channels, the first.
    """
    streams = _sounds(container)
    return max(streams, key=_audio_merit) if streams else None


def heard_together(container: InputContainer, chosen: av.AudioStream) -> list[av.AudioStream]:
    """The chosen stream of sound, or it among the mono streams that are channels of one programme.

    Cameras and broadcasters write them so: of one language and kind, in MXF, QuickTime, MP4 and GXF. Their rates and
    codecs may differ, as where sound was laid beside that of the camera. Of more than 16, the first 16.
    """
    together = _channels_apart(container, chosen)
    if len(together) > _MAX_TRACKS:
        others = [stream for stream in together if stream is not chosen][: _MAX_TRACKS - 1]
        together = sorted([*others, chosen], key=lambda stream: stream.index)
    return together


def unheard_channels(container: InputContainer, chosen: av.AudioStream) -> str:
    """In words, which channels of the programme are left out because they are too many; empty: none."""
    all_channels, mixed = _channels_apart(container, chosen), heard_together(container, chosen)
    if len(all_channels) == len(mixed):
        return ""
    return f"of {len(all_channels)} mono streams of sound {len(mixed)} are heard: more than that are not mixed"


def _channels_apart(container: InputContainer, chosen: av.AudioStream) -> list[av.AudioStream]:
    if chosen.channels != 1 or not set(container.format.name.split(",")) & _CHANNELS_APART:
        return [chosen]

    def kind(stream: av.AudioStream) -> tuple[object, ...]:
        apart = stream.disposition & (_FOR_SOME | Disposition.lyrics | Disposition.dub)
        return stream.channels, stream.metadata.get("language", "und"), int(apart)

    return [stream for stream in _sounds(container) if kind(stream) == kind(chosen)]


def choice_of(container: InputContainer) -> Choice:
    """Which streams are used, and why these where there were several."""
    video, audio = pick_video(container), pick_audio(container)
    videos, num_audio = _moving_pictures(container), len(container.streams.audio)
    reasons = []
    if video is not None and len(videos) > 1:
        why = _decisive(_video_merit(video), [_video_merit(other) for other in videos if other is not video], _VIDEO)
        reasons.append(f"of {len(videos)} streams of pictures, number {video.index} is used ({why})")
    if num_audio > 1 and audio is None:
        reasons.append(f"none of {num_audio} streams of sound decodes and belongs to the pictures")
    elif audio is not None and len(together := heard_together(container, audio)) > 1:
        numbers = ", ".join(str(stream.index) for stream in together)
        reasons.append(f"of {num_audio} streams of sound, mono ones are heard together (numbers {numbers})")
    elif num_audio > 1 and audio is not None:
        sounds = _sounds(container)
        why = _decisive(_audio_merit(audio), [_audio_merit(other) for other in sounds if other is not audio], _AUDIO)
        if len(sounds) < sum(bool(stream.codec_context) for stream in container.streams.audio):
            why = "of the programme of the pictures" + (f", {why}" if len(sounds) > 1 else "")
        reasons.append(f"of {num_audio} streams of sound, number {audio.index} is used ({why})")
    return Choice(
        video.index if video is not None else None,
        audio.index if audio is not None else None,
        len(videos),
        num_audio,
        "; ".join(reasons),
    )


def films_differ(container: InputContainer) -> bool:
    """Whether the streams of pictures are several films, and not one in several sizes (of one shape and length)."""
    video = pick_video(container)
    assert video is not None
    for other in _moving_pictures(container):
        if not other.codec_context:
            continue  # nobody here can see it
        if not (
            video.duration and other.duration and video.time_base and other.time_base and other.width and video.height
        ):
            return True
        longer_s = float(abs(video.duration * video.time_base - other.duration * other.time_base))
        if longer_s > 1.0 or abs(video.width * other.height / (video.height * other.width) - 1) > 0.02:
            return True
    return False


def presentation_of(container: InputContainer, stream: VideoStream) -> Presentation:
    """How the stream's pictures are shown; complete once a frame of it was decoded."""
    formats = set(container.format.name.split(","))
    crop = _crop(container, stream) if formats & {"mov", "matroska"} else (0, 0, 0, 0)
    aspect = stream.sample_aspect_ratio or (stream.codec_context and stream.codec_context.sample_aspect_ratio)
    ratio = float(aspect) if aspect else 1.0
    pixel_aspect = ratio if _LEAST_OBLONG < max(ratio, 1 / ratio) <= _MOST_OBLONG else 1.0
    # A page is white, a screen on which a film is played black. AVI says nothing about alpha: other programs ignore it.
    background: int | None = 0
    if formats & {"gif", "apng"} or still_brand(container):
        background = 255
    elif "avi" in formats:
        background = None
    return Presentation(crop, pixel_aspect, background)


def still_brand(container: InputContainer) -> str | None:
    """AVIF, HEIC or the like, of which this file is one (moving or not); None: it is not."""
    brands = container.metadata.get("major_brand", "") + container.metadata.get("compatible_brands", "")
    if brands.startswith("crx "):
        return "Canon's raw CR3"
    for start, name in (("avi", "AVIF"), ("hei", "HEIC"), ("hev", "HEIC"), ("mif", "HEIF"), ("msf", "HEIF")):
        if brands.startswith(start):
            return "AVIF" if name == "HEIF" and "avif" in brands else name
    return None


def still_kind(container: InputContainer) -> str | None:
    """What a file of this container is, if it is a still picture; None: its pictures may move."""
    name = still_brand(container)
    if name is None or any(stream.frames > 1 or stream.duration for stream in container.streams):
        return None
    tiles = "Tile Grid" in _description(container) or any(
        stream.disposition & Disposition.dependent for stream in container.streams
    )
    return f"{name}, made of tiles" if tiles else name


def is_encrypted(stream: Stream) -> bool:
    """Whether the container says that the stream is locked (Common Encryption, FairPlay)."""
    context = stream.codec_context
    tag = context.codec_tag if context else codec_name(stream)
    return tag in ("encv", "enca", "drmi", "drms", "p608") or any(
        key.lower() in ("enc_key_id", "encryption_key") for key in stream.metadata
    )


def has_alpha_beside(stream: VideoStream) -> bool:
    """Whether the container keeps a second picture beside each frame, its alpha (VP8 and VP9 in WebM); as an element of
    the track or as a tag."""
    return any(key.lower() == "alpha_mode" and value.strip() == "1" for key, value in stream.metadata.items())


def codec_name(stream: Stream) -> str:
    """The name of a stream's codec; of one that has no decoder here, the four letters that the file gives it."""
    if stream.codec_context:
        return stream.codec_context.codec.canonical_name  # "av1", where the decoder is "libdav1d"
    described = _description(stream.container)
    match = re.search(rf"Stream #0:{stream.index}\b.*?: \w+: none(?: \((.{{4}}) /)?", described)
    return match[1] if match and match[1] and match[1].isprintable() else "unknown"


def coded_now(container: InputContainer, stream_index: int) -> str:
    """The codec of a stream by the tables of the file that were read last: broadcast streams may change it."""
    match = re.search(rf"Stream #0:{stream_index}\b.*?: Video: (\w+)", _description(container))
    return match[1] if match else ""


def tagged_s(stream: Stream) -> float | None:
    """The length that Matroska keeps of each track in a tag, 00:00:10.040000000; in seconds from the file's start."""
    for key, value in stream.metadata.items():
        match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", value) if key.upper().startswith("DURATION") else None
        if match:
            return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
    return None


def frame_rate_of(stream: VideoStream, *, is_raw: bool = False) -> float:
    """Frames per second on average, 0 where unknown or absurd; of a raw stream what its own headers state."""
    rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    if is_raw:
        # The average is FFmpeg's default there.
        rates = [stream.codec_context.framerate, stream.guessed_rate, *rates]
    for rate in rates:
        if rate and 0 < rate <= 1000:
            return float(rate)
    return 0.0


# ---- merits


_VIDEO = ("the only one that decodes", "the file's default", "the largest picture")
_AUDIO = ("the only one for everybody", "the file's default", "the most channels")


def _moving_pictures(container: InputContainer) -> list[VideoStream]:
    films = [stream for stream in container.streams.video if not stream.disposition & _NO_PICTURES]
    moving = [stream for stream in films if stream.frames != 1 and not stream.disposition & _PART_OF_PICTURE]
    if len(moving) > 1:
        moving = [stream for stream in moving if not _is_cover(stream, moving)] or moving
    return moving or films


def _is_cover(stream: VideoStream, streams: list[VideoStream]) -> bool:
    """Whether an ordinary track of Matroska holds one still picture beside a film."""
    if not stream.codec_context or codec_name(stream) not in _STILL_CODECS:
        return False
    if any(key.startswith("NUMBER_OF_FRAMES") and value == "1" for key, value in stream.metadata.items()):
        return True
    own_s = tagged_s(stream)
    others_s = [tagged_s(other) or 0.0 for other in streams if other is not stream]
    return own_s is not None and own_s < _LONGEST_COVER_S and max(others_s) > 2 * _LONGEST_COVER_S


def _sounds(container: InputContainer) -> list[av.AudioStream]:
    tracks = [stream for stream in container.streams.audio if stream.codec_context]
    if len(tracks) + len(container.streams.video) < 3 and len(tracks) < 2:
        return tracks
    video = pick_video(container)
    programmes = _programmes(container)
    together: set[int] = set()
    elsewhere: set[int] = set()
    for members in programmes:
        if video is not None and video.index in members:
            together |= members
        else:
            elsewhere |= members
    if not together:
        return tracks
    return [stream for stream in tracks if stream.index in together or stream.index not in elsewhere]


def _video_merit(stream: VideoStream) -> tuple[int, ...]:
    decodes = bool(stream.codec_context)
    default = bool(stream.disposition & Disposition.default)
    return decodes, default, stream.width * stream.height if decodes else 0, -stream.index


def _audio_merit(stream: av.AudioStream) -> tuple[int, ...]:
    for_all = not stream.disposition & _FOR_SOME
    return for_all, bool(stream.disposition & Disposition.default), stream.channels, -stream.index


def _decisive(best: tuple[int, ...], others: Sequence[tuple[int, ...]], words: Sequence[str]) -> str:
    """In words, the first respect in which a stream is alone."""
    left = list(others)
    for place, word in enumerate(words):
        left = [other for other in left if other[place] == best[place]]
        if not left:
            return word
    return "the first"


# ---- what only FFmpeg's description tells


def _description(container: Container) -> str:
    """What `ffmpeg -i` prints of a file. (It comes by way of FFmpeg's log, which all threads share.)"""
    with _describing:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            return container.dumps_format()  # type: ignore[attr-defined]
        finally:
            av.logging.set_level(level)


def _programmes(container: InputContainer) -> list[set[int]]:
    """The numbers of each programme's streams; none where the container knows no programmes."""
    groups: list[set[int]] = []
    inside = False
    for line in _description(container).splitlines():
        if re.match(r"  (?:Program \d|No Program)", line):
            inside = line.startswith("  Program")
            if inside:
                groups.append(set())
        elif inside and (stream := re.match(r" +Stream #0:(\d+)", line)):
            groups[-1].add(int(stream[1]))
    return groups


def _crop(container: InputContainer, stream: VideoStream) -> tuple[int, int, int, int]:
    """Left, right, top, bottom: MP4's clean aperture, Matroska's PixelCrop."""
    for line in _lines_about(container, stream):
        if matched := re.match(r" +Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)$", line, re.IGNORECASE):
            left, right, top, bottom = map(int, matched.groups())
            return left, right, top, bottom
    return 0, 0, 0, 0


def is_turned(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the container says to turn or mirror the pictures."""
    return any(line.strip().lower().startswith("display matrix:") for line in _lines_about(container, stream))


def dolby_vision_alone(container: InputContainer, stream: VideoStream) -> int | None:
    """The profile of Dolby Vision whose pictures only its own players show right: their base layer is IPT-PQ-c2, and
    neither SDR nor HDR10 nor HLG. 0: the file does not say which. None: it is another one, or none.
    """
    for line in _lines_about(container, stream):
        if matched := re.match(r" +DOVI configuration record:.*profile: (\d+),.*compatibility id: (\d+)", line):
            profile, compatible = map(int, matched.groups())
            return profile if profile == 5 or (profile in (10, 20) and compatible == 0) else None
    return 0 if stream.codec_context.codec_tag in ("dvh1", "dvhe", "dav1") else None


def _lines_about(container: InputContainer, stream: VideoStream) -> list[str]:
    """The lines of FFmpeg's description that are of one stream, without the first."""
    lines, inside = [], False
    for line in _description(container).splitlines():
        if start := re.match(r" +Stream #0:(\d+)", line):
            inside = int(start[1]) == stream.index
        elif inside:
            lines.append(line)
    return lines
