"""Read and write Pascal VOC: XML boxes and SegmentationClass/Object pictures."""

import functools
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from weaksam.config import UserError
from weaksam.data.annotation_folders import annotation_files
from weaksam.data.annotations import Annotations, ImageTruth
from weaksam.data.class_names import note_look_alikes
from weaksam.data.findings import Findings
from weaksam.data.formats.voc_xml import XmlImage, parse_xml
from weaksam.data.image_entries import composed
from weaksam.data.images import LIMITS
from weaksam.data.object_columns import ObjectColumns
from weaksam.data.output_names import class_file_names, photo_paths
from weaksam.data.sizes import size_problem
from weaksam.regular_files import open_regular
from weaksam.store.files import atomic_file, write_text_atomic
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances, ignored
from weaksam.structures.masks import boxes_from_masks, mask_from_rle, rle_from_mask

VOID = 255
"""Pixel value of VOC's unlabelled borders."""
CLASS_LIST = "classes.txt"
"""File beside the folders of pictures that names their classes, a line each from index 1 on."""


def read_annotations(folder: Path, findings: Findings | None = None) -> Annotations:
    """Boxes of every ``*.xml`` below ``folder``, by the photo's name without ending; classes in alphabetical order.

    That name is the file's own, with its folders, not the ``<filename>`` in it. VOC counts pixels from 1 and names the
    last one inside, so ``xmin, xmax`` become ``xmin - 1, xmax``; corners the wrong way round are swapped. ``difficult``
    is kept. Raises `UserError` for a folder without XML or broken XML, see `parse_xml`.
    """
    findings = findings or Findings()
    paths = annotation_files(folder, ".xml", findings)
    if not paths:
        raise UserError(f"wanted VOC annotations (*.xml) in {folder}, found none: name the folder that holds them")
    parsed = {name: parse_xml(path, findings) for name, path in paths.items()}
    images = {name: image for name, image in parsed.items() if image is not None}
    _note_file_names(images, paths, findings)
    spelling: dict[str, str] = {}
    for obj in (obj for image in images.values() for obj in image.objects):
        if spelling.setdefault(composed(obj.name), obj.name) != obj.name:
            findings.guess(f"{obj.name!r} in two Unicode forms was taken for one class", str(folder))
    names = sorted(spelling.values())
    note_look_alikes(names, str(folder), findings)
    label_of = {composed(name): label for label, name in enumerate(names)}
    truths = {name: _image_truth(image, label_of) for name, image in images.items()}
    num_objects = sum(len(image.objects) for image in images.values())
    findings.count(f"VOC XML in {folder}: {len(images)} files, {num_objects} objects")
    return Annotations(tuple(names), tuple(range(1, len(names) + 1)), truths, findings.notes)


