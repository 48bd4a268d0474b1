"""Gather the figures of pseudo ground truth: how much there is and, where the truth is known, how good it is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weaksam.evaluation.protocol import check_labels, json_number
from weaksam.evaluation.pseudo_gt import PseudoGtResult, pseudo_gt_quality
from weaksam.evaluation.pseudo_gt_kinds import KindCounts, count_kinds
from weaksam.evaluation.pseudo_gt_zones import ZoneCounts, count_zones
from weaksam.evaluation.pseudo_mask_figures import PseudoMaskFigures, pseudo_mask_figures
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class PseudoGtFigures:
    """Figures of pseudo boxes over a set of photos, counts by label.

    num_boxes: boxes. num_photos: photos. num_with_box: photos with a box of that class; num_empty: photos without any.
    quality, kinds, zones: against the true boxes of the photos that have some; None where no photo has. masks: against
    the true masks; None where boxes or true objects have none. num_ignored: regions to ignore (``crowd``), which count
    among no boxes.
    """

    classes: tuple[str, ...]
    num_boxes: tuple[int, ...]
    num_with_box: tuple[int, ...]
    num_photos: int
    num_empty: int
    num_ignored: tuple[int, ...]
    quality: PseudoGtResult | None = None
    kinds: KindCounts | None = None
    masks: PseudoMaskFigures | None = None
    zones: ZoneCounts | None = None
    notes: tuple[str, ...] = ()

    @property
    def per_photo(self) -> float:
        """Boxes per photo, over all photos; nan without photos."""
        return sum(self.num_boxes) / self.num_photos if self.num_photos else math.nan

    def per_photo_of(self, label: int) -> float:
        """Boxes of one class per photo that has some of it; nan where none has."""
        return self.num_boxes[label] / self.num_with_box[label] if self.num_with_box[label] else math.nan

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null; without a truth the counts alone."""
        counts = {
            "classes": list(self.classes),
            "num_photos": self.num_photos,
            "num_photos_without_box": self.num_empty,
            "number": sum(self.num_boxes),
            "per_photo": json_number(self.per_photo),
            "number_per_class": list(self.num_boxes),
            "per_photo_per_class": [json_number(self.per_photo_of(label)) for label in range(len(self.classes))],
            "ignored_per_class": list(self.num_ignored),
            "notes": list(self.notes),
        }
        if self.quality is None or self.kinds is None or self.zones is None:
            return counts
        against = {**self.quality.as_dict(), "kinds": self.kinds.as_dict(), "zones": self.zones.as_dict()}
        masks = {} if self.masks is None else {"masks": self.masks.as_dict()}
        return {**counts, "against_truth": against | masks}


def pseudo_gt_figures(
    pseudo_gt: Mapping[str, Instances],
    image_ids: Collection[str],
    classes: Sequence[str],
    truths: Mapping[str, Instances] | None = None,
    *,
    iou: float = 0.5,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    notes: Sequence[str] = (),
) -> PseudoGtFigures:
    """Count the pseudo boxes on the photos ``image_ids`` and compare them with ``truths`` where there are any.

    A photo that ``pseudo_gt`` lacks has none. Quality, kinds and zones are of the photos that have a truth alone; so
    are the figures of masks, where both sides have them and ``sizes`` (H, W) by image id are given. Boxes marked
    ``crowd`` are regions to ignore and count apart.
    """
    check_labels(pseudo_gt, len(classes), "pseudo boxes")
    zoned = {image_id: pseudo_gt.get(image_id, Instances.empty()) for image_id in image_ids}
    boxes = {image_id: of_photo.without_crowd() for image_id, of_photo in zoned.items()}
    num_boxes = torch.zeros(len(classes), dtype=torch.int64)
    num_with_box = torch.zeros(len(classes), dtype=torch.int64)
    num_ignored = torch.zeros(len(classes), dtype=torch.int64)
    for image_id, of_photo in boxes.items():
        counts = of_photo.labels.bincount(minlength=len(classes))
        num_boxes, num_with_box = num_boxes + counts, num_with_box + (counts > 0)
        num_ignored += zoned[image_id].labels.bincount(minlength=len(classes)) - counts
    known = {image_id: truth for image_id, truth in (truths or {}).items() if image_id in boxes}
    of_known = {image_id: boxes[image_id] for image_id in known}
    with_masks = bool(known and sizes) and all(map(_has_masks, [*known.values(), *of_known.values()]))
    return PseudoGtFigures(
        tuple(classes),
        tuple(num_boxes.tolist()),
        tuple(num_with_box.tolist()),
        len(boxes),
        sum(len(of_photo) == 0 for of_photo in boxes.values()),
        tuple(num_ignored.tolist()),
        pseudo_gt_quality(known, of_known, len(classes), iou=iou) if known else None,
        count_kinds(known, of_known, len(classes), iou) if known else None,
        pseudo_mask_figures(known, of_known, len(classes), sizes) if with_masks and sizes else None,
        count_zones(known, zoned, len(classes), iou) if known else None,
        tuple(notes),
    )


def _has_masks(instances: Instances) -> bool:
    """Whether every object has a mask; none at all are no contradiction."""
    return len(instances) == 0 or instances.masks is not None
