"""Figures of a report as small SVG pictures: lines with bands, signed bars, a grid of numbers, one interval.

Written here and not by a plotting library so that a page can colour them for dark and light mode (CSS classes only, no
colour in the markup) and so that a phone shows them at a readable size: a picture is about as wide as a phone (`WIDTH`)
and grows downward. No meaning by colour alone: lines differ in dashes and markers, signs and numbers are printed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files

from lexivid.synthetic.reproduce.report_parts import Panel, Series, number, short

WIDTH = 340
NUM_COLOURS = 6  # classes s0 to s5; dashes then tell further lines apart
_CHAR = 6.3  # pixels that a character takes at the size of the labels, on the wide side
_LINE = 14
_STYLE = ("colours.css", "synthetic/reproduce/report_figures.css")


def draw_panel(kind: str, panel: Panel) -> str:
    """An `<svg>` element of one panel, or "" where it has nothing to show.

    Raises:
        ValueError: no such kind of figure.
    """
    if kind not in _KINDS:
        raise ValueError(f"a figure of kind {kind!r}: choose from {', '.join(_KINDS)}")
    return _KINDS[kind](panel)


def picture(kind: str, panel: Panel) -> str:
    """The same as a file of its own, which carries its colours for dark and light mode with it; "" for nothing."""
    drawing = draw_panel(kind, panel)
    style = "".join(files("lexivid").joinpath(name).read_text(encoding="utf-8") for name in _STYLE)
    start, end = drawing.partition(">")[::2]
    return drawing and f'{start}><style>{style}</style><rect class="ground" width="100%" height="100%"/>{end}\n'


def panel_table(kind: str, panel: Panel) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of what `draw_panel` shows, for readers who cannot see it or want the numbers."""
    if kind == "lines":
        series = panel["series"]
        at = sorted({x for one in series for x in one["x"]})
        points_each = [_points(one) for one in series]
        rows = [[short(x), *(_bracketed(points.get(x)) for points in points_each)] for x in at]
        return [panel["x_label"] or "x", *(one["name"] for one in series)], rows
    if kind == "bars":
        named = zip(panel["names"], panel["values"], strict=True)
        return ["", "difference"], [[name, number(value, signed=True)] for name, value in named]  # type: ignore[arg-type]
    marked = {tuple(cell) for cell in panel["marked"]}
    rows, signed = [], _signed(panel)
    for i, (y, values) in enumerate(zip(panel["y"], panel["values"], strict=True)):
        cells = (number(v, signed=signed) + (" *" if (i, j) in marked else "") for j, v in enumerate(values))  # type: ignore[arg-type]
        rows.append([_label(y), *cells])
    return [f"{panel['y_label']} \\ {panel['x_label']}", *map(_label, panel["x"])], rows


