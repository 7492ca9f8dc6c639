"""The recipes for people: which there are, what each needs and costs, and what every key of one means.

`rows`      -> `lexivid train --list`; costs were measured by benchmarks/recipe_costs/measure.py
`show`      -> `lexivid train RECIPE --show`: YAML with a comment on every key, from the docstrings of the settings
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple, get_type_hints

from lexivid.models.mov_config import MOVConfig
from lexivid.training.recipe import ModelRecipe, Recipe, load_recipe, recipe_names
from lexivid.training.settings import to_yaml_text

COSTS_FILE = "costs.json"
_WIDTH, _COMMENT_AT = 118, 34
_CORES, _EXAMPLE_CLIPS = 2, 100
_ALSO = {ModelRecipe: MOVConfig}  # where settings that a section shares with another class are explained


class RecipeRow(NamedTuple):
    """A recipe. group: "your own videos", "synthetic world" or "the papers' size"."""

    group: str
    name: str
    about: str
    needs: str
    cost: str


def rows() -> list[RecipeRow]:
    """All recipes of the package: those for one's own videos first, and comparisons behind what they compare."""
    listed = [_row(load_recipe(name)) for name in recipe_names()]
    groups = ("your own videos", "synthetic world", "the papers' size")
    return sorted(
        listed,
        key=lambda row: (groups.index(row.group), row.about.startswith(("Comp", "Control")), row.name != "lite-mov"),
    )


def _row(recipe: Recipe) -> RecipeRow:
    backbone, encoder = recipe.model.backbone, recipe.labels
    groups = {"lite": "your own videos", "world": "synthetic world"}
    needs = ["sound files or films" if recipe.inputs == ("audio",) else "films"]
    if "audio" in recipe.inputs and len(recipe.inputs) > 1:
        needs[0] += " with sound"
    if backbone == "world":
        needs[0] = "clips of `lexivid world`"
        needs[0] += " --label-kinds all" if recipe.objective.kind == "sigmoid" else ""
    elif recipe.objective.kind == "sigmoid":
        needs.append("a manifest with several labels a clip")
    if backbone not in groups:
        models = [backbone, *([encoder.language_model] if encoder.encoder == "soft_attributes" else [])]
        needs += [f"{' and '.join(models)} of the Hub", "a GPU"]
    return RecipeRow(
        groups.get(backbone, "the papers' size"), recipe.name, recipe.about, ", ".join(needs), _cost(recipe)
    )


def _cost(recipe: Recipe) -> str:
    measured = costs().get(recipe.name)
    if measured is None:
        return "not measured here: needs models of the Hub"
    once, epoch = measured["once_s"] / _CORES, measured["epoch_s"] / _CORES
    minutes = _EXAMPLE_CLIPS * (once + recipe.training.epochs * epoch) / 60
    about = f"{minutes:.0f}" if minutes >= 2 else f"{minutes:.1f}"
    return (
        f"{about} min for {_EXAMPLE_CLIPS} clips and {recipe.training.epochs} epochs: {_seconds(once)} a clip once, "
        f"{_seconds(epoch)} in each epoch"
    )


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value >= 0.01 else "under 0.01 s"


@cache
def costs() -> dict[str, dict[str, Any]]:
    """Recipe -> once_s and epoch_s, seconds of one core for each clip, and on which clips they were measured."""
    text = (resources.files("lexivid") / "recipes" / COSTS_FILE).read_text(encoding="utf-8")
    return dict(json.loads(text))


def cost_note() -> str:
    """What the costs of `rows` are."""
    clips = sorted({row["clips"] for row in costs().values()})
    return (
        f"Costs: seconds of a core, halved for {_CORES} cores that do nothing else, measured on {'; '.join(clips)}. "
        "Longer and larger films cost more once, and no more in an epoch."
    )


def show(recipe: Recipe) -> str:
    """The recipe as YAML that `lexivid train` reads back: every key with its value and what it means."""
    lines = [
        "# Change a key by --set SECTION.KEY=VALUE, or copy this to a file: lexivid train my.yaml --data ... --out ...",
        "# (default: ...) is the value that counts where a recipe says nothing.",
    ]
    return "\n".join([*lines, *_section(recipe, Recipe(), "")]) + "\n"


def _section(values: Any, defaults: Any, indent: str) -> list[str]:
    texts = meanings(type(values))
    lines: list[str] = []
    for item in fields(values):
        value, default = getattr(values, item.name), getattr(defaults, item.name)
        if is_dataclass(value):
            head = inspect.cleandoc(type(value).__doc__ or "").split("\n\n")[0]
            lines += [] if indent else [""]
            lines += _commented(f"{indent}{item.name}:", _first_sentence(" ".join(head.split())))
            lines += _section(value, default, indent + "  ")
            continue
        key = f"{indent}{item.name}: {to_yaml_text(value)}"
        comment = texts.get(item.name, "")
        if indent and value != default:
            comment += f" (default: {to_yaml_text(default)})"
        lines += _commented(key, comment.strip())
    return lines


def _commented(key: str, comment: str) -> list[str]:
    if not comment:
        return [key]
    place = max(_COMMENT_AT, len(key) + 2)
    first, *rest = textwrap.wrap(comment, _WIDTH - place - 2) if place < _WIDTH - 40 else [""]
    if not first:
        return [*textwrap.wrap(comment, _WIDTH, initial_indent="  # ", subsequent_indent="  # "), key]
    return [f"{key.ljust(place)}# {first}", *(f"{'':{place}}# {line}" for line in rest)]


def meanings(section: type) -> dict[str, str]:
    """What each key of a section means: the first sentence that its docstring, or that of a class before it, says."""
    names = {item.name for item in fields(section)}
    texts: dict[str, str] = {}
    sources = [*section.__mro__, *([_ALSO[section]] if section in _ALSO else [])]
    for source in sources:
        for name, text in _entries(source, names).items():
            texts.setdefault(name, text)
    return texts


def _entries(source: type, names: set[str]) -> dict[str, str]:
    """The entries "name: text" and "name, name: text" below "Args:" in a docstring, also within the text of another."""
    parts = inspect.cleandoc(source.__doc__ or "").split("Args:\n")
    if len(parts) < 2:
        return {}
    text = " ".join(parts[1].split("\n\n")[0].split())
    heads = [
        match
        for match in re.finditer(r"(?:^|(?<=[.)] ))(\w+(?:, \w+)*): ", text)
        if names.issuperset(match[1].split(", ")) or hasattr(source, match[1].split(", ")[0])
    ]
    ends = [match.start() for match in heads[1:]] + [len(text)]
    entries: dict[str, str] = {}
    for match, end in zip(heads, ends, strict=True):
        entries |= dict.fromkeys(match[1].split(", "), _first_sentence(text[match.end() : end].strip()))
    return {name: entry for name, entry in entries.items() if name in names}


def _first_sentence(text: str) -> str:
    """Without its point, and with YAML's word for None."""
    sentence = re.split(r"(?<=[.)]) (?=[A-Z(])", text)[0]
    return re.sub(r"\bNone\b", "null", sentence.rstrip("."))


def unexplained() -> list[str]:
    """Keys of recipes of which nothing is said, with dots."""
    return _unexplained(Recipe, "")


def _unexplained(section: type, prefix: str) -> list[str]:
    texts, hints, missing = meanings(section), get_type_hints(section), []
    for item in fields(section):
        kind = hints[item.name]
        if is_dataclass(kind):
            missing += _unexplained(kind, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        elif prefix and not texts.get(item.name):
            missing.append(f"{prefix}{item.name}")
    return missing
