"""Settings that a short YAML file fills: frozen dataclasses, nested, checked key by key and value by value.

YAML (a file, or the name of one in lexivid/recipes) -> a `Settings` class, such as `lexivid.training.recipe.Recipe`. A
key that does not exist is an error that names the nearest one that does; `key=value` settings with dotted keys go on
top. A dataclass may hold `renamed`, a mapping of old keys to new ones: old ones are read with a FutureWarning.
"""

from __future__ import annotations

import difflib
import math
import types
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lexivid.errors import LexividError, MissingExtraError

if TYPE_CHECKING:
    from typing_extensions import Self

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Settings:
    """What a recipe file holds. `name` is the file's; `about` says what it is. Sections are dataclasses."""

    name: str = ""
    about: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As YAML and JSON types."""
        return _plain(asdict(self))

    def to_yaml(self) -> str:
        """A file that `load_settings` reads back to the same settings."""
        return _yaml().safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`; what is left out has its default.

        Raises:
            LexividError: an unknown key (the nearest known one is named), or a value of the wrong kind or out of range.
        """
        return _build(cls, values, "", cls)

    def with_settings(self, settings: Iterable[str] | Mapping[str, Any]) -> Self:
        """The same with settings on top: "training.lr=3e-4" strings, or a mapping of dotted keys.

        Raises:
            LexividError: as `from_dict`, or a string without "=".
        """
        if isinstance(settings, str):
            settings = [settings]
        if not isinstance(settings, Mapping):
            settings = dict(_parse_setting(text) for text in settings)
        values = self.to_dict()
        for key, value in settings.items():
            _set(values, key, value, type(self))
        return self.from_dict(values)


AnySettings = TypeVar("AnySettings", bound=Settings)


def load_settings(
    kind: type[AnySettings], name: str | Path | AnySettings, settings: Iterable[str] | Mapping[str, Any] = ()
) -> AnySettings:
    """Read a recipe of this kind by name or from a YAML file, with `settings` on top (`Settings.with_settings`); a
    recipe that is read already gets them too.

    Raises:
        LexividError: no such recipe, no YAML, or as `Settings.from_dict`.
    """
    return name.with_settings(settings) if isinstance(name, Settings) else load_one_of((kind,), name, settings)


def load_one_of(
    kinds: Sequence[type[AnySettings]], name: str | Path, settings: Iterable[str] | Mapping[str, Any] = ()
) -> AnySettings:
    """As `load_settings`, of the kind that has most of the recipe's sections; of several such, the first."""
    values = _read(name, [known for kind in kinds for known in settings_names(kind)])
    kind = max(kinds, key=lambda kind: len({item.name for item in fields(kind)} & {_new_key(kind, k) for k in values}))
    return kind.from_dict(values).with_settings(settings)


def _read(name: str | Path, known: Sequence[str]) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in SUFFIXES or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LexividError(f"recipe {str(name)!r} cannot be read: {getattr(error, 'strerror', error)}") from None
        stem = path.stem
    else:
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
    return {"name": stem} | values


def settings_names(kind: type[Settings]) -> list[str]:
    """The recipes of this kind that come with the package: those whose sections are its own."""
    names = {item.name for item in fields(kind)}
    files = (resources.files("lexivid") / "recipes").iterdir()
    texts = {f.name.removesuffix(".yaml"): f.read_text(encoding="utf-8") for f in files if f.name.endswith(".yaml")}
    yaml = _yaml()
    return sorted(name for name, text in texts.items() if names.issuperset(yaml.safe_load(text) or {}))


def to_yaml_text(value: Any) -> str:
    """One value of a setting on one line, as YAML."""
    text = _yaml().safe_dump(_plain(value), default_flow_style=True, allow_unicode=True, width=10_000)
    return str(text).removesuffix("...\n").strip()


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


def _set(values: dict[str, Any], dotted: str, value: Any, root: type[Settings]) -> None:
    *sections, last = (old := dotted.split("."))
    kind: Any = root
    new = []
    for place, section in enumerate(sections):
        new.append(section := _new_key(kind, section))
        if not isinstance(values.get(section), dict):
            raise LexividError(_unknown(".".join(old[: place + 1]), _all_keys(root)))
        values, kind = values[section], get_type_hints(kind)[section]
    new.append(last := _new_key(kind, last))
    if new != old:
        _warn_renamed(dotted, ".".join(new))
    if last not in values or isinstance(values[last], dict):
        raise LexividError(_unknown(dotted, _all_keys(root)))
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


def _build(cls: Any, values: Any, where: str, root: type[Settings]) -> Any:
    if not isinstance(values, Mapping):
        raise LexividError(f"recipe: {where.rstrip('.')!r} is a section and must hold keys; got {values!r}")
    hints = get_type_hints(cls)
    known = {item.name for item in fields(cls)}
    for old in [key for key in values if _new_key(cls, key) != key]:
        new = _new_key(cls, old)
        if new in values:
            raise LexividError(f"recipe: {where}{old} is the old name of {where}{new}; give the new one alone")
        _warn_renamed(f"{where}{old}", f"{where}{new}")
        values = {new if key == old else key: value for key, value in values.items()}
    for key in values:
        if key not in known:
            raise LexividError(_unknown(f"{where}{key}", _all_keys(root)))
    made = {}
    for key, value in values.items():
        kind = hints[key]
        made[key] = (
            _build(kind, value, f"{where}{key}.", root) if is_dataclass(kind) else _coerce(value, kind, where + key)
        )
    return cls(**made)


def _new_key(cls: Any, key: str) -> str:
    """A key of a section as it is called now."""
    renamed: Mapping[str, str] = getattr(cls, "renamed", {})
    return renamed.get(key, key)


def _warn_renamed(old: str, new: str) -> None:
    text = f"the recipe key {old!r} is called {new!r} now: the old name will stop working in the next release"
    warnings.warn(text, FutureWarning, stacklevel=3)


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


def at_least(section: Any, where: str = "", /, **limits: float) -> None:
    """Check numbers of a section of a recipe. `where`: what its keys begin with, such as "training.".

    Raises:
        LexividError: one is below its limit.
    """
    for name, least in limits.items():
        if getattr(section, name) < least:
            raise LexividError(f"{where}{name} must be at least {least:g}; got {getattr(section, name)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