def interval(value: float | None, low: float | None, high: float | None, reach: float) -> str:
    """A value and its interval on a line from -`reach` to `reach` with zero in the middle, to go beside the numbers."""
    if value is None or not reach:
        return ""
    at = {name: 80 + 76 * x / reach for name, x in (("value", value), ("low", low), ("high", high)) if x is not None}
    bar = ""
    if len(at) == 3:
        bar = (
            f'<path class="whisker" d="M{at["low"]:.1f} 8H{at["high"]:.1f}M{at["low"]:.1f} 4v8M{at["high"]:.1f} 4v8"/>'
        )
    return (
        '<svg class="mark" viewBox="0 0 160 16" width="160" height="16" aria-hidden="true">'
        f'<path class="zero" d="M80 0v16"/>{bar}<circle class="dot" cx="{at["value"]:.1f}" cy="8" r="3"/></svg>'
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers, at most `most`, that enclose low and high: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        low, high = low - 1, high + 1
    power = math.floor(math.log10((high - low) / most)) - 1
    for step in (s * 10.0**p for p in range(power, power + 5) for s in (1, 2, 5)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            return [round(i * step, 10) for i in range(first, last + 1)]
    raise AssertionError("steps grow until they fit")


def _lines(panel: Panel) -> str:
    drawn = [(index, one["name"], _points(one)) for index, one in enumerate(panel["series"])]
    drawn = [each for each in drawn if each[2]]
    if not drawn:
        return ""
    xs = [x for _, _, points in drawn for x in points]
    ys = [y for _, _, points in drawn for point in points.values() for y in point if y is not None]
    y_ticks = ticks(min(ys), max(ys))
    x_ticks = [x for x in ticks(min(xs), max(xs), 8) if min(xs) <= x <= max(xs)]
    if all(float(x).is_integer() for x in xs):
        x_ticks = [x for x in x_ticks if float(x).is_integer()] or [min(xs)]
    left = 26 + _CHAR * max(len(short(y)) for y in y_ticks)
    right, top, bottom = WIDTH - 12.0, 10.0, 200.0
    span = max(xs) - min(xs)

    def across(x: float) -> float:
        return left + 6 + ((x - min(xs)) / span if span else 0.5) * (right - left - 12)

    def down(y: float) -> float:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top)

    parts = [f'<path class="grid" d="{"".join(f"M{left:.1f} {down(y):.1f}H{right:.1f}" for y in y_ticks)}"/>']
    parts += [_text(left - 5, down(y) + 4, short(y), "end") for y in y_ticks]
    parts += [_text(across(x), bottom + 16, short(x), "middle") for x in x_ticks]
    parts.append(_text((left + right) / 2, bottom + 33, panel["x_label"], "middle"))
    middle = (top + bottom) / 2
    parts.append(f'<text transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle">')
    parts.append(f"{escape(panel['y_label'])}</text>")
    for index, _, points in drawn:
        parts.append(_curve(index, points, across, down))
    y = bottom + 38
    for index, name, _ in drawn:
        y += 6
        colour = index % NUM_COLOURS
        parts.append(f'<path class="line s{colour} d{index % 4}" d="M8 {y + 10:.1f}h30"/>')
        parts.append(_marker(index, 23, y + 10))
        for line in textwrap.wrap(name, int((WIDTH - 46) / _CHAR)) or [""]:
            y += _LINE
            parts.append(_text(46, y, line))
    return _svg(parts, WIDTH, y + 6, panel["title"])


def _curve(
    index: int,
    points: Mapping[float, tuple[float, float | None, float | None]],
    across: Callable[[float], float],
    down: Callable[[float], float],
) -> str:
    colour = index % NUM_COLOURS
    lower = [f"{across(x):.1f} {down(low):.1f}" for x, (_, low, _) in points.items() if low is not None]
    upper = [f"{across(x):.1f} {down(high):.1f}" for x, (_, _, high) in points.items() if high is not None]
    parts = []
    if len(lower) == len(upper) == len(points):
        parts.append(f'<path class="band s{colour}" d="M{" ".join(["L".join(lower), "L", "L".join(upper[::-1])])}Z"/>')
    line = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, (y, _, _) in points.items())
    parts.append(f'<path class="line s{colour} d{index % 4}" d="M{line}"/>')
    if len(points) <= 30:
        parts += [_marker(index, across(x), down(y)) for x, (y, _, _) in points.items()]
    return "".join(parts)


def _marker(index: int, x: float, y: float) -> str:
    shapes = ("m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", "m-3-3h6v6h-6z", "m0-4l4 7h-8z", "m0-4l4 4l-4 4l-4-4z")
    return f'<path class="point s{index % NUM_COLOURS}" d="M{x:.1f} {y:.1f}{shapes[index % len(shapes)]}"/>'


def _bars(panel: Panel) -> str:
    """Zero in the middle; the name of a bar stands on the other side, where there is room for it."""
    rows = [(name, value) for name, value in zip(panel["names"], panel["values"], strict=True) if value is not None]
    if not rows:
        return ""
    zero, longest = WIDTH / 2, max(abs(value) for _, value in rows) or 1.0
    widest = max(len(number(value, signed=True)) for _, value in rows)
    room = zero - 8 - 1.2 * _CHAR * widest  # beyond a bar stands its number, in larger letters
    parts, y = [], 4.0
    for name, value in rows:
        lines = textwrap.wrap(name, int((zero - 8) / _CHAR)) or [""]
        height = _LINE * len(lines) + 6
        length = abs(value) / longest * room
        side = -1 if value < 0 else 1
        x = zero if side > 0 else zero - length
        kind = "up" if side > 0 else "down"
        middle = y + height / 2
        parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{middle - 6:.1f}" width="{length:.1f}" height="12"/>')
        ends = ("end", "start") if side > 0 else ("start", "end")
        parts.append(_text(zero + side * (length + 4), middle + 4, number(value, signed=True), ends[1], "value"))
        for index, line in enumerate(lines):
            parts.append(_text(zero - side * 6, y + 3 + _LINE * (index + 0.8), line, ends[0]))
        y += height
    parts.append(f'<path class="zero" d="M{zero} 0V{y + 4:.1f}"/>')
    return _svg(parts, WIDTH, y + 4, panel["title"])


