"""Read what is labelled on training photos beside their tags, from any of the formats, as one value for each photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotation_folders import match_photos
from weaksam.data.annotations import ImageTruth
from weaksam.data.class_names import ClassLabels
from weaksam.data.dataset import EventLog
from weaksam.data.file_errors import reads
from weaksam.data.findings import Findings
from weaksam.data.formats import coco_partial, cvat, label_studio_tasks, label_tables, scribble_pictures
from weaksam.data.formats.shapes import LabelledImage, Shape
from weaksam.data.image_names import ImageNames
from weaksam.data.label_files import holds_tasks, labels_in
from weaksam.data.text_files import printable
from weaksam.data.truth_photos import TOLERANCE, fit_to_photo
from weaksam.structures.boxes import area
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, rle_area
from weaksam.structures.photo_labels import Marks, PhotoLabels

Size = tuple[int, int]


@reads("labels of photos")
def read_photo_labels(
    paths: Sequence[Path],
    sizes: Mapping[str, Size],
    classes: Sequence[str],
    photo_names: ImageNames,
    findings: Findings,
) -> dict[str, PhotoLabels]:
    """What the files at ``paths`` label on photos, by image id, of the photos of which they say something.

    COCO or Label Studio's JSON, CVAT's XML, a CSV table, or a folder of scribbles; what several of them say of a photo
    is joined. ``sizes``: (H, W) by image id; ``classes``: the run's, which labels count. ``findings`` take counts,
    guesses and faults; raises `UserError` unless they gather the latter, and where nothing at all is labelled.
    """
    labels: dict[str, PhotoLabels] = {}
    for path in paths:
        images = _read(path, classes, findings)
        by_name = {image.name: image for image in images}
        if len(by_name) < len(images):
            names = [image.name for image in images]
            twice = next(name for name in names if names.count(name) > 1)
            findings.fault(f"wanted every photo once in {path}, found {twice!r} twice: join the two")
        matched = match_photos(by_name, photo_names, path, findings)
        known = {image_id: by_name[name] for name, image_id in matched.photo_of.items() if image_id in sizes}
        strays = [name for name in matched.strays if _says_something(by_name[name])]
        if strays:
            findings.count(f"{path}: left out the labels of {len(strays)} images without a photo ({listed(strays, 3)})")
        says_something = False
        for image_id, image in known.items():
            try:
                of_photo = _labels(image, image_id, sizes[image_id], classes, path, findings)
                says_something |= not of_photo.says_nothing
                labels[image_id] = _joined(labels.get(image_id, PhotoLabels()), of_photo, image_id, classes, path)
            except UserError as error:
                findings.fault(str(error))
        if not says_something:
            findings.fault(
                f"wanted at least one box, point, scribble, count or complete photo among the {len(sizes)} photos in "
                f"{path}, found none on its {len(images)} images ({listed(by_name, 3) or 'no image'}): label some, or "
                "give the file that belongs to these photos"
            )
    labels = {image_id: of_photo for image_id, of_photo in labels.items() if not of_photo.says_nothing}
    for image_id, of_photo in labels.items():
        _check_counts(of_photo, image_id, classes, listed(list(map(str, paths))), findings)
    if labels:
        findings.count(described(labels))
    return labels


def labelled(paths: Sequence[Path], dataset: Dataset, log: EventLog) -> tuple[Dataset, dict[str, PhotoLabels]]:
    """What the files at ``paths`` label on the photos of ``dataset``, and ``dataset`` with the tags that follow.

    How the files were read is among the notes of the result, and in the log. No path gives no labels. Raises
    `UserError` as `read_photo_labels` does.
    """
    if not paths:
        return dataset, {}
    findings, sizes = Findings(), {sample.image_id: sample.size for sample in dataset}
    labels = read_photo_labels(paths, sizes, dataset.classes, ImageNames(dataset.image_ids), findings)
    dataset, changes = with_label_tags(dataset, labels)
    notes = tuple(map(printable, (*findings.notes, *changes)))
    for note in notes:
        log.write("note", dataset=dataset.name, text=note)
    return replace(dataset, notes=(*dataset.notes, *notes)), labels


def described(labels: Mapping[str, PhotoLabels]) -> str:
    """How many boxes, masks, points, scribbles, counts and complete photos there are, in words."""
    photos = list(labels.values())
    num_scribbles = sum(int(of_photo.marks.are_scribbles.sum()) for of_photo in photos)
    numbers = {
        "boxes": sum(len(of_photo.objects) for of_photo in photos),
        "masks among them": sum(rle is not None for of_photo in photos for rle in of_photo.masks),
        "regions to ignore": sum(len(of_photo.boxes) - len(of_photo.objects) for of_photo in photos),
        "points": sum(len(of_photo.marks.labels) for of_photo in photos) - num_scribbles,
        "scribbles": num_scribbles,
        "counts": sum(len(of_photo.counts) for of_photo in photos),
        "complete photos": sum(of_photo.complete for of_photo in photos),
    }
    parts = [f"{number} {kind}" for kind, number in numbers.items() if number or kind != "regions to ignore"]
    return f"labels beside the tags: {', '.join(parts)}, on {len(photos)} photos"


def with_label_tags(dataset: Dataset, labels: Mapping[str, PhotoLabels]) -> tuple[Dataset, tuple[str, ...]]:
    """``dataset`` with the tags that the labels of its photos add or take away, and a sentence on each kind of change.

    See `PhotoLabels.tags`.
    """
    samples, added, removed = [], list[str](), list[str]()
    for sample in dataset:
        known = labels.get(sample.image_id)
        tags = sample.tags if known is None else known.tags(sample.tags)
        added += [f"{dataset.classes[tag]} on {sample.image_id}" for tag in tags if tag not in sample.tags]
        removed += [f"{dataset.classes[tag]} on {sample.image_id}" for tag in sample.tags if tag not in tags]
        samples.append(sample if tags == sample.tags else replace(sample, tags=tags))
    notes = []
    if added:
        notes.append(
            f"{len(added)} labelled classes were no tag of their photo: believed, and tagged ({listed(added, 3)})"
        )
    if removed:
        notes.append(
            f"{len(removed)} tags are on photos whose labels say that there is no such object: taken away "
            f"({listed(removed, 3)})"
        )
    return replace(dataset, samples=tuple(samples)), tuple(notes)


def _read(path: Path, classes: Sequence[str], findings: Findings) -> list[LabelledImage]:
    """What a file or folder labels, by the reader of its format."""
    path = labels_in(path)
    if path.is_dir():
        return scribble_pictures.read_labelled(path, classes, findings)
    if not path.exists():
        raise UserError(f"wanted labels of the training photos at {path}, found nothing there: mend data.train.labels")
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return cvat.read_labelled(path, findings)
    if suffix == ".csv":
        return label_tables.read_labelled(path, findings)
    if suffix != ".json":
        raise UserError(
            "wanted labels as .json (COCO, Label Studio), .xml (CVAT), .csv or a folder of scribbles (.png), found the "
            f"file {path}"
        )
    reader = label_studio_tasks if holds_tasks(path) else coco_partial
    return reader.read_labelled(path, findings)


def _says_something(image: LabelledImage) -> bool:
    return bool(image.shapes or image.counts or image.complete)


def _labels(
    image: LabelledImage, image_id: str, size: Size, classes: Sequence[str], path: Path, findings: Findings
) -> PhotoLabels:
    """What one image says of its photo of ``size``."""
    finder = ClassLabels(classes)

    def label_of(name: str) -> int:
        label = finder.find(name)
        if label is None:
            raise UserError(
                f"wanted one of the classes {listed(classes)} in {image.place}, found {name!r}"
                f"{did_you_mean(name, classes)}: mend it, or name all classes (data.classes)"
            )
        return label

    marked = [shape for shape in image.shapes if shape.points or shape.scribble]
    drawn = [shape for shape in image.shapes if not (shape.points or shape.scribble)]
    boxes = Instances(
        torch.tensor([[*map(float, shape.corners)] for shape in drawn]).reshape(-1, 4),
        torch.tensor([label_of(shape.name) for shape in drawn], dtype=torch.int64),
        crowd=torch.tensor([shape.crowd for shape in drawn]) if any(shape.crowd for shape in drawn) else None,
    )
    boxes = fit_to_photo(ImageTruth(boxes, None, image.size), image_id, size, path, findings).instances
    empty = (area(boxes.boxes) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise UserError(
            f"wanted boxes with an area on {image_id} in {path}, found {boxes.boxes[empty[0]].tolist()}: mend it, or "
            "give a point"
        )
    marks = [_mark(shape, label_of(shape.name), image_id, size, path) for shape in marked]
    masks = tuple(shape.mask for shape in drawn)
    for mask in masks:
        _check_size(mask, image_id, size, path, "mask")
    counts = {label_of(name): count for name, count in image.counts.items()}
    return PhotoLabels(boxes, masks, Marks.cat(marks), counts, image.complete)


def _mark(shape: Shape, label: int, image_id: str, size: Size, path: Path) -> Marks:
    """The mark of a point or a scribble; `UserError` where it is not in its photo."""
    if shape.mask is not None:
        _check_size(shape.mask, image_id, size, path, "scribble")
        if float(rle_area([shape.mask])) == 0:
            raise UserError(f"wanted scribbles with a pixel on {image_id} in {path}, found an empty one: remove it")
        return Marks.of_scribble(shape.mask, label)
    points = torch.tensor(shape.points, dtype=torch.float32).reshape(-1, 2)
    height, width = size
    outside = ((points < -TOLERANCE) | (points > torch.tensor([width, height]) + TOLERANCE)).any(dim=1)
    if bool(outside.any()):
        x, y = points[outside][0].tolist()
        raise UserError(
            f"wanted points in their photos in {path}, found one of {image_id} ({width} x {height}) outside of it at "
            f"({x:g}, {y:g}): mend the point"
        )
    points = torch.minimum(points.clamp(min=0), torch.tensor([width, height]).float())
    return Marks.of_line(points, label) if shape.scribble else Marks.of_points(points, torch.tensor([label]))


def _check_size(mask: Rle | None, image_id: str, size: Size, path: Path, what: str) -> None:
    """`UserError` where a mask or scribble was drawn on a picture of another size."""
    if mask is not None and tuple(mask["size"]) != size:
        height, width = mask["size"]
        raise UserError(
            f"wanted a {what} of {size[1]} x {size[0]} pixels, as {image_id} has, in {path}, found one of {width} x "
            f"{height}: draw it on this photo"
        )


def _joined(first: PhotoLabels, second: PhotoLabels, image_id: str, classes: Sequence[str], path: Path) -> PhotoLabels:
    """What two files say of a photo; `UserError` where they count differently."""
    for label, count in second.counts.items():
        if first.counts.get(label, count) != count:
            raise UserError(
                f"wanted one count of {classes[label]!r} on {image_id}, found {count} in {path} and "
                f"{first.counts[label]} in another file: keep one of them"
            )
    return PhotoLabels(
        Instances.cat([first.boxes, second.boxes]),
        (*first.masks, *second.masks),
        Marks.cat([first.marks, second.marks]),
        {**first.counts, **second.counts},
        first.complete or second.complete,
    )


def _check_counts(labels: PhotoLabels, image_id: str, classes: Sequence[str], files: str, findings: Findings) -> None:
    """A fault where a photo has more boxes or marks of a class than its count, or is complete with fewer."""
    for label, count in labels.counts.items():
        num_boxes = int((labels.objects.labels == label).sum())
        num_marks = int((labels.marks.labels == label).sum())
        most, name = max(num_boxes, num_marks), classes[label]
        if most > count:
            what = "boxes" if num_boxes == most else "points and scribbles"
            findings.fault(
                f"wanted at most {count} {what} of {name!r} on {image_id}, as its count says, found {most} in {files}: "
                "mend the count or remove some"
            )
        elif labels.complete and num_boxes + num_marks < count:
            findings.fault(
                f"wanted all {count} objects of {name!r} labelled on {image_id}, which is marked complete, found "
                f"{num_boxes + num_marks} in {files}: label the others, or do not mark it"
            )
