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
    3. of boxes that lie in each other by ``containment`` or more one remains, see `drop_contained`: the better-scored,
       where the paper's rule deletes the inner one whatever its score, and both where each lies in the other.

    So every tag with a detection keeps at least one box. Boxes without area are never kept. The result comes by
    label, best score first, with the detections' own scores; no tag or no detection gives no box.
    """
    settings = settings or AdaptiveSettings()
    chosen: list[Tensor] = []
    for label in sorted(set(tags)):
        rows = ranked_rows(detections, label)
        rows = rows[normalised_scores(scores_of(detections)[rows]) >= settings.min_score_norm]
        scores = scores_of(detections)[rows]
        chosen.append(rows[drop_contained(detections.boxes[rows], scores, settings.containment, settings.larger_share)])
    return detections[joined_rows(chosen)]


def normalised_scores(scores: Tensor) -> Tensor:
    """Scores ``(N,)`` moved to [0, 1] so that the least is 0 and the greatest 1; equal scores all become 1."""
    if len(scores) == 0 or scores.max() == scores.min():
        return torch.ones_like(scores, dtype=torch.float64)
    exact = scores.double()
    return (exact - exact.min()) / (exact.max() - exact.min())


def drop_contained(boxes: Tensor, scores: Tensor, containment: float, larger_share: float) -> Tensor:
    """Indices ``(K,)`` int64, ascending, of the boxes ``(N, 4)``, best first, that remain where boxes lie in others.

    Box a lies in box b where ``containment`` or more of its own area does. The best-scored box that is left is taken;
    where larger boxes that are left hold it, do not lie in it, and have ``larger_share`` of its score ``(N,)`` or more,
    the largest of them takes its place (the first of equals). What is taken stays and deletes all that is left and lies
    in it or holds it; and so on. So no box is deleted by one of less than ``larger_share`` of its score: 1 lets scores
    alone decide, and the larger of equal ones; 0 lets the larger box win whatever its score, as in Algorithm 2 of
    WeakSAM. Ours. N >= 1 boxes leave at least one.
    """
    inside = pairwise_ioa(boxes.double(), boxes.double()) >= containment  # (N, N): row lies in column
    holds = inside.T & ~inside  # row holds column, and does not lie in it
    sizes, exact = area(boxes.double()), scores.double()
    left = torch.ones(len(boxes), dtype=torch.bool)
    kept: list[int] = []
    for best in range(len(boxes)):
        if left[best]:
            larger = left & holds[:, best] & (exact >= larger_share * exact[best])
            taken = int(sizes.masked_fill(~larger, -1).argmax()) if bool(larger.any()) else best
            kept.append(taken)
            left &= ~(inside[taken] | inside[:, taken])
            left[best] = False
    return torch.tensor(sorted(kept), dtype=torch.int64)
