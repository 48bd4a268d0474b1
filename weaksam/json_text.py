"""Parse JSON of bounded depth, in which no key comes twice in one object."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 100
"""Most brackets around a value: no format goes deeper than ten, and whoever walks through a value may recurse."""
_CHUNK = 1 << 20
_NO_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")
_STRING = re.compile(r'"(?:[^"\\]+|\\(?:.|\Z))*("|\Z)', re.DOTALL)
"""A string, also one that never ends: every quote begins a match, and so a text is read once."""


class RepeatedKeyError(ValueError):
    """``key`` was found twice in one JSON object, of which Python would keep the last value without a word."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def parse_json_text(text: str | bytes, *, unique_keys: bool = True) -> Any:
    """The JSON value in ``text``.

    Raises `ValueError`: `json.JSONDecodeError` where it is no JSON, `RepeatedKeyError`, where ``unique_keys``, for a
    key that comes twice, and a plain one for brackets deeper than `MAX_DEPTH` and numbers of too many digits.
    """
    text = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
    if is_deeper(text, MAX_DEPTH):
        raise ValueError(f"brackets more than {MAX_DEPTH} deep")
    return json.loads(text, object_pairs_hook=object_of_pairs if unique_keys else None)


def is_deeper(text: str, depth: int) -> bool:
    """Whether brackets in a JSON text, of lists and objects, lie more than ``depth`` in each other."""
    if not _without_levels(_brackets(text), depth):
        return False
    # Brackets inside of strings have no partner
    rest = _without_levels(_brackets(_STRING.sub("", text)), depth)
    if b"[]" in rest or b"{}" in rest:
        return True
    level = 0
    for bracket in rest:  # without a partner: no JSON, but a parser may go as deep
        level += 1 if bracket in b"[{" else -1
        if level > depth:
            return True
    return False


def _brackets(text: str) -> bytes:
    """The brackets of a text alone, in order."""
    chunks = (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))
    return b"".join(chunk.encode("utf-8", "surrogatepass").translate(None, _NO_BRACKETS) for chunk in chunks)


def _without_levels(brackets: bytes, depth: int) -> bytes:
    """``brackets`` after the innermost pairs were taken out ``depth`` times, or until none was left."""
    for _ in range(depth):
        rest = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(rest) == len(brackets):
            break
        brackets = rest
    return brackets


def object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of key and value pairs, for `json`; raises `RepeatedKeyError`, a `ValueError`."""
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RepeatedKeyError(key)
            seen.add(key)
    return values
