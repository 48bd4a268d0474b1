"""Read text, JSON and YAML files, and say in one sentence what is wrong with a file that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from weaksam.config import UserError


def read_text(path: Path, wanted: str) -> str:
    """The text of a UTF-8 file (a byte order mark is left out); an empty file is an empty text.

    Raises `UserError` naming ``wanted`` and ``path`` where the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"wanted {wanted} at {path}, found nothing there: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"wanted {wanted} at {path}, found a file that cannot be read ({error}): check it") from None


def read_json(path: Path, wanted: str) -> Any:
    """The content of a JSON file; raises `UserError` as `read_text` does, and where it is empty or not JSON."""
    text = read_text(path, wanted)
    if not text.strip():
        raise UserError(f"wanted {wanted} at {path}, found an empty file: write it again or name another")
    return parse_json(text, path, wanted)


def parse_json(text: str | bytes, path: Path, wanted: str) -> Any:
    """The JSON value in ``text``, which was found in ``path``; raises `UserError` where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also for a number of too many digits
        raise UserError(f"wanted {wanted} at {path}, found text that is not JSON ({error}): mend it") from None


def read_json_lines(path: Path, wanted: str) -> list[Any]:
    """The JSON value of every line that is not blank; raises `UserError` as `read_text` does, and for another line."""
    values = []
    for line in read_text(path, wanted).splitlines():
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"wanted one JSON object per line in {path}, found {line[:60]!r} ({error}): mend it"
            ) from None
    return values


def read_yaml(path: Path, wanted: str) -> Any:
    """The content of a YAML file, None where it is empty; raises `UserError` as `read_text` does, or for no YAML."""
    text = read_text(path, wanted)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        reason = " ".join(str(error).split())
        raise UserError(f"wanted {wanted} in {path}, found an error ({reason}): mend it") from None
