"""The report as Markdown that GitHub renders: the same parts in the same order as the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lexivid.synthetic.reproduce import report_figures
from lexivid.synthetic.reproduce.report_parts import (
    MARKS,
    Cell,
    Expectation,
    Figure,
    Results,
    Table,
    attributes,
    column_labels,
    compared,
    counted,
    direction,
    drawing_name,
    duration,
    facts,
    measures,
    moment,
    num_runs,
    number,
    picture_name,
    published_columns,
    share,
    verdicts,
)


def render(results: Results) -> str:
    """The text, from `complete` results."""
    parts = [f"# {_escape(results['title'])}", _origin(results), *_summary(results)]
    for table in results["tables"]:
        parts += _table(table)
    for figure in results["figures"]:
        parts += _figure(figure)
    parts += _pictures(results) + _seconds(results) + _models(results) + _protocol(results)
    if results["command"]:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", results["command"])), default=0))
        parts += ["## Repeat it", f"{fence}sh\n{results['command']}\n{fence}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(results: Results) -> str:
    lines = [
        f"**Measured on:** {_escape(results['data'])}" if results["data"] else "",
        _escape(moment(results["created"])),
    ]
    return "  \n".join(line for line in lines if line)


def _summary(results: Results) -> list[str]:
    groups = verdicts(results)
    if not any(groups.values()):
        return ["## Do the paper's signs come out?", "None was checked in this run."]
    counts = ", ".join(counted(key, groups[key]) for key in (True, False, None))
    rows = [
        [" ".join(MARKS[key]), title, each["text"], each["measured"] or "–", each["reason"]]
        for key in (False, None, True)
        for (_, title), expectations in groups[key].items()
        for each in expectations
    ]
    return ["## Do the paper's signs come out?", counts + ".", _rows(["", "where", "sign", "measured", "reason"], rows)]


def _table(table: Table) -> list[str]:
    labels, published = column_labels(table), published_columns(table)
    modalities = any(row["modalities"] for row in table["rows"])
    source = f"published on {table['published_on'] or 'the data of the paper'}, other data"
    head = ["system", *["modalities"] * modalities, *labels.values()]
    head += [f"{label} ({source})" for label in published.values()]
    rows = [
        [
            row["system"] + (" (best)" if row["best"] else ""),
            *[row["modalities"]] * modalities,
            *(_cell(row["values"].get(key)) for key in labels),
            *(number(row["published"].get(key)) for key in published),
        ]
        for row in table["rows"]
    ]
    parts = [f"## {_escape(table['title'])}", _escape(table["about"])]
    parts += [_rows(head, rows), "Mean over runs [95 % interval]."] if rows else ["No row was measured."]
    if table["differences"]:
        columns, compared_systems = compared(table)
        differences = [
            [pair, *(_bracketed(cells[key], signed=True) if key in cells else number(None) for key in columns)]
            for pair, cells in compared_systems.items()
        ]
        parts += ["**Paired differences**, in points", _rows(["difference", *columns.values()], differences)]
    if runs := num_runs(table):
        values = [
            [row["system"], labels[key], *map(number, cell["per_seed"]), *[""] * (runs - len(cell["per_seed"]))]
            for row in table["rows"]
            for key, cell in row["values"].items()
            if key in labels and cell["per_seed"]
        ]
        head = ["system", "column", *(f"run {index}" for index in range(1, runs + 1))]
        parts.append(_folded("Each run", _rows(head, values)))
    return parts + _expectations(table["expectations"]) + _bullets(table["notes"])


def _figure(figure: Figure) -> list[str]:
    parts = [f"## {_escape(figure['title'])}", _escape(figure["about"])]
    for index, panel in enumerate(figure["panels"], start=1):
        parts.append(f"**{_escape(panel['title'])}**" if panel["title"] else "")
        if panel["published"]:
            parts.append(f"Published, on other data: {_escape(direction(panel['published']))}.")
        head, rows = report_figures.panel_table(figure["kind"], panel)
        if not rows:
            parts.append("Nothing was measured.")
            continue
        parts.append(f"![{_escape(panel['title'] or figure['title'])}]({drawing_name(figure['id'], index)})")
        parts.append(_folded("The numbers", _rows(head, rows)))
        if panel["marked_label"]:
            parts.append(f"\\* outlined: {_escape(panel['marked_label'])}")
    return parts + _expectations(figure["expectations"]) + _bullets(figure["notes"])


def _expectations(expectations: Sequence[Expectation]) -> list[str]:
    lines = []
    for each in expectations:
        sign, words = MARKS[each["holds"]]
        measured = f" Measured: {_escape(each['measured'])}." if each["measured"] else ""
        reason = f" Reason: {_escape(each['reason'])}" if each["reason"] else ""
        lines.append(f"- {sign} **{words}**: {_escape(each['text'].rstrip('.'))}.{measured}{reason}")
    return ["\n".join(lines)] if lines else []


def _pictures(results: Results) -> list[str]:
    parts = []
    for index, picture in enumerate(results["pictures"], start=1):
        alt = re.sub(r"\s+", " ", _escape(picture["alt"]))
        parts += [f"## {_escape(picture['title'] or 'Picture')}", f"![{alt}]({picture_name(index)})"]
    return parts


def _seconds(results: Results) -> list[str]:
    if not results["seconds"]:
        return []
    rows = [[stage, duration(seconds)] for stage, seconds in results["seconds"].items()]
    return ["## Where the time went", _rows(["stage", "time"], rows)]


def _models(results: Results) -> list[str]:
    if not results["models"]:
        return []
    names = attributes(results)
    if not names:
        return ["## The pre-trained CLIPs", _escape(", ".join(model["id"] for model in results["models"]))]
    rows = [
        [model["id"], what, *(share(model[key].get(name)) for name in names)]  # type: ignore[literal-required]
        for model in results["models"]
        for key, what in measures(results).items()
    ]
    return ["## The pre-trained CLIPs", _rows(["model", "", *names], rows)]


def _protocol(results: Results) -> list[str]:
    parts = []
    if protocol_facts := facts(results):
        rows = [[name, value if isinstance(value, str) else "; ".join(value)] for name, value in protocol_facts.items()]
        parts += ["## What was used", _rows(["", ""], rows)]
    parts.append("## Failures")
    if not results["failures"]:
        return [*parts, "None."]
    return [*parts, _rows(["what", "why"], [[each["what"], each["why"]] for each in results["failures"]])]


def _cell(cell: Cell | None) -> str:
    return number(None) if cell is None else _bracketed(cell)


def _bracketed(cell: Cell, *, signed: bool = False) -> str:
    value, low, high = (number(cell[key], signed=signed) for key in ("value", "low", "high"))  # type: ignore[literal-required]
    return value if cell["low"] is None or cell["high"] is None else f"{value} [{low}, {high}]"


def _bullets(lines: Iterable[str]) -> list[str]:
    return ["\n".join(f"- {_escape(line)}" for line in lines)]


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_escape, line)) + " |" for line in lines)


def _escape(text: str) -> str:
    """Text as it is: nothing in a name becomes markup, mathematics, a column or a new line."""
    text = re.sub(r"([\\`*\[\]<>|~$&#]|(?<!\w)_|_(?!\w))", r"\\\1", str(text))
    return re.sub(r"\s*[\r\n]+\s*", " ", text).strip()
