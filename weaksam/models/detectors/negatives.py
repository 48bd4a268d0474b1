"""Decide of which classes a region without a box teaches nothing, where the boxes of the photos are incomplete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weaksam.config import Settings
from weaksam.models.detectors.ignored_regions import IGNORED, nearest_is_ignored
from weaksam.structures.boxes import pairwise_ioa, pairwise_iou

_OBJECT_IOU = 0.5
"""IoU with a box from which on a region is its object."""
MOSTLY = 0.5
"""Share of a region above which it lies in a detection."""


class NegativeSettings(Settings):
    """What regions that meet no box teach: background, or only which classes are certainly not there.

    A class that is no tag of a photo is nowhere in it, which tags alone say (ours; that unlabelled regions are no sure
    background: Soft Sampling, Wu et al., BMVC 2019; BRL, Zhang et al., ICASSP 2020).
    """

    rule: Literal["all", "tags", "detections"] = "all"
    """``all``: such a region is background; ``tags``: it is none of the classes that are no tags, and of the tagged
    ones it teaches nothing; ``detections``: of a tagged class it teaches nothing only where the weak detector detects
    it. Photos without tags are background everywhere."""
    partly_iou: float = Field(0.1, ge=0, le=0.5)
    """Regions that overlap a box by at least this IoU, too little to be it, are background all the same: of them the
    box says enough. Fast R-CNN's and BRL's 0.1."""
    near_iou: float = Field(0.5, ge=0, le=0.5)
    """Of regions whose IoU with a box is from this up to 0.5, at which they are its object, the tagged classes are
    unknown with ``tags`` and ``detections``: where boxes are loose the object may lie so. 0.5: of none (ours)."""
    min_score: float = Field(0.05, ge=0, le=1)
    """Least score of the weak detector's detections with ``detections``."""
    anchors: bool = True
    """Anchors that the rule says nothing sure of teach the proposal network nothing; false: they are background."""
    confident: float | None = Field(None, ge=0, le=1)
    """Regions that the network itself scores above this (objectness, or the score of a tagged class of DINO's queries)
    and that overlap no box by more than ``confident_iou`` are no background either; none: they are. SparseDet's (Suri
    et al., ICCV 2023) is 0.8."""
    confident_iou: float = Field(0.2, ge=0, le=1)
    """See ``confident``; SparseDet's value."""
    start_share: float = Field(0.25, ge=0, le=1)
    """Share of the training after which ``confident`` holds: scores of the first steps say nothing (ours)."""

    def confident_from(self, step: int, num_steps: int) -> float | None:
        """The score above which regions are confident in step ``step`` (0-based) of ``num_steps``; None: none is."""
        return self.confident if step >= round(self.start_share * num_steps) else None


def unknown_classes(regions: Tensor, target: Mapping[str, Tensor], settings: NegativeSettings) -> Tensor:
    """Bool ``(R, C)``: of which classes each of ``regions`` (R, 4), if it has no box, teaches nothing; R may be 0.

    ``target``: of the photo, xyxy in pixels: ``boxes`` (N, 4) and ``labels`` (N,), `IGNORED` ones among them, ``tags``
    bool ``(C,)`` and, with the rule ``detections``, ``doubtful_boxes`` (D, 4) with ``doubtful_labels`` (D,) from 0. A
    region nearest an `IGNORED` box teaches nothing of the tagged classes (nothing at all where the photo has no tag),
    one among its ``confident_boxes`` (K, 4; nan: none) nothing of the tagged ones. Of ``rejected_boxes`` (D, 4) with
    ``rejected_labels`` (D,), where there are some, it is certain that no object of their class is there.
    """
    tags, boxes, labels = target["tags"], target["boxes"], target["labels"]
    unknown = _by_rule(regions, target, settings)
    overlap = _best_iou(regions, boxes, labels)
    unknown &= ~((overlap >= settings.partly_iou) & (overlap > 0))[:, None]
    if settings.rule != "all":
        unknown |= ((overlap >= settings.near_iou) & (overlap < _OBJECT_IOU) & (overlap > 0))[:, None] & tags
        in_ignored = nearest_is_ignored(regions, boxes, labels)
        unknown |= in_ignored[:, None] & (tags | ~tags.any())
    if "confident_boxes" in target:
        unknown |= _among(regions, target["confident_boxes"])[:, None] & tags
    if "rejected_boxes" in target:
        unknown &= ~_rejected(regions, target)
    return unknown


