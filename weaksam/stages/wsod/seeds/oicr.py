"""Choose each branch's seeds and label every RoI from them, without waiting for the device and without a loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weaksam.models.wsod.targets import Seeds, Targets
from weaksam.stages.wsod.seeds.overlaps import Compare, Overlaps, best_ranked, kept_greedily, stand_apart

_FEWEST_FOR_SHARE = 10
_BLOCK = 16
_FEW = 128


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
    weight, roi = scores.T.index_select(0, present).max(dim=1)
    return _held(Seeds(roi, torch.where(weight > 0, present, -1), weight))


def oicr_seeds(
    scores: Tensor, present: Tensor, pairwise_iou: Tensor | Overlaps, *, share: float = 0.9, nms_iou: float = 0.5
) -> Seeds:
    """All RoIs with at least ``share`` of their class's best score, thinned by one class-agnostic NMS, best first.

    The rule of WeakSAM's released OICR (specification, section 3.1). ``scores`` (R, C) >= 0, ``present`` (T,) labels,
    ``pairwise_iou`` (R, R) of the photo's RoIs. Within one RoI the best class always suppresses the others, so the
    NMS runs over R candidates, not R times T. Equal scores: the lower RoI, then the lower label. No RoI or no tag: no
    seed.
    """
    if len(scores) == 0 or len(present) == 0:
        return _no_seeds(scores)
    of_present = scores.T.index_select(0, present)  # (T, R)
    chosen = (of_present >= share * of_present.amax(dim=1, keepdim=True)) & (of_present > 0)
    weight, which = of_present.masked_fill(~chosen, -1.0).max(dim=0)
    candidates = _held(Seeds(torch.arange(len(scores), device=scores.device), _label(present[which], weight), weight))
    order = candidates.weight.argsort(descending=True, stable=True)
    roi, label, weight = (column[order] for column in candidates)
    near = _overlaps(pairwise_iou).iou[roi[:, None], roi] > nms_iou
    return _held(Seeds(roi, torch.where(kept_greedily(near, label >= 0), label, -1), weight))


def mist_seeds(
    scores: Tensor,
    present: Tensor,
    pairwise_iou: Tensor | Overlaps,
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
    settings = {"share": share, "max_iou": max_iou}
    return mist_seeds_of_branches([scores], present, pairwise_iou, **settings, compare=compare)[0]


def mist_seeds_of_branches(
    sources: Sequence[Tensor],
    present: Tensor,
    pairwise_iou: Tensor | Overlaps,
    *,
    share: float = 0.15,
    max_iou: float = 0.2,
    compare: Compare = "ranked",
) -> list[Seeds]:
    """:func:`mist_seeds` of each of the ``sources`` (R, C), all of one device and type, in one go; no source: none.

    An :class:`~weaksam.stages.wsod.seeds.overlaps.Overlaps`, kept with the photo, spares packing the IoU in every call.
    """
    if len(sources) == 0 or len(sources[0]) == 0 or len(present) == 0:
        return [_no_seeds(scores) for scores in sources]
    of_present = torch.cat([scores.T[present] for scores in sources])  # (B * T, R)
    roi = best_ranked(of_present, mist_candidates(of_present.shape[1], share))  # (B * T, k)
    keep = stand_apart(roi, _overlaps(pairwise_iou).near(max_iou), compare)
    label = torch.where(keep, present.repeat(len(sources))[:, None], -1)
    columns = [column.view(len(sources), -1) for column in (roi, label, of_present.gather(1, roi))]
    return [_held(Seeds(*of_branch)) for of_branch in zip(*columns, strict=True)]


def mist_candidates(num_rois: int, share: float) -> int:
    """Candidates of a class among ``num_rois`` >= 1: their ``share``, rounded down; one below 10 RoIs, never none."""
    return 1 if num_rois < _FEWEST_FOR_SHARE else max(1, int(share * num_rois))


def assign_rois(pairwise_iou: Tensor | Overlaps, seeds: Seeds, *, foreground_iou: float = 0.5) -> Targets:
    """Each RoI takes class, weight and box of the seed it overlaps most, or background under ``foreground_iou``.

    ``pairwise_iou`` (R, R) is symmetric and computed once per photo; the first of equal overlaps wins. Background is
    weighted too (OICR, equation 4). Without seeds every weight is 0.
    """
    iou, seeds = _overlaps(pairwise_iou).iou, _held(seeds)
    if len(seeds.roi) == 0 or len(iou) == 0:
        nothing = torch.zeros(len(iou), dtype=torch.int64, device=iou.device)
        return Targets(nothing, iou.new_zeros(len(iou)), nothing)
    overlaps = iou.index_select(0, seeds.roi)  # (S, R)
    if overlaps.device.type != "cpu":  # on the CPU there are no empty places
        overlaps = overlaps.masked_fill((seeds.label < 0)[:, None], -1.0)
    overlap, best = first_maximum(overlaps)
    label, weight, roi = (column.index_select(0, best) for column in (seeds.label, seeds.weight, seeds.roi))
    nowhere = overlap < 0  # every place is empty
    return Targets(
        torch.where(overlap >= foreground_iou, label + 1, 0),
        weight.masked_fill(nowhere, 0.0),
        roi.masked_fill(nowhere, 0),
    )


def first_maximum(values: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of each column of ``values`` (S, R), S >= 1, and the first row that reaches it, ``(R,)`` each.

    A plain maximum is several times as fast on the CPU as one that remembers its place, so beyond 128 rows that one
    looks only at the maxima of blocks of 16, and then into one block for each column. The last block begins early
    enough to be full, so some rows are in two blocks, which moves no maximum and no first place.
    """
    num = len(values)
    if num <= _FEW:
        return values.max(dim=0)
    full = num - num % _BLOCK
    highest = values[:full].unflatten(0, (-1, _BLOCK)).amax(dim=1)  # (S / 16, R)
    highest, block = torch.cat([highest, values[-_BLOCK:].amax(dim=0, keepdim=True)]).max(dim=0)
    start = (block * _BLOCK).clamp(max=num - _BLOCK)
    rows = start + torch.arange(_BLOCK, device=values.device)[:, None]  # (16, R)
    return highest, start + values.gather(0, rows).max(dim=0).indices


def _overlaps(pairwise_iou: Tensor | Overlaps) -> Overlaps:
    return pairwise_iou if isinstance(pairwise_iou, Overlaps) else Overlaps(pairwise_iou)


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
