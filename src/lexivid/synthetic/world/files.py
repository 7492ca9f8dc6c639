"""A world as a folder: video files, their manifest and the settings that made them.

    OUT/world.json      everything that decided the files; a second call with the same goes on where the first stopped
    OUT/split.json      base and novel classes (`ClassSplit`)
    OUT/manifest.csv    path, label (or labels), split, for `lexivid.data.formats.read_dataset`; written last
    OUT/train/CLASS/000.mp4, OUT/test/...       (where labels are not classes, `lexivid.synthetic.world.multilabel`:
                                                OUT/train/00000.mp4)

A clip is 2 s of H.264 (64 x 64 pixels, 8 frames a second) and AAC (16 kHz mono), so that whoever reads it decodes real
files. Its content depends only on the seed, its classes, its split and its index: not on the number of processes,
their order, or earlier calls.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from lexivid import __version__
from lexivid.base.interrupts import children_without_sigint
from lexivid.base.storage import write_atomically
from lexivid.base.workers import start_worker
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.media.spectrogram import SAMPLE_RATE_HZ
from lexivid.synthetic.world.draw import NONE, VIDEO, Look, draw, sample_multi_scenes
from lexivid.synthetic.world.sound import DISTRACTOR_LEVEL, SoundSource, Wave, waveform
from lexivid.synthetic.world.words import WorldClass, WorldClasses, WorldKind, draw_classes

SIZE, FRAME_RATE, DURATION_S = 64, 8, 2.0
NUM_FRAMES = round(FRAME_RATE * DURATION_S)
SOUND_S = 32 * 1024 / SAMPLE_RATE_HZ
"""Whole AAC frames of 1024 samples, 48 ms more than the frames: otherwise every sound would end in silence."""
MOST_OBJECTS = 4
"""Of a multi-label clip; it has at least two."""
VERSION = 1
"""Raised whenever the same settings make other clips."""

# The fast coder: the default one takes three times as long, and their spectrograms are equally close to the sound's.
_AAC = {"aac_coder": "fast"}
_AAC_BITS_PER_S = 32_000
# One key frame and no frames out of order: what a clip of 16 frames needs.
_H264 = {"crf": "20", "preset": "veryfast", "bf": "0", "g": str(NUM_FRAMES)}
_CLIPS_AT_A_TIME = 8  # by one worker; then it reports, and can be stopped
_FEWEST_FOR_A_POOL = 200  # starting processes takes longer than drawing so many

OnClipCount = Callable[[int, int], None]


@dataclass(frozen=True)
class WorldClip:
    """A clip to be drawn.

    Args:
        classes: of its main objects: one, or with multi-label clips two to four.
        split: "train", "val" or "test". index: its number among those of its first class and split.
        seed: the world's.
        own_labels: its labels, if these are not the names of its classes; its index is then among
            all of its split.
        synthetic: labels that a captioner might add, not all of them true.
    """

    classes: tuple[WorldClass, ...]
    split: str
    index: int
    seed: int
    own_labels: tuple[str, ...] = ()
    synthetic: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels in the manifest."""
        return self.own_labels or tuple(c.name for c in self.classes)

    @property
    def path(self) -> str:
        """Relative to the world's folder."""
        if self.own_labels:
            return f"{self.split}/{self.index:05d}.mp4"
        return f"{self.split}/{self.classes[0].name.replace(' ', '-')}/{self.index:03d}.mp4"

    def entropy(self) -> list[int]:
        """Seed of all random choices about it: eight numbers below 2**32."""
        key = "|".join([str(self.seed), *(c.name for c in self.classes), self.split, str(self.index)])
        return np.frombuffer(hashlib.sha256(key.encode()).digest(), "<u4").tolist()


@dataclass(frozen=True)
class World:
    """A written world.

    Attributes:
        clips: all, in the manifest's order. num_kept: how many of them existed before.
        wall_s: how long it took.
    """

    path: str
    split: ClassSplit
    clips: tuple[WorldClip, ...]
    num_kept: int
    wall_s: float


