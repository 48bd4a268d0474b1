"""Compute the losses of WS-SAM (He et al., NeurIPS 2023): structure, partial cross-entropy and uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STAGE_WEIGHTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of the prior and the decoder's stages from the deepest on, as published."""
BOUNDARY_KERNEL, BOUNDARY_WEIGHT = 31, 5.0
"""Side of the window that finds a mask's boundary, and how much more its pixels count."""
PARTIAL_WEIGHT, UNCERTAINTY_WEIGHT = 3.0, 2.0
"""Weights of the partial cross-entropy and of the uncertainty-aware loss in the sum, as published."""
UNLABELLED = -1
"""Label of a pixel that no scribble covers; 0 is background, 1 foreground."""


def boundary_weights(masks: Tensor) -> Tensor:
    """``1 + 5 |mean over 31 x 31 - mask|``, ``(B, 1, H, W)`` of masks in [0, 1]; outside the photo counts as 0.

    Source: Wei et al., F3Net (AAAI 2020).
    """
    half = BOUNDARY_KERNEL // 2
    rows = F.avg_pool2d(masks, (BOUNDARY_KERNEL, 1), stride=1, padding=(half, 0))  # rows, then columns: the same mean
    mean = F.avg_pool2d(rows, (1, BOUNDARY_KERNEL), stride=1, padding=(0, half))
    return 1 + BOUNDARY_WEIGHT * (mean - masks).abs()


def structure_terms(logits: Tensor, masks: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy and weighted IoU loss ``(B,)`` each of ``logits`` against ``masks`` in [0, 1].

    All ``(B, 1, H, W)``; ``weights`` in [0, 1] say how far each pixel is believed and multiply those of the boundary in
    both terms (the released code loses its weights to ``reduce='none'``, which means the plain mean, and keeps ignored
    pixels in the denominator). A photo whose weights are all 0 has 0 in both.
    """
    return _weighted_terms(logits, masks, _believed(masks, weights))


def _believed(masks: Tensor, weights: Tensor | None) -> Tensor:
    """How far each pixel counts, by the boundary and by ``weights``."""
    return boundary_weights(masks) if weights is None else boundary_weights(masks) * weights


def _weighted_terms(logits: Tensor, masks: Tensor, believed: Tensor) -> tuple[Tensor, Tensor]:
    total = believed.sum((1, 2, 3))
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    cross_entropy = (believed * entropy).sum((1, 2, 3)) / total.clamp(min=1e-6)
    probabilities = logits.sigmoid()
    shared = (believed * probabilities * masks).sum((1, 2, 3))
    joined = (believed * (probabilities + masks)).sum((1, 2, 3))
    return cross_entropy, 1 - (shared + 1) / (joined - shared + 1)


def structure_loss(logits: Tensor, masks: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum ``(B,)`` of both `structure_terms`."""
    cross_entropy, iou = structure_terms(logits, masks, weights)
    return cross_entropy + iou


def partial_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the binary cross-entropy over the labelled pixels, a scalar; to be divided by their number.

    ``logits`` and ``labels (B, 1, H, W)``, the latter 1, 0 or `UNLABELLED`. No labelled pixel gives 0.
    """
    known = labels != UNLABELLED
    entropy = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")
    return (entropy * known).sum()


def uncertainty_loss(logits: Tensor) -> Tensor:
    """``1 - |2 p - 1|^2`` as the mean over each photo's pixels, ``(B,)`` in [0, 1]: 0 where the map is decided.

    Source: Pang et al., ZoomNet (CVPR 2022).
    """
    return (1 - (2 * logits.sigmoid() - 1).square()).mean((1, 2, 3))


def uncertainty_coefficient(share: float) -> float:
    """``(1 - cos(pi t)) / 2`` in [0, 1] for the ``share`` t in [0, 1] of the iterations that are done."""
    return (1 - math.cos(math.pi * share)) / 2


def concealed_losses(
    outputs: Sequence[Tensor],
    masks: Tensor,
    weights: Tensor | None,
    labels: Tensor | None,
    coefficient: float,
    *,
    num_photos: int,
    num_labelled: Tensor,
) -> dict[str, Tensor]:
    """The losses of a batch by name, with their published weights, to be added up.

    ``outputs``: five maps of logits; ``masks``, ``weights`` as in `structure_terms`; ``labels`` as in
    `partial_cross_entropy`, None without scribbles; all ``(B, 1, H, W)``. ``coefficient`` of the uncertainty-aware
    loss, see `uncertainty_coefficient`. ``num_photos`` and ``num_labelled`` (a scalar): photos and labelled pixels of
    the whole batch, of which this process may have a part; no labelled pixel at all gives a partial loss of 0.
    """
    structure = torch.zeros((), device=masks.device)
    partial = torch.zeros((), device=masks.device)
    believed = _believed(masks, weights)
    for weight, logits in zip(STAGE_WEIGHTS, outputs, strict=True):
        cross_entropy, iou = _weighted_terms(logits, masks, believed)
        structure = structure + weight * (cross_entropy + iou).sum()
        if labels is not None:
            partial = partial + weight * partial_cross_entropy(logits, labels)
    losses = {"structure": structure / num_photos}
    if labels is not None:
        losses["partial"] = PARTIAL_WEIGHT * partial / num_labelled.clamp(min=1)
    undecided = uncertainty_loss(outputs[-1]).sum() / num_photos
    losses["uncertainty"] = UNCERTAINTY_WEIGHT * coefficient * undecided
    return losses