def _rejected(regions: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """Bool ``(R, C)``: the classes of rejected boxes that each region overlaps by an IoU of 0.5 or more."""
    boxes, labels = target["rejected_boxes"], target["rejected_labels"]
    if len(boxes) == 0:
        return torch.zeros(len(regions), len(target["tags"]), dtype=torch.bool, device=regions.device)
    same_place = pairwise_iou(regions, boxes) >= _OBJECT_IOU  # (R, D)
    return same_place.float() @ F.one_hot(labels, len(target["tags"])).float() > 0


def _by_rule(regions: Tensor, target: Mapping[str, Tensor], settings: NegativeSettings) -> Tensor:
    """Bool ``(R, C)``: the tagged classes that may be anywhere, or where the weak detector detects them."""
    tags = target["tags"].expand(len(regions), -1)
    if settings.rule == "tags":
        return tags.clone()
    if settings.rule == "all" or len(target["doubtful_boxes"]) == 0:
        return torch.zeros_like(tags)
    met = meets(regions, target["doubtful_boxes"], settings.partly_iou)  # (R, D)
    of_class = F.one_hot(target["doubtful_labels"], tags.shape[1])  # (D, C)
    return (met.float() @ of_class.float() > 0) & tags


def meets(regions: Tensor, boxes: Tensor, least_iou: float) -> Tensor:
    """Bool ``(R, D)``: ``regions`` (R, 4) that have at least this IoU with ``boxes`` (D, 4), or lie inside them.

    A region lies inside a box with more than half of its area, as a member does in the box of a group. Regions and
    boxes that share nothing never meet.
    """
    iou = pairwise_iou(regions, boxes)
    return ((iou >= least_iou) & (iou > 0)) | (pairwise_ioa(regions, boxes) > MOSTLY)


def _best_iou(regions: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """IoU ``(R,)`` of each region with the nearest of ``boxes`` (N, 4) that is not ignored; 0 where there is none."""
    if len(boxes) == 0:
        return regions.new_zeros(len(regions))
    return pairwise_iou(regions, boxes).masked_fill(labels == IGNORED, 0.0).amax(dim=1)


def _among(regions: Tensor, boxes: Tensor) -> Tensor:
    """Bool ``(R,)``: the regions that are one of ``boxes`` (K, 4), to the bit; none where K = 0."""
    return (regions[:, None] == boxes).all(dim=-1).any(dim=-1)


def confident_regions(
    regions: Tensor, scores: Tensor, target: Mapping[str, Tensor], score: float | None, settings: NegativeSettings
) -> Tensor:
    """Bool ``(R,)``: regions ``(R, 4)`` of ``scores`` (R,) above ``score`` that overlap no box of ``target`` by more.

    More than ``confident_iou``, that is. None in a photo without tags, and where ``score`` is None.
    """
    if score is None:
        return torch.zeros(len(regions), dtype=torch.bool, device=regions.device)
    confident = (scores > score) & target["tags"].any()
    if len(target["boxes"]) == 0:
        return confident
    return confident & (pairwise_iou(regions, target["boxes"]).amax(dim=1) <= settings.confident_iou)


def class_losses(logits: Tensor, labels: Tensor, unknown: Tensor) -> Tensor:
    """Loss ``(R,)`` of ``logits`` (R, 1 + C), background first, at ``labels`` (R,).

    The cross-entropy; for background it is -log of the summed probability of the background and of the region's
    ``unknown`` classes (R, C), so it says that every other class is not there, and nothing of these. 0 where all are.
    """
    possible = F.one_hot(labels, logits.shape[1]).bool()
    possible[:, 1:] |= unknown & (labels == 0)[:, None]
    return logits.logsumexp(dim=1) - logits.masked_fill(~possible, -torch.inf).logsumexp(dim=1)
