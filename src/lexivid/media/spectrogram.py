"""A sound as a picture: Kaldi's log-mel filter bank, normalised, in three equal channels (MOV, sections 4.1 and 4.2).

In: waveform (n,) float32, 16 kHz mono, -1..1. Out: spectrogram (3, F=128, S) float32, S = 100 steps per second.

The definition is the one of the audio spectrogram transformer (Gong et al., 2021), which the paper follows, with the
paper's Hamming window: frames of 25 ms every 10 ms, mean removed, pre-emphasis 0.97, 512-point power spectrum, 128
triangular filters between 20 Hz and 8 kHz on Kaldi's mel scale, natural logarithm, no dither (the same file gives the
same spectrogram). It is written in plain torch because kaldi-native-fbank refuses 128 filters at 512 points: filter 3
is narrower than the spectrum's resolution and stays empty, a constant row, here as in the paper's own preprocessing.
For fewer filters both agree (tests/media/test_spectrogram.py).

The time axis: step i looks at the 25 ms around (i + 1/2) * 10 ms, and what would lie before the start or after the end
is mirrored (Kaldi's snip_edges=false), so that t seconds give 100 t steps, as section 4.1 says, and step times match
those of the frames and the flow.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from lexivid.errors import MediaError

SAMPLE_RATE_HZ = 16_000
NUM_MELS = 128
STEPS_PER_S = 100

_WINDOW = 400  # 25 ms in samples
_HOP = 160  # 10 ms
_FFT = 512
_LOW_HZ, _HIGH_HZ = 20.0, SAMPLE_RATE_HZ / 2
_PREEMPHASIS = 0.97
_FLOOR = torch.finfo(torch.float32).eps  # of the filters' energies, before the logarithm
_SILENCE_STD = 1e-4  # a spectrogram that varies less (in log units) is constant but for rounding
_CHUNK = 4096  # steps at a time: 40 s of sound, some 20 MB


def spectrogram(waveform: Tensor) -> Tensor:
    """Waveform (n,) -> (3, 128, S) float32: `normalise(log_mel(waveform))` in three equal channels.

    Raises:
        MediaError: less than one window of 25 ms, or samples that are no numbers.
    """
    return normalise(log_mel(waveform)).repeat(3, 1, 1)


def log_mel(waveform: Tensor, *, num_mels: int = NUM_MELS) -> Tensor:
    """Waveform (n,) float, 16 kHz mono, -1..1 -> (num_mels, S) float32, natural log of the energy in each filter.

    S = (n + 80) // 160: 100 steps per second. Row 0 is the lowest filter. Silence is log(1.2e-7) = -15.9 everywhere.

    Raises:
        MediaError: less than one window of 25 ms, or samples that are no numbers.
    """
    if waveform.ndim != 1:
        raise ValueError(f"a waveform is (n,), one channel; got {tuple(waveform.shape)}")
    num_samples = len(waveform)
    if num_samples < _WINDOW:
        raise MediaError(
            f"the sound lasts {1000 * num_samples / SAMPLE_RATE_HZ:.1f} ms; a spectrogram needs at least 25 ms"
        )
    waveform = waveform.float()
    if not bool(waveform.isfinite().all()):
        raise MediaError("the sound holds samples that are not finite numbers")
    num_steps = (num_samples + _HOP // 2) // _HOP
    window = torch.hamming_window(_WINDOW, periodic=False, device=waveform.device)
    filters = mel_filters(num_mels).to(waveform.device)
    offsets = torch.arange(_WINDOW, device=waveform.device) - (_WINDOW - _HOP) // 2
    parts = []
    for start in range(0, num_steps, _CHUNK):
        steps = torch.arange(start, min(start + _CHUNK, num_steps), device=waveform.device)
        index = (steps[:, None] * _HOP + offsets) % (2 * num_samples)  # mirrored at both ends, edge samples twice
        frames = waveform[torch.where(index < num_samples, index, 2 * num_samples - 1 - index)]  # (steps, 400)
        frames = frames - frames.mean(dim=1, keepdim=True)
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        frames = (frames - _PREEMPHASIS * before) * window
        power = torch.fft.rfft(frames, n=_FFT).abs().square()  # (steps, 257)
        parts.append((power @ filters.T).clamp_min(_FLOOR).log())
    return torch.cat(parts).T.contiguous()


@functools.lru_cache(maxsize=8)
def mel_filters(num_mels: int = NUM_MELS) -> Tensor:
    """(num_mels, 257): triangles of equal width on the mel scale, mel(f) = 1127 ln(1 + f / 700), peak 1."""

    def mel(hz: float) -> float:
        return 1127.0 * math.log1p(hz / 700.0)

    edges = torch.linspace(mel(_LOW_HZ), mel(_HIGH_HZ), num_mels + 2, dtype=torch.float64)[:, None]
    bins = torch.tensor([mel(i * SAMPLE_RATE_HZ / _FFT) for i in range(_FFT // 2 + 1)], dtype=torch.float64)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp_min(0).float()


def normalise(log_mel: Tensor) -> Tensor:
    """(..., F, S) -> the same shape, minus its own mean, over its own standard deviation (section 4.1).

    Each spectrogram by itself, so loudness drops out (but for what lies at the floor). Silence, which has no
    deviation, becomes zeros.
    """
    mean = log_mel.mean(dim=(-2, -1), keepdim=True)
    std = log_mel.std(dim=(-2, -1), keepdim=True, correction=0)
    return torch.where(std > _SILENCE_STD, (log_mel - mean) / std.clamp_min(_SILENCE_STD), 0.0)


def window_of(spectrogram: Tensor, num_steps: int, *, start: int = 0) -> Tensor:
    """`num_steps` steps of (..., F, S) from `start` on -> (..., F, num_steps); a shorter sound is repeated.

    Repeated and not padded: padding would shift the mean and deviation that were just normalised, and its edge would
    tell the sound's length, which in small data sets tells the class. What repetition costs is a false rhythm and a
    seam, with which SpecAugment's masks already make the network live.
    """
    total = spectrogram.shape[-1]
    if total == 0:
        raise ValueError("an empty spectrogram cannot be repeated")
    index = torch.arange(start, start + num_steps, device=spectrogram.device) % total
    return spectrogram[..., index]


def views_of(spectrogram: Tensor, *, num_views: int = 12, num_steps: int = 8 * STEPS_PER_S) -> Tensor:
    """(3, F, S) -> (V, 3, F, num_steps): windows spread evenly from the start to the end (section 4.2: V = 12).

    One view is the middle. A sound shorter than the window gives the same repeated window V times.
    """
    if num_views < 1 or num_steps < 1:
        raise ValueError(f"num_views and num_steps must be positive; got {num_views} and {num_steps}")
    room = max(0, spectrogram.shape[-1] - num_steps)
    starts = [room // 2] if num_views == 1 else [round(i * room / (num_views - 1)) for i in range(num_views)]
    return torch.stack([window_of(spectrogram, num_steps, start=start) for start in starts])
