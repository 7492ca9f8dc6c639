"""Processes: one, or many under `torchrun` or `accelerate launch`, through Hugging Face Accelerate.

DDP is what `torchrun --nproc-per-node N -m lexivid train ...` gives. FSDP comes by configuration, no code:
`accelerate launch --config_file src/lexivid/recipes/accelerate/fsdp.yaml -m lexivid train ...`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lexivid.errors import LexividError, MissingExtraError
from lexivid.models.system import FROZEN
from lexivid.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from lexivid.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(recipe: TrainingRecipe, *, device: str = "auto") -> Accelerator:
    """The one object that knows about processes, devices and precision.

    `find_unused_parameters`: a batch in which no clip has flow leaves the flow tower without a gradient.

    Raises:
        MissingExtraError: Accelerate is not installed.
        LexividError: sharding was asked for where Accelerate does not shard.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError:
        raise MissingExtraError('Training needs more packages: pip install "lexivid[train]"') from None
    accelerator = Accelerator(
        cpu=device == "cpu" or (device == "auto" and not torch.cuda.is_available()),
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not is_sharded(accelerator):
        raise LexividError(
            "FSDP was asked for, but Accelerate shards over GPUs only and would train whole copies without a word: "
            "start with torchrun instead"
        )
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether parameters are spread over the processes."""
    return str(accelerator.distributed_type).rpartition(".")[2] == "FSDP"


def prepare(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
    """Both as the processes need them: as they are, in DDP, or sharded."""
    if is_sharded(accelerator):  # FSDP2 takes no parameter in another memory layout, such as lite's channels_last
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
    wrapped, prepared = accelerator.prepare(model, optimizer)
    return wrapped, prepared


def share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Running statistics of the first process to all: DDP does so by itself, sharding leaves each its own."""
    if is_sharded(accelerator):
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Everything that training can change: all but frozen models, running statistics included."""
    return {key: value for key, value in model.state_dict().items() if not key.startswith(FROZEN)}


def gather_state(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(model, optimiser) as whole tensors by parameter name. Every process must call; sharded, the first gets them."""
    if is_sharded(accelerator):
        from torch.distributed.checkpoint import state_dict as dcp

        options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: Any
        state: Any
        weights, state = dcp.get_state_dict(model, _plain(optimizer), options=options)
        slots = {
            f"{name}|{slot}": value for name, item in state.get("state", {}).items() for slot, value in item.items()
        }
        return {k: v for k, v in weights.items() if not k.startswith(FROZEN)}, slots
    plain = accelerator.unwrap_model(model)
    return trained_state(plain), optimizer_tensors(_plain(optimizer), _names(plain))


def restore_state(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint
) -> None:
    """The reverse of `gather_state`, on every process."""
    if is_sharded(accelerator):
        from torch.distributed.checkpoint import state_dict as dcp

        options = dcp.StateDictOptions(full_state_dict=True, strict=False)
        current: Any = dcp.get_optimizer_state_dict(model, _plain(optimizer))
        moments: dict[str, Any] = {}
        for key, value in checkpoint.optimizer.items():
            name, _, slot = key.rpartition("|")
            moments.setdefault(name, {})[slot] = value
        dcp.set_model_state_dict(model, dict[str, Any](checkpoint.model), options=options)
        dcp.set_optimizer_state_dict(
            model, _plain(optimizer), {"state": moments, "param_groups": current["param_groups"]}, options=options
        )
        return
    plain = accelerator.unwrap_model(model)
    load_trained(plain, checkpoint.model)
    restore_optimizer(_plain(optimizer), _names(plain), checkpoint.optimizer)


def load_trained(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put trained weights into a model; those of frozen models are not among them.

    Raises:
        RuntimeError: names or shapes differ.
    """
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [key for key in missing if not key.startswith(FROZEN)]
    if missing or unexpected:
        raise RuntimeError(f"weights do not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}")


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper


def _names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}
