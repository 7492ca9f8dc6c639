"""The report of a reproduction: one self-contained HTML page, the same as Markdown, and the numbers as JSON.

In: what `lexivid reproduce` measured (`Results`, in report_parts.py; a file read back with `json.load` will do).
Out: report.html, report.md, results.json and the pictures, each whole or not at all. The look: page.html.jinja and
report.html.jinja; figures: report_figures.py; Markdown: report_markdown.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lexivid.base.html import render_page
from lexivid.base.storage import write_atomically
from lexivid.synthetic.reproduce import report_figures, report_markdown, report_parts
from lexivid.synthetic.reproduce.report_parts import Results, complete, finite


def write_report(results: Results | Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write report.html, report.md, results.json and the pictures of report.md into a folder (made if missing).

    The page holds its pictures itself; Markdown shows picture1.png ... and each panel of a figure as figure1-1.svg ...

    results.json is written first: whatever may be wrong with the rest, the numbers are kept.

    Returns:
        the paths under "html", "markdown" and "json".

    Raises:
        LexividError: the folder cannot be written.
        ValueError: a figure of an unknown kind; lists of unequal length; a picture that is not base64.
    """
    paths = {"html": folder / "report.html", "markdown": folder / "report.md", "json": folder / "results.json"}
    numbers = json.dumps(finite(results), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(paths["json"], numbers + "\n")
    filled = complete(results)
    page, text = render_html(filled), report_markdown.render(filled)
    for index, picture in enumerate(filled["pictures"], start=1):
        write_atomically(folder / report_parts.picture_name(index), base64.b64decode(picture["png"], validate=True))
    for figure in filled["figures"]:
        for index, panel in enumerate(figure["panels"], start=1):
            if drawing := report_figures.picture(figure["kind"], panel):
                write_atomically(folder / report_parts.drawing_name(figure["id"], index), drawing)
    write_atomically(paths["html"], page)
    write_atomically(paths["markdown"], text)
    return paths


def render_html(results: Results) -> str:
    """The page, from `complete` results."""
    return render_page(
        "synthetic/reproduce/report.html.jinja", results=results, parts=report_parts, figures=report_figures
    )
