"""What a classifier asks of a model that sees films: read a file, encode it, score it by labels.

    path --`read`--> a file's decoded parts --`encode`--> `Encoded`: features of N views
    path --`open_film`--> `Film`: features of the windows of a timeline, as they come
    features --`Scorer.add`--> scores of N views or windows (N, K) --`Scorer.result`--> `FileScores` (K,)

`lexivid.inference.zero_shot` does so with a frozen backbone, `lexivid.inference.trained` with a model of `lexivid
train`. What features are is a model's own affair. Shapes: N views or windows, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from lexivid.backbones import Backbone
from lexivid.inference.prediction import ScoreKind, Vocabulary
from lexivid.labels import TemplateSet
from lexivid.labels.database import LabelsGiven
from lexivid.labels.encoders.identity import EncoderIdentity
from lexivid.labels.prompt_cache import PromptCache
from lexivid.media.views import Views, ViewsAsked
from lexivid.scoring.per_label import LabelSplit, PerLabelScorer, TrainedPerLabelScorer

FEW_LABELS = 2
"""Up to so many labels are scored by their probability in place of their share."""


class Question(NamedTuple):
    """What is asked about each file.

    `threshold`: of a multi-label timeline, from which score on a label has a segment.
    """

    vocabulary: Vocabulary
    label_split: LabelSplit
    multi_label: bool
    threshold: float


def score_kind(question: Question, *, calibrated: bool) -> ScoreKind:
    """What the scores of an answer are (`lexivid.inference.prediction.ScoreKind`).

    The shares of one or two labels say next to nothing: one label always has all of it. With a calibration, such
    labels have a probability instead.
    """
    if question.multi_label:
        return "per-label probability"
    return "probability" if calibrated and len(question.vocabulary.labels) <= FEW_LABELS else "share"


@dataclass(frozen=True)
class Encoded:
    """A file after the network.

    Attributes:
        features: of its views; None: of a film whose windows the scorer has seen.
        modalities: the streams that it has. num_views: N; None: of a film.
        thumbnails: (time_s, frame (3, h, w) uint8) pairs.
    """

    features: Any
    modalities: tuple[str, ...]
    duration_s: float
    warnings: tuple[str, ...]
    thumbnails: tuple[tuple[float, Tensor], ...]
    num_views: int | None = None


class FileScores(NamedTuple):
    """Scores of a whole file (K,), those of each modality alone, the probability that no label holds (or None), and
    what the scores are."""

    scores: Tensor
    by_modality: dict[str, Tensor]
    none_of_these: float | None
    kind: ScoreKind


class ViewAnswers(NamedTuple):
    """Scores of N views or windows (N, K), and the probability that no label holds (N,), or None."""

    scores: Tensor
    none_of_these: Tensor | None


class Scorer(Protocol):
    """Scores features by one question; of one file."""

    def add(self, features: Any) -> ViewAnswers:
        """Features of N views or windows -> their scores. They count in the scores of the file."""

    def result(self, modalities: Sequence[str]) -> FileScores:
        """Of all that was added."""


class Film(Protocol):
    """A film in hops of half a window, each read and encoded once; a window is two neighbouring hops.

    Attributes:
        hop_s: seconds. declared_s: where the file ends, as it declares; what decodes may end before or after.
    """

    hop_s: float
    declared_s: float

    def windows(self) -> Iterator[Any]:
        """Features of the windows, a few at a time: what is kept does not grow with the film."""

    def end_s(self) -> float:
        """Where the file ends, as far as it has been seen."""

    def whole(self) -> Encoded:
        """What is known when all windows have been taken."""


class VideoModel(Protocol):
    """See the module.

    Attributes:
        name, fingerprint: for people and for caches. modalities: the streams that it uses.
        backbone, prompt_cache: what embeds labels.
        trained_on: texts of the classes that it was trained on; a label that is one of them is read as that text.
    """

    name: str
    fingerprint: str
    modalities: tuple[str, ...]
    backbone: Backbone
    prompt_cache: PromptCache

    @property
    def trained_on(self) -> tuple[str, ...]: ...

    @property
    def default_views(self) -> Views:
        """What is read where nobody says."""

    def views_of(self, asked: ViewsAsked) -> Views:
        """What is read where a user names a part of it.

        Raises:
            LexividError: see `ViewsAsked.on`.
        """

    def accepts(self, encoder: EncoderIdentity) -> bool:
        """Whether a label database of this encoder lies in the space that this model sees clips in."""

    def prepare(
        self,
        labels: LabelsGiven,
        *,
        templates: str | Path | TemplateSet | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Vocabulary:
        """See `Classifier.prepare`."""

    def per_label(
        self, phrases: Sequence[str], templates: TemplateSet, on_progress: Callable[[int, int], None] | None
    ) -> PerLabelScorer | TrainedPerLabelScorer | None:
        """What scores each label by itself; None for a model that cannot."""

    def ask(
        self, vocabulary: Vocabulary, *, label_split: LabelSplit | None, multi_label: bool, threshold: float
    ) -> Question:
        """A question that this model can answer.

        Raises:
            ModelError: it cannot: labels one by one, labels that another model prepared, or a split that it lacks.
        """

    def read(self, path: str | Path, views: Views, used: tuple[str, ...]) -> Any:
        """What is slow about a file before the network; called in a thread of its own."""

    def encode(self, parts: Any, views: Views, num_thumbnails: int) -> Encoded:
        """What `read` gave, after the network."""

    def open_film(
        self, path: str | Path, window_s: float, used: tuple[str, ...], num_thumbnails: int
    ) -> AbstractContextManager[Film]:
        """A file as the windows of a timeline."""

    def scorer(self, question: Question) -> Scorer:
        """For one file."""

    def remarks(self, path: str | Path, question: Question, encoded: Encoded) -> tuple[str, ...]:
        """Warnings about this answer of this model."""
