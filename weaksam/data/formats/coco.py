"""Read and write COCO ground truth: boxes, polygons, RLE and crowds, and write results lists."""

from __future__ import annotations

import contextlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

from weaksam.config import UserError
from weaksam.data.annotations import Annotations
from weaksam.data.class_names import LONGEST, check_name, is_plain
from weaksam.data.findings import Findings
from weaksam.data.formats.coco_blocks import plain_objects
from weaksam.data.formats.coco_entries import CategoryLabels, ObjectReader
from weaksam.data.formats.coco_writing import object_entries, write_instances, write_results
from weaksam.data.image_entries import ImageEntries, composed, read_image_entries
from weaksam.data.json_entries import FileId, JsonEntry, as_file_id, attempt, json_entries, listed_keys, shown
from weaksam.data.json_stream import stream_blocks
from weaksam.data.key_index import repeated
from weaksam.data.object_columns import ObjectColumns
from weaksam.data.text_files import read_json
from weaksam.data.truth_table import TruthTable
from weaksam.regular_files import open_regular

__all__ = ["object_entries", "read_classes", "read_if_instances", "read_instances", "write_instances", "write_results"]

SECTIONS = ("images", "annotations", "categories")
"""The lists of an instances file."""
_TAIL_BYTES = 1 << 18
"""How much of the end of a file is searched for its categories."""
_CATEGORIES = re.compile(r'"categories"\s*:\s*')


def read_instances(path: Path, findings: Findings | None = None) -> Annotations:
    """The images, objects and categories of a COCO instances file, by ``file_name``.

    Classes come in the order of their ids, and keep their ids. Objects get masks if any object of the file has one
    (polygons, RLE as run lengths or as text); among them one without gets its box as mask. A box of no area stays.
    ``iscrowd`` gives ``crowd``, the extra keys ``score`` and ``difficult`` are read where they are. Images without
    annotations are there, empty. ``findings`` take counts, guesses and faults; a fault, a file of another shape too,
    raises `UserError` unless it gathers them.
    """
    findings = findings or Findings()
    expected = _last_categories(path)
    if expected is not None:
        noticed = Findings(gather=True)
        annotations = _read_once(path, expected, noticed)
        if annotations is not None:
            findings.take(noticed)
            return replace(annotations, notes=findings.notes)
    return _read_twice(path, findings)


def read_if_instances(path: Path, findings: Findings) -> Annotations | None:
    """As `read_instances`; None, and nothing said, for JSON without the three lists of an instances file."""
    if not _may_be_instances(path):
        return None
    noticed, expected = Findings(gather=True), _last_categories(path)
    annotations = None
    if expected is not None:
        with contextlib.suppress(UserError):  # of a file of another shape, or whose fault is said below
            annotations = _read_once(path, expected, noticed)
    if annotations is None:
        keys = {key for key, _, _ in stream_blocks(path, "image tags", SECTIONS)}
        return read_instances(path, findings) if set(SECTIONS) <= keys else None
    findings.take(noticed)
    return replace(annotations, notes=findings.notes)


