"""Read detections on a dataset's images: from a run's sealed store, VOC's result files or a COCO results list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotations import ObjectRows
from weaksam.data.findings import Findings
from weaksam.data.formats.coco_results import read_results
from weaksam.data.formats.voc_results import read_result_file, result_files
from weaksam.data.image_names import ImageNames
from weaksam.data.text_files import read_json
from weaksam.store.sealed import open_sealed
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


def read_detections(path: Path, dataset: Dataset, findings: Findings | None = None) -> dict[str, Instances]:
    """Detections by image id; every image of ``dataset`` is there, empty where nothing was found in it.

    ``path``: the folder of a sealed store of detections, a folder of VOC result files (or one of them), or a COCO
    results list. Images are found by name, with or without ending, or by number. ``findings`` take how much was read,
    and what was taken for what. Raises `UserError` for anything else, for images that ``dataset`` does not have, and
    for class names that differ from its own by a misspelling.
    """
    if path.suffix.lower() == ".json":
        return read_results(path, dataset, findings)
    files = result_files(path)
    if files:
        return _filled(read_voc_results(files, dataset), dataset)
    if path.is_dir():
        return _filled(read_detection_store(path, dataset), dataset)
    raise UserError(
        f"wanted detections at {path} (a COCO results .json, VOC result files like comp4_det_test_CLASS.txt, or the "
        f"folder of a sealed store), found {'another file' if path.exists() else 'nothing there'}: name one of these"
    )


def _filled(detections: Mapping[str, Instances], dataset: Dataset) -> dict[str, Instances]:
    """Detections of every image of ``dataset``, in order; empty ones where there are none."""
    nothing = Instances.empty(scored=True)
    return {image_id: detections.get(image_id, nothing) for image_id in dataset.image_ids}


# A run's own store


def read_detection_store(folder: Path, dataset: Dataset) -> dict[str, Instances]:
    """Detections of a sealed store by image id of ``dataset``, with masks where it has them.

    Labels are the run's: its class names, in ``metrics.json`` of the run's folder, say which of ``dataset`` they are;
    without that file they are taken to be counted alike.
    """
    store = open_sealed(folder)
    missing = [name for name in ("boxes", "labels", "scores") if name not in store.columns]
    if missing:
        raise UserError(
            f"wanted a store of detections in {folder}, found one of the stage {store.stage} without the column "
            f"{missing[0]!r}: name a store such as OUT/wsod/store/detections_test-..."
        )
    classes = run_classes(folder) or dataset.classes
    table = torch.tensor(_labels_in(classes, dataset.classes, str(folder)), dtype=torch.int64)
    name_of = _known_images(store.image_ids, dataset, str(folder))
    detections = {}
    for row in store.rows():
        labels = row["labels"]
        if len(labels) and int(labels.max()) >= len(classes):
            raise UserError(
                f"wanted labels of the {len(classes)} classes {listed(classes, 3)} in {folder}, found the label "
                f"{int(labels.max())}: give the truth with the run's own classes"
            )
        masks = tuple(row["rles"]) if "rles" in row else None
        objects = Instances(row["boxes"], table[labels] if len(labels) else labels, row["scores"], masks)
        detections[name_of[row["image_id"]]] = objects[objects.labels >= 0]
    return detections


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


def _known_images(names: Sequence[str], dataset: Dataset, source: str) -> dict[str, str]:
    """The image id of ``dataset`` for each of ``names``; `UserError` where one has none."""
    key_of = ImageNames.of(dataset).find_all(names, source)
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
    label_of = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in names if name not in label_of]
    free = [name for name in classes if name not in names]
    near = next((name for name in unknown if did_you_mean(name, free)), None)
    if near is not None or (names and len(unknown) == len(names)):
        name = near or unknown[0]
        raise UserError(
            f"wanted the classes {listed(classes)} in {source}, found {name!r}{did_you_mean(name, free)}: use the same "
            "names"
        )
    return [label_of.get(name, -1) for name in names]


# VOC's result files


def read_voc_results(files: Mapping[str, Path], dataset: Dataset) -> dict[str, Instances]:
    """Detections by image id from VOC result files by class name, of at least one class; labels are ``dataset``'s.

    A class that ``dataset`` does not have is left out. Raises `UserError` for other lines and other images.
    """
    folder = next(iter(files.values())).parent
    labels = _labels_in(list(files), dataset.classes, str(folder))
    by_label = {label: read_result_file(path) for path, label in zip(files.values(), labels, strict=True) if label >= 0}
    names = dict.fromkeys(name for lines in by_label.values() for name, _, _ in lines)
    name_of = _known_images(list(names), dataset, str(folder))
    rows = {image_id: ObjectRows.none() for image_id in name_of.values()}
    for label, lines in by_label.items():
        for name, score, box in lines:
            rows[name_of[name]].add(box, label, score=score)
    return {
        image_id: objects.instances(with_masks=False, size=(0, 0)).replace(difficult=None, crowd=None)
        for image_id, objects in rows.items()
    }
