"""Valid files of every kind that ffmpeg makes: do Lexivid's frames, times and durations agree with ffmpeg's?

    python -m benchmarks.fuzz_valid.measure --num-cases 1500

tests/support/valid_files.py says what is drawn and compared. Writes result.json: versions, counts by container and
codec, and every file on which the two differ, with the commands that make it. docs/media.md explains the differences.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import torch
from media_files import FFMPEG
from valid_files import Made, differences, draw, explanation, make

from lexivid import __version__


def run(seed: int) -> dict:
    """One file: what it is, and where the two differ."""
    torch.set_num_threads(1)
    case = draw(seed)
    row = {"seed": seed, "container": case.container, "codec": case.codec, "case": str(case)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            made: Made = make(case, Path(folder))
        except RuntimeError as error:
            return {**row, "not_made": str(error)}
        try:
            found = differences(made.path, case)
        except RuntimeError as error:
            return {**row, "not_made": str(error)}
    why = {kind: explanation(case, kind) for kind in found}
    return {**row, "differences": found, "explanations": why, "commands": made.commands}


def report(row: dict) -> None:
    """What is to be said of a file, a line a difference."""
    for kind, said in row.get("differences", {}).items():
        print(f"{row['seed']:5} {row['container']} {row['codec']} {kind}: {said}", flush=True)
    if "not_made" in row:
        print(f"{row['seed']:5} {row['container']} {row['codec']} not made: {row['not_made'][-200:]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-cases", type=int, default=1500)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no file after so long")
    parser.add_argument("--num-workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    args = parser.parse_args()
    began = time.perf_counter()
    rows: list[dict] = []
    end = args.first_seed + args.num_cases
    with ProcessPoolExecutor(args.num_workers) as pool:
        for first in range(args.first_seed, end, 20):
            if time.perf_counter() - began > 60 * args.minutes:
                break
            for row in pool.map(run, range(first, min(first + 20, end))):
                rows.append(row)
                report(row)
    compared = [row for row in rows if "differences" in row]
    differ = [row for row in compared if row["differences"]]
    version = subprocess.run([FFMPEG, "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    result = {
        "versions": {
            "lexivid": __version__,
            "av": av.__version__,
            "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
            "ffmpeg": version,
            "python": platform.python_version(),
        },
        "hardware": {"machine": platform.machine(), "num_cpus": os.cpu_count()},
        "seconds": round(time.perf_counter() - began, 1),
        "first_seed": args.first_seed,
        "files": len(compared),
        "files_ffmpeg_could_not_make": len(rows) - len(compared),
        "files_that_agree": len(compared) - len(differ),
        "files_by_container": dict(Counter(row["container"] for row in compared).most_common()),
        "files_by_codec": dict(Counter(row["codec"] for row in compared).most_common()),
        "files_that_differ_without_explanation": sum(None in row["explanations"].values() for row in differ),
        "differences_by_kind": dict(Counter(kind for row in differ for kind in row["differences"]).most_common()),
        "differences": differ,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(compared)} files, {len(differ)} on which the two differ, in {result['seconds']} s; {args.out}")


if __name__ == "__main__":
    main()
