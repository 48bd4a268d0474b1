"""Read the true objects of a split from any annotation format, and match them to its photos and classes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotation_folders import annotation_files, match_photos
from weaksam.data.annotations import Annotations, ImageTruth
from weaksam.data.class_names import ClassLabels
from weaksam.data.file_errors import reads
from weaksam.data.findings import Findings
from weaksam.data.formats import voc, voc_pictures, yolo
from weaksam.data.image_names import ImageNames
from weaksam.data.images import BadImage, image_size
from weaksam.data.label_files import label_file_classes, labels_in, numbers_classes, read_label_file
from weaksam.data.photos import Photo, list_photos
from weaksam.data.truth_photos import fit_to_photo
from weaksam.data.truth_table import TruthTable, used_labels
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class SplitTruth:
    """True objects and file numbers by image id, labels counted in ``classes``; and the entries without a photo."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    objects: Mapping[str, Instances]
    numbers: Mapping[str, int]
    without_photo: Sequence[str]
    notes: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    """Ids in the file by image id, where these are texts and no numbers."""


@reads("true boxes")
def read_truth(
    path: Path,
    sizes: Mapping[str, tuple[int, int]],
    classes: Sequence[str] | None = None,
    findings: Findings | None = None,
    images: Path | None = None,
) -> Annotations:
    """Annotations in a file, see `read_label_file`, or in a folder of VOC XML, VOC's SegmentationObject or YOLO labels.

    Which of them is recognised by what is there.

    ``sizes``, photos' (H, W) by image id, and ``classes``, used where no names file is there, matter to YOLO and VOC's
    pictures, ``images``, the photos' folder, to YOLO only. ``findings`` takes what is noticed, and every fault where it
    gathers them. Raises `UserError` for anything else.
    """
    path = labels_in(path)
    if path.is_dir():
        kind = _folder_kind(path)
        if kind == "voc":
            return voc.read_annotations(path, findings)
        if kind == "pictures":
            return voc_pictures.read_pictures(path, classes, findings, sizes)
        if kind == "yolo":
            return yolo.read_labels(path, sizes, classes, findings, images)
        raise UserError(f"wanted true boxes in {path}, found neither VOC *.xml nor YOLO *.txt: name the folder of them")
    if not path.exists():
        raise UserError(
            f"wanted true boxes (COCO .json, folder of VOC .xml or YOLO .txt) at {path}, found nothing there"
        )
    return read_label_file(path, findings)


def _folder_kind(folder: Path) -> str | None:
    """``voc`` for a folder of XML, ``pictures`` for VOC's SegmentationObject, ``yolo`` for one of labels, else None.

    Files in the folder itself come before those in sub-folders, XML before text; `UserError` where only sub-folders
    hold both.
    """
    inside = {path.suffix.lower() for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}
    if ".xml" in inside:
        return "voc"
    if ".png" in inside and voc_pictures.has_pictures(folder):
        return "pictures"
    if yolo.label_files(folder):
        if ".txt" not in inside and annotation_files(folder, ".xml"):
            raise UserError(f"wanted true boxes in {folder}, found VOC *.xml and YOLO *.txt below it: name one folder")
        return "yolo"
    return "voc" if annotation_files(folder, ".xml") else None


