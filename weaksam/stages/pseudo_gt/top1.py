"""Take the best-scored box of every tag as pseudo ground truth."""

from __future__ import annotations

from collections.abc import Iterable

from weaksam.stages.pseudo_gt.ranking import joined_rows, ranked_rows
from weaksam.structures.instances import Instances


def top1_pseudo_gt(detections: Instances, tags: Iterable[int]) -> Instances:
    """Pseudo ground truth of one image: for every tag its best-scored box, the first of equals.

    The result comes by label; boxes without area are never kept; no tag or no detection gives no box.
    """
    return detections[joined_rows([ranked_rows(detections, label)[:1] for label in sorted(set(tags))])]
