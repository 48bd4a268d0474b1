"""Read detections on a dataset's images: from a run's sealed store, VOC's result files or a COCO results list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from weaksam.config import UserError, listed
from weaksam.data.class_names import ClassLabels
from weaksam.data.detection_stores import DETECTION_COLUMNS, row_instances
from weaksam.data.file_errors import reads
from weaksam.data.findings import Findings
from weaksam.data.formats.coco_results import read_results
from weaksam.data.formats.voc_results import read_result_file, result_files
from weaksam.data.image_names import ImageNames
from weaksam.data.object_columns import ObjectColumns
from weaksam.data.result_lists import count_detections, say_score_range
from weaksam.data.sizes import mask_size_problems
from weaksam.data.text_files import read_json
from weaksam.data.truth_photos import reaching_out
from weaksam.likeness import Hints
from weaksam.store.sealed import open_sealed
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

OUTSIDE_SHARE, MIN_OUTSIDE = 0.1, 3
"""Detections are of other photos where more than this share, and so many, have their centre outside of the photo."""


@reads("detections")
def read_detections(path: Path, dataset: Dataset, findings: Findings | None = None) -> dict[str, Instances]:
    """Detections by image id; every image of ``dataset`` is there, empty where nothing was found in it.

    ``path``: the folder of a sealed store of detections, a folder of VOC result files (or one of them), or a COCO
    results list. Images are found by name, with or without ending, or by number. ``findings`` take how much was read,
    and what was taken for what. Raises `UserError` for anything else, for images that ``dataset`` does not have, for
    boxes and masks of other photos, and for class names that differ from its own by a misspelling.
    """
    findings = findings or Findings()
    if path.suffix.lower() == ".json":
        detections = read_results(path, dataset, findings)
    elif files := result_files(path):
        detections = _filled(read_voc_results(files, dataset, findings), dataset)
        findings.count(count_detections(path, detections))
    elif path.is_dir():
        detections = _filled(read_detection_store(path, dataset, findings), dataset)
        findings.count(count_detections(path, detections))
    else:
        state = "another file" if path.exists() else "nothing there"
        raise UserError(
            f"wanted detections at {path} (a COCO results .json, VOC result files like comp4_det_test_CLASS.txt, or "
            f"the folder of a sealed store), found {state}: name one of these"
        )
    _check_places(detections, dataset, path, findings)
    return detections


def _filled(detections: Mapping[str, Instances], dataset: Dataset) -> dict[str, Instances]:
    """Detections of every image of ``dataset``, in order; empty ones where there are none."""
    nothing = Instances.empty(scored=True)
    return {image_id: detections.get(image_id, nothing) for image_id in dataset.image_ids}


def _check_places(detections: Mapping[str, Instances], dataset: Dataset, path: Path, findings: Findings) -> None:
    """Count boxes that reach out of their photos; a fault where many are centred outside: they belong to others."""
    sized = [sample for sample in dataset if 0 not in sample.size]
    num_out = sum(int(reaching_out(detections[sample.image_id].boxes, sample.size).sum()) for sample in sized)
    num_far = sum(int(_centred_outside(detections[sample.image_id].boxes, sample).sum()) for sample in sized)
    num = sum(len(detections[sample.image_id]) for sample in sized)
    if num_far >= MIN_OUTSIDE and num_far > OUTSIDE_SHARE * num:
        findings.fault(
            f"wanted detections on the photos of {dataset.name} in {path}, found {num_far} of {num} boxes centred "
            "outside of their photo: give boxes in pixels of these very photos, upright and in their full size"
        )
    elif num_out:
        findings.count(f"{path}: {num_out} detections reach out of their photos and were used as they are")


def _centred_outside(boxes: Tensor, sample: Sample) -> Tensor:
    """Which of the boxes ``(N, 4)`` have their centre outside of the photo: ``(N,)``."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return (centres < 0).any(1) | (centres > torch.tensor([sample.size[1], sample.size[0]])).any(1)


# A run's own store


def read_detection_store(folder: Path, dataset: Dataset, findings: Findings | None = None) -> dict[str, Instances]:
    """Detections of a sealed store by image id of ``dataset``, with masks where it has them.

    Labels are the run's: its class names, in ``metrics.json`` of the run's folder, say which of ``dataset`` they are;
    without that file they are taken to be counted alike, which ``findings`` say.
    """
    findings = findings or Findings()
    store = open_sealed(folder)
    missing = [name for name, kind in DETECTION_COLUMNS.items() if store.columns.get(name) != kind]
    if missing:
        raise UserError(
            f"wanted a store of detections in {folder}, found one of the stage {store.stage} without the column "
            f"{missing[0]!r}: name a store such as OUT/wsod/store/detections_test-..."
        )
    classes = run_classes(folder)
    if classes is None:
        findings.guess("labels were taken to count as the classes of the truth, no metrics.json says how", str(folder))
        classes = dataset.classes
    table = torch.tensor(_labels_in(classes, dataset.classes, str(folder)), dtype=torch.int64)
    name_of = _known_images(store.image_ids, dataset, str(folder), findings)
    detections, num_others = {}, 0
    for row in store.rows():
        objects = row_instances(row, folder)
        if len(objects) and int(objects.labels.max()) >= len(classes):
            raise UserError(
                f"wanted labels of the {len(classes)} classes {listed(classes, 3)} in {folder}, found the label "
                f"{int(objects.labels.max())}: give the truth with the run's own classes"
            )
        sample = dataset.by_id[name_of[row["image_id"]]]
        _refuse_other_masks(objects, sample, folder)
        objects = objects.replace(labels=table[objects.labels]) if len(objects) else objects
        detections[sample.image_id] = objects[objects.labels >= 0]
        num_others += len(objects) - len(detections[sample.image_id])
    _count_others(
        [name for name, label in zip(classes, table.tolist(), strict=True) if label < 0], num_others, folder, findings
    )
    return detections


