"""Read and write VOC's ImageSets/Main: lists of a split's photos, and of each class's flags in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from weaksam.config import UserError, listed
from weaksam.data.annotations import tag_labels
from weaksam.data.findings import Findings
from weaksam.data.formats import voc
from weaksam.data.formats.tag_rows import TagRows
from weaksam.data.image_names import ImageNames
from weaksam.data.name_lists import listed_names, note_flags

_SPLITS = frozenset({"train", "val", "trainval", "test"})
Flags = Mapping[str, Mapping[str, int]]
"""1, 0 or -1 by class and image name."""


def read_voc_tags(folder: Path, split: str, findings: Findings) -> TagRows:
    """Tags of one split of ``ImageSets/Main``: per-class flags of 1, else the class names in ``Annotations/*.xml``.

    A class of which only difficult objects are in an image (flag 0) is no tag. Names agree with or without ending.
    """
    split = _choose_split(folder, split, findings)
    names = read_split(folder, split, findings)
    flags = read_class_flags(folder, split, findings)
    if flags:
        return _tags_of_flags(folder, split, names, flags, findings)
    annotations = folder.parent.parent / "Annotations"
    if not annotations.is_dir():
        raise UserError(
            f"wanted per-class lists (<class>_{split}.txt) in {folder} or XML in {annotations}, found neither"
        )
    truth = voc.read_annotations(annotations, findings)
    xml_names = ImageNames(list(truth.images))
    xml_of = {name: xml_names.find(name, f"{split}.txt") for name in names}
    missing = [name for name, xml in xml_of.items() if xml is None]
    if missing:
        findings.fault(
            f"wanted an XML in {annotations} for every image of {split}.txt, found none for {listed(missing)}"
        )
    rows = {
        name: tuple(truth.classes[label] for label in tag_labels(truth.images[xml].instances))
        for name, xml in xml_of.items()
        if xml is not None
    }
    return TagRows(rows, truth.classes, complete=False)


def _tags_of_flags(folder: Path, split: str, names: Sequence[str], flags: Flags, findings: Findings) -> TagRows:
    """Tags by the flags of each class; how much was read, and names that only one of the lists has, are counted."""
    known = ImageNames(names)
    tags: dict[str, list[str]] = {name: [] for name in names}
    num_flags = {1: 0, 0: 0, -1: 0}
    strange: dict[str, None] = {}
    for class_name, of_class in flags.items():
        for row, flag in of_class.items():
            name = known.find(row, f"{class_name}_{split}.txt")
            if name is None:
                strange[row] = None
                continue
            num_flags[flag] += 1
            if flag == 1:
                tags[name].append(class_name)
    text = f"{folder}: {len(names)} photos of {split}, {len(flags)} class lists"
    num_missing = len(names) * len(flags) - sum(num_flags.values())
    if num_missing:
        text += f"; without a flag, read as absent: {num_missing}"
    if num_flags[0]:
        text += f"; flags of 0 (difficult objects alone), read as absent: {num_flags[0]}"
    if strange:
        text += f"; in class lists but not in {split}.txt, left out: {len(strange)} ({listed(list(strange), 3)})"
    findings.count(text)
    if num_flags[1] + num_flags[0] + num_flags[-1] == 0:
        findings.fault(
            f"wanted the photos of {split}.txt in the class lists of {folder}, found none of them there "
            f"({listed(list(strange), 3)}): give lists of one split"
        )
    return TagRows({name: tuple(of_name) for name, of_name in tags.items()}, tuple(flags), complete=False)


def _choose_split(folder: Path, split: str, findings: Findings) -> str:
    """The list to read for ``split``: its own, else trainval or train where not for test, else the only one there.

    The list of one class (``cat_val.txt``) stands for its split.
    """
    path = folder / f"{split}.txt"
    tail = split.rpartition("_")[2]
    if path.is_file():
        if tail == split or tail not in _SPLITS or not _is_class_list(path):
            return split
        findings.guess(
            f"the list of one class was taken for its split {tail}, with the lists of all classes", str(path)
        )
        return tail
    splits = splits_in(folder)
    if split in splits:
        return split
    for other in ("trainval", "train"):
        if other in splits and split != "test":
            findings.guess(f"the list {other} was taken for {split}", str(folder))
            return other
    if len(splits) == 1:
        findings.guess(f"the list {splits[0]} was taken for {split}", str(folder))
        return splits[0]
    raise UserError(f"wanted the split {split!r} in {folder}, found {listed(splits)}: name one file of that folder")


def _is_class_list(path: Path) -> bool:
    """Whether a list gives a flag for every name."""
    return all(entry.flag is not None for entry in listed_names(path))


def read_split(folder: Path, split: str, findings: Findings | None = None) -> tuple[str, ...]:
    """Image names of ``<split>.txt`` in an ``ImageSets/Main`` folder, in the file's order, each once.

    Without that file, the union of the per-class files ``<class>_<split>.txt``. Raises `UserError` where neither is.
    """
    findings = findings or Findings()
    path = folder / f"{split}.txt"
    if path.is_file():
        names = listed_names(path)
        note_flags(names, path, findings)
        once = dict.fromkeys(entry.name for entry in names)
        if len(once) < len(names):
            findings.guess(f"{len(names) - len(once)} names that come twice were taken once", str(path))
        return tuple(once)
    flags = read_class_flags(folder, split, Findings())
    if not flags:
        names_there = listed(sorted(file.name for file in folder.glob("*.txt"))) or "no list"
        raise UserError(f"wanted {split}.txt in {folder}, found {names_there}: name one of them")
    return tuple(dict.fromkeys(name for rows in flags.values() for name in rows))


def read_class_flags(folder: Path, split: str, findings: Findings | None = None) -> dict[str, dict[str, int]]:
    """``{class: {image name: flag}}`` of the per-class files ``<class>_<split>.txt``; no files give no classes.

    The flag is 1 where the class is in the image, 0 where only a difficult object of it is, -1 where it is not. A file
    of names alone is no list of a class, which ``findings`` say. Raises `UserError` for other lines and two flags of
    one image.
    """
    findings = findings or Findings()
    flags = {}
    for path in sorted(folder.glob(f"*_{split}.txt")):
        entries = listed_names(path, "a list of images with flags", flagged=True)
        if entries and all(entry.flag is None and " " not in entry.name for entry in entries):
            findings.guess("names without flags were read as no list of a class", str(path))
            continue
        rows: dict[str, int] = {}
        for entry in entries:
            if entry.flag is None:
                raise UserError(
                    f"wanted 'image flag' with flag -1, 0 or 1 in {path}, found {entry.name!r} in line {entry.line}: "
                    "mend it"
                )
            if rows.setdefault(entry.name, entry.flag) != entry.flag:
                raise UserError(
                    f"wanted one flag for each image in {path}, found another one for {entry.name!r} in line "
                    f"{entry.line}: remove one of the two"
                )
        flags[path.stem.removesuffix(f"_{split}")] = rows
    return flags


def write_split(folder: Path, split: str, flags: Flags, names: Sequence[str]) -> None:
    """Write ``<split>.txt`` with ``names`` and one ``<class>_<split>.txt`` per class of ``flags`` (missing: -1)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    for class_name, rows in flags.items():
        lines = [f"{name} {rows.get(name, -1):2d}\n" for name in names]
        (folder / f"{class_name}_{split}.txt").write_text("".join(lines), encoding="utf-8")


def splits_in(folder: Path) -> tuple[str, ...]:
    """Names of the splits that an ``ImageSets/Main`` folder lists, whole or per class."""
    stems = [path.stem.rpartition("_") for path in folder.glob("*.txt")]
    return tuple(sorted({tail if tail in _SPLITS else head + mark + tail for head, mark, tail in stems}))