@reads("true boxes")
def read_measured_truth(
    truth: Path, images: Path | None = None, classes: Sequence[str] | None = None
) -> tuple[Annotations, tuple[str, ...], tuple[str, ...]]:
    """What a truth states, the entries of it that have a photo in the folder ``images``, and a note on the others.

    Without ``images`` all entries count; YOLO needs it, since its labels are relative, and sizes that the truth does
    not state are read there. ``classes`` names VOC's and YOLO's in order. Raises `UserError`, also where no photo fits.
    """
    photos = {} if images is None else list_photos(images)
    truth = labels_in(truth)
    relative = truth.is_dir() and _folder_kind(truth) == "yolo"
    if relative and images is None:
        raise UserError(f"wanted the photos of the YOLO labels in {truth}, found no folder of them: give --images DIR")
    sizes = {name: image_size(path) for name, path in photos.items()} if relative else {}
    findings = Findings()
    annotations = read_truth(truth, sizes, classes, findings, images)
    if classes is not None:
        annotations = _in_classes(annotations, classes, truth, findings)
    entries = annotations.images
    if images is None:
        fitted = {
            entry: fit_to_photo(image, entry, image.size, truth, findings) if image.size else image
            for entry, image in entries.items()
        }
        return replace(annotations, images=fitted), tuple(entries), findings.notes
    photo_of = match_photos(entries, ImageNames(list(photos)), truth, findings, images).photo_of
    paths = {entry: photos[photo] for entry, photo in photo_of.items()}
    if not paths:
        raise UserError(
            f"wanted photos of the {len(entries)} images of the truth {truth} in {images}, found none of them"
        )
    fitted = {entry: _fitted(entries[entry], path, truth, findings) for entry, path in paths.items()}
    num_lost = len(entries) - len(paths)
    if num_lost:
        findings.count(f"{num_lost} images of the truth have no photo in {images}: left out")
    _count_without_entry(photos, photo_of.values(), truth, findings)
    return replace(annotations, images={**entries, **fitted}), tuple(paths), findings.notes


def _fitted(image: ImageTruth, photo: Path, truth: Path, findings: Findings) -> ImageTruth:
    """The truth of one image for its photo; for a photo that cannot be read, in the size that is stated."""
    try:
        size = image_size(photo)
    except BadImage:
        if image.size is None:
            raise
        size = image.size
    return fit_to_photo(image, photo.name, size, truth, findings)


def _in_classes(annotations: Annotations, classes: Sequence[str], path: Path, findings: Findings) -> Annotations:
    """The same with labels counted in ``classes``, which are numbered from 1; other classes' objects are left out."""
    if numbers_classes(path):
        raise UserError(
            f"wanted no list of classes for the COCO file {path}, which numbers its own, found one: omit it"
        )
    refuse_other_names(annotations, classes, path)
    relabelling = _Relabelling(annotations.classes, classes)
    images = {
        name: replace(image, instances=relabelling.of(image.instances)) for name, image in annotations.images.items()
    }
    relabelling.say(path, findings)
    return Annotations(tuple(classes), tuple(range(1, len(classes) + 1)), images, annotations.notes)


@reads("true boxes")
def truth_classes(path: Path) -> tuple[str, ...] | None:
    """Class names of a truth in its order, whose objects are not checked; None for YOLO labels without a names file."""
    path = labels_in(path)
    if path.is_dir() and _folder_kind(path) == "yolo":
        return yolo.find_names(path)
    if path.is_file() and path.suffix.lower() == ".json":
        return label_file_classes(path)
    return read_truth(path, {}).classes


@reads("true boxes")
def read_split_truth(
    path: Path,
    photos: Mapping[str, Photo],
    photo_names: ImageNames,
    classes: tuple[str, ...] | None,
    tag_classes: tuple[str, ...] | None = None,
    images: Path | None = None,
) -> SplitTruth:
    """The truth at ``path`` for ``photos``, with labels counted in ``classes`` (None: the file's own).

    ``images`` is the photos' folder: of two files for one photo it may tell which is meant.
    Category ids are the file's where it has the class, else free numbers from 1. Objects of classes that are not in
    ``classes`` are left out. Raises `UserError` where the names disagree both ways, or one photo is listed twice.
    """
    sizes = {image_id: photo.size for image_id, photo in photos.items()}
    findings = Findings()
    annotations = read_truth(path, sizes, classes or tag_classes, findings, images)
    names = annotations.classes if classes is None else classes
    refuse_other_names(annotations, names, path)
    matched = match_photos(annotations.images, photo_names, path, findings, images)
    relabelling = _Relabelling(annotations.classes, names)
    objects: dict[str, Instances] = {}
    numbers: dict[str, int] = {}
    texts: dict[str, str] = {}
    fitting: dict[str, ImageTruth] = {}
    if isinstance(annotations.images, TruthTable):
        entries = [entry for entry, image_id in matched.photo_of.items() if image_id in sizes]
        fitting = annotations.images.fitting(entries, [sizes[matched.photo_of[entry]] for entry in entries])
    for entry, image_id in matched.photo_of.items():
        image = fitting[entry] if entry in fitting else annotations.images[entry]
        if image_id in sizes and entry not in fitting:
            image = fit_to_photo(image, image_id, sizes[image_id], path, findings)
        objects[image_id] = relabelling.of(image.instances)
        if image.number is not None:
            numbers[image_id] = image.number
        if image.text_id:
            texts[image_id] = image.text_id
    without_photo = matched.strays
    if without_photo:
        num_images = len(without_photo) + len(matched.photo_of)
        findings.count(f"{path}: {len(without_photo)} of {num_images} images have no photo: left out")
    relabelling.say(path, findings)
    _count_without_entry(photos, objects, path, findings)
    category_ids = _category_ids(annotations, names)
    return SplitTruth(tuple(names), category_ids, objects, numbers, without_photo, findings.notes, texts)


