"""Sentence templates: "a video of a person {}." with {} for the label (MOV paper, section 3.1).

Sets that ship with the package lie in `templates/*.txt`, one sentence a line, with their sources beside them; a
user's own set is a file in the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from lexivid.errors import LabelError


@dataclass(frozen=True)
class TemplateSet:
    """Sentences that each hold {} once, under the name that a result file quotes."""

    name: str
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.templates:
            raise LabelError(f"template set {self.name!r} is empty: give one sentence a line, with {{}} for the label")
        for template in self.templates:
            if template.count("{}") != 1:
                raise LabelError(f"template {template!r} must hold {{}} exactly once, for instance 'a video of {{}}.'")

    def fill(self, label: str) -> list[str]:
        """The sentences of one label. (No str.format: a label may hold braces.)"""
        return [template.replace("{}", label) for template in self.templates]


# The label itself, in no sentence.
NAME_ONLY = TemplateSet("name", ("{}",))


def template_names() -> list[str]:
    """The sets that ship with the package, and "name"."""
    folder = files("lexivid.labels") / "templates"
    return ["name", *sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".txt"))]


def templates_to_store(templates: str | TemplateSet) -> str | dict[str, Any]:
    """What a model's configuration keeps: the name of a set that ships, or the sentences of any other."""
    chosen = load_templates(templates)
    if chosen.name in template_names() and load_templates(chosen.name) == chosen:
        return chosen.name
    return {"name": Path(chosen.name).name, "templates": list(chosen.templates)}


def stored_templates(stored: str | Mapping[str, Any]) -> str | TemplateSet:
    """The reverse of `templates_to_store`."""
    return stored if isinstance(stored, str) else TemplateSet(str(stored["name"]), tuple(map(str, stored["templates"])))


def load_templates(name: str | Path | TemplateSet) -> TemplateSet:
    """A set by name ("clip-video", "clip-ucf101", "name", ...), or a text file with one sentence a line.

    Raises:
        LabelError: no such set or file, or a sentence without its {}.
    """
    if isinstance(name, TemplateSet):
        return name
    if str(name) == NAME_ONLY.name:
        return NAME_ONLY
    if str(name) in template_names():
        text = (files("lexivid.labels") / "templates" / f"{name}.txt").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise LabelError(
                f"templates {str(name)!r}: neither one of {', '.join(template_names())} nor a readable text file "
                f"({type(error).__name__})"
            ) from None
    return TemplateSet(str(name), tuple(line.strip() for line in text.splitlines() if line.strip()))


# Labels and the background's 300 phrases are compared in so many sentences: an ensemble of 28 would cost 8,400 before
# the first answer of a new model, and a mean over 300 phrases needs no ensemble.
_MOST_TEMPLATES = 4


def short_templates(templates: TemplateSet) -> TemplateSet:
    """The few sentences of a set in which labels and background are compared: its first four."""
    if len(templates.templates) <= _MOST_TEMPLATES:
        return templates
    return TemplateSet(f"{templates.name}, first {_MOST_TEMPLATES}", templates.templates[:_MOST_TEMPLATES])
