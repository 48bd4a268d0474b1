"""The true objects of a split, from any of the annotation formats, matched to its photos and classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from weaksam.config import UserError
from weaksam.data import coco, voc, yolo
from weaksam.data.annotations import Annotations, NameMatcher, did_you_mean, listed
from weaksam.data.photos import Photo
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class SplitTruth:
    """True objects and file numbers by image id, labels counted in ``classes``; and the entries without a photo."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    objects: Mapping[str, Instances]
    numbers: Mapping[str, int]
    without_photo: tuple[str, ...]


def read_truth(path: Path, sizes: Mapping[str, tuple[int, int]], classes: Sequence[str] | None = None) -> Annotations:
    """Annotations in COCO JSON, a folder of VOC XML or a folder of YOLO labels, told apart by what is there.

    ``sizes``, photos' (H, W) by image id, and ``classes``, used where no names file is there, matter to YOLO only.
    Raises `UserError` for anything else.
    """
    if path.is_dir():
        if any(path.glob("*.xml")):
            return voc.read_annotations(path)
        if yolo.label_files(path):
            return yolo.read_labels(path, sizes, yolo.find_names(path) or classes)
        raise UserError(f"wanted true boxes in {path}, found neither VOC *.xml nor YOLO *.txt: name the folder of them")
    if not path.exists():
        raise UserError(
            f"wanted true boxes (COCO .json, folder of VOC .xml or YOLO .txt) at {path}, found nothing there"
        )
    if path.suffix.lower() != ".json":
        raise UserError(f"wanted true boxes as COCO .json or a folder of VOC .xml or YOLO .txt, found the file {path}")
    return coco.read_instances(path)


def truth_classes(path: Path) -> tuple[str, ...] | None:
    """Class names of a truth file in its order; None for YOLO labels without a names file."""
    if path.is_dir() and not any(path.glob("*.xml")):
        return yolo.find_names(path)
    return read_truth(path, {}).classes


def read_split_truth(
    path: Path,
    photos: Mapping[str, Photo],
    matcher: NameMatcher,
    classes: tuple[str, ...] | None,
    tag_classes: tuple[str, ...] | None = None,
) -> SplitTruth:
    """The truth at ``path`` for ``photos``, with labels counted in ``classes`` (None: the file's own).

    Category ids are the file's where it has the class, else free numbers from 1. Objects of classes that are not in
    ``classes`` are left out. Raises `UserError` where the names disagree both ways, or one photo is listed twice.
    """
    read = read_truth(path, {image_id: photo.size for image_id, photo in photos.items()}, classes or tag_classes)
    names = read.classes if classes is None else classes
    _refuse_other_names(read, names, path)
    objects: dict[str, Instances] = {}
    numbers: dict[str, int] = {}
    without_photo = []
    for entry, truth in read.images.items():
        image_id = matcher.find(entry, str(path))
        if image_id is None:
            without_photo.append(entry)
            continue
        if image_id in objects:
            raise UserError(f"wanted every photo once in {path}, found {image_id} twice: remove one entry")
        objects[image_id] = _relabelled(truth.instances, read.classes, names)
        if truth.number is not None:
            numbers[image_id] = truth.number
    return SplitTruth(tuple(names), _category_ids(read, names), objects, numbers, tuple(without_photo))


def _refuse_other_names(read: Annotations, names: Sequence[str], path: Path) -> None:
    """Names missing on one side are a choice, on both sides a spelling mistake."""
    used = {read.classes[label] for truth in read.images.values() for label in truth.instances.labels.tolist()}
    extra = sorted(used - set(names))
    missing = [name for name in names if name not in read.classes]
    if extra and missing and (did_you_mean(missing[0], extra) or not used & set(names)):
        raise UserError(
            f"wanted the classes {listed(names)} in {path}, found {listed(extra)} but no {missing[0]!r}"
            f"{did_you_mean(missing[0], extra)}: use the same names or set data.classes"
        )


def _relabelled(objects: Instances, old: Sequence[str], new: Sequence[str]) -> Instances:
    """Labels counted in ``new`` instead of ``old`` names; objects of other classes left out."""
    if tuple(old) == tuple(new):
        return objects
    label_of = {name: label for label, name in enumerate(new)}
    table = torch.tensor([label_of.get(name, -1) for name in old], dtype=torch.int64)
    labels = table[objects.labels] if len(objects) else objects.labels
    return objects.replace(labels=labels)[labels >= 0]


def _category_ids(read: Annotations, names: Sequence[str]) -> tuple[int, ...]:
    number_of = dict(zip(read.classes, read.category_ids, strict=True))
    free = (number for number in range(1, len(names) + len(number_of) + 1) if number not in number_of.values())
    return tuple(number_of[name] if name in number_of else next(free) for name in names)
