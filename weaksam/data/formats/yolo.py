"""Read and write YOLO's text labels, boxes and polygons."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from weaksam.config import UserError, listed
from weaksam.data.annotation_folders import annotation_files, match_photos
from weaksam.data.annotations import CROSSING, Annotations, ImageTruth
from weaksam.data.findings import Findings
from weaksam.data.formats.yolo_lines import LabelLine, are_scores, looks_like_labels, parse_lines
from weaksam.data.formats.yolo_names import NAME_FILES, class_names
from weaksam.data.image_names import ImageNames
from weaksam.data.object_columns import ObjectColumns
from weaksam.data.output_names import photo_paths
from weaksam.store.files import atomic_file, write_text_atomic
from weaksam.structures.boxes import xyxy_from_yolo, yolo_from_xyxy
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.mask_polygons import crosses_itself, polygon_from_rle
from weaksam.structures.masks import rle_area, rle_from_polygons

_LISTS = frozenset({"classes", "train", "val", "valid", "test", "trainval", "readme", "labels"})
"""Stems, in small letters, of text files that may be lists or notes beside the labels: their content tells."""


def read_labels(
    folder: Path,
    sizes: Mapping[str, tuple[int, int]],
    classes: Sequence[str] | None = None,
    findings: Findings | None = None,
    images: Path | None = None,
) -> Annotations:
    """Objects of every ``*.txt`` below ``folder``, by image id; ``sizes`` gives the photos' (H, W) by image id.

    A line is read as `parse_lines` says. Names come from a file beside the labels or above, see `class_names`, else
    from ``classes``; category ids are the class numbers counted from 1. A photo without a file has no objects; a file
    without a photo is kept under its own name with no objects. Of files of one name in several folders that one counts
    whose folders are those of ``images``, the photos' folder. Raises `UserError` for other lines, a class number
    without a name, and two files of one photo.
    """
    findings = findings or Findings()
    names = class_names(folder, findings) or _given_names(folder, classes, findings)
    files = label_files(folder, findings)
    if not files:
        raise UserError(f"wanted YOLO labels (*.txt) in {folder}, found none: name the folder that holds them")
    lines = {name: parse_lines(path, names, findings) for name, path in files.items()}
    matched = match_photos(files, ImageNames(list(sizes)), folder, findings, images)
    name_of = {image_id: name for name, image_id in matched.photo_of.items()}
    strays = matched.strays
    _say_what_was_read(folder, lines, name_of, len(sizes), strays, findings)
    label_of = {number: label for label, number in enumerate(names)}
    scored = are_scores(lines.values(), findings)
    with_masks = any(line.is_polygon for of_file in lines.values() for line in of_file)
    truths = {}
    for image_id in (*sizes, *strays):
        size = sizes.get(image_id)
        of_photo = lines[name_of[image_id]] if image_id in name_of else []
        objects = _instances(of_photo, label_of, size or (0, 0), with_masks, scored, findings)
        truths[image_id] = ImageTruth(objects, None, size)
    shift = 0 if min(names) == 1 else 1
    category_ids = tuple(number + shift for number in names)
    return Annotations(tuple(names.values()), category_ids, truths, findings.notes)


def read_names(folder: Path) -> tuple[str, ...]:
    """Class names of the labels in ``folder``, by number; raises `UserError` where :func:`find_names` has none."""
    return tuple((class_names(folder) or _given_names(folder, None, Findings())).values())


def find_names(folder: Path) -> tuple[str, ...] | None:
    """Class names from the names files in ``folder`` or up to two folders above; None where there are none."""
    names = class_names(folder)
    return None if names is None else tuple(names.values())


def _given_names(folder: Path, classes: Sequence[str] | None, findings: Findings) -> dict[int, str]:
    """``classes`` by number, which is counted as what was taken for names; raises `UserError` without any."""
    if not classes:
        raise UserError(f"wanted class names for the YOLO labels in {folder}, found none: put classes.txt beside them")
    findings.count(f"{folder}: no names file, class numbers count the classes given: 0 is {listed(classes, 4)}")
    return dict(enumerate(classes))


def label_files(folder: Path, findings: Findings | None = None) -> dict[str, Path]:
    """The label files below ``folder`` by their photos' names, sorted, without name lists and split lists."""
    files = annotation_files(folder, ".txt", findings)
    return {name: path for name, path in files.items() if not _is_list(path)}


def _is_list(path: Path) -> bool:
    """Whether a text file with the name of a list, which a photo may bear too, is one: it holds no labels."""
    listing = path.stem.lower() in _LISTS or path.name.lower() in NAME_FILES
    return listing and not looks_like_labels(path)


