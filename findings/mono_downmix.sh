#!/bin/bash
# FFmpeg's resampler makes one channel of several (`-ac 1`, AudioResampler(layout="mono")).
# The good guess: every channel but the low frequencies is in the result, and channels without a channel mask, as
# recorders of several microphones write them, are averaged.
# What happens: loudspeakers at the back of the ceiling (7.1.4) are left out without a word, as are 14 of 22.2;
# three channels without a mask count as 2.1, so the third microphone is taken for low frequencies and is lost; of nine
# without a mask, and of first-order ambisonics, the resampler refuses to make one.
# Why it matters: sound is lost in silence, whole microphones of it, and some files raise "Invalid argument".
# Seen with av 18.1.0 (libswresample 6.3.102) on Linux; exits with 1 if this changes.
set -e
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install av==18.1.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import av
import numpy as np


def shares(layout):
    """How much of each channel is in the mono mix; the error where there is none."""
    found = []
    for channel in range(av.AudioLayout(layout).nb_channels):
        samples = np.zeros((1, 480 * av.AudioLayout(layout).nb_channels), np.int32)
        samples[0, channel :: av.AudioLayout(layout).nb_channels] = 2**30
        frame = av.AudioFrame.from_ndarray(samples, format="s32", layout=layout)
        frame.sample_rate = 48000
        try:
            (mono,) = av.AudioResampler(format="s32", layout="mono", rate=48000).resample(frame)
        except ValueError as error:
            return str(error)
        found.append(round(float(mono.to_ndarray()[0, 240]) / 2**30, 3))
    return found


print("av", av.__version__, "libswresample", av.library_versions["libswresample"])
results = {name: shares(name) for name in ("7.1.4", "22.2", "3 channels", "9 channels", "ambisonic 1")}
for name, found in results.items():
    print(f"{name}: {found}")
ceiling = dict(zip([c.name for c in av.AudioLayout("7.1.4").channels], results["7.1.4"]))
same = ceiling["TBL"] == ceiling["TBR"] == 0 < ceiling["TFL"]
same &= sum(share == 0 for share in results["22.2"]) == 16  # two of them of low frequencies
same &= results["3 channels"] == [0.5, 0.5, 0.0]
same &= all("Invalid argument" in str(results[name]) for name in ("9 channels", "ambisonic 1"))
sys.exit(0 if same else 1)
PYTHON
