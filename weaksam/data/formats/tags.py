"""Read image tags from CSV, JSON, JSONL, class folders or VOC's ImageSets/Main, and write them."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from weaksam.config import UserError, listed
from weaksam.data.annotations import Annotations, tag_labels
from weaksam.data.formats import coco, voc
from weaksam.data.images import PHOTO_SUFFIXES
from weaksam.data.text_files import read_json, read_json_lines, read_text
from weaksam.store.files import atomic_file

_FILE_NAME = re.compile(
    r"(image|img|photo|picture|file)?[ _]?(file|path|name|id|image|img|photo|picture)s?([ _]?name)?"
)
_TAG_NAME = re.compile(r"(image_?)?(tag|label|class|category|classe|categorie|class_?name)s?[ _]?\d*")
_FLAGS = {"": 0, "0": 0, "-1": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1, "x": 1}


@dataclass(frozen=True)
class TagRows:
    """Class names by image name as a source states them; ``classes`` in its own order, or None where it has none.

    An image with no names is an image without any class. ``complete`` is False where unlisted photos are simply not
    part of the split (VOC lists), True where every photo should have a row.
    """

    rows: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...] | None = None
    complete: bool = True

    @property
    def class_names(self) -> tuple[str, ...]:
        """The stated classes, else all names that occur, sorted."""
        if self.classes is not None:
            return self.classes
        return tuple(sorted({name for names in self.rows.values() for name in names}))


def read_tags(path: Path, *, split: str = "train") -> TagRows:
    """Tags of the file or folder at ``path``; ``split`` chooses the list in a VOC ``ImageSets/Main`` folder.

    CSV (comma, semicolon or tab; with header or not): ``file,tag1;tag2``, ``file,tag1,tag2``, ``file,tag`` in repeated
    rows, or one column of 0/1 per class. JSON: ``{"a.jpg": ["apple"]}``, ``[{"file": ..., "tags": [...]}]``, or a COCO
    instances file, of which only the categories per image are read. JSONL: one such object per line. A folder: one
    sub-folder of photos per class, or ``ImageSets/Main``. Raises `UserError` where ``path`` is missing or has no rows.
    """
    if not path.exists():
        raise UserError(f"wanted image tags at {path}, found nothing there: check the path")
    if path.is_dir():
        tags = _voc_tags(path, split) if _is_voc_lists(path) else read_class_folders(path)
    elif path.suffix == ".txt" and path.parent.name == "Main":
        tags = _voc_tags(path.parent, path.stem)
    else:
        tags = _read_file(path)
    if not tags.rows:
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


def read_class_folders(folder: Path) -> TagRows:
    """Tags from one sub-folder of photos per class: ``apple/1.jpg`` is an apple; classes in alphabetical order.

    Photos directly in ``folder`` have no row. Raises `UserError` where there is no sub-folder with photos.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if len(relative.parts) > 1 and path.suffix.lower() in PHOTO_SUFFIXES and not hidden:
            rows[relative.as_posix()] = (relative.parts[0],)
    if not rows:
        raise UserError(f"wanted one folder of photos per class (or ImageSets/Main lists) in {folder}, found neither")
    return TagRows(rows, tuple(sorted({names[0] for names in rows.values()})))


def is_class_folders(folder: Path) -> bool:
    """Whether ``folder`` holds photos in sub-folders only, so that the sub-folders may name classes."""
    if any(path.suffix.lower() in PHOTO_SUFFIXES for path in folder.iterdir() if path.is_file()):
        return False
    return any(path.suffix.lower() in PHOTO_SUFFIXES for path in folder.glob("[!.]*/*"))


def _is_voc_lists(folder: Path) -> bool:
    """Whether the folder holds text files and no folders, as ``ImageSets/Main`` does."""
    return any(folder.glob("*.txt")) and not any(path.is_dir() for path in folder.iterdir())


