"""Look at a folder and tell what a run would take from it: photos, tags and true objects of each split."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weaksam.config import UserError
from weaksam.data.annotation_folders import annotation_files
from weaksam.data.findings import Findings
from weaksam.data.formats import coco, yolo
from weaksam.data.formats.tags import is_class_folders, read_tags
from weaksam.data.formats.yolo_lines import looks_like_labels
from weaksam.data.image_names import ImageNames
from weaksam.data.photos import list_photos
from weaksam.data.tag_matching import match_rows

SPLITS: Mapping[str, frozenset[str]] = {
    "train": frozenset({"train", "training", "trainval"}),
    "test": frozenset({"test", "testing", "val", "valid", "validation", "eval"}),
}
"""Words by which folders and files say whose they are, in the order in which test splits are preferred."""
NO_PHOTOS = frozenset(
    {"masks", "mask", "segmentationclass", "segmentationobject", "annotations", "labels", "gt", "ground_truth"}
)
"""Folders of pictures that are no photos."""
TAG_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
MOST_FILES = 200
"""So many files of labels are looked at, nearest to the folder first."""
LEAST_SHARE = 0.5
"""Share of a split's photos that a file must name to be theirs."""


@dataclass(frozen=True)
class FoundSplit:
    """What is there of one split. ``num_labelled``: photos that the tags, else the truth, name."""

    images: Path
    tags: Path | None
    truth: Path | None
    num_photos: int
    num_labelled: int

    def settings(self) -> dict[str, str]:
        """The paths as settings of the split, such as ``images``; those that were not found are left out."""
        paths = {"images": self.images, "tags": self.tags, "truth": self.truth}
        return {name: path.as_posix() for name, path in paths.items() if path is not None}


def find_splits(folder: Path) -> dict[str, FoundSplit]:
    """The splits ``train`` and, where there is one, ``test`` below ``folder``; photos are not opened.

    Folders called after a split part the photos, and in VOC's layout the lists in ``ImageSets/Main`` do; otherwise all
    photos are for training. Of the files and folders of labels each split takes those that its readers can read and
    that name most of its photos; a test split without truth is left out. A training split may have no labels at all.

    Raises:
        UserError: the folder is missing or holds no photo.
    """
    if not folder.is_dir():
        state = "a file" if folder.exists() else "nothing there"
        raise UserError(f"wanted a folder to look at, found {state} at {folder}: name the folder of your photos")
    photos = {
        name: path
        for name, path in list_photos(folder).items()
        if not NO_PHOTOS & {part.lower() for part in PurePosixPath(name).parts[:-1]}
    }
    if not photos:
        raise UserError(f"wanted photos below {folder}, found masks and labels alone: name the folder of your photos")
    voc = next((path.parent for path in photos.values() if path.parent.name == "JPEGImages"), None)
    if voc is not None and (voc.parent / "ImageSets" / "Main").is_dir():
        return _voc_splits(voc)
    files, folders = _label_files(folder), _label_folders(folder)
    splits = {
        split: _labelled(split, images, files, folders) for split, images in _image_folders(folder, photos).items()
    }
    return {split: of_split for split, of_split in splits.items() if split == "train" or of_split.truth is not None}


def split_of(name: str) -> str | None:
    """The split that a file or folder says it belongs to: ``train2017`` and ``instances_train.json`` do; else None."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, known in SPLITS.items() if words & known), None)


def _voc_splits(images: Path) -> dict[str, FoundSplit]:
    """The splits of VOC's layout around ``images``, the folder JPEGImages."""
    lists, truth = images.parent / "ImageSets" / "Main", images.parent / "Annotations"
    boxes = truth if truth.is_dir() else None
    # Of trainval and test, as in VOC 2007, else of train and val
    pairs = (("trainval", "test"), ("train", "test"), ("train", "val"), ("trainval", ""), ("train", ""))
    known = {path.stem for path in lists.glob("*.txt")} | {""}
    names = next((pair for pair in pairs if known.issuperset(pair)), None)
    if names is None:
        raise UserError(f"wanted trainval.txt or train.txt in {lists}, found neither: name the photos of a split there")
    splits = {}
    for split, name in zip(SPLITS, names, strict=True):
        if name:
            listed = lists / f"{name}.txt"
            num = sum(1 for line in listed.read_text(errors="replace").splitlines() if line.strip())
            splits[split] = FoundSplit(images, listed, boxes, num, num)
    return splits


