"""What a report is made of: the dictionary that `lexivid reproduce` writes, its gaps filled, its values in words.

Every key may be missing, and None stands for what was not measured. `complete` fills the gaps once, so that the page
(report.html.jinja), the Markdown (report_markdown.py) and the figures (report_figures.py) need not ask.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict, TypeVar, cast

T = TypeVar("T")

# Outcome of an expectation -> sign and words: never the sign or a colour alone.
MARKS = {True: ("✓", "holds"), False: ("✗", "does not hold"), None: ("?", "not measured")}
_SEVERAL = {True: "hold", False: "do not hold", None: "not measured"}
# What is known of a pre-trained CLIP, in the order of the report.
MEASURES = {"word_accuracy": "word accuracy", "chance": "chance", "text_variance": "share of the text variance"}
_MINUS = "−"
_ARROWS = {"up": "↑ up", "down": "↓ down"}


class Cell(TypedDict, total=False):
    """One measured number, its 95 % interval, and its value in each run (seed)."""

    value: float | None
    low: float | None
    high: float | None
    per_seed: list[float | None]


class ReportedRow(TypedDict, total=False):
    system: str
    modalities: str
    values: dict[str, Cell]  # by the key of the column
    published: dict[str, float]  # what the paper prints on its own data, by the key of the column
    best: bool  # marked as the best row of the table


class Column(TypedDict, total=False):
    key: str
    label: str


class Difference(Cell, total=False):
    """Paired over what both systems saw: `of` minus `minus`, in points."""

    of: str
    minus: str
    column: str


class Expectation(TypedDict, total=False):
    """A sign that the paper reports, and whether it came out here (None: not measured)."""

    text: str
    holds: bool | None
    measured: str
    reason: str  # why it did not come out, or was not measured


class Table(TypedDict, total=False):
    id: str
    title: str
    about: str
    columns: list[Column]
    rows: list[ReportedRow]
    published_on: str
    differences: list[Difference]
    expectations: list[Expectation]
    notes: list[str]


class Series(TypedDict, total=False):
    name: str
    x: list[float]
    y: list[float | None]
    low: list[float | None] | None
    high: list[float | None] | None


class Panel(TypedDict, total=False):
    """One drawing of a figure. lines: x_label, y_label, series, published. bars: names, values. grid: the rest."""

    title: str
    published: str  # in words, what the paper shows on its own data ("up")
    x_label: str
    y_label: str
    series: list[Series]
    names: list[str]
    x: list[float | str]
    y: list[float | str]
    values: list[Any]  # bars: one signed number each; grid: a list of numbers for each of y
    marked: list[list[int]]  # grid: [row, column] of cells to outline
    marked_label: str  # what the outline means


class Figure(TypedDict, total=False):
    id: str
    title: str
    about: str
    kind: Literal["lines", "bars", "grid"]
    panels: list[Panel]
    expectations: list[Expectation]
    notes: list[str]


class ReportedModel(TypedDict, total=False):
    """A pre-trained CLIP. All numbers are shares from 0 to 1, by attribute (shape, colour, motion ...)."""

    id: str
    word_accuracy: dict[str, float]
    chance: dict[str, float]
    text_variance: dict[str, float]


class Picture(TypedDict, total=False):
    title: str
    alt: str
    png: str  # base64


class Failure(TypedDict, total=False):
    what: str
    why: str


class Results(TypedDict, total=False):
    """Accuracies and differences are in percent (0 to 100), times in seconds."""

    title: str
    created: str  # ISO time
    command: str
    data: str  # what the numbers are of, in words
    versions: dict[str, str]
    hardware: str
    protocol: dict[str, str | list[str]]
    models: list[ReportedModel]
    seconds: dict[str, float]
    tables: list[Table]
    figures: list[Figure]
    pictures: list[Picture]
    failures: list[Failure]


def complete(results: Results | Mapping[str, Any]) -> Results:
    """The same with every missing key filled by its empty value, and None in place of NaN and infinity."""
    given = finite(dict(results))
    filled = {
        **_with({"title": "A reproduction", "created": "", "command": "", "data": "", "hardware": ""}, given),
        **_with({"versions": {}, "protocol": {}, "seconds": {}}, given),
        "models": _each(given, "models", {"id": "", "word_accuracy": {}, "chance": {}, "text_variance": {}}),
        "pictures": _each(given, "pictures", {"title": "", "alt": "", "png": ""}),
        "failures": _each(given, "failures", {"what": "", "why": ""}),
        "tables": _parts(given, "tables", {"columns": [], "published_on": ""}),
        "figures": _parts(given, "figures", {"kind": "lines"}),
    }
    filled["seconds"] = {stage: seconds for stage, seconds in filled["seconds"].items() if seconds is not None}
    for table in filled["tables"]:
        table["rows"] = _each(table, "rows", {"system": "", "modalities": "", "best": False})
        for row in table["rows"]:
            row["published"] = row.get("published") or {}
            row["values"] = {key: _with(_CELL, cell or {}) for key, cell in (row.get("values") or {}).items()}
        table["columns"] = _each(table, "columns", {"key": "", "label": ""})
        table["differences"] = _each(table, "differences", {"of": "", "minus": "", "column": "", **_CELL})
    for figure in filled["figures"]:
        figure["panels"] = _each(figure, "panels", _PANEL)
        for panel in figure["panels"]:
            panel["series"] = _each(panel, "series", {"name": "", "x": [], "y": [], "low": None, "high": None})
    return cast(Results, filled)


_CELL: dict[str, Any] = {"value": None, "low": None, "high": None, "per_seed": []}
_PANEL: dict[str, Any] = {
    **dict.fromkeys(("title", "published", "x_label", "y_label", "marked_label"), ""),
    **dict.fromkeys(("names", "values", "x", "y", "marked"), ()),
}


def _parts(given: Mapping[str, Any], key: str, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables or figures: what both have, and an id that is unlike any other even where none was given."""
    parts = _each(given, key, {"id": "", "title": "", "about": "", "notes": [], **defaults})
    for index, part in enumerate(parts, start=1):
        part["id"] = part["id"] or f"{key}-{index}"
        part["title"] = part["title"] or part["id"]
        part["expectations"] = _each(part, "expectations", {"text": "", "holds": None, "measured": "", "reason": ""})
    return parts


