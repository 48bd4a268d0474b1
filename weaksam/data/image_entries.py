"""Read the images of a COCO file: their ids, names and sizes, each image once."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from weaksam.data.findings import Findings
from weaksam.data.json_entries import FileId, JsonEntry, attempt, json_entries


@dataclass(frozen=True)
class ImageEntry:
    """One image of a COCO file: its id, its name as the file writes it, and its (H, W), None where it states none."""

    file_id: FileId
    name: str
    size: tuple[int, int] | None


@dataclass
class ImageEntries:
    """The images of a COCO file by id in its order, and the ids of those that were left out as faulty."""

    by_id: dict[FileId, ImageEntry] = field(default_factory=dict)
    left_out: set[FileId] = field(default_factory=set)

    @property
    def numbers(self) -> dict[str, int]:
        """Ids by name, of the images whose id is a number."""
        return {entry.name: entry.file_id for entry in self.by_id.values() if isinstance(entry.file_id, int)}

    @property
    def texts(self) -> dict[str, str]:
        """Names by id, of the images whose id is a text."""
        return {entry.file_id: entry.name for entry in self.by_id.values() if isinstance(entry.file_id, str)}


def read_image_entries(content: list[Any], path: Path, findings: Findings) -> ImageEntries:
    """The images in the list ``content`` of ``path``; none give none.

    An entry that is there twice word for word is taken once. An id of two images and a name of two ids are faults:
    names are compared by their characters and folders, not by their spelling (``./``, backslashes, Unicode forms).
    """
    entries = ImageEntries()
    id_of: dict[str, FileId] = {}
    cases: dict[str, str] = {}
    for json_entry in json_entries(content, "image", path, findings):
        entry = attempt(findings, _image_entry, json_entry)
        if entry is None:
            continue
        name = plain_name(entry.name)
        first = entries.by_id.get(entry.file_id)
        if first is not None and (plain_name(first.name), first.size) == (name, entry.size):
            findings.guess("an image that is listed twice was taken once", json_entry.place)
        elif first is not None:
            findings.fault(
                f"wanted every image id once in {path}, found {entry.file_id!r} for {first.name!r} and {entry.name!r}: "
                "give each image its own id"
            )
        elif name in id_of:
            entries.left_out.add(entry.file_id)
            findings.fault(
                f"wanted every file_name once in {path}, found {entry.name!r} under the ids {id_of[name]!r} and "
                f"{entry.file_id!r}: name each photo by its own name, with its folder"
            )
        else:
            entries.by_id[entry.file_id] = entry
            id_of[name] = entry.file_id
            if cases.setdefault(name.casefold(), name) != name:
                text = "names that differ in capital letters alone were taken as two photos"
                findings.guess(text, f"{json_entry.place}, {entry.name!r}")
    return entries


def _image_entry(entry: JsonEntry) -> ImageEntry:
    """The image that an entry states; `UserError` where it states none."""
    return ImageEntry(entry.file_id("id"), entry.text("file_name"), entry.size())


def composed(text: str) -> str:
    """``text`` with letters and their accents joined (Unicode's NFC), the form of all systems but macOS."""
    return unicodedata.normalize("NFC", text)


def plain_name(name: str) -> str:
    """A file's name with forward slashes, joined accents and without ``./``, by which two names are compared."""
    return PurePosixPath(composed(name.strip().replace("\\", "/"))).as_posix()
