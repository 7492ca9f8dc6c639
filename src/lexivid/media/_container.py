"""Opening a file that may come from a stranger: what FFmpeg may read of it, and what it declares.

In: a path. Out: an open PyAV container and `MediaInfo`. FFmpeg never sees the path: it reads bytes through a file
that this module opened, which is an ordinary file on this machine and nothing else, so no name is taken for an address,
a pattern or a script. Only the demuxers listed below may read those bytes, each attempt of a demuxer to open something
more is refused, and pictures above `MAX_PIXELS` are refused before memory is taken for them.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
from av.container import InputContainer

from lexivid.errors import MediaError
from lexivid.media._following import READ_ON_BADLY, find
from lexivid.media._mp4 import mended_scale
from lexivid.media._refusal import is_still, shown, what_is, why_not
from lexivid.media._signatures import HEAD_BYTES, is_text
from lexivid.media._streams import still_kind

MAX_PIXELS = 8192 * 8192  # per picture; 8K is half of it
OPEN_TIMEOUT_S = 60.0
READ_TIMEOUT_S = 60.0
_BUFFER_BYTES = 1 << 16

# Demuxers that read one self-contained file. Not here, on purpose: hls, dash, concat, sdp, rtsp, image2, tty, lavfi,
# imf, vobsub and every other one that opens further files or addresses, or makes pictures out of text.
DEMUXERS = (
    "mov matroska avi asf gif apng mxf gxf dv ivf obu h264 hevc vvc m4v h263 mjpeg vc1 mpegvideo yuv4mpegpipe av1 "
    "cavsvideo dirac smk bink flic roq "
    "wav w64 aiff au caf mp3 flac aac ac3 eac3 ape amr amrnb amrwb dts dtshd tta wv mpc mpc8 tak truehd mlp "
    "voc dsf oma"
).split()
# The same, but their streams may appear only while FFmpeg looks for them, out of reach of the size limit that goes with
# opening: no decoder runs there (ours has the limit).
LATE_DEMUXERS = "mpegts mpeg flv live_flv ogg nut rm wtv pva nsv nuv swf vividas".split()
# No index and no clock of their own: their length is found by reading them through.
RAW_FORMATS = frozenset("h264 hevc vvc m4v h263 mpegvideo mjpeg vc1 obu av1 cavsvideo dirac dv".split())

# Streams without a mark of their own at their start: FFmpeg guesses, and finds them in other files.
_WITHOUT_MARK = RAW_FORMATS | frozenset("mp3 aac ac3 eac3 dts truehd mlp mpeg mpegts".split())


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. Without a video stream: width, height and frame rate are 0; without audio the audio's are.

    `duration_s` is the length of the video stream as declared (found by reading on where nothing is declared), or of
    the audio where there is no video. `video_start_s` is when the first frame is shown, from the start of the file:
    that begins with whatever begins first, pictures or sound, and is what a player counts from. `width` and `height`
    are square pixels of the picture as it is shown: cropped as the container says and turned. `rotation_deg` is how far
    to turn the stored picture clockwise: 0, 90, 180 or 270. `video_stream` and `audio_stream` are the numbers of the
    streams that are used (None: there is none), of `num_video_streams` and `num_audio_streams` (cover art is none);
    `stream_choice` says why these, where there were several, and is empty otherwise.
    """

    path: str
    container: str
    duration_s: float
    has_video: bool
    width: int
    height: int
    rotation_deg: int
    frame_rate: float
    video_codec: str
    pixel_format: str
    has_audio: bool
    sample_rate_hz: int
    num_channels: int
    audio_codec: str
    video_start_s: float = 0.0
    video_stream: int | None = None
    audio_stream: int | None = None
    num_video_streams: int = 0
    num_audio_streams: int = 0
    stream_choice: str = ""

    @property
    def end_s(self) -> float:
        """When the pictures end (without any: the sound), in seconds from the start of the file."""
        return self.video_start_s + self.duration_s


