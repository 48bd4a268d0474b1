"""Measure the average precision of image tags: how well class scores rank the photos that have a class first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from weaksam.structures.instances import Instances


def tag_average_precision(scores: Tensor, tags: Tensor) -> Tensor:
    """Average precision per class ``(C,)`` in [0, 1] of ``scores`` (N, C) against ``tags`` (N, C) in {0, 1}.

    The mean, over the photos that have the class, of the share of such photos among all that score at least as much;
    photos of equal score count together, so order does not matter. NaN for a class without a photo.
    """
    per_class = zip(scores.T, tags.bool().T, strict=True)
    return torch.stack([_average_precision(class_scores, has_class) for class_scores, has_class in per_class])


def _average_precision(scores: Tensor, has_class: Tensor) -> Tensor:
    """Average precision of one class, a scalar, from scores ``(N,)`` and bool ``(N,)``."""
    all_scores, class_scores = scores.sort().values, scores[has_class].sort().values
    # Photos with the class, and all photos, that score at least as much as each photo with the class
    hits = len(class_scores) - torch.searchsorted(class_scores, class_scores)
    reached = len(all_scores) - torch.searchsorted(all_scores, class_scores)
    return (hits / reached).mean()  # NaN of none


def tag_mean_average_precision(scores: Tensor, tags: Tensor) -> float:
    """Mean in [0, 1] of `tag_average_precision` of ``scores`` and ``tags (N, C)`` over classes with a photo, or 0."""
    values = tag_average_precision(scores, tags)
    values = values[~values.isnan()]
    return float(values.mean()) if len(values) else 0.0


def tag_agreement(detections: Mapping[str, Instances], tags: Mapping[str, Iterable[int]], num_classes: int) -> float:
    """Mean AP in [0, 1] of the best score of each class on each photo against the photo's ``tags``, labels by image id.

    A photo without detections scores 0 for every class; photos without any tag, and no photo, give 0.
    """
    if not tags:
        return 0.0
    rows = [best_scores(detections.get(image_id, Instances.empty()), num_classes) for image_id in tags]
    wanted = torch.zeros(len(tags), num_classes)
    for row, labels in enumerate(tags.values()):
        wanted[row, list(labels)] = 1
    return tag_mean_average_precision(torch.stack(rows), wanted)


def best_scores(detections: Instances, num_classes: int) -> Tensor:
    """Best score ``(C,)`` of each class among the detections of a photo; 0 for a class without one."""
    scores = torch.zeros(num_classes)
    if len(detections) and detections.scores is not None:
        scores.scatter_reduce_(0, detections.labels, detections.scores, reduce="amax")
    return scores
