"""What a model makes of a set of clips, kept so that every protocol, vocabulary and temperature is scored without it.

    model + samples --collect--> Collected (npz) --score--> probabilities of each path over any labels

Works for trained models (`lexivid.models.trained.TrainedModel`) and for backbones as they are ("zero-shot"), whose two
paths are one and the same. The equations are those of `lexivid.models.mov`; scores are averaged over views
(section 4.2).

Shapes: n clips, R views of a clip as they are scored, D embedding width, K labels, M modalities.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import Backbone
from lexivid.base.storage import write_atomically
from lexivid.data.loader import Samples, load_batches
from lexivid.errors import LexividError
from lexivid.models.mov import Head, MOVFeatures, probabilities
from lexivid.models.trained import TrainedModel
from lexivid.scoring.heads import head_log_probabilities
from lexivid.scoring.log_odds import log_odds


@dataclass
class Collected:
    """Features of n clips.

    Attributes:
        features: "v", "v_m", and of each further modality x_m ("flow": f_m, "audio": a_m) -> (n, R, D) float32.
        mask: (n, M) bool, video first. modalities: M names.
        targets: (n,) int, a place in `classes`, or (n, C) bool, all classes that hold. paths, groups: of each clip.
        classes: names that clips are of. base_classes: those the model was trained on; empty for zero-shot.
        settings: tau, tau_v, tau_x, beta, base_score, scales (see `TrainedModel.settings`).
        facts: for the result file: model, templates, frames, views, decoder, ...
        failures: (path, reason) of clips that could not be read; they are not among the n.
    """

    features: dict[str, np.ndarray]
    mask: np.ndarray
    modalities: tuple[str, ...]
    targets: np.ndarray
    paths: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    base_classes: tuple[str, ...]
    settings: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.targets)

    def save(self, path: str | Path) -> None:
        """One npz file, whole or not at all."""
        import io

        about = {key: value for key, value in asdict(self).items() if key not in ("features", "mask", "targets")}
        buffer = io.BytesIO()
        arrays = {"about": np.array(json.dumps(about)), "mask": self.mask, "targets": self.targets}
        arrays |= {f"features.{name}": x for name, x in self.features.items()}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Collected:
        """What `save` wrote.

        Raises:
            LexividError: another file, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                features = {key.partition(".")[2]: arrays[key] for key in arrays if key.startswith("features.")}
                mask, targets = arrays["mask"], arrays["targets"]
            for key in ("modalities", "paths", "groups", "classes", "base_classes"):
                about[key] = tuple(about[key])
            about["failures"] = [tuple(pair) for pair in about["failures"]]
            return cls(features=features, mask=mask, targets=targets, **about)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LexividError(f"{str(path)!r} holds no collected features ({type(error).__name__}: {error})") from None

    @property
    def num_views(self) -> int:
        """R."""
        return next(iter(self.features.values())).shape[1]

    def select(self, keep: np.ndarray) -> Collected:
        """Those clips alone: indices, or (n,) bool."""
        chosen = np.arange(len(self))[keep]
        return Collected(
            {name: x[chosen] for name, x in self.features.items()}, self.mask[chosen], self.modalities,
            self.targets[chosen], tuple(self.paths[i] for i in chosen), tuple(self.groups[i] for i in chosen),
            self.classes, self.base_classes, self.settings, self.facts, self.failures,
        )  # fmt: skip


def score(collected: Collected, labels: Tensor | np.ndarray, *, head: Head, **settings: Any) -> np.ndarray:
    """Probabilities over the labels, averaged over views: labels (K, D) -> (n, K) float64.

    Args:
        head: "base" (eq. 10) or "novel" (eq. 11 and 12); of a sigmoid each label's own probability.
        settings: on top of the model's: tau, tau_v, tau_x, beta, base_score.
    """
    return np.exp(log_score(collected, labels, head=head, **settings))


