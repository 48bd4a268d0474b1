"""Hold the seeds of a refinement branch, and give each RoI the target it learns from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.structures.devices import reading_is_free

_BLOCK = 16
_FEW = 128


class Seeds(NamedTuple):
    """RoIs taken as pseudo ground truth: ``roi`` (S,) indices of RoIs, ``label`` (S,) 0-based, ``weight`` (S,) >= 0.

    Off the CPU a rule may return more entries than seeds, so that its shapes do not depend on values; padding has label
    -1.
    """

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


def empty_seeds(scores: Tensor | None = None) -> Seeds:
    """No seed, so that every RoI is ignored; on the device and of the type of ``scores``, if given."""
    like = torch.zeros(0) if scores is None else scores
    none = torch.zeros(0, dtype=torch.int64, device=like.device)
    return Seeds(none, none, like.new_zeros(0))


def without_padding(seeds: Seeds) -> Seeds:
    """On the CPU the seeds without their padding (label -1); elsewhere, where that would wait, as they are."""
    if not reading_is_free(seeds.label.device):
        return seeds
    filled = (seeds.label >= 0).nonzero()[:, 0]
    return Seeds(seeds.roi[filled], seeds.label[filled], seeds.weight[filled])


def assign_rois(pairwise_iou: Tensor, seeds: Seeds, *, foreground_iou: float = 0.5) -> Targets:
    """Each RoI takes class, weight and box of the seed it overlaps most, or background under ``foreground_iou``.

    ``pairwise_iou`` (R, R) is symmetric and computed once per photo; the first of equal overlaps wins. Background is
    weighted too (OICR, Tang et al., CVPR 2017, equation 4). Without seeds every weight is 0.
    """
    iou, seeds = pairwise_iou, without_padding(seeds)
    if len(seeds.roi) == 0 or len(iou) == 0:
        nothing = torch.zeros(len(iou), dtype=torch.int64, device=iou.device)
        return Targets(nothing, iou.new_zeros(len(iou)), nothing)
    overlaps = iou.index_select(0, seeds.roi)  # (S, R)
    if not reading_is_free(overlaps.device):  # on the CPU there is no padding
        overlaps = overlaps.masked_fill((seeds.label < 0)[:, None], -1.0)
    overlap, best = first_maximum(overlaps)
    label, weight, roi = (column.index_select(0, best) for column in (seeds.label, seeds.weight, seeds.roi))
    no_seed = overlap < 0  # every entry is padding
    return Targets(
        torch.where(overlap >= foreground_iou, label + 1, 0),
        weight.masked_fill(no_seed, 0.0),
        roi.masked_fill(no_seed, 0),
    )


def first_maximum(values: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of each column of ``values`` (S, R), S >= 1, and the first row that reaches it, ``(R,)`` each.

    A plain maximum is several times as fast on the CPU as one that remembers its index, so beyond 128 rows that one
    looks only at the maxima of blocks of 16, and then into one block for each column. The last block begins early
    enough to be full, so some rows are in two blocks, which moves no maximum and no first index.
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
