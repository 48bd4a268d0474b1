"""Rectify the assistant on windows of panoramas: agreement on overlaps, and boundaries by masks (GoodSAM-style DAR).

Distortion-aware rectification is named, not specified, by GoodSAM (arXiv 2403.16370); losses and rules are ours
(docs/panorama.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from weaksam.recipes.panorama.fusion import DOUBTFUL, winners
from weaksam.structures.mask_runs import MaskRuns, by_column, class_votes, first_covering, from_columns
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask

RADIUS = 2
"""Pixels on either side of a mask's contour that are its boundary; ours."""
PURITY = 0.7
"""Share of a mask's interior that its top class must have to repair the boundary; ours."""


def consistency_loss(
    logits: Tensor, pairs: Sequence[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]], temperature: float = 1.0
) -> Tensor:
    """Symmetric KL divergence of windows ``logits (n, C, h, w)`` where two of them show the same pixels: a scalar.

    ``pairs``: see `overlaps`, on the grid of the logits. The mean over shared pixels of (KL(p || q) + KL(q || p)) / 2
    with p and q the softmax of logits / ``temperature``: 0 where both agree, and without any overlap.
    """
    total, num = logits.sum() * 0.0, 0
    for first, second, here, there in pairs:
        p, q = (
            F.log_softmax(logits[(window, slice(None), *part)] / temperature, dim=0)
            for window, part in ((first, here), (second, there))
        )
        total = total + 0.5 * ((p.exp() - q.exp()) * (p - q)).sum()
        num += p[0].numel()
    return total / max(num, 1)


@dataclass(frozen=True)
class BoundaryMasks:
    """What the N masks of a window (h, w) say of boundaries, whatever the classes.

    ``interiors``: the masks without their boundary; ``covering``: at every pixel of a boundary the smallest mask that
    covers it, int64 ``(h, w)``, -1 elsewhere and where none does.
    """

    interiors: MaskRuns
    covering: Tensor

    def to(self, device: torch.device) -> BoundaryMasks:
        """The same on ``device``."""
        return BoundaryMasks(self.interiors.to(device), self.covering.to(device))


def boundary_masks(rles: Sequence[Rle], size: tuple[int, int], radius: int = RADIUS) -> BoundaryMasks:
    """The boundaries of a window's masks, ``radius`` pixels to either side: dilation minus erosion, by a disk.

    A mask has no boundary at the window's edge, where it is only cut off. No masks give no boundary.
    """
    disk = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    band = np.zeros(size, dtype=bool)
    interiors = []
    for rle in rles:
        mask = mask_from_rle(rle).numpy()
        inside = ndimage.binary_erosion(mask, disk, border_value=1)
        band |= ndimage.binary_dilation(mask, disk) & ~inside
        interiors.append(rle_from_mask(torch.from_numpy(inside)))
    runs = MaskRuns.of_rles(rles, size)
    smallest = first_covering(runs, runs.smallest_first, torch.full((runs.num,), 2))
    covering = torch.where(torch.from_numpy(band), from_columns(smallest, size), -1)
    return BoundaryMasks(MaskRuns.of_rles(interiors, size), covering)


def repaired_labels(classes: Tensor, masks: BoundaryMasks, num_classes: int, purity: float = PURITY) -> Tensor:
    """What the assistant's ``classes (h, w)`` should be on boundaries, int64 ``(h, w)``; `DOUBTFUL` elsewhere.

    A boundary pixel gets the top class of the interior of its smallest mask, if that has a share of ``purity`` of it;
    where it has less, where the interior is empty and where no mask covers the pixel nothing is said.
    """
    ones = torch.ones(classes.numel(), dtype=torch.int32, device=classes.device)
    labels, shares = winners(class_votes(masks.interiors, by_column(classes), ones, num_classes))
    labels = torch.where(shares >= purity, labels, DOUBTFUL)
    nothing = labels.new_full((1,), DOUBTFUL)
    return torch.cat([labels, nothing])[masks.covering]  # the row -1 is the last


def boundary_loss(logits: Tensor, labels: Tensor, num: Tensor | None = None) -> Tensor:
    """Cross-entropy of ``logits (n, C, h, w)`` with repaired ``labels (n, h, w)``: the mean over labelled pixels.

    0 where no pixel is labelled. ``num``: labelled pixels of all processes, by which the sum is divided; of these alone
    where it is None.
    """
    total = F.cross_entropy(logits, labels, ignore_index=DOUBTFUL, reduction="sum")
    return total / ((labels != DOUBTFUL).sum() if num is None else num).clamp(min=1)
