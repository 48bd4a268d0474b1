"""Choose the RoIs of a ranking that overlap no better one, from a photo's overlaps packed as bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from weaksam.structures.bits import packed
from weaksam.structures.devices import reading_is_free

Compare = Literal["ranked", "kept"]

_ROUNDS = 64
_BLOCK = {"ranked": 8, "kept": 32}


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The pairwise IoU ``(R, R)`` in [0, 1] of a photo's RoIs, and for each threshold asked for which pairs reach it.

    Boxes do not move in training: as long as it is kept both are computed once. R may be 0.
    """

    iou: Tensor
    _near: dict[float, Tensor] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def num_bytes(num_rois: int) -> int:
        """Bytes of the IoU of ``num_rois`` RoIs and of the pairs that reach one threshold."""
        return num_rois * (4 * num_rois + 8 * -(-num_rois // 64))

    def near(self, min_iou: float) -> Tensor:
        """``iou >= min_iou`` as int64 ``(R, ceil(R / 64))``: pair i, j is bit ``j % 64`` of word ``j // 64``, row i."""
        if min_iou not in self._near:
            self._near[min_iou] = packed(self.iou >= min_iou)
        return self._near[min_iou]


def best_ranked(scores: Tensor, num: int) -> Tensor:
    """Columns ``(T, num)`` of the ``num`` highest ``scores`` (T, R) of each row, best first; of equals the lower first.

    Scores are compared as float32. ``torch.topk`` promises no order among equals, so score and column make one whole
    number, unlike any other of its row. 1 <= num <= R.
    """
    bits = (scores.float() + 0.0).view(torch.int32).long()  # adding 0 turns -0 into 0
    ascending = bits ^ ((bits >> 63) & 0x7FFFFFFF)  # below 0 the bits of a float descend
    last = scores.shape[1] - 1
    key = (ascending << 32) | torch.arange(last, -1, -1, device=scores.device)
    return last - (key.topk(num, dim=1).values & 0xFFFFFFFF)


def stand_apart(roi: Tensor, near: Tensor, compare: Compare) -> Tensor:
    """Which of ``roi`` (T, k), each row a ranking of RoIs, are near no better one of their row; bool ``(T, k)``.

    ``near`` is :meth:`Overlaps.near`; "better" is every better RoI of the row (``compare="ranked"``) or those that
    stood apart themselves (``"kept"``). Rankings are read in blocks: a candidate looks one by one at its own block
    alone; of all blocks before, what they are near to is one row of bits. No step waits for the device.
    """
    size = _BLOCK[compare]
    blocks = pad(roi, (0, -roi.shape[1] % size)).unflatten(1, (-1, size))  # (T, n, b), filled up behind the last
    rows = near.index_select(0, blocks.flatten()).view(*blocks.shape, -1)  # (T, n, b, W)
    keep = _ranked(blocks, rows) if compare == "ranked" else _kept(blocks, rows)
    return keep.flatten(1)[:, : roi.shape[1]]


def _ranked(blocks: Tensor, rows: Tensor) -> Tensor:
    """``(T, n, b)``: near nothing in an earlier block, and nothing better in the own one."""
    up_to = _union(rows)  # (T, n, W)
    step = 1
    while step < up_to.shape[1]:  # the union with all earlier blocks, twice as many each time
        up_to = torch.cat([up_to[:, :step], up_to[:, step:] | up_to[:, :-step]], dim=1)
        step *= 2
    before = pad(up_to[:, :-1], (0, 0, 1, 0))
    return ~_has(before, blocks) & (_near_better(blocks, rows) == 0)


def _kept(blocks: Tensor, rows: Tensor) -> Tensor:
    """``(T, n, b)``: block after block, near nothing that stayed before."""
    near_better, bit = _near_better(blocks, rows), _bits(blocks.shape[-1], rows.device)
    taken, stays = torch.zeros_like(rows[:, 0, 0]), []
    for roi, near, of_block in zip(blocks.unbind(1), near_better.unbind(1), rows.unbind(1), strict=True):
        keep = _settled(~_has(taken, roi), partial(_near_none, near, bit))
        taken = taken | _union(of_block * keep[..., None])
        stays.append(keep)
    return torch.stack(stays, dim=1)


def _near_none(near: Tensor, bit: Tensor, keep: Tensor) -> Tensor:
    """Which of ``near`` (T, b), as bits, have none of those kept, ``keep`` (T, b)."""
    return (near & (keep * bit).sum(dim=-1, keepdim=True)) == 0


def _near_better(blocks: Tensor, rows: Tensor) -> Tensor:
    """For each candidate the better ones of its block that it is near, as bits; int64 ``(T, n, b)``."""
    size = blocks.shape[-1]
    near = _has(rows, blocks[:, :, None, :].expand(*blocks.shape, size))  # (T, n, b, b): better, worse
    better = _bits(size, rows.device)[:, None].expand(size, size).triu(1)
    return (near * better).sum(dim=-2)


def _bits(num: int, device: torch.device) -> Tensor:
    """1, 2, 4, ... int64 ``(num,)``, num < 64."""
    return 1 << torch.arange(num, device=device)


def _has(rows: Tensor, roi: Tensor) -> Tensor:
    """Whether bit ``roi`` (..., k) is set in its row of ``rows`` (..., W); bool ``(..., k)``."""
    return (rows.gather(-1, roi >> 6) >> (roi & 63)) & 1 > 0


def _union(rows: Tensor) -> Tensor:
    """All bits set in any of ``rows`` (..., b, W), b a power of two; ``(..., W)``."""
    while rows.shape[-2] > 1:
        half = rows.shape[-2] // 2
        rows = rows[..., :half, :] | rows[..., half:, :]
    return rows[..., 0, :]


def kept_greedily(near: Tensor, valid: Tensor) -> Tensor:
    """Which candidates ``(..., k)`` greedy suppression keeps, given ``near`` (..., k, k) in the order of their rank.

    A candidate stays if it is ``valid`` (..., k) and near no earlier one that stays. Off the CPU a chain of more than
    64, each near the next, is not followed to its end.
    """
    earlier = near.tril(-1)
    return _settled(valid, lambda keep: ~(earlier & keep[..., None, :]).any(dim=-1))


def _settled(valid: Tensor, stays: Callable[[Tensor], Tensor]) -> Tensor:
    """Greedy suppression in rounds: those ``valid`` (..., k) which stay, given by ``stays`` from those kept so far.

    Every round settles all whose earlier neighbours are settled, so a chain of d candidates, each near the next, takes
    d rounds. On the CPU rounds go on until nothing changes; elsewhere, where looking would stall the device, there are
    k, at most 64.
    """
    looks, num, keep = reading_is_free(valid.device), valid.shape[-1], valid
    for _ in range(num + 1 if looks else min(num, _ROUNDS)):
        before, keep = keep, valid & stays(keep)
        if looks and torch.equal(before, keep):
            break
    return keep
