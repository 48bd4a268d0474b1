"""Count the regions of pseudo ground truth that are ignored in training, and the missed objects that they cover."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.evaluation.matching import exact_boxes
from weaksam.evaluation.protocol import json_number
from weaksam.evaluation.pseudo_gt_kinds import sort_boxes
from weaksam.structures.boxes import pairwise_ioa, pairwise_iou
from weaksam.structures.instances import Instances

COVERED = 0.5
"""Share of an object's area in an ignored region from which on that region covers it."""


@dataclass(frozen=True)
class ZoneCounts:
    """Ignored regions and missed objects by label: ``num_ignored``, ``num_missed``, ``num_covered``.

    num_covered: missed objects that an ignored region keeps from being taught as background, see `covered_objects`.
    """

    num_ignored: tuple[int, ...]
    num_missed: tuple[int, ...]
    num_covered: tuple[int, ...]

    @property
    def covered_share(self) -> float:
        """Share of the missed objects that are covered, all classes together; nan where none is missed."""
        return sum(self.num_covered) / sum(self.num_missed) if sum(self.num_missed) else math.nan

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON can hold them, nan as null."""
        return {
            "ignored": sum(self.num_ignored),
            "missed": sum(self.num_missed),
            "covered": sum(self.num_covered),
            "covered_share": json_number(self.covered_share),
            "ignored_per_class": list(self.num_ignored),
            "covered_per_class": list(self.num_covered),
            "rules": f"covered: a missed object of which {COVERED:.0%} or more lie in the ignored region that it "
            "overlaps most, and that it overlaps more than any believed box",
        }


def count_zones(
    truths: Mapping[str, Instances], pseudo_gt: Mapping[str, Instances], num_classes: int, iou: float = 0.5
) -> ZoneCounts:
    """Count ignored regions (pseudo boxes marked ``crowd``) and missed objects of the photos that ``truths`` names.

    ``iou``: from which a believed box is on an object, as in `sort_boxes`. A photo without pseudo boxes may be missing.
    """
    ignored, missed, covered = (torch.zeros(num_classes, dtype=torch.int64) for _ in range(3))
    for image_id, truth in truths.items():
        boxes = pseudo_gt.get(image_id, Instances.empty())
        believed, regions = boxes.without_crowd(), ignored_regions(boxes)
        kinds = sort_boxes(truth, believed, iou).objects
        is_missed = torch.tensor([kind == "missed" for kind in kinds], dtype=torch.bool)
        is_covered = is_missed & covered_objects(truth.boxes, believed.boxes, regions.boxes)
        ignored += regions.labels.bincount(minlength=num_classes)
        missed += truth.labels[is_missed].bincount(minlength=num_classes)
        covered += truth.labels[is_covered].bincount(minlength=num_classes)
    return ZoneCounts(tuple(ignored.tolist()), tuple(missed.tolist()), tuple(covered.tolist()))


def ignored_regions(boxes: Instances) -> Instances:
    """The boxes that are marked ``crowd``, in order."""
    return boxes[torch.zeros(len(boxes), dtype=torch.bool) if boxes.crowd is None else boxes.crowd]


def covered_objects(objects: Tensor, believed: Tensor, ignored: Tensor) -> Tensor:
    """Bool ``(T,)``: the ``objects`` (T, 4) whose place is ignored in training rather than background.

    An object is covered where it overlaps one of the ``ignored`` boxes (M, 4) more than any ``believed`` one (N, 4),
    so that the detectors of `weaksam.models` ignore regions like it, and `COVERED` or more of it lie in that region.
    """
    if len(ignored) == 0:
        return torch.zeros(len(objects), dtype=torch.bool)
    exact, regions = exact_boxes(objects), exact_boxes(ignored)
    overlap, nearest = pairwise_iou(exact, regions).max(dim=1)
    lies_in = pairwise_ioa(exact, regions).gather(1, nearest[:, None])[:, 0] >= COVERED
    if len(believed):
        lies_in &= overlap > pairwise_iou(exact, exact_boxes(believed)).amax(dim=1)
    return lies_in
