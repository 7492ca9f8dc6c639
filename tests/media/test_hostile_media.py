"""Files that would open others or take all memory: refused, with the controls that show that they would."""

from __future__ import annotations

import http.server
import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from media_files import (
    ffmpeg,
    gif,
    h264,
    in_mpegts,
    make_video,
    mp3_with_cover,
    png,
    source,
    why,
    with_external_data,
)

from lexivid.media import _container
from lexivid.media.decode import open_video, read_views
from lexivid.media.views import Views

X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]


# ---- other files and addresses


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine, and the requests that it got."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


BAIT = {
    "hls_file.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{canary}\n#EXT-X-ENDLIST\n",
    "hls_address.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}/a.ts\n#EXT-X-ENDLIST\n",
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{canary}\n#EXT-X-ENDLIST\n",
    "concat_file.mp4": "ffconcat version 1.0\nfile '{canary}'\n",
    "concat_address.mp4": "ffconcat version 1.0\nfile '{address}/a.ts'\n",
    "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",  # noqa: E501
    "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT10S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet>'
    '<Representation id="1" bandwidth="1"><BaseURL>{address}/a.mp4</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>",
    "redirect.asf": "[Reference]\nRef1={address}/a.asf\n",
    "vobsub.mp4": "# VobSub index file, v7\ntimestamp: 00:00:00:000, filepos: 00000000\n",
    "playlist.mp4": "[playlist]\nFile1={address}/a.mp4\n",
}
NAMED = {"hls": "an HLS playlist", "con": "a concat script", "sdp": "an SDP description", "das": "a DASH manifest"}


