"""The trained path of inference: what `lexivid.load` returns for a folder of `lexivid train`.

file -> frames, flow, sound -> towers -> tokens (N, T, D) -> features -> scores of the labels (K,)

All streams of the model are used; each one's own opinion stands beside the fused one. A stream that the file lacks is
masked, and said. Which path scores a label depends on what the vocabulary is:

    "base"   eq. 10: the labels are classes that the model was trained on
    "novel"  eq. 11 and 12: they are not
    "mixed"  labels that are base classes by eq. 10, the others by eq. 12, brought to one scale by the offset that was
             fitted on held-out clips (lexivid.scoring.base_novel_offset); without one, all as novel

Scores are shares among the labels, which sum to 1. A model trained by softmax says them itself (above); of one with a
sigmoid, whose labels do not compete, they are the beliefs in each label if exactly one of them holds. With
`multi_label` they are each label's own probability, for models of either kind, see `lexivid.scoring.per_label`: "mixed"
then needs no offset. What one stream says is there the same judgement with the other streams hidden, by what was fitted
on all of them together; of one stream alone nobody has measured it.

Shapes: N views or windows, T frames, D width, K labels, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from lexivid.base.prefetch import prefetch
from lexivid.data.cache import content_id
from lexivid.data.hops import FRAMES_PER_HOP, HopReader
from lexivid.data.sampling import SampleSpec
from lexivid.errors import LabelError, LexividError, ModelError
from lexivid.inference.classifier import Classifier, check_window
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
from lexivid.inference.scores import Asked, Sayings, SayingsMean, Scorer, mean_of
from lexivid.inference.tokens import FileParts, FilmWindows, read_file, view_tokens
from lexivid.labels import TemplateSet, check_labels
from lexivid.labels.database import LabelDatabase
from lexivid.labels.encoders.base import WEIGHTS_FILE
from lexivid.labels.encoders.identity import EncoderIdentity
from lexivid.labels.identifiers import class_key
from lexivid.labels.prompt_cache import PromptCache
from lexivid.labels.templates import NAME_ONLY
from lexivid.media.decode import probe
from lexivid.media.modalities import MODALITIES
from lexivid.media.views import Views, ViewsAsked
from lexivid.models.calibration import DEFAULT_THRESHOLD, BaseNovelOffset
from lexivid.models.label_vectors import prompt_cache_of
from lexivid.models.trained import TrainedModel
from lexivid.scoring.log_odds import log_odds_vectors
from lexivid.scoring.per_label import LabelSplit, TrainedPerLabelScorer, not_calibrated

_WEIGHTS = ("model.safetensors", "config.json", WEIGHTS_FILE)
_SEEN = "the model was trained on this file, so its scores say little about other files"
_SAID = {"video": "no pictures", "flow": "no motion (fewer than two frames)", "audio": "no sound"}


class TrainedClassifier(Classifier):
    """A `Classifier` on a trained model; the same calls, all of the model's streams.

    Attributes:
        label_split: the default of the calls' argument of that name.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        name: str = "",
        fingerprint: str = "",
        label_split: LabelSplit = "mixed",
        prompt_cache: PromptCache | None = None,
    ) -> None:
        super().__init__(model.backbone, prompt_cache=prompt_cache or prompt_cache_of(model))
        self.model = model
        self.name = name or model.backbone.name
        self.fingerprint = fingerprint or model.backbone.fingerprint
        self.modalities = model.inputs
        self.label_split: LabelSplit = _check_kind(label_split)

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "auto", dtype: str = "auto", label_split: str = "mixed"
    ) -> TrainedClassifier:
        """From a run folder (or "owner/name" of the Hub). Weights are float32, on GPUs computed with in bfloat16.

        Raises:
            ModelError: see `TrainedModel.from_pretrained`, or a dtype that does not apply.
        """
        if dtype not in ("auto", "float32", "bfloat16"):
            raise ModelError(f"dtype {dtype!r}: a trained model takes auto, float32 or bfloat16")
        model = TrainedModel.from_pretrained(folder, device=device)
        model.precision = dtype
        assert model.folder is not None
        own = [path for name in _WEIGHTS if (path := model.folder / name).is_file()]
        identity = " ".join(map(content_id, own))
        return cls(model, name=str(folder), fingerprint=f"{identity} {dtype}", label_split=_check_kind(label_split))

    @property
    def default_views(self) -> Views:
        """The whole file, looked at as in training: frames spread over it, or four clips in time with its stride."""
        views = self.model.trained_views
        return views if views.stride is None else replace(views, num_clips=4)

    def views_of(self, asked: ViewsAsked) -> Views:
        """As `Classifier.views_of`: what is not named stays as in training."""
        return asked.on(self.default_views)

    def prepare(
        self,
        labels: str | Iterable[str] | Mapping[str, str],
        *,
        templates: str | Path | TemplateSet | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Vocabulary:
        """As `Classifier.prepare`; templates None: those of training. Warns of a mixed vocabulary not calibrated.

        A model that trained its label encoder embeds labels by that, and takes databases of that encoder alone.

        Raises:
            LabelError: as there, or templates for a label encoder, which reads a label without sentences around it.
        """
        if self.model.label_encoder is not None:
            return self._prepare_encoded(labels, templates, on_progress)
        if not isinstance(labels, LabelDatabase):
            templates = templates or self.model.templates
        made = super().prepare(labels, templates=templates, on_progress=on_progress)
        is_base = self._is_base(made)
        some = is_base.any() and not is_base.all()
        if self.model.scales is None and self.label_split == "mixed" and self.model.base_novel_offset is None and some:
            why = self.model.not_fitted.get("calibration")
            because = f" ({why})" if why else ""
            told = (
                f"the model has no calibration{because}, so in shares labels it was trained on are treated as novel "
                "ones too; `lexivid evaluate RUN --data DIR --protocol calibrate` makes one"
            )
            made = replace(made, warnings=(*made.warnings, told))
        return made

    def _prepare_encoded(
        self,
        labels: str | Iterable[str] | Mapping[str, str],
        templates: str | Path | TemplateSet | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> Vocabulary:
        if templates is not None:
            raise LabelError(
                f"model {self.name!r} trained its label encoder, which reads a label without sentences around it: "
                "leave templates out"
            )
        if isinstance(labels, LabelDatabase):
            made = super().prepare(labels)
            self.prompt_cache.remember(made.phrases, NAME_ONLY, made.vectors)
        else:
            names, phrases, warnings = check_labels(labels, known=self.trained_on)
            vectors = self.prompt_cache.embed(phrases, NAME_ONLY, on_progress=on_progress)
            made = Vocabulary(tuple(names), vectors, None, tuple(warnings), phrases=tuple(phrases))
        return replace(made, per_label=self._per_label_scorer(made.phrases, NAME_ONLY, on_progress))

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The base classes of the model, as its text encoder read them."""
        return self.model.base_classes

    def accepts(self, encoder: EncoderIdentity) -> bool:
        """Whether a label database of this encoder lies in the space that this model sees clips in.

        That of the label encoder which it trained, and no other; or of its backbone's prompts, with any sentences.
        """
        own = self.model.label_encoder
        if own is not None:
            return encoder.fingerprint == own.fingerprint
        return encoder.kind == "prompts" and super().accepts(encoder)

    def _per_label_scorer(
        self, phrases: Sequence[str], templates: TemplateSet, on_progress: Callable[[int, int], None] | None
    ) -> TrainedPerLabelScorer | None:
        """None for a model trained by softmax that has no evidence: all it can say is shares."""
        model = self.model
        if model.scales is None and not model.calibrations:
            return None
        vectors, background = log_odds_vectors(
            model, phrases, prompt_cache=self.prompt_cache, templates=templates, on_progress=on_progress
        )
        return TrainedPerLabelScorer(model, vectors, background, torch.from_numpy(self._are_base(phrases)))

    def check_multi_label(self, vocabulary: Vocabulary, *, label_split: LabelSplit | None = None) -> None:
        """Whether labels can be judged one by one.

        Raises:
            ModelError: nothing was fitted on a path that labels take, or another model prepared them.
        """
        per_label = self._own_per_label(vocabulary)
        if per_label is not None:
            per_label.check(_check_kind(label_split or self.label_split))
        elif self.model.calibrations:
            raise ModelError(f"these labels were prepared by another model: use prepare() of {self.name!r}")
        else:
            raise not_calibrated(not_fitted=self.model.not_fitted)

    def _own_per_label(self, vocabulary: Vocabulary) -> TrainedPerLabelScorer | None:
        per_label = vocabulary.per_label
        return per_label if isinstance(per_label, TrainedPerLabelScorer) and per_label.model is self.model else None

    def classify(
        self,
        path: str | Path,
        labels: str | Iterable[str] | Mapping[str, str] | Vocabulary,
        *,
        label_split: LabelSplit | None = None,
        **options: Any,
    ) -> Prediction:
        """Classify one file; `options` as `Classifier.classify`. `label_split`: None for the classifier's own."""
        vocabulary = labels if isinstance(labels, Vocabulary) else self.prepare(labels)
        found = self.classify_many([path], vocabulary, label_split=label_split, raise_errors=True, **options)
        prediction = next(iter(found))
        return replace(prediction, warnings=(*vocabulary.warnings, *prediction.warnings))

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
        label_split: LabelSplit | None = None,
    ) -> Iterator[Prediction]:
        """As `Classifier.classify_many`.

        Raises:
            ModelError: of `check_multi_label`; of a model with a sigmoid also for labels that another model prepared.
        """
        vocabulary = labels if isinstance(labels, Vocabulary) else self.prepare(labels)
        asked = Asked(vocabulary, _check_kind(label_split or self.label_split), multi_label, threshold)
        if multi_label:
            self.check_multi_label(vocabulary, label_split=asked.kind)
        elif self.model.scales is not None and self._own_per_label(vocabulary) is None:
            raise ModelError(f"these labels were prepared by another model: use prepare() of {self.name!r}")
        self._check_modalities(modalities)
        used = tuple(name for name in self.modalities if modalities is None or name in modalities)
        if timeline_s is not None:
            check_window(timeline_s)
            for path in paths:
                work = partial(self._trained_timeline, asked, used, timeline_s, num_thumbnails)
                yield self._guarded(path, work, raise_errors)
            return
        spec = self.model.sample_spec(views or self.default_views, inputs=used)

        def read(path: str | Path) -> tuple[str | Path, FileParts | Exception]:
            try:
                return path, read_file(path, spec)
            except Exception as error:  # handed over to the consumer's thread
                return path, error

        for path, found in prefetch(map(read, paths), ahead=2):
            work = partial(self._trained_file, found, asked, num_thumbnails)
            yield self._guarded(path, work, raise_errors)

    def _trained_file(
        self, read: FileParts | Exception, asked: Asked, num_thumbnails: int, path: str | Path
    ) -> Prediction:
        if isinstance(read, Exception):
            raise read
        tokens = view_tokens(self.model, read)
        thumbnails: tuple[tuple[float, Tensor], ...] = ()
        if num_thumbnails and "frames" in read.parts:
            times = read.spec.windows.times_s(read.info.duration_s, read.info.frame_rate)
            times += read.info.video_start_s
            thumbnails = pick_thumbnails(times.ravel(), read.parts["frames"].flatten(0, 1), num_thumbnails)
        scorer = self._scorer(asked)
        return self._said(
            path, scorer, mean_of(scorer, self.model.features(**tokens), tuple(tokens)), tuple(tokens),
            duration_s=read.info.end_s,
            warnings=(*read.warnings, *_lacking(read.spec.reads, tuple(tokens)), *self._other_views(asked, read.spec)),
            thumbnails=thumbnails,
        )  # fmt: skip

    def _other_views(self, asked: Asked, spec: SampleSpec) -> tuple[str, ...]:
        """A warning where an offset is used that was fitted with another number of views."""
        is_base = self._is_base(asked.vocabulary)
        if asked.kind != "mixed" or asked.multi_label or self.model.scales is not None or is_base.all():
            return ()
        fitted = BaseNovelOffset.from_dict(self.model.base_novel_offset)
        told = fitted.other_views(spec.num_clips * spec.num_crops) if is_base.any() else None
        return (told,) if told else ()

    def _trained_timeline(
        self, asked: Asked, used: tuple[str, ...], window_s: float, num_thumbnails: int, path: str | Path
    ) -> Prediction:
        """Hops of half a window, each read and encoded once; a window is two hops, a hop scores the mean of its two.

        All of it as the windows come: what is kept does not grow with the film.
        """
        info = probe(path)
        hop_s = min(window_s / HOPS_PER_WINDOW, max(info.end_s, 1e-3))
        spec = self.model.sample_spec(Views(num_frames=FRAMES_PER_HOP), inputs=used)
        reader = HopReader(info, spec, hop_s)
        film = FilmWindows(self.model, spec, reader, num_thumbnails=num_thumbnails)
        scorer, mean = self._scorer(asked), SayingsMean()

        def windows() -> Iterator[Tensor]:
            for tokens, mask in film:
                sayings = scorer.says(self.model.features(**tokens, mask=mask), spec.reads)
                mean.add(sayings)
                yield scorer.scores(sayings)

        def end_s() -> float:
            return reader.duration_s

        cells = hop_scores(windows())
        if asked.multi_label:
            segments = segments_by_label(cells, asked.vocabulary, hop_s, end_s, threshold=asked.threshold)
        else:
            segments = join_cells(cells, asked.vocabulary, hop_s, end_s)
        there = [name for name in MODALITIES if name in film.there]
        return self._said(
            path, scorer, mean.result(), there,
            duration_s=end_s(),
            segments=segments,
            warnings=(*reader.warnings, *_lacking(spec.reads, there)),
            thumbnails=tuple(film.thumbnails),
        )  # fmt: skip

    def _scorer(self, asked: Asked) -> Scorer:
        vocabulary = asked.vocabulary
        return Scorer(self.model, asked, self._own_per_label(vocabulary), self._is_base(vocabulary))

    def _said(self, path: str | Path, scorer: Scorer, mean: Sayings, there: Sequence[str], **facts: Any) -> Prediction:
        """From what was said of the whole file."""
        vocabulary = scorer.asked.vocabulary
        if self.model.clips is not None and self.model.clips.trained_on(path):
            facts["warnings"] = (*facts["warnings"], _SEEN)
        return Prediction(
            str(path),
            self.name,
            modalities=tuple(there),
            labels=ranked(scorer.scores(mean)[0], vocabulary),
            by_modality={name: ranked(scorer.scores(mean, name)[0], vocabulary) for name in there},
            multi_label=scorer.asked.multi_label,
            none_of_these=scorer.none_of_these(mean),
            **facts,
        )

    def _is_base(self, vocabulary: Vocabulary) -> np.ndarray:
        """(K,) bool: which labels the model was trained on."""
        return self._are_base(vocabulary.phrases)

    def _are_base(self, phrases: Sequence[str]) -> np.ndarray:
        """(K,) bool: which phrases are base classes; case, spacing and Unicode form do not count."""
        known = set(map(class_key, self.model.base_classes))
        return np.array([class_key(phrase) in known for phrase in phrases])


def _lacking(wanted: Iterable[str], there: Sequence[str]) -> list[str]:
    return [f"the file has {_SAID[name]}: classified without" for name in wanted if name not in there]


def _check_kind(kind: str) -> LabelSplit:
    if kind not in get_args(LabelSplit):
        raise LexividError(f"label_split {kind!r}: choose base, novel or mixed")
    return kind  # type: ignore[return-value]
