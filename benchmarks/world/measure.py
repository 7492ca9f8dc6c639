"""The committed result of `lexivid reproduce`: every table and figure on the synthetic world, 5 seeds, 3 backbones.

    python -m benchmarks.world.measure --out /tmp/world-run

writes benchmarks/world/: results.json, report.html, report.md and the report's figures. It is the command

    lexivid reproduce all --world --seeds 5 --out /tmp/world-run

and nothing else. Interrupted, it goes on where it stopped. Its settings were chosen on seeds 100 and up and the other
half of the novel classes (`--validate` repeats such a run, into --out alone).
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from lexivid.synthetic.reproduce import RunProgress, Scale, reproduce

HERE = Path(__file__).parent
COMMAND = "lexivid reproduce all --world --seeds 5 --out world-run"
_SHOWN_EVERY_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="working folder, about 2 GB")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--names", default="all")
    parser.add_argument("--validate", action="store_true", help="seeds 100 and up, validation classes")
    arguments = parser.parse_args()
    shown = float("-inf")

    def show(now: RunProgress) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _SHOWN_EVERY_S:
            shown = time.monotonic()
            left = f", {now.left_s / 60:.0f} min left" if now.left_s is not None else ""
            print(f"{now.share:.0%}{left}: {now.what}", flush=True)

    first = 100 if arguments.validate else 0
    results = reproduce(
        [arguments.names], arguments.out, seeds=range(first, first + arguments.seeds),
        scale=Scale(pool="validation" if arguments.validate else "report"), on_progress=show,
        command="" if arguments.validate else COMMAND,
    )  # fmt: skip
    print(results["seconds"])
    if not arguments.validate:
        for path in arguments.out.iterdir():
            if path.suffix in (".html", ".md", ".svg", ".png") or path.name == "results.json":
                shutil.copy(path, HERE / path.name)


if __name__ == "__main__":
    main()
