"""Weigh the losses of regions and anchors by how far the boxes count that they are assigned to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

WeightName = Literal["class_weights", "box_weights", "mask_weights"]
"""Weights of a target's boxes (N,): how far their class, their extent and their mask count; missing: by 1."""


def weights_of_regions(
    name: WeightName, matches: Sequence[Tensor], labels: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
) -> Tensor | None:
    """The weight ``(R,)`` of each region's box by the number ``(R_i,)`` of that box, photo by photo; background has 1.

    ``labels`` (R_i,) are above 0 where a region has a box. None where no target has such weights.
    """
    if not any(name in target for target in targets):
        return None
    weights = []
    for target, match, label in zip(targets, matches, labels, strict=True):
        of_boxes = target.get(name)
        if of_boxes is None or len(of_boxes) == 0:
            weights.append(torch.ones(len(match), device=match.device))
        else:
            weights.append(torch.where(label > 0, of_boxes[match.clamp(min=0)], of_boxes.new_ones(())))
    return torch.cat(weights)


def weights_of_boxes(
    name: WeightName, boxes: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
) -> Tensor | None:
    """The weight ``(P,)`` of each of ``boxes`` (P_i, 4), which are boxes of the photo's target; the first of equals.

    None where no target has such weights.
    """
    if not any(name in target for target in targets):
        return None
    matches = [
        (of_photo[:, None] == target["boxes"]).all(dim=-1).int().argmax(dim=1)
        if len(target["boxes"]) and len(of_photo)
        else torch.zeros(len(of_photo), dtype=torch.int64, device=of_photo.device)
        for of_photo, target in zip(boxes, targets, strict=True)
    ]
    return weights_of_regions(name, matches, [torch.ones_like(match) for match in matches], targets)
