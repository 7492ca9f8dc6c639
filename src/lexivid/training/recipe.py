"""A recipe: everything that decides what a training run makes, as frozen dataclasses that a short YAML file fills.

YAML (a file, or the name of one in lexivid/recipes) -> `Recipe`. A key that does not exist is an error that names the
nearest one that does; `key=value` settings with dotted keys go on top. Where the MOV paper has a number, the
default is that number (section 4.2), and the recipes of the paper state it again, to be read beside it.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lexivid.errors import LexividError, MissingExtraError

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class ModelRecipe:
    """The network (see `lexivid.models.mov.MOVConfig`). None: what suits the backbone.

    Args:
        backbone: "lite", a CLIP-family model of the Hub (best with "@revision"), or a folder.
        modalities: "video" first, then "flow", "audio" or both.
        frozen_video: false trains the video tower too, which MOV does not (figure 1, a to d).
        trainable_layers: of the trained towers, the last n; None for all (table 6).
        tau_v_ratio: tau_v in units of the backbone's temperature, where tau_v is None.
        base_score: what scores base classes: "v_m" (eq. 10), or "mean" of all streams' own softmaxes, which with
            `num_cross_layers: 0` is the score fusion of table 5.
        templates: sentences around a label; None: the backbone's.
        spectrogram_pooling, audio_batch_norm_momentum: of the audio tower, see `MOVConfig`.
        init_from: a run folder whose weights training starts from, as far as names and shapes agree.
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
    scale_tokens: bool = True
    zero_init: bool = True
    base_score: Literal["v_m", "mean"] = "v_m"
    templates: str | None = None
    spectrogram_pooling: tuple[int, ...] | None = None
    audio_batch_norm_momentum: float | None = 0.1
    init_from: str | None = None

    def mov_settings(self) -> dict[str, Any]:
        """The keyword arguments of `MOVConfig.for_backbone`, `tau_v_ratio` apart."""
        own = ("backbone", "base_score", "templates", "init_from", "tau_v_ratio")
        as_asked = ("trainable_layers", "audio_batch_norm_momentum")  # None means something
        return {k: v for k, v in asdict(self).items() if k not in own and (v is not None or k in as_asked)}


@dataclass(frozen=True)
class DataRecipe:
    """The clips and what is drawn from them (section 4.1, 4.2).

    Args:
        inputs: the streams that are shown; None: all of the model's. `[flow]` with a model of video and flow trains
            its flow path alone.
        kind, list_number, lists, names: layout of the data folder, which of UCF101's lists and where they are, what
            classes are called; see `lexivid.data.dataset.read_dataset`.
        class_split: JSON file with the base and novel classes; None: `base_fraction` of the classes, drawn with
            `split_seed`, are base, or all of them where that is None.
        held_out: share of the base clips kept back, by group where groups are known, for choosing and calibrating.
        num_frames, stride, stride_rate: of a training clip; stride None spreads the frames over the whole file.
        num_windows: from how many places in time training clips are drawn; None: 4, or 1 for spread frames.
        flow: algorithm of optical flow. flow_size: short side of the pictures it is computed from, pixels. flow_crop:
            side of the crops that the flow tower sees; None: the backbone's. Its cost is the square of this.
        flow_from: "flow"; the controls "frames" (the flow path sees the pictures) and "frozen" (it gets the frozen
            tower's features, untrained).
        audio_s: length of a training crop in seconds. spec_time, spec_mel: SpecAugment's longest masks, in steps of
            10 ms and in mel bins.
        crop_scale: smallest share of the picture's area in a random crop. mirror, colour: see `lexivid.data.augment`.
        cache_video_features: K: the frozen tower's features are computed once for K augmented looks at each clip, and
            kept on disk; epoch e uses look e mod K. 0: computed anew in every epoch.
        cache_clips: keep decoded pictures, flow and spectrograms on disk (see `lexivid.data.clip_cache`).
        num_workers: processes that decode.
    """

    inputs: tuple[str, ...] | None = None
    kind: Literal["auto", "csv", "folders", "ucf101"] = "auto"
    list_number: int | None = None
    lists: str | None = None
    names: str | None = None
    class_split: str | None = None
    base_fraction: float | None = None
    split_seed: int = 0
    held_out: float = 0.1
    num_frames: int = 16
    stride: int | None = 4
    stride_rate: float | Literal["native"] = "native"
    num_windows: int | None = None
    flow: Literal["tvl1", "tvl1-fast", "dis"] = "tvl1"
    flow_size: int | None = None
    flow_crop: int | None = None
    flow_from: Literal["flow", "frames", "frozen"] = "flow"
    audio_s: float = 8.0
    spec_time: int = 192
    spec_mel: int = 48
    crop_scale: float = 0.08
    mirror: bool = True
    colour: float = 0.0
    cache_video_features: int = 0
    cache_clips: bool = True
    num_workers: int = 2

    def __post_init__(self) -> None:
        _at_least(self, held_out=0, num_frames=1, cache_video_features=0, num_workers=0, audio_s=0.1)
        if self.held_out >= 1:
            raise LexividError(f"data.held_out is a share below 1; got {self.held_out}")
        if self.base_fraction is not None and not 0 < self.base_fraction < 1:
            raise LexividError(f"data.base_fraction is a share between 0 and 1; got {self.base_fraction}")


