"""Several channels -> one: what each of them counts for, decided once for a whole file.

In: a path. Out: a `Mix`: which streams are heard, and the weight of each channel. A file that is read in parts is mixed
alike in every part.

- Channels with a place (front left, centre, ...) count as in `ffmpeg -ac 1`: centre 1.41, front 1, side and back 0.71,
  low frequencies 0, divided by their sum. Places that FFmpeg leaves out of its mix without a word (back and side
  ones at the ceiling, those of 22.2) count as side and back.
- Channels without a place (several microphones, no channel mask) are averaged over those that carry sound.
- Ambisonics: the first component, which hears all directions.
- Where the mix, or a good part of it, would be lost because channels are in opposite phase, the loudest channel alone
  is heard: it has all that they share, in phase or not.
- Several mono streams of MXF, QuickTime, MP4 and GXF are the channels of one programme, as cameras and broadcasters
  write them, unless their language or kind tells them apart.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from lexivid.errors import MediaError
from lexivid.media._container import open_container
from lexivid.media._refusal import shown
from lexivid.media._streams import heard_together, pick_audio, unheard_channels

Layout = tuple[str, ...]  # names of channels, in order

_LOW = frozenset({"LFE", "LFE2"})
_CENTRE = frozenset({"FC", "BFC", "TFC"})
_FRONT = frozenset({"FL", "FR", "FLC", "FRC", "TFL", "TFR", "BFL", "BFR", "DL", "DR", "BIL", "BIR"})
_UNPLACED = frozenset({"NONE", "UNK"})

# What is listened to before the decision: all of a short file, as many seconds in places of a longer one.
_LISTEN_S = 30.0
_NUM_PLACES = 24
_BLOCK_S = 0.5
_MAX_PACKETS = 4000  # of a place
_MAX_VALUES = 1 << 25  # channels x samples of a place: 30 s of 16 channels at 48 kHz, 128 MiB
_MOST_PLANES = 8
_AUDIBLE = (2 / 32768) ** 2  # mean square of two steps of a 16-bit sample
_SOUNDS = 1e-4  # of the loudest channel's energy: 40 dB below it, a channel is an open input
_LOST = 0.1  # of the energy that the channels would have together if they were not alike
_LOST_ENERGY = 0.2  # of a block's, in half octaves of which the same is true
_LOST_SHARE = 0.25  # of the blocks that can be heard


@dataclass(frozen=True)
class Mix:
    """How a file's sound becomes one channel.

    Attributes:
        streams: indices of the streams that are heard; several are mono.
        tracks: what each of several streams counts for, (N,).
        channels: what the channels of the one stream count for, (C,), by layout; a stream may change it on the way.
        warning: what is left out; empty: nothing.
    """

    streams: tuple[int, ...]
    tracks: np.ndarray
    channels: dict[Layout, np.ndarray] = field(default_factory=dict)
    warning: str = ""

    def weights(self, layout: Layout) -> np.ndarray | None:
        """(C,); None: mono or stereo as FFmpeg mixes it."""
        if layout in self.channels:
            return self.channels[layout]
        return None if is_plain(layout) else placed_weights(layout)


def mix_of(path: str | os.PathLike[str]) -> Mix:
    """The mix of a file, kept for the next call while the file does not change.

    Raises:
        MediaError: the file cannot be read, or has no sound that can be decoded.
    """
    name = os.fspath(path)
    try:
        status = Path(name).stat()
        identity = (status.st_size, status.st_mtime_ns, status.st_ino)
    except (OSError, ValueError):
        identity = (0, 0, 0)  # opening it says why
    return _mix_of(name, identity)


@functools.lru_cache(maxsize=1024)
def _mix_of(path: str, identity: tuple[int, int, int]) -> Mix:
    with open_container(path) as container:
        chosen = pick_audio(container)
        if chosen is None:
            raise MediaError(f"{shown(path)} has no sound that can be decoded; give another file, or leave sound out")
        streams = heard_together(container, chosen)
        indices = tuple(stream.index for stream in streams)
        even = np.full(len(streams), 1 / len(streams), np.float32)
        if len(streams) == 1 and chosen.channels == 1:
            return Mix(indices, even)
        warning = unheard_channels(container, chosen)
        spans = _listen(container, streams)
    if len(streams) > 1:
        together = [piece for place in spans if (piece := _aligned(place)) is not None]
        weights = choose_weights(("NONE",) * len(streams), [b for piece in together for b in _blocks(piece)])
        return Mix(indices, weights, warning=warning)
    by_layout: dict[Layout, list[np.ndarray]] = {}
    for place in spans:
        for piece in place[0]:
            by_layout.setdefault(piece.layout, []).extend(_blocks(piece))
    channels = {}
    for layout, blocks in by_layout.items():
        weights = choose_weights(("FL", "FR") if is_plain(layout) and len(layout) == 2 else layout, blocks)
        if not (is_plain(layout) and np.array_equal(weights, placed_weights(layout))):
            channels[layout] = weights
    return Mix(indices, even, channels)


def is_plain(layout: Layout) -> bool:
    """Whether FFmpeg's own mix is what it should be: mono, and stereo with or without a mask."""
    return len(layout) == 1 or (len(layout) == 2 and set(layout) in ({"FL", "FR"}, {"NONE"}, {"DL", "DR"}))


