"""Average precision of image tags: how well class scores rank the photos that have a class before the others."""

from __future__ import annotations

import torch
from torch import Tensor


def tag_average_precision(scores: Tensor, tags: Tensor) -> Tensor:
    """Average precision per class ``(C,)`` in [0, 1] of ``scores`` (N, C) against ``tags`` (N, C) in {0, 1}.

    The mean, over the photos that have the class, of the share of such photos among all that score at least as much;
    photos of equal score count together, so order does not matter. NaN for a class without a photo.
    """
    wanted = tags.bool()
    reached = scores.T[:, None, :] >= scores.T[:, :, None]  # (C, N, N): photo of the column scores at least the row's
    hits = (reached & wanted.T[:, None, :]).sum(dim=2)
    precision = hits / reached.sum(dim=2).clamp(min=1)  # (C, N)
    total = torch.where(wanted.T, precision, torch.zeros(())).sum(dim=1)
    return total / wanted.sum(dim=0)


def tag_mean_average_precision(scores: Tensor, tags: Tensor) -> float:
    """Mean of `tag_average_precision` over the classes that a photo has; 0 where no photo has any."""
    values = tag_average_precision(scores, tags)
    values = values[~values.isnan()]
    return float(values.mean()) if len(values) else 0.0
