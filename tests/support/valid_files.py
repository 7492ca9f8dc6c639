"""Valid video files of many kinds, drawn at random and made by ffmpeg, and where Lexivid and ffmpeg differ on them.

A seed is a `Case`: container, codec, rate, length, and what was done to the file (cut, joined, shifted, turned,
cropped, coded in fields, with sound that starts earlier or later). `differences` compares frames, times and durations
with those of ffmpeg, and random access with reading in order.
"""

from __future__ import annotations

import random
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from media_files import FFMPEG

from lexivid.errors import LexividError
from lexivid.media.audio import read_waveform
from lexivid.media.decode import open_video

X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
VPX = ["-deadline", "realtime", "-cpu-used", "8"]
ENCODERS = {
    "h264": X264,
    "hevc": ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p"],
    "vp8": ["-c:v", "libvpx", *VPX],
    "vp9": ["-c:v", "libvpx-vp9", *VPX],
    "av1": ["-c:v", "libsvtav1", "-preset", "13"],
    "mpeg4": ["-c:v", "mpeg4", "-q:v", "4"],
    "xvid": ["-c:v", "libxvid", "-q:v", "4"],
    "mpeg2": ["-c:v", "mpeg2video", "-q:v", "4"],
    "mpeg1": ["-c:v", "mpeg1video", "-q:v", "4"],
    "mjpeg": ["-c:v", "mjpeg", "-q:v", "4", "-pix_fmt", "yuvj420p"],
    "prores": ["-c:v", "prores_ks"],
    "ffv1": ["-c:v", "ffv1", "-pix_fmt", "yuv420p"],
    "theora": ["-c:v", "libtheora", "-q:v", "7"],
    "h263": ["-c:v", "h263", "-q:v", "4"],
    "wmv2": ["-c:v", "wmv2", "-q:v", "4"],
    "flv1": ["-c:v", "flv", "-q:v", "4"],
    "raw": ["-c:v", "rawvideo", "-pix_fmt", "yuv420p"],
    "gif": ["-c:v", "gif"],
    "apng": ["-c:v", "apng", "-f", "apng"],
}
# Endings, and what they carry.
CONTAINERS = {
    "mp4": "h264 hevc vp9 av1 mpeg4 mpeg2 mjpeg",
    "mov": "h264 hevc prores mjpeg mpeg4",
    "mkv": "h264 hevc vp8 vp9 av1 mpeg4 mpeg2 mpeg1 mjpeg prores ffv1 theora",
    "webm": "vp8 vp9 av1",
    "avi": "h264 mpeg4 xvid mjpeg ffv1 mpeg2 raw",
    "ts": "h264 hevc mpeg2 mpeg1",
    "m2ts": "h264 mpeg2",
    "mpg": "mpeg1 mpeg2",
    "vob": "mpeg2",
    "flv": "h264 flv1",
    "mxf": "mpeg2 h264",
    "ogv": "theora",
    "wmv": "wmv2 mpeg4",
    "3gp": "h264 h263 mpeg4",
    "nut": "h264 mpeg4 ffv1",
    "h264": "h264",
    "hevc": "hevc",
    "m2v": "mpeg2",
    "ivf": "vp8 vp9 av1",
    "gif": "gif",
    "apng": "apng",
    "y4m": "raw",
}
RATES = ["24000/1001", "25", "30000/1001", "30", "50", "60", "1", "120", "variable"]
MPEG_RATES = ["24000/1001", "25", "30000/1001", "30", "50", "60"]
HAVE_TIMES = {"mp4", "mov", "mkv", "webm", "ts", "m2ts", "flv", "wmv", "3gp", "nut"}
CAN_BE_CAT = {"ts", "m2ts", "mpg", "vob", "h264", "hevc", "m2v"}
CAN_BE_CUT = ["mp4", "mov", "mkv", "webm", "ts", "m2ts", "avi", "flv", "mpg", "3gp", "nut"]
SOUND = {
    **dict.fromkeys(("mp4", "mov", "mkv", "ts", "m2ts", "flv", "3gp", "nut"), "aac"),
    **dict.fromkeys(("mpg", "vob"), "mp2"),
    "webm": "libopus",
    "avi": "pcm_s16le",
    "wmv": "wmav2",
    "ogv": "libvorbis",
}
B_FRAMES = {"h264", "hevc", "mpeg2", "mpeg1", "mpeg4", "xvid"}
EDITS = ["cut", "cut and trimmed", "cut with negative times", "shifted", "fragmented", "without edit list", "joined"]