def make_world(
    out: str | os.PathLike[str],
    *,
    kind: WorldKind,
    clips_per_class: int,
    test_clips_per_class: int | None = None,
    val_clips_per_class: int = 0,
    seed: int = 0,
    num_base: int = 40,
    num_novel: int = 30,
    held_out: float = 1.0,
    pool: str = "report",
    classes: WorldClasses | None = None,
    multi_label: bool = False,
    look: Look = VIDEO,
    num_workers: int | None = None,
    on_progress: OnClipCount | None = None,
) -> World:
    """Write a world into a folder, or go on with one whose writing was interrupted.

    Args:
        out: a folder, new or empty, or one that a call with the same settings has begun.
        kind: which of motion and sound a class's name says; the other is random.
        clips_per_class: training clips of each base class. Novel classes have none.
        test_clips_per_class: test clips of each class; None: as many as training clips.
        val_clips_per_class: clips of split "val", for base and novel classes alike.
        seed: of the classes and of the clips.
        num_base, num_novel, held_out, pool: see `draw_classes`.
        classes: these instead of drawn ones; `num_base` to `pool` then play no part.
        multi_label: 2 to 4 objects in each clip, of different classes, all base or all novel. The numbers of clips
            are then those in which a class is the first object.
        look: how hard the frames are.
        num_workers: processes; None: all cores, or this process alone for a few clips.
        on_progress: called with (clips done, clips in all).

    Raises:
        LexividError: a number is out of range, there are not that many classes, or the folder holds something else or
            cannot be written.
    """
    counts = {"train": clips_per_class, "val": val_clips_per_class}
    counts["test"] = clips_per_class if test_clips_per_class is None else test_clips_per_class
    _check(counts, seed=seed, num_base=num_base, num_novel=num_novel)
    drawn: dict[str, Any] | None = None
    if classes is None:
        drawn = {"num_base": num_base, "num_novel": num_novel, "held_out": held_out, "pool": pool}
        classes = draw_classes(kind, seed=seed, **drawn)
    about: dict[str, Any] = {
        "kind": kind, "seed": seed, "classes_drawn": drawn, "clips_per_class": counts, "multi_label": multi_label,
        "base": [asdict(c) for c in classes.base], "novel": [asdict(c) for c in classes.novel],
    }  # fmt: skip
    clips = plan_clips(classes, counts, seed=seed, multi_label=multi_label)
    names = tuple(c.name for c in classes.base), tuple(c.name for c in classes.novel)
    split = ClassSplit(*names, seed, f"synthetic world {VERSION}, {kind}")
    return write_world(
        out, clips, split, about, multi_label=multi_label, look=look, num_workers=num_workers, on_progress=on_progress
    )


def write_world(
    out: str | os.PathLike[str],
    clips: Sequence[WorldClip],
    split: ClassSplit,
    about: dict[str, Any],
    *,
    multi_label: bool,
    look: Look = VIDEO,
    num_workers: int | None = None,
    on_progress: OnClipCount | None = None,
) -> World:
    """Write the clips of a plan and the lists beside them, or go on with one whose writing was interrupted.

    Args:
        out: see `make_world`.
        about: the settings of the plan, as a JSON object.
        multi_label: a clip may have several labels.
        look: how hard the frames are.
        num_workers: processes; None: all cores, or this process alone for a few clips.
        on_progress: called with (clips done, clips in all).

    Raises:
        LexividError: as `make_world`.
    """
    began = time.monotonic()
    if num_workers is not None and num_workers < 0:
        raise LexividError(f"num_workers is {num_workers}; choose 0 (this process alone) or more")
    settings = {
        "lexivid": __version__, "world_version": VERSION, **about,
        "look": asdict(look), "size_px": SIZE, "frame_rate": FRAME_RATE, "duration_s": DURATION_S, "sound_s": SOUND_S,
        "h264": _H264, "aac": {**_AAC, "bits_per_s": _AAC_BITS_PER_S},
    }  # fmt: skip
    out = Path(out)
    _claim(out, settings)
    missing = [clip for clip in clips if not _is_whole(out / clip.path)]
    num_kept = done = len(clips) - len(missing)
    if on_progress:
        on_progress(done, len(clips))
    for num in _write_all(out, missing, look, num_workers):
        done += num
        if on_progress:
            on_progress(done, len(clips))
    split.save(out / "split.json")
    write_atomically(out / "manifest.csv", _manifest(clips, multi_label))
    return World(os.fspath(out), split, tuple(clips), num_kept, time.monotonic() - began)


def plan_clips(
    classes: WorldClasses, counts: dict[str, int], *, seed: int, multi_label: bool = False
) -> list[WorldClip]:
    """All clips of a world, by split, then class: `counts` of each class, for training of the base classes alone."""
    clips = []
    for split, count in counts.items():
        for side in (classes.base,) if split == "train" else classes:
            for first in side:
                for index in range(count):
                    clip = WorldClip((first,), split, index, seed)
                    clips.append(_add_objects(clip, side) if multi_label else clip)
    return clips


def _add_objects(clip: WorldClip, side: Sequence[WorldClass]) -> WorldClip:
    """The clip with one to three more classes of its side, if there are so many."""
    first = clip.classes[0]
    rng = np.random.default_rng(clip.entropy())
    others = [c for c in side if c != first]
    num = min(int(rng.integers(1, MOST_OBJECTS)), len(others))
    chosen = [others[i] for i in rng.choice(len(others), num, replace=False)]
    return WorldClip((first, *chosen), clip.split, clip.index, clip.seed)


