"""Make the instances of a training view into what Mask2Former's losses are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weaksam.models.detectors.mask2former.losses import PhotoObjects
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_mask


def mask_target(instances: Instances, masks: Tensor | None) -> dict[str, Tensor]:
    """Labels ``(N,)`` from 0 and masks uint8 ``(N, h, w)`` of a view, and ``ignored`` (h, w) where it has such regions.

    Objects without a pixel in the view are left out. Regions to ignore (``crowd``) are no objects, nor are those whose
    mask has a weight of 0: their mask and their box are ignored, as nobody knows where in it they end. ``mask_weights``
    (N,) come along where the instances have them. No instances give N = 0, with masks of any size.
    """
    if masks is None:
        assert len(instances) == 0, "Mask2Former learns from masks, found instances without"
        return {"labels": instances.labels, "masks": torch.zeros(0, 1, 1, dtype=torch.uint8)}
    crowd = torch.zeros(len(masks), dtype=torch.bool) if instances.crowd is None else instances.crowd
    weights = instances.mask_weights
    doubtful = torch.zeros_like(crowd) if weights is None else (weights == 0) & ~crowd
    kept = masks.flatten(1).any(dim=1) & ~crowd & ~doubtful
    target = {"labels": instances.labels[kept], "masks": masks[kept].to(torch.uint8)}
    if weights is not None:
        target["mask_weights"] = weights[kept]
    if bool((crowd | doubtful).any()):
        frame = (masks.shape[1], masks.shape[2])
        boxes = [box_mask(box, frame) for box in instances.boxes[doubtful]]
        target["ignored"] = torch.cat([masks[crowd | doubtful], *(box[None] for box in boxes)]).any(dim=0).byte()
    return target


def photo_objects(targets: Sequence[Mapping[str, Tensor]], images: Sequence[Tensor]) -> list[PhotoObjects]:
    """What the losses take, of the targets of photos ``(3, h, w)``."""
    return [
        PhotoObjects(
            target["labels"],
            target["masks"].float(),
            (image.shape[1], image.shape[2]),
            target["ignored"].float() if "ignored" in target else None,
            target.get("mask_weights"),
        )
        for target, image in zip(targets, images, strict=True)
    ]