@dataclass(frozen=True)
class Case:
    """One valid file. `sound_s` is when the sound starts beside the pictures, None without sound."""

    seed: int
    container: str
    codec: str
    rate: str = "25"
    seconds: float = 2.0
    size: str = "96x64"
    gop: int = 12
    b_frames: int = 0
    open_gop: bool = False
    interlaced: bool = False
    cropped: bool = False
    turned: int = 0
    sound_s: float | None = None
    edit: str | None = None

    @property
    def frame_s(self) -> float:
        """The usual length of a frame, in seconds."""
        above, _, below = self.rate.partition("/")
        return 1 / 30 if self.rate == "variable" else float(below or 1) / float(above)


def draw(seed: int) -> Case:
    """The case of a seed: a container (those that can be cut twice as often), then a codec that it carries."""
    rng = random.Random(seed)
    container = rng.choice([*CONTAINERS, *CAN_BE_CUT])
    codec = rng.choice(CONTAINERS[container].split())
    rates = MPEG_RATES if codec in ("mpeg1", "mpeg2") or container == "mxf" else RATES
    rates = [rate for rate in rates if rate != "variable" or container in HAVE_TIMES]
    rates = ["30000/1001", "25"] if codec == "h263" else [r for r in rates if codec != "gif" or r not in ("60", "120")]
    rate = rng.choice(rates)
    seconds = {"1": 6.0, "120": 0.7}.get(rate) or rng.choice([0.04, 0.3, 1.0, 1.0, 2.0, 2.0, 3.3])
    case = Case(seed, container, codec, rate, seconds)
    case = replace(case, size="176x144" if codec == "h263" else rng.choice(["96x64", "64x48", "128x96"]))
    case = replace(case, gop=rng.choice([1, 5, 12, 30]) if codec not in ("prores", "mjpeg", "raw") else 1)
    if codec in B_FRAMES and case.gop > 1 and rng.random() < 0.6 and container != "mxf":
        case = replace(case, b_frames=rng.choice([1, 2, 3] if codec in ("h264", "hevc") else [1, 2]))
        case = replace(case, open_gop=codec in ("h264", "hevc", "mpeg2") and rng.random() < 0.5)
    if codec in ("h264", "mpeg2") and case.rate not in ("variable", "1", "120"):
        case = replace(case, interlaced=rng.random() < 0.2)
    case = replace(case, cropped=codec in ("h264", "hevc") and not case.interlaced and rng.random() < 0.2)
    if container in ("mp4", "mov") and rng.random() < 0.25:
        case = replace(case, turned=rng.choice([90, 180, 270]))
    if container in SOUND and rng.random() < 0.5:
        case = replace(case, sound_s=rng.choice([0.0, 0.0, 0.4, -0.4]))
    if rng.random() < 0.7 and seconds >= 1:
        case = replace(case, edit=rng.choice([edit for edit in EDITS if can_be(case, edit)] or [None]))
    return case


def can_be(case: Case, edit: str) -> bool:
    """Whether ffmpeg can do this to a file of the kind."""
    mp4 = case.container in ("mp4", "mov", "3gp")
    if edit == "joined":
        return case.container in CAN_BE_CAT.union(CAN_BE_CUT)
    if edit.startswith("cut"):
        return case.container in CAN_BE_CUT and (case.container, edit) != ("nut", "cut with negative times")
    if edit == "shifted":
        return case.container in HAVE_TIMES - {"flv", "wmv"}
    return mp4 and (edit == "fragmented" or (case.codec in B_FRAMES and case.b_frames > 0))