def render_clip(clip: WorldClip, *, look: Look = VIDEO) -> tuple[Tensor, Wave]:
    """Frames (16, 3, 64, 64) uint8 and sound (32768,) float32 of a clip, as they are before they are compressed.

    Nothing is read or written.
    """
    entropy = clip.entropy()
    generator = torch.Generator().manual_seed(entropy[0] << 32 | entropy[1])
    scenes = sample_multi_scenes([clip.classes], look=look, generator=generator)
    frames = draw(scenes, torch.arange(NUM_FRAMES) / FRAME_RATE, size=SIZE, generator=generator)[0]
    sources = [
        SoundSource(sound, shape, 1.0 if is_main else DISTRACTOR_LEVEL)
        for (shape, _, _, _, sound), is_main, size in zip(
            scenes.words[0].tolist(), scenes.is_main[0].tolist(), scenes.size[0].tolist(), strict=True
        )
        if sound != NONE and size > 0
    ]
    return frames, waveform(sources, rng=np.random.default_rng(entropy[2:]), duration_s=SOUND_S)


def encode_clip(frames: Tensor, sound: Wave) -> bytes:
    """Frames (T, 3, S, S) uint8 and sound (samples,) -> an MP4 file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options=_H264)
        video.width, video.height, video.pix_fmt = frames.shape[-1], frames.shape[-2], "yuv420p"
        video.codec_context.thread_count = 1  # more would cost more than they bring, and other clips need the cores
        audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", options=_AAC)
        audio.bit_rate = _AAC_BITS_PER_S
        for picture in frames.movedim(1, -1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
        samples.sample_rate, samples.time_base, samples.pts = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ), 0
        container.mux([*audio.encode(samples), *audio.encode()])
    return buffer.getvalue()


# ---- many clips ----


def _write_all(out: Path, clips: Sequence[WorldClip], look: Look, num_workers: int | None) -> Iterator[int]:
    """Write them all; yields how many more are written, every now and then."""
    if num_workers is None:
        num_workers = 0 if len(clips) < _FEWEST_FOR_A_POOL else os.cpu_count() or 1
    chunks = [clips[i : i + _CLIPS_AT_A_TIME] for i in range(0, len(clips), _CLIPS_AT_A_TIME)]
    if num_workers < 2 or len(chunks) < 2:
        with _one_thread():
            for chunk in chunks:
                yield _write_some(out, chunk, look)
        return
    # Spawned, not forked: a fork of a process that runs threads (torch's) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(chunks)), context, initializer=start_worker) as pool:
        try:
            with children_without_sigint():
                pending = {pool.submit(_write_some, out, chunk, look) for chunk in chunks}
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            raise LexividError(
                "a process that draws clips ended before its time: too little memory? The same call goes on where this "
                "one stopped; num_workers=0 needs no processes (and a script that starts some needs "
                "`if __name__ == '__main__':`)"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_some(out: Path, clips: Sequence[WorldClip], look: Look) -> int:
    for clip in clips:
        write_atomically(out / clip.path, encode_clip(*render_clip(clip, look=look)))
    return len(clips)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, as in a worker: more do not pay for frames this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- the folder ----


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings as the folder's first file; refuse a folder that has other settings."""
    path = out / "world.json"
    if path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LexividError(f"{str(path)!r} cannot be read: {error}; choose another folder") from None
        differ = [
            key for key in settings
            if key != "lexivid" and (not isinstance(stored, dict) or stored.get(key) != settings[key])
        ]  # fmt: skip
        if differ:
            raise LexividError(f"{str(out)!r} holds another world ({', '.join(differ)} differ): choose another folder")
        for left in out.rglob(".*.mp4.*"):  # half a file of a process that was killed
            left.unlink(missing_ok=True)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LexividError(f"{str(out)!r} is not an empty folder, and holds no world: choose another")
    write_atomically(path, json.dumps(settings, ensure_ascii=False, indent=1) + "\n")


def _is_whole(path: Path) -> bool:
    """Whether the file exists and is not empty. Files appear whole, but a power cut may leave an empty one."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _manifest(clips: Sequence[WorldClip], multi_label: bool) -> str:
    rows = [[clip.path, ";".join(clip.labels), clip.split] for clip in clips]
    header = ["path", "labels" if multi_label else "label", "split"]
    if any(clip.synthetic for clip in clips):
        header.append("synthetic")
        for row, clip in zip(rows, clips, strict=True):
            row.append(";".join(clip.synthetic))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([header, *rows])
    return buffer.getvalue()


def _check(counts: dict[str, int], *, seed: int, num_base: int, num_novel: int) -> None:
    least = {"train": 1, "val": 0, "test": 0}
    for split, count in counts.items():
        if count < least[split]:
            raise LexividError(f"{count} {split} clips per class: choose {least[split]} or more")
    for name, value, low in (("seed", seed, 0), ("base classes", num_base, 1), ("novel classes", num_novel, 0)):
        if value < low:
            raise LexividError(f"{name}: {value}; choose {low} or more")
