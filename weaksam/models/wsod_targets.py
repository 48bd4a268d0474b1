"""Choose each branch's seeds and label every RoI from them, without waiting for the device and without a loop."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from weaksam.models.oicr import Seeds

Compare = Literal["ranked", "kept"]

_ROUNDS = 64
_FEWEST_FOR_SHARE = 10
_FIRST_LOOKS = (8, 60)


class Targets(NamedTuple):
    """What a branch learns of each of R RoIs: ``target`` (R,) 0 = background, else label + 1; ``weight`` (R,) >= 0.

    ``seed`` (R,) is the RoI it was assigned to, its box target; 0 where the weight is 0 for want of any seed.
    """

    target: Tensor
    weight: Tensor
    seed: Tensor


def present_labels(tags: Tensor) -> Tensor:
    """Labels ``(T,)`` int64, ascending, of multi-hot ``tags`` (C,).

    The only step whose shape depends on values: call it once per photo, where the tags are on the host.
    """
    return tags.nonzero()[:, 0]


def oicr_top_seeds(scores: Tensor, present: Tensor) -> Seeds:
    """The single best RoI of every present class (OICR, Tang et al., CVPR 2017, algorithm 1), in class order.

    ``scores`` (R, C) >= 0, ``present`` (T,) labels. The weight is the score. A class whose scores are all 0, and a
    photo without RoI or tag, has no seed. The released layer also bars a RoI from seeding a second class; the paper
    does not, nor does this.
    """
    if len(scores) == 0:
        return _no_seeds(scores)
    weight, roi = scores[:, present].max(dim=0)
    return _held(Seeds(roi, torch.where(weight > 0, present, -1), weight))


def oicr_seeds(
    scores: Tensor, present: Tensor, pairwise_iou: Tensor, *, share: float = 0.9, nms_iou: float = 0.5
) -> Seeds:
    """All RoIs with at least ``share`` of their class's best score, thinned by one class-agnostic NMS, best first.

    The rule of WeakSAM's released OICR (specification, section 3.1). ``scores`` (R, C) >= 0, ``present`` (T,) labels,
    ``pairwise_iou`` (R, R) of the photo's RoIs. Within one RoI the best class always suppresses the others, so the
    NMS runs over R candidates, not R times T. Equal scores: the lower RoI, then the lower label. No RoI or no tag: no
    seed.
    """
    if len(scores) == 0 or len(present) == 0:
        return _no_seeds(scores)
    of_present = scores[:, present]
    chosen = (of_present >= share * of_present.amax(dim=0)) & (of_present > 0)  # (R, T)
    weight, which = of_present.masked_fill(~chosen, -1.0).max(dim=1)
    candidates = _held(Seeds(torch.arange(len(scores), device=scores.device), _label(present[which], weight), weight))
    order = candidates.weight.argsort(descending=True, stable=True)
    roi, label, weight = (column[order] for column in candidates)
    near = pairwise_iou[roi[:, None], roi] > nms_iou
    return _held(Seeds(roi, torch.where(kept_greedily(near, label >= 0), label, -1), weight))


def mist_seeds(
    scores: Tensor,
    present: Tensor,
    pairwise_iou: Tensor,
    *,
    share: float = 0.15,
    max_iou: float = 0.2,
    compare: Compare = "ranked",
) -> Seeds:
    """Several far-apart RoIs of every present class, class by class, best first (MIST, Ren et al., CVPR 2020).

    Of each class the best ``share`` of the R RoIs (rounded down; one RoI if R < 10) are candidates; one stays if its
    IoU is below ``max_iou`` with all better candidates (``compare="ranked"``, the released code; specification,
    section 3.2) or with those that stayed (``"kept"``, the paper). ``scores`` (R, C), ``present`` (T,) labels,
    ``pairwise_iou`` (R, R): half-open boxes need no ``+ 1``. Equal scores: the lower RoI first. The weight is the
    score. No RoI or no tag: no seed.
    """
    if len(scores) == 0 or len(present) == 0:
        return _no_seeds(scores)
    weight, roi = scores[:, present].T.sort(dim=1, descending=True, stable=True)
    num = mist_candidates(len(scores), share)
    weight, roi = weight[:, :num], roi[:, :num]  # (T, k)
    if compare == "kept":
        near = pairwise_iou[roi[:, :, None], roi[:, None, :]] >= max_iou  # (T, k, k)
        keep = kept_greedily(near, torch.ones_like(roi, dtype=torch.bool))
    else:
        keep = _apart_from_better(roi, pairwise_iou, max_iou)
    label = torch.where(keep, present[:, None], -1)
    return _held(Seeds(roi.flatten(), label.flatten(), weight.flatten()))


def _apart_from_better(roi: Tensor, pairwise_iou: Tensor, max_iou: float) -> Tensor:
    """Which ranked candidates ``roi`` (T, k) have an IoU below ``max_iou`` with every better one of their class.

    On the CPU the few best of a class rule out most candidates first, so that few need all their IoUs looked up.
    """
    keep = torch.ones_like(roi, dtype=torch.bool)
    for num in (*_FIRST_LOOKS, roi.shape[1]) if roi.device.type == "cpu" else (roi.shape[1],):
        which, place = keep.nonzero(as_tuple=True) if roi.device.type == "cpu" else _every_place(roi)
        better = roi[:, :num]
        overlap = pairwise_iou.take(roi[which, place][:, None] * len(pairwise_iou) + better[which])  # (S, num)
        rank = torch.arange(better.shape[1], device=roi.device)
        keep[which, place] = ~((overlap >= max_iou) & (rank < place[:, None])).any(dim=1)
    return keep


def _every_place(roi: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every place of ``roi`` (T, k), each ``(T * k,)``."""
    rows, columns = (torch.arange(num, device=roi.device) for num in roi.shape)
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


