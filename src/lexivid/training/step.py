"""One step of the optimiser: micro-batches of one process -> gradient of the global batch's mean loss -> new weights.

`lexivid.training.loop` calls it for every batch. Shapes: B clips, T frames, K labels, M modalities, F mel bins,
S spectrogram steps.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.data.loader import Batch
from lexivid.errors import LexividError
from lexivid.models.system import Draws, System
from lexivid.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


class Mixed(NamedTuple):
    """What the clips of a micro-batch are mixed with (mixup): weight of their own; audio (B, 3, F, S); targets (B,)."""

    weight: float
    audio: Tensor
    targets: Tensor


class Step:
    """One step of the optimiser on one process."""

    def __init__(self, model: Any, recipe: Recipe, images: ImageProcessing, accelerator: Accelerator) -> None:
        self.model, self.recipe, self.images, self.accelerator = model, recipe, images, accelerator
        self.config = accelerator.unwrap_model(model).config
        self.device = accelerator.device

    def __call__(
        self,
        parts: list[Batch],
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None,
        shared: torch.Generator | None = None,
    ) -> tuple[float, int, float]:
        """Micro-batches of this process -> (mean loss, clips, gradient norm) of the global batch.

        Args:
            shared: of what all processes draw alike, in the same state on all of them.

        Raises:
            LexividError: the loss is not a finite number.
        """
        accelerator = self.accelerator
        num_clips = self._sum(sum(float(part.mask.any(dim=1).sum()) for part in parts))
        total = torch.zeros((), dtype=torch.float64)
        draws = self._draw(parts, shared)
        mixed = self._mix(parts) if self.recipe.training.mixup else [None] * len(parts)
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                loss = self.loss(part, mixed[place], draws)  # the sum over the clips of this part
                # DDP and FSDP average over processes, so that this is the mean over the global batch.
                accelerator.backward(loss * accelerator.num_processes / max(num_clips, 1.0))
            total += loss.detach().double().cpu()
        mean = self._sum(float(total)) / max(num_clips, 1.0)
        if not torch.isfinite(torch.tensor(mean)):
            raise LexividError(
                f"the loss became {mean}: lower training.lr or set training.clip_norm; the last checkpoint is sound"
            )
        norm = accelerator.clip_grad_norm_(self.model.parameters(), clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        return mean, round(num_clips), float(norm)

    def loss(self, batch: Batch, mixed: Mixed | None = None, draws: Draws | None = None) -> Tensor:
        """The system's loss, summed over the clips of a micro-batch."""
        batch = self.never_empty(batch)
        streams, mask = self.inputs(batch, mixed)
        targets = batch.targets.to(self.device)
        goals = [(1.0, targets)]
        if mixed is not None:
            goals = [(mixed.weight, targets), (1 - mixed.weight, mixed.targets.to(self.device))]
        weights = None if batch.weights is None else batch.weights.to(self.device)
        with self.accelerator.autocast():
            output = self.model(streams, mask, goals, weights, draws)
        return output.loss * output.features.mask.any(dim=1).sum()

    def inputs(self, batch: Batch, mixed: Mixed | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """The model's view of a batch: pictures normalised, inputs that the recipe leaves out masked."""
        batch = batch.to(self.device)
        streams = {name: self._input(name, x) for name, x in batch.streams.items() if name in self.recipe.inputs}
        mask = batch.mask.clone()
        for place, name in enumerate(self.config.modalities):
            if name not in self.recipe.inputs:
                mask[:, place] = False
        if self.recipe.data.flow_from != "flow" and "video" in streams:  # the controls
            streams["flow"] = streams["video"]
            if self.recipe.data.flow_from == "frozen" and streams["flow"].ndim > 3:
                pictures = streams["flow"]
                frozen = self.accelerator.unwrap_model(self.model).encoder.towers["video"]
                streams["flow"] = streams["video"] = frozen(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
            flow, video = (self.config.modalities.index(name) for name in ("flow", "video"))
            mask[:, flow] = mask[:, video]
        if mixed is not None and "audio" in streams:
            other = mixed.audio.to(self.device).float()
            streams["audio"] = mixed.weight * streams["audio"] + (1 - mixed.weight) * other
        if not streams:  # clips without any of the streams: one token of nothing
            shape = (len(mask), 1, self.config.embedding_dim)
            streams["video"] = torch.zeros(shape, device=mask.device)
        return streams, mask

    def _input(self, name: str, x: Tensor) -> Tensor:
        return self.images.normalise(x) if x.dtype == torch.uint8 and name != "audio" else x.float()

    def _draw(self, parts: list[Batch], shared: torch.Generator | None) -> Draws | None:
        """What the objective draws for the clips of all processes."""
        system: System = self.accelerator.unwrap_model(self.model)
        if system.objective is None:
            return None
        num = len(system.labels)
        holds = torch.zeros(num, dtype=torch.float64, device=self.device)
        for part in parts:
            if len(part.mask):
                one = part.targets if part.targets.ndim == 2 else F.one_hot(part.targets, num)
                holds += (one > 0).any(dim=0).to(holds)
        if self.accelerator.num_processes > 1:
            holds = self.accelerator.reduce(holds, reduction="sum")
        return system.draw(holds > 0, generator=shared)

    def _mix(self, parts: list[Batch]) -> list[Mixed | None]:
        """Which sound each is mixed with, among those of all micro-batches."""
        shape = torch.tensor(self.recipe.training.mixup)
        weight = float(torch.distributions.Beta(shape, shape).sample())
        sizes = [len(part.mask) for part in parts]
        like = next((part.streams["audio"] for part in parts if "audio" in part.streams), None)
        if like is None:
            return [None] * len(parts)
        silent = [like.new_zeros(size, *like.shape[1:]) for size in sizes]
        order = torch.randperm(sum(sizes))
        audio = torch.cat([part.streams.get("audio", none) for part, none in zip(parts, silent, strict=True)])[order]
        targets = torch.cat([part.targets for part in parts if len(part.mask)])[order]
        pairs = zip(audio.split(sizes), targets.split(sizes), strict=True)
        return [Mixed(max(weight, 1 - weight), *pair) if len(pair[1]) else None for pair in pairs]

    def never_empty(self, batch: Batch) -> Batch:
        """A batch of which nothing could be read becomes one masked clip: every process must take part in a step."""
        if len(batch.mask):
            return batch
        mask = torch.zeros(1, len(self.config.modalities), dtype=torch.bool)
        zero = torch.zeros(1, dtype=torch.int64)
        system = self.accelerator.unwrap_model(self.model)
        nothing = zero if system.objective is None else torch.zeros(1, len(system.labels), dtype=torch.bool)
        return Batch({}, mask, nothing, zero, batch.failures)

    def _sum(self, value: float) -> float:
        """Over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(tensor, reduction="sum"))
