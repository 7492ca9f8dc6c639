"""Small files of many kinds, damaged at random from a number: what a stranger's disk holds. Used by the fuzz of damage.

A case is a number. It decides which valid file is taken, and what is done to its bytes: flipped, overwritten, taken
out, put in twice, cut off, numbers replaced by extreme ones; half of the time near the start or the end of the file,
where containers keep what they declare.
"""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from media_files import ffmpeg

from lexivid.errors import MediaError
from lexivid.media.audio import read_sound
from lexivid.media.decode import probe, read_views
from lexivid.media.views import Views

SECONDS = 2.0
_X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p"]
_AAC = ["-c:a", "aac", "-b:a", "32k"]
_PICTURES_AND_SOUND = {
    "h264.mp4": [*_X264, *_AAC],
    "front.mp4": [*_X264, *_AAC, "-movflags", "+faststart"],
    "fragments.mp4": [*_X264, *_AAC, "-movflags", "frag_keyframe+empty_moov"],
    "pcm.mov": ["-c:v", "mjpeg", "-c:a", "pcm_s16le"],
    "h264.mkv": [*_X264, "-c:a", "libopus"],
    "flac.mkv": ["-c:v", "ffv1", "-c:a", "flac"],
    "vp8.webm": ["-c:v", "libvpx", "-cpu-used", "8", "-deadline", "realtime", "-c:a", "libvorbis"],
    "mpeg4.avi": ["-c:v", "mpeg4", "-c:a", "libmp3lame"],
    "pcm.avi": ["-c:v", "mjpeg", "-c:a", "pcm_s16le"],
    "h264.ts": [*_X264, *_AAC],
    "mpeg2.ts": ["-c:v", "mpeg2video", "-c:a", "ac3"],
    "mpeg1.mpg": ["-c:v", "mpeg1video", "-c:a", "mp2"],
    "h264.flv": [*_X264, *_AAC],
    "wmv2.wmv": ["-c:v", "wmv2", "-c:a", "wmav2"],
    "theora.ogv": ["-c:v", "libtheora", "-c:a", "libvorbis"],
    "mpeg4.nut": ["-c:v", "mpeg4", "-c:a", "libmp3lame"],
    "mpeg2.mxf": ["-c:v", "mpeg2video", "-c:a", "pcm_s16le", "-ar", "48000"],
    "h263.3gp": ["-s", "176x144", "-c:v", "h263", *_AAC],
    "h264.wtv": [*_X264, "-c:a", "mp2"],
}
_PICTURES = {
    "raw.h264": _X264,
    "raw.hevc": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"],
    "raw.m2v": ["-c:v", "mpeg2video"],
    "pictures.gif": [],
    "pictures.apng": [],
    "vp9.ivf": ["-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime"],
}
_SOUND = {
    "s16.wav": [],
    "float.wav": ["-c:a", "pcm_f32le"],
    "adpcm.wav": ["-c:a", "adpcm_ms"],
    "six.wav": ["-ac", "6"],
    "a.mp3": [],
    "a.m4a": ["-c:a", "aac"],
    "alac.m4a": ["-c:a", "alac"],
    "a.aac": [],
    "a.ac3": [],
    "a.flac": [],
    "a.ogg": ["-c:a", "libvorbis"],
    "a.opus": ["-c:a", "libopus"],
    "opus.mka": ["-c:a", "libopus"],
    "pcm.mka": ["-c:a", "pcm_s16le"],
    "a.wma": [],
    "a.aiff": [],
    "a.caf": [],
    "a.au": [],
    "a.wv": [],
    "a.tta": [],
}
KINDS = [*_PICTURES_AND_SOUND, *_PICTURES, *_SOUND]


