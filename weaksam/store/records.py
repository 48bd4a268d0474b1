"""Write and read the JSON files that a run keeps for itself, any of which may be damaged between the two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weaksam.config import fingerprint_of
from weaksam.json_text import parse_json_text
from weaksam.regular_files import read_regular
from weaksam.store.columns import COLUMN_TYPES
from weaksam.store.files import json_text, write_text_atomic

HASH_KEY = "record_sha256"
"""The last entry of a record: the SHA-256 of the others, so that a flipped bit is told from what was written."""
_MOST_BYTES = 1 << 30
"""No record of a run is larger: a manifest has a line for each part."""


def write_record(path: Path, record: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write the JSON object ``record`` atomically, as `write_json_atomic` does, with the hash of its content in it."""
    content = json.loads(json_text(record))
    write_text_atomic(path, json_text({**content, HASH_KEY: fingerprint_of(content)}, indent))


def read_written_json(path: Path) -> Any:
    """The JSON value in ``path``; None where the file is missing, unreadable, empty, cut short or too deep."""
    try:
        return parse_json_text(read_regular(path, _MOST_BYTES).decode("utf-8"), unique_keys=False)
    except (OSError, ValueError):
        return None


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object that `write_record` wrote to ``path``, without its hash.

    None where there is none, another value, or one whose content is not what the hash in it was taken of. A record of
    an older version, or of another program, may have no hash.
    """
    value = read_written_json(path)
    if not isinstance(value, dict):
        return None
    content = {key: item for key, item in value.items() if key != HASH_KEY}
    return content if value.get(HASH_KEY) in (None, _hash_of(content)) else None


def _hash_of(content: dict[str, Any]) -> str:
    """The hash that a record of this content bears; empty for one that is nested too deeply to have been written."""
    try:
        return fingerprint_of(content)
    except (RecursionError, ValueError):  # what a damaged file may hold: brackets without end, text that is no Unicode
        return ""


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a store in ``path``; None where there is none or it is damaged: fields missing or of other kinds.

    ``format`` is a number, ``stage`` and ``fingerprint`` are texts, ``columns`` maps names to kinds of columns, and
    ``parts`` lists a file's name, rows and SHA-256 each.
    """
    manifest = read_record(path)
    if manifest is None or not isinstance(manifest.get("format"), int):
        return None
    texts = [manifest.get("stage"), manifest.get("fingerprint")]
    columns, parts = manifest.get("columns"), manifest.get("parts")
    if not all(isinstance(text, str) for text in texts) or not isinstance(columns, dict) or not isinstance(parts, list):
        return None
    known = all(isinstance(kind, str) and kind in COLUMN_TYPES for kind in columns.values())
    return manifest if known and all(_is_part(part) for part in parts) else None


def _is_part(part: Any) -> bool:
    return (
        isinstance(part, Mapping)
        and isinstance(part.get("file"), str)
        and Path(part["file"]).name == part["file"]
        and isinstance(part.get("rows"), int)
        and isinstance(part.get("sha256"), str)
    )
