"""Say of every box on a training photo whether it is believed, ignored or background, and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from weaksam.evaluation.protocol import require_scores
from weaksam.structures.boxes import area, pairwise_ioa, pairwise_iou
from weaksam.structures.instances import Instances

Zone = Literal["believed", "ignored", "background"]
PART = 0.85
"""Share of a box's area in a believed one of its class from which on it is a part of that one (WeakSAM's tau_o)."""
SAME = 0.5
"""IoU from which on two boxes of a class are on one object."""
MOST_BACKGROUND = 8
"""Detections of a photo that are shown as background at most, the best-scored ones."""


@dataclass(frozen=True)
class LabelledBox:
    """One box of a training photo, xyxy in pixels, with what became of it; ``row`` counts over the pseudo ground truth.

    ``row`` is -1 for background, which is no part of it; ``score`` is None where none is known.
    """

    box: tuple[float, float, float, float]
    label: int
    score: float | None
    zone: Zone
    reason: str
    row: int


def labelled_boxes(
    pseudo_gt: Instances,
    detections: Instances | None,
    tags: Collection[int],
    most_background: int = MOST_BACKGROUND,
) -> list[LabelledBox]:
    """The pseudo ground truth of one photo in its order, then the detections that did not become part of it.

    ``detections``: those of the weak detector; None where the pseudo ground truth was given, whose boxes have no other
    reason. Of them the best ``most_background`` follow: of classes that are tags first.
    """
    rows = _of_pseudo_gt(pseudo_gt, detections)
    if detections is None or len(detections) == 0:
        return rows
    scores = require_scores(detections)
    others = ~_among(detections, pseudo_gt)
    tagged = torch.isin(detections.labels, torch.tensor(sorted(tags), dtype=torch.int64))
    order = (scores + tagged.float() * 2).argsort(descending=True, stable=True)
    chosen = order[others[order]][:most_background]
    believed = pseudo_gt.without_crowd()
    reasons = _background_reasons(detections[chosen], believed, tagged[chosen])
    return rows + [
        LabelledBox(tuple(box), label, score, "background", reason, -1)
        for box, label, score, reason in zip(
            detections.boxes[chosen].tolist(),
            detections.labels[chosen].tolist(),
            scores[chosen].tolist(),
            reasons,
            strict=True,
        )
    ]


def _of_pseudo_gt(pseudo_gt: Instances, detections: Instances | None) -> list[LabelledBox]:
    crowd = [False] * len(pseudo_gt) if pseudo_gt.crowd is None else pseudo_gt.crowd.tolist()
    scores = [None] * len(pseudo_gt) if pseudo_gt.scores is None else pseudo_gt.scores.tolist()
    own = torch.zeros(len(pseudo_gt), dtype=torch.bool) if detections is None else _among(pseudo_gt, detections)
    best = {} if detections is None else {int(label): _best(detections, int(label)) for label in detections.labels}
    rows = []
    for row, (box, label) in enumerate(zip(pseudo_gt.boxes.tolist(), pseudo_gt.labels.tolist(), strict=True)):
        if crowd[row]:
            reason = "the rule leaves it open: neither sure enough to believe nor surely background"
        elif not own[row]:
            reason = "given: by a file, by a review or by an earlier round"
        elif scores[row] is not None and scores[row] >= best[label]:
            reason = "the best detection of its tag"
        else:
            reason = "its score passes the rule"
        zone: Zone = "ignored" if crowd[row] else "believed"
        rows.append(LabelledBox(tuple(box), label, scores[row], zone, reason, row))
    return rows


def _best(detections: Instances, label: int) -> float:
    return float(require_scores(detections)[detections.labels == label].max())


def _among(boxes: Instances, others: Instances) -> Tensor:
    """Bool ``(N,)``: which of ``boxes`` are one of ``others`` to the bit, class included."""
    same = (boxes.boxes[:, None] == others.boxes).all(dim=-1) & (boxes.labels[:, None] == others.labels)
    return same.any(dim=1)


def _background_reasons(boxes: Instances, believed: Instances, tagged: Tensor) -> list[str]:
    same_class = boxes.labels[:, None] == believed.labels
    part = ((pairwise_ioa(boxes.boxes, believed.boxes) >= PART) & same_class).any(dim=1).tolist()
    repeat = ((pairwise_iou(boxes.boxes, believed.boxes) >= SAME) & same_class).any(dim=1).tolist()
    empty = (area(boxes.boxes) <= 0).tolist()
    return [
        "its class is no tag of the photo"
        if not is_tagged
        else "it has no area"
        if is_empty
        else "it repeats a believed box"
        if repeats
        else "it is a part of a believed box"
        if is_part
        else "its score does not pass the rule"
        for is_tagged, is_empty, repeats, is_part in zip(tagged.tolist(), empty, repeat, part, strict=True)
    ]
