"""Take the best-scored boxes of every tag as pseudo ground truth."""

from __future__ import annotations

from collections.abc import Iterable

from weaksam.stages.pseudo_gt.ranking import joined_rows, ranked_rows
from weaksam.structures.instances import Instances


def topk_pseudo_gt(detections: Instances, tags: Iterable[int], k: int = 1) -> Instances:
    """Pseudo ground truth of one image: for every tag its ``k`` >= 1 best-scored boxes, the first of equals.

    The result comes by label, best first; boxes without area are never kept; no tag or no detection gives no box.
    Nothing is suppressed: two boxes on one object stay both.
    """
    return detections[joined_rows([ranked_rows(detections, label)[:k] for label in sorted(set(tags))])]