def log_score(collected: Collected, labels: Tensor | np.ndarray, *, head: Head, **settings: Any) -> np.ndarray:
    """The logarithm of `score`, (n, K) float64: small temperatures make most probabilities too small for a number."""
    s = collected.settings | settings
    vectors = torch.as_tensor(np.asarray(labels)).float()
    f, num_views = _views_of(collected)
    p = head_log_probabilities(f, vectors, s, head=head)
    return (torch.logsumexp(p.unflatten(0, (-1, num_views)), dim=1) - math.log(num_views)).numpy()


def clip_log_odds(
    collected: Collected,
    labels: Tensor | np.ndarray,
    *,
    head: Head,
    background: Tensor | np.ndarray | None = None,
) -> np.ndarray:
    """How far each label stands by itself (`lexivid.scoring.log_odds`), mean over views: (n, K) float64.

    Args:
        labels: (K, D). background: (J, D), for a model trained by softmax or not trained at all.
    """
    features, num_views = _views_of(collected)
    others = None if background is None else torch.as_tensor(np.asarray(background)).float()
    vectors = torch.as_tensor(np.asarray(labels)).float()
    odds = log_odds(features, vectors, collected.settings, head=head, background=others)
    return odds.unflatten(0, (-1, num_views)).mean(dim=1).numpy()


def _views_of(collected: Collected) -> tuple[MOVFeatures, int]:
    """Features of all views of all clips, clip by clip (n * R, D), and R."""
    num_views = collected.num_views
    f = {name: torch.from_numpy(x).flatten(0, 1) for name, x in collected.features.items()}
    mask = torch.from_numpy(collected.mask).repeat_interleave(num_views, dim=0)
    return MOVFeatures(f["v"], f["v_m"], {name: f[name] for name in collected.modalities[1:]}, mask), num_views


def opinion(collected: Collected, labels: Tensor | np.ndarray, *, name: str, tau: float) -> np.ndarray:
    """One stream alone ("v", "v_m", "flow", "audio"), averaged over views: (n, K)."""
    x = torch.from_numpy(collected.features[name])
    p = probabilities(x.flatten(0, 1), torch.as_tensor(np.asarray(labels)).float(), tau=tau)
    return p.unflatten(0, x.shape[:2]).double().mean(dim=1).numpy()


def of_classes(collected: Collected, classes: Sequence[str]) -> tuple[Collected, np.ndarray]:
    """The clips of these classes, and their targets (n,) among them; of clips with one class each."""
    index = {name: i for i, name in enumerate(classes)}
    targets = np.array([index.get(collected.classes[t], -1) for t in collected.targets], dtype=np.int64)
    return collected.select(targets >= 0), targets[targets >= 0]


@torch.no_grad()
def collect(
    model: TrainedModel | Backbone,
    samples: Samples,
    *,
    classes: Sequence[str],
    num_clips: int = 1,
    batch_size: int = 4,
    num_workers: int = 2,
    paths: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
    facts: Mapping[str, Any] | None = None,
    on_progress: Any = None,
) -> Collected:
    """Run a model once over test samples.

    Args:
        samples: with all views: video, flow (V, T, 3, S, S), audio (V_a, 3, F, S); a stream without its axis of views
            (as in training, or features (T, D)) is one view.
        classes: names, in the order of the samples' targets.
        num_clips: of the V views, how many lie one after another in time (they run fastest), so that sound is
            put beside the pictures of its time.
        on_progress: called with clips done and clips in all.

    Raises:
        LexividError: none of the clips can be read.
    """
    trained = model if isinstance(model, TrainedModel) else None
    indices = list(range(len(samples)))
    lists = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    rows: dict[str, list[Tensor]] = {}
    masks, targets, order = [], [], []
    failures: list[tuple[str, str]] = []
    done = 0
    for batch in load_batches(samples, lists, num_workers=num_workers):
        failures += batch.failures
        if len(batch.targets):
            for name, x in _features(model, batch.streams, batch.mask, num_clips).items():
                rows.setdefault(name, []).append(x)
            masks.append(batch.mask)
            targets.append(batch.targets)
            order.append(batch.indices)
        done += len(batch.targets) + len(batch.failures)
        if on_progress:
            on_progress(done, len(samples))
    if not order:
        path, reason = failures[0] if failures else ("", "there are none")
        raise LexividError(f"none of the {len(samples)} clips can be used; the first: {path}: {reason}")
    order_read = torch.cat(order).tolist()
    modalities = trained.mov.config.modalities if trained else ("video",)
    mask = torch.cat(masks)[:, : len(modalities)].numpy()
    if trained is not None:
        mask = mask & np.array([name in trained.inputs for name in modalities])
    return Collected(
        {name: torch.cat(x).numpy() for name, x in rows.items()},
        mask,
        tuple(modalities),
        torch.cat(targets).numpy(),
        tuple(str(paths[i]) if paths else str(i) for i in order_read),
        tuple(str((groups[i] if groups else None) or (paths[i] if paths else i)) for i in order_read),
        tuple(classes),
        tuple(trained.base_classes) if trained else (),
        settings_of(model),
        dict(facts or {}),
        failures,
    )


