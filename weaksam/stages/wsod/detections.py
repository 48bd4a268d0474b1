"""Turn the head's outputs for the views of a photo into its detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weaksam.models.roi.box_deltas import decode_boxes
from weaksam.models.wsod.head import HeadOutput, mean_class_probabilities
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.structures.boxes import batched_nms, clip
from weaksam.structures.instances import Instances


def detections_of(
    outputs: Sequence[HeadOutput], boxes: Tensor, size: tuple[int, int], settings: WsodSettings
) -> Instances:
    """Detections of one photo of ``size`` (H, W) from what the head says of its proposals ``(N, 4)`` in each view.

    Scores are the mean over branches and views; with box offsets a class's box is the mean over branches and views of
    where they move the proposal. Offsets are those of the photo, not of its mirror image.
    """
    scores = class_scores_of(outputs)
    deltas = [of_branch for output in outputs for of_branch in output.deltas]
    if deltas:
        moved = torch.stack([decode_boxes(boxes, of_branch[:, 1:]) for of_branch in deltas]).mean(dim=0)  # (N, C, 4)
        boxes = clip(moved, size)
    return detections_from(scores, boxes, settings)


def class_scores_of(outputs: Sequence[HeadOutput]) -> Tensor:
    """Class probabilities ``(N, C)`` of proposals, the mean over the branches of all views' outputs, at least one."""
    return torch.stack([mean_class_probabilities(output.refine) for output in outputs]).mean(dim=0)


def detections_from(scores: Tensor, boxes: Tensor, settings: WsodSettings) -> Instances:
    """Detections from class probabilities ``(N, C)`` of proposals ``(N, 4)``: threshold, NMS per class, best first.

    Boxes may also be ``(N, C, 4)``, a box for each class.
    """
    index, labels = (scores > settings.min_score).nonzero(as_tuple=True)
    values = scores[index, labels]
    chosen = boxes[index] if boxes.dim() == 2 else boxes[index, labels]
    keep = batched_nms(chosen, values, labels, settings.nms_iou)[: settings.max_boxes]
    return Instances(chosen[keep], labels[keep], values[keep])
