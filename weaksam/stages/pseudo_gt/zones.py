"""Divide a photo into boxes that are believed, regions that are ignored, and background."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from weaksam.evaluation.presence import Presence
from weaksam.stages.pseudo_gt.ranking import scores_of
from weaksam.structures.boxes import area, pairwise_ioa, pairwise_iou
from weaksam.structures.instances import Instances

INSIDE = 0.85
"""Share of a box's area in another from which on it is a part of that one, WeakSAM's tau_o."""
SAME = 0.5
"""IoU from which on two boxes are on one object."""


def with_ignored(
    believed: Instances,
    detections: Instances,
    tags: Iterable[int],
    presence: Sequence[Presence],
    ignore_from: float,
) -> Instances:
    """Pseudo ground truth of one photo, and after it the detections that are to be ignored, marked ``crowd``. Ours.

    A detection is ignored where its class is a tag, the tags say of ``ignore_from`` or more of such detections that the
    tag brought them (``presence`` of every class), and none of the ``believed`` boxes stands for it: it does not lie in
    one of its class by `INSIDE`, and overlaps none by `SAME` unless it holds that one by `INSIDE`. So parts of believed
    objects stay background, and groups or wholes around a believed box are ignored. Detections without area never are.
    Ignored ones come best first; no believed box and no detection are allowed.
    """
    scores = scores_of(detections)
    certain = torch.zeros(len(detections), dtype=torch.bool)
    for label in sorted(set(tags)):
        of_class = detections.labels == label
        certain[of_class] = presence[label].of(scores[of_class]) >= ignore_from
    certain &= (area(detections.boxes) > 0) & ~stood_for(detections, believed)
    ignored = detections[certain]
    ignored = ignored[scores_of(ignored).argsort(descending=True, stable=True)]
    marks = torch.arange(len(believed) + len(ignored)) >= len(believed)
    return Instances(
        torch.cat([believed.boxes, ignored.boxes]),
        torch.cat([believed.labels, ignored.labels]),
        torch.cat([scores_of(believed), scores_of(ignored)]),
        crowd=marks,
    )


def stood_for(detections: Instances, believed: Instances) -> Tensor:
    """Bool ``(N,)``: the detections for which a believed box stands already, themselves included."""
    boxes, others = detections.boxes.double(), believed.boxes.double()
    same_class = detections.labels[:, None] == believed.labels
    is_part = (pairwise_ioa(boxes, others) >= INSIDE) & same_class  # (N, K)
    holds = (pairwise_ioa(others, boxes).T >= INSIDE) & same_class
    return (is_part | ((pairwise_iou(boxes, others) >= SAME) & ~holds)).any(dim=1)
