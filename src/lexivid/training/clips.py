"""A folder of labelled clips -> what a run trains on: which classes are base, which clips are held out, how each is
looked at, and the frozen tower's features where the recipe wants them cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.data.cache import ClipCache, content_id
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.clips import Clip, Dataset
from lexivid.data.formats import read_dataset
from lexivid.data.loader import Samples
from lexivid.data.run_clips import RunClips, contents_of, data_folder
from lexivid.data.sampling import ClipSamples, SampleSpec, clip_goals
from lexivid.data.splits import ClassSplit, hold_out, split_classes
from lexivid.errors import LexividError, MediaError
from lexivid.media.decode import decoder_version
from lexivid.models.mov import MOV
from lexivid.models.towers import tower_fingerprint
from lexivid.training.features import CachedVideo, FeatureStore, cache_features
from lexivid.training.log import OnProgress
from lexivid.training.recipe import DataRecipe, Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


_MUCH_HELD_OUT = 0.25


class TrainingClips(NamedTuple):
    """What a run trains on. `open_clips` makes it from a folder; whoever has clips of another kind makes their own.

    Attributes:
        train, held_out: targets are indices into `base_classes`; held-out clips choose and calibrate. Of several labels
            targets are rows, in training over `base_classes` and `synthetic_classes`; held-out clips need only what
            is annotated, the first of these.
        base_classes: names as the text encoder shall read them.
        synthetic_classes: more names, which follow those in the targets: labels that a model alone wrote.
        split: content of split.json, or None.
        failures: path -> reason of clips that could not be read when features were cached.
        files: the clips as files, which the run folder keeps; None: they are no files.
    """

    train: Samples
    held_out: Samples | None
    base_classes: tuple[str, ...]
    split: ClassSplit | None = None
    failures: Mapping[str, str] = {}
    synthetic_classes: tuple[str, ...] = ()
    files: RunClips | None = None


def draw_clips(recipe: Recipe, data: str | Path) -> RunClips:
    """Training and held-out clips, both of base classes and of the training part alone; their contents are not read.

    Raises:
        LexividError: the data or the split cannot be read, or no clip is left.
    """
    settings = recipe.data
    dataset = read_dataset(data, **settings.layout())
    split = _split_of(settings, dataset, data)
    if recipe.objective.kind == "sigmoid":  # a clip may show novel things as well, of which it is not told
        base = dataset.restricted(split.base).select(split="train")
    else:
        base = dataset.select(split="train", classes=split.base)
    if empty := set(split.base) - {label for clip in base.clips for label in clip.labels}:
        raise LexividError(f"base class {min(empty)!r} has no training clips in {str(data)!r}")
    one = recipe.objective.kind == "softmax"
    trained, out = hold_out(base.clips, fraction=settings.held_out, seed=settings.split_seed, each_class=one)
    remarks, num_clips = dataset.remarks, len(trained) + len(out)
    if len(out) > max(_MUCH_HELD_OUT, 2 * settings.held_out) * num_clips:
        remarks += (
            f"{len(out)} of the {num_clips} clips are held out, where data.held_out is {settings.held_out:g}: each "
            "class gives one recording at least, and clips of a recording stay together",
        )
    if neither := [name for name in dataset.classes if name not in split.classes]:
        named = ", ".join(map(repr, neither[:3])) + (", ..." if len(neither) > 3 else "")
        remarks += (
            f"the class split names {len(neither)} of the classes neither base nor novel, and their clips are "
            f"left out: {named}",
        )
    return RunClips(tuple(trained), tuple(out), split, str(data_folder(data)), {}, remarks)


def _split_of(settings: DataRecipe, dataset: Dataset, data: str | Path) -> ClassSplit:
    if settings.class_split is None:
        share = settings.base_fraction
        if share is None:
            return ClassSplit(dataset.classes, (), None, dataset.name)
        return split_classes(dataset.classes, fraction=share, seed=settings.split_seed, source=dataset.name)
    split = ClassSplit.load(settings.class_split).spelled_as(dataset.classes, dataset.written)
    if unknown := [name for name in split.base if name not in dataset.classes]:
        names = list(dataset.written or dataset.classes)
        near = get_close_matches(unknown[0], [*names, *dataset.classes], 1, 0.6)
        hint = f"did you mean {near[0]!r}? It" if near else "it"
        raise LexividError(
            f"class split {settings.class_split!r}: {str(data)!r} has no class {unknown[0]!r}: {hint} has "
            f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        )
    return split


def identified(clips: RunClips, accelerator: Accelerator | None = None) -> RunClips:
    """With the contents of all files that can be read; each process reads its share."""
    paths = sorted({clip.path for clip in clips.clips})
    if accelerator is None or accelerator.num_processes == 1:
        return replace(clips, contents=contents_of(paths))
    from accelerate.utils import gather_object

    hashes = contents_of(paths[accelerator.process_index :: accelerator.num_processes])
    return replace(clips, contents=dict(gather_object(list(hashes.items()))))


def sample_spec(recipe: Recipe, images: ImageProcessing, *, train: bool) -> SampleSpec:
    """How a clip is looked at: one augmented look, or one plain view."""
    data = recipe.data
    inputs = tuple(name for name in recipe.inputs if name != "flow" or data.flow_from == "flow")
    return SampleSpec(
        images=images, modalities=recipe.model.modalities, inputs=inputs, train=train,
        num_windows=data.num_windows, work_size=round(images.crop_size * 8 / 7),
        crop_scale=data.crop_scale, mirror=data.mirror, colour=data.colour,
        spec_time=data.spec_time, spec_mel=data.spec_mel, **ClipSampling.of(data).to_dict(),
    )  # fmt: skip


def open_clips(
    recipe: Recipe,
    data: str | Path | RunClips,
    mov: MOV,
    images: ImageProcessing,
    *,
    accelerator: Accelerator | None = None,
    on_progress: OnProgress | None = None,
) -> TrainingClips:
    """The clips of a data folder as the recipe wants them.

    Args:
        data: a folder or manifest, from which they are drawn; or those that were.

    Raises:
        LexividError: see `draw_clips`.
    """
    files = data if isinstance(data, RunClips) else draw_clips(recipe, data)
    written = {label for clip in files.train for label in clip.synthetic} if recipe.data.synthetic_weight else set()
    synthetic = tuple(sorted(written - set(files.split.classes)))
    train, failures = _opened(
        recipe, files, synthetic, mov, images, train=True, accelerator=accelerator, on_progress=on_progress
    )
    held_out, failed = None, dict[str, str]()
    if files.held_out:
        held_out, failed = _opened(
            recipe, files, (), mov, images, train=False, accelerator=accelerator, on_progress=on_progress
        )
    return TrainingClips(train, held_out, files.split.base, files.split, failures | failed, synthetic, files)


def open_held_out(recipe: Recipe, files: RunClips, mov: MOV, images: ImageProcessing) -> Samples | None:
    """The held-out clips alone, on one process, as `open_clips` opens them; None: there are none."""
    if not files.held_out:
        return None
    return _opened(recipe, files, (), mov, images, train=False, accelerator=None, on_progress=None)[0]


def _opened(
    recipe: Recipe, files: RunClips, synthetic: Sequence[str], mov: MOV, images: ImageProcessing, *, train: bool,
    accelerator: Accelerator | None, on_progress: OnProgress | None,
) -> tuple[Samples, dict[str, str]]:  # fmt: skip
    """Samples, and path -> reason of those that could not be read when features were cached."""
    clips, base = files.train if train else files.held_out, files.split.base
    if not recipe.data.cache_video_features or not clips:
        return _samples(recipe, clips, images, base, synthetic, train=train), {}
    return _with_cached_features(
        recipe, clips, images, base, synthetic, mov, train=train, accelerator=accelerator, on_progress=on_progress
    )


def _samples(
    recipe: Recipe, clips: Sequence[Clip], images: ImageProcessing, classes: Sequence[str],
    synthetic_classes: Sequence[str], *, train: bool, inputs: tuple[str, ...] | None = None,
) -> Samples:  # fmt: skip
    spec = sample_spec(recipe, images, train=train)
    spec = spec if inputs is None else replace(spec, inputs=inputs)
    cache = ClipCache() if recipe.data.cache_clips else None
    several = recipe.objective.kind == "sigmoid"
    samples = ClipSamples(
        clips, spec, classes=classes, cache=cache, seed=recipe.training.seed, multi_label=several,
        synthetic_classes=synthetic_classes, synthetic_weight=recipe.data.synthetic_weight if train else 0.0,
    )  # fmt: skip
    return samples if train else OneView(samples)


def _with_cached_features(
    recipe: Recipe, clips: Sequence[Clip], images: ImageProcessing, classes: Sequence[str],
    synthetic_classes: Sequence[str], mov: MOV, *, train: bool, accelerator: Accelerator | None,
    on_progress: OnProgress | None,
) -> tuple[CachedVideo, dict[str, str]]:  # fmt: skip
    spec = sample_spec(recipe, images, train=train)
    # Sound changes nothing about pictures, and flow only shares their draw: runs that differ in them share features.
    apart = (
        "modalities",
        "inputs",
        "flow",
        "flow_texture",
        "flow_size",
        "flow_crop",
        "audio_s",
        "spec_time",
        "spec_mel",
        "num_audio_views",
    )
    look = {key: value for key, value in asdict(spec).items() if key not in apart}
    look |= {"tower": tower_fingerprint(mov.towers["video"]), "seed": recipe.training.seed if train else None}
    look |= {"decoder": decoder_version()}
    part = {
        name: _samples(recipe, clips, images, classes, synthetic_classes, train=train, inputs=(name,))
        for name in spec.reads
        if name != "video"
    }
    goals = clip_goals(
        clips, classes, multi_label=recipe.objective.kind == "sigmoid", synthetic_classes=synthetic_classes,
        synthetic_weight=recipe.data.synthetic_weight if train else 0.0,
    )  # fmt: skip
    cached = CachedVideo(
        [(clip.path, _identity(clip)) for clip in clips],
        goals,
        FeatureStore(),
        look,
        num_looks=recipe.data.cache_video_features if train else 1,
        num_modalities=len(recipe.model.modalities),
        flow=part.get("flow"),
        sound=part.get("audio"),
    )
    device = next(mov.towers["video"].parameters()).device

    @torch.no_grad()
    def encode(pictures: Tensor) -> Tensor:
        return mov.towers["video"](images.normalise(pictures.to(device))).float()

    full = _samples(recipe, clips, images, classes, synthetic_classes, train=train, inputs=("video",))
    failures = cache_features(
        cached, full, encode, width=mov.config.embedding_dim, num_workers=recipe.data.num_workers,
        rank=accelerator.process_index if accelerator else 0, world=accelerator.num_processes if accelerator else 1,
        on_progress=on_progress,
    )  # fmt: skip
    if accelerator:
        accelerator.wait_for_everyone()
    return cached, failures


def _identity(clip: Clip) -> str:
    try:
        content = content_id(clip.path)
    except MediaError:
        content = f"missing {clip.path}"  # it will be reported when it is read
    return f"{content} {clip.start_s!r} {clip.end_s!r}"


class OneView:
    """Test samples with a single view, without its axis: the shapes of training."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Nothing is random."""

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        sample = dict(self.samples[index])
        for name in ("video", "flow", "audio"):
            if sample.get(name) is not None:
                sample[name] = sample[name][0]
        return sample
