"""Clips -> samples: what the model sees of clip i in epoch e, a pure function of (seed, epoch, index).

    file --_reading.py--> frames, flow, log-mel --cache.py--> one window --augment.py--> sample

Augmentation comes after the cache, and is drawn from a generator that (seed, epoch, index) seeds and nothing else does:
neither the number of workers, nor the order, nor where a run was resumed changes a sample. Sound has a
generator of its own, so that leaving a modality out does not change the others.

Shapes: T frames, S side of a crop, V views (crops x clips in time), M modalities, F mel bins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.data import _reading
from lexivid.data._reading import FlowSize, FrameSize, Windows
from lexivid.data.augment import random_window, sample_clip_augmentation, spec_augment
from lexivid.data.cache import CacheEntry, ClipCache, content_id, key_of
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.clips import Clip
from lexivid.errors import LexividError, MediaError
from lexivid.media._container import MediaInfo
from lexivid.media.decode import decoder_version, probe
from lexivid.media.flow import ZERO_FLOW
from lexivid.media.modalities import MODALITIES
from lexivid.media.spectrogram import STEPS_PER_S, normalise, views_of
from lexivid.media.views import Views

Sample = dict[str, Any]
Goals = Mapping[str, list[int] | Tensor]


@dataclass(frozen=True)
class SampleSpec(ClipSampling):
    """What is drawn from a clip. Defaults are the paper's (sections 4.1 and 4.2); `ClipSampling` explains its own.

    Args:
        images: how the backbone wants its pictures.
        modalities: the model's; the mask is in this order.
        inputs: those that are read; None: all. Others are masked.
        train: one random, augmented view; false: all views, nothing random.
        num_windows: training: from how many places in time a clip is drawn. Each is decoded and cached by itself. None:
            4, or 1 where the frames are spread over the whole clip (more: shifted within their segments).
        num_clips, num_crops, num_audio_views: testing: views (the paper: 4, 3 and 12).
        work_size: training: short side of the frames that are kept, before random crops, pixels.
        crop_scale: smallest share of the picture's area in a random crop. mirror, colour: see
            `sample_clip_augmentation`. spec_time, spec_mel: SpecAugment's longest masks, steps of 10 ms and mel bins.

    Raises:
        LexividError: a value is out of range.
    """

    images: ImageProcessing
    modalities: tuple[str, ...] = ("video", "flow")
    inputs: tuple[str, ...] | None = None
    train: bool = True
    num_windows: int | None = None
    num_clips: int = 1
    num_crops: int = 1
    num_audio_views: int = 1
    work_size: int = 256
    crop_scale: float = 0.08
    mirror: bool = True
    colour: float = 0.0
    spec_time: int = 192
    spec_mel: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "modalities", tuple(self.modalities))
        object.__setattr__(self, "inputs", self.modalities if self.inputs is None else tuple(self.inputs))
        if not self.modalities or self.modalities != tuple(m for m in MODALITIES if m in self.modalities):
            raise LexividError(f"modalities {self.modalities!r}: choose from {MODALITIES}, each once, in this order")
        if not self.reads or not set(self.reads) <= set(self.modalities):
            raise LexividError(f"inputs {self.inputs!r}: choose at least one of the modalities {self.modalities}")
        Views(self.num_frames, self.num_clips, self.num_crops, self.stride, self.stride_rate)  # checks
        least = {"num_audio_views": 1, "work_size": 16, "spec_time": 0, "spec_mel": 0, "colour": 0}
        least |= {"num_windows": 1, "flow_size": 16, "flow_crop": 16}
        for name, low in least.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise LexividError(f"{name} is {value}, and must be at least {low}")
        if not 0 < self.crop_scale <= 1:
            raise LexividError(f"crop_scale is {self.crop_scale}, and must be above 0 and at most 1")
        if self.train and self.stride is None:
            Views(num_frames=self.num_frames * self.windows.num_windows)  # checks

    @classmethod
    def of_views(
        cls,
        images: ImageProcessing,
        views: Views,
        *,
        modalities: tuple[str, ...] = ("video",),
        inputs: tuple[str, ...] | None = None,
        num_audio_views: int | None = None,
        sampling: ClipSampling | None = None,
    ) -> SampleSpec:
        """Testing: what `views` look at.

        Args:
            num_audio_views: None: as many windows of audio as `views` has of frames.
            sampling: of flow and audio; the times of its frames give way to those of `views`. None: the defaults.
        """
        times = {"num_frames": views.num_frames, "stride": views.stride, "stride_rate": views.stride_rate}
        return cls(
            images,
            modalities,
            inputs,
            train=False,
            num_clips=views.num_clips,
            num_crops=views.num_crops,
            num_audio_views=num_audio_views or views.num_clips * views.num_crops,
            **(sampling or ClipSampling()).to_dict() | times,
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """The modalities that are read."""
        assert self.inputs is not None
        return self.inputs

    @property
    def audio_steps(self) -> int:
        """Steps of a crop of sound."""
        return round(self.audio_s * STEPS_PER_S)

    @property
    def windows(self) -> Windows:
        """The places in time."""
        if not self.train:
            return Windows(self.num_frames, self.num_clips, self.stride, self.stride_rate, phases=False)
        count = self.num_windows or (1 if self.stride is None else 4)
        return Windows(self.num_frames, count, self.stride, self.stride_rate, phases=True)

    @property
    def frame_size(self) -> FrameSize:
        """How frames are kept."""
        if self.train:
            return FrameSize(short_side=self.work_size)
        return FrameSize(self.images, keep_aspect=self.num_crops > 1)

    @property
    def flow_of_frames(self) -> FlowSize | None:
        """How flow is made of them; None where it is not read."""
        if "flow" not in self.reads:
            return None
        return FlowSize(self.flow, self.flow_size or self.images.resize_to, self.flow_texture)


class ClipSamples(torch.utils.data.Dataset[Sample]):
    """Samples by index.

    A sample is a dictionary: "video" (T, 3, S, S) uint8, "flow" (T, 3, S, S) uint8, "audio" (3, F, 100 audio_s)
    float32, each None where the clip has no such stream or the spec does not read it; "mask" (M,) bool; "target" int,
    the label's place in `classes`, or with `multi_label` (K,) bool, which of them hold, and where synthetic labels
    weigh also "weight" (K,) float32 (see `clip_goals`); "index" int; "path" str; "warnings" tuple of str. Testing:
    video and flow (V, T, 3, S, S), V = crops x clips with the clips running fastest;
    audio (V_a, 3, F, 100 audio_s).

    A clip that is missing, broken, or has none of the streams is {"failed": reason, "path", "index"}, the last with
    "empty": True.

    Args:
        clips: with one label each, which must be among `classes`, or with `multi_label` with any number. Of those, the
            ones that are not among `classes` are not told: whoever trains on seen labels gives these alone.
        classes: names in the order of targets.
        synthetic_classes, synthetic_weight: more names, and what a captioner's word counts, see `clip_goals`; for
            training alone. 0: what a captioner says is not read.
        cache: None: nothing is kept.
        seed: of augmentation.
        multi_label: several labels may hold at once.

    Raises:
        LexividError: without `multi_label`, a clip has several labels, or one that is not among `classes`.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        spec: SampleSpec,
        *,
        classes: Sequence[str],
        cache: ClipCache | None = None,
        seed: int = 0,
        multi_label: bool = False,
        synthetic_classes: Sequence[str] = (),
        synthetic_weight: float = 0.0,
    ) -> None:
        self.clips = tuple(clips)
        self.goals = clip_goals(
            clips, classes, multi_label=multi_label, synthetic_classes=synthetic_classes,
            synthetic_weight=synthetic_weight,
        )  # fmt: skip
        self.spec = spec
        self.classes = tuple(classes)
        self.cache = cache
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Which look at the clips is taken. Call it before a loader's workers start."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        clip = self.clips[index]
        known: Sample = {"index": index, "path": clip.path}
        try:
            made = self._train_sample(clip, index) if self.spec.train else self._test_sample(clip)
        except MediaError as error:
            return {**known, "failed": str(error)}
        except (LexividError, AssertionError):
            raise  # a fault of the settings or of the program, not of this clip
        except Exception as error:  # one clip among thousands: counted and reported
            return {**known, "failed": f"{clip.path}: unexpected failure ({type(error).__name__}: {error})"}
        mask = torch.tensor([made.get(name) is not None for name in self.spec.modalities])
        if not mask.any():
            return {**known, "failed": f"{clip.path!r} has none of: {', '.join(self.spec.reads)}", "empty": True}
        return {**dict.fromkeys(MODALITIES), **made, **known, "mask": mask, **goal_of(self.goals, index)}

    def _generator(self, index: int, what: str) -> torch.Generator:
        text = f"{self.seed} {self.epoch} {index} {what}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
        return torch.Generator().manual_seed(number)

    def _train_sample(self, clip: Clip, index: int) -> Sample:
        spec, size = self.spec, self.spec.images.crop_size
        draws = self._generator(index, "pictures")
        window = int(torch.randint(spec.windows.num_windows, (), generator=draws))
        parts, warnings = read_parts(clip, spec, [window], cache=self.cache)
        made: Sample = {"warnings": warnings}
        frames, motion, sound = (parts.get(name) for name in ("frames", "flow", "log_mel"))
        if frames is not None or motion is not None:
            # One draw on the picture itself, whose size frames and flow share however they are kept, and whichever of
            # them is read: beside cached features of the frames, flow is read alone.
            height, width = parts["picture_size"].tolist()
            look = sample_clip_augmentation(
                height,
                width,
                generator=draws,
                scale=(spec.crop_scale, 1.0),
                mirror=spec.mirror,
                colour=spec.colour,
            )
            if frames is not None:
                made["video"] = look.frames(frames[0], size, interpolation=spec.images.interpolation)
            if motion is not None:
                made["flow"] = look.flow(_with_third(motion[0]), spec.flow_crop or size)
        if sound is not None:
            draws = self._generator(index, "sound")
            crop = random_window(_three(sound), generator=draws, num_steps=spec.audio_steps)
            made["audio"] = spec_augment(
                crop, generator=draws, max_time_steps=spec.spec_time, max_mel_bins=spec.spec_mel
            )
        return made

    def _test_sample(self, clip: Clip) -> Sample:
        spec = self.spec
        parts, warnings = read_parts(clip, spec, range(spec.num_clips), cache=self.cache)
        return {"warnings": warnings, **test_views(parts, spec)}


