"""The classifier that a user holds: prepare labels, classify files, say which label when.

    labels --`prepare`--> Vocabulary;   file --read, encode, score (`lexivid.inference.protocol`)--> Prediction

Reading, encoding and scoring are those of the model (a frozen backbone, or one that was trained). What is the same for
all stands here: one file after the other while the next is read, a broken file among a thousand as a row that says why,
timelines, and the answer in one form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lexivid.backbones import Backbone
from lexivid.base.prefetch import prefetch
from lexivid.errors import LexividError, MediaError, ModelError
from lexivid.inference.prediction import Prediction, Segment, Vocabulary, ranked
from lexivid.inference.protocol import Encoded, FileScores, Question, VideoModel
from lexivid.inference.timeline import check_window, segments_of
from lexivid.inference.trained import Trained
from lexivid.inference.zero_shot import ZeroShot
from lexivid.labels import TemplateSet
from lexivid.labels.database import LabelsGiven
from lexivid.labels.encoders.identity import EncoderIdentity
from lexivid.labels.prompt_cache import PromptCache
from lexivid.media.modalities import MODALITIES
from lexivid.media.views import Views, ViewsAsked
from lexivid.models.calibration import DEFAULT_THRESHOLD
from lexivid.models.trained import TrainedModel
from lexivid.scoring.per_label import LabelSplit

OnFilmProgress = Callable[[str, float, float], None]


class Classifier:
    """Classifies files by labels in the user's own words.

    Args:
        model: a backbone ("zero-shot": its one modality is the frames), a model of `lexivid train`, or another
            `VideoModel`.
        prompt_cache: of label vectors; None: the model's own, on disk.
        label_split: of a trained model, where a call does not say.
    """

    def __init__(
        self,
        model: Backbone | TrainedModel | VideoModel,
        *,
        prompt_cache: PromptCache | None = None,
        label_split: LabelSplit = "mixed",
    ) -> None:
        if isinstance(model, TrainedModel):
            model = Trained(model, label_split=label_split, prompt_cache=prompt_cache)
        elif not hasattr(model, "open_film"):
            model = ZeroShot(model, prompt_cache=prompt_cache)  # type: ignore[arg-type]
        self.video_model: VideoModel = model  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Classifier {self.name!r}: {', '.join(self.modalities)}>"

    @property
    def name(self) -> str:
        """Of the model, for people."""
        return self.video_model.name

    @property
    def fingerprint(self) -> str:
        """Of the model, for caches."""
        return self.video_model.fingerprint

    @property
    def modalities(self) -> tuple[str, ...]:
        """The streams that the model uses."""
        return self.video_model.modalities

    @property
    def backbone(self) -> Backbone:
        """What embeds labels by prompts, and sees frames."""
        return self.video_model.backbone

    @property
    def prompt_cache(self) -> PromptCache:
        """Label vectors that were computed before."""
        return self.video_model.prompt_cache

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The texts of classes that the model was trained on; a label that is one of them is read as that text."""
        return self.video_model.trained_on

    @property
    def default_views(self) -> Views:
        """What is read where nobody says: 16 frames spread evenly over the whole file, or as the model was trained."""
        return self.video_model.default_views

    def views_of(self, asked: ViewsAsked) -> Views:
        """What is read where a user names a part of it.

        Raises:
            LexividError: see `ViewsAsked.on`.
        """
        return self.video_model.views_of(asked)

    def accepts(self, encoder: EncoderIdentity) -> bool:
        """Whether a label database of this encoder lies in the space that this model sees clips in."""
        return self.video_model.accepts(encoder)

    def prepare(
        self,
        labels: LabelsGiven,
        *,
        templates: str | Path | TemplateSet | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Vocabulary:
        """Embed labels (from the cache where they are known), or take a database's vectors as they are.

        Args:
            labels: names, one comma-separated string, a mapping of names to the phrases that the model shall read, or
                a `LabelDatabase` (all of it, what its `only` gives, or what its `also` gives: the database and further
                labels, which are embedded now). Names that are identifiers ("PlayingViolin") are read as words and
                shown as they are.
            templates: a set's name, a file or a `TemplateSet`; None: the one that suits the backbone, or of a trained
                model those of training. A database has its own, and another set than that is an error; a model that
                trained its label encoder takes none.
            on_progress: called with labels done and labels to compute.

        Raises:
            LabelError: labels, templates or a database that cannot be used.
        """
        return self.video_model.prepare(labels, templates=templates, on_progress=on_progress)

    def check_multi_label(self, vocabulary: Vocabulary, *, label_split: LabelSplit | None = None) -> None:
        """Whether labels can be scored one by one.

        Raises:
            ModelError: the model cannot, has no calibration of a head that labels take, or did not prepare them.
        """
        self.video_model.ask(vocabulary, label_split=label_split, multi_label=True, threshold=DEFAULT_THRESHOLD)

    def classify(
        self,
        path: str | Path,
        labels: LabelsGiven | Vocabulary,
        *,
        views: Views | None = None,
        modalities: Sequence[str] | None = None,
        timeline_s: float | None = None,
        num_thumbnails: int = 0,
        multi_label: bool = False,
        threshold: float = DEFAULT_THRESHOLD,
        label_split: LabelSplit | None = None,
        on_progress: OnFilmProgress | None = None,
    ) -> Prediction:
        """Classify one file.

        Args:
            labels: names, one comma-separated string, or a `Vocabulary` from `prepare`.
            views: which frames are seen; None: `default_views`.
            modalities: the streams to use; None: all that the model has.
            timeline_s: length of a sliding window; the prediction then has `segments`, and its `labels` are of the
                whole file (`views` is not used).
            num_thumbnails: how many frames, spread evenly over those seen, are returned with the prediction.
            multi_label: score each label by itself. Scores are then probabilities that do not depend on the other
                labels, any number of which may be high; a timeline has segments for each label, which may overlap.
            threshold: of a multi-label timeline: from which probability on a label has a segment.
            label_split: of a trained model: labels are "base" classes, "novel" ones, or "mixed"; None: as it was
                loaded.
            on_progress: of a timeline, called with (path, seconds done, seconds in all) every few windows.

        Raises:
            MediaError: the file cannot be used.
            LabelError: the labels cannot be used.
            ModelError: a modality that this model lacks, or `multi_label` with a model that cannot.
        """
        vocabulary = labels if isinstance(labels, Vocabulary) else self.prepare(labels)
        predictions = self.classify_many(
            [path],
            vocabulary,
            views=views,
            modalities=modalities,
            timeline_s=timeline_s,
            num_thumbnails=num_thumbnails,
            multi_label=multi_label,
            threshold=threshold,
            label_split=label_split,
            raise_errors=True,
            on_progress=on_progress,
        )
        prediction = next(iter(predictions))
        return replace(prediction, warnings=(*vocabulary.warnings, *prediction.warnings))

    def classify_many(
        self,
        paths: Iterable[str | Path],
        labels: LabelsGiven | Vocabulary,
        *,
        views: Views | None = None,
        modalities: Sequence[str] | None = None,
        timeline_s: float | None = None,
        num_thumbnails: int = 0,
        multi_label: bool = False,
        threshold: float = DEFAULT_THRESHOLD,
        label_split: LabelSplit | None = None,
        raise_errors: bool = False,
        on_progress: OnFilmProgress | None = None,
    ) -> Iterator[Prediction]:
        """Classify files one after another, each as `classify` does; the next file is read meanwhile.

        Arguments are checked at the call, before the first file. A file that cannot be used is a `Prediction` with
        `error` set, unless `raise_errors`. With a timeline, each file is read while it is encoded.

        on_progress: of a timeline, called with (path, seconds done, seconds in all) every few windows.
        """
        model = self.video_model
        vocabulary = labels if isinstance(labels, Vocabulary) else self.prepare(labels)
        question = model.ask(vocabulary, label_split=label_split, multi_label=multi_label, threshold=threshold)
        used = self._used(modalities)
        if timeline_s is not None:
            check_window(timeline_s)
            work = partial(self._timeline, question, timeline_s, used, num_thumbnails, on_progress)
            return (self._guarded(path, partial(work, path), raise_errors) for path in paths)
        return self._files(paths, question, views or self.default_views, used, num_thumbnails, raise_errors)

    def _used(self, modalities: Sequence[str] | None) -> tuple[str, ...]:
        for name in modalities or ():
            if name not in MODALITIES:
                raise ModelError(f"unknown modality {name!r}: choose from {', '.join(MODALITIES)}")
            if name not in self.modalities:
                raise ModelError(f"model {self.name!r} has no path for {name!r}; it uses {', '.join(self.modalities)}")
        return tuple(name for name in self.modalities if modalities is None or name in modalities)

    def _files(
        self,
        paths: Iterable[str | Path],
        question: Question,
        views: Views,
        used: tuple[str, ...],
        num_thumbnails: int,
        raise_errors: bool,
    ) -> Iterator[Prediction]:
        def read(path: str | Path) -> tuple[str | Path, Any]:
            try:
                return path, self.video_model.read(path, views, used)
            except Exception as error:  # handed over to the consumer's thread
                return path, error

        for path, parts in prefetch(map(read, paths), ahead=2):
            work = partial(self._whole_file, question, views, num_thumbnails, path, parts)
            yield self._guarded(path, work, raise_errors)

    def _guarded(self, path: str | Path, work: Callable[[], Prediction], raise_errors: bool) -> Prediction:
        """A broken file among a thousand is one row that says why."""
        try:
            return work()
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
        self, question: Question, views: Views, num_thumbnails: int, path: str | Path, parts: Any
    ) -> Prediction:
        if isinstance(parts, Exception):
            raise parts
        encoded = self.video_model.encode(parts, views, num_thumbnails)
        scorer = self.video_model.scorer(question)
        scorer.add(encoded.features)
        return self._prediction(path, question, encoded, scorer.result(encoded.modalities))

    def _timeline(
        self,
        question: Question,
        window_s: float,
        used: tuple[str, ...],
        num_thumbnails: int,
        on_progress: OnFilmProgress | None,
        path: str | Path,
    ) -> Prediction:
        """All of it as the windows come: what is kept does not grow with the film."""
        model = self.video_model
        of_film = None if on_progress is None else partial(on_progress, str(path))
        with model.open_film(path, window_s, used, num_thumbnails) as film:
            scorer = model.scorer(question)
            segments = segments_of(film, scorer, question, on_progress=of_film)
            whole = film.whole()
            # A frozen backbone scores the whole film by the mean of all frames, a trained model by that of its windows.
            if whole.features is not None:
                scorer = model.scorer(question)
                scorer.add(whole.features)
            return self._prediction(path, question, whole, scorer.result(whole.modalities), segments)

    def _prediction(
        self,
        path: str | Path,
        question: Question,
        encoded: Encoded,
        of_file: FileScores,
        segments: tuple[Segment, ...] | None = None,
    ) -> Prediction:
        vocabulary = question.vocabulary
        return Prediction(
            str(path),
            self.name,
            duration_s=encoded.duration_s,
            modalities=encoded.modalities,
            labels=ranked(of_file.scores, vocabulary),
            by_modality={name: ranked(scores, vocabulary) for name, scores in of_file.by_modality.items()},
            multi_label=question.multi_label,
            score_kind=of_file.kind,
            none_of_these=of_file.none_of_these,
            segments=segments,
            warnings=(*encoded.warnings, *self.video_model.remarks(path, question, encoded)),
            thumbnails=encoded.thumbnails,
        )
