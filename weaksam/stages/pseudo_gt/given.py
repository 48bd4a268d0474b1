"""Read pseudo ground truth that another tool or run made, and check it against the photos, their tags and classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.class_names import ClassLabels
from weaksam.data.image_names import ImageNames
from weaksam.data.photos import Photo
from weaksam.data.truth import SplitTruth, read_split_truth, relabelled
from weaksam.stages.pseudo_gt.settings import GivenPseudoGtSettings
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


def read_given(settings: GivenPseudoGtSettings, dataset: Dataset) -> dict[str, Instances]:
    """The boxes of the file ``settings.path`` by image id, of every photo of ``dataset``; labels are those of its tags.

    A photo that the file does not name has none. Scores are the file's, 1 where it has none; crowd regions are left
    out. Raises `UserError` for a file that cannot be read, one without a photo of the dataset, classes that the dataset
    does not have, and boxes of classes that are no tag of their photo (unless ``settings.untagged`` drops them).
    """
    photos = {
        sample.image_id: Photo(sample.path, sample.size, 1, sample.sha256, sample.num_bytes) for sample in dataset
    }
    truth = read_split_truth(settings.path, photos, ImageNames.of(dataset), None, dataset.classes)
    known = {image_id: boxes for image_id, boxes in truth.objects.items() if image_id in photos}
    if not known:
        raise UserError(
            f"wanted pseudo ground truth of the {len(dataset)} {dataset.name} photos in {settings.path}, found none of "
            f"its {len(truth.without_photo)} images among them ({listed(truth.without_photo, 3)}): give the file that "
            "was made for these photos"
        )
    _refuse_other_classes(truth, dataset, settings)
    by_id = {image_id: _as_detections(boxes, truth.classes, dataset.classes) for image_id, boxes in known.items()}
    if settings.untagged == "refuse":
        _refuse_untagged(by_id, dataset, settings)
    return {
        sample.image_id: _of_tags(by_id.get(sample.image_id, Instances.empty(scored=True)), sample.tags)
        for sample in dataset
    }


def _as_detections(boxes: Instances, old: Sequence[str], new: Sequence[str]) -> Instances:
    """Boxes with labels counted in ``new`` instead of ``old`` names and a score each, without marks and masks."""
    boxes = relabelled(boxes.without_crowd(), old, new)
    scores = torch.ones(len(boxes)) if boxes.scores is None else boxes.scores
    return Instances(boxes.boxes, boxes.labels, scores)


def _refuse_other_classes(truth: SplitTruth, dataset: Dataset, settings: GivenPseudoGtSettings) -> None:
    """`UserError` where boxes are of classes that the dataset does not have."""
    used = {truth.classes[label] for boxes in truth.objects.values() for label in boxes.labels.tolist()}
    labels = ClassLabels(dataset.classes)
    strange = sorted(name for name in used if labels.find(name) is None)
    if strange:
        raise UserError(
            f"wanted boxes of the classes {listed(dataset.classes)} in {settings.path}, found others "
            f"({listed(strange)}){did_you_mean(strange[0], dataset.classes)}: rename them there, or name all classes "
            "in data.classes"
        )


def _refuse_untagged(by_id: dict[str, Instances], dataset: Dataset, settings: GivenPseudoGtSettings) -> None:
    """`UserError` where boxes are of classes that are no tag of their photo."""
    strange = [
        (image_id, label)
        for image_id, boxes in by_id.items()
        for label in boxes.labels.tolist()
        if label not in dataset.by_id[image_id].tags
    ]
    if strange:
        image_id, label = strange[0]
        tags = listed([dataset.classes[tag] for tag in dataset.by_id[image_id].tags]) or "nothing"
        raise UserError(
            f"wanted boxes of their photos' tags alone in {settings.path}, found {len(strange)} of other classes on "
            f"{len({name for name, _ in strange})} photos (first: {dataset.classes[label]} on {image_id}, which is "
            f"tagged {tags}): mend the tags or the file, or leave such boxes out with pseudo_gt.untagged=drop"
        )


def _of_tags(boxes: Instances, tags: Sequence[int]) -> Instances:
    """The boxes whose class is a tag."""
    return boxes[torch.isin(boxes.labels, torch.tensor(tags, dtype=torch.int64))]