def _may_be_instances(path: Path) -> bool:
    """Whether the names of all lists of an instances file are somewhere in a file; few others hold these words."""
    missing, end = {f'"{name}"'.encode() for name in SECTIONS}, b""
    with contextlib.suppress(OSError), open_regular(path) as file:
        while missing and (block := file.read(1 << 20)):
            missing -= {word for word in missing if word in end + block}
            end = block[-20:]
    return not missing


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of a COCO instances file in the order of their ids; reads no further than its categories."""
    for key, blocks in _sections(path):
        if key == "categories":
            return tuple(read_categories(chain.from_iterable(blocks), path, Findings()).values())
    raise AssertionError("a file without categories was not refused")


def _read_once(path: Path, expected: list[Any], findings: Findings) -> Annotations | None:
    """A file whose images come before its annotations and whose categories are ``expected``; None for another."""
    entries, reader = None, None
    for key, content in _sections(path):
        if key == "images":
            entries = read_image_entries(content, path, findings)
        elif key == "categories":
            if list(chain.from_iterable(content)) != expected:
                return None
        elif entries is None:
            return None
        else:
            reader = _AnnotationReader(path, entries, read_categories(expected, path, findings), findings)
            reader.read(content)
    return None if reader is None else reader.annotations()


def _read_twice(path: Path, findings: Findings) -> Annotations:
    """A file whose sections come in any order: its annotations are read when images and categories are known."""
    entries, names = ImageEntries(), {}
    for key, content in _sections(path):
        if key == "images":
            entries = read_image_entries(content, path, findings)
        elif key == "categories":
            names = read_categories(chain.from_iterable(content), path, findings)
    reader = _AnnotationReader(path, entries, names, findings)
    for key, content in _sections(path):
        if key == "annotations":
            reader.read(content)
    return reader.annotations()


def _last_categories(path: Path) -> list[Any] | None:
    """The categories that seem to end a file, as they do in most, so that one reading is enough; None for others."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            tail = file.read().decode(errors="replace")
        start = list(_CATEGORIES.finditer(tail))
        value = json.JSONDecoder().raw_decode(tail, start[-1].end())[0] if start else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _sections(path: Path) -> Iterator[tuple[str, Iterator[list[Any]]]]:
    """The lists of an instances file in its order, each in pieces; `UserError` at the end where one is missing."""
    seen = set()
    for key, blocks in groupby(stream_blocks(path, "a COCO instances file", SECTIONS), key=itemgetter(0)):
        if key not in SECTIONS:
            continue
        first = next(blocks)
        if not isinstance(first[2][0], list) and first[1] is None:
            break
        seen.add(key)
        yield key, (values for _, number, values in chain((first,), blocks) if number is not None)
    if seen != set(SECTIONS):
        _refuse_content(path)


def _refuse_content(path: Path) -> NoReturn:
    """Say which of the three lists a file does not have."""
    content = read_json(path, "a COCO instances file")
    state = listed_keys(content) if isinstance(content, dict) else shown(content)
    state = "a list (COCO results?)" if isinstance(content, list) else state
    wrong = [key for key in SECTIONS if isinstance(content, dict) and key in content]
    other = [f"{key!r} as {shown(content[key])}" for key in wrong if not isinstance(content[key], list)]
    raise UserError(
        f"wanted a COCO instances file with {', '.join(SECTIONS)} at {path}, found {other[0] if other else state}: "
        "name another file or add the missing list"
    )


def read_categories(content: Iterable[Any], path: Path, findings: Findings) -> dict[int, str]:
    """Class names by id of a list of categories, in the order of the ids; an id or a name of two is a fault."""
    names: dict[int, str] = {}
    seen: set[str] = set()
    for entry in json_entries(content, "category", path, findings):
        category = attempt(findings, _category, entry)
        if category is None:
            continue
        number, name = category
        if names.get(number) == name:
            findings.guess("a category that is listed twice was taken once", entry.place)
        elif number in names:
            state = f"{number} for {names[number]!r} and {name!r}"
            findings.fault(f"wanted every category id of {path} once, found {state}: give each its own")
        elif composed(name) in seen:
            findings.fault(f"wanted every category of {path} once, found {name!r} twice: merge the two")
        else:
            names[number] = name
            seen.add(composed(name))
    return dict(sorted(names.items()))


def _category(entry: JsonEntry) -> tuple[int, str]:
    """Id and name of a category; `UserError` for an entry without them."""
    number = as_file_id(entry.get("id"))
    if not isinstance(number, int):
        raise entry.refusal("id", "a whole number")
    name = entry.text("name").strip()
    if not is_plain(name):
        raise entry.refusal("name", f"a name of at most {LONGEST} letters, without control characters,")
    check_name(name, f"'name' of {entry.place}")
    return number, name


