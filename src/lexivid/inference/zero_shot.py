"""A frozen backbone as it is ("zero-shot"): frames alone, compared with labels.

    file -> frames (V, T, 3, S, S) -> backbone -> mean over T, unit length (V, D) -> softmax(cosine / tau) over K labels
    -> mean over V views -> scores (K,)

A timeline does the same for windows that slide over the file, and encodes each frame once however many windows it lies
in. With `multi_label` the scores are each label's own probability (`lexivid.scoring.per_label`).
Shapes: V views, T frames, D embedding width, K labels, W windows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones.base import Backbone, weights_of
from lexivid.base.prefetch import prefetch
from lexivid.data.hops import FRAMES_PER_HOP
from lexivid.errors import MediaError, ModelError
from lexivid.inference.prediction import Vocabulary, pick_thumbnails
from lexivid.inference.prepare import prepare_by_prompts
from lexivid.inference.protocol import Encoded, FileScores, Question, ViewAnswers, score_kind
from lexivid.inference.timeline import HOPS_PER_WINDOW
from lexivid.labels.database import LabelsGiven
from lexivid.labels.encoders.identity import EncoderIdentity
from lexivid.labels.prompt_cache import PromptCache
from lexivid.labels.templates import TemplateSet
from lexivid.media.decode import SampledFrames, VideoReader, open_video, read_views
from lexivid.media.views import PAPER_STRIDE, Views, ViewsAsked
from lexivid.models.calibration import at_most_one
from lexivid.scoring.per_label import LabelSplit, PerLabelScorer, make_per_label_scorer

_TIMELINE_BATCH = 32


class ZeroShot:
    """A `VideoModel` of a backbone; its one modality is the frames."""

    modalities: tuple[str, ...] = ("video",)
    trained_on: tuple[str, ...] = ()

    def __init__(self, backbone: Backbone, *, prompt_cache: PromptCache | None = None) -> None:
        self.backbone = backbone
        self.prompt_cache = prompt_cache or PromptCache(backbone)
        self.name, self.fingerprint = backbone.name, backbone.fingerprint

    @property
    def default_views(self) -> Views:
        """16 frames spread evenly over the whole file, centre crop."""
        return Views()

    def views_of(self, asked: ViewsAsked) -> Views:
        return asked.on(self.default_views, clip_stride=PAPER_STRIDE)

    def accepts(self, encoder: EncoderIdentity) -> bool:
        """A frozen backbone's space is that of its own text encoder with any sentences, and of label encoders (soft
        attributes) that were trained into that text encoder. Precision plays no part: a database is always float32, and
        the features of clips differ between precisions by rounding alone.
        """
        return encoder.backbone_weights == weights_of(self.backbone)

    def prepare(
        self,
        labels: LabelsGiven,
        *,
        templates: str | Path | TemplateSet | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Vocabulary:
        return prepare_by_prompts(self, labels, templates=templates, on_progress=on_progress)

    def per_label(
        self, phrases: Sequence[str], templates: TemplateSet, on_progress: Callable[[int, int], None] | None
    ) -> PerLabelScorer | None:
        return make_per_label_scorer(self.backbone, self.prompt_cache, phrases, templates, on_progress=on_progress)

    def ask(
        self, vocabulary: Vocabulary, *, label_split: LabelSplit | None, multi_label: bool, threshold: float
    ) -> Question:
        if label_split not in (None, "mixed"):
            raise ModelError(f"model {self.name!r} was trained on no classes: label_split is for trained models")
        if multi_label and vocabulary.per_label is None and vocabulary.templates is None:
            raise ModelError(
                f"labels of a trained label encoder cannot be scored one by one by {self.name!r}: nothing says what "
                "unrelated words score in their place; without multi-label, scores are shares among the labels"
            )
        if multi_label and not isinstance(vocabulary.per_label, PerLabelScorer):
            raise ModelError(
                f"model {self.name!r} cannot score labels one by one: its scores are shares among those asked for; "
                "multi-label takes lite, world or a CLIP model, and a vocabulary from prepare()"
            )
        return Question(vocabulary, "mixed", multi_label, threshold)

    def read(self, path: str | Path, views: Views, used: tuple[str, ...]) -> SampledFrames:
        return read_views(path, views, transform=self.transform(views))

    def encode(self, parts: SampledFrames, views: Views, num_thumbnails: int) -> Encoded:
        times_s = parts.info.video_start_s + parts.times_s.ravel()
        return Encoded(
            self._encode_views(parts, views).mean(1),  # (V, D)
            self.modalities,
            parts.info.end_s,
            tuple(parts.warnings),
            pick_thumbnails(times_s, parts.frames.flatten(0, 1), num_thumbnails),
            num_views=views.num_clips * views.num_crops,
        )

    @contextmanager
    def open_film(
        self, path: str | Path, window_s: float, used: tuple[str, ...], num_thumbnails: int
    ) -> Iterator[FrameGrid]:
        with open_video(path) as video:
            yield FrameGrid(self, video, window_s, num_thumbnails)

    def scorer(self, question: Question) -> ZeroShotScorer:
        return ZeroShotScorer(self.backbone, question)

    def remarks(self, path: str | Path, question: Question, encoded: Encoded) -> tuple[str, ...]:
        return ()

    def transform(self, views: Views) -> Callable[[Tensor], Tensor]:
        """What is done to a frame as it is decoded."""
        images = self.backbone.images
        return lambda frame: images.resize(frame, keep_aspect=views.num_crops > 1)

    def _encode_views(self, sampled: SampledFrames, views: Views) -> Tensor:
        """Frame features (V, T, D), unit length. A frame that several views or times share is encoded once."""
        num_clips, num_frames = sampled.times_s.shape
        times, first, place = np.unique(sampled.times_s.ravel(), return_index=True, return_inverse=True)
        frames = sampled.frames.flatten(0, 1)[torch.from_numpy(first)]  # (U, 3, h, w)
        crops = self.backbone.images.crops(frames, views.num_crops)  # (C, U, 3, S, S)
        features = self.backbone.encode_images(crops.flatten(0, 1)).view(views.num_crops, len(times), -1)
        spread = features[:, torch.from_numpy(place.ravel())]  # (C, clips * T, D)
        return spread.view(views.num_crops * num_clips, num_frames, -1)


class ZeroShotScorer:
    """Softmax scores are averaged over views; probabilities are those of the views' mean feature."""

    def __init__(self, backbone: Backbone, question: Question) -> None:
        self.backbone, self.question = backbone, question
        per_label = question.vocabulary.per_label
        self.per_label = per_label if isinstance(per_label, PerLabelScorer) else None
        self.kind = score_kind(question, calibrated=self.per_label is not None)
        self._shares, self._features = torch.zeros(()), torch.zeros(())  # sums (K,) and (D,)
        self._count = 0

    def add(self, features: Tensor) -> ViewAnswers:
        answers = self._answers(features)
        if self.kind == "share":
            self._shares = self._shares + answers.scores.sum(0)
        self._features = self._features + F.normalize(features, dim=-1).sum(0)
        self._count += len(features)
        return answers

    def result(self, modalities: Sequence[str]) -> FileScores:
        scores, none = self._answers(self._features[None] / self._count)
        of_file = self._shares / self._count if self.kind == "share" else scores[0]
        return FileScores(of_file, {"video": of_file}, None if none is None else float(none[0]), self.kind)

    def _answers(self, features: Tensor) -> ViewAnswers:
        """Features (N, D) -> scores as `kind` says."""
        if self.per_label is None or self.kind == "share":
            cosines = F.normalize(features.double(), dim=-1) @ self.question.vocabulary.vectors.double().T
            shares = torch.softmax(cosines / self.backbone.temperature, dim=-1)
            return ViewAnswers(shares, None if self.per_label is None else self.per_label.none_of_these(features))
        if self.kind == "per-label probability":
            probabilities = self.per_label.probabilities(features)
            return ViewAnswers(probabilities, 1 - probabilities.amax(dim=-1))
        probabilities = at_most_one(self.per_label.log_ratios(features))
        return ViewAnswers(probabilities, 1 - probabilities.sum(dim=-1))


