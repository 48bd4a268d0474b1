"""Read VOC's SegmentationObject and SegmentationClass pictures as true objects with masks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from weaksam.config import UserError, listed
from weaksam.data.annotation_folders import annotation_files
from weaksam.data.annotations import Annotations, ImageTruth
from weaksam.data.class_names import check_name
from weaksam.data.findings import Findings
from weaksam.data.formats.voc import CLASS_LIST, read_segmentation
from weaksam.data.images import image_size
from weaksam.data.text_files import read_text

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Pascal VOC's classes in the order of the indices 1 to 20 of its pictures."""
OBJECTS, KINDS = "SegmentationObject", "SegmentationClass"
"""Folders beside each other: which object a pixel belongs to, and which class."""


def has_pictures(folder: Path) -> bool:
    """Whether a folder is VOC's of objects, with that of classes beside it."""
    return folder.name == OBJECTS and (folder.parent / KINDS).is_dir()


def read_pictures(
    folder: Path,
    classes: Sequence[str] | None = None,
    findings: Findings | None = None,
    photos: Collection[str] = (),
) -> Annotations:
    """Masks and their tight boxes of every picture below ``folder`` (SegmentationObject), by its name without ending.

    Indices count the lines of ``classes.txt`` beside the two folders, as `voc.write_pictures` leaves it; without it
    `VOC_CLASSES`, and where ``classes`` has other names too, those, in their order. With ``photos`` (names
    with ending) the pictures of other photos are left out. Raises `UserError` for a folder without pictures, a picture
    without its neighbour in SegmentationClass, an index beyond the classes, and as `read_segmentation` does.
    """
    findings = findings or Findings()
    objects, kinds = (annotation_files(path, ".png", findings) for path in (folder, folder.parent / KINDS))
    if not objects:
        raise UserError(f"wanted VOC's pictures (*.png) in {folder}, found none: name the folder that holds them")
    names = _listed_classes(folder.parent / CLASS_LIST)
    names = names or tuple(VOC_CLASSES if classes is None or set(classes) <= set(VOC_CLASSES) else classes)
    stems = {PurePosixPath(photo).stem for photo in photos}
    wanted = [name for name in objects if not stems or PurePosixPath(name).name in stems]
    images = {}
    for name in wanted:
        try:
            images[name] = _read_pair(objects[name], kinds.get(name), names)
        except UserError as error:
            findings.fault(str(error))
    num_objects = sum(len(image.instances) for image in images.values())
    findings.count(f"VOC pictures in {folder}: {len(images)} of {len(objects)} read, {num_objects} objects with masks")
    return Annotations(names, tuple(range(1, len(names) + 1)), images, findings.notes)


def _listed_classes(path: Path) -> tuple[str, ...]:
    """The names in a list of classes, one a line; none where there is no such file."""
    if not path.is_file():
        return ()
    names = [line.strip() for line in read_text(path, "the classes of VOC's pictures").split("\n")]
    names = [name for name in names if name]
    for name in names:
        check_name(name, f"a line of {path}")
    return tuple(names)


def _read_pair(object_png: Path, class_png: Path | None, names: Sequence[str]) -> ImageTruth:
    """The objects of one photo; `UserError` without a picture of classes, and for a class that has no name."""
    if class_png is None:
        raise UserError(
            f"wanted {object_png.name} in {object_png.parent.parent / KINDS} too, found nothing there: give both "
            "pictures of a photo"
        )
    instances = read_segmentation(class_png, object_png)
    strange = [label + 1 for label in instances.labels.tolist() if label >= len(names)]
    if strange:
        raise UserError(
            f"wanted indices of the {len(names)} classes {listed(names, 3)} in {class_png}, found {strange[0]}: name "
            "all classes (data.classes, or --classes)"
        )
    return ImageTruth(instances, None, image_size(object_png))
