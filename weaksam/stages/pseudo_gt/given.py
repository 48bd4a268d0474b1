"""Read pseudo ground truth that another tool or run made, and check it against the photos' tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from weaksam.config import UserError, listed
from weaksam.data.findings import Findings
from weaksam.data.given_boxes import read_given_boxes
from weaksam.stages.pseudo_gt.settings import GivenPseudoGtSettings
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances, ignored


def read_given(
    settings: GivenPseudoGtSettings, dataset: Dataset, findings: Findings | None = None
) -> dict[str, Instances]:
    """The boxes of the file ``settings.path`` by image id, of every photo of ``dataset``; labels are those of its tags.

    A photo that the file does not name has none. Scores are the file's, 1 where it has none; regions marked as a crowd
    (COCO) or as difficult (VOC) are to be ignored, and come back marked ``crowd``. ``findings`` take how much was read,
    and what was taken for what. Raises `UserError` as `read_given_boxes` does, and for boxes of classes that are no tag
    of their photo (unless ``settings.untagged`` drops them).
    """
    given = read_given_boxes(settings.path, dataset, findings)
    by_id = {image_id: _as_detections(boxes) for image_id, boxes in given.items()}
    if settings.untagged == "refuse":
        _refuse_untagged(by_id, dataset, settings)
    return {
        sample.image_id: _of_tags(by_id.get(sample.image_id, Instances.empty(scored=True)), sample.tags)
        for sample in dataset
    }


def _as_detections(boxes: Instances) -> Instances:
    """Boxes with a score each, marked ``crowd`` where they are to be ignored and any is, without masks."""
    scores = torch.ones(len(boxes)) if boxes.scores is None else boxes.scores
    marked = ignored(boxes)
    return Instances(boxes.boxes, boxes.labels, scores, crowd=marked if bool(marked.any()) else None)


def _refuse_untagged(by_id: Mapping[str, Instances], dataset: Dataset, settings: GivenPseudoGtSettings) -> None:
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
