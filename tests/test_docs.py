"""Pages and docstrings: the examples run, links lead somewhere, and the files and modules that are named exist."""

from __future__ import annotations

import doctest
import importlib
import re
import shutil
from pathlib import Path

import pytest
import torch
import training_cases as cases
from layers import LAYERS

import lexivid
from lexivid.demo import find_clips

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "lexivid"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MODULES = sorted(SOURCE.rglob("*.py"))
ENDINGS = "py|md|json|svg|html|yaml|safetensors|jinja|tsv"
# `mov.py`, `models/mov.py`, `docs/api.md`
FILE_IN_TICKS = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|svg|jinja))`")
PATH = re.compile(rf"(?<![\w/.])((?:docs|benchmarks|tests)/[\w/.-]*\w\.(?:{ENDINGS}))\b")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([\w-]+))?\)")
NAME = re.compile(r"(?<![\w./-])lexivid(?:\.[A-Za-z_]\w*)+")


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        where = SOURCE.joinpath(*parts[1:length])
        if where.is_dir() or where.with_suffix(".py").is_file():
            found = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                if not hasattr(found, part):
                    return part in getattr(found, "__annotations__", ())
                found = getattr(found, part)
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_and_files_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [
        target for target, _ in LINK.findall(text) if "://" not in target and not (page.parent / target).exists()
    ]
    for target, anchor in LINK.findall(text):
        if anchor and "://" not in target:
            there = (page.parent / target).read_text(encoding="utf-8")
            heads = [
                re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", there, re.M)
            ]
            missing += [] if anchor in heads else [f"{target}#{anchor}"]
    names = [name for name in FILE_IN_TICKS.findall(text)]
    known = {path.name for folder in ("src", "tests", "docs", "benchmarks") for path in (ROOT / folder).rglob("*.*")}
    known |= {path.name for path in ROOT.glob("*.md")}
    for name in names:
        is_there = (ROOT / name).exists() or (SOURCE / name).exists() if "/" in name else name in known
        missing += [] if is_there else [name]
    missing += [name for name in PATH.findall(text) if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_names_of_a_page_exist(page: Path) -> None:
    names = set(NAME.findall(page.read_text(encoding="utf-8")))
    assert [name for name in sorted(names) if not _exists(name)] == []


def test_names_and_paths_in_the_source_exist() -> None:
    stale = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        names = {name.strip("`") for name in re.findall(r"`lexivid(?:\.[A-Za-z_]\w*)+`", text)}
        stale += [(_id(path), name) for name in sorted(names) if not _exists(name)]
        stale += [(_id(path), name) for name in PATH.findall(text) if not (ROOT / name).exists()]
    assert stale == []


def test_nothing_points_outside_the_project() -> None:
    outside = re.compile(r"\.\./shared|(?<!\w)papers/|-notes\.md|-facts\.md|(?<![\w.])/work/")
    folders = ("src", "tests", "docs", "benchmarks")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml")
    ]
    files += [*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    found = [_id(path) for path in files if path != Path(__file__) and outside.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_the_picture_of_the_layers_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("    | ")]
    drawn = [{cell.split()[0] for cell in row.split("|")[1:-1]} for row in rows]
    folders = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert drawn == [layer & folders for layer in LAYERS]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_api_page_names_all_of_the_api() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in lexivid.__all__ if f"`{name}`" not in text] == []


def test_the_examples_of_the_api_page_run(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    shutil.copy(find_clips()[0], "bikes.mp4")
    cases.make_clips(Path("clips"))
    Path("recipe.yaml").write_text(
        "name: tiny\n"
        f"model: {{backbone: {clip_folder}, modalities: [video], num_heads: 2, mlp_ratio: 1, templates: name}}\n"
        "data: {num_workers: 0, num_frames: 2, stride: null, held_out: 0.34}\n"
        "training: {epochs: 20, batch_size: 6, lr: 1.0e-3}\n"
    )
    page = ROOT / "docs" / "api.md"
    blocks = re.findall(r"```pycon\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out


def test_each_benchmark_is_a_folder_with_its_result() -> None:
    folders = sorted(path.parent for path in (ROOT / "benchmarks").glob("*/measure.py"))
    assert len(folders) > 10
    index = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for folder in folders:
        assert list(folder.glob("result*.json")), folder
        assert f"[`{folder.name}`]({folder.name})" in index, folder
