"""Write the parts of a store under names that carry the hash of their bytes, and find those that are whole."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weaksam.store.files import atomic_file

_NAME = re.compile(r"part-(\d{5,})-([0-9a-f]{16})\.parquet")
_HASH_DIGITS = 16
"""Hex digits of the SHA-256 in a part's name; the manifest holds all 64."""
PART_SIZE = 32
"""Images in a part, the last one aside."""


@dataclass(frozen=True)
class StorePart:
    """One file of a store: its position in the store and the images it holds, in order."""

    index: int
    image_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the part is called in messages and claims; its file's name carries a hash as well."""
        return f"part-{self.index:05d}"


@dataclass(frozen=True)
class PartFile:
    """A part on disk: the name of its file inside the store's folder and the SHA-256 (64 hex digits) of its bytes."""

    name: str
    sha256: str


def write_part(folder: Path, part: StorePart, data: bytes) -> PartFile:
    """Write a part atomically under a name that carries the hash of ``data``, and remove damaged files of that part.

    Another process may have written the part meanwhile. The same bytes have the same name; a file of other bytes, as
    another kind of GPU may compute them, stays beside this one until the store is sealed with the first of them.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    file = PartFile(f"{part.name}-{sha256[:_HASH_DIGITS]}.parquet", sha256)
    with atomic_file(folder / file.name) as temporary:
        temporary.write_bytes(data)
    for name in set(part_names(folder).get(part.index, ())) - {file.name}:
        if not any(whole_files(folder, [name])):
            (folder / name).unlink(missing_ok=True)
    return file


def part_names(folder: Path) -> dict[int, list[str]]:
    """The names of the files of every part in ``folder`` by the part's index, sorted; none for a folder without any.

    A part has several where one was damaged, or where two processes computed it and did not get the same bytes.
    """
    names: dict[int, list[str]] = {}
    if folder.is_dir():
        for name in sorted(os.listdir(folder)):
            if match := _NAME.fullmatch(name):
                names.setdefault(int(match[1]), []).append(name)
    return names


def whole_files(folder: Path, names: Sequence[str]) -> Iterator[tuple[PartFile, bytes]]:
    """The files among ``names`` whose bytes have the hash in their name, with those bytes; the others are damaged."""
    for name in names:
        try:
            data = (folder / name).read_bytes()
        except OSError:
            continue
        sha256 = hashlib.sha256(data).hexdigest()
        if name.endswith(f"-{sha256[:_HASH_DIGITS]}.parquet"):
            yield PartFile(name, sha256), data


def remove_other_files(folder: Path, kept: Mapping[int, str], names: Mapping[int, Sequence[str]]) -> None:
    """Remove the files among ``names`` (by part) of the parts in ``kept`` but for the one that is kept of each."""
    for index, name in kept.items():
        for other in names.get(index, ()):
            if other != name:
                (folder / other).unlink(missing_ok=True)
