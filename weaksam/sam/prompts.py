"""Arrange points as prompts: the dense grid, one prompt per point, one prompt per class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from weaksam.sam.protocol import FOREGROUND, PADDING, Embedding, Masks, Segmenter


def grid_points(size: tuple[int, int], grid_side: int) -> Tensor:
    """``grid_side`` squared xy points ``(G, 2)`` over a photo ``(H, W)``, row by row; none for 0.

    SAM's convention: the first point is half a step from the corner, 1/64 of the width for 32 points a side.
    """
    height, width = size
    step = (torch.arange(grid_side, dtype=torch.float32) + 0.5) / max(grid_side, 1)
    y, x = torch.meshgrid(step * height, step * width, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def single_prompts(points: Tensor) -> tuple[Tensor, Tensor]:
    """Each of ``points (N, 2)`` as its own foreground prompt: ``(N, 1, 2)`` and labels ``(N, 1)``."""
    return points[:, None], torch.full((len(points), 1), FOREGROUND)


def class_prompts(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """All points of one class as one prompt: ``(C, K, 2)`` and ``(C, K)`` padded with -1, classes ascending.

    ``points (N, 2)``, ``labels (N,)`` their classes; a class with a single point is left out, because its joint prompt
    is the single one. C = 0 gives ``(0, 0, 2)``.
    """
    classes, counts = labels.unique(return_counts=True)
    classes = classes[counts > 1]
    k = int(counts.max()) if len(classes) else 0
    joint = points.new_zeros((len(classes), k, 2))
    point_labels = torch.full((len(classes), k), PADDING)
    for row, label in enumerate(classes):
        mine = points[labels == label]
        joint[row, : len(mine)] = mine
        point_labels[row, : len(mine)] = FOREGROUND
    return joint, point_labels


def predict_batches(
    segmenter: Segmenter,
    embedding: Embedding,
    points: Tensor,
    point_labels: Tensor,
    batch_size: int,
    min_pred_iou: float | None = None,
) -> Iterator[Masks]:
    """Answers of P point prompts ``(P, K, 2)``, ``batch_size`` prompts at a time; nothing for P = 0.

    Masks not above ``min_pred_iou`` may be empty, see ``Segmenter.predict``.
    """
    for start in range(0, len(points), batch_size):
        part = slice(start, start + batch_size)
        labels = point_labels[part]
        yield segmenter.predict(embedding, points=points[part], point_labels=labels, min_pred_iou=min_pred_iou)
