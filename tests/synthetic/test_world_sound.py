"""The world's sounds: each word has the sign by which its docstring describes it, whatever is drawn for the clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lexivid.media.spectrogram import SAMPLE_RATE_HZ, log_mel, normalise
from lexivid.synthetic.world.sound import DISTRACTOR_LEVEL, SoundSource, waveform
from lexivid.synthetic.world.words import SHAPES, SOUNDS

SEEDS = range(12)


def sound(word: str, seed: int, *, shape: int = 9, others: tuple[SoundSource, ...] = ()) -> np.ndarray:
    return waveform([SoundSource(SOUNDS.index(word), shape), *others], rng=np.random.default_rng(seed))


def spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Hz, power)."""
    return np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE_HZ), np.abs(np.fft.rfft(wave)) ** 2


def loudest_hz(wave: np.ndarray, *, upto_hz: float = 5000) -> np.ndarray:
    """The strongest frequency in each 32 ms, every 16 ms; NaN in the quiet ones. (The timbre of shape 9 lies above.)"""
    pieces = np.lib.stride_tricks.sliding_window_view(wave, 512)[::256] * np.hanning(512)
    power = np.abs(np.fft.rfft(pieces)) ** 2
    power = power[:, : round(upto_hz / SAMPLE_RATE_HZ * 512)]
    return np.where(power.max(1) > 0.1 * np.median(power.max(1)), power.argmax(1) * SAMPLE_RATE_HZ / 512, np.nan)


