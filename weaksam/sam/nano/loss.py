"""Compute SAM's training loss (focal, dice and predicted IoU) for one to three nested targets per prompt."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 20.0, 1.0, 1.0  # Segment Anything, appendix A
SPARE_WEIGHT = 0.05  # on the best match of every output, so that an output never wanted still draws a region


def pair_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """20 focal + dice of every output against every target: ``(N, O, h, w)``, ``(N, T, h, w)`` -> ``(N, O, T)``.

    Focal loss has gamma 2 and is the mean over pixels; dice is ``1 - (2 i + 1) / (p + t + 1)``.
    """
    logits, targets = logits.flatten(2), targets.flatten(2).to(logits.dtype)
    probability = logits.sigmoid()
    positive = F.softplus(-logits) * (1 - probability) ** 2
    negative = F.softplus(logits) * probability**2
    columns = targets.transpose(1, 2)  # (N, pixels, T)
    focal = ((positive - negative) @ columns + negative.sum(2, keepdim=True)) / logits.shape[2]
    overlap = probability @ columns
    total = probability.sum(2)[:, :, None] + targets.sum(2)[:, None, :]
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * dice


def pair_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU ``(N, O, T)`` of the thresholded outputs with the targets; 0 where both are empty."""
    drawn, targets = (logits.flatten(2) > 0).to(logits.dtype), targets.flatten(2).to(logits.dtype)
    overlap = drawn @ targets.transpose(1, 2)
    union = drawn.sum(2)[:, :, None] + targets.sum(2)[:, None, :] - overlap
    return overlap / union.clamp(min=1)


def matched_loss(pairs: Tensor, counts: Tensor) -> Tensor:
    """Mask loss ``(N,)`` of three outputs ``(N, 3, 3)`` under the cheapest order-keeping match.

    Three targets meet outputs 0, 1, 2; two meet the cheapest ascending pair of outputs; one meets its best output
    (SAM's minimum over the three masks). Prompts without a target cost 0.
    """
    single = pairs[:, :, 0].amin(1)
    ascending = [pairs[:, a, 0] + pairs[:, b, 1] for a, b in ((0, 1), (0, 2), (1, 2))]
    double = torch.stack(ascending, 1).amin(1) / 2
    triple = pairs.diagonal(dim1=1, dim2=2).mean(1)
    none = torch.zeros_like(single)
    return torch.stack([none, single, double, triple], 1).gather(1, counts[:, None])[:, 0]


def nano_losses(
    logits: Tensor, iou: Tensor, targets: Tensor, counts: Tensor, num_with_target: Tensor | None = None
) -> dict[str, Tensor]:
    """The losses of N prompts as scalars ``mask``, ``spare`` and ``iou``; all 0 where no prompt has a target.

    ``logits (N, 3, h, w)``, predicted ``iou (N, 3)``, ``targets (N, 3, h, w)`` bool, small to large, of which the
    first ``counts (N,)`` are meant. An output's true IoU is the best over the targets meant. The losses are means over
    the prompts with a target; ``num_with_target`` of a larger batch, of which these are a part, gives its share.
    """
    logits, iou = (values if values.dtype == torch.float64 else values.float() for values in (logits, iou))
    used = torch.arange(targets.shape[1], device=counts.device) < counts[:, None]  # (N, T)
    has_target = (counts > 0).to(logits.dtype)
    num = (has_target.sum() if num_with_target is None else num_with_target).clamp(min=1)
    pairs = pair_losses(logits, targets)
    nearest = pairs.masked_fill(~used[:, None], float("inf")).amin(2)  # (N, O)
    nearest = nearest.masked_fill(~nearest.isfinite(), 0)
    with torch.no_grad():
        true_iou = (pair_iou(logits, targets) * used[:, None]).amax(2)
    return {
        "mask": (matched_loss(pairs, counts) * has_target).sum() / num,
        "spare": SPARE_WEIGHT * (nearest.mean(1) * has_target).sum() / num,
        "iou": IOU_WEIGHT * (((iou - true_iou) ** 2).mean(1) * has_target).sum() / num,
    }