def mist_candidates(num_rois: int, share: float) -> int:
    """Candidates of a class among ``num_rois`` >= 1: their ``share``, rounded down; one below 10 RoIs, never none."""
    return 1 if num_rois < _FEWEST_FOR_SHARE else max(1, int(share * num_rois))


def kept_greedily(near: Tensor, valid: Tensor) -> Tensor:
    """Which candidates ``(..., k)`` greedy suppression keeps, given ``near`` (..., k, k) in the order of their rank.

    A candidate stays if it is ``valid`` (..., k) and near no earlier one that stays. Every round settles all whose
    earlier neighbours are settled, so a chain of d candidates, each near the next, takes d rounds. On the CPU rounds
    go on until nothing changes; elsewhere, where looking would stall the device, there are 64.
    """
    earlier = near.tril(-1)
    keep = valid
    on_host = near.device.type == "cpu"
    for _ in range(near.shape[-1] + 1 if on_host else _ROUNDS):
        before, keep = keep, valid & ~(earlier & keep[..., None, :]).any(dim=-1)
        if on_host and torch.equal(before, keep):
            break
    return keep


def assign_rois(pairwise_iou: Tensor, seeds: Seeds, *, foreground_iou: float = 0.5) -> Targets:
    """Each RoI takes class, weight and box of the seed it overlaps most, or background under ``foreground_iou``.

    ``pairwise_iou`` (R, R) is symmetric and computed once per photo; the first of equal overlaps wins. Background is
    weighted too (OICR, equation 4). Without seeds every weight is 0.
    """
    num_rois, seeds = len(pairwise_iou), _held(seeds)
    if len(seeds.roi) == 0 or num_rois == 0:
        nothing = torch.zeros(num_rois, dtype=torch.int64, device=pairwise_iou.device)
        return Targets(nothing, pairwise_iou.new_zeros(num_rois), nothing)
    overlaps = pairwise_iou.index_select(0, seeds.roi)  # (S, R)
    if overlaps.device.type != "cpu":  # on the CPU there are no empty places
        overlaps = overlaps.masked_fill((seeds.label < 0)[:, None], -1.0)
    overlap, best = _first_maximum(overlaps)
    label, weight, roi = seeds.label[best], seeds.weight[best], seeds.roi[best]
    nowhere = overlap < 0  # every place is empty
    return Targets(
        torch.where(overlap >= foreground_iou, label + 1, 0),
        weight.masked_fill(nowhere, 0.0),
        roi.masked_fill(nowhere, 0),
    )


def _first_maximum(values: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of each column of ``values`` (S, R) and the first row that reaches it, ``(R,)`` each.

    Two plain maxima are several times as fast on the CPU as one that remembers its place.
    """
    highest = values.amax(dim=0)
    from_the_end = torch.arange(len(values), 0, -1, dtype=torch.int32, device=values.device)[:, None]
    return highest, len(values) - ((values == highest) * from_the_end).amax(dim=0).long()


def _label(label: Tensor, weight: Tensor) -> Tensor:
    """Labels, and -1 (an empty place) where the weight is negative."""
    return torch.where(weight >= 0, label, -1)


def _held(seeds: Seeds) -> Seeds:
    """On the CPU the seeds without their empty places (label -1); elsewhere, where that would wait, as they are."""
    if seeds.label.device.type != "cpu":
        return seeds
    held = (seeds.label >= 0).nonzero()[:, 0]
    return Seeds(seeds.roi[held], seeds.label[held], seeds.weight[held])


def _no_seeds(scores: Tensor) -> Seeds:
    none = torch.zeros(0, dtype=torch.int64, device=scores.device)
    return Seeds(none, none, scores.new_zeros(0))
