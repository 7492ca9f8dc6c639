"""Look at a report: its page in headless Chromium at two widths, in both colour schemes, and printed.

    python -m benchmarks.tools.report_screenshots world-report/report.html screenshots/

Writes phone-light.png, phone-dark.png, wide-light.png, wide-dark.png (the whole page each) and print.pdf, and fails if
the page can be scrolled sideways. Chromium's window cannot be as narrow as a phone, so the page sits in a frame.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

WIDTHS = {"phone": 390, "wide": 1200}
SCHEMES = {"dark": 0, "light": 1}  # as Chromium numbers them
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files"
).split()


def chromium(browser: str, *arguments: str) -> str:
    """Run it with a profile of its own; what it printed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *OPTIONS, f"--user-data-dir={profile}", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def framed(page: Path, width: int, height: int, folder: Path) -> Path:
    """A page that holds the report in a frame and, once loaded, says how large the report in it is."""
    path = folder / f"frame-{width}.html"
    source = html.escape(page.resolve().as_uri())
    path.write_text(
        f'<body style="margin:0"><iframe src="{source}" style="border:0;width:{width}px;height:{height}px" onload="'
        "const e = this.contentDocument.documentElement;"
        "document.body.dataset.size = e.scrollWidth + 'x' + e.scrollHeight\"></iframe>"
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="report.html")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    arguments = parser.parse_args()
    if not arguments.browser:
        raise SystemExit("no Chromium found: name it with --browser")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, width in WIDTHS.items():
            frame = framed(arguments.page, width, 1000, Path(scratch))
            seen = chromium(arguments.browser, "--dump-dom", "--virtual-time-budget=4000", frame.as_uri())
            size = re.search(r'data-size="(\d+)x(\d+)"', seen)
            if size is None:
                raise SystemExit(f"{arguments.page} did not load")
            if int(size[1]) > width:
                raise SystemExit(f"at {width} pixels the page is {size[1]} wide: it scrolls sideways")
            height = int(size[2])
            print(f"{name}: {width} x {height}, no sideways scroll")
            frame = framed(arguments.page, width, height, Path(scratch))
            for scheme, number in SCHEMES.items():
                picture = arguments.folder / f"{name}-{scheme}.png"
                chromium(
                    arguments.browser,
                    f"--blink-settings=preferredColorScheme={number}",
                    f"--window-size={max(width, 500)},{height}",
                    f"--screenshot={picture.resolve()}",
                    frame.as_uri(),
                )
                crop(picture, width)
        paper = (arguments.folder / "print.pdf").resolve()
        chromium(
            arguments.browser,
            "--no-pdf-header-footer",
            f"--print-to-pdf={paper}",
            arguments.page.resolve().as_uri(),
        )


def crop(picture: Path, width: int) -> None:
    """Cut the frame out of the window, which may be wider."""
    from PIL import Image

    with Image.open(picture) as image:
        image.crop((0, 0, min(width, image.width), image.height)).save(picture, optimize=True)


if __name__ == "__main__":
    main()
