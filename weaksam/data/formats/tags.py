"""Read image tags from CSV, JSON, JSONL, class folders or VOC's ImageSets/Main, and write them."""

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from weaksam.config import UserError, listed
from weaksam.data.file_errors import reads
from weaksam.data.findings import Findings
from weaksam.data.formats import coco
from weaksam.data.formats import tag_columns as columns
from weaksam.data.formats.tag_json import json_rows, line_rows
from weaksam.data.formats.tag_rows import TagRows, join_rows
from weaksam.data.formats.tag_tables import read_table
from weaksam.data.formats.voc_lists import read_voc_tags
from weaksam.data.image_names import ImageNames
from weaksam.data.images import PHOTO_SUFFIXES
from weaksam.data.photos import list_photos
from weaksam.data.text_files import printable, read_json_lines
from weaksam.data.truth_table import class_names_of
from weaksam.store.files import atomic_file

_NO_CLASSES = columns.SPLIT_WORDS | {"images", "image", "photos", "jpegimages", "img", "imgs", "pictures"}
"""Folders of photos, in small letters, that say nothing of what is in them."""


@reads("image tags")
def read_tags(
    path: Path, *, split: str = "train", findings: Findings | None = None, photo_names: ImageNames | None = None
) -> TagRows:
    """Tags of the file or folder at ``path``; ``split`` chooses the list in a VOC ``ImageSets/Main`` folder.

    CSV (comma, semicolon or tab; with header or not): ``file,tag1;tag2``, ``file,tag1,tag2``, ``file,tag`` in repeated
    rows, or one column of 0/1 per class. JSON: ``{"a.jpg": ["apple"]}``, ``[{"file": ..., "tags": [...]}]``, or a COCO
    instances file, of which only the categories per image are read. JSONL: one such object per line. A folder: one
    sub-folder of photos per class, or ``ImageSets/Main``. What was taken for what is noted in ``findings``, and the
    ``photo_names`` of the split help to tell which column of a table names them. Raises `UserError` where ``path`` is
    missing, has no rows, or holds what cannot be meant (unless ``findings`` gathers that).
    """
    findings = Findings() if findings is None else findings
    if not path.exists():
        raise UserError(f"wanted image tags at {path}, found nothing there: check the path")
    if path.is_dir():
        tags = read_voc_tags(path, split, findings) if _is_voc_lists(path) else read_class_folders(path, findings)
    elif path.suffix == ".txt" and path.parent.name == "Main":
        tags = read_voc_tags(path.parent, path.stem, findings)
    else:
        tags = _read_file(path, findings, photo_names)
    if not tags.rows and not findings.faults:
        raise UserError(f"wanted image tags at {path}, found a file without any row: write one row per photo")
    return tags


def write_csv(path: Path, tags: Mapping[str, Iterable[str]]) -> None:
    """Write ``file,tags`` with a header, tags joined by semicolons; an image without tags has an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "tags"])
    writer.writerows([name, ";".join(names)] for name, names in tags.items())
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def write_json(path: Path, tags: Mapping[str, Iterable[str]]) -> None:
    """Write ``{"a.jpg": ["apple"], ...}``."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({name: list(names) for name, names in tags.items()}, indent=1) + "\n", "utf-8")


def write_jsonl(path: Path, tags: Mapping[str, Iterable[str]]) -> None:
    """Write one ``{"file": "a.jpg", "tags": ["apple"]}`` per line."""
    lines = [json.dumps({"file": name, "tags": list(names)}) + "\n" for name, names in tags.items()]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


@reads("image tags")
def read_class_folders(folder: Path, findings: Findings | None = None) -> TagRows:
    """Tags from one sub-folder of photos per class: ``apple/1.jpg`` is an apple; classes in alphabetical order.

    Photos directly in ``folder`` have no row. Raises `UserError` where there is no sub-folder with photos.
    """
    photos = [PurePosixPath(name) for name in _photos_below(folder)]
    rows = {path.as_posix(): (path.parts[0],) for path in photos if len(path.parts) > 1}
    if not rows:
        raise UserError(f"wanted one folder of photos per class (or ImageSets/Main lists) in {folder}, found neither")
    known = {names[0] for names in rows.values()}
    classes = tuple(sorted(known))
    if findings is not None:
        bare = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
        bare = [printable(name) for name in bare if name not in known]
        left_out = f"; folders without photos: {listed(bare)}" if bare else ""
        findings.count(f"{folder}: {len(rows)} photos in {len(classes)} folders named after classes{left_out}")
    return TagRows(rows, classes)


@reads("folders of photos")
def is_class_folders(folder: Path) -> bool:
    """Whether ``folder`` holds photos in sub-folders only, so that the sub-folders may name classes.

    Folders that are all called after splits or photos (``train``, ``images``) do not.
    """
    photos = [PurePosixPath(name) for name in _photos_below(folder)]
    names = {path.parts[0].lower() for path in photos}
    return min(map(_depth, photos), default=0) == 2 and not names <= _NO_CLASSES


def _depth(path: PurePosixPath) -> int:
    return len(path.parts)


def _photos_below(folder: Path) -> list[str]:
    """Names of the photos below ``folder`` that may be readable; none where there are none."""
    with contextlib.suppress(UserError):
        return [name for name in list_photos(folder) if PurePosixPath(name).suffix.lower() in PHOTO_SUFFIXES]
    return []


def _is_voc_lists(folder: Path) -> bool:
    """Whether the folder holds text files and no folders, as ``ImageSets/Main`` does."""
    return any(folder.glob("*.txt")) and not any(path.is_dir() for path in folder.iterdir())


def _read_file(path: Path, findings: Findings, photo_names: ImageNames | None) -> TagRows:
    """Tags of a JSON, JSONL or CSV file, recognised by its ending."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        truth = coco.read_if_instances(path, findings)
        if truth is not None:
            return TagRows({name: class_names_of(truth, name) for name in truth.images}, truth.classes)
        return join_rows(json_rows(path, findings), path, findings)
    if suffix in (".jsonl", ".ndjson"):
        lines = read_json_lines(path, "image tags")
        rows = (row for number, entry in lines for row in line_rows(entry, number, path, findings))
        return join_rows(rows, path, findings)
    if suffix in (".csv", ".tsv", ".txt"):
        return read_table(path, findings, photo_names)
    raise UserError(f"wanted image tags as .csv, .json, .jsonl or a folder, found {path}: convert or rename it")
