"""Make the instances of a training view into what Mask2Former's losses are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weaksam.models.detectors.mask2former.losses import PhotoObjects
from weaksam.structures.instances import Instances


def mask_target(instances: Instances, masks: Tensor | None) -> dict[str, Tensor]:
    """Labels ``(N,)`` from 0 and masks uint8 ``(N, h, w)`` of a view, and ``ignored`` (h, w) where it has such regions.

    Objects without a pixel in the view are left out. Regions to ignore (``crowd``) are no objects. No instances give N
    = 0, with masks of any size.
    """
    if masks is None:
        assert len(instances) == 0, "Mask2Former learns from masks, found instances without"
        return {"labels": instances.labels, "masks": torch.zeros(0, 1, 1, dtype=torch.uint8)}
    crowd = torch.zeros(len(masks), dtype=torch.bool) if instances.crowd is None else instances.crowd
    kept = masks.flatten(1).any(dim=1) & ~crowd
    target = {"labels": instances.labels[kept], "masks": masks[kept].to(torch.uint8)}
    return target | ({"ignored": masks[crowd].any(dim=0).to(torch.uint8)} if bool(crowd.any()) else {})


def photo_objects(targets: Sequence[Mapping[str, Tensor]], images: Sequence[Tensor]) -> list[PhotoObjects]:
    """What the losses take, of the targets of photos ``(3, h, w)``."""
    return [
        PhotoObjects(
            target["labels"],
            target["masks"].float(),
            (image.shape[1], image.shape[2]),
            target["ignored"].float() if "ignored" in target else None,
        )
        for target, image in zip(targets, images, strict=True)
    ]
