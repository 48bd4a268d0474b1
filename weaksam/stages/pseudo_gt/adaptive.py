"""Choose the well-scored boxes that do not lie inside another as pseudo ground truth (WeakSAM, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from weaksam.stages.pseudo_gt.ranking import joined_rows, ranked_rows, scores_of
from weaksam.stages.pseudo_gt.settings import AdaptiveSettings
from weaksam.structures.boxes import area, pairwise_ioa
from weaksam.structures.instances import Instances


def adaptive_pseudo_gt(
    detections: Instances, tags: Iterable[int], settings: AdaptiveSettings | None = None
) -> Instances:
    """Pseudo ground truth of one image: for every tag the well-scored boxes that do not lie inside another.

    Algorithm 2 of WeakSAM (Zhu et al., ACM MM 2024), made well-defined (docs/method.md, Pseudo ground truth). Within
    each class that is a tag:

    1. scores are min-max normalised over the class's detections in this image; equal ones all become 1;
    2. boxes below ``min_score_norm`` go (the paper writes >, here >=);
    3. of two boxes that lie in each other by ``containment`` or more, the better-scored stays, where the paper's
       rule deletes both; then a box that lies in a larger kept one by that share goes, whatever its score.

    So every tag with a detection keeps at least one box. Boxes without area are never kept. The result comes by
    label, best score first, with the detections' own scores; no tag or no detection gives no box.
    """
    settings = settings or AdaptiveSettings()
    chosen: list[Tensor] = []
    for label in sorted(set(tags)):
        rows = ranked_rows(detections, label)
        rows = rows[normalised_scores(scores_of(detections)[rows]) >= settings.min_score_norm]
        chosen.append(rows[drop_contained(detections.boxes[rows], settings.containment)])
    return detections[joined_rows(chosen)]


def normalised_scores(scores: Tensor) -> Tensor:
    """Scores ``(N,)`` moved to [0, 1] so that the least is 0 and the greatest 1; equal scores all become 1."""
    if len(scores) == 0 or scores.max() == scores.min():
        return torch.ones_like(scores, dtype=torch.float64)
    exact = scores.double()
    return (exact - exact.min()) / (exact.max() - exact.min())


def drop_contained(boxes: Tensor, containment: float) -> Tensor:
    """Indices ``(K,)`` int64, ascending, of the boxes ``(N, 4)``, best first, that remain when contained ones go.

    A box is contained where ``containment`` or more of its own area lies in another. Of two boxes contained in each
    other the first stays; any other contained box goes when the larger one stays. N >= 1 boxes leave at least one.
    """
    inside = pairwise_ioa(boxes.double(), boxes.double()) >= containment  # (N, N): row lies in column
    mutual = inside & inside.T
    distinct: list[int] = []
    for row in range(len(boxes)):
        if not mutual[row, distinct].any():
            distinct.append(row)
    # Without mutual pairs a box can only be contained in a strictly larger one: decide the largest first
    sizes = area(boxes.double()).tolist()
    kept: list[int] = []
    for row in sorted(distinct, key=lambda index: -sizes[index]):
        if not inside[row, kept].any():
            kept.append(row)
    return torch.tensor(sorted(kept), dtype=torch.int64)