def settings_of(model: TrainedModel | Backbone) -> dict[str, Any]:
    """The temperatures and weights of eq. 9 to 12, and of a sigmoid."""
    if isinstance(model, TrainedModel):
        return model.settings()
    tau = model.temperature
    return {"tau": tau, "tau_v": tau, "tau_x": {}, "beta": 0.0, "base_score": "v_m", "scales": None}


def _features(
    model: TrainedModel | Backbone, streams: Mapping[str, Tensor], mask: Tensor, num_clips: int
) -> dict[str, Tensor]:
    """One batch -> name -> (b, R, D) float32 on the CPU."""
    views = {name: _with_views(name, x) for name, x in streams.items()}
    if not isinstance(model, TrainedModel):
        if "video" not in views:
            raise LexividError(f"model {model.name!r} sees pictures only, and these clips have none")
        video = views["video"]  # (b, V, T, 3, S, S)
        frames = model.encode_images(video.flatten(0, 2)).unflatten(0, video.shape[:3])
        v = F.normalize(frames.mean(dim=2), dim=-1)
        return {"v": v, "v_m": v}
    parts: dict[str, list[Tensor]] = {}
    for shown in aligned(views, num_clips):
        x: MOVFeatures = model.features(**shown, mask=mask)
        for name, value in {"v": x.v, "v_m": x.v_m, **x.x_m}.items():
            parts.setdefault(name, []).append(value.float().cpu())
    return {name: torch.stack(x, dim=1) for name, x in parts.items()}


def aligned(views: Mapping[str, Tensor], num_clips: int) -> Iterator[dict[str, Tensor]]:
    """Streams with views (b, V, ...), (b, V_a, ...) -> R = max(V, V_a) sets of one view each.

    Sound is put beside the clip of its time: of V pictures' views, `num_clips` lie one after another in time, and
    those of the next crop follow; of V_a views of sound all do. With the paper's 4 x 3 and 12, every view of either is
    used once.
    """
    num_pictures = next((views[name].shape[1] for name in ("video", "flow") if name in views), 0)
    num_sounds = views["audio"].shape[1] if "audio" in views else 0
    num_clips = max(1, min(num_clips, num_pictures or 1))
    num_crops = max(1, num_pictures // num_clips)
    for view in range(max(num_pictures, num_sounds)):
        if num_sounds > num_pictures:
            sound, moment = view, view * num_clips // num_sounds
            picture = view % num_crops * num_clips + moment
        else:
            picture, moment, crop = view, view % num_clips, view // num_clips
            # the sounds of a moment are shared out over its crops
            first, stop = -(-moment * num_sounds // num_clips), -(-(moment + 1) * num_sounds // num_clips)
            sound = first + crop % (stop - first) if stop > first else moment * num_sounds // num_clips
        yield {name: x[:, sound if name == "audio" else picture] for name, x in views.items()}


def _with_views(name: str, x: Tensor) -> Tensor:
    """(b, ...) -> (b, V, ...): audio (b, V, 3, F, S) or (b, V, 1, D); pictures (b, V, T, 3, S, S) or (b, V, T, D)."""
    single = 4 if name == "audio" else 5
    is_features = x.ndim <= 3 and x.dtype.is_floating_point
    return x[:, None] if is_features or x.ndim == single else x