class _AnnotationReader:
    """Read the annotations of a file whose images and class names by id are known."""

    def __init__(self, path: Path, entries: ImageEntries, names: dict[int, str], findings: Findings) -> None:
        self.path, self.entries, self.names, self.findings = path, entries, names, findings
        self.reader = ObjectReader(
            CategoryLabels(
                {number: label for label, number in enumerate(names)},
                {name: label for label, name in enumerate(names.values())},
            )
        )
        self.objects = ObjectColumns()
        self.sizes: dict[int, tuple[int, int]] = {}  # of images of which only masks tell it
        self._own_ids, self._numbers = array("q"), array("i")  # hashes of ids, and their entries' numbers in the list

    def read(self, blocks: Iterable[Sequence[Any]]) -> None:
        """Take the objects of all annotations, given in pieces; one of no image of the file is a fault."""
        start = 1
        for block in blocks:
            if not self._read_plain(block, start):
                self._read_each(block, start)
            start += len(block)
        self._check_ids()

    def _read_plain(self, block: Sequence[Any], start: int) -> bool:
        """Take annotations, numbered from ``start``, all at once; False, and none is taken, unless all are plain.

        They are plain where `_read_each` would not say anything of any, and none has a mask.
        """
        objects = plain_objects(block, self.reader.labels)
        places = None if objects is None else self.entries.places(objects.image_ids)
        if objects is None or places is None:
            return False
        sides = self.entries.sides(places)
        sized = sides.all(axis=1)
        if self.sizes and not sized.all():
            return False
        self.objects.add_all(places, objects.labels, objects.corners, objects.crowd)
        self.reader.boxes.add_all(objects.boxes[sized], sides[sized])
        self._own_ids.extend(map(hash, objects.own_ids.tolist()))
        self._numbers.extend(range(start, start + len(block)))
        return True

    def _read_each(self, block: Iterable[Any], start: int) -> None:
        """Take annotations, numbered from ``start``, one by one."""
        last_id, place = None, None
        for entry in json_entries(block, "annotation", self.path, self.findings, start):
            own_id, image_id = as_file_id(entry.values.get("id")), as_file_id(entry.values.get("image_id"))
            if own_id is not None:
                self._own_ids.append(hash(own_id))
                self._numbers.append(entry.index)
            if image_id is None:
                self.findings.fault(str(entry.refusal("image_id", "the id of an image of the file")))
                continue
            if image_id != last_id:
                last_id, place = image_id, self.entries.place(image_id)
            if place is not None:
                self._read_object(entry, place)
            elif image_id not in self.entries.left_out:
                self.findings.fault(
                    f"wanted every annotation of {self.path} to name an image, found image_id {image_id!r} in "
                    f"{entry.place}: mend the entry or add the image"
                )

    def _read_object(self, entry: JsonEntry, place: int) -> None:
        """Take the object of one annotation of the image at ``place``, if it can be read."""
        size = self.entries.size(place) or self.sizes.get(place)
        try:
            score = None if entry.get("score") is None else entry.number("score")
            told_size = self.reader.add(self.objects.of_image(place), entry, size, score)
        except UserError as error:
            self.findings.fault(str(error))
            return
        if size is None and told_size is not None:
            self.sizes[place] = told_size

    def _check_ids(self) -> None:
        """Look for annotations with the id of another, reading the file again where there may be any."""
        doubtful = {self._numbers[row] for row in repeated(self._own_ids).nonzero()[0].tolist()}
        first_of: dict[FileId, Any] = {}
        for key, content in _sections(self.path) if doubtful else ():
            if key != "annotations":
                continue
            entries = chain.from_iterable(content)
            for entry in json_entries(entries, "annotation", self.path, Findings(gather=True)):
                own_id = as_file_id(entry.get("id")) if entry.index in doubtful else None
                if own_id is not None and own_id in first_of:
                    _say_repeat(entry, first_of[own_id], self.findings)
                elif own_id is not None:
                    first_of[own_id] = entry.values
        self._own_ids, self._numbers = array("q"), array("i")

    def annotations(self) -> Annotations:
        """All that was read."""
        self.reader.boxes.check(self.path, self.findings)
        table = TruthTable(self.entries, self.objects, self.sizes)
        self.findings.count(_summary(self.path, table, len(self.names)))
        return Annotations(tuple(self.names.values()), tuple(self.names), table, self.findings.notes)


def _say_repeat(entry: JsonEntry, first: Mapping[str, Any], findings: Findings) -> None:
    """Say of an annotation whose id came before that it is an object of its own, or a fault if it is the same one."""
    if entry.values == first:
        findings.fault(f"wanted every annotation once, found {entry.place} there twice, word for word: remove one")
    else:
        findings.guess("an annotation with the id of another was read as an object of its own", entry.place)


def _summary(path: Path, table: TruthTable, num_classes: int) -> str:
    """How much was read of an instances file, in one line."""
    counts = table.counts()
    special = ", ".join(f"{counts[name]} {name}" for name in ("crowd", "difficult", "without area") if counts[name])
    empty = f", {counts['empty']} of them without objects" if counts["empty"] else ""
    text = f"{path}: {len(table)} images{empty}; {counts['objects']} objects of {num_classes} classes"
    return f"{text} ({special})" if special else text
