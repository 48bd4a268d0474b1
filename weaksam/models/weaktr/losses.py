"""Compute the three multi-label losses that train WeakTr, and the class scores that choose its best epoch."""

from __future__ import annotations

from torch import Tensor

from weaksam.models.cam.tag_network import tag_loss
from weaksam.models.weaktr.network import WeakTrOutput


def weaktr_losses(output: WeakTrOutput, tags: Tensor) -> dict[str, Tensor]:
    """Soft-margin losses of the three logits against ``tags`` (B, C) in {0, 1}, to be summed with equal weights.

    Each is the mean binary cross-entropy over images and classes, which is torch's ``multilabel_soft_margin_loss``.
    ``token`` and ``coarse`` train the transformer and the class map, ``fine`` only the fusion: what it fuses and what
    it multiplies carries no gradient (WeakTr).
    """
    return {
        "token": tag_loss(output.class_logits, tags),
        "coarse": tag_loss(output.patch_logits, tags),
        "fine": tag_loss(output.fused_logits, tags),
    }


def class_scores(output: WeakTrOutput) -> Tensor:
    """Probability ``(B, C)`` of every class: the sigmoid of the mean of token and coarse logits.

    The fine logit is left out: it is a mean of products that are never negative, so it is never below 0.
    """
    return ((output.class_logits + output.patch_logits) / 2).sigmoid()