def _image_folders(folder: Path, photos: Mapping[str, Path]) -> dict[str, Path]:
    """The folder of each split's photos; all are for training where no folder is called after that split."""
    of_splits: dict[str, dict[str, list[PurePosixPath]]] = {split: defaultdict(list) for split in SPLITS}
    for name in photos:
        parents = PurePosixPath(name).parts[:-1]
        split, word = next(((split_of(part), part) for part in parents if split_of(part)), (None, ""))
        if split is not None:
            of_splits[split][word].append(PurePosixPath(*parents))
    if not of_splits["train"]:
        return {"train": _common(folder, [PurePosixPath(name).parent for name in photos])}
    chosen = {}
    for split, by_word in of_splits.items():
        if by_word:
            word = max(by_word, key=lambda word: (word.lower().startswith(split), len(by_word[word])))
            chosen[split] = _common(folder, by_word[word])
    return chosen


def _common(folder: Path, parents: Sequence[PurePosixPath]) -> Path:
    """The deepest folder that holds all of ``parents``, which are relative to ``folder``."""
    return folder / os.path.commonpath([str(parent) for parent in parents])


def _label_files(folder: Path) -> list[Path]:
    """Files that may hold tags or true objects, those nearest to the folder first, hidden ones left out."""
    files = (
        path
        for path in _walk(folder)
        if path.suffix.lower() in TAG_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    return sorted(files, key=lambda path: (len(path.parts), path))[:MOST_FILES]


def _label_folders(folder: Path) -> dict[Path, set[str]]:
    """Folders that hold VOC XML or YOLO labels, with the stems of these files."""
    by_folder: dict[Path, set[str]] = {}
    for path in sorted({path.parent for path in _walk(folder) if path.suffix.lower() in (".xml", ".txt")}):
        labels = annotation_files(path, ".xml") or yolo.label_files(path)
        xml = any(file.suffix == ".xml" for file in labels.values())
        if labels and (xml or looks_like_labels(min(labels.values()))):
            by_folder[path] = {PurePosixPath(name).stem for name in labels}
    return by_folder


def _walk(folder: Path) -> Iterator[Path]:
    """Files below ``folder``, folders in order, hidden ones left out."""
    for parent, children, names in os.walk(folder):
        children[:] = sorted(child for child in children if not child.startswith("."))
        yield from (Path(parent, name) for name in sorted(names))


def _labelled(split: str, images: Path, files: Sequence[Path], folders: Mapping[Path, set[str]]) -> FoundSplit:
    """A split with the labels that name most of its photos."""
    names = list(list_photos(images))
    if split == "train" and is_class_folders(images):
        return FoundSplit(images, None, None, len(names), len(names))
    photo_names = ImageNames(names)
    tags, truths = [], []
    for file in files:
        share, is_truth = _named_share(file, photo_names, len(names))
        if share >= LEAST_SHARE:
            (truths if is_truth else tags).append((share, *_likeness(file, split), file))
    stems = {PurePosixPath(name).stem for name in names}
    for folder, of_labels in folders.items():
        share = len(stems & of_labels) / len(stems)
        if share >= LEAST_SHARE:
            truths.append((share, *_likeness(folder, split), folder))
    (of_tags, tag_file), (of_truth, truth) = _best(tags), _best(truths)
    share = of_truth if tag_file is None else of_tags
    return FoundSplit(images, tag_file, truth, len(names), round(share * len(names)))


def _named_share(file: Path, photo_names: ImageNames, num_photos: int) -> tuple[float, bool]:
    """Share of the photos that a file names, 0 where no reader takes it; and whether it holds true objects."""
    findings = Findings(gather=True)
    try:
        is_truth = file.suffix.lower() == ".json" and coco.read_if_instances(file, Findings(gather=True)) is not None
        matched = match_rows(read_tags(file, findings=findings, photo_names=photo_names), photo_names, file, findings)
    except UserError:
        return 0.0, False
    return len(set(matched.photo_of.values())) / num_photos, is_truth


def _likeness(path: Path, split: str) -> tuple[bool, bool, int]:
    """What speaks for labels of a split: its name in the path, no other split's there, a short path."""
    of_parts = {split_of(part) for part in path.parts[-3:]} - {None}
    return split in of_parts, not of_parts - {split}, -len(path.parts)


def _best(labels: Iterable[tuple[float, bool, bool, int, Path]]) -> tuple[float, Path | None]:
    """The share and path of the best labels; (0, None) of none."""
    chosen = max(labels, default=None, key=lambda row: (row[2], row[0], row[1], row[3], row[4].as_posix()))
    return (0.0, None) if chosen is None else (chosen[0], chosen[4])