def _voc_tags(folder: Path, split: str) -> TagRows:
    """Tags of one split of ``ImageSets/Main``: per-class flags of 1, else the class names in ``Annotations/*.xml``.

    A class of which only difficult objects are in an image (flag 0) is no tag.
    """
    split = _choose_split(folder, split)
    names = voc.read_split(folder, split)
    flags = voc.read_class_flags(folder, split)
    if flags:
        rows = {name: tuple(c for c, of_class in flags.items() if of_class.get(name) == 1) for name in names}
        return TagRows(rows, tuple(flags), complete=False)
    annotations = folder.parent.parent / "Annotations"
    if not annotations.is_dir():
        raise UserError(
            f"wanted per-class lists (<class>_{split}.txt) in {folder} or XML in {annotations}, found neither"
        )
    truth = voc.read_annotations(annotations)
    missing = [name for name in names if name not in truth.images]
    if missing:
        raise UserError(
            f"wanted an XML in {annotations} for every image of {split}.txt, found none for {listed(missing)}"
        )
    return TagRows({name: _tags_of(truth, name) for name in names}, truth.classes, complete=False)


def _choose_split(folder: Path, split: str) -> str:
    """The list to read for ``split``: its own, else trainval or train where not for test, else the only one there."""
    splits = voc.splits_in(folder)
    if split in splits:
        return split
    for other in ("trainval", "train"):
        if other in splits and split != "test":
            return other
    if len(splits) == 1:
        return splits[0]
    raise UserError(f"wanted the split {split!r} in {folder}, found {listed(splits)}: name one file of that folder")


def _tags_of(truth: Annotations, name: str) -> tuple[str, ...]:
    return tuple(truth.classes[label] for label in tag_labels(truth.images[name].instances))


def _read_file(path: Path) -> TagRows:
    """Tags of a JSON, JSONL or CSV file, recognised by its ending."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = read_json(path, "image tags")
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content):
            truth = coco.read_instances(path)
            return TagRows({name: _tags_of(truth, name) for name in truth.images}, truth.classes)
        entries = content.items() if isinstance(content, dict) else (_entry(entry, path) for entry in content)
        return _gather((str(name), _names(value, path)) for name, value in entries)
    if suffix in (".jsonl", ".ndjson"):
        return _gather(pair for _, entry in read_json_lines(path, "image tags") for pair in _line_pairs(entry, path))
    if suffix in (".csv", ".tsv", ".txt"):
        return _read_csv(path)
    raise UserError(f"wanted image tags as .csv, .json, .jsonl or a folder, found {path}: convert or rename it")


def _gather(pairs: Iterable[tuple[str, Sequence[str]]], classes: tuple[str, ...] | None = None) -> TagRows:
    """Rows with the names of repeated images joined."""
    rows: dict[str, dict[str, None]] = {}
    for name, tags in pairs:
        rows.setdefault(name, {}).update(dict.fromkeys(tag for tag in tags if tag))
    return TagRows({name: tuple(tags) for name, tags in rows.items()}, classes)


def _line_pairs(entry: Any, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Image name and tags of one line of JSONL: one ``{"file": ..., "tags": ...}``, or any number of ``name: tags``."""
    keys = {str(key).lower() for key in entry} if isinstance(entry, dict) else set()
    if keys and not any(map(_FILE_NAME.fullmatch, keys)):
        yield from ((str(name), _names(value, path)) for name, value in entry.items())
    else:
        name, value = _entry(entry, path)
        yield str(name), _names(value, path)


def _entry(entry: Any, path: Path) -> tuple[Any, Any]:
    """Image name and tags of one ``{"file": ..., "tags": ...}`` object."""
    if isinstance(entry, dict):
        name = next((value for key, value in entry.items() if _FILE_NAME.fullmatch(key.lower())), None)
        value = next((value for key, value in entry.items() if _TAG_NAME.fullmatch(key.lower())), None)
        if isinstance(name, str | int) and value is not None:
            return name, value
    raise UserError(f"wanted objects like {{'file': 'a.jpg', 'tags': ['apple']}} in {path}, found {str(entry)[:60]}")


