"""Read YOLO's text labels, boxes and polygons, and write boxes."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch

from weaksam.config import UserError
from weaksam.data.annotations import Annotations, ImageTruth, ObjectRows
from weaksam.data.image_names import ImageNames
from weaksam.data.text_files import read_text, read_yaml
from weaksam.store.files import atomic_file
from weaksam.structures.boxes import xyxy_from_yolo, yolo_from_xyxy
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_polygons

_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "data.yaml", "data.yml", "dataset.yaml")
_NOT_LABELS = frozenset({"classes", "train", "val", "valid", "test", "readme", "labels"})


def read_labels(
    folder: Path, sizes: Mapping[str, tuple[int, int]], classes: Sequence[str] | None = None
) -> Annotations:
    """Objects of every ``*.txt`` below ``folder``, by image id; ``sizes`` gives the photos' (H, W) by image id.

    A line is ``class cx cy w h``, with a sixth number as score, or ``class x1 y1 x2 y2 x3 y3 ...`` for a polygon, all
    relative to the photo. Names come from ``classes`` or a file beside the labels or above. A photo without a
    file has no objects; a file without a photo is kept under its own name with no objects. Raises `UserError` for
    other lines or a class number without a name.
    """
    names = tuple(classes) if classes is not None else read_names(folder)
    paths = label_files(folder)
    if not paths:
        raise UserError(f"wanted YOLO labels (*.txt) in {folder}, found none: name the folder that holds them")
    photo_names = ImageNames(list(sizes))
    parsed: dict[str, list[tuple[int, list[float]]]] = {image_id: [] for image_id in sizes}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        parsed[photo_names.find_name(name, str(folder)) or name] = _lines(path, len(names))
    with_masks = any(len(numbers) >= 6 for lines in parsed.values() for _, numbers in lines)
    images = {}
    for name, lines in parsed.items():
        size = sizes.get(name)
        images[name] = ImageTruth(_instances(lines if size else [], size or (0, 0), with_masks), None, size)
    return Annotations(names, tuple(range(1, len(names) + 1)), images)


def read_names(folder: Path) -> tuple[str, ...]:
    """Class names of the labels in ``folder``, by number; raises `UserError` where :func:`find_names` has none."""
    names = find_names(folder)
    if names is None:
        raise UserError(f"wanted class names for the YOLO labels in {folder}, found none: put classes.txt beside them")
    return names


def find_names(folder: Path) -> tuple[str, ...] | None:
    """Class names from the names file in ``folder`` or up to two folders above; None where there is none."""
    for directory in (folder, folder.parent, folder.parent.parent):
        for path in (directory / name for name in _NAME_FILES):
            if path.is_file():
                return _names_in(path)
    return None


def label_files(folder: Path) -> list[Path]:
    """The label files below ``folder``, sorted, without name lists and split lists."""
    return sorted(path for path in folder.rglob("*.txt") if path.stem.lower() not in _NOT_LABELS)


def write_labels(folder: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write one box file per image of ``dataset`` and ``classes.txt``; an image without objects gets an empty file.

    Scores become the sixth number; masks are not written, as YOLO has only polygons.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in dataset.classes), encoding="utf-8")
    for sample in dataset.samples:
        objects = instances.get(sample.image_id, Instances.empty())
        relative = yolo_from_xyxy(objects.boxes.double(), sample.size).tolist()
        lines = []
        for row, numbers in enumerate(relative):
            if objects.scores is not None:
                numbers = [*numbers, float(objects.scores[row])]
            lines.append(" ".join([str(int(objects.labels[row])), *(f"{number:.9f}" for number in numbers)]))
        path = folder / PurePosixPath(sample.image_id).with_suffix(".txt")
        with atomic_file(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _names_in(path: Path) -> tuple[str, ...]:
    """Class names in a names file: one a line, or the ``names`` of a YAML file, a list or a mapping by number."""
    if path.suffix in (".yaml", ".yml"):
        content = read_yaml(path, "YAML with 'names'")
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            names = [names[number] for number in sorted(names)]
        if not isinstance(names, list):
            raise UserError(f"wanted 'names' in {path}, found none: list the classes there")
        return tuple(str(name).strip() for name in names)
    lines = read_text(path, "class names (one a line)").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _lines(path: Path, num_classes: int) -> list[tuple[int, list[float]]]:
    """``(label, numbers)`` of every line of a label file, checked."""
    lines = []
    for row, line in enumerate(read_text(path, "YOLO labels").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            label, *numbers = (float(part) for part in line.split())
        except ValueError:
            raise UserError(f"wanted numbers on line {row} of {path}, found {line[:40]!r}: mend that line") from None
        if len(numbers) not in (4, 5) and (len(numbers) < 6 or len(numbers) % 2):
            raise UserError(
                f"wanted 4 numbers (box) or at least 3 points after the class on line {row} of {path}, "
                f"found {len(numbers)} numbers: mend that line"
            )
        if label != int(label) or not 0 <= label < num_classes:
            raise UserError(
                f"wanted a class number below {num_classes} on line {row} of {path}, found {label:g}: mend it"
            )
        lines.append((int(label), numbers))
    return lines


def _instances(lines: Sequence[tuple[int, list[float]]], size: tuple[int, int], with_masks: bool) -> Instances:
    """The objects of one photo of ``size`` (H, W) from its parsed lines, in pixels."""
    height, width = size
    rows = ObjectRows.none()
    for label, numbers in lines:
        if len(numbers) in (4, 5):
            box = xyxy_from_yolo(torch.tensor([numbers[:4]], dtype=torch.float64), size)[0].tolist()
            rows.add(box, label, score=numbers[4] if len(numbers) == 5 else None)
            continue
        xs, ys = [x * width for x in numbers[::2]], [y * height for y in numbers[1::2]]
        polygon = [value for point in zip(xs, ys, strict=True) for value in point]
        rows.add((min(xs), min(ys), max(xs), max(ys)), label, mask=rle_from_polygons([polygon], size))
    return rows.instances(with_masks=with_masks, size=size).replace(difficult=None, crowd=None)
