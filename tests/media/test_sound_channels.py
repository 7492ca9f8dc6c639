"""Several channels, tracks and microphones -> one: no one who is recorded is lost, in whole or in part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import ffmpeg, source

from lexivid.media._mixing import choose_weights, mix_of, placed_weights
from lexivid.media.audio import read_sound, read_waveform
from lexivid.media.decode import probe

RATE = 16000
TONE = 0.488  # 16000 of 32768


def tone(hz: float, *, level: float = TONE, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return level * np.sin(2 * math.pi * hz * np.arange(round(seconds * rate)) / rate)


def write(
    path: Path, channels: Sequence[np.ndarray], *, layout: str = "", codec: str = "pcm_s16le", rate: int = RATE
) -> Path:
    """Channels as a file: placed by the layout, or without places."""
    samples = np.stack(channels).astype(np.float32)  # (C, S)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout or f"{len(channels)} channels")
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T).reshape(1, -1), format="flt", layout=layout or f"{len(channels)} channels"
        )
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def strength(waveform: torch.Tensor | np.ndarray, hz: float, *, rate: int = RATE) -> float:
    """The amplitude of a tone in a waveform."""
    x = np.asarray(waveform, np.float64)
    turn = np.exp(-2j * math.pi * hz * np.arange(len(x)) / rate)
    return float(2 * abs((x * turn).mean()))


SILENT = np.zeros(RATE)


# ---- without places


@pytest.mark.parametrize("num", [2, 3, 4, 5, 6, 8, 9, 12, 16, 24])
@pytest.mark.parametrize("ending", ["wav", "caf"])
def test_one_microphone_of_many_is_heard_at_its_own_level(num: int, ending: str, tmp_path: Path) -> None:
    for channel in {0, 1, 2, 3, num // 2, num - 1} - set(range(num, 9)):
        channels = [SILENT] * num
        channels[channel] = tone(500)
        path = write(tmp_path / f"{channel}.{ending}", channels)
        expected = TONE / 2 if num == 2 else TONE  # two channels are stereo, mask or not
        assert float(read_waveform(path).abs().max()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("num", [3, 5, 6, 9, 16])
def test_microphones_are_averaged(num: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", [tone(300 + 100 * i) for i in range(num)])
    found = read_waveform(path)
    for i in range(num):
        assert strength(found, 300 + 100 * i) == pytest.approx(TONE / num, rel=0.02)
    noisy = [tone(500), tone(600), *([0.0001 * np.sin(np.arange(RATE))] * (num - 2))]  # open inputs, far below
    found = read_waveform(write(tmp_path / "b.wav", noisy))
    assert strength(found, 500) == pytest.approx(TONE / 2, rel=0.02)


def test_a_microphone_that_was_not_listened_to_is_not_lost() -> None:
    weights = choose_weights(("NONE",) * 3, [np.stack([tone(300), tone(400), SILENT]).astype(np.float32)])
    assert weights.tolist() == [0.5, 0.5, 0.5]


# ---- with places

STANDARD = (
    "mono stereo 2.1 3.0 3.0(back) 4.0 quad quad(side) 3.1 5.0 5.0(side) 4.1 5.1 5.1(side) 6.0 6.0(front) hexagonal "
    "6.1 6.1(back) 6.1(front) 7.0 7.0(front) 7.1 7.1(wide) 7.1(wide-side) 5.1.2 octagonal downmix"
).split()
BEYOND = "cube 5.1.4 7.1.4 7.2.3 9.1.4 9.1.6 hexadecagonal 22.2 binaural".split()


@pytest.mark.parametrize("layout", STANDARD)
def test_places_count_as_in_ffmpeg(layout: str) -> None:
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    mixed = []
    for channel in range(len(names)):
        samples = np.zeros((1, 480 * len(names)), np.float32)
        samples[0, channel :: len(names)] = 0.5
        frame = av.AudioFrame.from_ndarray((samples * 2.0**31).astype(np.int32), format="s32", layout=layout)
        frame.sample_rate = 48000
        (out,) = av.AudioResampler(format="s32", layout="mono", rate=48000).resample(frame)
        mixed.append(float(out.to_ndarray()[0, 240]) / 2.0**31 / 0.5)
    assert placed_weights(tuple(names)) == pytest.approx(mixed, abs=1e-4)


@pytest.mark.parametrize("layout", [*STANDARD, *BEYOND])
def test_every_place_is_heard_but_the_low_one(layout: str) -> None:
    names = tuple(channel.name for channel in av.AudioLayout(layout).channels)
    weights = placed_weights(names)
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    for name, weight in zip(names, weights, strict=True):
        assert (weight == 0) == name.startswith("LFE")
        assert weight == 0 or weight > 0.3 / len(names)


@pytest.mark.parametrize("layout", ["cube", "5.1.4", "7.1.4"])
def test_loudspeakers_at_the_ceiling(layout: str, tmp_path: Path) -> None:
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    path = write(tmp_path / "a.wav", [tone(300 + 100 * i) for i in range(len(names))], layout=layout)
    found = read_waveform(path)
    for i, weight in enumerate(placed_weights(tuple(names))):
        assert strength(found, 300 + 100 * i) == pytest.approx(TONE * weight, abs=0.002)
    assert probe(path).num_channels == len(names)


@pytest.mark.parametrize("num", [9, 16])
def test_planar_samples_of_many_channels(num: int, tmp_path: Path) -> None:
    path = tmp_path / "a.mka"
    parts = "|".join(f"0.4*sin({2 * math.pi * (300 + 100 * i)}*t)" for i in range(num))
    ffmpeg("-f", "lavfi", "-i", f"aevalsrc={parts}:d=1:s=48000", "-c:a", "libopus", "-mapping_family", "255", path)
    found = read_waveform(path)
    assert min(strength(found, 300 + 100 * i) for i in range(num)) > 0.3 / num


def test_ambisonics_is_heard_from_all_sides(tmp_path: Path) -> None:
    path = tmp_path / "a.mka"
    parts = "|".join(f"0.4*sin({2 * math.pi * hz}*t)" for hz in (300, 400, 500, 600))
    sound = f"aevalsrc={parts}:d=1:s=48000:c=ambisonic 1"
    ffmpeg("-f", "lavfi", "-i", sound, "-c:a", "libopus", "-mapping_family", "2", path)
    found = read_waveform(path)
    assert strength(found, 300) == pytest.approx(0.4, rel=0.1)
    assert strength(found, 500) < 0.02


def test_sound_in_the_low_channel_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", [SILENT, SILENT, tone(60)], layout="2.1")
    assert float(read_waveform(path).abs().max()) == pytest.approx(TONE, abs=0.01)


# ---- opposite phase


@pytest.mark.parametrize(("ending", "codec"), [("wav", "pcm_s16le"), ("m4a", "aac"), ("mp3", "libmp3lame")])
def test_opposite_phase_is_not_silence(ending: str, codec: str, tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.wav", [tone(440, seconds=3), -tone(440, seconds=3)], layout="stereo")
    path = tmp_path / f"a.{ending}"
    ffmpeg("-i", plain, "-c:a", codec, path)
    assert strength(read_waveform(path), 440) == pytest.approx(TONE, rel=0.05)
    part = read_waveform(path, start_s=1.0, duration_s=1.0)
    assert strength(part, 440) == pytest.approx(TONE, rel=0.05)


def test_opposite_phase_with_some_of_each(tmp_path: Path) -> None:
    """The louder channel alone, whole: what is only in the other is what is given up."""
    left, right = tone(440, level=0.5), -tone(440, level=0.45) + tone(600, level=0.02)
    found = read_waveform(write(tmp_path / "a.wav", [left, right], layout="stereo"))
    assert strength(found, 440) == pytest.approx(0.5, rel=0.01)
    assert strength(found, 600) < 0.001


def noise(seed: int, low_hz: float, high_hz: float, *, seconds: float = 4.0) -> np.ndarray:
    """Between two frequencies, with a mean square of 1."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=round(seconds * RATE)))
    hz = np.fft.rfftfreq(round(seconds * RATE), 1 / RATE)
    wave = np.fft.irfft(spectrum * ((hz >= low_hz) & (hz < high_hz)))
    return wave / np.sqrt(np.square(wave).mean())