def _names(value: Any, path: Path) -> list[str]:
    """Tag names of one JSON value: a list, one text (``a;b``), or ``{class: 0 or 1}``."""
    if isinstance(value, str):
        return _split_cell(value)
    if isinstance(value, dict):
        return [str(name).strip() for name, flag in value.items() if _FLAGS.get(str(flag).lower(), 1)]
    if isinstance(value, list) and all(isinstance(name, str | int) for name in value):
        return [str(name).strip() for name in value]
    raise UserError(f"wanted a list of class names per image in {path}, found {str(value)[:60]!r}: mend the file")


def _split_cell(cell: str) -> list[str]:
    """Tag names in one cell or text, separated by ``;``, ``|`` or ``,``."""
    return [name.strip() for name in re.split(r"[;|,]", cell) if name.strip()]


def _read_csv(path: Path) -> TagRows:
    """Tags of a table: one column of 0/1 per class, or tag names beside the file name, see `read_tags`."""
    text = read_text(path, "image tags as UTF-8 text")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((mark for mark in ("\t", ",", ";") if mark in first), ",")
    table = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter)]
    table = [row for row in table if any(row)]
    if not table:
        return TagRows({})
    header = table[0] if _is_header(table) else None
    body = table[1:] if header else table
    nameless = next((row for row in body if not row[0]), None)
    if nameless is not None:
        raise UserError(f"wanted a file name in the first column of {path}, found the row {nameless}: fill it in")
    if header and _is_one_hot(header, body):
        classes = tuple(header[1:])
        flagged = ((row[0], [c for c, cell in zip(classes, row[1:], strict=False) if _flag(cell)]) for row in body)
        return _gather(flagged, classes)
    columns = _tag_columns(header, path)
    return _gather((row[0], [name for cell in _cells(row, columns) for name in _split_cell(cell)]) for row in body)


def _is_header(table: Sequence[Sequence[str]]) -> bool:
    """A first row that names columns: by its first word, or as a plain word above nothing but photos' names.

    A first row with a digit in its name, or with a tag that comes again, is taken for a photo without its ending.
    """
    (first, *rest), body = table[0], table[1:]
    if _FILE_NAME.fullmatch(first.lower().lstrip("# ")):
        return True
    names_photos = bool(body) and all(PurePosixPath(row[0]).suffix.lower() in PHOTO_SUFFIXES for row in body)
    word = re.fullmatch(r"[^\W\d]+([ _-][^\W\d]+)*", first) is not None
    comes_again = any(cell in row[1:] for cell in rest if cell for row in body)
    return names_photos and word and not comes_again


def _is_one_hot(header: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether the columns after the first are classes: none is named like a column of tags, and all cells are flags."""
    if len(header) < 2 or any(_TAG_NAME.fullmatch(name.lower()) for name in header[1:]):
        return False
    return bool(body) and all(cell.lower() in _FLAGS for row in body for cell in row[1:])


def _flag(cell: str) -> int:
    return _FLAGS[cell.lower()]


def _tag_columns(header: Sequence[str] | None, path: Path) -> list[int] | None:
    """Which columns hold tags; None for all after the first."""
    if header is None:
        return None
    if len(header) < 2:
        raise UserError(f"wanted a column of tags beside {header[0]!r} in {path}, found none: write 'file,tags' rows")
    return [column for column, name in enumerate(header) if column and _TAG_NAME.fullmatch(name.lower())] or None


def _cells(row: Sequence[str], columns: Sequence[int] | None) -> list[str]:
    """The cells of a row that hold tags; a short row has fewer."""
    return list(row[1:]) if columns is None else [row[column] for column in columns if column < len(row)]