def loudness(wave: np.ndarray, *, low_hz: float, high_hz: float) -> np.ndarray:
    """Of a band, in each 10 ms."""
    hz, _ = spectrum(wave)
    parts = np.fft.rfft(wave) * ((hz > low_hz) & (hz < high_hz))
    return np.sqrt((np.fft.irfft(parts, len(wave))[: len(wave) // 160 * 160].reshape(-1, 160) ** 2).mean(1))


def strongest_rhythm_hz(course: np.ndarray, steps_per_s: float) -> float:
    power = np.abs(np.fft.rfft(course - course.mean())) ** 2
    return float(np.fft.rfftfreq(len(course), 1 / steps_per_s)[power.argmax()])


@pytest.mark.parametrize("word", SOUNDS)
def test_a_waveform_is_two_seconds_within_range_and_repeatable(word: str) -> None:
    wave = sound(word, 3)
    assert wave.shape == (32000,)
    assert wave.dtype == np.float32
    assert 0.05 < np.abs(wave).max() <= 0.9001
    np.testing.assert_array_equal(wave, sound(word, 3))
    assert np.abs(wave - sound(word, 4)).max() > 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_humming_is_low(seed: int) -> None:
    hz, power = spectrum(sound("humming", seed))
    assert power[hz < 1000].sum() > 0.6 * power.sum()
    assert 100 < hz[power.argmax()] < 230


@pytest.mark.parametrize("seed", SEEDS)
def test_beeping_is_pulses_of_one_high_tone(seed: int) -> None:
    wave = sound("beeping", seed)
    hz, power = spectrum(wave)
    tone_hz = hz[power.argmax()]
    assert 1990 < tone_hz < 3410
    course = loudness(wave, low_hz=tone_hz - 100, high_hz=tone_hz + 100)
    assert 0.3 < (course > course.max() / 2).mean() < 0.65
    assert 2 <= strongest_rhythm_hz(course, 100) <= 5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("word", "sign"), [("chirping", 1), ("wailing", -1)])
def test_chirping_rises_and_wailing_falls(word: str, sign: int, seed: int) -> None:
    steps = np.diff(loudest_hz(sound(word, seed)))
    steps = steps[np.isfinite(steps) & (np.abs(steps) < 500)]  # not the jump back
    assert sign * steps.mean() > 15
    assert (sign * steps >= 0).mean() > 0.85


@pytest.mark.parametrize("seed", SEEDS)
def test_hissing_is_flat_and_high(seed: int) -> None:
    hz, power = spectrum(sound("hissing", seed))
    assert power[hz > 1000].sum() > 0.75 * power.sum()
    bands = power[(hz > 1200) & (hz < 5000)][:7200].reshape(18, 400).mean(1)  # 200 Hz each
    assert bands.std() / bands.mean() < 0.25
    assert np.exp(np.log(bands).mean()) / bands.mean() > 0.95  # spectral flatness


@pytest.mark.parametrize("seed", SEEDS)
def test_ticking_is_short_and_regular(seed: int) -> None:
    course = loudness(sound("ticking", seed), low_hz=300, high_hz=5000)
    assert (course > course.max() / 2).mean() < 0.2
    centred = course - course.mean()
    again = np.correlate(centred, centred, "full")[len(course) - 1 :]
    best = 8 + again[8:25].argmax()  # the repeat that fits best lies where the rate says: 5 to 9 a second
    assert 10 <= best <= 21
    assert again[best] > 0.4 * again[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_warbling_swings_around_its_tone(seed: int) -> None:
    course = loudest_hz(sound("warbling", seed))
    course = course[np.isfinite(course)]
    assert 850 < np.median(course) < 1600
    assert 1.3 < np.quantile(course, 0.95) / np.quantile(course, 0.05) < 2.8
    assert 2.5 <= strongest_rhythm_hz(course, SAMPLE_RATE_HZ / 256) <= 5.5


@pytest.mark.parametrize("seed", SEEDS)
def test_chiming_is_a_major_chord(seed: int) -> None:
    hz, power = spectrum(sound("chiming", seed))
    root_hz = hz[np.where((hz > 480) & (hz < 820), power, 0).argmax()]
    strengths = [power[np.abs(hz - root_hz * ratio) < 12].sum() for ratio in (1, 1.25, 1.5, 2, 3, 4)]
    if root_hz > 620:  # may be the third or the fifth above the root: look for the root itself
        for ratio in (1.25, 1.5):
            lower = [power[np.abs(hz - root_hz / ratio * r) < 12].sum() for r in (1, 1.25, 1.5, 2, 3, 4)]
            strengths = max(strengths, lower, key=sum)
    assert sum(strengths) > 0.6 * power.sum()
    assert min(strengths) > 0.05 * sum(strengths)


def test_a_shape_has_its_band_in_every_word() -> None:
    """The louder band of the two is that of the shape, for most words and clips: a sign, not a proof."""
    right = []
    for word in SOUNDS:
        for seed in range(4):
            for shape, low_hz, high_hz in ((0, 250, 650), (len(SHAPES) - 1, 5000, 7500)):
                other = len(SHAPES) - 1 - shape
                own, others = (
                    loudness(sound(word, seed, shape=s), low_hz=low_hz, high_hz=high_hz).mean() for s in (shape, other)
                )
                right.append(own > others)
    assert np.mean(right) > 0.9


def test_a_distractor_is_quieter_and_changes_the_sound() -> None:
    beep = SoundSource(SOUNDS.index("beeping"), 2, DISTRACTOR_LEVEL)
    hz, power = spectrum(sound("humming", 5, others=(beep,)))
    low, high = power[hz < 1000].sum(), power[(hz > 1900) & (hz < 3500)].sum()
    assert 0.05 < high / low < 0.6
    hz, alone = spectrum(sound("humming", 5))
    assert alone[(hz > 1900) & (hz < 3500)].sum() / alone[hz < 1000].sum() < 0.6 * high / low


def test_nothing_that_sounds_is_noise() -> None:
    wave = waveform([], rng=np.random.default_rng(0), duration_s=0.5)
    assert wave.shape == (8000,)
    assert 0.001 < wave.std() < 0.1


def test_words_are_told_apart_by_their_spectrograms_and_looks_hardly() -> None:
    """Nearest neighbours of clips with distractors: the word is heard (chance 1/8), the shape seldom (1/10)."""

    def clips(number: int, seed: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        words, shapes = rng.integers(len(SOUNDS), size=number), rng.integers(len(SHAPES), size=number)
        pictures = []
        for word, shape in zip(words, shapes, strict=True):
            other = SoundSource(int(rng.integers(len(SOUNDS))), int(rng.integers(len(SHAPES))), DISTRACTOR_LEVEL)
            sources = [SoundSource(word, shape)] + [other] * (rng.random() < 0.5)
            pictures.append(normalise(log_mel(torch.from_numpy(waveform(sources, rng=rng)))))
        pooled = torch.nn.functional.avg_pool2d(torch.stack(pictures), (4, 8)).flatten(1)
        return pooled, words, shapes

    seen, seen_words, seen_shapes = clips(240, 0)
    asked, asked_words, asked_shapes = clips(80, 1)
    nearest = torch.cdist(asked, seen).argmin(1).numpy()
    assert (seen_words[nearest] == asked_words).mean() > 0.5
    assert 0.15 < (seen_shapes[nearest] == asked_shapes).mean() < 0.75
