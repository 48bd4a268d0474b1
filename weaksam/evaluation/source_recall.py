"""Measure the recall of proposals by what prompted them, each source alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weaksam.evaluation.protocol import json_number
from weaksam.evaluation.recall import proposal_recall
from weaksam.structures.instances import Instances

IOUS = (0.5, 0.75, 0.9)


@dataclass(frozen=True)
class SourceRecall:
    """One source: its number, proposals a photo, and the recall of its proposals alone by IoU; None without a truth."""

    source: int
    per_photo: float
    recall: Mapping[float, float | None]


def recall_by_source(
    proposals: Mapping[str, Tensor],
    sources: Mapping[str, Tensor],
    truths: Mapping[str, Instances] | None,
) -> list[SourceRecall]:
    """A row per source that the ``proposals`` (P, 4) by image id have; ``sources`` int64 ``(P,)`` says which.

    Recall is over the photos that ``truths`` names (None: not measured), a proposal may find several objects. No
    proposal gives no row.
    """
    numbers = sorted({int(number) for of_photo in sources.values() for number in of_photo.unique()})
    rows = []
    for number in numbers:
        boxes = {image_id: of_photo[sources[image_id] == number] for image_id, of_photo in proposals.items()}
        recall: dict[float, float | None] = dict.fromkeys(IOUS)
        if truths is not None:
            known = {image_id: boxes.get(image_id, torch.zeros(0, 4)) for image_id in truths}
            measured = proposal_recall(truths, known, counts=(None,), ious=IOUS)
            recall = {iou: json_number(measured.at(iou)) for iou in IOUS}
        rows.append(SourceRecall(number, sum(map(len, boxes.values())) / max(1, len(boxes)), recall))
    return rows
