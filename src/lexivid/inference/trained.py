"""A model of `lexivid train` as a classifier uses it: all of its streams, both of its heads.

file -> frames, flow, sound -> towers -> tokens (N, T, D) -> features -> scores of the labels (K,)

All streams of the model are used; the prediction of each modality stands beside the fused one. A stream that the file
lacks is masked, and a warning says so. `label_split` decides which head scores a label:

    "base"   eq. 10: the labels are classes that the model was trained on
    "novel"  eq. 11 and 12: they are not
    "mixed"  labels that are base classes by eq. 10, the others by eq. 12, brought to one scale by the offset that was
             fitted on held-out clips (lexivid.scoring.base_novel_offset); without one, all as novel

Scores sum to 1 over the labels. Of a model trained by softmax they are that softmax. Of one with a sigmoid they are
the probability of each label if exactly one of them holds. With `multi_label` they are each
label's own probability, for models of either kind (`lexivid.scoring.per_label`), and "mixed" needs no offset. The score
of one modality is then computed with the others masked, by the calibration of all of them together; of one modality
alone nobody has measured it.

Shapes: N views or windows, T frames, D width, K labels, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from lexivid.backbones.base import weights_of
from lexivid.data.cache import content_id
from lexivid.data.hops import FRAMES_PER_HOP, HopReader
from lexivid.errors import LabelError, LexividError, ModelError
from lexivid.inference.prediction import Vocabulary, pick_thumbnails
from lexivid.inference.prepare import database_and_more, prepare_by_prompts
from lexivid.inference.protocol import Encoded, Question
from lexivid.inference.timeline import HOPS_PER_WINDOW
from lexivid.inference.tokens import FileParts, FilmWindows, read_file, view_tokens
from lexivid.inference.trained_scorer import StreamFeatures, TrainedScorer
from lexivid.labels.database import ExtendedDatabase, LabelsGiven
from lexivid.labels.encoders.base import WEIGHTS_FILE
from lexivid.labels.encoders.identity import EncoderIdentity
from lexivid.labels.identifiers import class_key
from lexivid.labels.names import check_labels
from lexivid.labels.prompt_cache import PromptCache
from lexivid.labels.templates import NAME_ONLY, TemplateSet
from lexivid.media.decode import probe
from lexivid.media.modalities import MODALITIES
from lexivid.media.views import Views, ViewsAsked
from lexivid.models.calibration import BaseNovelOffset
from lexivid.models.label_vectors import prompt_cache_of
from lexivid.models.trained import TrainedModel
from lexivid.scoring.log_odds import log_odds_vectors
from lexivid.scoring.per_label import LabelSplit, TrainedPerLabelScorer, not_calibrated

_WEIGHTS = ("model.safetensors", "config.json", WEIGHTS_FILE)
_TRAINED_ON = "the model was trained on this file, so its scores say little about other files"
_LACKING = {"video": "no pictures", "flow": "no motion (fewer than two frames)", "audio": "no sound"}


class Trained:
    """A `VideoModel` of a `TrainedModel`.

    Args:
        label_split: where a call does not say.
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
        self.model, self.backbone = model, model.backbone
        self.prompt_cache = prompt_cache or prompt_cache_of(model)
        self.name = name or model.backbone.name
        self.fingerprint = fingerprint or model.backbone.fingerprint
        self.modalities = model.inputs
        self.label_split: LabelSplit = check_label_split(label_split)

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "auto", dtype: str = "auto", label_split: str = "mixed"
    ) -> Trained:
        """From a run folder (or "owner/name" of the Hub). Weights are float32, on GPUs computed with in bfloat16.

        Raises:
            ModelError: see `TrainedModel.from_pretrained`, or a dtype that does not apply.
        """
        if dtype not in ("auto", "float32", "bfloat16"):
            raise ModelError(f"dtype {dtype!r}: a trained model takes auto, float32 or bfloat16")
        model = TrainedModel.from_pretrained(folder, device=device)
        model.precision = dtype
        assert model.folder is not None
        weight_files = [path for name in _WEIGHTS if (path := model.folder / name).is_file()]
        identity = " ".join(map(content_id, weight_files))
        split = check_label_split(label_split)
        return cls(model, name=str(folder), fingerprint=f"{identity} {dtype}", label_split=split)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The base classes of the model, as its text encoder read them."""
        return self.model.base_classes

    @property
    def default_views(self) -> Views:
        """The whole file, read as in training: frames spread over it, or four clips in time with its stride."""
        views = self.model.trained_views
        return views if views.stride is None else replace(views, num_clips=4)

    def views_of(self, asked: ViewsAsked) -> Views:
        """What is not named stays as in training."""
        return asked.on(self.default_views)

    def accepts(self, encoder: EncoderIdentity) -> bool:
        """Whether a label database of this encoder lies in the space that this model sees clips in.

        That of the label encoder which it trained, and no other; or of its backbone's prompts, with any sentences.
        """
        encoder_here = self.model.label_encoder
        if encoder_here is not None:
            return encoder.fingerprint == encoder_here.fingerprint
        return encoder.kind == "prompts" and encoder.backbone_weights == weights_of(self.backbone)

    def prepare(
        self,
        labels: LabelsGiven,
        *,
        templates: str | Path | TemplateSet | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Vocabulary:
        """See `Classifier.prepare`; templates None: those of training. Warns of mixed labels without an offset.

        A model that trained its label encoder embeds labels by that, and takes databases of that encoder alone.

        Raises:
            LabelError: as there, or templates for a label encoder, which reads a label without sentences around it.
        """
        if self.model.label_encoder is not None:
            return self._prepare_encoded(labels, templates, on_progress)
        if database_and_more(labels)[0] is None:
            templates = templates or self.model.templates
        made = prepare_by_prompts(self, labels, templates=templates, on_progress=on_progress)
        is_base = self.are_base(made.phrases)
        some = is_base.any() and not is_base.all()
        if self.model.scales is None and self.label_split == "mixed" and self.model.base_novel_offset is None and some:
            why = self.model.not_fitted.get("calibration")
            because = f" ({why})" if why else ""
            warning = (
                f"the model has no offset between base and novel labels{because}, so labels of training count as novel "
                "ones too; `lexivid evaluate RUN --data DIR --protocol calibrate` makes one"
            )
            made = replace(made, warnings=(*made.warnings, warning))
        return made

    def _prepare_encoded(
        self,
        labels: LabelsGiven,
        templates: str | Path | TemplateSet | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> Vocabulary:
        if templates is not None:
            raise LabelError(
                f"model {self.name!r} trained its label encoder, which reads a label without sentences around it: "
                "leave templates out"
            )
        database, more = database_and_more(labels)
        if database is not None:
            made = prepare_by_prompts(self, database)
            self.prompt_cache.remember(made.phrases, NAME_ONLY, made.vectors)
            labels = [*database.told, *more]
        if database is None or more:
            assert not isinstance(labels, ExtendedDatabase)
            names, phrases, warnings = check_labels(labels, known=self.trained_on)
            vectors = self.prompt_cache.embed(phrases, NAME_ONLY, on_progress=on_progress)
            made = Vocabulary(tuple(names), vectors, None, tuple(warnings), phrases=tuple(phrases))
        return replace(made, per_label=self.per_label(made.phrases, NAME_ONLY, on_progress))

    def per_label(
        self, phrases: Sequence[str], templates: TemplateSet, on_progress: Callable[[int, int], None] | None
    ) -> TrainedPerLabelScorer | None:
        """None for a model trained by softmax that has no calibration."""
        model = self.model
        if model.scales is None and not model.calibrations:
            return None
        vectors, background = log_odds_vectors(
            model, phrases, prompt_cache=self.prompt_cache, templates=templates, on_progress=on_progress
        )
        return TrainedPerLabelScorer(model, vectors, background, torch.from_numpy(self.are_base(phrases)))

    def ask(
        self, vocabulary: Vocabulary, *, label_split: LabelSplit | None, multi_label: bool, threshold: float
    ) -> Question:
        split = check_label_split(label_split or self.label_split)
        per_label = self._own_per_label(vocabulary)
        if per_label is None and (self.model.scales is not None or (multi_label and self.model.calibrations)):
            raise ModelError(f"these labels were prepared by another model: use prepare() of {self.name!r}")
        if multi_label:
            if per_label is None:
                raise not_calibrated(not_fitted=self.model.not_fitted)
            per_label.check(split)
        return Question(vocabulary, split, multi_label, threshold)

    def read(self, path: str | Path, views: Views, used: tuple[str, ...]) -> FileParts:
        return read_file(path, self.model.sample_spec(views, inputs=used))

    def encode(self, parts: FileParts, views: Views, num_thumbnails: int) -> Encoded:
        tokens = view_tokens(self.model, parts)
        thumbnails: tuple[tuple[float, Tensor], ...] = ()
        if num_thumbnails and "frames" in parts.parts:
            times = parts.spec.windows.times_s(parts.info.duration_s, parts.info.frame_rate)
            times += parts.info.video_start_s
            thumbnails = pick_thumbnails(times.ravel(), parts.parts["frames"].flatten(0, 1), num_thumbnails)
        return Encoded(
            StreamFeatures(self.model.features(**tokens), tuple(tokens)),
            tuple(tokens),
            parts.info.end_s,
            (*parts.warnings, *_lacking(parts.spec.reads, tuple(tokens))),
            thumbnails,
            num_views=parts.spec.num_clips * parts.spec.num_crops,
        )

    @contextmanager
    def open_film(
        self, path: str | Path, window_s: float, used: tuple[str, ...], num_thumbnails: int
    ) -> Iterator[TrainedFilm]:
        yield TrainedFilm(self.model, path, window_s, used, num_thumbnails)

    def scorer(self, question: Question) -> TrainedScorer:
        vocabulary = question.vocabulary
        return TrainedScorer(self.model, question, self._own_per_label(vocabulary), self.are_base(vocabulary.phrases))

    def remarks(self, path: str | Path, question: Question, encoded: Encoded) -> tuple[str, ...]:
        """Where an offset is used that was fitted with another number of views, and where the file was trained on."""
        remarks = []
        is_base = self.are_base(question.vocabulary.phrases)
        uses_offset = (
            question.label_split == "mixed" and not question.multi_label and self.model.scales is None
            and is_base.any() and not is_base.all()
        )  # fmt: skip
        if uses_offset and encoded.num_views is not None:
            remarks.append(BaseNovelOffset.from_dict(self.model.base_novel_offset).other_views(encoded.num_views))
        if self.model.clips is not None and self.model.clips.trained_on(path):
            remarks.append(_TRAINED_ON)
        return tuple(remark for remark in remarks if remark)

    def _own_per_label(self, vocabulary: Vocabulary) -> TrainedPerLabelScorer | None:
        per_label = vocabulary.per_label
        return per_label if isinstance(per_label, TrainedPerLabelScorer) and per_label.model is self.model else None

    def are_base(self, phrases: Sequence[str]) -> np.ndarray:
        """(K,) bool: which phrases are base classes; case, spacing and Unicode form do not count."""
        known = set(map(class_key, self.model.base_classes))
        return np.array([class_key(phrase) in known for phrase in phrases])


class TrainedFilm:
    """A `Film` of all streams: hops of half a window go through the towers once."""

    def __init__(
        self, model: TrainedModel, path: str | Path, window_s: float, used: tuple[str, ...], num_thumbnails: int
    ) -> None:
        info = probe(path)
        self.model = model
        self.declared_s = max(info.end_s, 1e-3)
        self.hop_s = min(window_s / HOPS_PER_WINDOW, self.declared_s)
        self.spec = model.sample_spec(Views(num_frames=FRAMES_PER_HOP), inputs=used)
        self.reader = HopReader(info, self.spec, self.hop_s)
        self.film = FilmWindows(model, self.spec, self.reader, num_thumbnails=num_thumbnails)

    def windows(self) -> Iterator[StreamFeatures]:
        for tokens, mask in self.film:
            yield StreamFeatures(self.model.features(**tokens, mask=mask), self.spec.reads)

    def end_s(self) -> float:
        return self.reader.duration_s

    def whole(self) -> Encoded:
        modalities = tuple(name for name in MODALITIES if name in self.film.there)
        warnings = (*self.reader.warnings, *_lacking(self.spec.reads, modalities))
        return Encoded(None, modalities, self.end_s(), warnings, tuple(self.film.thumbnails))


def _lacking(wanted: Iterable[str], present: Sequence[str]) -> list[str]:
    return [f"the file has {_LACKING[name]}: classified without" for name in wanted if name not in present]


def check_label_split(label_split: str) -> LabelSplit:
    """Refuse what is no split of labels."""
    if label_split not in get_args(LabelSplit):
        raise LexividError(f"label_split {label_split!r}: choose base, novel or mixed")
    return label_split  # type: ignore[return-value]
