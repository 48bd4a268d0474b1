"""Print lines that any terminal can take: what a file's name or its content could do to one is escaped."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of writing, and bytes that are no UTF-8."""
_BLOCK = 4096
"""Texts that are looked at together."""


def printable(text: str) -> str:
    r"""``text`` that any terminal, log or page can take: what is not plain text is escaped, as in ``caf\xe9.jpg``."""
    return _UNPRINTABLE.sub(lambda match: _escaped(match.group()), text)


def all_printable(texts: Iterable[str]) -> Iterator[str]:
    """`printable` of each of ``texts``, of which there may be millions; no texts give none."""
    waiting = iter(texts)
    while block := list(islice(waiting, _BLOCK)):
        yield from block if "".join(block).isprintable() else map(printable, block)


def quoted(text: str) -> str:
    """``text`` in quotes, as messages show what was found, with what is not plain text escaped once."""
    return f"'{printable(text)}'"


_silent = False


@contextmanager
def silence() -> Iterator[None]:
    """Inside, `say` and progress print nothing: another process says the same."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def is_silent() -> bool:
    """Whether a block of `silence` runs."""
    return _silent


def say(text: str, *, error: bool = False) -> None:
    """Print ``text``, one or more lines, at once, to the output or, with ``error``, to that for errors.

    Every line of a command goes through here, for a name may be in any of them: `printable` is applied to each line.
    """
    if _silent:
        return
    lines = "\n".join(map(printable, text.split("\n")))
    stream = sys.stderr if error else sys.stdout
    stream.write(f"{lines}\n")
    stream.flush()


def _escaped(letter: str) -> str:
    """One character as Python writes it in a string; a byte that could not be decoded as that byte."""
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
