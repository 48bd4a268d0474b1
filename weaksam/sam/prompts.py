"""Prompts of one length together: batches of points that a segmenter decodes at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from weaksam.sam.batches import BatchLimit, in_batches
from weaksam.sam.protocol import FOREGROUND, PADDING, Embedding, Masks, Segmenter


def single_prompts(points: Tensor) -> tuple[Tensor, Tensor]:
    """Each of ``points (N, 2)`` as its own foreground prompt: ``(N, 1, 2)`` and labels ``(N, 1)``."""
    return points[:, None], torch.full((len(points), 1), FOREGROUND)


def rows_of_a_length(num: int, point_labels: Tensor | None, at_once: int) -> Iterator[tuple[Tensor, int]]:
    """Rows of ``num`` prompts to decode together, at most ``at_once``, with the number of points that each of them has.

    ``point_labels (P, K)`` as in ``Segmenter.predict``. Padding would be a token that SAM's decoder sees, so prompts of
    different lengths go separately. No prompt: nothing.
    """
    counts = torch.zeros(num).long() if point_labels is None else (point_labels != PADDING).sum(1)
    for length in counts.unique().tolist():
        for rows in (counts == length).nonzero()[:, 0].split(at_once):
            yield rows, length


def without_padding(points: Tensor, labels: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The ``length`` points and labels, in order, of prompts ``(P, K, 2)``, ``(P, K)`` that have that many each."""
    first = (labels == PADDING).long().argsort(dim=1, stable=True)[:, :length]  # padding may lie between
    return points.gather(1, first[..., None].expand(-1, -1, 2)), labels.gather(1, first)


def predict_batches(
    segmenter: Segmenter,
    embedding: Embedding,
    points: Tensor,
    point_labels: Tensor,
    batch_size: BatchLimit | int,
    min_pred_iou: float | None = None,
) -> Iterator[Masks]:
    """Answers of P point prompts ``(P, K, 2)``, at most ``batch_size`` prompts at a time; nothing for P = 0.

    Masks not above ``min_pred_iou`` may be empty, see ``Segmenter.predict``.
    """

    def answer(part: slice) -> Masks:
        labels = point_labels[part]
        return segmenter.predict(embedding, points=points[part], point_labels=labels, min_pred_iou=min_pred_iou)

    yield from in_batches(len(points), BatchLimit(batch_size) if isinstance(batch_size, int) else batch_size, answer)
