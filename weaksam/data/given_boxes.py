"""Read boxes that another tool or run made for a dataset's photos, by the names of photos and classes."""

from __future__ import annotations

from pathlib import Path

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotations import Annotations
from weaksam.data.class_names import ClassLabels
from weaksam.data.file_errors import reads
from weaksam.data.findings import Findings
from weaksam.data.image_names import ImageNames
from weaksam.data.truth import read_truth, relabelled
from weaksam.data.truth_photos import fit_to_photo
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


@reads("boxes")
def read_given_boxes(path: Path, dataset: Dataset, findings: Findings | None = None) -> dict[str, Instances]:
    """The boxes of COCO JSON, a folder of VOC XML or of YOLO labels, by image id of ``dataset``, labels as it counts.

    A photo that ``path`` does not name is not there; images that are no photos of ``dataset`` are left out.
    ``findings`` take how much was read, and what was taken for what. Raises `UserError` for what cannot be read, where
    no photo is named, and for boxes of classes that ``dataset`` lacks.
    """
    sizes = {sample.image_id: sample.size for sample in dataset if 0 not in sample.size}
    findings = findings or Findings()
    annotations = read_truth(path, sizes, dataset.classes, findings)
    entry_of = ImageNames.of(dataset).find_all(list(annotations.images), str(path), findings)
    if not entry_of:
        raise UserError(
            f"wanted boxes on the {len(dataset)} photos of {dataset.name} in {path}, found none of its "
            f"{len(annotations.images)} images among them ({listed(annotations.images, 3)}): give the file that was "
            "made for these photos"
        )
    _refuse_other_classes(annotations, dataset, path)
    boxes = {}
    for image_id, entry in entry_of.items():
        image = annotations.images[str(entry)]
        if image_id in sizes:
            image = fit_to_photo(image, image_id, sizes[image_id], path, findings)
        boxes[image_id] = relabelled(image.instances, annotations.classes, dataset.classes)
    return boxes


def _refuse_other_classes(annotations: Annotations, dataset: Dataset, path: Path) -> None:
    """`UserError` where boxes are of classes that the dataset does not have."""
    used = {label for image in annotations.images.values() for label in image.instances.labels.tolist()}
    names = (annotations.classes[label] for label in used)
    known = ClassLabels(dataset.classes)
    strange = sorted(name for name in names if known.find(name) is None)
    if strange:
        raise UserError(
            f"wanted boxes of the classes {listed(dataset.classes)} in {path}, found others ({listed(strange)})"
            f"{did_you_mean(strange[0], dataset.classes)}: rename them there, or name all classes (data.classes, or "
            "--classes)"
        )
