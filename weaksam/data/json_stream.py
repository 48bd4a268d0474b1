"""Read a large JSON file value by value, without holding the text or the whole value."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.data.text_files import opened_text, read_json
from weaksam.json_text import MAX_DEPTH, is_deeper, object_of_pairs

Part = tuple[str | None, int | None, Any]
"""The key of a member of the file's object (None in a list), the number of an entry in its list, and the value."""
Block = tuple[str | None, int | None, list[Any]]
"""Parts of one list that come after each other: key, number of the first, and values; else one value without number."""
_BLOCK = 1 << 18
"""Characters read at a time; a longer value takes more."""
_CUTS = 4
"""Ends of objects behind which the entries held are cut, before they are read one by one."""
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = frozenset(" \t\n\r,:]}")
"""What may stand behind a value."""
_BLANKS = frozenset(("", " ", "\t", "\n", "\r"))
_KEY_END = re.compile(r'"[ \t\n\r]*:')
_SCAN = json.JSONDecoder(object_pairs_hook=object_of_pairs).scan_once
_SCAN_ALL_KEYS = json.JSONDecoder().scan_once
"""It keeps the last of equal keys without a word."""


def stream_json(path: Path, wanted: str, lists: Collection[str] = ()) -> Iterator[Part]:
    """The parts of a JSON file in its order.

    Of an object each member, ``(key, None, value)``; where its key is among ``lists`` and its value a list, each entry
    of that, ``(key, number, entry)``, numbered from 0, or ``(key, None, [])``. Of a list each entry,
    ``(None, number, entry)``, or ``(None, None, [])``. Of another value that one, ``(None, None, value)``.
    Raises what `read_json` raises of the file, once the fault is reached.
    """
    for key, first, values in stream_blocks(path, wanted, lists):
        if first is None:
            yield key, None, values[0]
        else:
            yield from ((key, number, value) for number, value in enumerate(values, start=first))


def stream_blocks(path: Path, wanted: str, lists: Collection[str] = ()) -> Iterator[Block]:
    """The parts of a JSON file as of `stream_json`, as many entries of a list at a time as were read together."""
    try:
        with opened_text(path, wanted) as (file, encoding), io.TextIOWrapper(file, encoding=encoding) as text:
            yield from _Scanner(text).blocks(lists)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        read_json(path, wanted)  # says what is wrong
        raise UserError(f"wanted {wanted} at {path}, found text that is not JSON ({error}): mend it") from None


def _have_flat_objects(values: list[Any], text: str) -> bool:
    """Whether the list in ``text`` holds nothing but objects without other objects in them; False where in doubt."""
    return set(map(type, values)) == {dict} and text.count("{") == len(values)


def _num_keys(text: str) -> int:
    """How many keys a JSON text has, or more: a text within it may look like the end of a key."""
    if any(blank in text for blank in ('" ', '"\n', '"\t', '"\r')):
        return len(_KEY_END.findall(text))
    return text.count('":')


def _check_depth(text: str) -> None:
    """`RecursionError` for brackets deeper than whoever walks through the value should have to go."""
    if is_deeper(text, MAX_DEPTH):
        raise RecursionError(f"brackets more than {MAX_DEPTH} deep")


class _Scanner:
    """A place in a JSON text of which a piece is held; every method raises `ValueError` for other text."""

    def __init__(self, file: io.TextIOBase) -> None:
        self._file, self._text, self._at, self._ended = file, "", 0, False
        self._are_flat = True  # whether no object of a list had other objects in it so far

    def blocks(self, lists: Collection[str]) -> Iterator[Block]:
        """All of the text, see `stream_json`."""
        mark = self._peek()
        if mark == "[":
            yield from self._entries(None)
        elif mark == "{":
            yield from self._members(lists)
        else:
            yield None, None, [self._value()]
        if self._peek():
            raise ValueError("extra data")

    def _members(self, lists: Collection[str]) -> Iterator[Block]:
        keys: set[str] = set()
        for _ in self._items("}"):
            key = self._value() if self._peek() == '"' else None
            if not isinstance(key, str) or key in keys or self._peek() != ":":
                raise ValueError("no new key")
            keys.add(key)
            self._at += 1
            if key in lists and self._peek() == "[":
                yield from self._entries(key)
            else:
                yield key, None, [self._value()]

    def _entries(self, key: str | None) -> Iterator[Block]:
        number = 0
        for _ in self._items("]"):
            values = self._values()
            yield key, number, values
            number += len(values)
        if number == 0:
            yield key, None, [[]]

    def _items(self, closing: str) -> Iterator[None]:
        """Stop before each item of a list or an object, to be read by the caller; ends behind it."""
        self._at += 1
        if self._peek() == closing:
            self._at += 1
            return
        while True:
            yield
            mark = self._peek()
            self._at += 1
            if mark == closing:
                return
            if mark != ",":
                raise ValueError("no comma")

    def _peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            mark = self._text[self._at : self._at + 1]
            if mark in _BLANKS:  # also at the end
                self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
                mark = self._text[self._at : self._at + 1]
            if mark:
                return mark
            if not self._read():
                return ""

    def _values(self) -> list[Any]:
        """The next entries of a list, at least one: all those that are held whole, as they are read soonest together.

        What is cut behind an object and is a list within brackets can only be whole entries.
        """
        end = len(self._text)
        for _ in range(_CUTS):
            end = self._text.rfind("}", self._at, end)
            if end < 0:
                break
            with contextlib.suppress(StopIteration, ValueError):
                values, length = self._scan_list(f"[{self._text[self._at : end + 1]}]")
                _check_depth(self._text[self._at : end + 1])
                self._at += length - 2
                return values
        return [self._value()]

    def _scan_list(self, text: str) -> tuple[list[Any], int]:
        """The list in ``text`` and where it ends, read without looking at each key where that is enough."""
        if self._are_flat:
            values, length = _SCAN_ALL_KEYS(text, 0)
            in_list = text[:length]
            self._are_flat = _have_flat_objects(values, in_list)
            if self._are_flat and sum(map(len, values)) == _num_keys(in_list):
                return values, length
        return _SCAN(text, 0)

    def _value(self) -> Any:
        """The next value; what cannot be read is tried again with more text, as long as there is some."""
        if not self._peek():
            raise ValueError("no value")
        while True:
            try:
                value, end = _SCAN(self._text, self._at)
                if self._text[end : end + 1] in _AFTER or not self._read():  # a number may go on
                    _check_depth(self._text[self._at : end])
                    self._at = end
                    return value
            except (StopIteration, ValueError) as error:
                if not self._read():
                    raise ValueError("no value") from error

    def _read(self) -> bool:
        """Read on, twice as much where a value is long; whether there was more."""
        rest = self._text[self._at :]
        more = "" if self._ended else self._file.read(max(_BLOCK, len(rest)))
        self._ended = not more
        if more:
            self._text, self._at = rest + more, 0
        return bool(more)
