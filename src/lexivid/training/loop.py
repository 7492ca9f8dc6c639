"""The loop: batches -> a system's loss -> AdamW, with checkpoints from which a killed run continues bit for bit.

Nothing random outlives a step: the order of the clips comes from (seed, epoch), what is drawn for a clip from
(seed, epoch, clip), what a layer draws from (seed, step). So a checkpoint is weights, the optimiser's moments and a
step number, and no state of any generator.

The gradient of a step is that of the mean loss over all clips of the global batch, however they are spread over
processes and micro-batches, and however many of them could not be read; what the objective draws, it draws once a step.
Two things look at the clips of one process together: mixup, which mixes clips of the same process, and batch norms that
learn their statistics (`lite`'s audio tower). The latter look at one micro-batch, so those models take none.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.base.interrupts import finish_first
from lexivid.data.loader import Batch, Samples, load_batches
from lexivid.errors import LexividError
from lexivid.models.ovml import average_weights
from lexivid.models.system import System
from lexivid.training.batches import Plan, micro_batches
from lexivid.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from lexivid.training.distributed import (
    gather_state,
    is_sharded,
    load_trained,
    make_accelerator,
    prepare,
    restore_state,
)
from lexivid.training.held_out import evaluate_held_out
from lexivid.training.log import OnProgress, Progress, Rate, RunLog
from lexivid.training.recipe import Recipe
from lexivid.training.schedule import half_cosine, make_optimizer, set_lr
from lexivid.training.step import Step

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class FitState:
    """What a checkpoint's state.json holds.

    `steps`: of the whole run. `epochs`: those that are over, with their look at held-out clips. `failures`: path ->
    reason of clips that could not be read. `micro_batch`: clips of one forward pass of one process; None: of a run
    before this was kept.
    """

    step: int = 0
    steps: int = 0
    epochs: int = 0
    micro_batch: int | None = None
    best: dict[str, float] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


OnEpoch = Callable[[System, int], None]


class FitResult(NamedTuple):
    """The state after the last step, and the weights that the recipe exports (all but those of frozen models).

    exported: which they are: as the recipe asks, or "last" where it asks for what there is none of, such as the best
        on held-out clips without any.
    """

    state: FitState
    weights: dict[str, Tensor]
    exported: str = "last"


def fit(
    model: System,
    samples: Samples,
    recipe: Recipe,
    out: Path,
    *,
    images: ImageProcessing,
    held_out: Samples | None = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    on_epoch: OnEpoch | None = None,
) -> FitResult:
    """Train `model` in place; afterwards it holds the weights that `recipe.training.export` names.

    (Under FSDP its parameters stay sharded: use the weights that are returned.)

    Args:
        model: what is trained; a sample's target is a place among its labels, or a row (K,) bool over them.
        samples, held_out: see `lexivid.data.loader.Samples`.
        out: the run folder: checkpoints/, log.jsonl, tensorboard/.
        images: how the backbone normalises pictures.
        resume: go on from the newest checkpoint in `out`, if there is one.
        on_epoch: called with the model, in evaluation mode, and the epochs done, before the first and after each; on
            the first process alone, which a sharded model does not allow.

    Interrupted (by KeyboardInterrupt, which Ctrl-C raises, outside a step), it writes a checkpoint of the last step.

    Raises:
        LexividError: no clip could be read in a whole epoch, the loss is not a number, or the folder cannot be written.
        ValueError: `on_epoch` with a sharded model.
    """
    settings = recipe.training
    accelerator = accelerator or make_accelerator(settings, device=device)
    rank, world = accelerator.process_index, accelerator.num_processes
    if on_epoch and is_sharded(accelerator):
        raise ValueError("on_epoch looks at the model on one process, which would wait for the others under FSDP")
    if is_sharded(accelerator) and "interpolation" in recipe.objective.regularisers:
        raise LexividError(
            "the regulariser 'interpolation' computes with other weights than the model's, which FSDP does not allow: "
            "start with torchrun, or leave it out of objective.regularisers"
        )
    if not len(samples):
        raise LexividError("no clips to train on")
    try:
        plan = Plan.of(len(samples), batch_size=settings.batch_size, micro_batch=settings.micro_batch, world=world)
    except ValueError as error:
        raise LexividError(f"{error}: raise training.batch_size") from None
    model.to(accelerator.device)
    optimizer = make_optimizer(model, settings)
    wrapped, optimizer = prepare(accelerator, model, optimizer)
    checkpoints = out / "checkpoints"
    state = FitState()
    if resume and (checkpoints_found := list_checkpoints(checkpoints, "step")):
        checkpoint = load_checkpoint(checkpoints_found[-1])
        restore_state(accelerator, wrapped, optimizer, checkpoint)
        state = FitState(**({"epochs": checkpoint.state["step"] // max(1, plan.num_steps)} | checkpoint.state))
    if learns_statistics(model):
        _check_whole_batches(plan, state)
    state.micro_batch = plan.micro_batch
    state.steps = total = settings.epochs * plan.num_steps
    step_of_batch = Step(wrapped, recipe, images, accelerator)
    log = RunLog(out, start_step=state.step, active=accelerator.is_main_process)
    rate = Rate(total)

    in_step = False  # weights may be half those of one step and half those of the next
    saved_at = time.monotonic()

    def save(kind: str = "step", *, wait: bool = True) -> None:
        nonlocal saved_at
        weights, moments = gather_state(accelerator, wrapped, optimizer)
        if accelerator.is_main_process:
            keep = {"step": settings.keep_checkpoints, "average": settings.average_epochs}.get(kind, 1)
            save_checkpoint(
                checkpoints, kind, step=state.step, model=weights, state={**vars(state)},
                optimizer=moments if kind == "step" else None, keep=keep,
            )  # fmt: skip
        if wait:
            accelerator.wait_for_everyone()
        saved_at = time.monotonic() if kind == "step" else saved_at

    def is_due() -> bool:
        """Whether the first process saves by the clock, by itself: clocks differ, and sharded weights need them all."""
        if not settings.checkpoint_minutes or not accelerator.is_main_process or is_sharded(accelerator):
            return False
        return time.monotonic() - saved_at >= 60 * settings.checkpoint_minutes

    def at_once() -> contextlib.AbstractContextManager[None]:
        """What Ctrl-C may not cut in two. (Of several processes it ends some while others wait for them.)"""
        return finish_first() if world == 1 else contextlib.nullcontext()

    def look(epochs_done: int) -> None:
        if on_epoch and accelerator.is_main_process:
            wrapped.eval()
            with torch.no_grad():
                on_epoch(accelerator.unwrap_model(wrapped), epochs_done)

    try:
        if state.step == 0:
            look(0)
        for epoch in range(state.epochs, settings.epochs):
            samples.set_epoch(epoch)
            first = state.step - epoch * plan.num_steps
            lists = micro_batches(
                len(samples), plan, seed=settings.seed, epoch=epoch, rank=rank, world=world, start_step=first
            )
            batches = load_batches(
                samples, lists, num_workers=recipe.data.num_workers, pin_memory=accelerator.device.type == "cuda"
            )
            wrapped.train()
            num_seen = 0
            for parts in _chunks(batches, plan.accumulate):
                factor = half_cosine(state.step, total, warmup_steps=settings.warmup_steps)
                set_lr(optimizer, factor)
                with at_once():
                    in_step = True
                    seed = (settings.seed * 1_000_003 + state.step) * 1_009
                    torch.manual_seed(seed + rank)
                    shared = torch.Generator().manual_seed(seed)
                    loss, num_clips, norm = step_of_batch(parts, optimizer, clip_norm=settings.clip_norm, shared=shared)
                    state.step += 1
                    state.failures |= dict(itertools.chain.from_iterable(part.failures for part in parts))
                    in_step = False
                    num_seen += num_clips
                    speed, left_s = rate.update(state.step, num_clips)
                    lr = settings.lr * factor
                    log.write(
                        state.step,
                        epoch=epoch + 1,
                        loss=loss,
                        lr=lr,
                        grad_norm=norm,
                        clips=num_clips,
                        clips_per_s=speed,
                    )
                if on_progress and accelerator.is_main_process:
                    on_progress(
                        Progress(
                            "training", state.step, total, epoch + 1, settings.epochs, loss, lr, speed, left_s,
                            state.metrics,
                        )
                    )  # fmt: skip
                ends_epoch = state.step == (epoch + 1) * plan.num_steps
                if settings.checkpoint_every and state.step % settings.checkpoint_every == 0 and not ends_epoch:
                    save()
                elif not ends_epoch and is_due():
                    save(wait=False)
            is_last = epoch + 1 == settings.epochs
            state.failures = _merged(state.failures, accelerator)
            if first == 0 and not num_seen and state.failures:
                path, reason = next(iter(state.failures.items()))
                raise LexividError(f"none of the {len(samples)} clips can be read; the first: {path}: {reason}")
            if held_out is not None and len(held_out) and (is_last or (epoch + 1) % settings.evaluate_every == 0):
                metrics = evaluate_held_out(step_of_batch, held_out, epoch=epoch, on_progress=on_progress)
                with at_once():
                    state.metrics = metrics
                    log.write(state.step, **{f"held_out.{name}": value for name, value in metrics.items()})
                    if _is_better(metrics, state.best):
                        state.best = {**metrics, "step": state.step}
                        if settings.export == "best":
                            save("best")
            look(epoch + 1)
            with at_once():
                if settings.export == "average" and epoch + settings.average_epochs >= settings.epochs:
                    save("average")
                state.epochs = epoch + 1
                if settings.checkpoint_every or is_last:
                    save()
                elif is_due():
                    save(wait=False)
        if settings.epochs == 0:
            save()
    except KeyboardInterrupt:
        # A sharded model would have to be gathered from processes that may be gone.
        if state.step and not in_step and not is_sharded(accelerator):
            save(wait=False)
        raise
    finally:
        log.close()
    weights, exported = gather_state(accelerator, wrapped, optimizer)[0], "last"
    if settings.export == "best" and state.best is not None and (best := list_checkpoints(checkpoints, "best")):
        weights, exported = load_checkpoint(best[-1]).model, "best"
    elif settings.export == "average" and (last := list_checkpoints(checkpoints, "average")):
        weights, exported = average_weights([load_checkpoint(path).model for path in last]), "average"
    weights = {name: value.detach().clone() for name, value in weights.items()}
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # takes autocast off the model again
    if not is_sharded(accelerator):
        load_trained(model, weights)
    model.eval()
    return FitResult(state, weights, exported)


def learns_statistics(model: torch.nn.Module) -> bool:
    """Whether batch norms look at the clips of a batch together. Sets the model to train."""
    norms = [m for m in model.train().modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    return any(norm.training for norm in norms)


def _check_whole_batches(plan: Plan, state: FitState) -> None:
    """For a model whose batch norms learn their statistics.

    Raises:
        LexividError: a batch is cut into micro-batches, or another size of them than before.
    """
    why = (
        "the audio tower's batch norms look at a micro-batch together, so that its size changes what is learned: {}, "
        "or set model.audio_batch_norm_momentum to null, with which they keep their statistics"
    )
    if state.step and state.micro_batch in (None, plan.micro_batch):
        return
    if state.step:
        words = f"go on with {state.micro_batch} clips at a time on each process, not {plan.micro_batch}"
        raise LexividError(why.format(words))
    if plan.accumulate > 1:
        raise LexividError(why.format("leave out training.micro_batch and lower training.batch_size"))


def _merged(failures: dict[str, str], accelerator: Accelerator) -> dict[str, str]:
    """Of all processes."""
    if accelerator.num_processes == 1:
        return failures
    from accelerate.utils import gather_object

    return dict(sorted(gather_object(list(failures.items()))))


def _is_better(new: dict[str, float], best: dict[str, float] | None) -> bool:
    def rank(metrics: dict[str, float]) -> tuple[float, float]:
        return metrics.get("accuracy", metrics.get("mean_average_precision", 0.0)), -metrics["loss"]

    return best is None or rank(new) > rank(best)


def _chunks(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while parts := list(itertools.islice(batches, size)):
        yield parts
