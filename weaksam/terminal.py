"""Print lines that any terminal can take: what a file's name or its content could do to one is escaped."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Literal, TextIO

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


Style = Literal["bold", "red", "yellow", "green"]
_CODES: dict[Style, str] = {"bold": "1", "red": "31", "yellow": "33", "green": "32"}
_modes = {"silent": False, "quiet": False, "aside": False}
"""What holds now, see `silence`, `quiet` and `aside`."""


@contextmanager
def _mode(name: str) -> Iterator[None]:
    before, _modes[name] = _modes[name], True
    try:
        yield
    finally:
        _modes[name] = before


def silence() -> AbstractContextManager[None]:
    """Inside, nothing is printed: another process says the same."""
    return _mode("silent")


def quiet() -> AbstractContextManager[None]:
    """Inside, `say` and progress print nothing; what a command was asked for (`answer`) is printed."""
    return _mode("quiet")


def aside() -> AbstractContextManager[None]:
    """Inside, what `say` prints goes to the errors: the output belongs to what is printed by `answer`."""
    return _mode("aside")


def is_silent() -> bool:
    """Whether a block of `silence` or `quiet` runs."""
    return _modes["silent"] or _modes["quiet"]


def takes_colours(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that shows colours; not where NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str, *, error: bool = False, style: Style | None = None) -> None:
    """Print ``text``, one or more lines, at once, to the output or, with ``error``, to that for errors.

    Every line of a command goes through here or `answer`, for a name may be in any of them: `printable` is applied to
    each line. ``style`` shows on terminals alone.
    """
    if not is_silent():
        _write(text, sys.stderr if error or _modes["aside"] else sys.stdout, style)


def answer(text: str, *, style: Style | None = None) -> None:
    """Print what a command was asked for, as `say` does, to the output; in a block of `quiet` too."""
    if not _modes["silent"]:
        _write(text, sys.stdout, style)


def _write(text: str, stream: TextIO, style: Style | None) -> None:
    lines = "\n".join(map(printable, text.split("\n")))
    if style is not None and takes_colours(stream):
        lines = f"\x1b[{_CODES[style]}m{lines}\x1b[0m"
    stream.write(f"{lines}\n")
    stream.flush()


def _escaped(letter: str) -> str:
    """One character as Python writes it in a string; a byte that could not be decoded as that byte."""
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