@dataclass
class Made:
    """A file and the commands that make it, as one shell line."""

    path: Path
    commands: list[str] = field(default_factory=list)

    def run(self, *args: str | Path) -> None:
        words = [*map(str, args)]
        self.commands.append("ffmpeg " + shlex.join(words))
        command = [FFMPEG, "-v", "error", "-nostdin", "-y", "-threads", "1", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.path.parent)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(words)}: {done.stderr[-400:]}")


def encoder(case: Case) -> list[str]:
    """The options of the picture's encoder."""
    options = [*ENCODERS[case.codec], "-g", str(case.gop)]
    if case.codec == "h264":
        options += ["-x264-params", f"open-gop={int(case.open_gop)}:scenecut=0:interlaced={int(case.interlaced)}"]
    if case.codec == "hevc":
        options += ["-x265-params", f"log-level=none:open-gop={int(case.open_gop)}:scenecut=0:bframes={case.b_frames}"]
    if case.codec == "mpeg2" and case.interlaced:
        options += ["-flags", "+ilme+ildct"]
    if case.codec == "mpeg2" and case.b_frames and not case.open_gop:
        options += ["-flags", "+cgop", "-sc_threshold", "1000000000"]
    if case.codec in B_FRAMES:
        options += ["-bf", str(case.b_frames)]
    if case.cropped:
        options += ["-bsf:v", f"{case.codec}_metadata=crop_left=4:crop_bottom=6"]
    return options


def make(case: Case, folder: Path) -> Made:
    """Make the file of a case in a folder that is its own."""
    made = Made(folder / f"whole.{case.container}")
    rate = "30" if case.rate == "variable" else case.rate
    inputs = ["-f", "lavfi", "-i", f"testsrc2=size={case.size}:rate={rate}:duration={case.seconds}"]
    maps = ["-map", "0:v"]
    if case.sound_s is not None:
        late = case.sound_s if case.sound_s > 0 else 0
        if case.sound_s < 0:
            inputs = ["-itsoffset", str(-case.sound_s), *inputs]
        inputs += ["-itsoffset", str(late)] if late else []
        inputs += ["-f", "lavfi", "-i", f"sine=frequency=440:duration={case.seconds}:sample_rate=48000"]
        maps += ["-map", "1:a", "-c:a", SOUND[case.container]]
    filters = "select='not(eq(mod(n*7+mod(n\\,3)\\,5)\\,0))'" if case.rate == "variable" else None
    if case.interlaced:
        filters = "setfield=tff"
    timing = ["-fps_mode", "passthrough" if case.container in HAVE_TIMES else "cfr"]
    extra = {"fragmented": ["-movflags", "frag_keyframe+empty_moov"], "without edit list": ["-use_editlist", "0"]}
    last = extra.get(case.edit or "", [])
    if case.edit == "shifted":
        last = ["-output_ts_offset", "5.5"]
    maps += ["-vf", filters] if filters else []
    made.run(*inputs, *maps, *encoder(case), *timing, *last, made.path.name)
    if case.turned:
        change(made, lambda old, new: made.run("-display_rotation", str(case.turned), "-i", old, "-c", "copy", new))
    if case.edit in ("cut", "cut and trimmed", "cut with negative times"):
        start = f"{0.37 * case.seconds:.3f}"
        length = ["-t", f"{0.4 * case.seconds:.3f}"] if case.edit == "cut and trimmed" else []
        times = ["-avoid_negative_ts", "disabled"] if case.edit == "cut with negative times" else []
        change(made, lambda old, new: made.run("-ss", start, *length, "-i", old, "-c", "copy", *times, new))
    if case.edit == "joined" and case.container in CAN_BE_CAT:
        change(made, lambda old, new: concatenate(made, old, new))
    elif case.edit == "joined":
        (folder / "list.txt").write_text(f"file {made.path.name}\n" * 2)
        made.commands.append(f"printf 'file {made.path.name}\\nfile {made.path.name}\\n' > list.txt")
        change(made, lambda old, new: made.run("-f", "concat", "-i", "list.txt", "-map", "0", "-c", "copy", new))
    return made


