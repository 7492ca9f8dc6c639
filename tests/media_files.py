"""Files for the tests of decoding, made by ffmpeg, and what ffmpeg itself reads from them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

FFMPEG = shutil.which("ffmpeg")
FFPROBE = shutil.which("ffprobe")
needs_ffmpeg = pytest.mark.skipif(not (FFMPEG and FFPROBE), reason="ffmpeg and ffprobe are not installed")


def ffmpeg(*args: str | Path) -> None:
    """Run ffmpeg, quietly, overwriting its output."""
    assert FFMPEG
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", "-threads", "2", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def source(*, size: str = "128x96", rate: str = "25", seconds: float = 2.0) -> list[str]:
    """Arguments for a moving test picture: each frame differs from its neighbours."""
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]


def make_video(path: Path, *codec: str, size: str = "128x96", rate: str = "25", seconds: float = 2.0) -> Path:
    """A file of the test picture through an encoder, such as make_video(p, "-c:v", "libx264")."""
    ffmpeg(*source(size=size, rate=rate, seconds=seconds), *codec, path)
    return path


def reference_frames(path: Path, *options: str) -> np.ndarray:
    """All frames of the best video stream as ffmpeg decodes, turns and converts them, (N, H, W, 3) uint8."""
    assert FFMPEG
    command = [FFMPEG, "-v", "error", "-nostdin", "-i", str(path), *options, "-vsync", "passthrough"]
    command += ["-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"]
    raw = subprocess.run(command, capture_output=True, timeout=120, check=False).stdout
    frames, at = [], 0
    while at < len(raw):
        magic, size, depth = raw[at:].split(b"\n", 3)[:3]
        assert magic == b"P6"
        assert depth == b"255"
        width, height = map(int, size.split())
        at += len(magic) + len(size) + len(depth) + 3
        frames.append(np.frombuffer(raw, np.uint8, width * height * 3, at).reshape(height, width, 3))
        at += width * height * 3
    return np.stack(frames)


def reference_times_s(path: Path) -> np.ndarray:
    """When each frame of the first video stream is shown, by ffprobe, (N,) in seconds from the first."""
    assert FFPROBE
    command = [FFPROBE, "-v", "error", "-select_streams", "v:0", "-show_entries", "frame=best_effort_timestamp_time"]
    done = subprocess.run([*command, "-of", "json", str(path)], capture_output=True, timeout=120, check=True)
    times = np.array([float(f.get("best_effort_timestamp_time", "nan")) for f in json.loads(done.stdout)["frames"]])
    return times - times[0]


def reference_waveform(path: Path, *, sample_rate_hz: int = 16000) -> np.ndarray:
    """The sound as `ffmpeg -ac 1 -ar` writes it to 16-bit samples, (S,) float32."""
    assert FFMPEG
    command = [FFMPEG, "-v", "error", "-nostdin", "-i", str(path), "-vn", "-ac", "1", "-ar", str(sample_rate_hz)]
    raw = subprocess.run([*command, "-f", "s16le", "-"], capture_output=True, timeout=120, check=True).stdout
    return np.frombuffer(raw, np.int16).astype(np.float32) / 32768
