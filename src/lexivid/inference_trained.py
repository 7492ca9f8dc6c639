"""The trained path of inference: what `lexivid.load` returns for a folder of `lexivid train`.

file -> frames, flow, sound -> towers -> tokens (N, T, D) -> MOV -> eq. 10 and eq. 12 over the labels -> scores (K,)

All streams of the model are used; each one's own opinion stands beside the fused one. A stream that the file lacks is
masked, and said. Which path scores a label depends on what the vocabulary is:

    "base"   eq. 10: the labels are classes that the model was trained on
    "novel"  eq. 11 and 12: they are not
    "mixed"  labels that are base classes by eq. 10, the others by eq. 12, brought to one scale by the offset that was
             fitted on held-out clips (lexivid.evaluation.calibration); without one, all as novel

Shapes: N views or windows, T frames, D width, K labels, M modalities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lexivid.data.clip_cache import content_id
from lexivid.data.dataset import Clip
from lexivid.data.loading import SampleSpec, read_parts, test_views
from lexivid.errors import LexividError, MediaError, ModelError
from lexivid.evaluation.calibration import Calibration, combine
from lexivid.inference import Classifier, check_window
from lexivid.labels import LabelBank, TemplateSet
from lexivid.labels.evidence import DEFAULT_THRESHOLD
from lexivid.media.decode import MediaInfo, probe
from lexivid.media.spectrogram import STEPS_PER_S, normalise, views_of
from lexivid.media.views import Views
from lexivid.models.mov import MOVFeatures
from lexivid.models.trained import TrainedModel
from lexivid.prediction import (
    FRAMES_PER_HOP,
    HOPS_PER_WINDOW,
    MODALITIES,
    Prediction,
    Vocabulary,
    join_cells,
    pick_thumbnails,
    ranked,
)
from lexivid.prefetch import prefetch

VocabularyIs = Literal["base", "novel", "mixed"]
_MAX_SOUND_VIEWS = 12  # windows of sound beside one view of the pictures
_HOPS_AT_ONCE = 32
_SAID = {"video": "no pictures", "flow": "no motion (fewer than two frames)", "audio": "no sound"}


@dataclass(frozen=True)
class _Read:
    """A file before the towers: parts as `read_parts` gives them."""

    info: MediaInfo
    spec: SampleSpec
    parts: dict[str, Tensor]
    warnings: tuple[str, ...]


class TrainedClassifier(Classifier):
    """A `Classifier` on a trained model; the same calls, all of the model's streams.

    Attributes:
        vocabulary_is: the default of the calls' argument of that name.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        name: str = "",
        fingerprint: str = "",
        vocabulary_is: VocabularyIs = "mixed",
        bank: LabelBank | None = None,
    ) -> None:
        super().__init__(model.backbone, bank=bank)
        self.model = model
        self.name = name or model.backbone.name
        self.fingerprint = fingerprint or model.backbone.fingerprint
        self.modalities = model.inputs
        self.vocabulary_is: VocabularyIs = _check_kind(vocabulary_is)

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "auto", dtype: str = "auto", vocabulary_is: str = "mixed"
    ) -> TrainedClassifier:
        """From a run folder (or "owner/name" of the Hub). Weights are float32, on GPUs computed with in bfloat16.

        Raises:
            ModelError: see `TrainedModel.from_pretrained`, or a dtype that does not apply.
        """
        if dtype not in ("auto", "float32", "bfloat16"):
            raise ModelError(f"dtype {dtype!r}: a trained model takes auto, float32 or bfloat16")
        model = TrainedModel.from_pretrained(folder, device=device)
        model.precision = dtype
        weights = Path(folder) / "model.safetensors"
        identity = f"{content_id(weights)} {content_id(weights.with_name('config.json'))}" if weights.is_file() else ""
        return cls(model, name=str(folder), fingerprint=f"{identity} {dtype}", vocabulary_is=_check_kind(vocabulary_is))

    def prepare(
        self,
        labels: str | Iterable[str],
        *,
        templates: str | Path | TemplateSet | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Vocabulary:
        """As `Classifier.prepare`; templates None: those of training. Warns of a mixed vocabulary not calibrated."""
        made = super().prepare(labels, templates=templates or self.model.templates, on_progress=on_progress)
        is_base = self._is_base(made)
        if self.vocabulary_is == "mixed" and self.model.calibration is None and is_base.any() and not is_base.all():
            told = (
                "the model has no calibration, so labels that it was trained on are treated as novel ones too; "
                "`lexivid evaluate RUN --data DIR --protocol calibrate` makes one"
            )
            made = replace(made, warnings=(*made.warnings, told))
        return made

    def _judge(
        self, names: Sequence[str], templates: TemplateSet, on_progress: Callable[[int, int], None] | None
    ) -> None:
        """None: its scores are trained to be shares among exclusive classes."""

    def classify(
        self,
        path: str | Path,
        labels: str | Iterable[str] | Vocabulary,
        *,
        vocabulary_is: VocabularyIs | None = None,
        **options: Any,
    ) -> Prediction:
        """Classify one file; `options` as `Classifier.classify`. `vocabulary_is`: None for the classifier's own."""
        vocabulary = labels if isinstance(labels, Vocabulary) else self.prepare(labels)
        found = self.classify_many([path], vocabulary, vocabulary_is=vocabulary_is, raise_errors=True, **options)
        prediction = next(iter(found))
        return replace(prediction, warnings=(*vocabulary.warnings, *prediction.warnings))

    def classify_many(
        self,
        paths: Iterable[str | Path],
        labels: str | Iterable[str] | Vocabulary,
        *,
        views: Views | None = None,
        modalities: Sequence[str] | None = None,
        timeline_s: float | None = None,
        num_thumbnails: int = 0,
        multi_label: bool = False,
        threshold: float = DEFAULT_THRESHOLD,
        raise_errors: bool = False,
        vocabulary_is: VocabularyIs | None = None,
    ) -> Iterator[Prediction]:
        """As `Classifier.classify_many`, but for `multi_label`, which a model trained by softmax cannot do.

        Raises:
            ModelError: `multi_label` was asked for.
        """
        vocabulary = labels if isinstance(labels, Vocabulary) else self.prepare(labels)
        if multi_label:
            self.check_multi_label(replace(vocabulary, judge=None))
        kind = _check_kind(vocabulary_is or self.vocabulary_is)
        self._check_modalities(modalities)
        used = tuple(name for name in self.modalities if modalities is None or name in modalities)
        if timeline_s is not None:
            check_window(timeline_s)
            for path in paths:
                work = partial(self._trained_timeline, vocabulary, used, timeline_s, num_thumbnails, kind)
                yield self._guarded(path, work, raise_errors)
            return
        looked = views or Views(num_frames=self.model.sampling.get("num_frames", 16))
        spec = self.model.sample_spec(looked, inputs=used)

        def read(path: str | Path) -> tuple[str | Path, _Read | Exception]:
            try:
                return path, _read(path, spec)
            except Exception as error:  # handed over to the consumer's thread
                return path, error

        for path, found in prefetch(map(read, paths), ahead=2):
            work = partial(self._trained_file, found, vocabulary, num_thumbnails, kind)
            yield self._guarded(path, work, raise_errors)

    def _trained_file(
        self, read: _Read | Exception, vocabulary: Vocabulary, num_thumbnails: int, kind: VocabularyIs, path: str | Path
    ) -> Prediction:
        if isinstance(read, Exception):
            raise read
        spec, parts = read.spec, read.parts
        num_views = spec.num_clips * spec.num_crops
        if "log_mel" in parts:  # one window of sound beside each clip in time, or as many as the sound fills
            sound_s = parts["log_mel"].shape[-1] / STEPS_PER_S
            filled = min(_MAX_SOUND_VIEWS, max(1, math.ceil(sound_s / spec.audio_s - 0.1)))
            spec = replace(spec, num_audio_views=spec.num_clips if num_views > 1 else filled)
        views = test_views(parts, spec)
        tokens = {name: self.model.tokens(name, views[name]) for name in MODALITIES if name in views}
        if "audio" in tokens and num_views > 1:
            tokens["audio"] = tokens["audio"].repeat(spec.num_crops, 1, 1)  # the clips run fastest
        num = max(len(x) for x in tokens.values())
        tokens = {name: x.expand(num, -1, -1) for name, x in tokens.items()}
        fused, single = self._scores_of(self.model.features(**tokens), tokens, vocabulary, kind, mean=True)
        thumbnails: tuple[tuple[float, Tensor], ...] = ()
        if num_thumbnails and "frames" in parts:
            times = spec.windows.times_s(read.info.duration_s, read.info.frame_rate)
            thumbnails = pick_thumbnails(times.ravel(), parts["frames"].flatten(0, 1), num_thumbnails)
        return Prediction(
            str(path),
            self.name,
            duration_s=read.info.duration_s,
            modalities=tuple(tokens),
            labels=ranked(fused[0], vocabulary),
            by_modality={name: ranked(p[0], vocabulary) for name, p in single.items()},
            warnings=(*read.warnings, *_lacking(spec.reads, tuple(tokens))),
            thumbnails=thumbnails,
        )

    def _scores_of(
        self, features: MOVFeatures, there: Iterable[str], vocabulary: Vocabulary, kind: VocabularyIs, *, mean: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Probabilities on the CPU, fused and of each stream that is there: (N, K), or their mean (1, K).

        The mean over views is taken of each path, before the two are joined: the offset was fitted to such scores.
        """

        def kept(p: Tensor) -> Tensor:
            return p.mean(dim=0, keepdim=True).cpu() if mean else p.cpu()

        vectors = vocabulary.vectors.to(self.model.device)
        is_base = self._is_base(vocabulary)
        if kind == "mixed" and (self.model.calibration is None or not is_base.any()):
            kind = "novel"
        elif kind == "mixed" and is_base.all():
            kind = "base"
        fused, single = {}, {}
        for path in ("base", "novel"):
            if kind in (path, "mixed"):
                predict = self.model.predict_base if path == "base" else self.model.predict_novel
                fused[path] = kept(predict(features, vectors))
                opinions = self.model.mov.opinions(features, vectors, path=path)  # type: ignore[arg-type]
                single[path] = {name: kept(p) for name, p in opinions.items() if name in there}
        if kind != "mixed":
            return fused[kind], single[kind]
        offset = Calibration.from_dict(self.model.calibration).offset_for(int((~is_base).sum()))

        def both(base: Tensor, novel: Tensor) -> Tensor:
            return torch.from_numpy(combine(base.numpy(), novel.numpy(), is_base, offset=offset)).float()

        joined = both(fused["base"], fused["novel"])
        return joined, {name: both(p, single["novel"][name]) for name, p in single["base"].items()}

    def _is_base(self, vocabulary: Vocabulary) -> np.ndarray:
        """(K,) bool: which labels the model was trained on. Case and white space do not count."""
        known = {" ".join(name.split()).casefold() for name in self.model.base_classes}
        return np.array([" ".join(label.split()).casefold() in known for label in vocabulary.labels])

    def _trained_timeline(
        self,
        vocabulary: Vocabulary,
        used: tuple[str, ...],
        window_s: float,
        num_thumbnails: int,
        kind: VocabularyIs,
        path: str | Path,
    ) -> Prediction:
        """Hops of half a window, each read and encoded once; a window is two hops, a hop scores the mean of its two.

        Sound of a window is its own, repeated or cut to the length of training.
        """
        info = probe(path)
        hop_s = min(window_s / HOPS_PER_WINDOW, max(info.duration_s, 1e-3))
        num_hops = max(1, math.ceil(info.duration_s / hop_s - 1e-6))
        spec = self.model.sample_spec(Views(num_frames=FRAMES_PER_HOP), inputs=used)
        hops = _Hops(self, spec, hop_s)
        thumbnails = hops.read(info, num_hops, num_thumbnails)
        tokens, mask = hops.windows()
        features = self.model.features(**tokens, mask=mask)
        there = [name for name in MODALITIES if name in tokens]
        scores, _ = self._scores_of(features, there, vocabulary, kind, mean=False)
        whole, single = self._scores_of(features, there, vocabulary, kind, mean=True)
        num = hops.num_hops
        cells = (scores[[0, *range(num - 1)]] + scores[[*range(num - 1), -1]]) / 2 if num > 1 else scores
        duration_s = min(info.duration_s, num * hop_s)
        return Prediction(
            str(path),
            self.name,
            duration_s=duration_s,
            modalities=tuple(there),
            labels=ranked(whole[0], vocabulary),
            by_modality={name: ranked(p[0], vocabulary) for name, p in single.items()},
            segments=join_cells(cells, vocabulary, hop_s, duration_s),
            warnings=(*hops.warnings, *_lacking(spec.reads, there)),
            thumbnails=thumbnails,
        )


class _Hops:
    """The tokens of a file, hop by hop: pictures and flow (H, 4, D), log-mel of each hop, and which hops have them."""

    def __init__(self, classifier: TrainedClassifier, spec: SampleSpec, hop_s: float) -> None:
        self.classifier, self.spec, self.hop_s = classifier, spec, hop_s
        self.tokens: dict[str, list[Tensor | None]] = {name: [] for name in spec.reads if name != "audio"}
        self.sound: list[Tensor | None] = []
        self.warnings: list[str] = []
        self.num_hops = 0

    def read(self, info: MediaInfo, num_hops: int, num_thumbnails: int) -> tuple[tuple[float, Tensor], ...]:
        """Read the file in parts of 32 hops -> thumbnails. Stops where no more decodes."""
        at_once = max(1, min(_HOPS_AT_ONCE, int(600 / self.hop_s)))
        wanted = set(np.linspace(0, num_hops - 1, num_thumbnails).astype(int).tolist()) if num_thumbnails else set()
        kept: list[tuple[float, Tensor]] = []
        for start in range(0, num_hops, at_once):
            num = min(at_once, num_hops - start)
            end_s = info.duration_s if start + num == num_hops else (start + num) * self.hop_s
            spec = replace(self.spec, num_clips=num)
            try:
                parts, warnings = read_parts(Clip(info.path, (), "", start * self.hop_s, end_s), spec, range(num))
            except MediaError:
                if start == 0:
                    raise
                break  # the file declares more than decodes
            views = test_views({k: v for k, v in parts.items() if k != "log_mel"}, spec)
            for name, hops in self.tokens.items():
                hops += list(self.classifier.model.tokens(name, views[name])) if name in views else [None] * num
            if "audio" in spec.reads:
                self.sound += self._cut(parts.get("log_mel"), num)
            self.warnings += [text for text in warnings if text not in self.warnings]
            if "frames" in parts:
                kept += [
                    ((start + i + 0.125) * self.hop_s, parts["frames"][i, 0]) for i in range(num) if start + i in wanted
                ]
            self.num_hops += num
        if not self.num_hops or not (
            any(x is not None for hops in self.tokens.values() for x in hops) or any(x is not None for x in self.sound)
        ):
            raise MediaError(f"{info.path!r} has none of: {', '.join(self.spec.reads)}")
        return tuple(kept)

    def _cut(self, log_mel: Tensor | None, num: int) -> list[Tensor | None]:
        if log_mel is None:
            return [None] * num
        edges = [round(i * self.hop_s * STEPS_PER_S) for i in range(num + 1)]
        parts = [log_mel[:, a:b] for a, b in itertools.pairwise(edges)]
        return [part if part.shape[1] >= STEPS_PER_S // 10 else None for part in parts]

    def windows(self) -> tuple[dict[str, Tensor], Tensor]:
        """Streams that occur -> tokens of W windows (W, T, D); mask (W, M)."""
        pairs = [(i, i + 1) for i in range(self.num_hops - 1)] or [(0, 0)]
        modalities = self.classifier.model.mov.config.modalities
        mask = torch.zeros(len(pairs), len(modalities), dtype=torch.bool)
        tokens: dict[str, Tensor] = {}
        for name, hops in self.tokens.items():
            like = next((x for x in hops if x is not None), None)
            if like is None:
                continue
            zero = torch.zeros_like(like)
            filled = [zero if x is None else x for x in hops]
            tokens[name] = torch.stack([torch.cat([filled[a], filled[b]]) for a, b in pairs])
            mask[:, modalities.index(name)] = torch.tensor(
                [hops[a] is not None and hops[b] is not None for a, b in pairs]
            )
        if any(x is not None for x in self.sound):
            spectrograms, there = [], []
            for pair in pairs:
                own = [self.sound[i] for i in dict.fromkeys(pair)]
                found = [x for x in own if x is not None]
                there.append(bool(found))
                steps = self.spec.audio_steps
                picture = normalise(torch.cat(found, dim=1)) if found else torch.zeros(128, steps)
                spectrograms.append(views_of(picture.expand(3, -1, -1), num_views=1, num_steps=steps)[0])
            tokens["audio"] = self.classifier.model.tokens("audio", torch.stack(spectrograms))
            mask[:, modalities.index("audio")] = torch.tensor(there)
        return tokens, mask


def _read(path: str | Path, spec: SampleSpec) -> _Read:
    """What is expensive about a file.

    Raises:
        MediaError: it is missing, broken, or has none of the streams.
    """
    info = probe(path)
    parts, warnings = read_parts(Clip(str(path), (), ""), spec, range(spec.num_clips))
    if not parts:
        raise MediaError(f"{str(path)!r} has none of: {', '.join(spec.reads)}")
    return _Read(info, spec, parts, warnings)


def _lacking(wanted: Iterable[str], there: Sequence[str]) -> list[str]:
    return [f"the file has {_SAID[name]}: classified without" for name in wanted if name not in there]


def _check_kind(kind: str) -> VocabularyIs:
    if kind not in get_args(VocabularyIs):
        raise LexividError(f"vocabulary_is {kind!r}: choose base, novel or mixed")
    return kind  # type: ignore[return-value]
