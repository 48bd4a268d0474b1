"""Read tags from JSON values: objects of names by photo, or entries with a photo and its tags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weaksam.data.findings import Findings
from weaksam.data.formats import tag_columns as columns
from weaksam.data.formats.tag_cells import split_cell
from weaksam.data.formats.tag_rows import FLAGS, TagRow
from weaksam.data.json_stream import stream_json
from weaksam.data.photos import is_photo_name
from weaksam.data.text_files import printable, quoted


def json_rows(path: Path, findings: Findings) -> Iterator[TagRow]:
    """The rows of a JSON file: ``{"a.jpg": ["apple"]}`` or ``[{"file": "a.jpg", "tags": ["apple"]}]``, read one by one.

    Raises (or gathers) `UserError`, with the entry, for anything else.
    """
    for key, number, value in stream_json(path, "image tags"):
        if key is not None:
            yield from _mapped_rows({key: value}, "", path, findings)
        elif number is not None:
            yield from _entry_row(value, f"entry {number + 1}", path, findings)
        elif value != []:
            findings.fault(
                f"wanted an object or a list of image tags in {path}, found {_shown(value)}: write "
                '{"a.jpg": ["apple"]}'
            )


def line_rows(entry: Any, number: int, path: Path, findings: Findings) -> Iterator[TagRow]:
    """The rows of one line of JSONL: one ``{"file": ..., "tags": ...}``, or any number of ``name: tags``."""
    keys = list(entry) if isinstance(entry, dict) else []
    if keys and all(columns.file_name_rank(key) == 2 for key in keys):
        yield from _mapped_rows(entry, f"line {number}, ", path, findings)
    else:
        yield from _entry_row(entry, f"line {number}", path, findings)


def _mapped_rows(content: Mapping[str, Any], prefix: str, path: Path, findings: Findings) -> Iterator[TagRow]:
    for name, value in content.items():
        place = f"{prefix}entry {quoted(name)}"
        names = _names(value, place, path, findings)
        if names is not None:
            yield TagRow(place, name, names)


def _entry_row(entry: Any, place: str, path: Path, findings: Findings) -> Iterator[TagRow]:
    """The row of one ``{"file": ..., "tags": ...}``; a file's name comes before an ``id`` beside it."""
    keys = [key for key in entry if columns.file_name_rank(key) < 2] if isinstance(entry, dict) else []
    keys = [key for key in keys if isinstance(entry[key], str | int) and not isinstance(entry[key], bool)]
    ranks = [2 * (not is_photo_name(str(entry[key]))) + columns.file_name_rank(key) for key in keys]
    file_key = columns.choose_key(keys, ranks)
    tag_keys = [key for key in entry if columns.names_tags(key) and key != file_key] if file_key is not None else []
    if file_key is None or not tag_keys:
        findings.fault(
            f"wanted objects like {{'file': 'a.jpg', 'tags': ['apple']}} in {path}, found {_shown(entry)} as {place}: "
            "name the keys so"
        )
        return
    tag_key = columns.choose_key(tag_keys, [isinstance(entry[key], int) for key in tag_keys])
    names = _names(entry[tag_key], place, path, findings, may_be_number=True)
    if names is not None:
        about = f"{path}: keys: file = {file_key!r}, tags = {tag_key!r}"
        if about not in findings.counts:
            findings.count(about)
        yield TagRow(place, str(entry[file_key]), names)


def _names(value: Any, place: str, path: Path, findings: Findings, *, may_be_number: bool = False) -> list[str] | None:
    """Tag names of one JSON value: a list, one text (``a;b``), or ``{class: 0 or 1}``; None after a fault."""
    if value is None:
        findings.guess("null was read as no tag", f"{path}, {place}")
        return []
    if isinstance(value, str):
        return split_cell(value)
    if isinstance(value, int) and may_be_number and not isinstance(value, bool):
        _note_numbers(path, findings)
        return [str(value)]
    if isinstance(value, list) and all(
        isinstance(name, str | int | None) and not isinstance(name, bool) for name in value
    ):
        return _listed_names(value, place, path, findings)
    if isinstance(value, dict):
        tag_key = next((key for key in value if columns.names_tags(key) and isinstance(value[key], str | list)), None)
        if tag_key is not None:
            return _names(value[tag_key], place, path, findings)
        if all(_is_count(flag) for flag in value.values()):
            _note_counts(value, path, findings)
            return [name.strip() for name, flag in value.items() if flag and FLAGS.get(str(flag).lower(), 1)]
    findings.fault(
        f"wanted a list of class names per image in {path}, or 0 and 1 by class, found {_shown(value)} at {place}: "
        "write names, and of scores only those over a threshold"
    )
    return None


def _listed_names(names: Sequence[str | int | None], place: str, path: Path, findings: Findings) -> list[str] | None:
    """The names in a list; whole numbers are names too, but several 0 and 1 alone may be flags, which is a fault."""
    if len(names) > 1 and all(name in (0, 1) for name in names):
        findings.fault(
            f"wanted names of classes in {path}, found {_shown(names)} at {place}, which may be a flag for each class "
            "or class numbers: write names"
        )
        return None
    if any(isinstance(name, int) for name in names):
        _note_numbers(path, findings)
    return [str(name).strip() for name in names if name is not None]


def _note_numbers(path: Path, findings: Findings) -> None:
    """Say once that numbers were read as names."""
    line = f"{path}: whole numbers were read as names of classes"
    if line not in findings.counts:
        findings.count(line)


def _is_count(flag: Any) -> bool:
    """Whether a value under a class is a flag, or a whole number from -1."""
    return str(flag).lower() in FLAGS or flag is None or (isinstance(flag, int) and flag >= -1)


def _note_counts(flags: Mapping[str, Any], path: Path, findings: Findings) -> None:
    """Say once that numbers other than 0 and 1 were read as counts."""
    line = f"{path}: numbers under a class were read as counts: above 0 the class is there"
    if any(flag not in (0, 1) for flag in flags.values() if isinstance(flag, int)) and line not in findings.counts:
        findings.count(line)


def _shown(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False))[:60]
