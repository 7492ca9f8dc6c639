"""media/spectrogram.py against Kaldi's definition written out in numpy, kaldi-native-fbank and transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lexivid.errors import MediaError
from lexivid.media.spectrogram import log_mel, mel_filters, normalise, spectrogram, views_of, window_of


def _sound(num_samples: int, seed: int = 0) -> np.ndarray:
    """A chirp with harmonics in noise, -1..1."""
    t = np.arange(num_samples) / 16_000
    rng = np.random.default_rng(seed)
    tone = sum(0.3 / k * np.sin(2 * np.pi * k * (200 * t + 300 * t**2)) for k in (1, 2, 3))
    return (tone + 0.01 * rng.standard_normal(num_samples)).astype(np.float32)


def _kaldi_by_hand(x: np.ndarray, num_mels: int) -> np.ndarray:
    """feature-window.cc, mel-computations.cc and feature-fbank.cc, one frame and one filter at a time, in float64."""
    n, rows = len(x), []
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    mel = lambda hz: 1127 * math.log(1 + hz / 700)  # noqa: E731
    low, high = mel(20), mel(8000)
    delta = (high - low) / (num_mels + 1)
    for i in range((n + 80) // 160):
        start = 160 * i + 80 - 200
        frame = np.empty(400)
        for k in range(400):
            s = start + k
            while s < 0 or s >= n:
                s = -s - 1 if s < 0 else 2 * n - 1 - s
            frame[k] = x[s]
        frame -= frame.mean()
        for k in range(399, 0, -1):
            frame[k] -= 0.97 * frame[k - 1]
        frame[0] -= 0.97 * frame[0]
        spectrum = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        row = []
        for m in range(num_mels):
            left, centre, right = low + m * delta, low + (m + 1) * delta, low + (m + 2) * delta
            energy = 0.0
            for b in range(256):
                at = mel(b * 16_000 / 512)
                if left < at < right:
                    weight = (at - left) / (centre - left) if at <= centre else (right - at) / (right - centre)
                    energy += weight * spectrum[b]
            row.append(math.log(max(energy, np.finfo(np.float32).eps)))
        rows.append(row)
    return np.array(rows).T


@pytest.mark.parametrize("num_samples", [400, 1_111, 3_333])
def test_equals_kaldis_definition_by_hand(num_samples: int) -> None:
    x = _sound(num_samples)
    ours = log_mel(torch.from_numpy(x)).numpy()
    theirs = _kaldi_by_hand(x, 128)
    assert ours.shape == theirs.shape == (128, (num_samples + 80) // 160)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert np.abs(ours - theirs).mean() < 1e-4


@pytest.mark.parametrize("num_samples", [400, 16_000, 16_079, 16_080, 50_001])
@pytest.mark.parametrize("num_mels", [40, 80])
def test_equals_kaldi_native_fbank(num_samples: int, num_mels: int) -> None:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hamming"
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = num_mels
    x = _sound(num_samples, seed=num_samples)
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16_000, x)
    fbank.input_finished()
    theirs = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)], axis=1)
    ours = log_mel(torch.from_numpy(x), num_mels=num_mels).numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=5e-3)
    assert np.abs(ours - theirs).mean() < 1e-4


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # filter 3, see the next test
def test_equals_transformers_with_128_filters() -> None:
    """Its AST feature extractor's functions, which start the first window at sample 0: shifted, ours are the same."""
    from transformers.audio_utils import mel_filter_bank, window_function
    from transformers.audio_utils import spectrogram as reference

    filters = mel_filter_bank(
        num_frequency_bins=257, num_mel_filters=128, min_frequency=20, max_frequency=8000, sampling_rate=16_000,
        norm=None, mel_scale="kaldi", triangularize_in_mel_space=True,
    )  # fmt: skip
    np.testing.assert_allclose(mel_filters().T.numpy(), filters, atol=1e-5)
    x = _sound(16_000)
    theirs = reference(
        x, window_function(400, "hamming", periodic=False), frame_length=400, hop_length=160, fft_length=512, power=2.0,
        center=False, preemphasis=0.97, mel_filters=filters, log_mel="log", mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    )  # fmt: skip
    # our step i begins at sample 160 i - 120; with 40 zeros in front, step i + 1 begins at sample 160 i of x
    ours = log_mel(torch.from_numpy(np.pad(x, (40, 0))))[:, 1 : 1 + theirs.shape[1]].numpy()
    assert ours.shape == theirs.shape == (128, 98)
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


