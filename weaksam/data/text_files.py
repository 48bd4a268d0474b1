"""Read text, JSON and YAML files, and say in one sentence what is wrong with a file that cannot be read."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from weaksam.config import UserError, parse_yaml
from weaksam.store.regular_files import open_regular

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks other than UTF-8's, and what they declare; a mark that begins like another comes first."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of writing, and bytes that are no UTF-8."""


def printable(text: str) -> str:
    r"""``text`` that any terminal, log or page can take: what is not plain text is escaped, as in ``caf\xe9.jpg``."""
    return _UNPRINTABLE.sub(lambda match: _escaped(match.group()), text)


def quoted(text: str) -> str:
    """``text`` in quotes, as messages show what was found, with what is not plain text escaped once."""
    return f"'{printable(text)}'"


def is_utf8(text: str) -> bool:
    """Whether ``text``, such as a file's name, has no bytes that could not be decoded."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _escaped(letter: str) -> str:
    """One character as Python writes it in a string; a byte that could not be decoded as that byte."""
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")


def read_text(path: Path, wanted: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 where a byte order mark says so; an empty file is no text.

    Line ends become ``\\n`` and the mark is left out. Raises `UserError` naming ``wanted`` and ``path`` where the file
    is missing, unreadable or in another encoding.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"wanted {wanted} at {path}, found nothing there: check the path") from None
    except OSError as error:
        what = "a folder" if isinstance(error, IsADirectoryError) else error.strerror
        raise UserError(
            f"wanted {wanted} at {path}, found a file that cannot be read ({what}): name a file that can"
        ) from None
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"wanted {wanted} at {path}, {_undecodable(data, encoding, error)}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path, wanted: str) -> Iterator[str]:
    """The lines of a text file one after the other, each with its end ``\\n``, for files too large to hold.

    Everything else is as `read_text` has it; an error comes when its line is reached.
    """
    try:
        with open_regular(path) as file:
            encoding = _encoding(file.read(4))
            file.seek(0)
            with io.TextIOWrapper(file, encoding=encoding) as lines:
                yield from lines
    except (OSError, UnicodeDecodeError):
        read_text(path, wanted)  # says what is wrong
        raise


def _encoding(head: bytes) -> str:
    """The encoding that the first bytes of a file declare, else UTF-8."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")


def _undecodable(data: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    """What was found in a file that is not in ``encoding``, and what to do."""
    name = encoding.removesuffix("-sig")
    line = data[: error.start].count(b"\n") + 1
    return (
        f"found a file that cannot be read (byte 0x{data[error.start]:02x} in line {line} is not {name}): "
        "save it with the encoding UTF-8"
    )


def read_json(path: Path, wanted: str) -> Any:
    """The content of a JSON file; raises `UserError` as `read_text` does, and where it is empty or not JSON."""
    text = read_text(path, wanted)
    if not text.strip():
        raise UserError(f"wanted {wanted} at {path}, found an empty file: write it again or name another")
    return parse_json(text, path, wanted)


def parse_json(text: str | bytes, path: Path, wanted: str) -> Any:
    """The JSON value in ``text``, which was found in ``path``; raises `UserError` where it is none or a key repeats."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except _RepeatedKeyError as error:
        raise UserError(
            f"wanted each key once in {path}, found {error.key!r} twice in one object: join or remove one of the two"
        ) from None
    except (ValueError, RecursionError) as error:  # also for a number of too many digits
        raise UserError(f"wanted {wanted} at {path}, found text that is not JSON ({_fault(error)}): mend it") from None


class _RepeatedKeyError(ValueError):
    """``key`` was found twice in one JSON object, of which Python would keep the last value without a word."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = printable(key)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    keys = [key for key, _ in pairs]
    raise _RepeatedKeyError(next(key for index, key in enumerate(keys) if key in keys[:index]))


def _fault(error: Exception) -> str:
    """What is wrong with a JSON text, with its place."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg[:1].lower()}{error.msg[1:]}"
    return "brackets too deep" if isinstance(error, RecursionError) else str(error)


def read_json_lines(path: Path, wanted: str) -> list[tuple[int, Any]]:
    """Line number and JSON value of every line that is not blank; `UserError` as of `read_text`, and for another line.

    Lines end with ``\\n`` only: other separators may stand inside a text.
    """
    values = []
    for number, line in enumerate(read_text(path, wanted).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line, object_pairs_hook=_unique_keys)))
        except _RepeatedKeyError as error:
            raise UserError(
                f"wanted each key once in line {number} of {path}, found {error.key!r} twice: remove one of the two"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"wanted one JSON object per line in {path}, found {printable(line[:60])!r} in line {number} "
                f"({_fault(error)}): mend it"
            ) from None
    return values


def read_yaml(path: Path, wanted: str) -> Any:
    """The content of a YAML file, None where it is empty; raises `UserError` as `read_text` does, or for no YAML."""
    text = read_text(path, wanted)
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        reason = " ".join(str(error).split())
        raise UserError(f"wanted {wanted} in {path}, found an error ({reason}): mend it") from None
