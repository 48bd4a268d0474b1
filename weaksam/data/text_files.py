"""Read text, JSON and YAML files, and say in one sentence what is wrong with a file that cannot be read."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from weaksam.config import UserError
from weaksam.json_text import RepeatedKeyError, parse_json_text
from weaksam.regular_files import open_regular
from weaksam.terminal import printable, quoted
from weaksam.yaml_text import YamlError, parse_yaml

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks other than UTF-8's, and what they declare; a mark that begins like another comes first."""
MAX_BYTES = 4 << 30
"""No text file is larger: the largest annotations in use have two gigabytes."""
_HEAD = 4096
"""Bytes at the beginning of a file that show whether it is a text."""


def is_utf8(text: str) -> bool:
    """Whether ``text``, such as a file's name, has no bytes that could not be decoded."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def read_text(path: Path, wanted: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 where a byte order mark says so; an empty file is no text.

    Line ends become ``\\n`` and the mark is left out. Raises `UserError` naming ``wanted`` and ``path`` where the file
    is missing, unreadable or in another encoding.
    """
    with opened_text(path, wanted) as (file, encoding):
        data = file.read()
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
        with opened_text(path, wanted) as (file, encoding), io.TextIOWrapper(file, encoding=encoding) as lines:
            yield from lines
    except UnicodeDecodeError:
        read_text(path, wanted)  # says what is wrong
        raise


@contextlib.contextmanager
def opened_text(path: Path, wanted: str) -> Iterator[tuple[BinaryIO, str]]:
    """A text file, opened, and the encoding that its first bytes declare, else UTF-8; raises `UserError` otherwise."""
    try:
        with open_regular(path) as file:
            num_bytes, head = os.fstat(file.fileno()).st_size, file.read(_HEAD)
            file.seek(0)
            encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")
            if num_bytes > MAX_BYTES:
                raise OSError(errno.EFBIG, f"{num_bytes:,} bytes, over the limit of {MAX_BYTES:,}")
            if encoding == "utf-8-sig" and b"\0" in head:
                raise OSError(errno.EINVAL, "no text: it has null bytes")
            yield file, encoding
    except FileNotFoundError:
        raise UserError(f"wanted {wanted} at {path}, found nothing there: check the path") from None
    except OSError as error:
        raise UserError(
            f"wanted {wanted} at {path}, found a file that cannot be read ({error.strerror}): name a file that can"
        ) from None


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
        return parse_json_text(text)
    except RepeatedKeyError as error:
        raise UserError(
            f"wanted each key once in {path}, found {quoted(error.key)} twice in one object: join or remove "
            "one of the two"
        ) from None
    except (ValueError, RecursionError) as error:  # also for a number of too many digits
        raise UserError(f"wanted {wanted} at {path}, found text that is not JSON ({_fault(error)}): mend it") from None


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
            values.append((number, parse_json_text(line)))
        except RepeatedKeyError as error:
            raise UserError(
                f"wanted each key once in line {number} of {path}, found {quoted(error.key)} twice: remove one of "
                "the two"
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
    except YamlError as error:
        raise UserError(f"wanted {wanted} in {path}, found an error ({error}): mend it") from None