def make_valid(folder: Path) -> dict[str, bytes]:
    """The files before the damage, by kind; small, with two seconds of each stream."""
    pictures = ["-f", "lavfi", "-i", f"testsrc2=size=64x48:rate=25:duration={SECONDS}"]
    sound = ["-f", "lavfi", "-i", f"aevalsrc=0.4*sin(3000*t)|0.3*sin(5000*t):d={SECONDS}:s=44100"]
    for kinds, inputs in ((_PICTURES_AND_SOUND, pictures + sound), (_PICTURES, pictures), (_SOUND, sound)):
        for name, arguments in kinds.items():
            ffmpeg(*inputs, *arguments, "-bitexact", folder / name)
    return {kind: (folder / kind).read_bytes() for kind in KINDS}


def damaged(case: int, valid: dict[str, bytes]) -> tuple[str, bytes]:
    """(kind, the bytes of this case)."""
    rng = np.random.default_rng(case)
    kind = KINDS[case % len(KINDS)]
    data = bytearray(valid[kind])

    def place() -> int:
        near = rng.random()
        if near < 0.35:
            return int(rng.integers(min(1024, len(data))))
        if near < 0.5:
            return len(data) - 1 - int(rng.integers(min(2048, len(data))))
        return int(rng.integers(len(data)))

    for _ in range(int(rng.integers(1, 4))):
        if len(data) < 16:
            break
        at, what = place(), rng.integers(7)
        length = int(2 ** rng.uniform(0, 10))
        if what == 0:
            for _ in range(int(rng.integers(1, 30))):
                data[place()] ^= 1 << int(rng.integers(8))
        elif what == 1:
            length = min(length, len(data) - at)
            data[at : at + length] = rng.bytes(length)
        elif what == 2:
            length = min(length, len(data) - at)
            data[at : at + length] = bytes([int(rng.choice([0, 255]))]) * length
        elif what == 3:
            del data[at : at + length]
        elif what == 4:
            data[at:at] = data[at : at + length]
        elif what == 5:
            del data[max(at, 16) :]
        else:
            width = int(rng.choice([2, 4, 8]))
            extreme = int(
                rng.choice([0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1) - 2, int(rng.integers(2**16))])
            )
            extreme %= 2 ** (8 * width)
            data[at : at + width] = extreme.to_bytes(width, str(rng.choice(["big", "little"])))
    return kind, bytes(data)


@dataclass
class Outcome:
    """What became of a damaged file.

    `failures` are exceptions that are no `MediaError`, and results that cannot be: each is a fault of ours.
    """

    case: int
    kind: str
    frames: str  # "read", "refused" or "failed"
    sound: str
    sound_s: float
    seconds: float
    peak_mib: int  # of the process so far
    failures: list[str]

    def to_dict(self) -> dict:
        return asdict(self)


def try_case(case: int, valid: dict[str, bytes], folder: Path) -> Outcome:
    """Damage a file, and read its frames and its sound."""
    kind, data = damaged(case, valid)
    path = folder / f"case{Path(kind).suffix}"
    path.write_bytes(data)
    failures: list[str] = []
    began = time.perf_counter()
    frames = sound = "refused"
    sound_s = 0.0
    try:
        with suppress(MediaError):
            probe(path)
        with suppress(MediaError):
            sampled = read_views(path, Views(), transform=lambda frame: frame[:, :8, :8])
            frames = "read"
            if not (np.isfinite(sampled.times_s).all() and sampled.frames.shape[:2] == (1, 16)):
                failures.append(f"frames: times {sampled.times_s.tolist()}")
    except Exception as error:
        frames = "failed"
        failures.append(f"frames: {type(error).__name__}: {error}")
    try:
        with suppress(MediaError):
            heard = read_sound(path)
            sound = "read"
            sound_s = len(heard.waveform) / heard.sample_rate_hz
            if not bool(heard.waveform.isfinite().all()) or float(heard.waveform.abs().amax() if sound_s else 0) > 1:
                failures.append("sound: samples beyond -1..1")
    except Exception as error:
        sound = "failed"
        failures.append(f"sound: {type(error).__name__}: {error}")
    seconds = time.perf_counter() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Outcome(case, kind, frames, sound, round(sound_s, 2), round(seconds, 2), peak_mib, failures)
