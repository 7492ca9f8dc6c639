"""The classifier that a user holds: load, classify, timeline.

file -> frames (V, T, 3, S, S) -> backbone -> mean over T, unit length (V, D) -> softmax(cosine / tau) over K labels
-> mean over V views -> scores (K,). A timeline does the same for windows that slide over the file, and encodes each
frame once however many windows it lies in.

Shares among the labels asked for cannot say "several" or "none". Beside them stands what `lexivid.scoring.background`
says of each label by itself: with `multi_label` these probabilities are the scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import Backbone
from lexivid.backbones.base import weights_of
from lexivid.base.prefetch import prefetch
from lexivid.data.hops import FRAMES_PER_HOP
from lexivid.errors import LabelError, LexividError, MediaError, ModelError
from lexivid.inference.prediction import (
    HOPS_PER_WINDOW,
    Prediction,
    Vocabulary,
    hop_scores,
    join_cells,
    pick_thumbnails,
    ranked,
    segments_by_label,
)
from lexivid.labels import TemplateSet, check_labels, load_templates
from lexivid.labels.database import LabelDatabase
from lexivid.labels.encoders.identity import EncoderIdentity, doubts
from lexivid.labels.prompt_cache import PromptCache
from lexivid.labels.templates import short_templates
from lexivid.media.decode import SampledFrames, VideoReader, open_video, read_views
from lexivid.media.modalities import MODALITIES
from lexivid.media.views import PAPER_STRIDE, Views, ViewsAsked
from lexivid.models.calibration import DEFAULT_THRESHOLD
from lexivid.scoring.per_label import PerLabelScorer, make_per_label_scorer

if TYPE_CHECKING:
    from lexivid.scoring.per_label import TrainedPerLabelScorer

_TIMELINE_BATCH = 32


class Classifier:
    """Classifies files by labels in the user's own words, with a frozen backbone ("zero-shot").

    Its one path is the pictures. Models that `lexivid train` makes bring paths for flow and audio, see
    `lexivid.inference.trained`.

    Attributes:
        name, fingerprint: of the model, for people and for caches.
    """

    modalities: tuple[str, ...] = ("video",)

    def __init__(self, backbone: Backbone, *, prompt_cache: PromptCache | None = None) -> None:
        self.backbone = backbone
        self.prompt_cache = prompt_cache or PromptCache(backbone)
        self.name, self.fingerprint = backbone.name, backbone.fingerprint

    @property
    def default_views(self) -> Views:
        """What is looked at where nobody says: 16 frames spread evenly over the whole file, centre crop."""
        return Views()

    def views_of(self, asked: ViewsAsked) -> Views:
        """What is looked at where a user names a part of it.

        Raises:
            LexividError: see `ViewsAsked.on`.
        """
        return asked.on(self.default_views, clip_stride=PAPER_STRIDE)

    def prepare(
        self,
        labels: str | Iterable[str] | Mapping[str, str],
        *,
        templates: str | Path | TemplateSet | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Vocabulary:
        """Embed labels (from the cache where they are known), or take a database's vectors as they are.

        Args:
            labels: names, one comma-separated string, a mapping of names to the phrases that the model shall read, or
                a `LabelDatabase` (all of it, or what its `only` gives). Names that are identifiers ("PlayingViolin")
                are read as words and shown as they are.
            templates: a set's name, a file or a `TemplateSet`; None: the one that suits the backbone. A database has
                its own, and another set than that is an error.
            on_progress: called with labels done and labels to compute.

        Raises:
            LabelError: labels, templates or a database that cannot be used.
        """
        if isinstance(labels, LabelDatabase):
            if not self.accepts(labels.encoder):
                raise LabelError(
                    f"{labels.describe()}, and model {self.name!r} cannot compare clips with its vectors: use the "
                    "model that made them, or make another database with this one"
                )
            own = labels.sentences(templates)
            if own is None:
                return Vocabulary(labels.labels, labels.vectors, None, phrases=labels.phrases)
            self.prompt_cache.remember(labels.phrases, own, labels.vectors)
            if labels.short is not None:
                self.prompt_cache.remember(labels.phrases, short_templates(own), labels.short)
            labels, templates = labels.told, own
        names, phrases, warnings = check_labels(labels, known=self.trained_on, english_only=self.backbone.english_only)
        chosen = load_templates(templates or self.backbone.default_templates)
        warnings += doubts(self.backbone, phrases, chosen)
        vectors = self.prompt_cache.embed(phrases, chosen, on_progress=on_progress)
        per_label = self._per_label_scorer(phrases, chosen, on_progress)
        return Vocabulary(tuple(names), vectors, chosen.name, tuple(warnings), per_label, tuple(phrases))

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The texts of classes that the model was trained on; a label that is one of them is read as that text."""
        return ()

    def accepts(self, encoder: EncoderIdentity) -> bool:
        """Whether a label database of this encoder lies in the space that this model sees clips in.

        A frozen backbone's is that of its own text encoder with any sentences, and of label encoders (soft attributes)
        that were trained into that text encoder. Precision plays no part: a database is always float32, and the
        features of clips differ between precisions by rounding alone.
        """
        return encoder.backbone_weights == weights_of(self.backbone)

    def _per_label_scorer(
        self, phrases: Sequence[str], templates: TemplateSet, on_progress: Callable[[int, int], None] | None
    ) -> PerLabelScorer | TrainedPerLabelScorer | None:
        """What says of each label by itself whether it holds; None for a model that cannot."""
        return make_per_label_scorer(self.backbone, self.prompt_cache, phrases, templates, on_progress=on_progress)

    def classify(
        self,
        path: str | Path,
        labels: str | Iterable[str] | Mapping[str, str] | Vocabulary,
        *,
        views: Views | None = None,
        modalities: Sequence[str] | None = None,
        timeline_s: float | None = None,
        num_thumbnails: int = 0,
        multi_label: bool = False,
        threshold: float = DEFAULT_THRESHOLD,
    ) -> Prediction:
        """Classify one file.

        Args:
            labels: names, one comma-separated string, or a `Vocabulary` from `prepare`.
            views: which frames are seen; None: 16 frames spread evenly over the whole file, centre crop.
            modalities: the streams to use; None: all that the model has a path for.
            timeline_s: length of a sliding window; the prediction then has `segments`, and its `labels` are of the
                whole file (`views` is not used).
            num_thumbnails: how many frames, spread evenly over those seen, are returned with the prediction.
            multi_label: judge each label by itself. Scores are then probabilities that do not depend on the other
                labels, any number of which may be high; a timeline has segments for each label, which may overlap.
            threshold: of a multi-label timeline: from which probability on a label has a segment.

        Raises:
            MediaError: the file cannot be used.
            LabelError: the labels cannot be used.
            ModelError: a modality that this model has no path for, or `multi_label` with a model that cannot.
        """
        vocabulary = labels if isinstance(labels, Vocabulary) else self.prepare(labels)
        for prediction in self.classify_many(
            [path],
            vocabulary,
            views=views,
            modalities=modalities,
            timeline_s=timeline_s,
            num_thumbnails=num_thumbnails,
            multi_label=multi_label,
            threshold=threshold,
            raise_errors=True,
        ):
            return replace(prediction, warnings=(*vocabulary.warnings, *prediction.warnings))
        raise AssertionError("one path gives one prediction")

    def classify_many(
        self,
        paths: Iterable[str | Path],
        labels: str | Iterable[str] | Mapping[str, str] | Vocabulary,
        *,
        views: Views | None = None,
        modalities: Sequence[str] | None = None,
        timeline_s: float | None = None,
        num_thumbnails: int = 0,
        multi_label: bool = False,
        threshold: float = DEFAULT_THRESHOLD,
        raise_errors: bool = False,
    ) -> Iterator[Prediction]:
        """Classify files one after another, each as `classify` does; the next file is decoded meanwhile.

        A file that cannot be used is a `Prediction` with `error` set, unless `raise_errors`.
        """
        vocabulary = labels if isinstance(labels, Vocabulary) else self.prepare(labels)
        self._check_modalities(modalities)
        if multi_label:
            self.check_multi_label(vocabulary)
        if timeline_s is not None:
            check_window(timeline_s)
            for path in paths:
                work = partial(
                    self._timeline,
                    vocabulary=vocabulary,
                    window_s=timeline_s,
                    num_thumbnails=num_thumbnails,
                    multi_label=multi_label,
                    threshold=threshold,
                )
                yield self._guarded(path, work, raise_errors)
            return
        chosen = views or self.default_views

        def decode(path: str | Path) -> tuple[str | Path, SampledFrames | Exception]:
            try:
                return path, read_views(path, chosen, transform=self._transform(chosen))
            except Exception as error:  # handed over to the consumer's thread
                return path, error

        for path, sampled in prefetch(map(decode, paths), ahead=2):
            work = partial(
                self._whole_file,
                sampled=sampled,
                vocabulary=vocabulary,
                views=chosen,
                num_thumbnails=num_thumbnails,
                multi_label=multi_label,
            )
            yield self._guarded(path, work, raise_errors)

    def check_multi_label(self, vocabulary: Vocabulary) -> None:
        """Whether labels can be judged one by one.

        Raises:
            ModelError: the model cannot: it was trained to choose one of several classes, knows no everyday words, or
                the vectors are of a label encoder that was trained, and come without a background to compare with.
        """
        if vocabulary.per_label is None and vocabulary.templates is None:
            raise ModelError(
                f"labels of a trained label encoder cannot be judged one by one by {self.name!r}: nothing says what "
                "unrelated words score in their place; without multi-label, scores are shares among the labels"
            )
        if not isinstance(vocabulary.per_label, PerLabelScorer):
            raise ModelError(
                f"model {self.name!r} cannot judge labels one by one: its scores are shares among those asked for; "
                "multi-label takes lite, world or a CLIP model, and a vocabulary from prepare()"
            )

    def _check_modalities(self, modalities: Sequence[str] | None) -> None:
        for name in modalities or ():
            if name not in MODALITIES:
                raise ModelError(f"unknown modality {name!r}: choose from {', '.join(MODALITIES)}")
            if name not in self.modalities:
                raise ModelError(f"model {self.name!r} has no path for {name!r}; it uses {', '.join(self.modalities)}")

    def _transform(self, views: Views) -> Callable[[Tensor], Tensor]:
        images = self.backbone.images
        return lambda frame: images.resize(frame, keep_aspect=views.num_crops > 1)

    def _guarded(self, path: str | Path, work: Callable[[str | Path], Prediction], raise_errors: bool) -> Prediction:
        """A broken file among a thousand is one row that says why."""
        try:
            return work(path)
        except MediaError as error:
            if raise_errors:
                raise
            return Prediction(str(path), self.name, error=str(error))
        except LexividError:
            raise
        except Exception as error:
            if raise_errors:
                raise
            reason = f"{type(error).__name__}: {error}"
            return Prediction(str(path), self.name, error=f"{path}: unexpected failure ({reason})")

    def _whole_file(
        self,
        path: str | Path,
        sampled: SampledFrames | Exception,
        vocabulary: Vocabulary,
        views: Views,
        num_thumbnails: int,
        multi_label: bool,
    ) -> Prediction:
        if isinstance(sampled, Exception):
            raise sampled
        features = self._encode_views(sampled, views).mean(1)  # (V, D)
        return self._prediction(
            path,
            features,
            vocabulary,
            multi_label,
            duration_s=sampled.info.end_s,
            warnings=tuple(sampled.warnings),
            thumbnails=pick_thumbnails(
                sampled.info.video_start_s + sampled.times_s.ravel(), sampled.frames.flatten(0, 1), num_thumbnails
            ),
        )

    def _encode_views(self, sampled: SampledFrames, views: Views) -> Tensor:
        """Frame features (V, T, D), unit length. A frame that several views or times share is encoded once."""
        num_clips, num_frames = sampled.times_s.shape
        times, first, place = np.unique(sampled.times_s.ravel(), return_index=True, return_inverse=True)
        frames = sampled.frames.flatten(0, 1)[torch.from_numpy(first)]  # (U, 3, h, w)
        crops = self.backbone.images.crops(frames, views.num_crops)  # (C, U, 3, S, S)
        features = self.backbone.encode_images(crops.flatten(0, 1)).view(views.num_crops, len(times), -1)
        spread = features[:, torch.from_numpy(place.ravel())]  # (C, clips * T, D)
        return spread.view(views.num_crops * num_clips, num_frames, -1)

    def _scores(self, features: Tensor, vocabulary: Vocabulary, multi_label: bool) -> Tensor:
        """(N, D) -> (N, K): shares, or each label's own probability."""
        if multi_label:
            assert isinstance(vocabulary.per_label, PerLabelScorer)
            return vocabulary.per_label.probabilities(features)
        cosines = F.normalize(features.double(), dim=-1) @ vocabulary.vectors.double().T
        return torch.softmax(cosines / self.backbone.temperature, dim=-1)

    def _timeline(
        self,
        path: str | Path,
        vocabulary: Vocabulary,
        window_s: float,
        num_thumbnails: int,
        multi_label: bool,
        threshold: float,
    ) -> Prediction:
        """Frames on a regular grid, each encoded once; windows of two hops; a hop scores the mean of its windows.

        All of it as the frames come: what is kept does not grow with the film.
        """
        with open_video(path) as video:
            frames = _FrameGrid(self, video, window_s, num_thumbnails)

            def windows() -> Iterator[Tensor]:
                for sums in frames.windows():
                    yield self._scores(sums, vocabulary, multi_label)

            cells = hop_scores(windows())
            if multi_label:
                segments = segments_by_label(cells, vocabulary, frames.hop_s, frames.end_s, threshold=threshold)
            else:
                segments = join_cells(cells, vocabulary, frames.hop_s, frames.end_s)
            return self._prediction(
                path,
                frames.mean(),
                vocabulary,
                multi_label,
                duration_s=frames.end_s(),
                warnings=tuple(video.warnings),
                segments=segments,
                thumbnails=tuple(frames.thumbnails),
            )

    def _prediction(
        self, path: str | Path, features: Tensor, vocabulary: Vocabulary, multi_label: bool, **facts: Any
    ) -> Prediction:
        """From the features of each view (V, D). Shares are averaged over views; a label is judged by their mean."""
        mean = F.normalize(features, dim=-1).mean(0, keepdim=True)
        none_of_these = None
        if multi_label:
            scores = self._scores(mean, vocabulary, multi_label)[0]
            none_of_these = 1 - float(scores.max())
        else:
            scores = self._scores(features, vocabulary, multi_label).mean(0)
            if isinstance(vocabulary.per_label, PerLabelScorer):
                none_of_these = float(vocabulary.per_label.none_of_these(mean)[0])
        labels = ranked(scores, vocabulary)
        return Prediction(
            str(path),
            self.name,
            modalities=("video",),
            labels=labels,
            by_modality={"video": labels},
            multi_label=multi_label,
            none_of_these=none_of_these,
            **facts,
        )


class _FrameGrid:
    """The features of a film's frames at four times a hop, as they come, in the time of the file.

    That begins with whatever begins first, pictures or sound; before the first picture the first picture counts.
    """

    def __init__(self, classifier: Classifier, video: VideoReader, window_s: float, num_thumbnails: int) -> None:
        self.classifier, self.video = classifier, video
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

    def mean(self) -> Tensor:
        """Of all frames so far (1, D)."""
        return (self._sum / self._count).float()[None]

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
        backbone = self.classifier.backbone
        transform, last_time, feature = self.classifier._transform(Views()), None, None
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


def check_window(window_s: float) -> None:
    """Refuse a timeline window that is no length of time, or shorter than 0.1 s.

    Raises:
        LexividError: naming the value.
    """
    if not (math.isfinite(window_s) and window_s >= 0.1):
        raise LexividError(f"a timeline window of {window_s:g} s is too short: 0.1 s is the least")