@pytest.mark.parametrize("voice_db", [-12, -6, 0, 3])
@pytest.mark.parametrize("pauses", [False, True])
def test_music_in_opposite_phase_beside_a_voice_that_is_not(voice_db: float, pauses: bool, tmp_path: Path) -> None:
    """Both are heard, as loud beside each other as they are."""
    voice, music = noise(1, 300, 3000), 0.1 * noise(2, 60, 7000)
    voice *= 0.1 * 10 ** (voice_db / 20)
    if pauses:
        voice[: 2 * RATE] = 0
    path = write(tmp_path / "a.wav", [voice + music, voice - music], layout="stereo")
    found = read_waveform(path).numpy()
    for part in (voice, music):
        assert float(found @ part / (part @ part)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_little_in_opposite_phase_changes_nothing(share: float, tmp_path: Path) -> None:
    """Stereo of two sides that share something, with an effect in opposite phase 12 dB below."""
    middle, left, right, wide = (0.1 * noise(seed, 60, 7000) for seed in range(4))
    left, right = (share * middle + (1 - share) * side for side in (left, right))
    path = write(tmp_path / "a.wav", [left + 0.25 * wide, right - 0.25 * wide], layout="stereo")
    assert mix_of(path).weights(("FL", "FR")) is None


def test_ordinary_recordings_are_mixed_as_ffmpeg_does(media: Path) -> None:
    """Real clips, a third of those that are stereo."""
    clips = [path for path in sorted((media / "clips").iterdir()) if path.suffix in (".mp4", ".mkv")]
    stereo = [path for path in clips if probe(path).num_channels == 2][::3]
    assert len(stereo) >= 5
    assert [path.name for path in stereo if mix_of(path).channels] == []


@pytest.mark.parametrize(("start", "stop"), [(0, 20), (30, 60), (20, 45)])
def test_one_decision_for_a_whole_file(start: int, stop: int, tmp_path: Path) -> None:
    """A minute of which a part is in opposite phase: in no part silent, and a part is that of the whole."""
    left = tone(440, seconds=60, rate=8000)
    sign = np.ones_like(left)
    sign[start * 8000 : stop * 8000] = -1
    path = write(tmp_path / "a.wav", [left, left * sign], layout="stereo", rate=8000)
    whole = read_waveform(path)
    assert len(whole) == 60 * RATE
    for at_s in range(0, 60, 5):
        piece = whole[at_s * RATE : (at_s + 1) * RATE]
        assert strength(piece, 440) == pytest.approx(TONE, rel=0.02)
        part = read_waveform(path, start_s=at_s, duration_s=1.0)
        assert (part - piece).abs().max() < 0.03


def test_ordinary_stereo_is_mixed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(2, 4 * RATE)) * 0.1
    for channels in (apart, [apart[0], apart[0]], [apart[0], 0.5 * apart[0] - apart[1]], [apart[0], SILENT.repeat(4)]):
        path = write(tmp_path / "a.wav", list(channels), layout="stereo")
        mix_of.__globals__["_mix_of"].cache_clear()
        assert mix_of(path).weights(("FL", "FR")) is None
        assert np.abs(read_waveform(path).numpy() - np.mean(channels, axis=0)).max() < 2e-4


