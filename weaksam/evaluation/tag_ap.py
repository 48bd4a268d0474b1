"""Average precision of image tags: how well class scores rank the photos that have a class before the others."""

from __future__ import annotations

import torch
from torch import Tensor


def tag_average_precision(scores: Tensor, tags: Tensor) -> Tensor:
    """Average precision per class ``(C,)`` in [0, 1] of ``scores`` (N, C) against ``tags`` (N, C) in {0, 1}.

    The mean, over the photos that have the class, of the share of such photos among all that score at least as much;
    photos of equal score count together, so order does not matter. NaN for a class without a photo.
    """
    return torch.stack([_average_precision(one, has) for one, has in zip(scores.T, tags.bool().T, strict=True)])


def _average_precision(scores: Tensor, has: Tensor) -> Tensor:
    """Average precision of one class, a scalar, from scores ``(N,)`` and bool ``(N,)``."""
    all_scores, wanted = scores.sort().values, scores[has].sort().values
    hits = len(wanted) - torch.searchsorted(wanted, wanted)  # photos with the class that score at least as much
    reached = len(all_scores) - torch.searchsorted(all_scores, wanted)
    return (hits / reached).mean()  # NaN of none


def tag_mean_average_precision(scores: Tensor, tags: Tensor) -> float:
    """Mean of `tag_average_precision` over the classes that a photo has; 0 where no photo has any."""
    values = tag_average_precision(scores, tags)
    values = values[~values.isnan()]
    return float(values.mean()) if len(values) else 0.0