def _each(given: Mapping[str, Any], key: str, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_with(defaults, one) for one in given.get(key) or ()]


def _with(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}


def finite(value: T) -> T:
    """JSON has no NaN: None is what a reader of any language understands."""
    if isinstance(value, float):
        return cast(T, value if math.isfinite(value) else None)
    if isinstance(value, Mapping):
        return cast(T, {key: finite(each) for key, each in value.items()})
    if isinstance(value, (list, tuple)):
        return cast(T, [finite(each) for each in value])
    return value


def verdicts(results: Results) -> dict[bool | None, dict[tuple[str, str], list[Expectation]]]:
    """False, None and True -> the expectations of that outcome, by the id and the title of their part."""
    groups: dict[bool | None, dict[tuple[str, str], list[Expectation]]] = {False: {}, None: {}, True: {}}
    for part in (*results["tables"], *results["figures"]):
        for expectation in part["expectations"]:
            groups[expectation["holds"]].setdefault((part["id"], part["title"]), []).append(expectation)
    return groups


def counted(outcome: bool | None, groups: Mapping[tuple[str, str], list[Expectation]]) -> str:
    """ "2 hold", "1 does not hold", "0 not measured"."""
    count = sum(map(len, groups.values()))
    return f"{count} {MARKS[outcome][1] if count == 1 else _SEVERAL[outcome]}"


def published_columns(table: Table) -> dict[str, str]:
    """Key -> label of the columns that the paper prints, ours first, then any that only the paper has."""
    keys = {key for row in table["rows"] for key in row["published"]}
    labels = {key: label for key, label in column_labels(table).items() if key in keys}
    return labels | {key: key for row in table["rows"] for key in row["published"] if key not in labels}


def column_labels(table: Table) -> dict[str, str]:
    return {column["key"]: column["label"] or column["key"] for column in table["columns"]}


def compared(table: Table) -> tuple[dict[str, str], dict[str, dict[str, Difference]]]:
    """The differences as a table: key -> label of its columns, and "A − B" -> key -> difference."""
    labels = column_labels(table)
    keys = [each["column"] for each in table["differences"]]
    differences: dict[str, dict[str, Difference]] = {}
    for each in table["differences"]:
        differences.setdefault(f"{each['of']} − {each['minus']}", {})[each["column"]] = each
    columns = [key for key in labels if key in keys] + [key for key in keys if key not in labels]
    return {key: labels.get(key, key) for key in columns}, differences


def reach(table: Table) -> float:
    """How far the differences of a table reach from zero, for one scale beside all of them."""
    ends = (difference[key] for difference in table["differences"] for key in ("value", "low", "high"))  # type: ignore[literal-required]
    return max((abs(end) for end in ends if end is not None), default=0.0)


def num_runs(table: Table) -> int:
    """The most values that any cell of a table has."""
    return max((len(cell["per_seed"]) for row in table["rows"] for cell in row["values"].values()), default=0)


def measures(results: Results) -> dict[str, str]:
    """Those of `MEASURES` that any model has."""
    return {key: what for key, what in MEASURES.items() if any(model[key] for model in results["models"])}  # type: ignore[literal-required]


def attributes(results: Results) -> list[str]:
    """Every attribute (shape, colour ...) that any measure of any model has, in the order met."""
    return list(
        dict.fromkeys(name for model in results["models"] for key in MEASURES for name in model[key])  # type: ignore[literal-required]
    )


def share(value: float | None) -> str:
    return "–" if value is None else f"{number(100 * value)} %"


def facts(results: Results) -> dict[str, str | list[str]]:
    """What was used: the protocol, then versions and machine."""
    made = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    more = {"Versions": made, "Machine": results["hardware"], "Made on": moment(results["created"])}
    protocol = {
        k: list(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for k, v in results["protocol"].items()
    }
    return {**protocol, **{name: value for name, value in more.items() if value}}


def number(value: float | None, *, signed: bool = False) -> str:
    """One decimal and a true minus; a dash for what was not measured."""
    if value is None:
        return "–"
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return ("0.0" if text in ("-0.0", "+0.0") else text).replace("-", _MINUS)


def short(value: float) -> str:
    """A setting or a tick as short as it goes: 0.003, 10, −5."""
    return f"{value:.6g}".replace("-", _MINUS)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def direction(published: str) -> str:
    """What the paper shows, with an arrow where it is one."""
    return _ARROWS.get(published, published)


def moment(created: str) -> str:
    """An ISO time to the minute; anything else as it is."""
    try:
        time = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return created
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".strip()


def picture_name(index: int) -> str:
    return f"picture{index}.png"


def drawing_name(figure: str, index: int) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', figure)}-{index}.svg"
