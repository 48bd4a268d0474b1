"""Parse YAML of bounded depth and number of values, in which no key comes twice in one mapping."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

MAX_DEPTH = 100
"""Most lists and mappings around a value."""
MAX_VALUES = 500_000
"""Most keys and values of a text, those that aliases (``*name``) stand for counted each time."""
_LONGEST_NUMBER = 1000
_NUMBER = re.compile(r"[-+.]?[0-9][0-9a-fA-FxXoO_:.]*")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser is ten times as fast


class YamlError(ValueError):
    """What is wrong with a YAML text, a phrase with the line where it is known."""


class _UniqueKeyLoader(_Loader):  # type: ignore[misc]
    """YAML's safe loader, which also refuses a key written twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value that a YAML text holds, None where it is empty; a key written twice in one mapping is an error.

    Raises `YamlError` for text that is no YAML or goes beyond a limit, and for a date that does not exist.
    """
    try:
        _check_size(text)
        loader = _UniqueKeyLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise YamlError(_problem(error)) from None
    except YamlError:
        raise
    except (ValueError, ArithmeticError, RecursionError, TypeError) as error:  # what building a date, a number raises
        raise YamlError(" ".join(str(error).split())[:200] or "a value that cannot be read") from None


def _check_size(text: str) -> None:
    """`YamlError` for a text that nests too deep, holds too many values or a number of too many digits."""
    sizes: dict[str, int] = {}  # of what each anchor stands for, once it is complete
    stack: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(event.anchor, None)
            stack.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = stack.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise YamlError(f"the alias *{event.anchor[:40]} without its own value before it{_line(event)}")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
            if event.implicit[0] and len(event.value) > _LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
                raise YamlError(f"a number of {len(event.value)} digits{_line(event)}")
        if len(stack) > MAX_DEPTH:
            raise YamlError(f"values more than {MAX_DEPTH} deep{_line(event)}")
        if total > MAX_VALUES:
            raise YamlError(f"more than {MAX_VALUES} values{_line(event)}")


def _line(event: yaml.Event) -> str:
    return f" in line {event.start_mark.line + 1}"


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f" in line {mark.line + 1}" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or ' '.join(str(error).split())[:80]}{line}"
