"""The sound of a file -> one waveform, mono.

In: a path, and which part of it. Out: (S,) float32 in -1..1, aligned with the file: sample 0 is `start_s` seconds after
the file starts, with silence where the sound begins later or pauses. `_mixing.py` says how channels become one; FFmpeg
resamples. What a damaged file says of its times is believed as far as the file bears it out (`_Bounds`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import av
import numpy as np
import torch

from lexivid.errors import LexividError, MediaError
from lexivid.media._container import LATE_DEMUXERS, open_container
from lexivid.media._extent import extent_in_parts
from lexivid.media._mixing import Mix, has_rate_of_sound, layout_of, mix_of, samples_of
from lexivid.media._parts import PartClock, Reach
from lexivid.media._refusal import shown
from lexivid.media._sound_packets import JUMP_S, read_packets, without_outliers
from lexivid.media._streams import pick_video

_PREROLL_S = 0.5  # decoded before the wanted part, for codecs that need a run-up
_RUN_UP_S = 0.05  # resampled before it, for the filter
_GAP_S = 0.1  # a jump of the clock above this is kept as silence
_LONG_GAP_S = 10.0  # of containers that declare no length, a pause above this needs other streams that go on
_LEAST_BYTES_PER_S = 50.0  # a file has more than this: telephone codecs 90, a picture that stands still 200
_SLACK_S = 1.0
_MAX_SAMPLES = 1 << 30  # 18 hours at 16 kHz, 4 GiB
_LEAST_LOSS_S = 0.25  # what is lost at a cut or a join is less, and not worth a word


@dataclass(frozen=True)
class Sound:
    """The sound of a file, or of a part of it.

    `waveform` (S,) float32 in -1..1, mono; `warnings` are what the user should be told, a sentence each.
    """

    waveform: torch.Tensor
    sample_rate_hz: int
    warnings: tuple[str, ...]


def read_waveform(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sample_rate_hz: int = 16000,
) -> torch.Tensor:
    """The sound of a file as (S,) float32, mono: `read_sound` without its warnings."""
    return read_sound(path, start_s=start_s, duration_s=duration_s, sample_rate_hz=sample_rate_hz).waveform


def read_sound(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sample_rate_hz: int = 16000,
) -> Sound:
    """The sound of a file, mono, and what is to be known about it.

    Args:
        path: a local file.
        start_s: where to begin, in seconds from the start of the file.
        duration_s: how much; None: to the end. Where the file has less, the waveform is shorter, and may be empty.
        sample_rate_hz: samples per second of the result.

    Memory is that of the result: for a long file, ask for parts.

    Raises:
        LexividError: start, duration or rate is out of range.
        MediaError: the file cannot be read, has no sound, or none of it decodes.
    """
    if not (math.isfinite(start_s) and start_s >= 0):
        raise LexividError(f"start_s is {start_s}, and must be 0 or more")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise LexividError(f"duration_s is {duration_s}, and must be above 0")
    if not 1000 <= sample_rate_hz <= 384000:
        raise LexividError(f"sample_rate_hz is {sample_rate_hz}, and must be 1000 to 384000")
    limit = _MAX_SAMPLES if duration_s is None else min(round(duration_s * sample_rate_hz), _MAX_SAMPLES)
    mix = mix_of(path)
    part = _Part(start_s, sample_rate_hz, limit)
    try:
        return _read(path, mix, part, seek=start_s > _PREROLL_S)
    except _LostPlace:
        return _read(path, mix, part, seek=False)


@dataclass(frozen=True)
class _Part:
    """What is asked for: from where, at which rate, how many samples at most."""

    start_s: float
    rate: int
    limit: int


class _LostPlace(Exception):
    """A search by time ended at a time that the file cannot have."""


def _read(path: str | os.PathLike[str], mix: Mix, part: _Part, *, seek: bool) -> Sound:
    with open_container(path) as container:
        extent = extent_in_parts(container, os.fspath(path))
        clocks = {
            index: PartClock(container, container.streams[index], extent.streams.get(index, Reach(0.0)))
            for index in mix.streams
        }
        tracks = {index: extent.structure.track_of(container.streams[index]) for index in mix.streams}
        seek = seek and all(clock.is_one for clock in clocks.values())  # joined files are read in order
        bounds = _Bounds(container)
        lines = {index: _Line(container, index, mix, part, bounds, sought=seek) for index in mix.streams}
        for other in container.streams:
            if other.index not in lines:
                other.discard = av.stream.Discard.all
        if seek:
            first = lines[mix.streams[0]]
            with suppress(av.error.FFmpegError):
                container.seek(first.ticks(part.start_s - _PREROLL_S), stream=first.stream)
        at_end = True
        packets = read_packets(container, [line.stream for line in lines.values()])
        for packet in without_outliers(clocks[packet.stream_index].shifted(packet) for packet in packets):
            line = lines[packet.stream_index]
            if line.is_full:
                if all(other.is_full for other in lines.values()):
                    at_end = False
                    break
                continue
            if packet.pts is None or not tracks[packet.stream_index].is_pause(packet.pts * float(packet.time_base)):
                line.add(packet)
        for line in lines.values():
            line.end()
        if part.start_s == 0 and not any(line.any_frame for line in lines.values()):
            raise MediaError(f"{shown(path)} declares sound of which nothing can be decoded; it seems damaged")
        texts = [mix.warning] if mix.warning else []
        texts += [text for line in lines.values() for text in line.warnings(at_end=at_end)]
        if extent.left_out and pick_video(container) is None:  # else it is told of the pictures
            texts.append(extent.left_out)
        warnings = list(dict.fromkeys(texts))
        waves = [line.waveform() for line in lines.values()]
    if len(waves) == 1:
        return Sound(torch.from_numpy(waves[0]), part.rate, tuple(warnings))
    mixed = np.zeros(max(map(len, waves)), np.float32)
    for weight, wave in zip(mix.tracks, waves, strict=True):
        mixed[: len(wave)] += weight * wave
    return Sound(torch.from_numpy(mixed.clip(-1, 1)), part.rate, tuple(warnings))


class _Bounds:
    """How far into a file its sound can reach, whatever its time stamps say.

    A container that states its length up front is held to it. One whose length FFmpeg works out from time stamps has
    long pauses only where bytes lie between: other streams went on. And nothing has fewer bytes a second than a few
    dozen.

    Attributes:
        declared_s: the length that the container states, from the start of the file; None: it does not.
        end_s: where the sound ends at the latest, if it pauses.
    """

    def __init__(self, container: av.container.InputContainer) -> None:
        self.file_start_s = (container.start_time or 0) / av.time_base
        formats = set(container.format.name.split(","))
        length_s = max(container.duration or 0, 0) / av.time_base
        if "matroska" in formats:  # counts from zero, wherever the streams begin
            length_s = max(length_s - max(self.file_start_s, 0.0), 0.0)
        self.declared_s = length_s if length_s and not formats & set(LATE_DEMUXERS) else None
        most_s = container.size / _LEAST_BYTES_PER_S
        self.end_s = most_s if self.declared_s is None else min(most_s, self.declared_s)
        # Of sound alone whose container counts its samples, a declared length is a promise.
        counts = bool(formats & {"flac", "matroska"})  # (FFmpeg takes the length of a WAV from the size of the file)
        self.promised_s = self.declared_s if counts and pick_video(container) is None else None

    def allow(self, from_s: float, to_s: float, num_bytes: int | None) -> bool:
        """Whether a pause is believed. num_bytes: what lies between in the file; None: not known."""
        if to_s > self.end_s + _SLACK_S:
            return False
        if self.declared_s is not None or to_s - from_s <= _LONG_GAP_S or num_bytes is None:
            return True
        return num_bytes >= _LEAST_BYTES_PER_S * (to_s - from_s)


class _Line:
    """One stream's sound on the clock of the file, packet by packet."""

    def __init__(
        self,
        container: av.container.InputContainer,
        index: int,
        mix: Mix,
        part: _Part,
        bounds: _Bounds,
        *,
        sought: bool,
    ) -> None:
        stream = container.streams[index]
        assert isinstance(stream, av.AudioStream)
        self.stream = stream
        self.any_frame = False
        self._base = float(stream.time_base or 0)
        self._mix = mix
        self._part = part
        self._bounds = bounds
        self._sought = sought
        self._pieces: list[np.ndarray] = []
        self._have = 0  # samples in pieces
        self._skip = 0  # samples still to drop: they lie before the part that is wanted
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None
        self._expected_s: float | None = None  # when the next frame begins, if nothing is missing
        self._offset_s = 0.0  # from the stream's clock to the file's, where the clock cannot be believed
        self._clock_s: float | None = None  # when the last frame ended, by the stream's own clock
        self._position: int | None = None  # of the last packet in the file
        self._fed_s = 0.0  # length of the packets since the last frame, which gave none
        self._lost: list[tuple[float, float]] = []  # (when, how long) did not decode
        self._jumps: list[tuple[float, float]] = []  # (when, where to) the clock jumped without being believed

    def ticks(self, at_s: float) -> int:
        """A time of the file in ticks of the stream."""
        return int((at_s + self._bounds.file_start_s) / (self._base or 1.0))

    @property
    def is_full(self) -> bool:
        return self._have >= self._part.limit

    def waveform(self) -> np.ndarray:
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)

    # ---- from packets to frames

    def add(self, packet: av.Packet) -> None:
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            self._lose(float((packet.duration or 0) * self._base))
            return
        between = None
        if packet.pos is not None and packet.pos >= 0:
            between = packet.pos - self._position if self._position is not None else packet.pos
            self._position = packet.pos + packet.size
        if not frames:
            self._fed_s += float((packet.duration or 0) * self._base)
        for frame in frames:
            self._place(frame, between)
            between, self._fed_s = 0, 0.0

    def end(self) -> None:
        """Take what decoder and resampler still hold."""
        with suppress(av.error.FFmpegError):
            for frame in self.stream.codec_context.decode(None) if not self.is_full else ():
                self._place(frame, 0)
        self._finish()

    def _lose(self, seconds: float) -> None:
        at_s = self._part.start_s if self._expected_s is None else self._expected_s
        if self._resampler is not None or not self._sought:  # right after a search the first packets may fail
            self._lost.append((at_s, seconds))

    # ---- when a frame is heard

    def _place(self, frame: av.AudioFrame, between: int | None) -> None:
        if not has_rate_of_sound(frame):
            return
        self.any_frame = True
        length_s = frame.samples / frame.sample_rate
        at_s, jumps = self._time_of(frame, length_s, between)
        self._expected_s = at_s + length_s
        if self._expected_s < self._part.start_s - _RUN_UP_S:
            return
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or jumps or kind != self._kind:
            self._finish()
            # 32-bit integers, because FFmpeg mixes floats down without keeping the sum within -1..1.
            self._resampler, self._kind = av.AudioResampler(format="s32", layout="mono", rate=self._part.rate), kind
            self._go_to(at_s)
        try:
            self._resample(self._mixed(frame))
        except av.error.FFmpegError:
            self._resampler = None
            self._lose(length_s)

    def _time_of(self, frame: av.AudioFrame, length_s: float, between: int | None) -> tuple[float, bool]:
        """(when the frame begins, in seconds of the file; whether anything lies between it and the last one)."""
        expected_s = self._expected_s
        own_s = None if frame.pts is None else frame.pts * self._base - self._bounds.file_start_s
        if own_s is None:
            return (expected_s or 0.0), expected_s is None
        back = self._clock_s is not None and own_s - self._clock_s < -JUMP_S
        self._clock_s = own_s + length_s
        if expected_s is None:
            if self._sought:
                if own_s > self._bounds.end_s + _SLACK_S:
                    raise _LostPlace
                return own_s, True
            expected_s = 0.0 if own_s > 0 else own_s
        if back:  # the clock began anew
            self._offset_s = expected_s - own_s
        at_s = own_s + self._offset_s
        if at_s - expected_s <= _GAP_S:
            # Small deviations are the container's rounding.
            first = self._expected_s is None
            return (at_s if first else expected_s), first
        if self._bounds.allow(expected_s, at_s, between):
            if self._fed_s > (at_s - expected_s) / 2:  # there was something, of which nothing came
                self._lose(at_s - expected_s)
            return at_s, True
        self._jumps.append((expected_s, own_s))
        self._offset_s = expected_s - own_s
        return expected_s, self._expected_s is None

    def _go_to(self, at_s: float) -> None:
        """Silence up to a time, or note how much of what comes is not wanted."""
        late = round((at_s - self._part.start_s) * self._part.rate) - self._have
        self._skip = max(-late, 0)
        if late > 0:
            self._append(np.zeros(min(late, self._part.limit - self._have), np.float32))

    # ---- samples

    def _mixed(self, frame: av.AudioFrame) -> av.AudioFrame:
        weights = self._mix.weights(layout_of(frame))
        if weights is None:
            frame.pts = None
            return frame
        mono = av.AudioFrame.from_ndarray((weights @ samples_of(frame))[None], format="fltp", layout="mono")
        mono.sample_rate = frame.sample_rate
        return mono

    def _resample(self, frame: av.AudioFrame | None) -> None:
        assert self._resampler is not None
        for out in self._resampler.resample(frame):
            samples = out.to_ndarray()[0].astype(np.float32) / 2.0**31
            self._append(samples[self._skip :])
            self._skip = max(self._skip - len(samples), 0)

    def _append(self, samples: np.ndarray) -> None:
        samples = samples[: self._part.limit - self._have]
        self._pieces.append(samples)
        self._have += len(samples)

    def _finish(self) -> None:
        """Take what the resampler still holds."""
        if self._resampler is not None:
            with suppress(av.error.FFmpegError):
                self._resample(None)
            self._resampler = None

    def warnings(self, *, at_end: bool) -> Iterator[str]:
        """at_end: the file was read to its end."""
        start_s = self._part.start_s
        lost = [(at_s, length_s) for at_s, length_s in self._lost if at_s >= start_s]
        if (total_s := sum(length_s for _, length_s in lost)) >= _LEAST_LOSS_S:
            first_s, last_s = lost[0][0], lost[-1][0] + lost[-1][1]
            yield (
                f"about {total_s:.1f} s of the sound between {first_s:.1f} and {last_s:.1f} s are damaged (of what was "
                "read)"
            )
        if self._jumps:
            at_s, to_s = max(self._jumps, key=lambda jump: jump[1] - jump[0])
            yield (
                f"the time stamps of the sound jump from {at_s:.1f} to {to_s:,.1f} s, which a file of this length and "
                "size cannot hold; the sound goes on without a pause"
            )
        promised_s, end_s = self._bounds.promised_s, self._expected_s
        if at_end and promised_s is not None and end_s is not None and end_s < promised_s - max(0.5, 0.02 * promised_s):
            yield (
                f"only {end_s:.1f} of {promised_s:.1f} s of the sound could be decoded (the file seems cut off or "
                "damaged)"
            )
        if self._have >= _MAX_SAMPLES:
            yield f"the sound is cut after {_MAX_SAMPLES / self._part.rate / 3600:.0f} hours; read it in parts"