def test_one_filter_of_128_is_empty() -> None:
    """As the module's first lines say: the reason why kaldi-native-fbank cannot be the implementation."""
    assert torch.nonzero(mel_filters().sum(1) == 0).flatten().tolist() == [3]
    x = torch.from_numpy(_sound(4_000))
    assert torch.equal(log_mel(x)[3], torch.full((25,), math.log(torch.finfo(torch.float32).eps)))
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.mel_opts.num_bins = 128
    with pytest.raises(ValueError, match="num_mel_bins too large"):
        knf.OnlineFbank(options)


def test_shape_units_and_channels() -> None:
    picture = spectrogram(torch.from_numpy(_sound(160_000)))
    assert picture.shape == (3, 128, 1000)  # section 4.1: t seconds give 128 x 100 t
    assert picture.dtype == torch.float32
    assert torch.equal(picture[0], picture[1])
    assert torch.equal(picture[0], picture[2])
    assert float(picture.mean()) == pytest.approx(0, abs=1e-4)
    assert float(picture[0].std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_time_axis() -> None:
    """A click at 0.5 s is loudest in the steps whose 25 ms hold it: 0.4925 s to 0.5175 s around step 50."""
    x = torch.zeros(16_000)
    x[8_000] = 1.0
    energy = log_mel(x).mean(0)
    assert set(torch.nonzero(energy > energy.min() + 1).flatten().tolist()) <= {48, 49, 50, 51}
    assert {49, 50} <= set(torch.nonzero(energy > energy.min() + 1).flatten().tolist())


def test_frequency_axis() -> None:
    t = torch.arange(16_000) / 16_000
    rows = [int(log_mel(torch.sin(2 * torch.pi * hz * t)).mean(1).argmax()) for hz in (500.0, 1000.0, 4000.0)]
    mel = [1127 * math.log(1 + hz / 700) for hz in (20.0, 500.0, 1000.0, 4000.0, 8000.0)]
    expected = [round((m - mel[0]) / (mel[-1] - mel[0]) * 129 - 1) for m in mel[1:4]]
    assert all(abs(row - want) <= 1 for row, want in zip(rows, expected, strict=True))


def test_loudness_drops_out() -> None:
    x = 0.2 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))  # nowhere near the floor
    wide = slice(24, None)  # the narrowest filters, and the empty one, do reach it
    loud, quiet = log_mel(x)[wide], log_mel(x / 4)[wide]
    assert torch.allclose(loud - quiet, torch.tensor(math.log(16)), atol=1e-2)
    assert torch.allclose(normalise(loud), normalise(quiet), atol=1e-2)


def test_long_sounds_are_worked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(_sound(50_000))
    whole = log_mel(x)
    monkeypatch.setattr("lexivid.media.spectrogram._CHUNK", 37)
    assert torch.allclose(log_mel(x), whole, atol=1e-4)


def test_silence_is_zeros() -> None:
    for level in (0.0, 0.5):  # a constant has no sound either
        assert torch.equal(spectrogram(torch.full((8_000,), level)), torch.zeros(3, 128, 50))


@pytest.mark.parametrize("num_samples", [0, 1, 399])
def test_too_short_is_an_error(num_samples: int) -> None:
    with pytest.raises(MediaError, match="25 ms"):
        spectrogram(torch.zeros(num_samples))


def test_bad_samples_are_an_error() -> None:
    x = torch.zeros(1_000)
    x[3] = torch.nan
    with pytest.raises(MediaError, match="finite"):
        spectrogram(x)
    with pytest.raises(ValueError, match="one channel"):
        spectrogram(torch.zeros(2, 1_000))


def test_window_repeats_short_sounds() -> None:
    sound = torch.arange(5.0).expand(3, 2, 5)
    assert window_of(sound, 8)[0, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert window_of(sound, 3, start=4)[0, 0].tolist() == [4, 0, 1]
    with pytest.raises(ValueError, match="empty"):
        window_of(sound[..., :0], 8)


def test_views_span_the_sound() -> None:
    sound = torch.arange(1000.0).expand(3, 2, 1000)
    views = views_of(sound, num_views=12, num_steps=800)
    assert views.shape == (12, 3, 2, 800)
    assert views[0, 0, 0, 0] == 0
    assert views[-1, 0, 0, -1] == 999
    assert views_of(sound, num_views=1, num_steps=800)[0, 0, 0, 0] == 100
    assert torch.equal(*views_of(sound[..., :100], num_views=2, num_steps=200))
    with pytest.raises(ValueError, match="positive"):
        views_of(sound, num_views=0)