# ---- several tracks


def tracks(path: Path, *levels: str, options: Sequence[str] = (), seconds: int = 2) -> Path:
    """A video with mono tracks; each an expression of the time t."""
    inputs = [*source(size="720x576", seconds=seconds)]
    maps = ["-map", "0:v"]
    for number, level in enumerate(levels):
        inputs += ["-f", "lavfi", "-i", f"aevalsrce={level}:d={seconds}:s=48000".replace("aevalsrce", "aevalsrc")]
        maps += ["-map", f"{number + 1}:a"]
    ffmpeg(*inputs, *maps, "-c:v", "mpeg2video", "-c:a", "pcm_s16le", *options, path)
    return path


LOW, HIGH, AGAINST = "0.4*sin(2*PI*440*t)", "0.4*sin(2*PI*880*t)", "-0.4*sin(2*PI*440*t)"


@pytest.mark.parametrize("ending", ["mxf", "mov"])
def test_mono_tracks_are_channels_of_one_programme(ending: str, tmp_path: Path) -> None:
    both = tracks(tmp_path / f"both.{ending}", LOW, HIGH)
    found = read_waveform(both)
    assert strength(found, 440) == pytest.approx(0.2, rel=0.02)
    assert strength(found, 880) == pytest.approx(0.2, rel=0.02)
    assert probe(both).stream_choice == "of 2 streams of sound, mono ones are heard together (numbers 1, 2)"
    part = read_waveform(both, start_s=1.0, duration_s=0.5)
    assert (part - found[RATE : RATE + RATE // 2]).abs().max() < 0.06  # within half a sample
    second = tracks(tmp_path / f"second.{ending}", "0", HIGH, "0", "0")
    assert strength(read_waveform(second), 880) == pytest.approx(0.4, rel=0.02)
    against = tracks(tmp_path / f"against.{ending}", LOW, AGAINST)
    assert strength(read_waveform(against), 440) == pytest.approx(0.4, rel=0.02)


@pytest.mark.parametrize("ending", ["mov", "mp4"])
def test_mono_tracks_of_several_rates_and_codecs_are_heard_together(ending: str, tmp_path: Path) -> None:
    codecs = ["-c:a", "aac"] if ending == "mp4" else ["-c:a:1", "pcm_s24le", "-c:a:2", "aac"]
    options = [*codecs, "-ar:a:0", "48000", "-ar:a:1", "32000", "-ar:a:2", "44100"]
    path = tracks(tmp_path / f"rates.{ending}", LOW, HIGH, "0.4*sin(2*PI*1320*t)", options=options)
    found = read_sound(path)
    assert found.warnings == ()
    assert [strength(found.waveform, hz) for hz in (440, 880, 1320)] == pytest.approx([0.4 / 3] * 3, rel=0.03)
    assert probe(path).stream_choice == "of 3 streams of sound, mono ones are heard together (numbers 1, 2, 3)"
    part = read_waveform(path, start_s=1.0, duration_s=0.5)
    assert [strength(part, hz) for hz in (440, 880, 1320)] == pytest.approx([0.4 / 3] * 3, rel=0.03)
    # one of them is silent, and two are in opposite phase: decided as for tracks of one rate
    silent = tracks(tmp_path / f"silent.{ending}", "0", HIGH, options=options)
    assert strength(read_waveform(silent), 880) == pytest.approx(0.4, rel=0.03)
    against = tracks(tmp_path / f"against.{ending}", LOW, AGAINST, options=options)
    assert strength(read_waveform(against), 440) == pytest.approx(0.4, rel=0.03)


def test_more_mono_tracks_than_are_mixed_are_told_of(tmp_path: Path) -> None:
    path = tracks(tmp_path / "many.mov", *[f"0.4*sin(2*PI*{300 + 100 * i}*t)" for i in range(18)], seconds=1)
    found = read_sound(path)
    assert found.warnings == ("of 18 mono streams of sound 16 are heard: more than that are not mixed",)
    heard = [strength(found.waveform, 300 + 100 * i) for i in range(18)]
    assert heard == pytest.approx([0.4 / 16] * 16 + [0, 0], abs=0.001)


def test_tracks_of_several_languages_are_not_mixed(tmp_path: Path) -> None:
    languages = ["-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu"]
    found = read_waveform(tracks(tmp_path / "a.mov", LOW, HIGH, options=languages))
    assert strength(found, 440) == pytest.approx(0.4, rel=0.02)
    assert strength(found, 880) < 0.01


def test_tracks_that_players_choose_from_are_not_mixed(tmp_path: Path) -> None:
    found = read_waveform(tracks(tmp_path / "a.mkv", LOW, HIGH))
    assert strength(found, 440) == pytest.approx(0.4, rel=0.02)
    assert strength(found, 880) < 0.01


# ---- on the way


def test_a_layout_that_changes_on_the_way(tmp_path: Path) -> None:
    """Joined programmes: stereo, then 5.1 whose centre speaks, then mono."""
    for name, layout in (("a", "stereo"), ("b", "5.1"), ("c", "mono")):
        num = len(av.AudioLayout(layout).channels)
        channels = [tone(500, level=0.4, seconds=2, rate=48000) * (i == min(2, num - 1)) for i in range(num)]
        wav = write(tmp_path / f"{name}.wav", channels, layout=layout, rate=48000)
        ffmpeg("-i", wav, "-c:a", "ac3", tmp_path / f"{name}.ac3")
    path = tmp_path / "all.ac3"
    path.write_bytes(b"".join((tmp_path / f"{name}.ac3").read_bytes() for name in "abc"))
    found = read_waveform(path)
    assert len(found) == pytest.approx(6 * RATE, rel=0.03)
    levels = [strength(found[round((at_s + 0.5) * RATE) :][:RATE], 500) for at_s in (0, 2, 4)]
    assert levels == pytest.approx([0.4 * 0.5, 0.4 * 0.293, 0.4], rel=0.05)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16be", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_sample_formats(codec: str, tmp_path: Path) -> None:
    ending = "aiff" if codec.endswith("be") else "wav"
    for num in (1, 2, 3):
        path = write(tmp_path / f"{num}.{ending}", [tone(500)] * num, codec=codec)
        assert strength(read_waveform(path), 500) == pytest.approx(TONE, abs=0.01)
