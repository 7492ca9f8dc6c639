"""TV-L1 flow: ours against OpenCV, in one run, on the same pairs and the same cores.

    LEXIVID_MEDIA=FOLDER OMP_NUM_THREADS=1 python -m benchmarks.flow.measure

Writes result.json and plot.svg. Each pair is timed by OpenCV and by us in turn, so that a busy
machine slows both; what counts is the median over the pairs of the ratio. Times on one core are CPU time of the
thread; on two cores, wall-clock time. Needs the extras `flow` and `dis`, matplotlib, and for the compiled
plain path a C++ compiler. With a CUDA device it also measures batches of pairs there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import torch
from flow_scenes import MOTIONS, distance, moved, opencv_tvl1, real_pairs

from lexivid.media import _tvl1_numba
from lexivid.media import tvl1 as module
from lexivid.media.tvl1 import tvl1

HERE = Path(__file__).resolve().parent

SIZES = ((224, 224), (256, 340))
Pictures = np.ndarray


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.thread_time) -> tuple[float, Any]:
    began = clock()
    result = function()
    return clock() - began, result


def spread(values: list[float] | np.ndarray, digits: int = 1) -> dict[str, float]:
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"median": round(middle, digits), "p10": round(low, digits), "p90": round(high, digits)}


def one_core(names: list[str], firsts: Pictures, seconds_: Pictures) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """CPU time of each pair by OpenCV and by us, in turn; and how far the flows are from each other."""
    tvl1(firsts[:1], seconds_[:1])  # compilation
    rows = []
    for name, first, second in zip(names, firsts, seconds_, strict=True):
        pair = first[None], second[None]
        ours_s, ours = min((seconds(lambda: tvl1(*pair, num_threads=1)) for _ in range(2)), key=lambda timed: timed[0])  # noqa: B023
        theirs_s, theirs = seconds(lambda: opencv_tvl1(first, second))  # noqa: B023
        apart = distance(ours[0], theirs)
        rows.append(
            {"pair": name, "opencv_ms": round(theirs_s * 1e3, 1), "lexivid_ms": round(ours_s * 1e3, 2),
             "ratio": round(theirs_s / ours_s, 1), "mean_px_apart": round(float(apart.mean()), 4),
             "mean_flow_px": round(float(np.hypot(*theirs).mean()), 2)}
        )  # fmt: skip
    summary = {
        "pairs": len(rows),
        "opencv_ms": spread([row["opencv_ms"] for row in rows]),
        "lexivid_ms": spread([row["lexivid_ms"] for row in rows]),
        "times_faster": spread([row["ratio"] for row in rows]),
    }
    return summary, rows


def two_cores(firsts: Pictures, seconds_: Pictures, repeats: int = 3) -> dict[str, Any]:
    """Wall-clock time of 16 pairs on two threads: ours over pairs, OpenCV's over pairs too (its best way here)."""
    firsts, seconds_ = firsts[:16], seconds_[:16]

    def theirs() -> None:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(opencv_tvl1, firsts, seconds_))

    ratios, ours_ms = [], []
    for _ in range(repeats):
        ours_s, _flow = seconds(lambda: tvl1(firsts, seconds_, num_threads=2), time.perf_counter)
        theirs_s, _none = seconds(theirs, time.perf_counter)
        ratios.append(theirs_s / ours_s)
        ours_ms.append(ours_s / len(firsts) * 1e3)
    return {"times_faster": spread(ratios), "lexivid_ms_per_pair": spread(ours_ms), "repeats": repeats}