class FrameGrid:
    """The features of a film's frames at four times a hop, as they come, in the time of the file.

    That begins with whatever begins first, pictures or sound; before the first picture the first picture counts.
    """

    def __init__(self, model: ZeroShot, video: VideoReader, window_s: float, num_thumbnails: int) -> None:
        self.model, self.video = model, video
        self.start_s = video.info.video_start_s
        self.declared_s = max(video.info.end_s, 1e-3)
        self.hop_s = min(window_s / HOPS_PER_WINDOW, self.declared_s)
        step_s = self.hop_s / FRAMES_PER_HOP
        times = (np.arange(math.ceil(self.declared_s / step_s - 1e-6)) + 0.5) * step_s
        self.times = times[times < self.declared_s] if len(times) > 1 else np.array([self.declared_s / 2])
        self.wanted = set(np.linspace(0, len(self.times) - 1, num_thumbnails).astype(int)) if num_thumbnails else set()
        self.thumbnails: list[tuple[float, Tensor]] = []
        self._sum, self._count = torch.zeros(()), 0

    def end_s(self) -> float:
        """Of the file, as far as it has been seen."""
        return min(self.declared_s, self.start_s + (self.video.decodable_s or self.declared_s))

    def whole(self) -> Encoded:
        """Its feature is the mean of all frames (1, D)."""
        mean = (self._sum / self._count).float()[None]
        return Encoded(mean, ("video",), self.end_s(), tuple(self.video.warnings), tuple(self.thumbnails))

    def windows(self) -> Iterator[Tensor]:
        """Sums of two neighbouring hops (W, D), a few at a time; of a film of one hop that hop.

        Raises:
            MediaError: no frame could be decoded.
        """
        rest, before, is_alone = None, None, True
        for rows in itertools.chain(self._frames(), [None]):
            if rows is None:  # the end: what is left is the last hop
                hops = rest[:0] if rest is None or not len(rest) else rest.mean(0, keepdim=True)  # type: ignore[index]
            else:
                rows = rows if rest is None else torch.cat([rest, rows])
                whole = len(rows) // FRAMES_PER_HOP * FRAMES_PER_HOP
                hops, rest = rows[:whole].unflatten(0, (-1, FRAMES_PER_HOP)).mean(1), rows[whole:]
            if before is not None:
                hops = torch.cat([before, hops])
            if len(hops) > 1:
                is_alone = False
                yield hops[:-1] + hops[1:]
            before = hops[-1:] if len(hops) else before
        if is_alone and before is not None:
            yield before

    def _frames(self) -> Iterator[Tensor]:
        """The frame on show at each time of the grid, (up to 32, D). Each distinct frame is encoded once."""
        backbone = self.model.backbone
        transform, last_time, feature = self.model.transform(Views()), None, None
        pictures = np.maximum(self.times - self.start_s, 0.0)
        decoded = prefetch(self.video.frames_at(pictures, transform=transform), ahead=_TIMELINE_BATCH)
        while batch := list(itertools.islice(decoded, _TIMELINE_BATCH)):
            fresh, owners = [], []
            for index, time_s, frame in batch:
                # Times beyond the real end repeat the last frame: they are not of the file.
                if index and self.times[index] >= self.end_s():
                    continue
                if time_s != last_time:
                    fresh.append(backbone.images.crops(frame[None])[0, 0])
                    last_time = time_s
                owners.append(len(fresh))  # 0: the last frame of the batch before
                if index in self.wanted:
                    self.thumbnails.append((self.start_s + float(time_s), frame))
            known: list[Tensor] = [] if feature is None else [feature]
            encoded = torch.cat([*known, backbone.encode_images(torch.stack(fresh))]) if fresh else feature
            if encoded is None or not owners:
                continue
            rows = encoded[torch.tensor(owners) - (0 if known else 1)]
            feature = encoded[-1:]
            self._sum, self._count = self._sum + rows.double().sum(0), self._count + len(rows)
            yield rows
        if not self._count:
            raise MediaError(f"{self.video.info.path}: no frame could be decoded")
