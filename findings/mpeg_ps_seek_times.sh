#!/bin/bash
# The good guess: a packet of an MPEG program stream has the same time whether the file is read from its start or after
# a seek, as its bytes are the same.
# What happens: after some seeks some packets, have times that are off by one and a half or
# two and a half frames. Few packets carry a time; the others are counted on, from another place after a seek.
# Why it matters: the same frame has two times, so that frames found by seeking and by reading in order do not match.
# Seen with av 18.1.0 (libavformat 62.12.102) on Linux; exits with 1 if this changes.
set -e
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install av==18.1.0 numpy==2.2.6
"$folder/venv/bin/python" - "$folder/film.vob" <<'PYTHON'
import sys

import av
import numpy as np

path, frame = sys.argv[1], 3600  # ticks of a frame
with av.open(path, "w", format="vob") as out:
    stream = out.add_stream("mpeg2video", rate=25)
    stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
    stream.codec_context.options = {"g": "12", "bf": "2"}
    for number in range(100):
        noise = np.random.default_rng(number).integers(0, 60, (120, 160, 3), dtype=np.uint8) + number
        out.mux(stream.encode(av.VideoFrame.from_ndarray(noise.astype(np.uint8), format="rgb24")))
    out.mux(stream.encode())


def times(start_s=None):
    with av.open(path) as container:
        stream = container.streams.video[0]
        if start_s is not None:
            container.seek(stream.start_time + round(start_s / stream.time_base), stream=stream)
        return [packet.pts for packet in container.demux(stream) if packet.size]


print("av", av.__version__, "libavformat", av.library_versions["libavformat"])
in_order, wrong = times(), 0
for step in range(1, 9):
    sought = times(0.4 * step)
    off = [b - a for a, b in zip(in_order[::-1], sought[::-1]) if a is not None and b is not None and a != b]
    print(f"sought {0.4 * step:.1f} s: {len(sought)} packets, {len(off)} at other times, off by {sorted(set(off))} ticks")
    wrong += any(ticks % frame for ticks in off)
print(f"{wrong} of 8 seeks give times that are not a whole number of frames off")
sys.exit(0 if wrong else 1)
PYTHON
