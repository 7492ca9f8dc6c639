"""Models of the Hub in a recipe: the commit that a run used is what its recipe says, and what it goes on with.

"owner/name", as asked   -> "owner/name@commit" in the run's recipe.yaml, once it is loaded
--resume "owner/name"    -> the commit that recipe.yaml says, whatever the Hub holds by now
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lexivid.backbones import Backbone
from lexivid.backbones.base import name_of
from lexivid.errors import LexividError
from lexivid.training.recipe import Recipe

MODELS = ("model.backbone", "labels.language_model")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def as_begun(recipe: Recipe, before: Recipe) -> Recipe:
    """The recipe of a resumption: models that it names without a revision are those of `before`, the run's own."""
    return _renamed(recipe, lambda key, name: _name(before, key) if _is_unpinned(name, _name(before, key)) else name)


def pinned(recipe: Recipe, backbone: Backbone, label_encoder: Any = None) -> Recipe:
    """The recipe with the commits of the models that were loaded for it."""
    language_model = getattr(label_encoder, "language_model", None)
    loaded = {
        "model.backbone": name_of(backbone),
        "labels.language_model": language_model.lasting_name if language_model is not None else "",
    }
    return _renamed(recipe, lambda key, name: loaded[key] if is_same_model(name, loaded[key]) else name)


def is_same_model(asked: str, used: str) -> bool:
    """Whether a name may mean the model that another one pins: the same, without a revision, or with one that moves."""
    source, _, revision = asked.partition("@")
    used_source, _, commit = used.partition("@")
    return asked == used or (source == used_source and _is_commit(commit) and not _is_commit(revision))


def check_same(recipe: Recipe, before: Recipe) -> None:
    """After loading, of a resumption: the branch or tag that is named is what the run was started with.

    Raises:
        LexividError: it means another commit by now.
    """
    for key in MODELS:
        now, then = _name(recipe, key), _name(before, key)
        if now != then and _is_commit(then.partition("@")[2]):
            raise LexividError(f"--resume: {key} is {now!r} by now, but the run was started with {then!r}: name that")


def _is_commit(revision: str) -> bool:
    return bool(_COMMIT.fullmatch(revision))


def _is_unpinned(name: str, pinned_name: str) -> bool:
    return "@" not in name and is_same_model(name, pinned_name)


def _name(recipe: Recipe, key: str) -> str:
    section, name = key.split(".")
    return str(getattr(getattr(recipe, section), name))


def _renamed(recipe: Recipe, rename: Callable[[str, str], str]) -> Recipe:
    backbone, language_model = (rename(key, _name(recipe, key)) for key in MODELS)
    return replace(
        recipe,
        model=replace(recipe.model, backbone=backbone),
        labels=replace(recipe.labels, language_model=language_model),
    )
