"""Rank the detections of a class by their scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.structures.boxes import area
from weaksam.structures.instances import Instances


def scores_of(detections: Instances) -> Tensor:
    """Scores ``(N,)`` of detections; empty without detections. Raises `UserError` for detections without scores."""
    if detections.scores is None and len(detections):
        raise UserError("pseudo ground truth needs a score per detection, found none: give the output of a detector")
    return torch.zeros(0) if detections.scores is None else detections.scores


def ranked_rows(detections: Instances, label: int) -> Tensor:
    """Rows ``(K,)`` int64 of one class with an area, best score first, equal scores in their given order."""
    rows = ((detections.labels == label) & (area(detections.boxes) > 0)).nonzero()[:, 0]
    return rows[scores_of(detections)[rows].argsort(descending=True, stable=True)]


def joined_rows(rows: Sequence[Tensor]) -> Tensor:
    """Rows ``(sum K_i,)`` int64 of several classes, one class after the other; none give no row."""
    return torch.cat([torch.zeros(0, dtype=torch.int64), *rows])
