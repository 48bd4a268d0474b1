"""Read the images of a COCO file: their ids, names and sizes, each image once."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from weaksam.data.findings import Findings
from weaksam.data.json_entries import LARGEST, FileId, JsonEntry, attempt, json_entries
from weaksam.data.key_index import KeyIndex, repeated
from weaksam.data.photo_limits import MOST_PIXELS
from weaksam.data.plain_columns import are_only, column, values_of, whole_numbers
from weaksam.data.plain_names import plain_text

_LARGEST = 2**63
MOST_SIDE = int(LARGEST)
"""No image is wider or higher, in pixels."""


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
        self._ids, self._heights, self._widths = array("q"), array("i"), array("i")
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

    def add_all(self, ids: np.ndarray, names: Sequence[str], heights: np.ndarray, widths: np.ndarray) -> None:
        """Append ``N`` images whose ids are whole numbers and whose heights and widths are above 0, int64 ``(N,)``."""
        self._ids.frombytes(ids.tobytes())
        self.names += names
        self._heights.frombytes(heights.astype(np.int32).tobytes())
        self._widths.frombytes(widths.astype(np.int32).tobytes())

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

    def places(self, ids: np.ndarray) -> np.ndarray | None:
        """The places ``(N,)`` of the images with these whole numbers as ids, int64 ``(N,)``; None unless all are there.

        All images must have been added.
        """
        numbers, places = self._numbered
        rows = np.searchsorted(numbers, ids)
        if not len(numbers) or not (numbers.take(rows, mode="clip") == ids).all():
            return None
        return rows if places is None else places[rows]

    def sides(self, places: np.ndarray) -> np.ndarray:
        """Width and height ``(N, 2)`` in pixels of the images at these places, 0 where the file states none."""
        return np.stack([values_of(self._widths)[places], values_of(self._heights)[places]], axis=1)

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(map(self.file_id, range(len(self))), self.file_id)

    @cached_property
    def _numbered(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All ids that are whole numbers, in order, and the places of their images, None where these are 0 to N - 1."""
        ids = values_of(self._ids)
        if not self._other_ids and bool((ids[1:] > ids[:-1]).all()):
            return ids, None
        places = np.delete(np.arange(len(ids), dtype=np.int32), list(self._other_ids))
        places = places[np.argsort(ids[places], kind="stable")]
        return ids[places], places

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


def read_image_entries(blocks: Iterable[Sequence[Any]], path: Path, findings: Findings) -> ImageEntries:
    """The images in a list of ``path``, given in pieces; none give none.

    An entry that is there twice word for word is taken once. An id of two images and a name of two ids are faults:
    names are compared by their characters and folders, not by their spelling (``./``, backslashes, Unicode forms).
    """
    reader, start = _ImageReader(path, findings), 1
    for block in blocks:
        if not reader.read_plain(block, start):
            reader.read_each(block, start)
        start += len(block)
    return reader.entries_once()


class _ImageReader:
    """Read images, and remember hashes by which those are found that repeat another."""

    def __init__(self, path: Path, findings: Findings) -> None:
        self._path, self._findings, self._entries = path, findings, ImageEntries()
        self._rows = array("i")  # the number of each image in the list, from 1
        self._ids, self._names, self._cases = array("q"), array("q"), array("q")  # hashes

    def read_plain(self, block: Sequence[Any], start: int) -> bool:
        """Take images, numbered from ``start``, all at once; False, and none is taken, where any needs a closer look.

        They are plain where `read_each` would neither say anything of any nor change its name to compare it.
        """
        if not are_only(block, dict):
            return False
        ids, names = whole_numbers(column(block, "id")), column(block, "file_name")
        heights, widths = (whole_numbers(column(block, side), 1, MOST_SIDE) for side in ("height", "width"))
        text = plain_text(names) if are_only(names, str) else None
        if ids is None or heights is None or widths is None or text is None:
            return False
        if (heights * widths > MOST_PIXELS).any():
            return False
        self._entries.add_all(ids, names, heights, widths)
        self._rows.extend(range(start, start + len(block)))
        self._ids.extend(map(hash, ids.tolist()))
        self._names.extend(map(hash, names))
        self._cases.extend(map(hash, text[1:-1].casefold().split("\n")))
        return True

    def read_each(self, block: Iterable[Any], start: int) -> None:
        """Take images, numbered from ``start``, one by one; what is none is a fault."""
        for json_entry in json_entries(block, "image", self._path, self._findings, start):
            entry = attempt(self._findings, _image_entry, json_entry)
            if entry is not None:
                name = plain_name(entry.name)
                self._entries.add(entry)
                self._rows.append(json_entry.index)
                self._ids.append(hash(entry.file_id))
                self._names.append(hash(name))
                self._cases.append(hash(name.casefold()))

    def entries_once(self) -> ImageEntries:
        """All images that were taken, without those that repeat another."""
        entries = self._entries
        doubtful = (repeated(self._ids) | repeated(self._names) | repeated(self._cases)).nonzero()[0].tolist()
        dropped = list(_repeats(entries, doubtful, self._rows, self._path, self._findings)) if doubtful else []
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
