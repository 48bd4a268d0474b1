"""OICR: what seeds a branch, what its RoIs are to learn, and the loss by which they learn it."""

from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.structures.boxes import batched_nms, nms


class Seeds(NamedTuple):
    """RoIs taken as pseudo ground truth: ``roi`` (S,) indices of RoIs, ``label`` (S,) 0-based, ``weight`` (S,) >= 0."""

    roi: Tensor
    label: Tensor
    weight: Tensor


class Targets(NamedTuple):
    """What a branch learns of each of R RoIs: ``target`` (R,) 0 = background, else label + 1; ``weight`` (R,) >= 0.

    ``seed`` (R,) is the RoI it was assigned to, its box target; 0 where the weight is 0 for want of any seed.
    """

    target: Tensor
    weight: Tensor
    seed: Tensor


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


def refine_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Weighted cross-entropy ``mean_r(w_r * -log(p[r, target_r] + 1e-6))`` of refine logits ``(R, C + 1)``, a scalar.

    Background is column 0. Without RoIs: 0.
    """
    if logits.shape[0] == 0:
        return logits.sum()
    probability = logits.softmax(dim=1).gather(1, targets.target[:, None])[:, 0]
    return (targets.weight * -(probability + 1e-6).log()).mean()