def _grid(panel: Panel) -> str:
    rows: Sequence[Sequence[float | None]] = panel["values"]  # type: ignore[assignment]
    shown = [v for row in rows for v in row if v is not None]
    if not shown:
        return ""
    names = [_label(y) for y in panel["y"]], [_label(x) for x in panel["x"]]
    left = 10 + _CHAR * max(map(len, names[0]))
    signed = _signed(panel)
    widest = max(len(text) for text in [*names[1], *(number(value, signed=signed) for value in shown)])
    cell = max((WIDTH - left) / len(names[1]), 8 + _CHAR * widest)
    width, height, top = left + cell * len(names[1]), 30, 26.0
    parts = []
    for line in textwrap.wrap(f"down: {panel['y_label']}; across: {panel['x_label']}", int(width / _CHAR)):
        parts.append(_text(0, top - 14, line))
        top += _LINE
    parts += [_text(left + cell * (j + 0.5), top - 8, x, "middle") for j, x in enumerate(names[1])]
    least, most = (0.0, max(map(abs, shown))) if signed else (min(shown), max(shown))
    for i, row in enumerate(rows):
        y = top + height * i
        parts.append(_text(left - 6, y + 19, names[0][i], "end"))
        for j, value in enumerate(row):
            x = left + cell * j
            if value is not None:
                # Up to 0.45: the number on it keeps its contrast.
                strength = 0.04 + 0.41 * (abs(value) - least) / ((most - least) or 1.0)
                parts.append(f'<rect class="{"down" if value < 0 else "up"}" fill-opacity="{strength:.2f}" ')
                parts.append(f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:.1f}" height="{height - 2}"/>')
            parts.append(_text(x + cell / 2, y + 19, number(value, signed=signed), "middle", "value"))
    for i, j in panel["marked"]:
        x, y = left + cell * j, top + height * i
        parts.append(f'<rect class="outline" x="{x + 2:.1f}" y="{y + 2:.1f}" width="{cell - 4:.1f}" height="26"/>')
    return _svg(parts, width, top + height * len(rows) + 2, panel["title"])


_KINDS: Mapping[str, Callable[[Panel], str]] = {"lines": _lines, "bars": _bars, "grid": _grid}


def _signed(panel: Panel) -> bool:
    """A grid with a negative number is one of differences."""
    return any(value is not None and value < 0 for row in panel["values"] for value in row)


def _points(series: Series) -> dict[float, tuple[float, float | None, float | None]]:
    """x -> (y, low, high), in the order of x, without points that were not measured."""
    lows = series["low"] or [None] * len(series["x"])
    highs = series["high"] or [None] * len(series["x"])
    together = sorted(zip(series["x"], series["y"], lows, highs, strict=True), key=lambda point: point[0])
    return {x: (y, low, high) for x, y, low, high in together if y is not None}


def _bracketed(point: tuple[float, float | None, float | None] | None) -> str:
    if point is None:
        return number(None)
    y, low, high = point
    return number(y) if low is None or high is None else f"{number(y)} [{number(low)}, {number(high)}]"


def _label(value: float | str) -> str:
    return value if isinstance(value, str) else short(value)


def _text(x: float, y: float, text: str, anchor: str = "start", style: str = "") -> str:
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    style = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{where}{style}>{escape(text)}</text>'


def _svg(parts: Sequence[str], width: float, height: float, title: str) -> str:
    return (
        f'<svg class="figure" viewBox="0 0 {width:.0f} {math.ceil(height)}" style="max-width:{width * 1.3:.0f}px" '
        f'role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
