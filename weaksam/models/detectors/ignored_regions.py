"""Match anchors and regions to boxes so that those nearest an ignored box teach nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.devices import reading_is_free

IGNORED = -1
"""Label of an ignored box in a target, whose other labels count from 1; torchvision's samplers leave out -1, too."""


def nearest_is_ignored(regions: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Bool ``(R,)``: the regions ``(R, 4)`` that overlap an `IGNORED` box more than any other of ``boxes`` (N, 4).

    ``labels`` (N,). At equal overlap the other box counts; a region that meets no box is not ignored.
    """
    ignored = labels == IGNORED
    if len(boxes) == 0 or (reading_is_free(labels.device) and not bool(ignored.any())):
        return torch.zeros(len(regions), dtype=torch.bool, device=regions.device)
    iou = pairwise_iou(boxes, regions)  # (N, R)
    nearest_other = iou.masked_fill(ignored[:, None], 0.0).amax(dim=0)
    return iou.masked_fill(~ignored[:, None], 0.0).amax(dim=0) > nearest_other


class IgnoringProposalNetwork(RegionProposalNetwork):
    """Torchvision's region proposal network, in which anchors nearest an `IGNORED` box of the target teach nothing."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per photo the anchors' labels ``(A,)`` (1 object, 0 background, -1 neither) and boxes ``(A, 4)``."""
        kept = [target["labels"] != IGNORED for target in targets]
        with_boxes = [{"boxes": target["boxes"][keep]} for target, keep in zip(targets, kept, strict=True)]
        labels, matched_boxes = super().assign_targets_to_anchors(anchors, with_boxes)
        return _without_ignored(labels, anchors, targets), matched_boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Torchvision's two losses; 0 where every anchor is ignored, whose mean torchvision gives as nan."""
        if not any(bool((of_photo >= 0).any()) for of_photo in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)


class IgnoringRoIHeads(RoIHeads):
    """Torchvision's heads, in which regions nearest an `IGNORED` box of the target teach nothing."""

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per photo the index of each region's box ``(R,)`` and its label ``(R,)``: 0 background, -1 ignored."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        targets = [{"boxes": boxes, "labels": of_boxes} for boxes, of_boxes in zip(gt_boxes, gt_labels, strict=True)]
        return matched, _without_ignored(labels, proposals, targets)


def _without_ignored(
    labels: Sequence[Tensor], regions: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
) -> list[Tensor]:
    """The labels of each photo's regions, -1 where the nearest box is ignored."""
    photos = zip(labels, regions, targets, strict=True)
    return [
        of_photo.masked_fill(nearest_is_ignored(boxes, target["boxes"], target["labels"]), -1)
        for of_photo, boxes, target in photos
    ]
