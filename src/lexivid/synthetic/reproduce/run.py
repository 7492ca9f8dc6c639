"""`reproduce`: names of tables -> worlds, rows, results, report.

    OUT/settings.json, calls.json     the settings of every row, which another call must share; the duration
                                      of each call
    OUT/clips/KIND-SEED/              video files (see lexivid.synthetic.world.files)
    OUT/tensors/KIND-SEED*            the decoded clips and the frozen tower's features; may be deleted afterwards
    OUT/rows/KIND-SEED/SYSTEM.npz     one system's features of the test clips
    OUT/report.html, report.md, results.json

Existing files are not made again: an interrupted call goes on with the first missing row. The rows of a changed recipe
are made again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lexivid.backbones import Backbone, load_backbone
from lexivid.base.interrupts import children_without_sigint
from lexivid.base.storage import write_atomically
from lexivid.base.workers import end_workers, start_worker
from lexivid.errors import LexividError
from lexivid.models.towers import make_frozen_tower, make_tower, tower_fingerprint
from lexivid.synthetic.reproduce.packed_clips import PackedClips, pack_world
from lexivid.synthetic.reproduce.plan import CLIPS, QUICK, Scale, TableRow, kinds_of, parse_names
from lexivid.synthetic.reproduce.report import write_report
from lexivid.synthetic.reproduce.reproduction import Reproduction
from lexivid.synthetic.reproduce.results import assemble
from lexivid.synthetic.reproduce.rows import Workplace, run_row
from lexivid.synthetic.reproduce.world_samples import encode_world, world_distractor_labels
from lexivid.synthetic.world.words import WorldKind

_CLIP_COST = 0.06  # seconds of one process, to make, decode and follow a clip; only the time left depends on it


@dataclass(frozen=True)
class RunProgress:
    """Where a reproduction is.

    Attributes:
        what: the rows or the world in work. share: of all the work, 0 to 1. left_s: seconds, None while unknown.
    """

    what: str
    share: float
    left_s: float | None


OnRunProgress = Callable[[RunProgress], None]


def reproduce(
    names: Sequence[str],
    out: str | Path,
    *,
    seeds: int | Sequence[int] = 1,
    quick: bool = False,
    clips: Sequence[str] = CLIPS,
    scale: Scale | None = None,
    num_workers: int | None = None,
    on_progress: OnRunProgress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Make tables and figures of the MOV paper on the synthetic world -> the results, as the report shows them.

    Args:
        names: of `lexivid.synthetic.reproduce.plan.NAMES`, or "all".
        out: a folder, new or of an earlier call with the same settings, which is continued.
        seeds: how many, from 0 on, or which ones. A seed decides class split, clips, training and which backbone.
        quick: a small world and few epochs, see `QUICK`.
        clips: backbones, by name or folder.
        scale: how much is run; None: as `quick` says.
        num_workers: processes; None: all cores.
        command: the command line that the report shows.

    Raises:
        LexividError: an unknown name, no seeds, a folder of other settings, or as `train`.
    """
    asked = parse_names(names)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or min(numbers) < 0:
        raise LexividError(f"seeds: {seeds}; give a number of at least 1")
    if not clips:
        raise LexividError("name at least one backbone")
    began = time.monotonic()
    scale = scale or (QUICK if quick else Scale())
    loaded = {name: load_backbone(name, device="cpu", dtype="float32") for name in _used(clips, numbers)}
    layers = {name: _num_layers(backbone) for name, backbone in loaded.items()}
    if len(set(layers.values())) > 1:
        raise LexividError(f"the backbones must have the same number of layers; got {layers}")
    place = Workplace(Path(out))
    job = Reproduction(asked, numbers, tuple(clips), scale, place, next(iter(layers.values())))
    _claim(place.out, scale, loaded)
    num_workers = num_workers or os.cpu_count() or 1
    missing = job.missing()
    worlds = [
        (kind, seed)
        for seed in numbers
        for kind in kinds_of(asked)
        if any((row.kind, row.seed) == (kind, seed) for row in missing) or not place.features(kind, seed).is_file()
    ]
    progress = _Progress(job, missing, worlds, num_workers, on_progress)
    for kind, seed in worlds:
        _prepare(job, kind, seed, loaded[job.clip(seed)], num_workers, progress)
    for row in _run_all(job, missing, num_workers, progress):
        progress.finish(row)
    calls = _calls(place.out, time.monotonic() - began, made=bool(missing or worlds))
    results = assemble(job, loaded, calls_s=calls, command=command)
    write_report(results, place.out)
    return results