def refuse_other_names(annotations: Annotations, names: Sequence[str], path: Path) -> None:
    """`UserError` where names are missing on both sides, a spelling mistake; on one side it is a choice."""
    labels, known = ClassLabels(names), ClassLabels(annotations.classes)
    used = used_labels(annotations)
    extra = sorted(annotations.classes[label] for label in used if labels.find(annotations.classes[label]) is None)
    missing = [name for name in names if known.find(name) is None]
    if extra and missing and (did_you_mean(missing[0], extra) or len(extra) == len(used)):
        raise UserError(
            f"wanted the classes {listed(names)} in {path}, found {listed(extra)} but no {missing[0]!r}"
            f"{did_you_mean(missing[0], extra)}: use the same names or set data.classes"
        )


def relabelled(objects: Instances, old: Sequence[str], new: Sequence[str]) -> Instances:
    """Labels counted in ``new`` instead of ``old`` names; objects of other classes left out."""
    return _Relabelling(old, new).of(objects)


class _Relabelling:
    """Count labels in ``new`` instead of ``old`` names, leave out objects of other classes, and count these."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        labels = ClassLabels(new)
        new_labels = [labels.find(name) for name in old]
        self.old, self.same = old, tuple(old) == tuple(new)
        self.table = torch.tensor([-1 if label is None else label for label in new_labels], dtype=torch.int64)
        self.num_left_out = torch.zeros(len(old), dtype=torch.int64)

    def of(self, objects: Instances) -> Instances:
        """The objects of one image under their new labels."""
        if self.same or len(objects) == 0:
            return objects
        labels = self.table[objects.labels]
        self.num_left_out += torch.bincount(objects.labels[labels < 0], minlength=len(self.old))
        return objects.replace(labels=labels)[labels >= 0]

    def say(self, path: Path, findings: Findings) -> None:
        """Count what was left out."""
        names = [name for name, num in zip(self.old, self.num_left_out.tolist(), strict=True) if num]
        if names:
            findings.count(
                f"{path}: left out {int(self.num_left_out.sum())} objects of other classes ({listed(names, 3)})"
            )


def _category_ids(annotations: Annotations, names: Sequence[str]) -> tuple[int, ...]:
    """The file's number of each class it has, free numbers from 1 for the others."""
    known = ClassLabels(annotations.classes)
    stated = [known.find(name) for name in names]
    taken = set(annotations.category_ids)
    free = (number for number in range(1, len(names) + len(taken) + 1) if number not in taken)
    return tuple(next(free) if label is None else annotations.category_ids[label] for label in stated)


def _count_without_entry(
    photos: Collection[str], matched: Iterable[str | None], path: Path, findings: Findings
) -> None:
    """Count the photos of which the truth at ``path`` says nothing."""
    num = len(set(photos) - set(matched))
    if num:
        findings.count(f"{path}: {num} of {len(photos)} photos have no entry there and so no truth")