def _say_what_was_read(
    folder: Path,
    lines: Mapping[str, Sequence[LabelLine]],
    name_of: Mapping[str, str],
    num_photos: int,
    strays: Sequence[str],
    findings: Findings,
) -> None:
    """Count files and objects, photos without a file, and what was left out; no file for any photo is a fault."""
    text = f"YOLO labels in {folder}: {len(lines)} files, {sum(len(lines[name]) for name in name_of.values())} objects"
    if len(name_of) < num_photos:
        text += f"; {num_photos - len(name_of)} photos have no file and so no objects"
    if strays:
        text += f"; {len(strays)} files have no photo ({listed(strays, 3)})"
    lists = [path.name for path in annotation_files(folder, ".txt").values() if _is_list(path)]
    if lists:
        text += f"; no labels: {listed(lists, 3)}"
    findings.count(text)
    if num_photos and not name_of and not findings.faults:
        findings.fault(
            f"wanted labels of the {num_photos} photos in {folder}, found {len(lines)} files for others "
            f"({listed(list(lines), 3)}): name each file as its photo, or give the folder of these photos"
        )


def write_labels(
    folder: Path,
    dataset: Dataset,
    instances: Mapping[str, Instances],
    *,
    polygons: bool = False,
    scores: bool = True,
) -> None:
    """Write one file per image of ``dataset`` and ``classes.txt``; an image without objects gets an empty file.

    A line is a box, or with ``polygons`` the one polygon that `polygon_from_rle` makes of the whole mask (the corners
    of the box where there is no mask). ``scores`` become the sixth number of boxes, which some readers refuse. Raises
    `UserError` where two photos differ by their ending alone.
    """
    write_text_atomic(folder / "classes.txt", "\n".join(dataset.classes))
    paths = photo_paths(dataset, ".txt")
    for sample in dataset.samples:
        objects = instances.get(sample.image_id, Instances.empty())
        write = _polygon_lines if polygons else _box_lines
        lines = [" ".join(line) for line in write(objects, sample.size, scores)]
        with atomic_file(folder / paths[sample.image_id]) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_dataset(
    folder: Path, dataset: Dataset, instances: Mapping[str, Instances], *, polygons: bool = False
) -> None:
    """Write the layout that ultralytics trains on: ``data.yaml``, ``labels/SPLIT/*.txt``; photos go to images/SPLIT.

    Without scores, for which its loader has no column. Raises `UserError` for photos below a folder called ``images``,
    which that loader takes for its own.
    """
    inside = next((sample for sample in dataset if "images" in Path(sample.image_id).parts[:-1]), None)
    if inside is not None:
        raise UserError(
            f"wanted photos below no folder called 'images', found {inside.image_id}: YOLO's loader looks for labels "
            "beside the last folder of that name; rename it"
        )
    write_labels(folder / "labels" / dataset.name, dataset, instances, polygons=polygons, scores=False)
    # JSON is YAML; ultralytics wants both splits, and takes the folder of this file where no path is given
    names = "".join(
        f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(dataset.classes)
    )
    text = f"train: images/{dataset.name}\nval: images/{dataset.name}\nnc: {len(dataset.classes)}\nnames:\n{names}"
    write_text_atomic(folder / "data.yaml", text.rstrip("\n"))


def _box_lines(objects: Instances, size: tuple[int, int], scores: bool) -> Iterator[list[str]]:
    """The words of each object's line: class, centre, sides and perhaps the score."""
    relative = yolo_from_xyxy(objects.boxes.double(), size).tolist()
    for row, numbers in enumerate(relative):
        if scores and objects.scores is not None:
            numbers = [*numbers, float(objects.scores[row])]
        yield [str(int(objects.labels[row])), *(f"{number:.9f}" for number in numbers)]


def _polygon_lines(objects: Instances, size: tuple[int, int], scores: bool) -> Iterator[list[str]]:
    """The words of each object's line: class and corners, as shares of the photo; a polygon has no score."""
    height, width = size
    for row, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
        polygon = None if objects.masks is None else polygon_from_rle(objects.masks[row])
        points = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]] if polygon is None else polygon.tolist()
        shares = (f"{x / width:.9f} {y / height:.9f}" for x, y in points)
        yield [str(int(objects.labels[row])), *shares]


def _instances(
    lines: Sequence[LabelLine],
    label_of: Mapping[int, int],
    size: tuple[int, int],
    with_masks: bool,
    scored: bool,
    findings: Findings,
) -> Instances:
    """The objects of one photo of ``size`` (H, W) from its parsed lines, in pixels."""
    height, width = size
    rows = ObjectColumns()
    for line in lines:
        numbers, label = line.numbers, label_of[line.class_number]
        if not line.is_polygon:
            box = xyxy_from_yolo(torch.tensor([numbers[:4]], dtype=torch.float64), size)[0].tolist()
            rows.add(box, label, score=numbers[4] if scored and len(numbers) == 5 else None)
            continue
        xs, ys = [x * width for x in numbers[::2]], [y * height for y in numbers[1::2]]
        polygon = [value for point in zip(xs, ys, strict=True) for value in point]
        mask = rle_from_polygons([polygon], size)
        if crosses_itself(polygon, float(rle_area([mask]))):
            findings.guess(CROSSING, line.place)
        rows.add((min(xs), min(ys), max(xs), max(ys)), label, mask=mask)
    return rows.instances(with_masks=with_masks, size=size).replace(difficult=None, crowd=None)
