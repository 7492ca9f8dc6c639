"""Checkpoints: a folder each, there whole or not at all; safetensors and JSON, never pickle.

    step-00000120/  model.safetensors  optimizer.safetensors  state.json
    best-00000100/  model.safetensors  state.json

A folder is written under a temporary name, brought to the disk, and renamed: what has its final name is complete.
A run killed at any moment leaves at most a temporary folder, which is never read and is swept away by the next save.

The tensors are named by parameter, whatever wraps the model: a checkpoint of two processes continues on one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lexivid.errors import LexividError

_TEMPORARY = ".writing-"


class Checkpoint(NamedTuple):
    """What a folder holds. `optimizer`: "name|slot" -> tensor, such as "towers.flow.head.weight|exp_avg"."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    kind: str,
    *,
    step: int,
    model: Mapping[str, Tensor],
    state: Mapping[str, Any],
    optimizer: Mapping[str, Tensor] | None = None,
    keep: int = 1,
) -> Path:
    """Write `folder`/`kind`-`step` and then delete all but the newest `keep` of that kind.

    Raises:
        LexividError: the folder cannot be written (a full disk); earlier checkpoints are untouched.
    """
    final = folder / f"{kind}-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=_TEMPORARY))
        try:
            files = {"model.safetensors": model}
            if optimizer is not None:
                files["optimizer.safetensors"] = optimizer
            for name, tensors in files.items():
                save_file({key: x.detach().cpu().contiguous() for key, x in tensors.items()}, temporary / name)
            text = json.dumps({"step": step, **state}, indent=1, ensure_ascii=False)
            (temporary / "state.json").write_text(text + "\n", encoding="utf-8")
            for path in [*temporary.iterdir(), temporary]:
                _to_disk(path)
            if final.exists():  # the same step again, after a resume: the same content
                shutil.rmtree(temporary)
            else:
                temporary.chmod(0o755)
                temporary.rename(final)
                _to_disk(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except (OSError, SafetensorError) as error:
        raise LexividError(f"checkpoint {str(final)!r} cannot be written: {error}") from None
    for old in list_checkpoints(folder, kind)[:-keep]:
        # Renamed first: a kill while its files go must not leave half of it under its name.
        gone = old.with_name(f"{_TEMPORARY}old-{old.name}")
        shutil.rmtree(gone, ignore_errors=True)
        old.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return final


def list_checkpoints(folder: Path, kind: str) -> list[Path]:
    """The complete checkpoints of a kind, oldest first."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if re.fullmatch(rf"{kind}-\d{{8,}}", path.name)]
    return sorted(paths, key=lambda path: int(path.name.rpartition("-")[2]))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        LexividError: it is damaged (which no kill causes).
    """
    try:
        optimizer = path / "optimizer.safetensors"
        return Checkpoint(
            load_file(path / "model.safetensors"),
            load_file(optimizer) if optimizer.exists() else {},
            load_state(path),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise LexividError(
            f"checkpoint {str(path)!r} is damaged ({error}): delete that folder to go on from the one before"
        ) from None


def load_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint folder."""
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The state of an optimiser by parameter name: "name|slot" -> tensor. Hyperparameters come from the recipe."""
    return {
        f"{names[parameter]}|{slot}": value if isinstance(value, Tensor) else torch.tensor(value)
        for parameter, state in optimizer.state.items()
        for slot, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """The reverse of `optimizer_tensors`, into an optimiser over the same parameters."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, slot = key.rpartition("|")
        by_name.setdefault(name, {})[slot] = value
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (slots := by_name.get(names[parameter])) is not None:
                optimizer.state[parameter] = {
                    slot: value.clone() if slot == "step" else value.to(parameter.device, copy=True)
                    for slot, value in slots.items()
                }


def _to_disk(path: Path) -> None:
    """fsync, of a file or of a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
