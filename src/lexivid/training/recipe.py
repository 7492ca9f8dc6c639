"""A recipe: everything that decides what a training run makes, as frozen dataclasses that a short YAML file fills.

YAML (a file, or the name of one in lexivid/recipes) -> `Recipe`. A key that does not exist is an error that names the
nearest one that does; `key=value` settings with dotted keys go on top. Where the MOV paper has a number, the
default is that number (section 4.2), and the recipes of the paper state it again, to be read beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from lexivid.backbones.base import lasting_name
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.formats import DatasetKind
from lexivid.errors import LexividError
from lexivid.labels.encoders.soft_attributes import SoftAttributeConfig
from lexivid.labels.templates import template_names
from lexivid.models.ovml import SigmoidConfig
from lexivid.training.settings import Settings, at_least, load_settings, settings_names


@dataclass(frozen=True)
class ModelRecipe:
    """The network. None: what suits the backbone. What is not explained here is a setting of
    `lexivid.models.mov_config.MOVConfig`, which explains it.

    Args:
        backbone: "lite", a CLIP-family model of the Hub (best with "@revision"), or a folder.
        modalities: "video" first, then "flow", "audio" or both.
        frozen_video: false trains the video tower too, which MOV does not (figure 1, a to d).
        trainable_layers: of the trained towers, the last n; None for all (table 6).
        temporal_branches: of a trained video tower, the last n blocks also attend along time (OVML).
        tau_v_ratio: tau_v in units of the backbone's temperature, where tau_v is None.
        base_score: what scores base classes: "v_m" (eq. 10), or "mean" of all streams' own softmaxes, which with
            `num_cross_layers: 0` is the score fusion of table 5.
        templates: sentences around a label; None: the backbone's.
        init_from: a run folder whose weights training starts from, as far as names and shapes agree: those of the
            streams, of a label encoder, and of scale and bias.
    """

    backbone: str = "openai/clip-vit-base-patch16"
    modalities: tuple[str, ...] = ("video", "flow")
    num_temporal_layers: int = 2
    num_cross_layers: int = 1
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    alpha: float = 0.5
    tau: float | None = None
    beta: float = 0.25
    tau_v: float | None = None
    tau_f: float | None = None
    tau_a: float | None = None
    tau_v_ratio: float = 0.3
    frozen_video: bool = True
    trainable_layers: int | None = None
    temporal_branches: int = 0
    scale_tokens: bool = True
    zero_init: bool = True
    base_score: Literal["v_m", "mean"] = "v_m"
    templates: str | None = None
    spectrogram_pooling: tuple[int, ...] | None = None
    audio_batch_norm_momentum: float | None = 0.1
    init_from: str | None = None

    def mov_settings(self) -> dict[str, Any]:
        """The keyword arguments of `MOVConfig.for_backbone`, `tau_v_ratio` apart."""
        own_keys = ("backbone", "base_score", "templates", "init_from", "tau_v_ratio")
        as_asked = ("trainable_layers", "audio_batch_norm_momentum")  # None means something
        return {k: v for k, v in asdict(self).items() if k not in own_keys and (v is not None or k in as_asked)}


@dataclass(frozen=True)
class LabelsRecipe:
    """What turns labels into vectors.

    Args:
        encoder: "prompts": the backbone's text encoder and the sentences of `model.templates`, not trained;
            "learned_context": learned vectors before the label (CoOp); "soft_attributes": OVML.
        num_context: of "learned_context": how many vectors.
        language_model: of "soft_attributes": "world", a model of the Hub, or a folder.
        soft_attributes: see `lexivid.labels.encoders.soft_attributes.SoftAttributeConfig`.
    """

    encoder: Literal["prompts", "learned_context", "soft_attributes"] = "prompts"
    num_context: int = 8
    language_model: str = "world"
    soft_attributes: SoftAttributeConfig = field(default_factory=SoftAttributeConfig)

    def __post_init__(self) -> None:
        at_least(self, "labels.", num_context=1)


@dataclass(frozen=True)
class ObjectiveRecipe(SigmoidConfig):
    """What a prediction is, and the loss about it.

    Args:
        kind: "softmax": one of the base classes holds (MOV, eq. 9). "sigmoid": each label by itself, several may hold
            (OVML); the other settings, see `lexivid.models.ovml.SigmoidConfig`, are of this one.
    """

    kind: Literal["softmax", "sigmoid"] = "softmax"

    def sigmoid(self) -> SigmoidConfig:
        """The settings without `kind`."""
        return SigmoidConfig(**{item.name: getattr(self, item.name) for item in fields(SigmoidConfig)})


@dataclass(frozen=True)
class DataRecipe(ClipSampling):
    """The clips and what is drawn from them (section 4.1, 4.2). How a clip is sampled, `ClipSampling` says.

    Args:
        inputs: the streams that are shown; None: all of the model's. `[flow]` with a model of video and flow trains
            its flow path alone.
        kind: layout of the data folder; "auto": as it looks (`lexivid.data.formats.read_dataset`).
        list_number: which of UCF101's lists, 1 to 3.
        lists: folder of UCF101's lists, or the annotation file of a data set with several labels a clip.
        names: CSV file of two columns, folder or label and what the model reads for it.
        class_split: JSON file with the base and novel classes; None: see `base_fraction`.
        base_fraction: share of the classes that are base, drawn with `split_seed`; None: all of them.
        split_seed: draws the base classes and the held-out clips.
        synthetic_weight: what a label counts in the loss for a clip that it is told of in the manifest's column
            `synthetic` alone, where a model wrote it (vocabulary expansion); 0: that column is not read. It is never
            told of held-out clips. For a sigmoid objective.
        held_out: share of the base clips kept back, by group where groups are known, for choosing and calibrating.
        num_windows: from how many places in time training clips are drawn; None: 4, or 1 for spread frames.
        flow_from: "flow"; the controls "frames" (the flow path sees the pictures) and "frozen" (it gets the frozen
            tower's features, untrained).
        spec_time: SpecAugment's longest mask in time, in steps of 10 ms.
        spec_mel: SpecAugment's longest mask in frequency, in mel bins.
        crop_scale: smallest share of the picture's area in a random crop.
        mirror: half of the augmented views are mirrored; false where left and right mean something.
        colour: how much brightness, contrast and saturation vary; 0: not at all.
        cache_video_features: K: the frozen tower's features are computed once for K augmented views of each clip, and
            kept on disk. Epoch e uses view e mod K. 0: computed anew in every epoch.
        cache_clips: keep decoded pictures, flow and spectrograms on disk (see `lexivid.data.cache`).
        num_workers: processes that decode.
    """

    inputs: tuple[str, ...] | None = None
    kind: DatasetKind = "auto"
    list_number: int | None = None
    lists: str | None = None
    names: str | None = None
    class_split: str | None = None
    base_fraction: float | None = None
    split_seed: int = 0
    synthetic_weight: float = 0.0
    held_out: float = 0.1
    num_windows: int | None = None
    flow_from: Literal["flow", "frames", "frozen"] = "flow"
    spec_time: int = 192
    spec_mel: int = 48
    crop_scale: float = 0.08
    mirror: bool = True
    colour: float = 0.0
    cache_video_features: int = 0
    cache_clips: bool = True
    num_workers: int = 2

    def layout(self) -> dict[str, Any]:
        """The keyword arguments of `lexivid.data.formats.read_dataset`."""
        return {"kind": self.kind, "list_number": self.list_number, "lists": self.lists, "names": self.names}

    def __post_init__(self) -> None:
        at_least(
            self, "data.", held_out=0, num_frames=1, cache_video_features=0, num_workers=0, audio_s=0.1,
            synthetic_weight=0,
        )  # fmt: skip
        super().__post_init__()
        if self.held_out >= 1:
            raise LexividError(f"data.held_out is a share below 1; got {self.held_out}")
        if self.base_fraction is not None and not 0 < self.base_fraction < 1:
            raise LexividError(f"data.base_fraction is a share between 0 and 1; got {self.base_fraction}")


@dataclass(frozen=True)
class TrainingRecipe:
    """The optimisation (section 4.2: AdamW, half-cosine decay, no warm-up).

    Args:
        epochs: passes over all training clips.
        batch_size: clips in one step of the optimiser, over all processes together. The same recipe trains the same
            model on one process and on many (but for mixup, and for batch norms that learn their statistics: lite's
            audio tower).
        micro_batch: clips that one process holds at a time, which saves memory and changes no gradient; None: all its
            own. Models with such batch norms take none.
        lr: peak learning rate.
        tower_lr: learning rate of the trained towers; None: `lr`.
        label_lr: learning rate of a label encoder; None: `lr`.
        scale_lr: learning rate of scale and bias of a sigmoid, which have far to go.
        weight_decay: on matrices only; norms, biases and embeddings of one dimension are not decayed.
        betas: of AdamW.
        warmup_steps: linear, before the half cosine over the rest.
        clip_norm: longest gradient, over all parameters; None: not clipped.
        mixup: beta distribution's parameter for sound alone (models without pictures); 0: off.
        precision: "float32" or "bfloat16" (autocast; weights stay float32).
        seed: of first weights, order and augmentation.
        checkpoint_every: steps between checkpoints; there is one after every epoch too; 0: only after the last. (For
            runs of a minute, which start over sooner than they write.)
        checkpoint_minutes: the longest time between checkpoints, whatever `checkpoint_every` says; 0: no limit.
        keep_checkpoints: how many of the newest stay.
        delete_checkpoints: when training and calibration have ended: only a run that has not needs them.
        evaluate_every: epochs between looks at the held-out clips (and always after the last).
        export: which weights the run folder offers: those after the "last" step, the "best" on held-out clips, or the
            "average" of those after each of the last `average_epochs` epochs.
        average_epochs: of `export` "average".
    """

    epochs: int = 100
    batch_size: int = 1024
    micro_batch: int | None = None
    lr: float = 1e-4
    tower_lr: float | None = None
    label_lr: float | None = None
    scale_lr: float = 1e-2
    weight_decay: float = 0.05
    betas: tuple[float, ...] = (0.9, 0.999)
    warmup_steps: int = 0
    clip_norm: float | None = None
    mixup: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    checkpoint_every: int = 200
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = 2
    delete_checkpoints: bool = True
    evaluate_every: int = 1
    export: Literal["last", "best", "average"] = "last"
    average_epochs: int = 4

    def __post_init__(self) -> None:
        at_least(
            self, "training.", epochs=0, batch_size=1, lr=0, weight_decay=0, warmup_steps=0, mixup=0,
            checkpoint_every=0, checkpoint_minutes=0, keep_checkpoints=1, evaluate_every=1, seed=0, scale_lr=0,
            average_epochs=1,
        )  # fmt: skip
        if self.micro_batch is not None:
            at_least(self, "training.", micro_batch=1)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise LexividError(f"training.clip_norm must be above 0, or null for none; got {self.clip_norm}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise LexividError(f"training.betas are two numbers in [0, 1); got {list(self.betas)}")


@dataclass(frozen=True)
class Recipe(Settings):
    """One training run; `about` says its place in the paper."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    labels: LabelsRecipe = field(default_factory=LabelsRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)

    def __post_init__(self) -> None:
        inputs = self.inputs
        if extra := [name for name in inputs if name not in self.model.modalities]:
            raise LexividError(
                f"data.inputs names {extra[0]!r}, but model.modalities are {', '.join(self.model.modalities)}"
            )
        if not inputs:
            raise LexividError("data.inputs is empty: name at least one stream")
        self._check_objective()
        if self.training.mixup and inputs != ("audio",):
            raise LexividError("training.mixup mixes sounds; it works where data.inputs is [audio]")
        if self.data.cache_video_features and "video" not in inputs:
            raise LexividError("data.cache_video_features is set, but video is not among the inputs")
        if self.data.cache_video_features and not self.model.frozen_video:
            raise LexividError("data.cache_video_features keeps what a frozen tower makes; model.frozen_video is false")
        if self.data.flow_from != "flow" and not {"video", "flow"} <= set(inputs):
            raise LexividError(f"data.flow_from={self.data.flow_from!r} needs both video and flow among the inputs")
        if self.data.flow_from == "frames" and self.data.cache_video_features:
            raise LexividError(
                "data.flow_from='frames' needs pictures, and data.cache_video_features leaves them out: use 'frozen'"
            )

    def _check_objective(self) -> None:
        model, sigmoid = self.model, self.objective.kind == "sigmoid"
        if sigmoid and (self.training.mixup or model.base_score != "v_m"):
            raise LexividError("objective.kind 'sigmoid' takes neither training.mixup nor model.base_score 'mean'")
        if self.data.synthetic_weight and not sigmoid:
            raise LexividError("data.synthetic_weight: several labels of a clip need objective.kind 'sigmoid'")
        if model.frozen_video and (model.temporal_branches or "interpolation" in self.objective.regularisers):
            raise LexividError(
                "model.temporal_branches and the regulariser 'interpolation' are of a trained video tower: set "
                "model.frozen_video to false"
            )

    def with_absolute_paths(self) -> Recipe:
        """Files and folders named from the root, so that a recipe that is stored means the same from anywhere."""
        model, labels, data = self.model, self.labels, self.data
        templates = model.templates if model.templates in template_names() else _absolute(model.templates)
        return replace(
            self,
            model=replace(
                model, backbone=lasting_name(model.backbone), init_from=_absolute(model.init_from), templates=templates
            ),
            labels=replace(labels, language_model=lasting_name(labels.language_model)),
            data=replace(
                data,
                class_split=_absolute(data.class_split),
                lists=_absolute(data.lists),
                names=_absolute(data.names),
            ),
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The streams that are shown, in the model's order."""
        asked = self.data.inputs
        if asked is None:
            return self.model.modalities
        known = [name for name in self.model.modalities if name in asked]
        return (*known, *(name for name in asked if name not in known))


def _absolute(path: str | None) -> str | None:
    return path if path is None else str(Path(path).absolute())


def load_recipe(name: str | Path | Recipe, settings: Iterable[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe by name ("lite-mov") or from a YAML file, with `settings` on top (see `load_settings`).

    Raises:
        LexividError: no such recipe, no YAML, or as `Settings.from_dict`.
    """
    return load_settings(Recipe, name, settings)


def recipe_names() -> list[str]:
    """The training recipes that come with the package."""
    return settings_names(Recipe)
