"""The report of a reproduction: what a reader, a browser, GitHub and a program find in it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_cases import EVIL, invented_results

from lexivid.errors import LexividError
from lexivid.synthetic.reproduce import report_figures
from lexivid.synthetic.reproduce.report import render_html, write_report
from lexivid.synthetic.reproduce.report_parts import complete, counted, duration, moment, number

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask for."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # innermost tag, text
        self.tables: list[list[list[str]]] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not self.open:
            return
        self.texts.append((self.open[-1], data))
        if {"td", "th"} & set(self.open) and self.tables and self.tables[-1]:
            self.tables[-1][-1][-1] += data + " "

    @property
    def text(self) -> str:
        return " ".join(" ".join(text for tag, text in self.texts if tag != "style").split())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_report(invented_results(), tmp_path_factory.mktemp("report") / "new" / "folder")


@pytest.fixture(scope="module")
def source(written: dict[str, Path]) -> str:
    return written["html"].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def page_of(paths: dict[str, Path]) -> Page:
    return Page(paths["html"].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def markdown(written: dict[str, Path]) -> str:
    return written["markdown"].read_text(encoding="utf-8")


def _table_of(page: Page, first: str) -> list[list[str]]:
    """The first table with this word in the first column, its cells without surplus space."""
    for table in page.tables:
        rows = [[" ".join(cell.split()) for cell in row] for row in table]
        if any(row and row[0].startswith(first) for row in rows):
            return rows
    raise AssertionError(f"no table has a row {first!r}")


def test_the_page_needs_nothing_but_itself(page: Page, source: str) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in source
    assert "@import" not in source
    policy = next(attributes for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_headings_captions_and_names_for_those_who_cannot_see(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = Counter(attributes["id"] for _, attributes in page.tags if attributes.get("id"))
    assert max(ids.values()) == 1
    linked = {str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"}
    assert {"table1", "table5", "table6", "figure1", "figure3", "table8-grid", "models", "time"} <= linked <= set(ids)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [picture["alt"] for picture in pictures] == ["eight coloured squares in two rows"]
    drawings = [attributes for tag, attributes in page.tags if tag == "svg" and "figure" in str(attributes["class"])]
    assert len(drawings) == 7
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    scrolling = [attributes for _, attributes in page.tags if attributes.get("class") == "scroll"]
    assert scrolling
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in scrolling)  # reached by the keyboard


def test_ours_and_the_published_numbers_stand_beside_each_other_and_apart(page: Page) -> None:
    rows = _table_of(page, "CLIP")
    assert rows[0] == ["", "measured here", "published, on Kinetics-700 – other data"]
    assert rows[1][1:] == ["base acc.", "novel acc.", "harmonic mean"] * 2
    assert rows[2] == [
        "CLIP V, T",
        "44.3 42.1 to 46.5",
        "45.1 42.4 to 47.8",
        "44.7 42.6 to 46.8",
        *("51.2", "56.7", "53.8"),
    ]
    assert rows[3][4:] == ["–", "–", "–"]
    assert rows[4][0] == "MOV best V, F, T"
    published = [attributes for tag, attributes in page.tags if tag == "td" and "paper" in str(attributes.get("class"))]
    assert len(published) == 9


def test_differences_stand_below_the_columns_they_are_of(page: Page, markdown: str) -> None:
    rows = _table_of(page, "MOV − CLIP")
    assert rows == [
        ["difference", "base acc.", "novel acc."],
        ["MOV − CLIP", "+21.1 +19.0 to +23.3", "+3.5 +1.4 to +5.5"],
        ["Fine-tuned video tower − CLIP", "–", "−1.5 −4.1 to +1.1"],
    ]
    assert "| MOV − CLIP | +21.1 \\[+19.0, +23.3\\] | +3.5 \\[+1.4, +5.5\\] |" in markdown
    assert "| Fine-tuned video tower − CLIP | – | −1.5 \\[−4.1, +1.1\\] |" in markdown


def _numbers(results: dict[str, Any]) -> list[str]:
    """Every measured number of the tables, figures, times and models, as a reader would see it."""
    found = []
    for table in results["tables"]:
        for row in table["rows"]:
            for cell in row["values"].values():
                found += [number(cell[key]) for key in ("value", "low", "high")] + [*map(number, cell["per_seed"])]
            found += [*map(number, row["published"].values())]
        for each in table["differences"]:
            found += [number(each[key], signed=True) for key in ("value", "low", "high")]
    for figure in results["figures"]:
        for panel in figure["panels"]:
            for series in panel["series"]:
                found += [number(y) for key in ("y", "low", "high") for y in series[key] or ()]
            for value in panel["values"]:
                found += [*map(number, value)] if isinstance(value, list) else [number(value, signed=True)]
    found += [f"{100 * value:.1f} %" for model in results["models"] for value in model["word_accuracy"].values()]
    return found + [duration(seconds) for seconds in results["seconds"].values()]


def test_every_number_is_in_page_and_markdown(page: Page, markdown: str) -> None:
    numbers = _numbers(complete(invented_results()))  # type: ignore[arg-type]
    assert len(numbers) > 200
    assert [one for one in numbers if one not in page.text] == []
    assert [one for one in numbers if one not in markdown] == []


def test_signs_with_their_reasons_come_first(page: Page, markdown: str) -> None:
    for text in (page.text, markdown.replace("\\", "")):
        summary = text[text.index("signs come out?") : text.index("Top-1 accuracy on base")]
        assert re.search(r"2 hold\b.* 1 does not hold.* 1 not measured", summary, re.DOTALL)
        failing = summary.index("Fine-tuning the video tower lowers novel")
        assert failing < summary.index("MOV above CoOp") < summary.index("MOV above CLIP on base by 15 points")
        assert "the interval includes zero: three of five seeds fall, two rise" in summary
        assert "CoOp is not part of this run" in summary
        assert "+21.2 [19.0, 23.3]" in summary


def test_what_was_used_is_said(page: Page, markdown: str) -> None:
    for said in (
        "lexivid reproduce all --world --seeds 5 --out world-report",
        "invented numbers of a test (never results)",
        "40 base, 30 novel, drawn anew for each seed",
        "a clip that shows {}",
        "torch 2.9.1",
        "2 cores, invented",
        "2026-11-21 15:00 UTC",
        "the decoder gave up: 0 frames",
        "Held-out words decide the panel of novel classes.",
        "No row was measured.",
        "16 min 51 s",
        "other data: ↓ down",
        "share of the text variance",
        "chosen on the validation classes",
    ):
        assert said in page.text, said
        assert said in markdown, said


def test_names_are_shown_and_do_nothing(page: Page, source: str, markdown: str) -> None:
    assert "<script" not in source
    assert EVIL in page.text
    assert "<script" not in markdown.replace("\\<", "")
    for table in _markdown_tables(markdown):
        assert len({_num_cells(line) for line in table}) == 1, table[0]


def _markdown_tables(markdown: str) -> list[list[str]]:
    blocks = [block.split("\n") for block in markdown.strip().split("\n\n")]
    return [block for block in blocks if block[0].startswith("|")]


def _num_cells(line: str) -> int:
    assert line.startswith("| ")
    assert line.endswith(" |")
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_markdown_tables_are_well_formed(markdown: str) -> None:
    tables = _markdown_tables(markdown)
    # The summary; 3 of table 1, 2 of table 5; 4 + 1 + 2 panels; time, models, protocol, failures.
    assert len(tables) == 1 + 3 + 2 + 7 + 4
    for head, rule, *rows in tables:
        assert set(rule) == set("| -")
        assert rows
        assert {_num_cells(row) for row in rows} == {_num_cells(head)} == {_num_cells(rule)}
    # A line that starts with a bar outside a table would be a broken one.
    assert sum(map(len, tables)) == sum(line.startswith("|") for line in markdown.split("\n"))
    main = next(table for table in tables if "Kinetics-700" in table[0])
    assert main[0].count("published on Kinetics-700, other data") == 3
    assert "| CLIP | V, T | 44.3 \\[42.1, 46.5\\] |" in main[2]


def test_json_is_what_came_in_with_null_for_nan(written: dict[str, Path]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(written["json"].read_text(encoding="utf-8"), parse_constant=refuse)
    expected = invented_results()
    expected["tables"][1]["rows"][0]["values"]["audio"]["value"] = None
    assert read == expected
    again = write_report(read, written["json"].parent / "again")
    assert again["html"].read_bytes() == written["html"].read_bytes()
    assert again["markdown"].read_bytes() == written["markdown"].read_bytes()
    assert (again["html"].parent / "picture1.png").read_bytes().startswith(b"\x89PNG")


def _without(results: Any, key: str) -> Any:
    """The same without a key, at every depth."""
    if isinstance(results, dict):
        return {name: _without(value, key) for name, value in results.items() if name != key}
    return [_without(value, key) for value in results] if isinstance(results, list) else results


def _keys(results: Any) -> set[str]:
    """Names of the schema, at every depth (not those that name classes, stages, columns ...)."""
    free = {"protocol", "seconds", "versions", "values", "published", "word_accuracy", "chance", "text_variance"}
    if isinstance(results, list):
        return set().union(*map(_keys, results))
    if not isinstance(results, dict):
        return set()
    return set(results).union(*(_keys(value) for key, value in results.items() if key not in free))


# Series without x, bars without names: lists that belong together are given together or not at all.
TOGETHER = {"x", "y", "names", "values", "series"}


@pytest.mark.parametrize("key", sorted(_keys(invented_results()) - TOGETHER))
def test_any_part_may_be_missing(key: str, tmp_path: Path) -> None:
    paths = write_report(_without(invented_results(), key), tmp_path)
    assert page_of(paths).text
    for head, *rows in _markdown_tables(paths["markdown"].read_text(encoding="utf-8")):
        assert {_num_cells(row) for row in rows} == {_num_cells(head)}


def test_nothing_at_all_is_a_report_that_says_so(tmp_path: Path) -> None:
    paths = write_report({}, tmp_path)
    page = page_of(paths)
    for text in (page.text, paths["markdown"].read_text(encoding="utf-8")):
        assert "None was checked in this run." in text
        assert "Where the time went" not in text
        assert "Repeat it" not in text
        assert "pre-trained CLIPs" not in text
    empty = {"tables": [{}], "figures": [{"panels": [{}]}, {}, {"kind": "bars", "panels": [{}]}, {"kind": "grid"}]}
    paths = write_report(empty, tmp_path)
    assert page_of(paths).text.count("Nothing was measured.") == 4
    assert "No row was measured." in paths["markdown"].read_text(encoding="utf-8")
    sections = [attributes["id"] for tag, attributes in page_of(paths).tags if tag == "section"]
    assert sections == ["signs", "tables-1", *(f"figures-{index}" for index in range(1, 5)), "used"]


def test_numbers_outlive_a_figure_that_cannot_be_drawn(tmp_path: Path) -> None:
    results = {"figures": [{"kind": "pie", "panels": [{"title": "no such kind"}]}]}
    with pytest.raises(ValueError, match="'pie': choose from lines, bars, grid"):
        write_report(results, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(LexividError, match="cannot be written"):
        write_report({}, tmp_path / "results.json" / "folder")


def test_models_of_which_little_is_known(tmp_path: Path) -> None:
    paths = write_report({"models": [{"id": "world"}, {"id": "world-1"}]}, tmp_path)
    for text in (page_of(paths).text, paths["markdown"].read_text(encoding="utf-8")):
        assert "world, world-1" in text
        assert "word accuracy" not in text
    paths = write_report({"models": [{"id": "world", "word_accuracy": {"shape": 0.5}}, {"id": "world-1"}]}, tmp_path)
    rows = [[" ".join(cell.split()) for cell in row] for row in page_of(paths).tables[0]]
    assert rows == [
        ["model", "", "shape"],
        ["world", "word accuracy", "50.0 %"],
        ["world-1", "word accuracy", "–"],
    ]


def _drawings(results: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    filled: Any = complete(results)
    return [
        (figure["kind"], panel, report_figures.draw_panel(figure["kind"], panel))
        for figure in filled["figures"]
        for panel in figure["panels"]
    ]


def test_figures_are_well_formed_stay_inside_and_leave_colours_to_the_page() -> None:
    for _, _, drawing in _drawings(invented_results()):
        root = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        assert width >= report_figures.WIDTH
        texts = [each for each in root.iter() if each.tag.endswith("text") and "x" in each.attrib]
        boxes = []
        for each in texts:
            x, y, long = float(each.attrib["x"]), float(each.attrib["y"]), 6.3 * len(each.text or "")
            left = x - {"middle": long / 2, "end": long}.get(each.attrib.get("text-anchor", ""), 0)
            assert left >= -1, each.text
            assert left + long <= width + 1, each.text
            assert 8 <= y <= height, each.text
            boxes.append((left, left + long, y))
        for index, (left, right, y) in enumerate(boxes):
            for other_left, other_right, other_y in boxes[index + 1 :]:
                assert abs(y - other_y) >= 11 or right <= other_left or other_right <= left, "labels overlap"
        for each in root.iter():
            assert not {"fill", "stroke", "onload", "href"} & set(each.attrib)


def test_markdown_shows_figures_that_bring_their_colours(written: dict[str, Path], markdown: str) -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    folder = written["markdown"].parent
    assert sorted(shown) == sorted(path.name for path in folder.iterdir() if path.suffix in (".svg", ".png"))
    assert len(shown) == 7 + 1
    for name in shown[:-1]:
        root = ElementTree.parse(folder / name).getroot()
        style = next(each.text or "" for each in root if each.tag.endswith("style"))
        assert "prefers-color-scheme: dark" in style
        asked = set(re.findall(r"var\((--\w+)\)", style))
        assert asked <= set(re.findall(r"(--\w+):", style))
        styled = set(re.findall(r"\.(\w+)", re.sub(r"\{[^}]*\}", "", style)))
        for each in root.iter():
            assert set(each.attrib.get("class", "").split()) <= styled | {"figure", "s0", "d0"}, each.attrib


def test_an_interval_lies_about_its_value_with_zero_in_the_middle() -> None:
    mark = ElementTree.fromstring(report_figures.interval(-4.0, -8.0, 2.0, 10.0))
    zero, whisker, dot = (each.attrib for each in mark)
    middle = float(mark.attrib["width"]) / 2
    assert zero["d"].startswith(f"M{middle:.0f} ")
    low, high = map(float, re.findall(r"M([\d.]+) 8H([\d.]+)", whisker["d"])[0])
    assert low < float(dot["cx"]) < middle < high
    assert (middle - low) / (middle - float(dot["cx"])) == pytest.approx(2, rel=0.01)
    assert (middle - low) / (high - middle) == pytest.approx(4, rel=0.02)
    assert len(ElementTree.fromstring(report_figures.interval(1.0, None, None, 10.0))) == 2
    assert report_figures.interval(None, None, None, 10.0) == ""


def test_what_the_figures_show() -> None:
    by_title = {panel["title"]: (panel, drawing) for _, panel, drawing in _drawings(invented_results())}
    rising = ElementTree.fromstring(by_title["flow, base"][1])
    # In the order drawn: the curve first, its sample in the legend last.
    curve = next(each.attrib["d"] for each in rising if each.attrib.get("class") == "line s0 d0")
    points = [tuple(map(float, point.split())) for point in curve.lstrip("M").split("L")]
    assert len(points) == 11
    assert all(after[0] > before[0] and after[1] < before[1] for before, after in pairwise(points))
    kinds = [each.attrib.get("class", "") for each in rising]
    assert kinds.count("band s0") == 1
    assert "band s1" not in kinds  # no interval was given
    panel, drawing = by_title["V + F, MOV minus CLIP"]
    bars = [each for each in ElementTree.fromstring(drawing) if each.tag.endswith("rect")]
    assert [bar.attrib["class"] for bar in bars] == ["up" if value >= 0 else "down" for value in panel["values"]]
    widths = [float(bar.attrib["width"]) for bar in bars]
    scale = widths[0] / panel["values"][0]
    assert widths == pytest.approx([abs(value) * scale for value in panel["values"]], abs=0.1)
    _, drawing = by_title["novel accuracy"]
    cells = ElementTree.fromstring(drawing)
    assert len([each for each in cells if each.attrib.get("class") == "up"]) == 15  # one of 16 was not measured
    strongest = max(
        (each for each in cells if "fill-opacity" in each.attrib), key=lambda each: each.attrib["fill-opacity"]
    )
    outlined = next(each for each in cells if each.attrib.get("class") == "outline")
    assert float(strongest.attrib["y"]) < float(outlined.attrib["y"])  # 49.4 lies above the cell that was chosen

    _, drawing = by_title["MOV minus CLIP"]
    signs = [each.attrib["class"] for each in ElementTree.fromstring(drawing) if "fill-opacity" in each.attrib]
    assert signs == ["up", "up", "down", "up", "up", "up"]


def test_a_gap_in_a_curve_and_one_point_alone() -> None:
    series = [{"name": "a", "x": [0, 1, 2], "y": [1.0, None, 3.0]}, {"name": "b", "x": [1], "y": [float("nan")]}]
    panel = complete({"figures": [{"panels": [{"series": series}]}]})["figures"][0]["panels"][0]
    root = ElementTree.fromstring(report_figures.draw_panel("lines", panel))
    assert sum("point" in each.attrib.get("class", "") for each in root.iter()) == 2 + 1  # and one in the legend
    assert report_figures.panel_table("lines", panel)[1] == [["0", "1.0", "–"], ["1", "–", "–"], ["2", "3.0", "–"]]
    panel["series"] = [{**panel["series"][0], "x": [4], "y": [7.0]}]
    ElementTree.fromstring(report_figures.draw_panel("lines", panel))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 10), (44.2, 51.9), (-3, 7), (0.001, 0.0042), (5, 5), (0, 0), (-120, 3e6), (99.99, 100)]
)
def test_ticks_are_few_round_and_enclose(low: float, high: float) -> None:
    ticks = report_figures.ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= low
    assert ticks[-1] >= high
    steps = {round(after - before, 9) for before, after in pairwise(ticks)}
    assert len(steps) == 1
    assert f"{steps.pop():.6e}"[0] in "125"


def test_values_in_words() -> None:
    assert [number(x) for x in (51.25, -0.04, -3.46, None)] == ["51.2", "0.0", "−3.5", "–"]
    assert [number(x, signed=True) for x in (3.0, 0.02, -3.0)] == ["+3.0", "0.0", "−3.0"]
    assert [duration(x) for x in (0.26, 59.4, 59.6, 3600, 5400)] == [
        "0.3 s",
        "59 s",
        "1 min 0 s",
        "1 h 0 min",
        "1 h 30 min",
    ]
    expectations: list[Any] = [{}]
    one, two = {("a", "A"): expectations}, {("a", "A"): expectations, ("b", "B"): expectations}
    assert [counted(True, one), counted(False, two), counted(None, {})] == [
        "1 holds",
        "2 do not hold",
        "0 not measured",
    ]
    assert moment("yesterday") == "yesterday"
    assert moment("2026-11-21T15:04:59Z") == "2026-11-21 15:04 UTC"


def _contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours (#rgb or #rrggbb)."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_both_schemes(scheme: str) -> None:
    source = render_html(complete({}))
    roots = re.findall(r":root \{([^}]*)\}", source)
    assert len(roots) == 4  # light and dark, of every page and of this one
    colours: dict[str, str] = {}
    for block in roots[::2] if scheme == "light" else roots:
        colours |= dict(re.findall(r"--([\w]+): (#\w+)", block))
    for text in ("ink", "soft", "bad", "warn", "good"):
        assert _contrast(colours[text], colours["card"]) >= 4.5, text
        assert _contrast(colours[text], colours["page"]) >= 4.5, text
    for text in ("ink", "soft"):
        assert _contrast(colours[text], colours["paper"]) >= 4.5, text
    for line in ("bar", "down", *(f"s{index}" for index in range(report_figures.NUM_COLOURS))):
        assert _contrast(colours[line], colours["card"]) >= 3, line
    for filled in ("bar", "down"):  # numbers on the strongest cell of a grid
        mixed = "#" + "".join(
            f"{round(0.45 * int(colours[filled][i : i + 2], 16) + 0.55 * int(card[i : i + 2], 16)):02x}"
            for card in ["#ffffff" if colours["card"] == "#fff" else colours["card"]]
            for i in (1, 3, 5)
        )
        assert _contrast(colours["ink"], mixed) >= 4.5, filled
