"""The evaluation on held-out base clips between epochs: loss, and accuracy or mean average precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.data.loader import Samples, load_batches
from lexivid.metrics.multi_label import mean_average_precision
from lexivid.models.mov import MOVFeatures
from lexivid.models.system import System
from lexivid.scoring.heads import log_base_probabilities
from lexivid.scoring.log_odds import base_log_odds
from lexivid.training.batches import even_batches
from lexivid.training.distributed import share_buffers
from lexivid.training.log import OnProgress, Progress
from lexivid.training.recipe import Recipe
from lexivid.training.step import Step


@torch.no_grad()
def evaluate_held_out(
    step: Step, samples: Samples, *, epoch: int, batch_size: int = 16, on_progress: OnProgress | None = None
) -> dict[str, float]:
    """Held-out base clips: loss, count, and accuracy among the base classes by eq. 10 (or the mean of all streams);
    of a sigmoid objective mean average precision."""
    samples.set_epoch(epoch)
    step.model.eval()
    accelerator = step.accelerator
    share_buffers(accelerator, step.model)
    lists = even_batches(len(samples), batch_size, rank=accelerator.process_index, world=accelerator.num_processes)
    system: System = accelerator.unwrap_model(step.model)
    labels = system.label_vectors()
    # of a clip: seen, right, loss; or seen, loss, scores and truth of all labels. -inf: not seen by this process
    width = 3 if system.objective is None else 2 + 2 * len(labels)
    table = torch.full((len(samples), width), -torch.inf, dtype=torch.float64)
    batches = load_batches(samples, lists, num_workers=step.recipe.data.num_workers)

    def show(num_batches: int) -> None:
        if on_progress and accelerator.is_main_process:
            num_clips = min(num_batches * batch_size * accelerator.num_processes, len(samples))
            on_progress(Progress("evaluating", num_clips, len(samples), epoch + 1))

    show(0)
    for number, batch in enumerate(batches, 1):
        whole = step.never_empty(batch)
        streams, mask = step.inputs(whole)
        with accelerator.autocast():
            features = step.model(streams, mask).features
        if len(batch.mask):
            rows = _rows(step.recipe, system, features, labels, whole.targets.to(labels.device))
            table[whole.indices] = F.pad(rows.double(), (1, 0), value=1.0).cpu()
        show(number)
    if accelerator.num_processes > 1:
        table = accelerator.gather(table.to(step.device)[None]).amax(dim=0).cpu()
    step.model.train()
    seen = table[table[:, 0] > 0, 1:]
    if system.objective is None:
        if not len(seen):
            return {"accuracy": 0.0, "loss": float("inf"), "clips": 0.0}
        return {"accuracy": float(seen[:, 0].mean()), "loss": float(seen[:, 1].mean()), "clips": float(len(seen))}
    if not len(seen):
        return {"mean_average_precision": 0.0, "loss": float("inf"), "clips": 0.0}

    scores, truth = seen[:, 1:].chunk(2, dim=1)
    precision = mean_average_precision(scores.numpy(), truth.bool().numpy())
    return {
        "mean_average_precision": 0.0 if precision != precision else precision,
        "loss": float(seen[:, 0].mean()),
        "clips": float(len(seen)),
    }


def _rows(recipe: Recipe, system: System, features: MOVFeatures, labels: Tensor, targets: Tensor) -> Tensor:
    """(B, 2): right and loss of each clip, or (B, 1 + 2 K): loss, scores and truth. Held-out clips may be annotated
    with the first of the labels alone; the others, a captioner's, then count for nothing."""
    if system.objective is None:
        scores = log_base_probabilities(features, labels, tau=system.config.tau, how=recipe.model.base_score)
        right = (scores.argmax(dim=-1) == targets).double()
        loss = F.nll_loss(scores, targets, reduction="none")
        return torch.stack([right, loss], dim=1)
    truth = (targets if targets.ndim == 2 else F.one_hot(targets, len(labels))).float()
    known, more = truth.shape[1], (0, len(labels) - truth.shape[1])
    logits = base_log_odds(features, labels[:known], system.objective.scales()).float()
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * system.label_weights[:known]
    return torch.cat([loss.sum(dim=1, keepdim=True), F.pad(logits, more), F.pad(truth, more)], dim=1)
