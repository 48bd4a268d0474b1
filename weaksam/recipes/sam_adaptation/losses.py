"""Compute the losses of WeSAM (Zhang et al., CVPR 2024): what teaches the student, and what ties it to the anchor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA, GAMMA = 0.8, 2.0
"""Weight and exponent of the focal loss."""
SMOOTH = 1.0
"""What Dice adds to both sides of its fraction."""
TEMPERATURE = 0.3
"""Of the contrast between prototypes."""
WEIGHTS = {"focal": 20.0, "dice": 1.0, "iou": 1.0, "anchor": 1.0, "contrast": 1.0}
"""Published weight of each loss in the sum of a step."""
MASK_LOGIT = 0.5
"""Logit from which on the student's mask counts in the target of its IoU head; pseudo labels count from 0."""


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = ALPHA, gamma: float = GAMMA) -> Tensor:
    """Mean over all pixels of ``alpha (1 - exp(-b))^gamma b``, b the binary cross-entropy, a scalar.

    ``logits`` and ``targets`` in [0, 1], ``(n, H, W)``. No mask gives 0.
    """
    if logits.numel() == 0:
        return logits.sum()
    entropy = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return (alpha * (1 - torch.exp(-entropy)) ** gamma * entropy).mean()


def dice_loss(logits: Tensor, targets: Tensor, *, smooth: float = SMOOTH) -> Tensor:
    """``1 - (2 sum(p Y) + c) / (sum p + sum Y + c)`` over all masks of an image jointly, a scalar in [0, 1].

    ``logits`` and ``targets`` ``(n, H, W)``; c is ``smooth``. No mask gives 0.
    """
    if logits.numel() == 0:
        return logits.sum()
    probabilities, targets = logits.sigmoid(), targets.to(logits.dtype)
    overlap = (probabilities * targets).sum()
    return 1 - (2 * overlap + smooth) / (probabilities.sum() + targets.sum() + smooth)


def iou_loss(predicted: Tensor, logits: Tensor, targets: Tensor, num_masks: int) -> Tensor:
    """Sum of squared errors of the ``predicted`` IoU ``(n,)`` of masks ``logits (n, H, W)``, over ``num_masks``.

    The IoU is that of the pixels from `MASK_LOGIT` on with ``targets (n, H, W)`` in {0, 1}; an empty mask of an empty
    target has 1. ``num_masks``: of the whole batch, at least 1. No mask gives 0.
    """
    masks, wanted = logits.detach() >= MASK_LOGIT, targets > 0
    overlap = (masks & wanted).sum(dim=(1, 2)).to(predicted.dtype)
    union = (masks | wanted).sum(dim=(1, 2)).to(predicted.dtype)
    iou = torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(union))
    return (predicted - iou).square().sum() / num_masks


def anchor_loss(student: Tensor, teacher: Tensor, anchor: Tensor, *, smooth: float = SMOOTH) -> Tensor:
    """Half the Dice of the student and half that of the teacher against the anchor's masks; logits ``(n, H, W)``.

    ``anchor``: its logits, or its masks.

    The gradient reaches both views.
    """
    wanted = (anchor.detach() > 0).to(student.dtype)
    return 0.5 * dice_loss(student, wanted, smooth=smooth) + 0.5 * dice_loss(teacher, wanted, smooth=smooth)


def prototypes(embedding: Tensor, logits: Tensor) -> Tensor:
    """The mean embedding ``(n, C)`` of the cells of each of n masks, over cells of unit length.

    ``embedding (C, h, w)``; ``logits (n, h', w')`` are brought to its cells (bilinear) and cut at a probability of 0.5,
    without a gradient. A mask that covers no cell has the prototype 0.
    """
    with torch.no_grad():
        resized = F.interpolate(logits[None].float(), size=embedding.shape[1:], mode="bilinear", align_corners=False)
        inside = (resized[0].sigmoid() > 0.5).to(embedding.dtype)  # (n, h, w)
    cells = F.normalize(embedding, dim=0)
    return torch.einsum("chw,nhw->nc", cells, inside) / inside.sum(dim=(1, 2)).clamp(min=1)[:, None]


def contrast_loss(of_teacher: Tensor, of_anchor: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """``-log(sum_k exp(S_kk) / sum_kj exp(S_kj))`` of the cosines S of prototypes ``(n, C)`` over ``temperature``.

    One logarithm of pooled sums, as published, not a mean of n terms. One mask gives exactly 0, no mask gives 0: there
    is nothing to contrast with. n equal ones give log n.
    """
    if len(of_teacher) <= 1:
        return (of_teacher.sum() + of_anchor.sum()) * 0
    similarity = F.normalize(of_teacher, dim=1) @ F.normalize(of_anchor, dim=1).T / temperature
    return similarity.flatten().logsumexp(0) - similarity.diagonal().logsumexp(0)


def step_losses(
    student: Tensor,
    predicted_iou: Tensor,
    teacher: Tensor,
    anchor: Tensor,
    teacher_prototypes: Tensor,
    anchor_prototypes: Tensor,
    num_masks: int,
    *,
    pseudo_labels: Tensor | None = None,
    legacy: bool = False,
) -> dict[str, Tensor]:
    """The losses of one image, each with its published weight, by the names of `WEIGHTS`.

    ``student``, ``teacher``: mask logits ``(n, H, W)`` of the strong and the weak view; ``anchor``: masks or logits of
    the weak view by the anchor; ``predicted_iou (n,)`` of the student; prototypes ``(n, C)``. ``num_masks``: of the
    whole batch. ``pseudo_labels``, bool ``(n, H, W)``: teach the student instead of the teacher's masks. ``legacy``
    computes what the released code does, which hands the number of masks over as focal alpha and as Dice's smoothing
    (docs/sam_adaptation.md).
    """
    wanted = (teacher.detach() > 0 if pseudo_labels is None else pseudo_labels).to(student.dtype)
    alpha, smooth = (float(num_masks), float(num_masks)) if legacy else (ALPHA, SMOOTH)
    losses = {
        "focal": focal_loss(student, wanted, alpha=alpha),
        "dice": dice_loss(student, wanted, smooth=smooth),
        "iou": iou_loss(predicted_iou, student, wanted, num_masks),
        "anchor": anchor_loss(student, teacher, anchor),
        "contrast": contrast_loss(teacher_prototypes, anchor_prototypes),
    }
    return {name: WEIGHTS[name] * value for name, value in losses.items()}