def _refuse_other_masks(objects: Instances, sample: Sample, folder: Path) -> None:
    """`UserError` where a mask has another size than its photo, if that is known."""
    problem = next(mask_size_problems(objects.masks or (), sample.size, "a mask"), None)
    if problem is not None and 0 not in sample.size:
        raise UserError(
            f"wanted masks of the photos' sizes in {folder}, found that {sample.image_id} {problem}: give the photos "
            "that the run was made with"
        )


def _count_others(names: Sequence[str], num: int, source: Path, findings: Findings) -> None:
    """Say that detections of classes that the truth does not have were left out."""
    if num:
        findings.count(f"{source}: left out {num} detections of classes that the truth lacks ({listed(names, 3)})")


def run_classes(folder: Path) -> tuple[str, ...] | None:
    """Class names of the run whose store ``folder`` is (``OUT/<stage>/store/<name>``); None where it does not say."""
    above = folder.resolve().parent
    path = above.parent.parent / "metrics.json"
    if above.name != "store":
        return None
    try:
        record = read_json(path, "the figures of a run")
        return tuple(str(name) for name in record["classes"]) or None
    except (UserError, KeyError, TypeError):
        return None


def _known_images(names: Sequence[str], dataset: Dataset, source: str, findings: Findings) -> dict[str, str]:
    """The image id of ``dataset`` for each of ``names``; `UserError` where one has none."""
    key_of = ImageNames.of(dataset).find_all(names, source, findings)
    name_of = {str(key): image_id for image_id, key in key_of.items()}
    strange = [name for name in names if name not in name_of]
    if strange:
        raise UserError(
            f"wanted detections on the {len(dataset)} images of {dataset.name} in {source}, found {len(strange)} other "
            f"images ({listed(strange, 3)}): give the truth they belong to"
        )
    return name_of


def _labels_in(names: Sequence[str], classes: Sequence[str], source: str) -> list[int]:
    """The label in ``classes`` of each name, -1 where it is none of them; `UserError` for what looks misspelt."""
    labels = ClassLabels(classes)
    label_of = {name: labels.find(name) for name in names}
    unknown = [name for name, label in label_of.items() if label is None]
    used = set(label_of.values())
    hint = Hints(name for label, name in enumerate(classes) if label not in used)
    near = next((name for name in unknown if hint(name)), None)
    if near is not None or (names and len(unknown) == len(names)):
        name = near or unknown[0]
        raise UserError(
            f"wanted the classes {listed(classes)} in {source}, found {name!r}{hint(name)}: use the same names"
        )
    return [-1 if (label := label_of[name]) is None else label for name in names]


# VOC's result files


def read_voc_results(
    files: Mapping[str, Path], dataset: Dataset, findings: Findings | None = None
) -> dict[str, Instances]:
    """Detections by image id from VOC result files by class name, of at least one class; labels are ``dataset``'s.

    A class that ``dataset`` does not have is left out, and ``findings`` say so. Raises `UserError` for other lines and
    other images.
    """
    findings = findings or Findings()
    folder = next(iter(files.values())).parent
    labels = _labels_in(list(files), dataset.classes, str(folder))
    lines_of = {name: read_result_file(path) for name, path in files.items()}
    others = [name for name, label in zip(files, labels, strict=True) if label < 0]
    _count_others(others, sum(len(lines_of[name].names) for name in others), folder, findings)
    without = [name for label, name in enumerate(dataset.classes) if label not in labels]
    if without:
        findings.count(f"{folder}: no file and so no detections of {listed(without, 3)}")
    by_label = {label: lines_of[name] for name, label in zip(files, labels, strict=True) if label >= 0}
    say_score_range([score for lines in by_label.values() for score in lines.scores.tolist()], folder, findings)
    names = dict.fromkeys(name for lines in by_label.values() for name in lines.names)
    name_of = _known_images(list(names), dataset, str(folder), findings)
    rows = {image_id: ObjectColumns() for image_id in name_of.values()}
    for label, lines in by_label.items():
        for name, score, box in zip(lines.names, lines.scores.tolist(), lines.boxes.tolist(), strict=True):
            rows[name_of[name]].add(box, label, score=score)
    return {
        image_id: objects.instances(with_masks=False, size=(0, 0)).replace(difficult=None, crowd=None)
        for image_id, objects in rows.items()
    }
