"""Read frozen, typed settings from one YAML file and ``key=value`` overrides, and compute their fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from weaksam.likeness import did_you_mean, nearest
from weaksam.regular_files import read_regular
from weaksam.yaml_text import YamlError, parse_yaml

_MOST_BYTES = 16 << 20
"""No file of settings is larger."""


class UserError(ValueError):
    """A mistake the user can mend: one sentence with what was wanted, what was found and what to do."""


class Settings(BaseModel):
    """Base of every settings class: frozen, and a key it does not know is refused.

    Fields named in ``_not_fingerprinted`` (a device, a number of workers, a path whose content is
    fingerprinted as an input) do not affect results and are left out of `fingerprint_of`.

    ``_as_before`` maps a field that came later to the value that means what was done before there was one. At that
    value, default or not, it is left out of `fingerprint_of`, so that what was stored before is found again. The
    mappings of all bases count.

    ``_renamed`` maps a key that had another name, or ``key=value`` for such a value, to what the user writes now, in
    which ``{section}`` stands for the section's own dotted name: ``{"seed_share": "{section}seeds.share"}``. The old
    one is then refused with a sentence that names the new one.

    A field of several settings classes with a ``discriminator`` is a tagged section: its bare word stands for the
    section of that kind (``seeds: mist`` for ``seeds: {rule: mist}``), and a section without the word is of the
    default's kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset()
    _as_before: ClassVar[Mapping[str, Any]] = {}
    _renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _name_kinds(cls, values: Any) -> Any:
        return _with_kinds(cls, values) if isinstance(values, Mapping) else values


SettingsT = TypeVar("SettingsT", bound=BaseModel)
Location = tuple[str | int, ...]


def load_settings(model_cls: type[SettingsT], path: Path | None, overrides: Sequence[str] = ()) -> SettingsT:
    """Settings from the YAML mapping at ``path`` (``None`` or an empty file: defaults only), then ``overrides``.

    An override is ``key=value`` with a dotted key (``backbone.weights=none``) and a YAML value; later ones win. For a
    section ``key=@FILE`` takes the section of that name from another YAML file, in place of all that it held.
    Relative paths stay relative to the current directory. Raises `UserError` for a file that is missing, not
    YAML or not a mapping, a key that does not exist (the nearest one is named), a missing value or a wrong type.
    """
    values = {} if path is None else read_yaml_mapping(path)
    raw_texts: dict[Location, str] = {}
    for override in overrides:
        key, text = _split_override(override)
        _assign(model_cls, values, key, _override_value(model_cls, key, override, text))
        raw_texts[key] = text
    source = "the overrides" if path is None else str(path)
    try:
        return model_cls.model_validate(_with_texts_where_wanted(model_cls, values, raw_texts))
    except ValidationError as error:
        raise UserError(_sentence(model_cls, error, source, raw_texts)) from None