def change(made: Made, step: Callable[[str, str], None]) -> None:
    """Make the next version of the file out of the one there is."""
    new = made.path.with_stem(made.path.stem + "_")
    step(made.path.name, new.name)
    made.path = new


def concatenate(made: Made, old: str, new: str) -> None:
    made.commands.append(f"cat {old} {old} > {new}")
    data = (made.path.parent / old).read_bytes()
    (made.path.parent / new).write_bytes(data + data)


@dataclass
class Reference:
    """What ffmpeg shows: frames (N, H, W, 3) uint8, their times and lengths, when sound starts and ends (seconds)."""

    frames: np.ndarray
    times_s: np.ndarray
    lengths_s: np.ndarray
    sound_s: tuple[float, float] | None


def reference(path: Path, *, sound: bool) -> Reference:
    """Decode with ffmpeg, every frame as it comes, turned and converted to RGB."""
    command = [FFMPEG, "-v", "info", "-nostdin", "-nostats", "-i", str(path)]
    pictures = ["-map", "0:v:0", "-vf", "format=rgb24,showinfo=checksum=0", "-fps_mode", "passthrough"]
    # Each run takes the other stream along: ffmpeg counts time from the first of the streams that it takes.
    pictures += ["-f", "rawvideo", "pipe:1", *(["-map", "0:a:0", "-c", "copy", "-f", "null", "-"] if sound else [])]
    done = subprocess.run([*command, *pictures], capture_output=True, timeout=120)
    said = done.stderr.decode(errors="replace")
    found = re.findall(r"showinfo_\d+ @ .*? pts_time:(\S+) +duration: *\S+ duration_time:(\S+) .*? s:(\d+)x(\d+)", said)
    if not found:
        raise RuntimeError(f"ffmpeg decodes nothing of {path.name}: {said[-300:]}")
    times, lengths = np.array([[float(a), float(b)] for a, b, _, _ in found]).T
    width, height = int(found[0][2]), int(found[0][3])
    frames = np.frombuffer(done.stdout, np.uint8).reshape(len(times), height, width, 3)
    span = None
    if sound:  # in a run of its own: ffmpeg mixes up the lines of two filters
        tones = [
            "-map",
            "0:a:0",
            "-af",
            "ashowinfo",
            "-f",
            "null",
            "-",
            "-map",
            "0:v:0",
            "-c",
            "copy",
            "-f",
            "null",
            "-",
        ]
        done = subprocess.run([*command, *tones], capture_output=True, text=True, errors="replace", timeout=120)
        heard = re.findall(r"ashowinfo_\d+ @ .*? pts_time:(\S+) .*? rate:(\d+) nb_samples:(\d+)", done.stderr)
        if heard:
            span = float(heard[0][0]), float(heard[-1][0]) + int(heard[-1][2]) / int(heard[-1][1])
    return Reference(frames, times, lengths, span)


