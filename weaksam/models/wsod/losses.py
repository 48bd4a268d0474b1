"""Compute the loss of a refinement branch: every RoI by itself (OICR) or every cluster as one bag (PCL)."""

from __future__ import annotations

import torch
from torch import Tensor

from weaksam.models.full_precision import full_precision
from weaksam.models.wsod.targets import Targets

_EPS = 1e-6


def refine_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Weighted cross-entropy ``mean_r(w_r * -log(p[r, target_r] + 1e-6))`` of refine logits ``(R, C + 1)``, a scalar.

    Background is column 0. Without RoIs: 0.
    """
    if logits.shape[0] == 0:
        return logits.sum()
    probability = logits.softmax(dim=1).gather(1, targets.target[:, None])[:, 0]
    return (targets.weight * -(probability + _EPS).log()).mean()


def pcl_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Loss of refine logits ``(R, C + 1)``, background in column 0, that takes every cluster as one bag, a scalar.

    ``-1/R (sum over clusters n of w_n M_n log(mean of p[r, label_n] over its M_n RoIs) + sum over background of
    w_r log p[r, 0])`` (PCL, its loss of clusters as bags), with 1e-6 added inside the logarithms as in
    `refine_loss`. A cluster is the RoIs of one ``targets.seed`` with a class; its RoIs share class and weight, as
    `assign_rois` gives them. Formats below float32 are computed in float32. Without RoIs, or if all weights are 0: 0.
    """
    num_rois, logits = len(logits), full_precision(logits)
    if num_rois == 0:
        return logits.sum()
    probability = logits.softmax(dim=1).gather(1, targets.target[:, None])[:, 0]
    in_cluster = targets.target > 0
    # In float64, so that the order in which a GPU adds is hardly ever seen in the float32 loss.
    nothing = torch.zeros(num_rois, dtype=torch.float64, device=logits.device)
    size, total, weight = (  # (R,) each; 0 where there is no cluster
        nothing.scatter_add(0, targets.seed, each.double() * in_cluster)
        for each in (torch.ones_like(probability), probability, targets.weight)
    )
    of_clusters = weight * (total / size.clamp(min=1) + _EPS).log()  # weight is w_n M_n
    of_background = targets.weight * (probability + _EPS).log() * ~in_cluster
    return -(of_clusters.sum().to(logits.dtype) + of_background.sum()) / num_rois
