"""Describe every setting of a run: its key, type, default, range and sentence, read off the settings classes."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from weaksam.config import UserError
from weaksam.likeness import did_you_mean
from weaksam.pipeline.settings import RunSettings

WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    type(None): "null",
    Any: "anything",
}
"""Types as a reader of the table knows them."""
SIGNS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below", MinLen: "at least", MaxLen: "at most"}


@dataclass(frozen=True)
class Setting:
    """One row of the reference."""

    key: str
    """Dotted, as it is written on the command line; of a tagged section with the kind: ``wsod.seeds (mist).share``."""
    type: str
    default: str
    range: str
    """Such as ``at least 0, at most 1``; empty where the type says all."""
    sentence: str

    def as_dict(self) -> dict[str, str]:
        """The same as JSON-like values."""
        return asdict(self)


def settings_under(key: str | None = None) -> list[Setting]:
    """All settings whose key is ``key`` or lies below it, in the order of the classes; None: all of a run.

    Raises:
        UserError: no setting or section has that key.
    """
    every = list(_of_class(RunSettings, (), RunSettings.model_construct()))
    if key is None:
        return every
    plain = [_without_kinds(setting.key) for setting in every]
    chosen = [setting for setting, name in zip(every, plain, strict=True) if f"{name}.".startswith(f"{key}.")]
    if not chosen:
        parents = {name.rpartition(".")[0] for name in plain}
        guess = did_you_mean(key, sorted({*plain, *parents}))
        sections = ", ".join(dict.fromkeys(name.partition(".")[0] for name in plain))
        raise UserError(f"wanted a setting or a section, found {key!r}{guess}: the sections are {sections}")
    return chosen


def settings_text(settings: Sequence[Setting], width: int = 100) -> str:
    """The settings as text for a terminal of ``width`` columns: a line for key, type, range and default, then words."""
    blocks = []
    for setting in settings:
        limits = f", {setting.range}" if setting.range else ""
        head = f"{setting.key}={setting.default}  ({setting.type}{limits})"
        words = textwrap.wrap(setting.sentence, width - 4, break_long_words=False, break_on_hyphens=False)
        blocks.append("\n".join([head, *(f"    {line}" for line in words)]))
    return "\n".join(blocks)


def settings_markdown(settings: Sequence[Setting]) -> str:
    """The settings as a Markdown table."""
    rows = ["| setting | default | type and range | |", "|---|---|---|---|"]
    for setting in settings:
        kind = f"{setting.type}, {setting.range}" if setting.range else setting.type
        cells = (f"`{setting.key}`", f"`{setting.default}`", kind, setting.sentence)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _of_class(cls: type[BaseModel], parents: tuple[str, ...], defaults: BaseModel) -> Iterator[Setting]:
    """The settings of a class, sections opened; ``defaults`` are the values that hold where it stands."""
    for name, field in cls.model_fields.items():
        value = getattr(defaults, name, field.get_default(call_default_factory=True))
        sections = _sections(field.annotation)
        if not sections:
            yield _row(cls, (*parents, name), field, value)
            continue
        tag = field.discriminator if isinstance(field.discriminator, str) else None
        if tag is not None or value is None:
            yield _row(cls, (*parents, name), field, getattr(value, tag) if tag and value is not None else value)
        for section in sections:
            kind = "" if tag is None else f" ({_kind(section, tag)})"
            inside = value if isinstance(value, section) else section.model_construct()
            rows = _of_class(section, (*parents, name + kind), inside)
            yield from (row for row in rows if tag is None or not row.key.endswith(f"{kind}.{tag}"))


def _row(cls: type[BaseModel], path: tuple[str, ...], field: FieldInfo, value: Any) -> Setting:
    """The row of one field."""
    sentence = field.description or _attribute_docstrings(cls).get(path[-1], "")
    tag = field.discriminator
    kinds = [_kind(section, tag) for section in _sections(field.annotation)] if isinstance(tag, str) else []
    words = " | ".join(kinds) or _type_words(field.annotation)
    limits = ", ".join(f"{SIGNS[type(limit)]} {_limit(limit):g}" for limit in field.metadata if type(limit) in SIGNS)
    return Setting(".".join(path), words, _default_words(field, value), limits, " ".join(sentence.split()))


def _kind(section: type[BaseModel], tag: str) -> str:
    """The word of one kind of a tagged section."""
    return str(get_args(section.model_fields[tag].annotation)[0])


def _limit(limit: Any) -> float:
    """The number of a limit, its one field."""
    [field] = fields(limit)
    return float(getattr(limit, field.name))


def _default_words(field: FieldInfo, value: Any) -> str:
    """A default as it is written in YAML; three dots where a value must be given."""
    if field.is_required():
        return "..."
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_default_words(field, item) for item in value) + "]"
    return str(value)


def _type_words(annotation: Any) -> str:
    """A type in words: choices by name, several with ``or``."""
    if annotation in WORDS:
        return WORDS[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_words(parts[0])
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_words(part) for part in parts)
    if origin in (tuple, list):
        return "list of " + _type_words(parts[0])
    if origin is not None and parts:
        return f"mapping to {_type_words(parts[-1])}"
    return getattr(annotation, "__name__", str(annotation))


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _without_kinds(key: str) -> str:
    """A key without the kinds of its tagged sections: ``wsod.seeds (mist).share`` is ``wsod.seeds.share``."""
    return ".".join(part.split(" (")[0] for part in key.split("."))


@cache
def _attribute_docstrings(cls: type[BaseModel]) -> Mapping[str, str]:
    """The text below each field of a class and of its bases, by name; the class's own before its bases'."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        [written] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        statements = written.body if isinstance(written, ast.ClassDef) else []
        for field, after in pairwise(statements):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
                texts[field.target.id] = inspect.cleandoc(str(ast.literal_eval(after.value)))
    return texts
