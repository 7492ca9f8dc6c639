"""Run every command of the README and of docs/, as a new user would type it, in a scratch folder that holds clips.

    python .ci/readme.py [PAGE...]

Without arguments: the README, then every page of docs/ in the order of names. The pages share the scratch folder.
```sh blocks run line by line, ```python blocks as scripts. A block whose preceding line is an HTML comment
`<!-- ci: expect STATUS reason -->` must end with that status (a model that is not here, without a network);
`<!-- ci: skip reason -->` is named and not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:<!-- ci: (?P<rule>expect|skip) (?P<detail>[^>]*?) -->\n)?```(?P<kind>sh|python)\n(?P<body>.*?)```", re.S
)


def clips(folder: Path) -> None:
    """The names that the README uses, made of the demonstration clips."""
    sys.path.insert(0, str(ROOT / "src"))
    from lexivid.demo import find_clips

    first, second = find_clips()
    (folder / "footage").mkdir()
    shutil.copy(first, folder / "holiday.mp4")
    shutil.copy(first, folder / "footage" / "bikes.mp4")
    shutil.copy(second, folder / "footage" / "rabbit.mp4")
    for name, film in (("riding a bicycle", first), ("a rabbit in a meadow", second)):
        (folder / "clips" / name).mkdir(parents=True)
        for number in range(6):
            cut(film, folder / "clips" / name / f"{number}.mp4", start_s=0.8 * number)
    (folder / "labels.txt").write_text("bicycles in a city\na rabbit in a meadow\nplaying drums\n")
    (folder / "classInd.txt").write_text("1 Biking\n2 PlayingViolin\n3 HorseRace\n")
    (folder / "phrases.csv").write_text("name,phrase\nPlayingViolin,a person playing the violin\n")


def cut(film: str, out: Path, *, start_s: float, num_frames: int = 20) -> None:
    """A short clip of a film."""
    import av

    from lexivid.media.decode import open_video

    with open_video(film) as video, av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", video.info.width // 2 * 2, video.info.height // 2 * 2
        for _, (_, frame) in zip(range(num_frames), video.frames_between(start_s), strict=False):
            picture = frame[:, : stream.height, : stream.width].permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    pages = [Path(name) for name in sys.argv[1:]] or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    environment = os.environ | {"PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        clips(scratch)
        for found in BLOCK.finditer(text):
            if found["rule"] == "skip":
                print(f"--- not run ({found['detail']}):\n{found['body']}", flush=True)
                continue
            expected = int(found["detail"].split()[0]) if found["rule"] == "expect" else 0
            body = found["body"]
            commands = [[sys.executable, "-c", body]] if found["kind"] == "python" else []
            if found["kind"] == "sh":
                lines = re.sub(r"\\\n\s*", " ", body).splitlines()
                commands = [["bash", "-euc", line] for line in lines if line.strip() and not line.startswith("#")]
            for command in commands:
                shown = command[-1].strip()
                print(f"--- {shown}", flush=True)
                where = ROOT if shown.startswith(("make", "python benchmarks")) else scratch
                started = time.monotonic()
                status = subprocess.run(command, cwd=where, env=environment, stdin=subprocess.DEVNULL).returncode
                print(f"    status {status}, {time.monotonic() - started:.1f} s", flush=True)
                if status != expected:
                    print(f"FAILED: status {status}, expected {expected}", flush=True)
                    failures += 1
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