def plain_torch(firsts: Pictures, seconds_: Pictures, count: int = 5) -> dict[str, Any]:
    """The plain path on one core, eager and with its inner iteration compiled, against ours on the same pairs."""
    eager_iterate = module._iterate
    found: dict[str, Any] = {"pairs": count}
    for name in ("eager", "compiled"):
        try:
            if name == "compiled":
                module._iterate = torch.compile(eager_iterate, dynamic=True)
                tvl1(firsts[:1], seconds_[:1], method="torch")  # compilation
            ratios, times = [], []
            for first, second in zip(firsts[:count, None], seconds_[:count, None], strict=True):
                ours_s, _flow = seconds(lambda: tvl1(first, second, num_threads=1))  # noqa: B023
                plain_s, _flow = seconds(lambda: tvl1(first, second, method="torch"))  # noqa: B023
                ratios.append(plain_s / ours_s)
                times.append(plain_s * 1e3)
            found[name] = {"ms": spread(times), "times_slower_than_numba": spread(ratios)}
        except Exception as error:
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:200]}
        finally:
            module._iterate = eager_iterate
    return found


def kernels(height: int, width: int, repeats: int = 40) -> dict[str, float]:
    """Median time of each kernel at this size, one core: milliseconds, and nanoseconds a pixel of an iteration."""
    k, f4 = _tvl1_numba, np.float32
    first, second, flow = moved("smooth", height, width)
    memory = k._working_memory(height, width)
    padded = -(-width // k.VECTOR) * k.VECTOR
    planes = memory.reshape(12, height + 1, padded + 2 * k.LEFT)
    planes[:] = 0
    planes[:2, :height, :width] = flow
    inside = (np.arange(padded) < width).astype(f4)
    fours = np.empty((height + 2 * k.EDGE, width + 2 * k.EDGE, 4), f4)
    image0, image1 = first.astype(f4), second.astype(f4)
    calls: dict[str, Callable[[], Any]] = {
        "interleave": lambda: k._interleave(image1, height, width, fours),
        "warp": lambda: k._warp(fours, image0, *planes[:2], *planes[6:10], height, width),
        "median_of_one_component": lambda: k._median(planes[0], planes[10], height, width),
        "iteration": lambda: k._iterate(*planes[:10], inside, height, width, f4(0.3), f4(0.045), f4(0.25 / 0.3)),
    }
    found = {}
    for name, call in calls.items():
        call()
        found[f"{name}_ms"] = round(float(np.median([seconds(call)[0] for _ in range(repeats)])) * 1e3, 4)
    found["iteration_ns_per_pixel"] = round(found["iteration_ms"] * 1e6 / (height * width), 3)
    return found


def known_motion() -> list[dict[str, Any]]:
    """Mean distance to OpenCV and, away from the border, to the truth."""
    rows = []
    interior = (slice(8, -8), slice(8, -8))
    for kind in MOTIONS:
        first, second, truth = moved(kind, 256, 340)
        ours, theirs = tvl1(first[None], second[None])[0].numpy(), opencv_tvl1(first, second)
        errors = {name: round(float(distance(flow, truth)[interior].mean()), 4) for name, flow in
                  (("lexivid_to_truth_px", ours), ("opencv_to_truth_px", theirs))}  # fmt: skip
        rows.append({"motion": kind, "lexivid_to_opencv_px": round(float(distance(ours, theirs).mean()), 4), **errors})
    return rows


def on_gpu(firsts: Pictures, seconds_: Pictures) -> dict[str, Any]:
    """Pairs per second at 224 x 224 for batches of 64 to 1,024."""
    if not torch.cuda.is_available():
        return {"measured": False, "why": "no CUDA device on this machine"}
    found: dict[str, Any] = {"measured": True, "device": torch.cuda.get_device_name(), "batches": []}
    wanted = tvl1(firsts, seconds_)
    for batch in (64, 128, 256, 512, 1024):
        order = np.arange(batch) % len(firsts)
        first, second = (torch.from_numpy(pictures[order]).cuda() for pictures in (firsts, seconds_))

        def run(first: torch.Tensor = first, second: torch.Tensor = second) -> torch.Tensor:
            flow = tvl1(first, second)
            torch.cuda.synchronize()
            return flow

        run()
        times, flows = zip(*(seconds(run, time.perf_counter) for _ in range(5)), strict=True)
        apart = distance(flows[0][: len(firsts)].cpu(), wanted[order[: len(firsts)]]).mean()
        found["batches"].append(
            {"pairs": batch, "pairs_per_s": spread([batch / s for s in times]), "mean_px_from_cpu": round(apart, 4)}
        )
    return found


def chart(report: dict[str, Any], path: Path) -> None:
    """Milliseconds a pair on one core; shorter is better. Plain paths, timed on fewer pairs, by their ratio to ours."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "lexivid", "font.family": "sans-serif", "font.size": 10})
    figure, axes = plt.subplots(1, len(SIZES), figsize=(8.5, 2.5))
    for axis, (height, width) in zip(axes, SIZES, strict=True):
        part = report["sizes"][f"{height}x{width}"]
        bars = [("OpenCV", part["one_core"]["opencv_ms"]["median"], "#9aa5b1")]
        for name, label in (("eager", "PyTorch"), ("compiled", "PyTorch compiled")):
            if "ms" in part["plain_torch"].get(name, {}):
                slower = part["plain_torch"][name]["times_slower_than_numba"]["median"]
                bars.append((label, slower * part["one_core"]["lexivid_ms"]["median"], "#c3cad3"))
        bars.append(("Lexivid", part["one_core"]["lexivid_ms"]["median"], "#2f6fde"))
        bars.reverse()
        axis.barh([bar[0] for bar in bars], [bar[1] for bar in bars], color=[bar[2] for bar in bars])
        for row, (_label, value, _color) in enumerate(bars):
            axis.text(value, row, f" {value:,.0f} ms", va="center")
        axis.set_xlim(0, 1.25 * max(bar[1] for bar in bars))
        axis.set_title(
            f"{width} x {height}: {part['one_core']['times_faster']['median']:.0f} times faster", fontsize=11
        )
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("TV-L1 flow, CPU milliseconds a pair on one core (real clips, median)", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    vectors = " with AVX-512" if "avx512f" in facts.get("flags", "") else ""
    name = facts.get("model name", platform.processor() or platform.machine())
    return f"{name}, family {facts.get('cpu family', '?')} model {facts.get('model', '?')}{vectors}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, default=os.environ.get("LEXIVID_MEDIA"), help="folder of real clips")
    parser.add_argument("--clips", type=int, help="only the first so many")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    parser.add_argument("--chart", type=Path, default=HERE / "plot.svg")
    arguments = parser.parse_args()
    if not arguments.media:
        parser.error("name the folder of real clips: --media, or LEXIVID_MEDIA")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    versions = {"opencv": cv2.__version__, "numba": numba.__version__, "torch": torch.__version__,
                "numpy": np.__version__, "python": platform.python_version()}  # fmt: skip
    load = [round(value, 1) for value in os.getloadavg()]
    report: dict[str, Any] = {
        "what": "TV-L1 optical flow of consecutive frames of real clips, default parameters",
        "hardware": {"cpu": processor(), "cores": os.cpu_count(), "load_average_before": load},
        "versions": versions,
        "known_motion": known_motion(),
        "sizes": {},
    }
    for size in SIZES:
        names, firsts, later, cuts = real_pairs(arguments.media, size=size, num_clips=arguments.clips)
        summary, rows = one_core(names, firsts, later)
        apart = [row["mean_px_apart"] for row in rows]
        part: dict[str, Any] = {
            "one_core": summary,
            "two_cores": two_cores(firsts, later),
            "plain_torch": plain_torch(firsts, later),
            "kernels": kernels(*size),
            "agreement": {
                "mean_px": round(float(np.mean(apart)), 4),
                "median_px": round(float(np.median(apart)), 4),
                "worst_px": max(apart),
                "above_0.2_px": [row["pair"] for row in rows if row["mean_px_apart"] > 0.2],
            },
            "scene_cuts_left_out": cuts,
            "pairs": rows,
        }
        report["sizes"][f"{size[0]}x{size[1]}"] = part
        short = {key: part[key] for key in ("one_core", "two_cores", "plain_torch", "kernels", "agreement")}
        print(json.dumps({f"{size[0]}x{size[1]}": short}, indent=1), file=sys.stderr, flush=True)
        if size == (224, 224):
            report["gpu"] = on_gpu(firsts, later)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    chart(report, arguments.chart)


if __name__ == "__main__":
    main()