def write_annotations(folder: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write one XML per image of ``dataset`` into ``folder``; an image that is not in ``instances`` gets no objects.

    Corners are rounded to whole pixels, as VOC has no others; masks and scores are not written. A crowd, for which VOC
    has no mark, becomes a difficult object. Photos in sub-folders get their XML in sub-folders. Raises `UserError`
    where two photos differ by their ending alone.
    """
    paths = photo_paths(dataset, ".xml")
    for sample in dataset.samples:
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = Path(sample.image_id).name
        _append_numbers(root, "size", {"width": sample.size[1], "height": sample.size[0], "depth": 3})
        objects = instances.get(sample.image_id, Instances.empty())
        ElementTree.SubElement(root, "segmented").text = str(int(objects.masks is not None and len(objects) > 0))
        for row, (x1, y1, x2, y2) in enumerate(objects.boxes.round().int().tolist()):
            obj = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(obj, "name").text = dataset.classes[int(objects.labels[row])]
            difficult = any(marks is not None and bool(marks[row]) for marks in (objects.difficult, objects.crowd))
            ElementTree.SubElement(obj, "difficult").text = str(int(difficult))
            _append_numbers(obj, "bndbox", {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2})
        ElementTree.indent(root)
        with atomic_file(folder / paths[sample.image_id]) as temporary:
            ElementTree.ElementTree(root).write(temporary, encoding="utf-8")


def write_devkit(folder: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write what VOC's tools read: ``Annotations``, ``ImageSets/Main`` and, where there are masks, their pictures.

    ``SPLIT.txt`` lists all photos, ``CLASS_SPLIT.txt`` says of each 1 (there), 0 (difficult objects alone) or -1. The
    photos belong to ``JPEGImages``, called ``NAME.jpg``. Raises `UserError` as `write_annotations` does, and where two
    classes would share a list.
    """
    lists, names = class_file_names(dataset.classes), photo_paths(dataset, "")
    write_annotations(folder / "Annotations", dataset, instances)
    main, split = folder / "ImageSets" / "Main", dataset.name
    write_text_atomic(main / f"{split}.txt", "\n".join(name.as_posix() for name in names.values()))
    for label, class_name in enumerate(dataset.classes):
        flags = (
            f"{names[sample.image_id]} {_flag(instances.get(sample.image_id, Instances.empty()), label):2d}"
            for sample in dataset
        )
        write_text_atomic(main / f"{lists[class_name]}_{split}.txt", "\n".join(flags))
    if any(objects.masks is not None for objects in instances.values()):
        write_pictures(folder, dataset, instances)
        write_text_atomic(
            folder / "ImageSets" / "Segmentation" / f"{split}.txt",
            "\n".join(names[sample.image_id].as_posix() for sample in dataset if sample.image_id in instances),
        )


def _flag(objects: Instances, label: int) -> int:
    """1 where an object of the class is there, 0 where all of them are to be ignored, -1 without any."""
    of_class = objects.labels == label
    if not bool(of_class.any()):
        return -1
    return int(bool((of_class & ~ignored(objects)).any()))


def write_pictures(folder: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write the pictures of `write_segmentation` for every image, and ``classes.txt``: the name of index 1 first.

    They lie in ``SegmentationClass`` and ``SegmentationObject``; an image without objects gets empty ones. Ignored
    regions become border pixels, which belong to nothing. Where masks overlap the better-scored one is seen. Raises
    `UserError` as `write_segmentation` does.
    """
    paths = photo_paths(dataset, ".png")
    write_text_atomic(folder / CLASS_LIST, "\n".join(dataset.classes))
    for sample in dataset.samples:
        objects = instances.get(sample.image_id, Instances.empty(masked=True))
        if objects.scores is not None:
            objects = objects[objects.scores.argsort(stable=True)]
        pair = (folder / kind / paths[sample.image_id] for kind in ("SegmentationClass", "SegmentationObject"))
        write_segmentation(*pair, objects, sample.size)


def read_segmentation(class_png: Path, object_png: Path, size: tuple[int, int] | None = None) -> Instances:
    """Objects with masks from one SegmentationClass and one SegmentationObject picture (palette indices).

    Label = class index - 1, so that VOC's 1 is label 0. Border pixels (255) belong to nothing. Pictures without
    objects give the empty value with no masks. Raises `UserError` for pictures of different size, of another size than
    the photo's ``size`` (H, W) where it is given, of colours, and for an object on background.
    """
    class_map, object_map = read_indices(class_png), read_indices(object_png)
    problem = None if size is None else size_problem(object_map.shape, size, f"the picture {object_png}")
    if problem is not None:
        raise UserError(f"wanted label pictures of their photo's size, found that it {problem}: draw them on the photo")
    if class_map.shape != object_map.shape:
        sizes = [" x ".join(map(str, reversed(shape))) for shape in (class_map.shape, object_map.shape)]
        raise UserError(
            f"wanted {object_png} of the size of {class_png}, {sizes[0]}, found {sizes[1]}: give those of one photo"
        )
    masks, labels = [], []
    for number in np.unique(object_map):
        if number in (0, VOID):
            continue
        mask = object_map == number
        classes, counts = np.unique(class_map[mask], return_counts=True)
        label = int(classes[counts.argmax()])
        if label in (0, VOID):
            raise UserError(f"wanted a class under object {number} of {object_png}, found background in {class_png}")
        masks.append(torch.from_numpy(mask))
        labels.append(label - 1)
    if not masks:
        return Instances.empty(masked=True)
    boxes = boxes_from_masks(torch.stack(masks))
    return Instances(boxes, torch.tensor(labels), masks=tuple(rle_from_mask(mask) for mask in masks))


def write_segmentation(class_png: Path, object_png: Path, instances: Instances, size: tuple[int, int]) -> None:
    """Write the masks of ``instances`` as the two VOC pictures of ``size`` (H, W); where masks overlap the later wins.

    A crowd becomes border pixels, below all others. Raises `UserError` without masks, and with more than 254 objects or
    classes, as VOC's pictures have one byte per pixel.
    """
    if instances.masks is None or len(instances) >= VOID:
        state = f"{len(instances)}{' without masks' if instances.masks is None else ''}"
        raise UserError(f"wanted at most 254 objects with masks to write {object_png}, found {state}")
    if len(instances) and int(instances.labels.max()) >= VOID - 1:
        raise UserError(f"wanted at most 254 classes to write {class_png}, found number {int(instances.labels.max())}")
    class_map, object_map = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    crowd = torch.zeros(len(instances)) if instances.crowd is None else instances.crowd
    for row in (~crowd.bool()).int().argsort(stable=True).tolist():
        mask = mask_from_rle(instances.masks[row]).numpy()
        class_map[mask] = VOID if crowd[row] else int(instances.labels[row]) + 1
        object_map[mask] = VOID if crowd[row] else row + 1
    for path, indices in ((class_png, class_map), (object_png, object_map)):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(indices)
        picture.putpalette(_palette())
        picture.save(path)


def _note_file_names(images: Mapping[str, XmlImage], paths: Mapping[str, Path], findings: Findings) -> None:
    """Note where a <filename> is the name of another file: that of the file itself counts."""
    stems = {PurePosixPath(name).name for name in images}
    for name, image in images.items():
        stem = PurePosixPath(image.file_name.replace("\\", "/")).stem
        if stem in stems and stem != PurePosixPath(name).name:
            findings.guess(f"the file's own name was taken and not its <filename> {image.file_name}", str(paths[name]))


def _image_truth(image: XmlImage, label_of: Mapping[str, int]) -> ImageTruth:
    rows = ObjectColumns()
    for obj in image.objects:
        rows.add(obj.box, label_of[composed(obj.name)], difficult=obj.difficult)
    instances = rows.instances(with_masks=False, size=image.size or (0, 0)).replace(crowd=None)
    return ImageTruth(instances, None, image.size)


def _append_numbers(parent: ElementTree.Element, tag: str, numbers: Mapping[str, int]) -> None:
    element = ElementTree.SubElement(parent, tag)
    for key, value in numbers.items():
        ElementTree.SubElement(element, key).text = str(value)


def read_indices(path: Path) -> np.ndarray:
    """Palette indices (or grey values) ``(H, W)`` uint8 of a label picture; `UserError` for any other file."""
    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG", "BMP")) as picture:
            if picture.width * picture.height > LIMITS.max_pixels:
                raise ValueError(f"of {picture.width} x {picture.height} pixels, over {LIMITS.max_pixels:,}")
            indices = np.asarray(picture)
    except FileNotFoundError:
        raise UserError(f"wanted a label picture at {path}, found nothing there: check the path") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for broken files
        raise UserError(
            f"wanted a PNG label picture at {path}, found another file ({error}): name the picture"
        ) from None
    if indices.ndim != 2 or indices.dtype != np.uint8:
        kind = "colours" if indices.ndim != 2 else f"the type {indices.dtype}"
        raise UserError(f"wanted palette or grey labels of 8 bits in {path}, found {kind}: save it with a palette")
    return indices


@functools.cache
def _palette() -> list[int]:
    """VOC's 256 colours: the bits of an index spread over red, green and blue, highest first."""
    colours = []
    for index in range(256):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        colours.extend(channels)
    return colours
