"""The sound of a clip of the world: each sound word has its kind of sound, each shape its timbre.

In: the sounding objects of a clip. Out: a waveform (samples,) float32, 16 kHz mono, -1..1.

A sound repeats for the whole clip. Pitch, rate, onset and loudness are drawn for each clip. The timbre is a faint band
of noise whose position on the mel scale depends on the shape. So audio tells a little about the appearance, as a dog's
bark does, and a trained audio tower can do better on base classes than the eight sound words allow. The position varies
from clip to clip and overlaps with that of neighbouring shapes. A distractor's sound and background noise are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lexivid.media.spectrogram import SAMPLE_RATE_HZ
from lexivid.synthetic.world.words import SHAPES, SOUNDS

Wave = NDArray[np.float32]

DISTRACTOR_LEVEL = 0.45
"""A distractor's amplitude beside a main object's: 7 dB below."""
TIMBRE_LEVEL = 0.25
"""A timbre's amplitude beside that of the object's own sound: 12 dB below."""
NOISE_DB = (-15.0, -6.0)
"""Background noise beside a main object's sound, from and to."""

_RMS = (0.04, 0.12)  # of a main object's sound: how loud a clip is
_PEAK = 0.9
_EDGE_S = 0.01  # sounds begin and end softly: a hard edge would be a click, which is the sign of "ticking"
_TIMBRE_HZ = (350.0, 6500.0)  # centres of the first and the last shape's band
_TIMBRE_MELS = 130.0  # width: 6 of 128 filters
_TIMBRE_DRIFT = 0.8  # how far from the shape's position, in steps between shapes


class SoundSource(NamedTuple):
    """A sounding object: indices of its words in `SOUNDS` and `SHAPES`, and its amplitude."""

    sound: int
    shape: int
    level: float = 1.0


def waveform(sources: Sequence[SoundSource], *, rng: np.random.Generator, duration_s: float = 2.0) -> Wave:
    """The sound of a clip, (samples,) float32 at 16 kHz, -1..1.

    Args:
        sources: the sounding objects; none: background noise alone.
        rng: everything random is drawn from it.
    """
    num_samples = round(duration_s * SAMPLE_RATE_HZ)
    t = np.arange(num_samples, dtype=np.float32) / np.float32(SAMPLE_RATE_HZ)
    low, high = (10 ** (db / 20) for db in NOISE_DB)
    mixed = _background(num_samples, rng) * _between(rng, low, high)
    for source in sources:
        voice = _unit_rms(_VOICES[SOUNDS[source.sound]](t, rng))
        mixed += np.float32(source.level) * (voice + np.float32(TIMBRE_LEVEL) * _timbre(source.shape, t, rng))
    mixed *= _between(rng, *_RMS)
    peak = float(np.abs(mixed).max())
    return mixed if peak <= _PEAK else mixed * np.float32(_PEAK / peak)


# ---- the words: time (samples,) in seconds -> (samples,), any loudness ----


def _humming(t: Wave, rng: np.random.Generator) -> Wave:
    """A low tone with overtones, 110 to 220 Hz, that hardly changes."""
    hz = _between(rng, 110, 220)
    tone = sum(_sine(hz * n * t, rng) / np.float32(n**1.5) for n in range(1, 5))
    return tone * (1 + np.float32(0.2) * _sine(_between(rng, 0.5, 1.5) * t, rng))


def _beeping(t: Wave, rng: np.random.Generator) -> Wave:
    """Short pulses of one high tone, 2,000 to 3,400 Hz, 2.5 to 4.5 a second."""
    return _sine(_between(rng, 2000, 3400) * t, rng) * _repeats(t, rng, rate_hz=(2.5, 4.5), share=0.5)[1]


def _chirping(t: Wave, rng: np.random.Generator) -> Wave:
    """Tones that rise by 1.2 to 1.8 octaves, 1.6 to 2.8 a second."""
    return _sweeps(t, rng, sign=1)


def _wailing(t: Wave, rng: np.random.Generator) -> Wave:
    """Tones that fall: `_chirping` backwards, with the same pitches and rates."""
    return _sweeps(t, rng, sign=-1)


def _hissing(t: Wave, rng: np.random.Generator) -> Wave:
    """Bursts of flat noise above 1,000 Hz, 1 to 2 a second."""
    noise = _noise(len(t), rng, lambda hz: hz > 1000)
    return noise * (np.float32(0.1) + _repeats(t, rng, rate_hz=(1, 2), share=0.75)[1])


def _ticking(t: Wave, rng: np.random.Generator) -> Wave:
    """Clicks of some 5 ms, 5 to 9 a second, evenly."""
    rate_hz = _between(rng, 5, 9)
    since_s = np.mod(rate_hz * t + _between(rng, 0, 1), 1) / rate_hz
    return _noise(len(t), rng, lambda hz: hz > 300) * np.exp(-since_s / _between(rng, 0.003, 0.006))