def label_rows(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> Tensor:
    """Each clip's labels -> (N, K) bool, which of `classes` hold. Labels that are not among these are left out."""
    place = {name: i for i, name in enumerate(classes)}
    rows = torch.zeros(len(labels), len(place), dtype=torch.bool)
    for row, row_labels in zip(rows, labels, strict=True):
        row[[place[label] for label in row_labels if label in place]] = True
    return rows


def clip_goals(
    clips: Sequence[Clip],
    classes: Sequence[str],
    *,
    multi_label: bool,
    synthetic_classes: Sequence[str] = (),
    synthetic_weight: float = 0.0,
) -> Goals:
    """What is told of N clips: {"target": of each its label's place in `classes`}, or with `multi_label` (N, K) bool.

    What is annotated is true, and what a captioner says (`Clip.synthetic`) is not read. Only with a `synthetic_weight`
    it holds too, and counts by so much where it is one of `classes`, whose other pairs of clip and label are annotated:
    beside "target" stands "weight", (N, K) float32. All pairs with one of the `synthetic_classes`, which nobody
    annotated and whose places follow those of `classes`, are the captioner's: the loss weighs them all (here: 1).

    Raises:
        LexividError: without `multi_label`, a clip has several labels, or one that is not among `classes`.
    """
    if multi_label:
        names = (*classes, *synthetic_classes)
        holds = label_rows([clip.labels for clip in clips], names)
        if not synthetic_weight:
            return {"target": holds}
        synthetic_rows = label_rows([clip.synthetic for clip in clips], names) & ~holds
        weights = torch.ones(synthetic_rows.shape)
        weights[:, : len(classes)][synthetic_rows[:, : len(classes)]] = synthetic_weight
        return {"target": holds | synthetic_rows, "weight": weights}
    place = {name: i for i, name in enumerate(classes)}
    for clip in clips:
        if len(clip.labels) != 1:
            raise LexividError(f"{clip.path!r} has {len(clip.labels)} labels; this training takes one per clip")
        if clip.labels[0] not in place:
            raise LexividError(f"{clip.path!r} is of class {clip.labels[0]!r}, which is not among the classes")
    return {"target": [place[clip.labels[0]] for clip in clips]}


def goal_of(goals: Goals, index: int) -> dict[str, int | Tensor]:
    """What is told of one clip."""
    return {name: column[index] for name, column in goals.items()}


def test_views(parts: Mapping[str, Tensor], spec: SampleSpec) -> dict[str, Tensor]:
    """What `read_parts` gives -> all views, see `ClipSamples`."""
    made: dict[str, Tensor] = {}
    if (frames := parts.get("frames")) is not None:
        made["video"] = _crops(frames, spec.images, spec.num_crops)
    if (motion := parts.get("flow")) is not None:
        side = spec.flow_crop or spec.images.crop_size
        bilinear = replace(  # as in training: bicubic overshoots at edges
            spec.images,
            interpolation="bilinear",
            crop_size=side,
            resize_to=round(spec.images.resize_to * side / spec.images.crop_size),
        )
        pictures = [bilinear.resize(_with_third(pair), keep_aspect=spec.num_crops > 1) for pair in motion.flatten(0, 1)]
        made["flow"] = _crops(torch.stack(pictures).unflatten(0, motion.shape[:2]), bilinear, spec.num_crops)
    if (sound := parts.get("log_mel")) is not None:
        made["audio"] = views_of(_three(sound), num_views=spec.num_audio_views, num_steps=spec.audio_steps)
    return made


test_views.__test__ = False  # type: ignore[attr-defined]  # not one of pytest's


def read_parts(
    clip: Clip, spec: SampleSpec, windows: Sequence[int], *, cache: ClipCache | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What is expensive of a clip, from the cache or the file.

    Returns:
        "frames" (W, T, 3, h, w) uint8, "flow" (W, T, 2, h', w') uint8, "log_mel" (F, S) float32, of the given windows,
        without the streams that the clip lacks; beside frames or flow "picture_size" (2,) int64, height and width of
        the picture that both were made from; and what the user should be told.

    Raises:
        MediaError: the file is missing or broken.
    """
    content = content_id(clip.path) if cache is not None else ""
    flow_size = spec.flow_of_frames
    frame_size = spec.frame_size if "video" in spec.reads else None
    span = {"start_s": clip.start_s, "end_s": clip.end_s, "decoder": decoder_version()}
    windows_name = _reading.windows_key(spec.windows)
    wanted: dict[tuple[str, int], str] = {}  # (what, window) -> key
    for window in windows:
        place = {**span, "windows": windows_name, "window": window}
        if frame_size:
            wanted["frames", window] = key_of(content, {**place, "what": "frames", "size": frame_size.key()})
        if flow_size:
            wanted["flow", window] = key_of(content, {**place, "what": "flow", "size": flow_size.key()})
    if "audio" in spec.reads:
        wanted["log_mel", 0] = key_of(content, {**span, "what": "log_mel"})

    entries: dict[tuple[str, int], CacheEntry] = {}
    if cache is not None:
        entries = {name: entry for name, key in wanted.items() if (entry := cache.get(key)) is not None}
    lacking = [name for name in wanted if name not in entries]
    if lacking:
        made = _make(clip, spec.windows, lacking, frame_size=frame_size, flow_size=flow_size)
        entries.update(made)
        if cache is not None:
            for name, entry in made.items():
                cache.put(wanted[name], entry)

    parts: dict[str, Tensor] = {}
    for what in ("frames", "flow"):
        of_windows = [entries[what, window].tensors.get(what) for window in windows if (what, window) in entries]
        present = [tensor for tensor in of_windows if tensor is not None]
        if present and len(present) == len(of_windows):
            parts[what] = torch.stack(present)
            parts["picture_size"] = entries[what, windows[0]].tensors["picture_size"]
    if ("log_mel", 0) in entries and (sound := entries["log_mel", 0].tensors.get("log_mel")) is not None:
        parts["log_mel"] = sound
    warnings_read = [text for entry in entries.values() for text in json.loads(entry.facts.get("warnings", "[]"))]
    return parts, tuple(dict.fromkeys(warnings_read))


def _make(
    clip: Clip,
    windows: Windows,
    lacking: Sequence[tuple[str, int]],
    *,
    frame_size: FrameSize | None,
    flow_size: FlowSize | None,
) -> dict[tuple[str, int], CacheEntry]:
    """Read the lacking entries from the file. A stream that it does not have is an entry without tensors."""
    info: MediaInfo = probe(clip.path)
    made: dict[tuple[str, int], CacheEntry] = {}
    by_what = {what: sorted(window for name, window in lacking if name == what) for what in ("frames", "flow")}
    chosen = sorted(set(by_what["frames"]) | set(by_what["flow"]))
    if chosen and info.has_video:
        pictures, warnings = _reading.read_pictures(
            info,
            windows,
            chosen,
            start_s=clip.start_s,
            end_s=clip.end_s,
            frames=frame_size if by_what["frames"] else None,
            flow=flow_size if by_what["flow"] else None,
        )
        facts = {"warnings": json.dumps(warnings)}
        for what, window in lacking:
            if what != "log_mel":
                tensors = {name: x for name, x in pictures[window].items() if name in (what, "picture_size")}
                made[what, window] = CacheEntry(tensors if what in tensors else {}, facts)
    if ("log_mel", 0) in lacking and info.has_audio:
        sound, sound_warnings = _reading.read_log_mel(info, start_s=clip.start_s, end_s=clip.end_s)
        made["log_mel", 0] = CacheEntry(
            {} if sound is None else {"log_mel": sound}, {"warnings": json.dumps(sound_warnings)}
        )
    for name in lacking:
        made.setdefault(name, CacheEntry({}, {"absent": "the file has no such stream"}))
    return made


def _with_third(motion: Tensor) -> Tensor:
    """(..., 2, h, w) -> (..., 3, h, w): the third channel of a picture of flow is the constant zero flow."""
    return torch.cat([motion, torch.full_like(motion[..., :1, :, :], ZERO_FLOW)], dim=-3)


def _three(log_mel: Tensor) -> Tensor:
    """(F, S), not normalised -> (3, F, S)."""
    return normalise(log_mel).repeat(3, 1, 1)


def _crops(pictures: Tensor, images: ImageProcessing, num_crops: int) -> Tensor:
    """(W, T, 3, h, w) -> (num_crops * W, T, 3, S, S), the windows running fastest."""
    num_windows, num_frames = pictures.shape[:2]
    crops = images.crops(pictures.flatten(0, 1), num_crops)  # (C, W * T, 3, S, S)
    return crops.unflatten(1, (num_windows, num_frames)).flatten(0, 1)