@pytest.mark.parametrize("name", BAIT)
def test_nothing_else_is_opened(name: str, tmp_path: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    canary = make_video(tmp_path / "canary.ts", *X264, seconds=0.4)
    (tmp_path / name).write_text(BAIT[name].format(canary=canary, address=address))
    opened: list[str] = []
    real, original = _container._refuse, os.open

    def spy(url: str, flags: int, options: dict[str, str]) -> None:
        opened.append(url)
        real(url, flags, options)

    def count(path: str, *args: int) -> int:
        opened.append(path)
        return original(path, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_container, "_refuse", spy)
        patch.setattr(_container.os, "open", count)
        # Its last access says whether anyone read the canary, however it was opened (where the file system records it).
        os.utime(canary, (0, 0))
        message = why(tmp_path / name)
        read = canary.stat().st_atime
    assert set(opened) == {str(tmp_path / name)}
    assert read == 0
    assert asked == []
    assert NAMED.get(name[:3], "") in message


def test_the_bait_works_without_the_lists(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """The control for the test above: FFmpeg as it comes does open the file and the address."""
    address, asked = server
    canary = make_video(tmp_path / "canary.ts", *X264, seconds=0.4)
    for name in ("hls.m3u8", "concat_file.mp4"):
        (tmp_path / name).write_text(BAIT[name].format(canary=canary, address=address))
        loose = {"protocol_whitelist": "file,crypto,data", "allowed_extensions": "ALL", "safe": "0"}
        with av.open(str(tmp_path / name), options=loose) as container:
            assert next(container.decode(video=0)).width == 128
    (tmp_path / "a.m3u8").write_text(BAIT["hls_address.mp4"].format(canary=canary, address=address))
    with pytest.raises(av.error.FFmpegError):
        av.open(str(tmp_path / "a.m3u8"), options={"protocol_whitelist": "file,http,tcp", "allowed_extensions": "ALL"})
    assert asked


def test_quicktime_references_stay_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = ["-c:v", "rawvideo", "-pix_fmt", "yuv420p"]
    canary = make_video(tmp_path / "canary.mov", *raw, seconds=0.4)
    path = with_external_data(make_video(tmp_path / "a.mov", *raw, seconds=0.4), canary)
    asked: list[str] = []
    monkeypatch.setattr(_container, "_refuse", lambda url, flags, options: asked.append(url))
    why(path)
    assert asked == []

    def control(url: str, flags: int, options: dict[str, str]) -> None:
        asked.append(url)
        raise PermissionError

    with path.open("rb") as file, pytest.raises(PermissionError):
        av.open(file, io_open=control, options={"enable_drefs": "1", "use_absolute_path": "1"})
    assert asked == [str(canary)]


def test_every_demuxer_on_the_list_exists_and_none_opens_others() -> None:
    known = set()
    for name in av.formats_available:
        try:
            known.update(av.ContainerFormat(name, "r").name.split(","))
        except ValueError:
            continue
    listed = {*_container.DEMUXERS, *_container.LATE_DEMUXERS}
    assert listed <= known
    forbidden = (
        "hls applehttp dash webm_dash_manifest concat sdp rtsp rtp image2 image2pipe tty lavfi imf vobsub sap data"
    )
    assert listed.isdisjoint(forbidden.split())


# ---- hostile sizes


MEASURE = """
import json, sys
from pathlib import Path
from lexivid.errors import MediaError
from lexivid.media import Views, read_views
# VmHWM begins anew with the program; ru_maxrss would carry over the peak of the process that started it.
def peak(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before, messages = peak(), []
for path in sys.argv[1:]:
    try: read_views(path, Views(), max_short_side=256); messages.append(None)
    except MediaError as error: messages.append(str(error))
print(json.dumps([messages, peak() - before, peak()]))
"""


def measured(*paths: Path) -> tuple[list[str | None], float, float]:
    """(the error of `read_views` for each, in a process of its own; MiB that they took; MiB of the whole process)."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a program's own peak of memory")
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert run.stderr == ""  # FFmpeg says nothing there
    messages, grown, total = json.loads(run.stdout)
    return messages, grown, total


def resized(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def hostile(name: str, folder: Path) -> Path:
    path, size = folder / name, (30_000, 30_000)
    if name.endswith(".gif"):
        path.write_bytes(gif(*size))
    elif name.endswith(".h264"):
        path.write_bytes(h264(16384, 16384))
    elif name.endswith(".ts"):
        path.write_bytes(in_mpegts(h264(16384, 16384)))
    elif name.endswith(".mp3"):
        mp3_with_cover(path, png(*size))
    elif name.endswith(".apng"):
        data = bytearray(make_video(path, "-f", "apng", seconds=0.2).read_bytes())
        data[16:24] = struct.pack(">II", *size)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)
    elif name.endswith(".avi"):
        data = make_video(path, "-c:v", "png", size="320x256", seconds=0.2).read_bytes()
        path.write_bytes(resized(data, struct.pack(">II", 320, 256), struct.pack(">II", *size)))
    elif name.endswith(".mkv"):
        data = make_video(path, "-c:v", "rawvideo", "-pix_fmt", "yuv420p", size="320x256", seconds=0.2).read_bytes()
        path.write_bytes(resized(data, b"\xb0\x82\x01\x40\xba\x82\x01\x00", b"\xb0\x82\x75\x30\xba\x82\x75\x30"))
    else:
        data = bytearray(make_video(path, "-c:v", "mpeg2video", size="320x256", seconds=0.5).read_bytes())
        at = 0
        while (at := data.find(b"\0\0\1", at)) >= 0:
            if data[at + 3] == 0xB3:
                data[at + 4 : at + 7] = b"\xff\xff\xff"
            elif data[at + 3] == 0xB5 and data[at + 4] >> 4 == 1:
                data[at + 5] |= 1
                data[at + 6] |= 0xE0
            at += 4
        path.write_bytes(data)
    return path


def test_hostile_sizes_take_no_memory(tmp_path: Path) -> None:
    names = ["a.gif", "a.h264", "a.ts", "a.mp3", "a.apng", "a.avi", "a.mkv", "a.mpg"]
    messages, grown, _ = measured(*(hostile(name, tmp_path) for name in names))
    for name, message in zip(names, messages, strict=True):
        assert message, name
        if name in ("a.gif", "a.mkv", "a.mpg"):
            assert "more than the limit of 67,108,864 pixels" in message
    assert grown < 100  # one plane of the smallest of them would be 256


def test_the_hostile_streams_are_sound_but_for_their_size(tmp_path: Path) -> None:
    """The control: the same bytes at a modest size decode, so it is the size that is refused."""
    for name, data in (("a.h264", h264(320, 240)), ("a.ts", in_mpegts(h264(320, 240))), ("a.gif", gif(320, 240))):
        (tmp_path / name).write_bytes(data)
        assert read_views(tmp_path / name, Views(num_frames=1)).frames.shape == (1, 1, 3, 240, 320)


@pytest.mark.slow
def test_8k_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.h264").write_bytes(h264(7680, 4320, num_pictures=4))
    messages, grown, _ = measured(tmp_path / "a.h264")
    assert messages == [None]
    assert grown < 600


def test_a_size_that_changes_on_the_way(tmp_path: Path) -> None:
    parts = [make_video(tmp_path / f"{size}.ts", *X264, size=size, seconds=1) for size in ("128x96", "64x48")]
    path = tmp_path / "both.h264"
    for part, name in zip(parts, ("a.h264", "b.h264"), strict=True):
        ffmpeg("-i", part, "-c", "copy", tmp_path / name)
    path.write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    assert "changes its picture size on the way ((3, 48, 64), (3, 96, 128)): pass a transform" in why(path)
    assert read_views(path, Views(), transform=lambda f: f[:, :8, :8]).frames.shape == (1, 16, 3, 8, 8)
    # ... to one above the limit
    path.write_bytes((tmp_path / "a.h264").read_bytes() + h264(16384, 16384))
    with open_video(path) as reader:
        assert {tuple(frame.shape) for _, frame in reader.frames_between()} == {(3, 96, 128)}


@pytest.mark.slow
def test_an_hour_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "hour.mp4"
    ffmpeg(
        *source(size="320x240", rate="5", seconds=3600), *X264[:2], "-preset", "ultrafast", "-pix_fmt", "yuv420p", path
    )
    messages, grown, total = measured(path)
    assert messages == [None]
    assert grown < 100
    assert total < 600
