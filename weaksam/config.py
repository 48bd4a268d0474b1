"""Frozen typed settings, read from one YAML file plus ``key=value`` overrides."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class UserError(ValueError):
    """A mistake the user can mend: one sentence with what was wanted, what was found and what to do."""


class Settings(BaseModel):
    """Base of every settings class: frozen, and a key it does not know is refused.

    Fields named in ``_not_fingerprinted`` (a device, a number of workers, a path whose content is
    fingerprinted as an input) do not affect results and are left out of `fingerprint_of`. Fields named in
    ``_added_later`` are left out while they hold their default, so that what was made before they existed stays valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset()
    _added_later: ClassVar[frozenset[str]] = frozenset()


SettingsT = TypeVar("SettingsT", bound=BaseModel)
Location = tuple[str | int, ...]


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key written twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_settings(model_cls: type[SettingsT], path: Path | None, overrides: Sequence[str] = ()) -> SettingsT:
    """Settings from the YAML mapping at ``path`` (``None`` or an empty file: defaults only), then ``overrides``.

    An override is ``key=value`` with a dotted key (``backbone.weights=none``) and a YAML value; later ones win.
    Relative paths stay relative to the current directory. Raises `UserError` for a file that is missing, not
    YAML or not a mapping, a key that does not exist (the nearest one is named), a missing value or a wrong type.
    """
    values = {} if path is None else read_yaml_mapping(path)
    raw_texts: dict[Location, str] = {}
    for override in overrides:
        key, text = _split_override(override)
        _assign(values, key, _parse_value(override, text))
        raw_texts[key] = text
    source = "the overrides" if path is None else str(path)
    try:
        return model_cls.model_validate(_with_texts_where_wanted(model_cls, values, raw_texts))
    except ValidationError as error:
        raise UserError(_sentence(model_cls, error, source, raw_texts)) from None


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping. Raises `UserError` for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"wanted a YAML file at {path}, found nothing there: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"wanted a YAML text file at {path}, found one that cannot be read ({_short(error)})") from None
    try:
        values = _parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"wanted YAML in {path}, found an error: {_yaml_problem(error)}; mend that line") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"wanted a mapping of settings (key: value) in {path}, found a {_kind(values)}: see configs/")
    return values


def fingerprint_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of any JSON-like value or `Settings`, whatever the order of its keys.

    Settings are hashed without their ``_not_fingerprinted`` fields; a tuple equals a list and a path its text.
    """
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        left_out = value._not_fingerprinted if isinstance(value, Settings) else frozenset[str]()
        if isinstance(value, Settings):
            left_out |= {name for name in value._added_later if getattr(value, name) == fields[name].default}
        return {name: _canonical(getattr(value, name)) for name in fields if name not in left_out}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_canonical(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


# Reading one override


def _split_override(override: str) -> tuple[Location, str]:
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise UserError(f"wanted an override like backbone.weights=none, found {override!r}: write key=value")
    return parts, text.strip()


def _parse_value(override: str, text: str) -> Any:
    """The YAML value of an override; plain text is taken as it stands, so a path may hold ``#`` or ``: ``."""
    quoted = text[:1] in ("'", '"', "[", "{")
    try:
        value = _parse_yaml(text)
    except yaml.YAMLError as error:
        if quoted:
            raise UserError(f"wanted a YAML value in {override!r}, found an error: {_yaml_problem(error)}") from None
        return text
    return text if isinstance(value, str) and not quoted else value


def _assign(values: dict[str, Any], key: Location, value: Any) -> None:
    """Set ``values[a][b][c]`` for the key ``a.b.c``, making the sections on the way."""
    section: dict[Any, Any] = values
    for depth, name in enumerate(key[:-1], start=1):
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            parent = _dotted(key[:depth])
            raise UserError(f"cannot set {_dotted(key)}: {parent} is a {_kind(section)}, not a section of settings")
    section[key[-1]] = value


def _with_texts_where_wanted(
    model_cls: type[BaseModel], values: dict[str, Any], raw_texts: Mapping[Location, str]
) -> dict[str, Any]:
    """Where an override's field wants text but YAML read a number, date or boolean (``out=2024``), use the text."""
    try:
        model_cls.model_validate(values)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            location = problem["loc"]
            if problem["type"] in ("string_type", "path_type", "literal_error") and location in raw_texts:
                _assign(values, location, raw_texts[location])
    return values


# One sentence for a validation error


def _sentence(
    model_cls: type[BaseModel], error: ValidationError, source: str, raw_texts: Mapping[Location, str]
) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key often leaves its right name missing, so it is named first.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    location, kind = first["loc"], first["type"]
    where = f"override {_dotted(location)}={raw_texts[location]}" if location in raw_texts else source
    others = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
    if kind == "extra_forbidden":
        return f"{where}: unknown key '{_dotted(location)}'; {_suggestion(model_cls, location)}{others}"
    if kind == "missing":
        key = _dotted(location)
        return f"{where}: wanted a value for '{key}', found none: add it to the YAML or as {key}=VALUE{others}"
    found = f"found {_short(repr(first['input']))} ({_kind(first['input'])})"
    if kind in ("value_error", "assertion_error"):
        message = first["msg"].split(", ", 1)[-1]
        subject = f"'{_dotted(location)}'" if location else "these settings"
        return f"{where}: {subject} cannot be used: {message}{others}"
    wanted = "a section of settings" if kind == "model_type" else first["msg"].removeprefix("Input should be ")
    return f"{where}: wanted '{_dotted(location)}' to be {wanted}, {found}: change it{others}"


def _suggestion(model_cls: type[BaseModel], location: Location) -> str:
    """Name the nearest key beside the unknown one, else the nearest anywhere, else what there is."""
    parent, name = location[:-1], str(location[-1])
    keys = list(_all_keys(model_cls))
    pattern = tuple(part for part in parent if isinstance(part, str))
    siblings = [key for key in keys if key[:-1] == pattern]
    near = nearest(name, [key[-1] for key in siblings])
    if near is not None:
        return f"did you mean '{_dotted((*parent, near))}'?"
    near = nearest(name, [key[-1] for key in keys], cutoff=0.75)
    if near is not None:
        return f"did you mean '{_dotted(next(key for key in keys if key[-1] == near))}'?"
    return f"the keys there are {', '.join(key[-1] for key in siblings) or 'none'}"


def _all_keys(model_cls: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Every key of a settings class and of the sections in it, as a tuple of names."""
    for name, field in model_cls.model_fields.items():
        yield (name,)
        for section in _sections(field.annotation):
            yield from ((name, *rest) for rest in _all_keys(section))


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes inside an annotation such as ``SplitSettings | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _parse_yaml(text: str) -> Any:
    loader = _UniqueKeyLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f" in line {mark.line + 1}" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or _short(error)}{line}"


def _dotted(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location)


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "text", int: "whole number", float: "number", bool: "true/false"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _short(value: object, length: int = 80) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name in ``known`` most like ``name``, in any case; None where none reaches the likeness ``cutoff`` (0 to 1).

    The likeness is `difflib.SequenceMatcher.ratio`: 1 for equal names, 0 for names without a letter in common.
    """
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'apple'?)"`` where a known name is near, else nothing."""
    near = nearest(name, known)
    return "" if near is None else f" (did you mean {near!r}?)"


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Names joined by commas, the rest counted: ``a, b and 3 more``."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
