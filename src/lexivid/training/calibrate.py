"""Calibration at the end of training, on held-out base clips.

TrainedModel, held-out clips -> `calibrate` -> model.base_novel_offset, model.calibrations, model.not_fitted
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lexivid.data.clips import Clip
from lexivid.data.loader import Samples
from lexivid.data.recordings import recording_names
from lexivid.errors import LexividError
from lexivid.models.trained import TrainedModel
from lexivid.scoring.base_novel_offset import fit_offset
from lexivid.scoring.calibration import fit_model_calibrations
from lexivid.scoring.features import collect
from lexivid.training.log import OnProgress, Progress


def calibrate(
    model: TrainedModel,
    held_out: Samples | None,
    *,
    num_workers: int,
    clips: Sequence[Clip] | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Fit on held-out base clips: the offset between base and novel classes of a softmax, and the calibration of log
    odds. What they do not suffice for stays unset, and `model.not_fitted` says why.

    clips: the same as files, whose recordings stay together in cross-validation; None: each is one of its own.
    """

    def show(done: int, total: int) -> None:
        if on_progress:
            on_progress(Progress("calibrating", done, total))

    model.base_novel_offset, model.calibrations = None, {}
    model.mov.eval()
    try:
        if held_out is None or not len(held_out):
            raise LexividError("no clips were held out of training (data.held_out)")
        held_out.set_epoch(0)
        collected = collect(
            model, held_out, classes=model.base_classes, batch_size=16, num_workers=num_workers,
            paths=[clip.path for clip in clips] if clips else None,
            groups=recording_names(clips) if clips else None,
            on_progress=show if on_progress else None,
        )  # fmt: skip
    except LexividError as error:
        whats = ("evidence",) if model.scales is not None else ("calibration", "evidence")
        model.not_fitted = dict.fromkeys(whats, str(error))
        return
    model.not_fitted = {}
    if model.scales is None:
        try:
            model.base_novel_offset = fit_offset(collected, model.embed).to_dict()
        except LexividError as error:
            model.not_fitted["calibration"] = str(error)
    model.calibrations, reasons = fit_model_calibrations(model, collected)
    model.not_fitted |= reasons


def fitted(model: TrainedModel) -> dict[str, Any]:
    """What was fitted on held-out clips, for train.json."""
    return {
        "calibration": model.base_novel_offset,
        "evidence": {head: calibration.to_dict() for head, calibration in model.calibrations.items()},
        "not_fitted": model.not_fitted,
    }
