#!/bin/bash
# FFmpeg's GIF demuxer lists the option min_delay, "minimum valid delay between frames (in hundredths of second)", by
# default 2, and default_delay, 10. The good guess: a delay of one hundredth, which browsers show for ten, is replaced.
# What happens: it stays 0.01 s, whatever min_delay is; the option has no effect. Only a delay of 0 becomes 0.1 s.
# Why it matters: such a GIF plays ten times as fast as anywhere else, and its length and frame rate are wrong by ten.
# Seen with av 18.1.0 (libavformat 62.12.102) on Linux; exits with 1 if this changes.
set -e
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install av==18.1.0
"$folder/venv/bin/python" - "$folder/delays.gif" <<'PYTHON'
import struct
import sys

import av


def gif(delays):
    data = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    for delay in delays:
        data += b"\x21\xf9\x04\0" + struct.pack("<H", delay) + b"\0\0"
        data += b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return data + b";"


path = sys.argv[1]
open(path, "wb").write(gif([0, 1, 1, 2, 5]))
print("av", av.__version__, "libavformat", av.library_versions["libavformat"])
seen = []
for options in ({}, {"min_delay": "2", "default_delay": "10"}, {"min_delay": "6", "default_delay": "50"}):
    with av.open(path, container_options=options) as container:
        durations = [packet.duration for packet in container.demux(video=0) if packet.size]
    print("options", options, "-> delays in hundredths", durations)
    seen.append(durations)
sys.exit(0 if seen == [[10, 1, 1, 2, 5]] * 3 else 1)
PYTHON
