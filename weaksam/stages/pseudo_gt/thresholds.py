"""Find for each class the score that its boxes need to be believed, from the tags alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from weaksam.stages.pseudo_gt.ranking import scores_of
from weaksam.stages.pseudo_gt.settings import ChoosingSettings
from weaksam.stages.pseudo_gt.zones import stood_for
from weaksam.structures.instances import Instances


def class_thresholds(
    detections: Mapping[str, Instances],
    tags: Mapping[str, Iterable[int]],
    num_classes: int,
    settings: ChoosingSettings,
) -> list[float]:
    """The least score of a believed box of every class, by ``settings.class_threshold``.

    ``detections`` by image id, on photos with and without the tag; photos are those of ``tags``. ``quantile``: the best
    score of the class on a photo without its tag is below it on ``threshold_quantile`` of these photos (0 on a photo
    without a detection). ``f_beta``: see `f_beta_threshold`. 0 where the tags cannot tell: the class has no detection,
    or its tag is on all photos or on none; and with ``off``.
    """
    return [_threshold(detections, tags, label, settings) for label in range(num_classes)]


def _threshold(
    detections: Mapping[str, Instances], tags: Mapping[str, Iterable[int]], label: int, settings: ChoosingSettings
) -> float:
    nothing = Instances.empty(scored=True)
    scores: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for image_id, of_photo in tags.items():
        of_image = detections.get(image_id, nothing)
        of_class = scores_of(of_image)[of_image.labels == label].double().numpy()
        scores[label in set(of_photo)].append(of_class)
    tagged, untagged = scores[True], scores[False]
    if settings.class_threshold == "off" or not tagged or not untagged or not any(map(len, tagged)):
        return 0.0
    if settings.class_threshold == "quantile":
        best = [float(of_photo.max(initial=0.0)) for of_photo in untagged]
        return float(np.quantile(best, settings.threshold_quantile, method="higher"))
    return f_beta_threshold(tagged, untagged, settings.threshold_beta)


def f_beta_threshold(tagged: Sequence[np.ndarray], untagged: Sequence[np.ndarray], beta: float) -> float:
    """The score of the greatest F-beta without any true box, the lowest of equals; at least one score on each side.

    ``tagged`` and ``untagged``: scores of one class's detections on each photo with and without its tag. Of the
    detections of a score t or more, n a tagged photo and m an untagged one, n - m are there because of the tag (0 where
    that is negative). That over n is the precision of t, and over its greatest value at any t the recall. Maximising
    F-beta instead of trying thresholds is of arXiv 2210.10221, there on true boxes; estimating it
    from tags is ours. 0 where no score says anything.
    """
    scores = np.unique(np.concatenate(list(tagged)))
    counts = [
        (len(all_scores) - np.searchsorted(all_scores, scores)) / len(photos)
        for photos, all_scores in ((of_side, np.sort(np.concatenate(list(of_side)))) for of_side in (tagged, untagged))
    ]
    right = np.clip(counts[0] - counts[1], 0, None)
    if right.max() == 0:
        return 0.0
    precision, recall = right / counts[0], right / right.max()
    weighed = beta**2 * precision + recall
    f_beta = np.divide((1 + beta**2) * precision * recall, weighed, out=np.zeros_like(right), where=weighed > 0)
    return float(scores[int(f_beta.argmax())])


def with_threshold(pseudo_gt: Instances, chosen: Instances, thresholds: Sequence[float]) -> Instances:
    """``pseudo_gt`` of a photo with the boxes that were ``chosen`` and do not reach their class's threshold, ignored.

    ``pseudo_gt`` has those of ``chosen`` that reach it (`reaches`), and perhaps regions to ignore. A box that is among
    these already, or for which a believed one stands (see `with_ignored`), is not added.
    """
    below = chosen[~reaches(chosen, thresholds)]
    below = below[~stood_for(below, pseudo_gt.without_crowd())]
    if pseudo_gt.crowd is not None:
        regions = pseudo_gt[pseudo_gt.crowd]
        same = (below.boxes[:, None] == regions.boxes).all(dim=-1) & (below.labels[:, None] == regions.labels)
        below = below[~same.any(dim=1)]
    marked = below.replace(crowd=torch.ones(len(below), dtype=torch.bool))
    known = torch.zeros(len(pseudo_gt), dtype=torch.bool) if pseudo_gt.crowd is None else pseudo_gt.crowd
    return Instances.cat([pseudo_gt.replace(crowd=known), marked])


def reaches(boxes: Instances, thresholds: Sequence[float]) -> Tensor:
    """Bool ``(N,)``: the boxes whose score is at least the threshold of their class."""
    least = torch.tensor(thresholds, dtype=torch.float64)
    reached: Tensor = scores_of(boxes).double() >= least[boxes.labels]
    return reached