@dataclass(frozen=True)
class TrainingRecipe:
    """The optimisation (section 4.2: AdamW, half-cosine decay, no warm-up).

    Args:
        batch_size: clips in one step of the optimiser, over all processes together: the same recipe trains the same
            model on one process and on many. micro_batch: clips that one process holds at a time; None: all its own.
        lr: peak learning rate. tower_lr: of the flow and audio towers; None: the same.
        weight_decay: on matrices only; norms, biases and embeddings of one dimension are not decayed.
        warmup_steps: linear, before the half cosine over the rest.
        clip_norm: of the gradient, over all parameters; None: not clipped.
        mixup: beta distribution's parameter for sound alone (models without pictures); 0: off.
        precision: "float32" or "bfloat16" (autocast; weights stay float32).
        checkpoint_every: steps between checkpoints; there is one after every epoch too. 0: only after the last, for
            runs of a minute, which start over sooner than they write. keep_checkpoints: the last n.
        evaluate_every: epochs between looks at the held-out clips (and always after the last).
        export: which weights the run folder offers: those after the "last" step or the "best" on held-out clips.
    """

    epochs: int = 100
    batch_size: int = 1024
    micro_batch: int | None = None
    lr: float = 1e-4
    tower_lr: float | None = None
    weight_decay: float = 0.05
    betas: tuple[float, ...] = (0.9, 0.999)
    warmup_steps: int = 0
    clip_norm: float | None = None
    mixup: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    evaluate_every: int = 1
    export: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        _at_least(
            self, epochs=0, batch_size=1, lr=0, weight_decay=0, warmup_steps=0, mixup=0, checkpoint_every=0,
            keep_checkpoints=1, evaluate_every=1, seed=0,
        )  # fmt: skip
        if self.micro_batch is not None:
            _at_least(self, micro_batch=1)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise LexividError(f"training.clip_norm must be above 0, or null for none; got {self.clip_norm}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise LexividError(f"training.betas are two numbers in [0, 1); got {list(self.betas)}")


@dataclass(frozen=True)
class Recipe:
    """One training run. `name` is the file's; `about` says what it is, with its place in the paper."""

    name: str = ""
    about: str = ""
    model: ModelRecipe = field(default_factory=ModelRecipe)
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

    @property
    def inputs(self) -> tuple[str, ...]:
        """The streams that are shown, in the model's order."""
        asked = self.data.inputs
        if asked is None:
            return self.model.modalities
        known = [name for name in self.model.modalities if name in asked]
        return (*known, *(name for name in asked if name not in known))

    def to_dict(self) -> dict[str, Any]:
        """As YAML and JSON types."""
        return _plain(asdict(self))

    def to_yaml(self) -> str:
        """A file that `load_recipe` reads back to the same recipe."""
        return _yaml().safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The reverse of `to_dict`; what is left out has its default.

        Raises:
            LexividError: an unknown key (the nearest known one is named), or a value of the wrong kind or out of range.
        """
        return _build(cls, values, "")

    def with_settings(self, settings: Iterable[str] | Mapping[str, Any]) -> Recipe:
        """This recipe with settings on top: "training.lr=3e-4" strings, or a mapping of dotted keys.

        Raises:
            LexividError: as `from_dict`, or a string without "=".
        """
        if isinstance(settings, str):
            settings = [settings]
        if not isinstance(settings, Mapping):
            settings = dict(_parse_setting(text) for text in settings)
        values = self.to_dict()
        for key, value in settings.items():
            _set(values, key, value)
        return Recipe.from_dict(values)


def load_recipe(name: str | Path, settings: Iterable[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe by name ("lite-mov") or from a YAML file, with `settings` on top (see `Recipe.with_settings`).

    Raises:
        LexividError: no such recipe, no YAML, or as `Recipe.from_dict`.
    """
    path = Path(name)
    if path.suffix in SUFFIXES or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LexividError(f"recipe {str(name)!r} cannot be read: {getattr(error, 'strerror', error)}") from None
        stem = path.stem
    else:
        known = recipe_names()
        if str(name) not in known:
            near = difflib.get_close_matches(str(name), known, 1, 0.3)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LexividError(f"unknown recipe {str(name)!r}: {hint}give a YAML file, or one of {', '.join(known)}")
        text = (resources.files("lexivid") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        stem = str(name)
    yaml = _yaml()
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise LexividError(f"recipe {str(name)!r} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise LexividError(f"recipe {str(name)!r} must be a mapping of sections, such as 'training:'")
    return Recipe.from_dict({"name": stem} | values).with_settings(settings)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    files = (resources.files("lexivid") / "recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingExtraError('Training needs more packages: pip install "lexivid[train]"') from None
    return yaml


def _parse_setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise LexividError(f"setting {text!r} cannot be read: give KEY=VALUE, such as training.lr=3e-4")
    yaml = _yaml()
    try:
        return key.strip(), yaml.safe_load(value) if value.strip() else ""
    except yaml.YAMLError:
        return key.strip(), value.strip()


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for place, section in enumerate(sections):
        if not isinstance(values.get(section), dict):
            raise LexividError(_unknown(".".join(sections[: place + 1]), _all_keys(Recipe)))
        values = values[section]
    if last not in values or isinstance(values[last], dict):
        raise LexividError(_unknown(dotted, _all_keys(Recipe)))
    values[last] = value


def _all_keys(cls: Any, prefix: str = "") -> list[str]:
    hints = get_type_hints(cls)
    keys = []
    for item in fields(cls):
        kind = hints[item.name]
        keys += _all_keys(kind, f"{prefix}{item.name}.") if is_dataclass(kind) else [prefix + item.name]
    return keys


def _unknown(key: str, known: list[str]) -> str:
    """Names the nearest known key: by its whole name, or by its last part in another section."""
    by_last = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, known, 1, 0.0)
    last = difflib.get_close_matches(key.rpartition(".")[2], by_last, 1, 0.8)
    best = by_last[last[0]] if last else near[0]
    return f"unknown recipe key {key!r}: did you mean {best!r}?"


def _build(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise LexividError(f"recipe: {where.rstrip('.')!r} is a section and must hold keys; got {values!r}")
    hints = get_type_hints(cls)
    known = {item.name for item in fields(cls)}
    for key in values:
        if key not in known:
            raise LexividError(_unknown(f"{where}{key}", _all_keys(Recipe)))
    made = {}
    for key, value in values.items():
        kind = hints[key]
        made[key] = _build(kind, value, f"{where}{key}.") if is_dataclass(kind) else _coerce(value, kind, where + key)
    return cls(**made)


def _coerce(value: Any, kind: Any, key: str) -> Any:
    """A YAML value as the field's type; "1e-4", which YAML reads as text, is a number where one is wanted."""
    if get_origin(kind) in (Union, types.UnionType):
        options = get_args(kind)
        if value is None and type(None) in options:
            return None
        for option in options:
            try:
                return _coerce(value, option, key)
            except LexividError:
                continue
    elif get_origin(kind) is Literal:
        if value in get_args(kind) and not isinstance(value, bool):
            return value
    elif get_origin(kind) is tuple:
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if isinstance(parts, list | tuple):
            return tuple(_coerce(part, get_args(kind)[0], key) for part in parts)
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif kind in (int, float):
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if math.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    elif kind is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise LexividError(f"recipe: {key} must be {_describe(kind)}; got {value!r}")


def _describe(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return " or ".join(repr(option) for option in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names[kind]


def _at_least(section: Any, **limits: float) -> None:
    for name, least in limits.items():
        if getattr(section, name) < least:
            where = type(section).__name__.removesuffix("Recipe").lower()
            raise LexividError(f"{where}.{name} must be at least {least:g}; got {getattr(section, name)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