class PlainFile:
    """An ordinary local file, from byte `begin` on, as a source of bytes for FFmpeg. `name` is its ending only.

    `instead`: bytes to be read in place of the file's own, by place; `end`: where it ends, if not with the file.
    """

    def __init__(self, path: str, *, begin: int = 0) -> None:
        self.instead: Mapping[int, bytes] = {}
        self.end: int | None = None
        # O_NONBLOCK: a pipe without a writer must not keep us here.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise MediaError(f"{shown(path)} does not exist; check the path") from None
        except IsADirectoryError:
            raise MediaError(f"{shown(path)} is a folder, not a media file") from None
        except PermissionError:
            raise MediaError(f"{shown(path)} cannot be read: no permission; change its access rights") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MediaError(f"{shown(path)} cannot be opened ({reason}); check the path") from None
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise MediaError(f"{shown(path)} is a folder, not a media file")
            if not stat.S_ISREG(status.st_mode):
                raise MediaError(f"{shown(path)} is a pipe or a device; copy it into an ordinary file first")
            if status.st_size == 0:
                raise MediaError(f"{shown(path)} is empty (0 bytes); copy or download it again")
        except MediaError:
            os.close(descriptor)
            raise
        self._file = io.FileIO(descriptor, "rb", closefd=True)
        ending = Path(path).suffix.lower()
        self.name = "file" + (ending if re.fullmatch(r"\.[a-z0-9]{1,8}", ending) else "")
        self.deadline: float | None = None
        self._begin = begin
        self.seek(0)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeoutError("reading takes too long")
        if self.end is not None:
            size = max(min(size if size >= 0 else self.end, self.end - self.tell()), 0)
        if not self.instead:
            return self._file.read(size) or b""
        begin = self.tell()
        data = bytearray(self._file.read(size) or b"")
        for place, other in self.instead.items():
            for number, byte in enumerate(other, place - begin):
                if 0 <= number < len(data):
                    data[number] = byte
        return bytes(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new place; below 0, as FFmpeg takes an error, where there is no such place: damaged files name some."""
        if whence == os.SEEK_END and self.end is not None:
            offset, whence = self.end + offset, os.SEEK_SET
        try:
            return self._file.seek(offset + self._begin if whence == os.SEEK_SET else offset, whence) - self._begin
        except (OSError, OverflowError):
            return -errno.EINVAL

    def tell(self) -> int:
        return self._file.tell() - self._begin

    def close(self) -> None:
        self._file.close()


def _refuse(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError("a media file may not open another file or address")


def _av_open(file: PlainFile, demuxers: Sequence[str], *, decoders: bool, forced: bool = False) -> InputContainer:
    """Open with some of the demuxers.

    `decoders`: whether FFmpeg may decode to see what the streams are like; `forced`: the one demuxer is not to guess.
    """
    file.seek(0)
    file.deadline = time.monotonic() + OPEN_TIMEOUT_S
    demuxing = {
        "format_whitelist": ",".join(demuxers),
        "protocol_whitelist": "none",
        "enable_drefs": "0",
        "use_absolute_path": "0",
        "max_streams": "100",
    }
    if not decoders:
        demuxing["codec_whitelist"] = "none"
    container = av.open(
        file,
        mode="r",
        format=demuxers[0] if forced else None,
        container_options=demuxing,
        options={"max_pixels": str(MAX_PIXELS)} if decoders else {},
        metadata_errors="replace",
        buffer_size=_BUFFER_BYTES,
        timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
        io_open=_refuse,
    )
    file.deadline = None
    return container


@contextmanager
def open_container(path: str | os.PathLike[str], *, begin: int = 0) -> Iterator[InputContainer]:
    """Open a file for reading, or what follows in it from the byte `begin` on.

    Raises:
        MediaError: no such file, not an ordinary file, no media of a kind on the list, or pictures above the limit.
    """
    file = PlainFile(os.fspath(path), begin=begin)
    container: InputContainer | None = None
    try:
        try:
            try:
                container = _av_open(file, DEMUXERS, decoders=True)
            except ValueError:  # none of those (FFmpeg: invalid argument, invalid data)
                film = _begins_as_jpeg(file) and _holds_several(file)  # a short one, which FFmpeg takes for a picture
                container = _av_open(file, ["mjpeg"] if film else LATE_DEMUXERS, decoders=film, forced=film)
            if begin == 0 and _mends(path, file, container):
                late = container.format.name in LATE_DEMUXERS
                container.close()
                container = _av_open(file, LATE_DEMUXERS if late else DEMUXERS, decoders=not late)
            _check_sizes(container, path)
            _check_kind(container, path)
        except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, MediaError):
                raise
            file.deadline = None
            raise MediaError(why_not(path, file, error)) from None
        yield container
    finally:
        if container is not None:
            container.close()
        file.close()


def _mends(path: str | os.PathLike[str], file: PlainFile, container: InputContainer) -> bool:
    """Whether a file must be opened again, because something in it is to be read otherwise."""
    formats = set(container.format.name.split(","))
    if "mov" in formats:
        place = file.tell()
        file.instead = mended_scale(container, file, container.size)
        file.seek(place)
    else:
        file.end = second_file(path, formats)
    return bool(file.instead) or file.end is not None


def second_file(path: str | os.PathLike[str], formats: set[str]) -> int | None:
    """Where another file of the kind begins that FFmpeg would read on in badly: it is not read."""
    mark = next((mark for name, mark in READ_ON_BADLY.items() if name in formats), None)
    if mark is None:
        return None
    status = Path(path).stat()
    return _find_second(str(Path(path).absolute()), mark, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _find_second(path: str, mark: bytes, version: tuple[int, ...]) -> int | None:
    file = PlainFile(path)
    try:
        return find(file, mark, 1)
    finally:
        file.close()


def _check_sizes(container: InputContainer, path: str | os.PathLike[str]) -> None:
    for stream in container.streams.video:
        width, height = (stream.width, stream.height) if stream.codec_context else (0, 0)
        if width * height > MAX_PIXELS:
            raise MediaError(
                f"{shown(path)} declares pictures of {width} x {height}, more than the limit of {MAX_PIXELS:,} pixels; "
                "scale it down with ffmpeg first"
            )


def _check_kind(container: InputContainer, path: str | os.PathLike[str]) -> None:
    """Refuse what FFmpeg opens though it is no film: stills, and documents that it takes for raw streams."""
    if kind := still_kind(container):
        raise MediaError(is_still(path, kind))
    if container.format.name not in _WITHOUT_MARK:
        return
    file = PlainFile(os.fspath(path))
    try:
        head = file.read(HEAD_BYTES)
        is_jpeg = container.format.name == "mjpeg" and _begins_as_jpeg(file)
        other = None if is_jpeg or is_text(head) else what_is(head)
        if other:
            raise MediaError(f"{shown(path)} is {other}")
        if is_jpeg and (b"MPF\0" in head or not _holds_several(file)):
            raise MediaError(is_still(path, "JPEG"))
    finally:
        file.close()


def _begins_as_jpeg(file: PlainFile) -> bool:
    file.seek(0)
    return file.read(3) == b"\xff\xd8\xff"


def _holds_several(file: PlainFile) -> bool:
    """Whether JPEG pictures follow one another (Motion JPEG)."""
    num_pictures = 0
    with _av_open(file, ["mjpeg"], decoders=False, forced=True) as container, suppress(av.error.FFmpegError):
        for packet in container.demux():
            num_pictures += packet.size > 0
            if num_pictures > 1:
                return True
    return False


def check_declared_sizes(path: str | os.PathLike[str]) -> None:
    """Look for pictures above the limit with all decoders off: what a parser or demuxer alone can tell.

    Raises:
        MediaError: there are some.
    """
    file = PlainFile(os.fspath(path))
    try:
        with _av_open(file, [*DEMUXERS, *LATE_DEMUXERS], decoders=False) as container:
            _check_sizes(container, path)
    except (av.error.FFmpegError, OSError):
        pass  # it is told elsewhere why the file does not open
    finally:
        file.close()
