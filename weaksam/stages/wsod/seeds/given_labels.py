"""Put what was labelled on a photo in the place of the seeds that a rule chose there."""

from __future__ import annotations

import torch
from torch import Tensor

from weaksam.models.wsod.targets import Seeds
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import PhotoLabels
from weaksam.structures.trusted_labels import SAME, boxes_of_marks, on_one_of, open_marks, sort_guesses


def trusted_seeds(seeds: Seeds, scores: Tensor, boxes: Tensor, labels: PhotoLabels) -> Seeds:
    """The seeds of one branch after the rule of trust (`structures.trusted_labels`), on the device of ``seeds``.

    ``scores (R, C)`` of the photo's R RoIs ``boxes (R, 4)`` choose the RoI of a point or scribble. A given box is
    seeded by the RoI that overlaps it most, if by `SAME`, with weight 1; the RoI of a mark weighs as the best seed of
    the photo, 1 without any. Nothing labelled, or no RoI: the seeds as they are.
    """
    if labels.says_nothing or len(boxes) == 0:
        return seeds
    device = seeds.roi.device
    roi, label, weight = (column.detach().cpu() for column in seeds)
    roi, label, weight = (column[label >= 0] for column in (roi, label, weight.float()))  # without padding
    boxes, scores = boxes.detach().cpu().float(), scores.detach().cpu().float()
    objects = labels.objects
    overlap, nearest = pairwise_iou(objects.boxes, boxes).max(dim=1)
    of_given = (nearest[overlap >= SAME], objects.labels[overlap >= SAME])
    of_marks = _rois_of_marks(scores, boxes, labels)
    certain = Instances(torch.cat([objects.boxes, boxes[of_marks[0]]]), torch.cat([objects.labels, of_marks[1]]))
    believed = sort_guesses(Instances(boxes[roi], label, weight), certain, labels).believed
    best = weight.max() if len(weight) else torch.tensor(1.0)
    columns = (
        torch.cat([roi[believed], of_given[0], of_marks[0]]),
        torch.cat([label[believed], of_given[1], of_marks[1]]),
        torch.cat([weight[believed], torch.ones(len(of_given[0])), best.expand(len(of_marks[0]))]),
    )
    rois, classes, weights = (column.to(device) for column in columns)
    return Seeds(rois, classes, weights.to(seeds.weight.dtype))


def of_present(values: Tensor, present: Tensor, num_classes: int) -> Tensor:
    """Values ``(R, T)`` of the classes ``present (T,)`` as scores ``(R, C)``, 0 for the other classes."""
    scores = values.new_zeros(len(values), num_classes)
    scores[:, present] = values
    return scores


def _rois_of_marks(scores: Tensor, boxes: Tensor, labels: PhotoLabels) -> tuple[Tensor, Tensor]:
    """RoI and class of each open mark that a RoI holds: int64 ``(K,)`` both."""
    marks = open_marks(labels)
    rois, classes = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for label in marks.labels.unique().tolist():
        of_class = marks.select(marks.labels == label)
        all_rois = Instances(boxes, torch.full((len(boxes),), label), scores[:, label])
        free = (~on_one_of(all_rois, labels.objects)).nonzero()[:, 0]
        rows = boxes_of_marks(boxes[free], all_rois.labels[free], scores[free, label], of_class)
        rows = free[rows[rows >= 0]]
        rois.append(rows)
        classes.append(torch.full((len(rows),), label))
    return torch.cat(rois), torch.cat(classes)
