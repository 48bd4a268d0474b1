"""Read lists of photos' names, one a line, and tell a flag behind a name from a part of the name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weaksam.data.findings import Findings
from weaksam.data.images import PHOTO_SUFFIXES
from weaksam.data.text_files import read_text

_FLAGGED = re.compile(r"(.*\S)\s+([+-]?1|0)", re.ASCII)


@dataclass(frozen=True)
class ListedName:
    """A name in a list, the flag behind it (-1, 0 or 1; None without) and its line, from 1."""

    name: str
    flag: int | None
    line: int


def listed_names(
    path: Path, wanted: str = "a list of images (one name a line)", *, flagged: bool = False
) -> list[ListedName]:
    """The names in a text file, one a line; blank lines and remarks (``# ..``) are none.

    A line that ends as a photo's name is one, blanks and all. Of others the words behind a photo's name are left out,
    and flags (-1, 0, 1) where each of them has one, or with ``flagged`` wherever one is. Raises `UserError` as
    `read_text` does.
    """
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path, wanted).split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("# ")]
    matches = [None if _is_photo(line) else _FLAGGED.fullmatch(line) for _, line in lines]
    flagged = flagged or all(match or _is_photo(line) for match, (_, line) in zip(matches, lines, strict=True))
    names = []
    for (number, line), match in zip(lines, matches, strict=True):
        words = line.split()
        if match is not None and (flagged or _is_photo(match[1])):
            names.append(ListedName(match[1], int(match[2]), number))
        else:
            names.append(ListedName(words[0] if _is_photo(words[0]) and not _is_photo(line) else line, None, number))
    return names


def note_flags(names: list[ListedName], path: Path, findings: Findings) -> None:
    """Note that flags behind names were left out: a list of photos names those with -1 too."""
    if any(entry.flag is not None for entry in names):
        findings.guess(
            "the flags -1, 0 and 1 behind the names were left out, photos with each of them count", str(path)
        )


def _is_photo(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PHOTO_SUFFIXES