def settings_from(model_cls: type[SettingsT], values: Mapping[str, Any], source: str) -> SettingsT:
    """Settings from ``values`` that were found in ``source``; raises `UserError` as `load_settings` does."""
    try:
        return model_cls.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(model_cls, error, source, {})) from None


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping. Raises `UserError` for anything else."""
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"wanted a YAML file at {path}, found nothing there: check the path") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"wanted a YAML text file at {path}, found one that cannot be read ({_short(_reason(error))})"
        ) from None
    try:
        values = parse_yaml(text)
    except YamlError as error:
        raise UserError(f"wanted YAML in {path}, found an error: {error}; mend that line") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"wanted a mapping of settings (key: value) in {path}, found a {_kind(values)}: see configs/")
    return values


def fingerprint_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of any JSON-like value or `Settings`, whatever the order of its keys.

    Settings are hashed without their ``_not_fingerprinted`` fields and those ``_as_before``. A tuple equals a list
    and a path its text.
    """
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        left_out = _left_out(value) if isinstance(value, Settings) else frozenset[str]()
        return {name: _canonical(getattr(value, name)) for name in fields if name not in left_out}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_canonical(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


def _left_out(settings: Settings) -> frozenset[str]:
    """The fields that the fingerprint of ``settings`` leaves out."""
    bases = type(settings).__mro__
    as_before = {name: value for base in reversed(bases) for name, value in vars(base).get("_as_before", {}).items()}
    before = {name for name, value in as_before.items() if getattr(settings, name, None) == value}
    return settings._not_fingerprinted | before


# Reading one override


def _split_override(override: str) -> tuple[Location, str]:
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise UserError(f"wanted an override like backbone.weights=none, found {override!r}: write key=value")
    return parts, text.strip()


def _override_value(model_cls: type[BaseModel], key: Location, override: str, text: str) -> Any:
    """The value of an override: of a section ``@FILE`` is the section of that name in that file, all else is YAML."""
    field = _key_at(model_cls, key).field
    if not text.startswith("@") or field is None or not _sections(field.annotation):
        return _parse_value(override, text)
    section: Any = read_yaml_mapping(Path(text[1:]))
    for name in key:
        section = section.get(name) if isinstance(section, dict) else None
    if section is None:
        raise UserError(f"wanted a section '{_dotted(key)}' in {text[1:]}, found none: name a file that has it")
    return section


def _parse_value(override: str, text: str) -> Any:
    """The YAML value of an override; plain text is taken as it stands, so a path may hold ``#`` or ``: ``."""
    quoted = text[:1] in ("'", '"', "[", "{")
    try:
        value = parse_yaml(text)
    except YamlError as error:
        if quoted:
            raise UserError(f"wanted a YAML value in {_short(override)!r}, found an error: {error}") from None
        return text
    return text if isinstance(value, str) and not quoted else value


def _assign(model_cls: type[BaseModel], values: dict[str, Any], key: Location, value: Any) -> None:
    """Set ``values[a][b][c]`` for the key ``a.b.c``, making the sections on the way."""
    section: dict[Any, Any] = values
    for depth, name in enumerate(key[:-1], start=1):
        if section.get(name) is None:
            section[name] = {}
        field = _key_at(model_cls, key[:depth]).field
        if isinstance(section[name], str) and field is not None and field.discriminator is not None:
            section[name] = {field.discriminator: section[name]}  # the bare word of a tagged section
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
            path = _key_at(model_cls, problem["loc"]).path
            if problem["type"] in ("string_type", "path_type", "literal_error") and path in raw_texts:
                _assign(model_cls, values, path, raw_texts[path])
    return values


# Tagged sections, and where a key belongs


def _with_kinds(model_cls: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` in which every tagged section says its kind."""
    complete = dict(values)
    for name, field in model_cls.model_fields.items():
        tag, section = field.discriminator, complete.get(name)
        if isinstance(tag, str) and isinstance(section, str):
            complete[name] = {tag: section}
        elif isinstance(tag, str) and isinstance(section, Mapping) and tag not in section:
            complete[name] = {tag: getattr(field.default, tag), **section}
    return complete


class _Key(NamedTuple):
    """A key: its ``path`` as the user writes it, the classes (``owners``) that its last name is in, and its ``field``.

    ``kinds``: where the owner is one kind of a tagged section, all kinds by tag; ``tag`` is that of the owner.
    """

    path: Location
    owners: list[type[BaseModel]]
    field: FieldInfo | None
    kinds: Mapping[str, type[BaseModel]]
    tag: str


def _key_at(model_cls: type[BaseModel], location: Location) -> _Key:
    """The key of a dotted name, or of a location that pydantic reports: there the tag follows a tagged section."""
    key, inside = _Key((), [], None, {}, ""), [model_cls]
    kinds: Mapping[str, type[BaseModel]] = {}
    tag = ""
    for part in location:
        if part in kinds and not tag:
            inside, tag = [kinds[str(part)]], str(part)
            continue
        if isinstance(part, int):
            key = key._replace(path=(*key.path, part))
            continue
        field = next((owner.model_fields[part] for owner in inside if part in owner.model_fields), None)
        key = _Key((*key.path, part), inside, field, kinds, tag)
        inside = [] if field is None else _sections(field.annotation)
        kinds, tag = {} if field is None else _kinds(field), ""
    return key


def _kinds(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The settings classes of a tagged section by their tag; nothing for any other field."""
    if not isinstance(field.discriminator, str):
        return {}
    sections = _sections(field.annotation)
    return {tag: item for item in sections for tag in get_args(item.model_fields[field.discriminator].annotation)}


# One sentence for a validation error


def _sentence(
    model_cls: type[BaseModel], error: ValidationError, source: str, raw_texts: Mapping[Location, str]
) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key often leaves its right name missing, so it is named first.
    problem = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    key, kind = _key_at(model_cls, problem["loc"]), problem["type"]
    name = _dotted(key.path)
    others = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
    where = f"{_origin(key, kind, source, raw_texts)}: "
    new = _new_spelling(key, problem)
    if new is not None:
        return f"{where}{new}{others}"
    if kind == "extra_forbidden":
        return f"{where}{_unknown(model_cls, key)}{others}"
    if kind == "missing":
        return f"{where}wanted a value for '{name}', found none: add it to the YAML or as {name}=VALUE{others}"
    if kind in ("value_error", "assertion_error"):
        message = problem["msg"].split(", ", 1)[-1]
        subject = f"'{name}'" if key.path else "these settings"
        return f"{where}{subject} cannot be used: {message}{others}"
    return f"{where}{_wanted(key, problem)}{others}"


def _origin(key: _Key, kind: str, source: str, raw_texts: Mapping[Location, str]) -> str:
    """The override that caused a problem, else the file."""
    tag = None if key.field is None else key.field.discriminator
    for path, text in raw_texts.items():
        below = path[len(key.path) :] if path[: len(key.path)] == key.path else None
        if below == () or (below and kind == "extra_forbidden") or (below == (tag,) and kind == "union_tag_invalid"):
            return f"override {_dotted(path)}={text}"
    return source


def _new_spelling(key: _Key, problem: ErrorDetails) -> str | None:
    """What a renamed key or value is called now, as a sentence; None for what never had another name."""
    old = str(key.path[-1]) if key.path else ""
    if problem["type"] != "extra_forbidden":
        old += f"={problem['ctx']['tag'] if problem['type'] == 'union_tag_invalid' else problem['input']}"
    section = "".join(f"{part}." for part in key.path[:-1])
    for owner in key.owners:
        renamed = owner._renamed if issubclass(owner, Settings) else {}
        if old in renamed:
            return f"{section}{old} is now {renamed[old].format(section=section)}: rename it"
    return None


def _wanted(key: _Key, problem: ErrorDetails) -> str:
    """What was wanted of a value and what was found."""
    kind, name, value = problem["type"], _dotted(key.path), problem["input"]
    wanted, guess = problem["msg"].removeprefix("Input should be "), ""
    if kind in ("model_type", "model_attributes_type"):
        wanted = "a section of settings"
        if key.field is not None and _kinds(key.field):
            wanted = f"{_one_of(_kinds(key.field))}, or {wanted}"
    elif kind == "union_tag_invalid" and key.field is not None:
        tag = str(key.field.discriminator)
        name, value = f"{name}.{tag}", value[tag]
        wanted, guess = _one_of(_kinds(key.field)), did_you_mean(str(value), _kinds(key.field))
    return f"wanted '{name}' to be {wanted}, found {_short(repr(value))} ({_kind(value)}){guess}: change it"


def _one_of(names: Iterable[str]) -> str:
    """Names as pydantic lists them: ``'a', 'b' or 'c'``."""
    *most, last = [repr(name) for name in names]
    return f"{', '.join(most)} or {last}" if most else last


def _unknown(model_cls: type[BaseModel], key: _Key) -> str:
    """Say that a key is unknown, and name its kind of section, else the nearest key beside it, anywhere, or all."""
    *parent, name = key.path
    of_kinds = [tag for tag, section in key.kinds.items() if name in section.model_fields]
    if of_kinds:
        return (
            f"'{_dotted(key.path)}' belongs to {_dotted(parent)}={' or '.join(of_kinds)}, found "
            f"{_dotted(parent)}={key.tag}: set that one, or leave the key out"
        )
    unknown = f"unknown key '{_dotted(key.path)}'; "
    siblings = [sibling for owner in key.owners for sibling in owner.model_fields]
    near = nearest(str(name), siblings)
    if near is not None:
        return f"{unknown}did you mean '{_dotted((*parent, near))}'?"
    everywhere = {path[-1]: path for path in reversed(list(_all_keys(model_cls)))}  # the first of equal names stays
    near = nearest(str(name), everywhere, cutoff=0.75)
    if near is not None:
        return f"{unknown}did you mean '{_dotted(everywhere[near])}'?"
    return f"{unknown}the keys there are {', '.join(siblings) or 'none'}"


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


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in words."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _dotted(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location)


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "text", int: "whole number", float: "number", bool: "true/false"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _short(value: object, length: int = 80) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Names joined by commas, the rest counted: ``a, b and 3 more``."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
