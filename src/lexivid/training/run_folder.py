"""The folder of a run: whether one may begin or go on there, and what is left of one that failed or has ended."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lexivid.data.run_clips import SPLIT_FILE
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.training.checkpoint import list_checkpoints, load_state
from lexivid.training.pinning import MODELS, is_same_model
from lexivid.training.recipe import Recipe, load_recipe

# May differ between a run and its resumption: they do not change what is computed, but for `epochs`, by which a
# finished run would be another.
_FREE = (
    "data.num_workers", "data.cache_clips", "training.checkpoint_every", "training.checkpoint_minutes",
    "training.keep_checkpoints", "training.delete_checkpoints", "training.micro_batch", "name", "about",
)  # fmt: skip


def check_folder(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """Whether `recipe` can train in `out`.

    Raises:
        LexividError: the folder holds a run that is not to be resumed, or one of another recipe, or cannot be written.
    """
    if out.is_file():
        raise LexividError(f"{str(out)!r} is a file; name a folder for the run")
    nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise LexividError(f"{str(out)!r} cannot be written: {str(nearest)!r} is no folder that you may write to")
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


@contextlib.contextmanager
def as_before_if_untrained(out: Path, *, active: bool = True) -> Iterator[None]:
    """Whatever ends this part before a clip was trained on, the folder is then as it was before: not there, or without
    what the run wrote.

    active: on the process that writes.
    """
    before = set(out.iterdir()) if out.is_dir() else set[Path]()
    new_folders = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        if active and not _is_trained(out):
            for path in set(out.iterdir()) - before if out.is_dir() else ():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            for folder in new_folders:
                with contextlib.suppress(OSError):  # somebody else writes there
                    folder.rmdir()
        raise


def _is_trained(out: Path) -> bool:
    """Whether a step on clips was done: by the checkpoints, or by the log."""
    if any(list_checkpoints(out / "checkpoints", kind) for kind in ("step", "best", "average")):
        return True
    try:
        lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return any(json.loads(line).get("clips") for line in lines)
    except (OSError, ValueError):
        return False


def delete_checkpoints(out: Path) -> int:
    """Delete the checkpoints of a run that has ended -> their size in bytes."""
    folder = out / "checkpoints"
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return num_bytes


def where_it_stands(out: Path, *, options: str = "") -> str:
    """How far an interrupted run has come, and how it goes on, in a sentence for people.

    options: of the command line that recipe.yaml does not keep, such as " --device cpu".
    """
    go_on = f"go on with: lexivid train --resume {shlex.quote(str(out))}{options}"
    if (out / "config.json").is_file():
        return f"training has ended and the model is in {out}; what it says may not be calibrated yet; {go_on}"
    if checkpoints := list_checkpoints(out / "checkpoints", "step"):
        state = load_state(checkpoints[-1])
        all_of_them = f" of {state['steps']}" if state.get("steps") else ""
        return f"{state['step']}{all_of_them} steps are done and kept in {out}; {go_on}"
    if (out / "recipe.yaml").is_file():
        return f"no step is kept in {out}; {go_on}"
    return "no step was done yet, so nothing is kept but features in the cache; the same command begins again"


def _same_split(out: Path, key: str, path: str | None) -> bool:
    """Whether a file of base and novel classes in another place says what the run was started with."""
    if key != "data.class_split" or path is None or not (out / SPLIT_FILE).is_file() or not Path(path).is_file():
        return False
    given, stored = ClassSplit.load(path), ClassSplit.load(out / SPLIT_FILE)
    return (given.base, given.novel) == (stored.base, stored.novel)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
