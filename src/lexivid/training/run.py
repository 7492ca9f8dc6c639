"""`train`: a recipe and labelled clips -> a run folder that `lexivid.load` reads.

config.json, model.safetensors   the model (see lexivid.models.serialization); written when training has ended
label_encoder.*                  where the recipe trains one (see lexivid.labels.encoders.base)
backbone/                        only with self_contained
recipe.yaml, split.json          what was asked, with every default; which classes are base and novel
clips.jsonl                      every clip that was trained on or kept back (see lexivid.data.run_clips)
train.json                       what came out: held-out accuracy, clips asked and failed, time, versions
log.jsonl, tensorboard/          every step
report.html                      its curves, what came out, what the folder holds
checkpoints/                     for `resume`; deleted at the end, unless the recipe keeps them
twins/                           models that leave classes out, see lexivid.evaluation.leave_classes_out

In order: recipe.yaml, clips.jsonl and checkpoints while it trains; then model.safetensors, train.json and config.json;
then both JSON files once more, with what held-out clips say. `resume` goes on from whichever of these was reached. A
run that fails before its first step leaves the folder as it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from lexivid.backbones import Backbone, load_backbone
from lexivid.backbones.host import random_state_kept
from lexivid.base.storage import write_atomically
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.run_clips import CLIPS_FILE, SPLIT_FILE, RunClips
from lexivid.errors import LexividError
from lexivid.labels import Label, check_labels, load_templates
from lexivid.labels.encoders.base import WEIGHTS_FILE, TrainedLabelEncoder, has_label_encoder
from lexivid.labels.encoders.coop import LearnedContextEncoder
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.encoders.soft_attributes import SoftAttributeEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder
from lexivid.labels.prompt_cache import PromptCache
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.serialization import is_trained_model, read_config, save_backbone, save_config, save_weights
from lexivid.models.system import System, make_objective, make_teacher
from lexivid.models.trained import TrainedModel
from lexivid.training.calibrate import calibrate, fitted
from lexivid.training.clips import TrainingClips, draw_clips, identified, open_clips, open_held_out
from lexivid.training.distributed import is_sharded, load_trained, make_accelerator, trained_state
from lexivid.training.log import OnProgress
from lexivid.training.loop import OnEpoch, fit
from lexivid.training.pinning import as_begun, check_same, pinned
from lexivid.training.recipe import Recipe, load_recipe
from lexivid.training.report import REPORT_FILE, write_run_report
from lexivid.training.result import SUMMARY_FILE, TrainingResult, make_summary, write_summary
from lexivid.training.run_folder import as_before_if_untrained, check_folder, delete_checkpoints

if TYPE_CHECKING:
    from accelerate import Accelerator


@random_state_kept()
def train(
    recipe: str | Path | Recipe,
    data: str | Path | RunClips | TrainingClips,
    out: str | Path,
    *,
    resume: bool = False,
    set: Iterable[str] | Mapping[str, Any] = (),
    self_contained: bool = False,
    device: str = "auto",
    backbone: Backbone | None = None,
    on_progress: OnProgress | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingResult:
    """Train a model.

    Of several processes the first calibrates when training has ended; the others return before, and wait for nothing.

    Args:
        recipe: the name of one ("lite-mov"), a YAML file, or a `Recipe`.
        data: a folder of clips (see `lexivid.data.formats.read_dataset`), clips that were drawn, or that are open.
        out: the run folder: new or empty, unless `resume`.
        resume: go on where an earlier call of the same recipe stopped, however it was stopped; from the start where
            it had not come to a checkpoint, and at once back where it had ended. The clips are those that the run
            began with, whatever `data` holds by now.
        set: settings on top of the recipe: "training.lr=3e-4" strings, or a mapping of dotted keys.
        self_contained: the run folder also holds the backbone.
        device: "auto", "cpu", "cuda".
        backbone: if it is loaded already.
        on_epoch: see `fit`.

    Raises:
        LexividError: the recipe, the data or the folder cannot be used.
        ModelError: the backbone cannot.
        MissingExtraError: packages of the extra `train` are missing.
    """
    recipe, out = load_recipe(recipe, set).with_absolute_paths(), Path(out)
    check_folder(out, recipe, resume=resume)
    before = load_recipe(out / "recipe.yaml") if resume and (out / "recipe.yaml").is_file() else None
    if before is not None:
        recipe = as_begun(recipe, before)
    started = time.monotonic()
    accelerator = make_accelerator(recipe.training, device=device)
    if resume and is_trained_model(out):
        return _complete(recipe, data, out, accelerator=accelerator, backbone=backbone)
    begun = RunClips.load(out) if resume else None
    files = None if isinstance(data, TrainingClips) else _files(recipe, data, begun, accelerator)
    if backbone is None:
        backbone = load_backbone(recipe.model.backbone, device=accelerator.device, dtype="float32")
    config = MOVConfig.for_backbone(backbone, tau_v_ratio=recipe.model.tau_v_ratio, **recipe.model.mov_settings())
    torch.manual_seed(recipe.training.seed)  # the fusion blocks' first weights
    mov = MOV.from_backbone(backbone, config)
    label_encoder = make_label_encoder(recipe, backbone)
    recipe = pinned(recipe, backbone, label_encoder)
    if before is not None:
        check_same(recipe, before)
    mov.to(accelerator.device)
    if not isinstance(data, TrainingClips):
        assert files is not None
        data = open_clips(recipe, files, mov, backbone.images, accelerator=accelerator, on_progress=on_progress)
    templates = recipe.model.templates or backbone.default_templates
    system = _system(recipe, data, backbone, mov, label_encoder, templates)
    if recipe.model.init_from:
        _start_from(system, Path(recipe.model.init_from))
    # Sharding replaces the parameters, those that the backbone shares too: the model that is written is a copy.
    whole = deepcopy(system).cpu() if is_sharded(accelerator) and accelerator.is_main_process else system
    with as_before_if_untrained(out, active=accelerator.is_main_process):
        if accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            if self_contained:
                save_backbone(backbone, out / "backbone")
            write_atomically(out / "recipe.yaml", recipe.to_yaml())
            if begun is None and data.files is not None:
                data.files.save(out)
            elif data.split is not None:
                data.split.save(out / SPLIT_FILE)
        accelerator.wait_for_everyone()
        result = fit(
            system, data.train, recipe, out, images=backbone.images, held_out=data.held_out, resume=resume,
            accelerator=accelerator, on_progress=on_progress, on_epoch=on_epoch,
        )  # fmt: skip
    accelerator.wait_for_everyone()  # all have read the checkpoints that are exported
    result.state.failures.update(data.failures)
    summary = make_summary(recipe, result, data, time.monotonic() - started, accelerator.num_processes)
    # From here on nobody waits for anybody: calibration may take longer than the processes' time limit.
    if accelerator.is_main_process:
        if whole is not system:
            load_trained(whole, result.weights)
            whole.to(accelerator.device)
        model = trained_model(recipe, backbone, whole, data.base_classes)
        # Whatever becomes of the rest, what was trained is there.
        save_weights(model, out)
        write_summary(out, summary)
        save_config(model, out)
        own_clips = data.files.held_out if data.files else None
        calibrate(model, data.held_out, num_workers=recipe.data.num_workers, clips=own_clips, on_progress=on_progress)
        summary |= fitted(model)
        save_config(model, out)
        write_summary(out, summary)
    freed = delete_checkpoints(out) if accelerator.is_main_process and recipe.training.delete_checkpoints else 0
    if accelerator.is_main_process:
        write_run_report(out)
    return TrainingResult(
        out, result.state.metrics, result.state.failures, summary, accelerator.is_main_process, num_bytes_freed=freed
    )


def resume(
    out: str | Path,
    *,
    set: Iterable[str] | Mapping[str, Any] = (),
    data: str | Path | None = None,
    self_contained: bool = False,
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> TrainingResult:
    """Go on with a run by what its folder says of it: recipe, clips and split.

    Args:
        data: where the clips lie now, if they have moved.

    Raises:
        LexividError: no run began in that folder, or as `train`.
    """
    out = Path(out)
    path = out / "recipe.yaml"
    if not path.is_file():
        raise LexividError(f"--resume: no run began in {str(out)!r} (it has no recipe.yaml): name the folder of a run")
    if data is None:
        begun = RunClips.load(out)
        if begun is None or not begun.data:
            raise LexividError(f"--resume: {str(out / CLIPS_FILE)!r} does not say where the clips are: give --data")
        data = begun.data
    return train(
        path, data, out, resume=True, set=set, self_contained=self_contained, device=device, on_progress=on_progress
    )


def _files(recipe: Recipe, data: str | Path | RunClips, begun: RunClips | None, accelerator: Accelerator) -> RunClips:
    """The clips as files: those that the run began with, or now drawn and identified.

    Raises:
        LexividError: none of those that the run began with is there any more, or as `draw_clips`.
    """
    if begun is None:
        return data if isinstance(data, RunClips) else identified(draw_clips(recipe, data), accelerator)
    if isinstance(data, RunClips):
        if data.digest != begun.digest:
            raise LexividError("--resume: the run was started with other clips")
        return data
    now, lost = begun.found_in(data, **recipe.data.layout())
    if lost == len(now.clips):
        raise LexividError(
            f"--resume: none of the {lost} clips that the run was started with is in {str(data)!r} or where it lay "
            "then: give the same data"
        )
    return now


def _complete(
    recipe: Recipe,
    data: str | Path | RunClips | TrainingClips,
    out: Path,
    *,
    accelerator: Accelerator,
    backbone: Backbone | None,
) -> TrainingResult:
    """A run whose training has ended: nothing is left to do, but for a calibration that was interrupted."""
    try:
        summary = json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise LexividError(
            f"{str(out)!r} holds a trained model, and {SUMMARY_FILE} beside it is missing or damaged: there is nothing "
            "to resume; name another folder to train anew"
        ) from None
    is_main = accelerator.is_main_process
    had_ended = "evidence" in summary or not summary["clips_held_out"]
    if is_main and not had_ended:
        model = TrainedModel.from_pretrained(out, device=accelerator.device, backbone=backbone)
        if isinstance(data, TrainingClips):
            kept_back, clips = data.held_out, data.files.held_out if data.files else None
        elif model.clips is None:
            raise LexividError(f"{str(out / CLIPS_FILE)!r} is missing: calibrate the run with `lexivid evaluate`")
        else:
            clips_now = data if isinstance(data, RunClips) else model.clips.found_in(data, **recipe.data.layout())[0]
            kept_back, clips = open_held_out(recipe, clips_now, model.mov, model.backbone.images), clips_now.held_out
        calibrate(model, kept_back, num_workers=recipe.data.num_workers, clips=clips)
        summary |= fitted(model)
        save_config(model, out)
        write_summary(out, summary)
    freed = delete_checkpoints(out) if is_main and recipe.training.delete_checkpoints else 0
    if is_main and (not had_ended or not (out / REPORT_FILE).exists()):
        write_run_report(out)
    return TrainingResult(out, summary["held_out"], summary["failures"], summary, is_main, had_ended, freed)


def make_label_encoder(recipe: Recipe, backbone: Backbone) -> TrainedLabelEncoder | None:
    """The label encoder that the recipe trains, from random weights of the global state; None: the backbone's prompts.

    Raises:
        ModelError: a backbone of another family than CLIP's, or a language model that cannot be loaded.
    """
    asked = recipe.labels
    if asked.encoder == "prompts":
        return None
    text = FrozenTextEncoder(backbone)
    if asked.encoder == "learned_context":
        return LearnedContextEncoder(text, num_context=asked.num_context)
    language_model = FrozenLanguageModel.load(asked.language_model, device=backbone.device)
    return SoftAttributeEncoder(language_model, text, asked.soft_attributes)


def _system(
    recipe: Recipe,
    data: TrainingClips,
    backbone: Backbone,
    mov: MOV,
    label_encoder: TrainedLabelEncoder | None,
    templates: str,
) -> System:
    # Texts as they are: whoever read the data has made words of identifiers.
    names = check_labels([Label(text, text) for text in (*data.base_classes, *data.synthetic_classes)]).names
    if tuple(names) != (*data.base_classes, *data.synthetic_classes):
        raise LexividError(f"the classes must be different, clean names; got {list(data.base_classes)[:10]} ...")
    with torch.no_grad():
        labels = PromptCache(backbone).embed(names, load_templates(templates)).clone()
    objective = teacher = None
    if recipe.objective.kind == "sigmoid":
        settings = recipe.objective.sigmoid()
        objective, teacher = make_objective(settings, mov.config), make_teacher(backbone, settings, mov.config)
    weights = torch.ones(len(names))
    weights[len(data.base_classes) :] = recipe.data.synthetic_weight
    return System(
        mov, labels, names=names, label_encoder=label_encoder, objective=objective, teacher=teacher,
        label_weights=weights,
    )  # fmt: skip


def trained_model(recipe: Recipe, backbone: Backbone, system: System, base_classes: tuple[str, ...]) -> TrainedModel:
    """What a system is to its users, at any moment of its training."""
    return TrainedModel(
        backbone, system.encoder, base_classes, recipe.model.templates or backbone.default_templates, recipe.inputs,
        recipe.model.base_score, ClipSampling.of(recipe.data),
        scales=system.objective.scales() if system.objective is not None else None,
        label_encoder=system.label_encoder,  # type: ignore[arg-type]
    )  # fmt: skip


def _start_from(system: System, folder: Path) -> None:
    """Weights of another run, as far as names and shapes agree: encoder, label encoder, scale and bias."""
    from safetensors.torch import load_file

    try:
        parts = {"encoder.": load_file(folder / "model.safetensors")}
        if has_label_encoder(folder) and system.label_encoder is not None:
            parts["label_encoder."] = load_file(folder / WEIGHTS_FILE)
        scales = read_config(folder).get("scales") or {}
    except (OSError, ValueError, SafetensorError) as error:
        raise LexividError(f"model.init_from: {str(folder)!r} holds no trained model ({error})") from None
    weights_given = {f"{prefix}{name}": value for prefix, weights in parts.items() for name, value in weights.items()}
    for name, (scale, bias) in scales.items():
        weights_given[f"objective.log_scale.{name}"] = torch.tensor(float(scale)).log()
        weights_given[f"objective.bias.{name}"] = torch.tensor(float(bias))
    weights_here = trained_state(system)
    shared = {
        key: value
        for key, value in weights_given.items()
        if key in weights_here and weights_here[key].shape == value.shape
    }
    if not shared:
        raise LexividError(f"model.init_from: no weights of {str(folder)!r} fit this model")
    system.load_state_dict(shared, strict=False)
