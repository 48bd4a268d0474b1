"""Choose pseudo ground truth as WeakSAM's released code does."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from weaksam.stages.pseudo_gt.paper import lies_in_another
from weaksam.stages.pseudo_gt.ranking import joined_rows, ranked_rows, scores_of
from weaksam.stages.pseudo_gt.settings import AdaptiveReleasedSettings
from weaksam.structures.instances import Instances

EPSILON = 1e-8
"""What the released code adds to the range of scores."""


def released_pseudo_gt(
    detections: Instances, tags: Iterable[int], settings: AdaptiveReleasedSettings | None = None
) -> Instances:
    """Pseudo ground truth of one image as WeakSAM's released code chooses it (docs/method.md, Pseudo ground truth).

    Within each class that is a tag: divide the scores by their range (max - min + 1e-8) without subtracting the least;
    keep the first-listed detection whatever its score, and the others at ``min_score_norm`` or more; then drop every
    box of which ``containment`` or more lies in any other that is left. So the result depends on the order of the
    detections, and of two boxes that lie in each other neither stays. The code's mistake of reading corners as widths
    (VOC) is not repeated. The result comes by label, in the given order, with the detections' own scores; boxes without
    area are never kept.
    """
    settings = settings or AdaptiveReleasedSettings()
    chosen: list[Tensor] = []
    for label in sorted(set(tags)):
        rows = ranked_rows(detections, label).sort().values  # in the given order
        kept = divided_scores(scores_of(detections)[rows]) >= settings.min_score_norm
        kept[:1] = True
        rows = rows[kept]
        chosen.append(rows[~lies_in_another(detections.boxes[rows], settings.containment)])
    return detections[joined_rows(chosen)]


def divided_scores(scores: Tensor) -> Tensor:
    """Scores ``(N,)`` divided by their range plus 1e-8, float64: above 1 for most, some 1e8 where all are equal."""
    if len(scores) == 0:
        return scores.double()
    exact = scores.double()
    return exact / (exact.max() - exact.min() + EPSILON)
