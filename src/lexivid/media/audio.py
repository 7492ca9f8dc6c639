"""The sound of a file -> one waveform, mono.

In: a path, and which part of it. Out: (S,) float32 in -1..1, aligned with the file: sample 0 is `start_s` seconds after
the file starts, with silence where the sound begins later. Mixed down and resampled by FFmpeg, as `ffmpeg -ac 1` does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress

import av
import numpy as np
import torch

from lexivid.errors import LexividError, MediaError
from lexivid.media._container import open_container
from lexivid.media._refusal import shown
from lexivid.media._streams import pick_audio

_PREROLL_S = 0.5  # decoded before the wanted part, for codecs that need a run-up
_RUN_UP_S = 0.05  # resampled before it, for the filter
_GAP_S = 0.1  # a jump of the clock above this is kept as silence
_MAX_READ_ERRORS = 50
_MAX_SAMPLES = 1 << 30  # 18 hours at 16 kHz, 4 GiB


def read_waveform(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sample_rate_hz: int = 16000,
) -> torch.Tensor:
    """The sound of a file as (S,) float32, mono.

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
    pieces: list[np.ndarray] = []
    have = 0  # samples in pieces
    skip = 0  # samples still to drop: they lie before the part that is wanted, or repeat what is there
    for at_s, piece in _pieces(path, start_s, sample_rate_hz):
        if at_s is not None:
            late = round((at_s - start_s) * sample_rate_hz) - have
            skip = max(-late, 0)
            if late > 0:
                pieces.append(np.zeros(min(late, limit - have), np.float32))
                have += len(pieces[-1])
        wanted = piece[skip:][: limit - have]
        skip = max(skip - len(piece), 0)
        pieces.append(wanted)
        have += len(wanted)
        if have >= limit:
            break
    return torch.from_numpy(np.concatenate(pieces) if pieces else np.zeros(0, np.float32))


def _pieces(path: str | os.PathLike[str], start_s: float, rate: int) -> Iterator[tuple[float | None, np.ndarray]]:
    """The sound from `start_s` or a little before: (when the piece begins, or None right after the last; samples)."""
    with open_container(path) as container:
        stream = pick_audio(container)
        if stream is None:
            raise MediaError(f"{shown(path)} has no sound that can be decoded; give another file, or leave sound out")
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        base = float(stream.time_base or 0)
        file_start_s = (container.start_time or 0) / av.time_base
        if start_s > _PREROLL_S:
            with suppress(av.error.FFmpegError):
                container.seek(int((start_s - _PREROLL_S + file_start_s) / base), stream=stream)
        resampler: av.AudioResampler | None = None
        kind: tuple[str, str, int] | None = None
        expected_s: float | None = None
        any_frame = False
        for frame in _frames(container, stream):
            any_frame = True
            at_s = frame.pts * base - file_start_s if frame.pts is not None else expected_s or 0.0
            jumps = expected_s is None or at_s - expected_s > _GAP_S
            if not jumps and expected_s is not None:
                at_s = expected_s  # small deviations are the container's rounding
            expected_s = at_s + frame.samples / frame.sample_rate
            if expected_s < start_s - _RUN_UP_S:
                continue
            this_kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            begins_s = None
            if resampler is None or jumps or this_kind != kind:
                if resampler is not None:
                    yield from ((None, samples) for samples in _resample(resampler, None))
                # 32-bit integers, because FFmpeg mixes floats down without keeping the sum within -1..1.
                resampler, kind, begins_s = av.AudioResampler(format="s32", layout="mono", rate=rate), this_kind, at_s
            frame.pts = None
            for samples in _resample(resampler, frame):
                yield begins_s, samples
                begins_s = None
            if begins_s is not None:
                yield begins_s, np.zeros(0, np.float32)
        if resampler is not None:
            yield from ((None, samples) for samples in _resample(resampler, None))
        if not any_frame and start_s == 0:
            raise MediaError(f"{shown(path)} declares sound of which nothing can be decoded; it seems damaged")


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """All frames of the stream from here on; what does not read or decode is left out."""
    for _ in range(_MAX_READ_ERRORS):
        try:
            for packet in container.demux(stream):
                with suppress(av.error.FFmpegError):
                    yield from stream.codec_context.decode(packet if packet.size else None)
            return
        except (av.error.FFmpegError, OSError):
            continue


def _resample(resampler: av.AudioResampler, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
    for out in resampler.resample(frame):
        yield out.to_ndarray()[0].astype(np.float32) / 2.0**31