def _calls(out: Path, wall_s: float, *, made: bool) -> list[float]:
    """Seconds of every call that made something in this folder, this one included; kept in calls.json."""
    path = out / "calls.json"
    try:
        before = [float(seconds) for seconds in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        before = []
    calls = [*before, round(wall_s, 1)] if made else before
    write_atomically(path, json.dumps(calls) + "\n")
    return calls


def _used(clips: Sequence[str], seeds: Sequence[int]) -> list[str]:
    return list(dict.fromkeys(clips[seed % len(clips)] for seed in seeds))


def _num_layers(backbone: Backbone) -> int:
    return int(make_tower(backbone, modality="flow").num_layers)


def _claim(out: Path, scale: Scale, backbones: dict[str, Backbone]) -> None:
    """Write the settings as the folder's first file; refuse a folder that has other settings."""
    path = out / "settings.json"
    prints = {name: tower_fingerprint(make_frozen_tower(backbone)) for name, backbone in backbones.items()}
    settings: dict[str, Any] = {"scale": asdict(scale), "backbones": prints}
    if path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LexividError(f"{str(path)!r} cannot be read ({error}): choose another folder") from None
        stored_prints = stored.get("backbones", {})
        same = stored.get("scale") == settings["scale"]
        if not same or any(stored_prints.get(name, value) != value for name, value in prints.items()):
            difference = "backbones" if same else "classes, clips or epochs (--quick?)"
            raise LexividError(f"{str(out)!r} holds a run with other {difference}: choose another folder")
        settings["backbones"] = stored_prints | prints
        for left in out.glob(".training-*"):  # of a call that was killed
            shutil.rmtree(left, ignore_errors=True)
    write_atomically(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")


def _prepare(
    job: Reproduction, kind: WorldKind, seed: int, backbone: Backbone, num_workers: int, progress: _Progress
) -> None:
    """Files, tensors and features of a world, as far as they are missing."""
    place, name = job.place, f"clips of {kind} {seed}"
    if not place.packed(kind, seed).is_file():
        packed = pack_world(
            place.clips(kind, seed), kind=kind, seed=seed, size=job.scale.size, pool=job.scale.pool,
            images=backbone.images, num_workers=num_workers,
            sheet=None if place.sheet(kind).is_file() else place.sheet(kind),
            on_count=lambda done, total: progress.count(name, done, total),
        )  # fmt: skip
        packed.save(place.packed(kind, seed))
    if not place.features(kind, seed).is_file():
        packed = PackedClips.load(place.packed(kind, seed))
        distractor_labels = world_distractor_labels(packed.split, kind, seed=seed, pool=job.scale.pool)
        encode_world(packed, backbone, distractor_labels=distractor_labels).save(place.features(kind, seed))
    progress.count(name, 1, 1)


def _run_all(job: Reproduction, rows: Sequence[TableRow], num_workers: int, progress: _Progress) -> Iterator[TableRow]:
    """Make the rows, several at a time; yields each that is done."""
    if not rows:
        return
    if num_workers == 1 or len(rows) == 1:
        for row in rows:
            progress.start(row)
            run_row(row, job.place, job.scale, clip=job.clip(row.seed))
            yield row
        return
    # Spawned, not forked: a fork of a process that runs threads (torch's) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(rows)), context, initializer=start_worker) as pool:
        waiting, running = list(rows), dict[Future[Any], TableRow]()
        try:
            while waiting or running:
                while waiting and len(running) < num_workers:
                    row = waiting.pop(0)
                    with children_without_sigint():
                        future = pool.submit(run_row, row, job.place, job.scale, clip=job.clip(row.seed))
                    running[future] = row
                    progress.start(row)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    row = running.pop(future)
                    future.result()
                    yield row
        except BaseException:  # no waiting for rows of a minute: they are made again
            end_workers(pool)
            raise


class _Progress:
    """Work done and left, in seconds of one process as the plan guesses them, scaled by how long they really took."""

    def __init__(
        self, job: Reproduction, rows: Sequence[TableRow], worlds: Sequence[tuple[WorldKind, int]], num_workers: int,
        on_progress: OnRunProgress | None,
    ) -> None:  # fmt: skip
        size = job.scale.size
        clips = (size.train_clips + size.held_out_clips + size.test_clips) * size.num_base
        self.of_world = (clips + size.test_clips * size.num_novel) * _CLIP_COST
        self.job, self.num_workers, self.on_progress = job, num_workers, on_progress
        self.total = self.of_world * len(worlds) + sum(job.cost(row) for row in rows)
        self.done = 0.0
        self.shares: dict[str, float] = {}
        self.running: list[TableRow] = []
        self.began = time.monotonic()

    def count(self, name: str, done: int, total: int) -> None:
        """Progress of a world."""
        share = self.of_world * done / max(1, total)
        self.done += share - self.shares.get(name, 0.0)
        self.shares[name] = share
        self._tell(name)

    def start(self, row: TableRow) -> None:
        """A row has begun."""
        self.running.append(row)
        self._tell(", ".join(map(str, self.running)))

    def finish(self, row: TableRow) -> None:
        """A row is done."""
        self.running.remove(row)
        self.done += self.job.cost(row)
        self._tell(", ".join(map(str, self.running)) or "scoring")

    def _tell(self, what: str) -> None:
        if self.on_progress is None:
            return
        elapsed, share = time.monotonic() - self.began, self.done / self.total if self.total else 1.0
        left = elapsed * (1 - share) / share if share > 0.02 else self.total / self.num_workers
        self.on_progress(RunProgress(what, min(1.0, share), left))