def placed_weights(layout: Layout) -> np.ndarray:
    """What the channels of a layout count for by their places, (C,) float32 with the sum 1."""
    if layout[0].startswith("AMBI"):  # W, the pressure; stereo that does not turn with the head may follow
        beside = [0.5 * (not name.startswith("AMBI")) for name in layout[1:]]
        weights = np.array([1.0, *beside])
    else:
        weights = np.array([_weight(name) for name in layout])
    if not weights.any():
        weights = np.ones(len(layout))  # nothing but low frequencies
    return (weights / weights.sum()).astype(np.float32)


def _weight(name: str) -> float:
    if name in _LOW:
        return 0.0
    if name in _CENTRE:
        return 2**0.5
    return 1.0 if name in _FRONT or name in _UNPLACED or name.startswith("USR") else 0.5**0.5


def choose_weights(layout: Layout, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """What the channels of a layout count for, given what they sound like.

    Args:
        blocks: each (C, S) float32, stretches of half a second at most, none empty.
    """
    weights = placed_weights(layout)
    energy = np.array([np.square(block, dtype=np.float64).mean(1) for block in blocks])  # (B, C)
    audible = energy.max(1) > _AUDIBLE if len(energy) else np.zeros(0, bool)
    if not audible.any():
        return weights
    energy = energy[audible]
    total = energy.sum(0)
    if set(layout) <= _UNPLACED:
        # An open input does not make the others quieter; should it sound elsewhere, it is heard too.
        weights = np.full(len(layout), 1 / (total > _SOUNDS * total.max()).sum(), np.float32)
    counts = weights > 0
    if total[counts].sum() < 1e-6 * total.sum():
        return _only(layout, int(total.argmax()))  # all the sound is where none is listened for: low frequencies
    mixed = np.array([np.square(weights @ block, dtype=np.float64).mean() for block in blocks])[audible]  # (B,)
    apart = energy @ np.square(weights, dtype=np.float64)
    is_audible = apart > 1e-12
    lost = mixed < _LOST * apart
    if counts.sum() == 2:
        # No more than what the channels do not share can be lost.
        may_be = ~lost & is_audible & (mixed < 2 * (1 - _LOST_ENERGY) * apart)
        use = np.flatnonzero(audible)[may_be]
        if (may_be | lost)[is_audible].sum() >= _LOST_SHARE * is_audible.sum() and len(use):
            lost[may_be] = _lost_in_bands([blocks[at] for at in use], weights)
    if is_audible.any() and lost[is_audible].mean() >= _LOST_SHARE:
        return _only(layout, int(np.where(counts, total, -1).argmax()))
    return weights


def _lost_in_bands(blocks: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Of each block (C, S), whether a good part of its energy is in half octaves that the mix would lose, (B,) bool:
    music in opposite phase beside a voice that is not. Either channel alone has both."""
    size = 1 << max(int(np.log2(max(block.shape[1] for block in blocks) / 10)), 5)  # 25 to 50 ms
    band = np.floor(2 * np.log2(np.maximum(np.arange(size // 2 + 1), 3) / 3)).astype(np.int64)
    window, losses = np.hanning(size).astype(np.float32), []
    for block in blocks:
        num = block.shape[1] // size
        parts = np.fft.rfft(
            block[:, : num * size].reshape(len(block), num, size)[:, ::2] * window
        )  # every other (C, N, F)
        mixed = np.square(np.abs(np.tensordot(weights, parts, 1))).sum(0)
        apart = np.tensordot(np.square(weights), np.square(np.abs(parts)).sum(1), 1)
        of_mix, of_parts = np.bincount(band, mixed), np.bincount(band, apart)
        losses.append(of_parts[of_mix < _LOST * of_parts].sum() > _LOST_ENERGY * of_parts.sum())
    return np.array(losses)


def _only(layout: Layout, channel: int) -> np.ndarray:
    weights = np.zeros(len(layout), np.float32)
    weights[channel] = 1
    return weights


# ---- listening


@dataclass(frozen=True)
class _Heard:
    """A stretch of one stream: when it begins, in seconds; samples (C, S) float32."""

    at_s: float
    rate: int
    layout: Layout
    samples: np.ndarray


def _listen(container: av.container.InputContainer, streams: Sequence[av.AudioStream]) -> list[list[list[_Heard]]]:
    """What the streams sound like: for each place in the file, for each stream, stretches of one layout."""
    for other in container.streams:
        if other.index not in {stream.index for stream in streams}:
            other.discard = av.stream.Discard.all
    length_s = max(container.duration or 0, 0) / av.time_base
    if length_s <= _LISTEN_S:
        return [_hear(container, streams, _LISTEN_S)]
    start_s = (container.start_time or 0) / av.time_base
    spans = []
    for at_s in np.linspace(0, length_s - _BLOCK_S, _NUM_PLACES):
        if at_s > 0:
            with suppress(av.error.FFmpegError):
                container.seek(int((start_s + at_s) * av.time_base))
        spans.append(_hear(container, streams, _BLOCK_S))
    return spans


def _hear(
    container: av.container.InputContainer, streams: Sequence[av.AudioStream], seconds: float
) -> list[list[_Heard]]:
    """The next seconds, for each stream."""
    by_index = {stream.index: stream for stream in streams}
    pieces: dict[int, list[_Heard]] = {index: [] for index in by_index}
    length_s = dict.fromkeys(pieces, 0.0)
    num_values = 0
    with suppress(av.error.FFmpegError, OSError, IndexError):  # IndexError: see `read_packets`
        for count, packet in enumerate(container.demux(list(streams))):
            index = packet.stream.index  # (of the packet that marks the end, `stream_index` says 0)
            with suppress(av.error.FFmpegError):
                for frame in by_index[index].codec_context.decode(packet if packet.size else None):
                    if not has_rate_of_sound(frame):
                        continue
                    at_s, samples = frame.time or 0.0, samples_of(frame)
                    pieces[index].append(_Heard(at_s, frame.sample_rate, layout_of(frame), samples))
                    length_s[index] += frame.samples / frame.sample_rate
                    num_values += samples.size
            if min(length_s.values()) >= seconds or count > _MAX_PACKETS or num_values > _MAX_VALUES:
                break
    return [_joined(pieces[index]) for index in by_index]


def _joined(frames: Sequence[_Heard]) -> list[_Heard]:
    """Frames of one stream, those of one layout and rate together."""
    joined = []
    for (layout, rate), run in itertools.groupby(frames, key=lambda piece: (piece.layout, piece.rate)):
        together = list(run)
        joined.append(_Heard(together[0].at_s, rate, layout, np.concatenate([h.samples for h in together], axis=1)))
    return joined


def _blocks(piece: _Heard) -> Iterator[np.ndarray]:
    """Its samples, half a second at a time."""
    num = max(int(_BLOCK_S * piece.rate), 1)
    for start in range(0, piece.samples.shape[1], num):
        yield piece.samples[:, start : start + num]


def _aligned(place: list[list[_Heard]]) -> _Heard | None:
    """What N mono streams have in common at a place, as N channels; None where one of them has nothing."""
    first = [stretches[0] for stretches in place if stretches]
    if len(first) < len(place) or any(len(piece.layout) != 1 for piece in first):
        return None
    start_s, rate = max(piece.at_s for piece in first), min(piece.rate for piece in first)
    rows = [_at_rate(piece, rate)[round((start_s - piece.at_s) * rate) :] for piece in first]
    num = min(map(len, rows))
    return _Heard(start_s, rate, ("NONE",) * len(rows), np.stack([row[:num] for row in rows])) if num else None


def _at_rate(piece: _Heard, rate: int) -> np.ndarray:
    """Its first channel, (S,), with as many samples a second."""
    if piece.rate == rate:
        return piece.samples[0]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece.samples[:1]), format="fltp", layout="mono")
    frame.sample_rate = piece.rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    return np.concatenate([out.to_ndarray()[0] for out in (*resampler.resample(frame), *resampler.resample(None))])


def has_rate_of_sound(frame: av.AudioFrame) -> bool:
    """Whether a frame has as many samples a second as sound can have. Damaged headers state others: a day of 16 kB."""
    return 1000 <= frame.sample_rate <= 1_000_000


def layout_of(frame: av.AudioFrame) -> Layout:
    return tuple(channel.name for channel in frame.layout.channels)


def samples_of(frame: av.AudioFrame) -> np.ndarray:
    """(C, S) float32 in -1..1."""
    num_channels = frame.layout.nb_channels
    # PyAV looks for the end of more planes than a frame has pointers for, and knows no 64-bit integers.
    if (frame.format.is_planar and num_channels >= _MOST_PLANES) or frame.format.name.startswith("s64"):
        (frame,) = av.AudioResampler(format="flt", rate=frame.sample_rate).resample(frame)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, num_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    return np.nan_to_num(samples.astype(np.float32), posinf=1.0, neginf=-1.0)
