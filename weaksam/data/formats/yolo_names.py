"""Read the class names of YOLO labels, by number, from text files and YAML."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.data.class_names import check_name, note_look_alikes
from weaksam.data.findings import Findings
from weaksam.data.formats.yolo_lines import looks_like_labels
from weaksam.data.image_entries import composed
from weaksam.data.text_files import read_text, read_yaml

NAME_FILES = ("classes.txt", "obj.names", "classes.names", "data.yaml", "data.yml", "dataset.yaml")
"""Files that hold class names, in small letters, the first before the others."""

_NUMBERED = re.compile(r"(\d+)\s*[:,;\t ]\s*(.+)")


def class_names(folder: Path, findings: Findings | None = None) -> dict[int, str] | None:
    """Class names by number from the names files in ``folder`` and up to two folders above; None without any.

    Files that agree as far as both go are joined. Raises `UserError` for names that are none or come twice, and, naming
    both files, where two files give one number different names.
    """
    findings = findings or Findings()
    names: dict[int, str] = {}
    source: Path | None = None
    for path in name_files(folder):
        try:
            more = _names_in(path, findings)
        except UserError:
            if source is None:
                raise
            findings.guess("class names were taken from a nearer file, for it holds none that can be read", str(path))
            continue
        _refuse_other_names(names, more, source, path)
        if source is not None and more.keys() - names.keys():
            findings.guess(f"more class names were taken from {path}", str(source))
        names, source = names | more, source or path
    if source is None:
        return None
    _refuse_repeats(names, source)
    note_look_alikes(names.values(), str(source), findings)
    return dict(sorted(names.items()))


def _refuse_other_names(names: Mapping[int, str], more: Mapping[int, str], source: Path | None, path: Path) -> None:
    """`UserError` where the file ``path`` gives a number another name than ``source`` does."""
    other = next((number for number in more if names.get(number, more[number]) != more[number]), None)
    if other is not None:
        raise UserError(
            f"wanted names files that agree, found {names[other]!r} as class {other} in {source} and "
            f"{more[other]!r} in {path}: remove the wrong one"
        )


def name_files(folder: Path) -> list[Path]:
    """The names files in ``folder`` and up to two folders above, nearest first; none give none."""
    files = []
    for place in dict.fromkeys((folder, folder.parent, folder.parent.parent)):
        inside = {path.name.lower(): path for path in sorted(place.glob("*")) if _is_names_file(path)}
        files += [inside[name] for name in NAME_FILES if name in inside]
    return files


def _is_names_file(path: Path) -> bool:
    """Whether a file is named so, and is not the label file of a photo of that name."""
    return path.name.lower() in NAME_FILES and path.is_file() and not looks_like_labels(path)


def _refuse_repeats(names: Mapping[int, str], source: Path) -> None:
    """`UserError` where two classes bear one name."""
    number_of: dict[str, int] = {}
    for number, name in names.items():
        first = number_of.setdefault(composed(name), number)
        if first != number:
            raise UserError(
                f"wanted every class name once in {source}, found {name!r} as class {first} and {number}: rename one "
                "of them"
            )


def _names_in(path: Path, findings: Findings) -> dict[int, str]:
    """Class names by number in a names file, which has at least one."""
    names = _yaml_names(path, findings) if path.suffix.lower() in (".yaml", ".yml") else _text_names(path, findings)
    if not names:
        raise UserError(f"wanted class names in {path}, found an empty list: write one name for each class")
    for number, name in names.items():
        check_name(name, f"class {number} of {path}")
    return names


# Text: one name a line


def _text_names(path: Path, findings: Findings) -> dict[int, str]:
    """The names in a text file by line, counted from 0: a blank line before the last name is a number without one."""
    lines = [line.strip() for line in read_text(path, "class names (one a line)").rstrip().split("\n")]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    pairs = [(int(match[1]), match[2].strip()) for match in numbered if match is not None]
    if len(pairs) == len(lines) and [number for number, _ in pairs] == list(range(len(lines))):
        findings.guess("numbers before the class names were left out of them", str(path))
        return dict(pairs)
    remark = next((number for number, line in enumerate(lines, start=1) if line.startswith("# ")), None)
    if remark is not None:
        raise UserError(
            f"wanted one class name a line in {path}, found a remark in line {remark}, which would be a class of its "
            "own: remove it"
        )
    if len(lines) == 1 and "," in lines[0]:
        raise UserError(f"wanted one class name a line in {path}, found {lines[0][:60]!r}: write each on its own line")
    blank = [number for number, line in enumerate(lines) if not line]
    if blank and len(lines) > 1:
        text = "a blank line was counted: that class number has no name"
        for number in blank:
            findings.guess(text, f"line {number + 1} of {path}")
    return {number: line for number, line in enumerate(lines) if line}


# YAML: a list, or a mapping by number


def _yaml_names(path: Path, findings: Findings) -> dict[int, str]:
    """The ``names`` of a YAML file by number."""
    content = read_yaml(path, "YAML with 'names'")
    stated = _stated_names(content)
    if isinstance(stated, dict) and stated:
        names = _by_number(stated, path)
    elif isinstance(stated, list) and stated:
        names = dict(_numbered_entry(number, entry, path) for number, entry in enumerate(stated))
        if len(names) < len(stated):
            raise UserError(f"wanted every class number once in 'names' of {path}, found one twice: mend the list")
    else:
        state = "none" if stated is None else f"{_kind(stated)} {reprlib.repr(stated)}"
        raise UserError(f"wanted 'names' in {path}, found {state}: list the classes there")
    stated_count = content.get("nc")
    if isinstance(stated_count, int) and stated_count not in (len(names), max(names) + 1):
        findings.guess(f"{len(names)} class names were read where 'nc' is {stated_count}", str(path))
    if min(names) == 1:
        findings.guess("the names count from 1, and so class numbers were read", str(path))
    return names


def _stated_names(content: Any) -> Any:
    """The value of ``names`` at the top of a YAML file, or in the only section that has it; None without."""
    if not isinstance(content, dict):
        return None
    if "names" in content:
        return content["names"]
    sections = [value["names"] for value in content.values() if isinstance(value, dict) and "names" in value]
    return sections[0] if len(sections) == 1 else None


def _by_number(stated: Mapping[Any, Any], path: Path) -> dict[int, str]:
    """Names by number from a mapping by number (as text too), or the other way round by name."""
    keys, values = list(stated), list(stated.values())
    if _number(keys[0]) is None and all(isinstance(key, str) for key in keys) and _are_numbers(values):
        keys, values = values, keys
    names: dict[int, str] = {}
    for key, value in zip(keys, values, strict=True):
        number = _number(key)
        if number is None or number in names:
            state = "twice" if number is not None else "which is none"
            raise UserError(
                f"wanted class numbers 0, 1, .. as keys of 'names' in {path}, found {key!r}, {state}: mend the key"
            )
        names[number] = _numbered_entry(number, value, path)[1]
    return names


def _numbered_entry(number: int, entry: Any, path: Path) -> tuple[int, str]:
    """Number and name that an entry of ``names`` states: a text, or a mapping with ``name`` and perhaps ``id``."""
    if isinstance(entry, dict) and isinstance(entry.get("name"), str):
        stated = _number(entry.get("id", number))
        return (number if stated is None else stated), entry["name"].strip()
    if not isinstance(entry, str):
        quote = "" if entry is None or isinstance(entry, (list, dict)) else ", in quotes if it is the name"
        state = "null" if entry is None else f"{_kind(entry)} {reprlib.repr(entry)}"
        raise UserError(
            f"wanted a class name as entry {number} of 'names' in {path}, found {state}: write the name{quote}"
        )
    return number, entry.strip()


def _are_numbers(values: Sequence[Any]) -> bool:
    numbers = [_number(value) for value in values]
    return None not in numbers and len(set(numbers)) == len(numbers)


def _number(key: Any) -> int | None:
    """A class number, also where it is written as text; None for anything else."""
    if isinstance(key, int) and not isinstance(key, bool):
        return key if key >= 0 else None
    return int(key) if isinstance(key, str) and re.fullmatch(r"\s*\d{1,9}\s*", key, re.ASCII) else None


def _kind(value: Any) -> str:
    """What a YAML value is, with its article."""
    kinds: Iterable[tuple[type, str]] = (
        (bool, "the truth value"),
        ((int), "the number"),
        (float, "the number"),
        (str, "the text"),
        (list, "the list"),
        (dict, "the mapping"),
    )
    return next((kind for type_, kind in kinds if isinstance(value, type_)), "the value")
