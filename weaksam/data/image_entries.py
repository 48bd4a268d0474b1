"""Read the images of a COCO file: their ids, names and sizes, each image once."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from weaksam.data.findings import Findings
from weaksam.data.json_entries import FileId, JsonEntry, attempt, json_entries
from weaksam.data.key_index import KeyIndex, repeated
from weaksam.data.photo_limits import MOST_PIXELS

_LARGEST = 2**63


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a COCO file: its id, its name as the file writes it, and its (H, W), None where it states none."""

    file_id: FileId
    name: str
    size: tuple[int, int] | None


class ImageEntries:
    """The images of a COCO file in its order, none at first; they lie in flat lists, as there may be millions.

    ``left_out``: the ids of images that were left out as faulty.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.left_out: set[FileId] = set()
        self._ids, self._heights, self._widths = array("q"), array("q"), array("q")
        self._other_ids: dict[int, FileId] = {}  # by place, of ids that are texts or very large

    def add(self, entry: ImageEntry) -> None:
        """Append an image."""
        height, width = entry.size or (0, 0)
        fits = isinstance(entry.file_id, int) and -_LARGEST <= entry.file_id < _LARGEST
        if not fits:
            self._other_ids[len(self.names)] = entry.file_id
        self._ids.append(entry.file_id if isinstance(entry.file_id, int) and fits else 0)
        self._heights.append(height)
        self._widths.append(width)
        self.names.append(entry.name)

    def without(self, places: Iterable[int]) -> ImageEntries:
        """The same images without those at ``places``."""
        dropped, kept = set(places), ImageEntries()
        kept.left_out = self.left_out
        for place, entry in enumerate(self):
            if place not in dropped:
                kept.add(entry)
        return kept

    def file_id(self, place: int) -> FileId:
        """The id of the image at ``place``."""
        return self._other_ids[place] if place in self._other_ids else self._ids[place]

    def size(self, place: int) -> tuple[int, int] | None:
        """(H, W) of the image at ``place``, None where the file states none."""
        return (self._heights[place], self._widths[place]) if self._heights[place] else None

    def place(self, file_id: FileId) -> int | None:
        """The place of the image with this id, None where there is none; all images must have been added."""
        return self._index.find(file_id)

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(map(self.file_id, range(len(self))), self.file_id)

    @property
    def numbers(self) -> dict[str, int]:
        """Ids by name, of the images whose id is a number."""
        return {entry.name: entry.file_id for entry in self if isinstance(entry.file_id, int)}

    @property
    def texts(self) -> dict[str, str]:
        """Names by id, of the images whose id is a text."""
        return {entry.file_id: entry.name for entry in self if isinstance(entry.file_id, str)}

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[ImageEntry]:
        for place, name in enumerate(self.names):
            yield ImageEntry(self.file_id(place), name, self.size(place))


def read_image_entries(content: Iterable[Any], path: Path, findings: Findings) -> ImageEntries:
    """The images in the list ``content`` of ``path``; none give none.

    An entry that is there twice word for word is taken once. An id of two images and a name of two ids are faults:
    names are compared by their characters and folders, not by their spelling (``./``, backslashes, Unicode forms).
    """
    entries = ImageEntries()
    rows = array("q")  # the number of each image in the list, from 1
    ids, names, cases = array("q"), array("q"), array("q")  # hashes
    for json_entry in json_entries(content, "image", path, findings):
        entry = attempt(findings, _image_entry, json_entry)
        if entry is not None:
            name = plain_name(entry.name)
            entries.add(entry)
            rows.append(json_entry.index)
            ids.append(hash(entry.file_id))
            names.append(hash(name))
            cases.append(hash(name.casefold()))
    doubtful = (repeated(ids) | repeated(names) | repeated(cases)).nonzero()[0].tolist()
    dropped = list(_repeats(entries, doubtful, rows, path, findings)) if doubtful else []
    return entries.without(dropped) if dropped else entries


def _repeats(
    entries: ImageEntries, doubtful: Iterable[int], rows: array[int], path: Path, findings: Findings
) -> Iterator[int]:
    """The places of images that repeat the id or the name of another; only those at ``doubtful`` places may."""
    by_id: dict[FileId, ImageEntry] = {}
    id_of: dict[str, FileId] = {}
    cases: dict[str, str] = {}
    for at in doubtful:
        entry = ImageEntry(entries.file_id(at), entries.names[at], entries.size(at))
        place = JsonEntry({"id": entry.file_id}, "image", rows[at], path, findings).place
        name = plain_name(entry.name)
        first = by_id.get(entry.file_id)
        if first is not None and (plain_name(first.name), first.size) == (name, entry.size):
            findings.guess("an image that is listed twice was taken once", place)
            yield at
        elif first is not None:
            findings.fault(
                f"wanted every image id once in {path}, found {entry.file_id!r} for {first.name!r} and {entry.name!r}: "
                "give each image its own id"
            )
            yield at
        elif name in id_of:
            entries.left_out.add(entry.file_id)
            findings.fault(
                f"wanted every file_name once in {path}, found {entry.name!r} under the ids {id_of[name]!r} and "
                f"{entry.file_id!r}: name each photo by its own name, with its folder"
            )
            yield at
        else:
            by_id[entry.file_id] = entry
            id_of[name] = entry.file_id
            if cases.setdefault(name.casefold(), name) != name:
                text = "names that differ in capital letters alone were taken as two photos"
                findings.guess(text, f"{place}, {entry.name!r}")


def _image_entry(entry: JsonEntry) -> ImageEntry:
    """The image that an entry states; `UserError` where it states none."""
    size = entry.size()
    if size is not None and size[0] * size[1] > MOST_PIXELS:
        raise entry.refusal("width", f"an image of at most {MOST_PIXELS} pixels")
    return ImageEntry(entry.file_id("id"), entry.text("file_name"), size)


def composed(text: str) -> str:
    """``text`` with letters and their accents joined (Unicode's NFC), the form of all systems but macOS."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def plain_name(name: str) -> str:
    """A file's name with forward slashes, joined accents and without ``./``, by which two names are compared."""
    plain = composed(name.strip().replace("\\", "/"))
    if "//" in plain or "./" in plain or plain.endswith(("/", "/.")) or plain in ("", "."):
        return PurePosixPath(plain).as_posix()
    return plain
