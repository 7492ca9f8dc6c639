"""Whether a run may begin in a folder, or go on there: its recipe must be that of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lexivid.data.run_clips import SPLIT_FILE
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.training.pinning import MODELS, is_same_model
from lexivid.training.recipe import Recipe, load_recipe

# May differ between a run and its resumption: they do not change what is computed, but for `epochs`, by which a
# finished run would be another.
_FREE = (
    "data.num_workers", "data.cache_clips", "training.checkpoint_every", "training.keep_checkpoints",
    "training.micro_batch", "name", "about",
)  # fmt: skip


def check_folder(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """Whether `recipe` can train in `out`.

    Raises:
        LexividError: the folder holds a run that is not to be resumed, or one of another recipe.
    """
    if out.is_file():
        raise LexividError(f"{str(out)!r} is a file; name a folder for the run")
    path = out / "recipe.yaml"
    if not resume:
        if (out / "checkpoints").exists() or (out / "config.json").exists():
            raise LexividError(f"{str(out)!r} holds a run already: go on with --resume, or name another folder")
        return
    if path.is_file():
        before, now = (_flat(r.to_dict()) for r in (load_recipe(path), recipe))
        for key in now:
            if key in _FREE or now[key] == before[key] or _same_split(out, key, now[key]):
                continue
            if key not in MODELS or not is_same_model(now[key], before[key]):
                raise LexividError(
                    f"--resume: {key} is {now[key]!r}, but the run in {str(out)!r} was started with {before[key]!r}"
                )


def _same_split(out: Path, key: str, path: str | None) -> bool:
    """Whether a file of base and novel classes in another place says what the run was started with."""
    if key != "data.class_split" or path is None or not (out / SPLIT_FILE).is_file() or not Path(path).is_file():
        return False
    given, own = ClassSplit.load(path), ClassSplit.load(out / SPLIT_FILE)
    return (given.base, given.novel) == (own.base, own.novel)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