def _warbling(t: Wave, rng: np.random.Generator) -> Wave:
    """A tone around 900 to 1,500 Hz that wavers by a third of it, 3 to 5 times a second."""
    rate_hz, centre_hz = _between(rng, 3, 5), _between(rng, 900, 1500)
    swing = _between(rng, 0.25, 0.4) / (2 * math.pi * rate_hz)  # the integral of a sine in the frequency
    return _sine(centre_hz * (t + swing * _sine(rate_hz * t, rng)), rng)


def _chiming(t: Wave, rng: np.random.Generator) -> Wave:
    """A major chord with its octave, struck 1 to 1.8 times a second, that dies away."""
    root_hz, rate_hz = _between(rng, 500, 800), _between(rng, 1.0, 1.8)
    since_s = np.mod(rate_hz * t + _between(rng, 0, 1), 1) / rate_hz
    chord = sum(_sine(root_hz * ratio * t, rng) for ratio in (1, 5 / 4, 3 / 2, 2, 3, 4))
    return chord * np.exp(-since_s / _between(rng, 0.25, 0.4)) * np.minimum(since_s / np.float32(_EDGE_S), 1)


_VOICES: dict[str, Callable[[Wave, np.random.Generator], Wave]] = {
    "humming": _humming,
    "beeping": _beeping,
    "chirping": _chirping,
    "wailing": _wailing,
    "hissing": _hissing,
    "ticking": _ticking,
    "warbling": _warbling,
    "chiming": _chiming,
}


def _sweeps(t: Wave, rng: np.random.Generator, *, sign: int) -> Wave:
    position, gate = _repeats(t, rng, rate_hz=(1.6, 2.8), share=0.85)
    middle_hz, octaves = _between(rng, 1100, 1700), _between(rng, 1.2, 1.8)
    hz = middle_hz * np.exp2(sign * octaves * (position.astype(np.float64) - 0.5))
    turns = np.mod(np.cumsum(hz / SAMPLE_RATE_HZ), 1).astype(np.float32)
    return _sine(turns, rng) * gate


# ---- parts ----


def _repeats(t: Wave, rng: np.random.Generator, *, rate_hz: tuple[float, float], share: float) -> tuple[Wave, Wave]:
    """(where in the sounding part of its cycle each sample is, 0..1; a gate with soft edges that opens for it)."""
    rate = _between(rng, *rate_hz)
    position = np.mod(rate * t + _between(rng, 0, 1), 1) / np.float32(share)
    edge = np.float32(_EDGE_S * rate / share)
    gate = np.clip(np.minimum(position, 1 - position) / edge, 0, 1)
    return np.minimum(position, 1), gate


def _timbre(shape: int, t: Wave, rng: np.random.Generator) -> Wave:
    """A narrow band of noise near the shape's position that swells 3 to 6 times a second, (samples,) of RMS 1."""
    low, high = _mel(np.array(_TIMBRE_HZ))
    place = np.clip(shape + rng.uniform(-_TIMBRE_DRIFT, _TIMBRE_DRIFT), 0, len(SHAPES) - 1) / (len(SHAPES) - 1)
    centre = low + (high - low) * place
    noise = _noise(len(t), rng, lambda hz: np.abs(_mel(hz) - centre) < _TIMBRE_MELS / 2)
    return _unit_rms(noise * (1 + _sine(_between(rng, 3, 6) * t, rng)))


def _background(num_samples: int, rng: np.random.Generator) -> Wave:
    """Noise that falls with the frequency: by 0 (white) to 3 dB (pink) an octave, drawn for each clip."""
    slope = _between(rng, 0, 1)
    return _unit_rms(_noise(num_samples, rng, lambda hz: np.maximum(hz, 50) ** (-slope / 2)))


def _noise(num_samples: int, rng: np.random.Generator, spectrum: Callable[[Wave], NDArray]) -> Wave:
    """Gaussian noise with this amplitude at each frequency in Hz, (samples,)."""
    hz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    parts = rng.standard_normal((len(hz), 2), dtype=np.float32).view(np.complex64)[:, 0]
    return np.fft.irfft(parts * spectrum(hz), n=num_samples).astype(np.float32)


def _sine(turns: Wave, rng: np.random.Generator) -> Wave:
    """Of `turns` (1 is a whole period), from a random phase on."""
    return np.sin(np.float32(2 * math.pi) * (turns + _between(rng, 0, 1)))


def _unit_rms(wave: Wave) -> Wave:
    return wave / np.sqrt(np.mean(np.square(wave)))


def _between(rng: np.random.Generator, low: float, high: float) -> np.float32:
    return np.float32(rng.uniform(low, high))


def _mel(hz: NDArray) -> NDArray:
    """Kaldi's scale, as `lexivid.media.spectrogram` has it."""
    return 1127.0 * np.log1p(hz / 700.0)
