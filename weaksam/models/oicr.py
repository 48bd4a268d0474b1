"""OICR: turn the scores of one branch into RoI labels for the next, and learn from them."""

from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.structures.boxes import batched_nms, nms


class Seeds(NamedTuple):
    """RoIs taken as pseudo ground truth: ``roi`` (S,) indices of RoIs, ``label`` (S,) 0-based, ``weight`` (S,) >= 0."""

    roi: Tensor
    label: Tensor
    weight: Tensor


class RoiLabels(NamedTuple):
    """What a branch learns: ``target`` (R,) with 0 = background and label + 1, and ``weight`` (R,)."""

    target: Tensor
    weight: Tensor


def empty_seeds() -> Seeds:
    """No seed: every RoI will be ignored."""
    return Seeds(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def top_share_seeds(scores: Tensor, tags: Tensor, boxes: Tensor, *, share: float = 0.9, nms_iou: float = 0.5) -> Seeds:
    """Seeds of every tagged class: all RoIs scoring at least ``share`` of the class's best, thinned by one NMS.

    ``scores`` (R, C) >= 0, ``tags`` (C,) in {0, 1}, ``boxes`` (R, 4) xyxy. The NMS is class-agnostic over the union, as
    in the released WeakSAM OICR (specification, section 3.1); ``share = 1`` is the single top box of OICR (Tang et al.,
    CVPR 2017). The weight of a seed is its score. No RoI or no tag: no seed.
    """
    if scores.shape[0] == 0 or not bool(tags.any()):
        return empty_seeds()
    best = scores.amax(dim=0)  # (C,)
    chosen = (scores >= share * best) & (tags > 0) & (scores > 0)  # (R, C)
    index, label = chosen.nonzero(as_tuple=True)
    weight = scores[index, label]
    keep = nms(boxes[index], weight, nms_iou)
    return Seeds(index[keep], label[keep], weight[keep])


def separate_seeds(scores: Tensor, tags: Tensor, boxes: Tensor, *, share: float, nms_iou: float) -> Seeds:
    """Several instances per class: RoIs scoring at least ``share`` of the class's best, after an NMS inside each class.

    Like :func:`top_share_seeds` with the suppression per class (ours), so that two classes never compete for one place.
    """
    if scores.shape[0] == 0 or not bool(tags.any()):
        return empty_seeds()
    chosen = (scores >= share * scores.amax(dim=0)) & (tags > 0) & (scores > 0)
    index, label = chosen.nonzero(as_tuple=True)
    weight = scores[index, label]
    keep = batched_nms(boxes[index], weight, label, nms_iou)
    return Seeds(index[keep], label[keep], weight[keep])


def label_rois(pairwise_iou: Tensor, seeds: Seeds, *, foreground_iou: float = 0.5) -> RoiLabels:
    """Each RoI takes the class of the seed it overlaps most, or background under ``foreground_iou``.

    ``pairwise_iou`` (R, R) in [0, 1] of the image's RoIs, computed once per image. The weight of a RoI, background too,
    is the weight of its best seed (OICR, equation 4). Without seeds every weight is 0, so the image teaches nothing.
    """
    num_rois = pairwise_iou.shape[0]
    if len(seeds.roi) == 0 or num_rois == 0:
        return RoiLabels(torch.zeros(num_rois, dtype=torch.int64), torch.zeros(num_rois))
    overlap, best = pairwise_iou[:, seeds.roi].max(dim=1)  # (R,)
    target = torch.where(overlap >= foreground_iou, seeds.label[best] + 1, torch.zeros_like(best))
    return RoiLabels(target, seeds.weight[best])


def refine_loss(logits: Tensor, labels: RoiLabels) -> Tensor:
    """Weighted cross-entropy ``mean_r(w_r * -log(p[r, target_r] + 1e-6))`` of refine logits ``(R, C + 1)``, a scalar.

    Background is column 0. Without RoIs: 0.
    """
    if logits.shape[0] == 0:
        return logits.sum()
    probability = logits.softmax(dim=1).gather(1, labels.target[:, None])[:, 0]
    return (labels.weight * -(probability + 1e-6).log()).mean()
