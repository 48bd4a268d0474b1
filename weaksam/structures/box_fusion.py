"""Merge the detections of several detectors on one image by weighted boxes fusion (Solovyev et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances


def weighted_boxes_fusion(
    sources: Sequence[Instances], fusion_iou: float = 0.6, weights: Sequence[float] | None = None
) -> Instances:
    """Detections of one image that several detectors agree on, merged instead of suppressed; best first.

    Solovyev, Wang and Gabruseva 2021, Algorithm of section 3. Best first, each box joins the cluster of its class
    whose fused box it overlaps most, and by more than ``fusion_iou`` in [0, 1); else it begins one. A cluster's box is
    the mean of its members, weighted by their scores; its score is their mean, times min(T, N) over the sum of
    ``weights`` for T members of N ``sources``, so that what only one of two detectors sees loses half of its score.
    ``weights`` (all 1 by default, none negative) multiply the scores of each source before. Ours: a mask follows the
    best-scored member, and scores are cut at 1.

    Empty sources count as detectors that see nothing; none at all, or only empty ones, give no detection.

    Raises:
        ValueError: a source without scores, or other than one weight of at least 0 for each with a sum above 0.
    """
    weights = [1.0] * len(sources) if weights is None else list(weights)
    if len(weights) != len(sources) or any(weight < 0 for weight in weights) or (weights and not sum(weights) > 0):
        raise ValueError(f"wanted {len(sources)} weights of at least 0 and not all 0, found {weights}")
    scores = [source.scores for source in sources if source.scores is not None]
    if len(scores) != len(sources):
        raise ValueError("wanted scored detections to merge, found a source without scores")
    pooled = Instances.cat([*sources])
    if len(pooled) == 0:
        return pooled if pooled.scores is not None else Instances.empty(scored=True)
    weighted = torch.cat([of_source.double() * weight for of_source, weight in zip(scores, weights, strict=True)])
    order = weighted.argsort(descending=True, stable=True)
    first, boxes, means, sizes = _clusters(
        pooled.boxes[order].double(), weighted[order], pooled.labels[order], fusion_iou
    )
    fused_scores = (means * sizes.clamp(max=len(sources)) / sum(weights)).clamp(max=1).float()
    fused = pooled[order[first]].replace(boxes=boxes.float(), scores=fused_scores)
    return fused[fused_scores.argsort(descending=True, stable=True)]


def _clusters(
    boxes: Tensor, scores: Tensor, labels: Tensor, fusion_iou: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The clusters of boxes ``(N, 4)``, which stand best first, in the order of their beginning.

    Row of the first member ``(K,)``, score-weighted mean box ``(K, 4)``, mean score ``(K,)``, number of members
    ``(K,)``. Scores of 0 have no weight: a cluster of them keeps the box of its first member.
    """
    first, sizes = torch.zeros(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.int64)
    sums, totals, means = boxes.new_zeros(len(boxes), 4), boxes.new_zeros(len(boxes)), boxes.new_zeros(len(boxes), 4)
    num = 0
    for index, label in enumerate(labels.tolist()):
        same = (labels[first[:num]] == label).nonzero()[:, 0]
        iou = pairwise_iou(boxes[index : index + 1], means[same])[0]
        if len(same) and float(iou.max()) > fusion_iou:
            cluster = int(same[iou.argmax()])
        else:
            cluster, num = num, num + 1
            first[cluster], means[cluster] = index, boxes[index]
        sizes[cluster] += 1
        sums[cluster] += scores[index] * boxes[index]
        totals[cluster] += scores[index]
        if totals[cluster] > 0:
            means[cluster] = sums[cluster] / totals[cluster]
    return first[:num], means[:num], totals[:num] / sizes[:num], sizes[:num]
