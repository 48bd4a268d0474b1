"""Read the JSON files that a run writes for itself, any of which may have been damaged since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weaksam.json_text import parse_json_text
from weaksam.regular_files import read_regular
from weaksam.store.columns import COLUMN_TYPES

_MOST_BYTES = 1 << 30
"""No record of a run is larger: a manifest has a line for each part."""


def read_written_json(path: Path) -> Any:
    """The JSON value in ``path``; None where the file is missing, unreadable, empty, cut short or too deep."""
    try:
        return parse_json_text(read_regular(path, _MOST_BYTES).decode("utf-8"), unique_keys=False)
    except (OSError, ValueError):
        return None


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None where there is none, or another value."""
    value = read_written_json(path)
    return value if isinstance(value, dict) else None


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
        and isinstance(part.get("rows"), int)
        and isinstance(part.get("sha256"), str)
    )
