"""Choose pseudo ground truth by Algorithm 2 of WeakSAM as it is printed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from weaksam.stages.pseudo_gt.adaptive import normalised_scores
from weaksam.stages.pseudo_gt.ranking import joined_rows, ranked_rows, scores_of
from weaksam.stages.pseudo_gt.settings import AdaptivePaperSettings
from weaksam.structures.boxes import pairwise_ioa
from weaksam.structures.instances import Instances


def paper_pseudo_gt(
    detections: Instances, tags: Iterable[int], settings: AdaptivePaperSettings | None = None
) -> Instances:
    """Pseudo ground truth of one image by Algorithm 2 of WeakSAM (Zhu et al., ACM MM 2024), with its faults.

    Within each class that is a tag: min-max normalise the scores, keep those above ``min_score_norm``, then drop every
    box of which ``containment`` or more lies in any other that is left. So of two boxes that lie in each other neither
    stays, and a tag with detections may end without a box. Scores that are all equal, for which the paper's quotient is
    0 / 0, become 1. The result comes by label, best score first; boxes without area are never kept.
    """
    settings = settings or AdaptivePaperSettings()
    chosen: list[Tensor] = []
    for label in sorted(set(tags)):
        rows = ranked_rows(detections, label)
        rows = rows[normalised_scores(scores_of(detections)[rows]) > settings.min_score_norm]
        chosen.append(rows[~lies_in_another(detections.boxes[rows], settings.containment)])
    return detections[joined_rows(chosen)]


def lies_in_another(boxes: Tensor, containment: float) -> Tensor:
    """Bool ``(N,)``: whether ``containment`` or more of a box's area lies in any other of the boxes ``(N, 4)``."""
    exact = boxes.double()
    inside = pairwise_ioa(exact, exact) >= containment  # (N, N): row lies in column
    return (inside & ~torch.eye(len(boxes), dtype=torch.bool)).any(dim=1)
