"""Damaged files, frames and sound: each is read, or refused by one clear error, in bounded memory and time.

    python -m benchmarks.fuzz_damaged.measure --num-cases 10000

tests/support/damaged_files.py says what is damaged and how. Cases run in processes of their own under a limit of
memory; a case that crashes one, or takes longer than the limit, is a failure with its number. Writes result.json:
versions, machine, counts by kind, the longest, the largest, and every failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import av
import torch
from damaged_files import KINDS, SECONDS, make_valid, try_case

from lexivid import __version__

LIMIT_S = 60.0  # a file
LIMIT_MIB = 2048  # of address space, beyond what the libraries take
_CASES_PER_PROCESS = 500


def worker(valid_folder: Path, first: int, last: int) -> None:
    """Cases from `first` to before `last`, a line of JSON each."""
    torch.set_num_threads(1)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = taken + (LIMIT_MIB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    valid = {kind: (valid_folder / kind).read_bytes() for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for case in range(first, last):
            print(json.dumps(try_case(case, valid, Path(folder)).to_dict()), flush=True)


def run(valid_folder: Path, first: int, last: int) -> list[dict]:
    """The same cases, in child processes: one that dies or hangs is a failure of its case."""
    rows: list[dict] = []
    while first < last:
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz_damaged.measure",
            "--worker",
            str(valid_folder),
            str(first),
            str(last),
        ]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        timed_out = False
        while first < last:
            ready, _, _ = select.select([child.stdout], [], [], LIMIT_S + 30)
            line = child.stdout.readline() if ready else ""
            if not line:
                timed_out = not ready
                child.kill()
                break
            rows.append(json.loads(line))
            first += 1
        child.wait()
        if first < last:
            reason = "takes too long" if timed_out else f"the process dies ({child.returncode})"
            rows.append({"case": first, "kind": KINDS[first % len(KINDS)], "frames": "failed", "sound": "failed",
                         "sound_s": 0, "seconds": 0, "peak_mib": 0, "failures": [reason]})  # fmt: skip
            first += 1
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-cases", type=int, default=10_000)
    parser.add_argument("--first-case", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    args = parser.parse_args()
    began = time.perf_counter()
    rows: list[dict] = []
    last = args.first_case + args.num_cases
    with tempfile.TemporaryDirectory() as folder:
        make_valid(Path(folder))
        for first in range(args.first_case, last, _CASES_PER_PROCESS):
            stop = min(first + _CASES_PER_PROCESS, last)
            fresh = run(Path(folder), first, stop)
            rows += fresh
            result = summary(rows, (args.first_case, stop), time.perf_counter() - began)
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{len(rows)} of {args.num_cases}, {result['seconds']:.0f} s", flush=True)
            for row in fresh:
                if row["failures"]:
                    print(row, flush=True)
    print(f"{args.out}: {len(result['failures'])} failures")


def summary(rows: list[dict], cases: tuple[int, int], seconds: float) -> dict:
    """What is written: of the cases so far."""
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    return {
        "versions": {
            "lexivid": __version__, "av": av.__version__, "libavcodec": ffmpeg,
            "torch": torch.__version__, "python": platform.python_version(),
        },
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "cases": cases,
        "limits": {"seconds": LIMIT_S, "mib": LIMIT_MIB},
        "seconds": round(seconds, 1),
        "frames": Counter(row["frames"] for row in rows),
        "sound": Counter(row["sound"] for row in rows),
        "slowest": _most(rows, "seconds"),
        "largest_mib": max(row["peak_mib"] for row in rows),
        "longest_sound": _most(rows, "sound_s"),
        "valid_sound_s": SECONDS,
        "failures": [row for row in rows if row["failures"]],
        "by_kind": {
            kind: Counter(f"frames {row['frames']}, sound {row['sound']}" for row in rows if row["kind"] == kind)
            for kind in KINDS
        },
    }  # fmt: skip


def _most(rows: list[dict], what: str) -> list[dict]:
    ordered = sorted(rows, key=lambda row: -row[what])
    return [{key: row[key] for key in ("case", "kind", what)} for row in ordered[:10]]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