def differences(path: Path, case: Case, wanted: Reference | None = None) -> dict[str, str]:
    """Where Lexivid and ffmpeg differ, kind of difference -> what each says. Empty where they agree."""
    wanted = wanted or reference(path, sound=case.sound_s is not None)
    found: dict[str, str] = {}
    try:
        with open_video(path) as reader:
            pairs = list(reader.frames_between())
            times, frames = np.array([at for at, _ in pairs]), [frame for _, frame in pairs]
            info, warnings = reader.info, reader.warnings
            if wrong := random_access(path, times, frames, case):
                found["random access"] = wrong
        sampled_warnings = warnings
    except LexividError as error:
        return {"refused": str(error)}
    if sampled_warnings:
        found["warning"] = "; ".join(sampled_warnings)
    if len(frames) != len(wanted.frames):
        found["frames"] = f"{len(frames)}, ffmpeg {len(wanted.frames)}"
    reference_times = wanted.times_s - wanted.times_s[0]
    count = min(len(times), len(reference_times))
    off = np.abs(times[:count] - reference_times[:count])
    if off.max() > 0.002:
        worst = int(off.argmax())
        found["times"] = f"frame {worst} at {times[worst]:.4f} s, ffmpeg {reference_times[worst]:.4f}"
    last = wanted.lengths_s[-1] if wanted.lengths_s[-1] > 0 else case.frame_s
    duration = reference_times[-1] + last
    # Where the length of the last frame is stored nowhere it is a guess, all the more at a variable rate.
    if abs(info.duration_s - duration) > (1.5 if case.rate == "variable" else 0.5) * case.frame_s + 0.002:
        found["duration"] = f"{info.duration_s:.3f} s, ffmpeg {duration:.3f}"
    for k in range(count):
        reference_frame = torch.from_numpy(wanted.frames[k].copy()).permute(2, 0, 1)
        if frames[k].shape != reference_frame.shape:
            found["size"] = f"{tuple(frames[k].shape[1:])}, ffmpeg {tuple(reference_frame.shape[1:])}"
            break
        apart = (frames[k].float() - reference_frame.float()).abs().mean().item()
        if apart > (16 if case.interlaced else 3):  # one field of two, its lines doubled
            found["picture"] = f"frame {k} is {apart:.1f} levels apart"
            break
    if wanted.sound_s:
        start, end = wanted.sound_s
        if abs(info.video_start_s - max(wanted.times_s[0] - start, 0)) > 0.03:
            found["start"] = f"{info.video_start_s:.3f} s after the sound, ffmpeg {wanted.times_s[0] - start:.3f}"
        length = len(read_waveform(path)) / 16000
        expected = end - min(start, wanted.times_s[0])
        if abs(length - expected) > 0.1:
            found["sound"] = f"{length:.3f} s, ffmpeg {expected:.3f}"
    return found


def random_access(path: Path, times: np.ndarray, frames: list[torch.Tensor], case: Case) -> str | None:
    """What is wrong with frames at random times beside reading in order, if anything."""
    rng = np.random.default_rng(case.seed)
    ends = np.append(times[1:], times[-1] + case.frame_s)
    with open_video(path) as reader:
        for k in rng.permutation(len(times))[:8]:
            asked = times[k] + rng.choice([0.0, 0.9]) * (ends[k] - times[k])
            ((_, at, frame),) = reader.frames_at([asked])
            if abs(at - times[k]) > 1e-6:
                return f"asked for {asked:.4f} s: the frame of {at:.4f}, not of {times[k]:.4f}"
            if not torch.equal(frame, frames[k]):
                return f"asked for {asked:.4f} s: another picture than in order"
    return None


# (containers, codecs, edits or None for all, kinds of difference, why), as docs/media.md tells in more words.
EXPLAINED = [
    (
        "mpg vob ts m2ts",
        "mpeg1 mpeg2",
        None,
        "times duration",
        "only some frames carry a time; each counts on by itself",
    ),
    ("wmv", "wmv2 mpeg4", None, "start", "the first packet of Windows Media sound holds no sound"),
    ("wmv", "wmv2 mpeg4", None, "duration", "the length of the last frame is stored nowhere"),
    ("flv", "flv1", None, "duration", "the length of the last frame is stored nowhere"),
    ("flv", "h264 flv1", "cut with negative times", "times", "ffmpeg guesses the step from below zero to above"),
    ("mxf", "h264", None, "size", "its header states the shape of the picture before the codec's crop"),
    ("avi", "xvid mpeg4", None, "duration", "a packet of two frames, and one of none, at a cut"),
]
# The same, where ffmpeg is right.
NOT_MENDED = [
    ("mpg vob", "mpeg1 mpeg2", None, "start sound", "packets of sound that do not decode count at a cut"),
]


def explanation(case: Case, kind: str) -> str | None:
    """Why a difference of this kind is known for such a file, or None if it is a new fault."""
    for containers, codecs, edit, kinds, why in (*EXPLAINED, *NOT_MENDED):
        fits = case.container in containers.split() and case.codec in codecs.split() and kind in kinds.split()
        if fits and edit in (None, case.edit):
            return why
    return None
