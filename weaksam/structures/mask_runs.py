"""Hold the masks of a photo as runs of pixels, and count and paint all of them at once without drawing any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weaksam.structures.masks import Rle, run_lengths

_BITS = 62
"""Masks that are painted together, as bits of one int64."""
_SUMS = 2**23
"""Sums of votes that are held at once."""


@dataclass(frozen=True)
class MaskRuns:
    """N masks of a photo of ``size`` (H, W) as R runs of pixels, which are numbered column by column as in COCO's RLE.

    Run r covers the pixels ``[starts[r], ends[r])`` of mask ``rows[r]``, int64 ``(R,)`` each; runs of one mask are
    disjoint. N = 0 and masks without a run are allowed.
    """

    starts: Tensor
    ends: Tensor
    rows: Tensor
    num: int
    size: tuple[int, int]

    @classmethod
    def of_rles(cls, rles: Sequence[Rle], size: tuple[int, int]) -> MaskRuns:
        """The runs of RLE masks of a photo of ``size``; no masks give N = 0."""
        starts, ends, rows = _edges(rles)
        return cls(torch.from_numpy(starts), torch.from_numpy(ends), torch.from_numpy(rows), len(rles), size)

    @classmethod
    def of_window(
        cls, rles: Sequence[Rle], offset: tuple[int, int], window: tuple[int, int], size: tuple[int, int]
    ) -> MaskRuns:
        """The runs of RLE masks of a window (h, w) of a panorama of ``size``, on the panorama.

        ``offset``: the window's top and left; what reaches over an edge goes on at the opposite one.
        """
        starts, ends, rows = _edges(rles)
        height, (top, left) = window[0], offset
        # One piece for each column that a run touches
        first, last = starts // height, (ends - 1) // height
        counts = last - first + 1
        piece = np.repeat(np.arange(len(starts)), counts)
        column = first[piece] + np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)
        low = np.maximum(starts[piece], column * height) - column * height
        high = np.minimum(ends[piece], (column + 1) * height) - column * height
        base = (left + column) % size[1] * size[0]
        # Two parts where a piece reaches over the lower edge
        low, high = top + low, top + high
        parts = [
            (base + low.clip(max=size[0]), base + high.clip(max=size[0])),
            (base + low.clip(min=size[0]) - size[0], base + high.clip(min=size[0]) - size[0]),
        ]
        begin, end = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
        mask = np.concatenate([rows[piece]] * 2)
        kept = end > begin
        begin, end, mask = begin[kept], end[kept], mask[kept]
        return cls(torch.from_numpy(begin), torch.from_numpy(end), torch.from_numpy(mask), len(rles), size)

    @classmethod
    def cat(cls, parts: Sequence[MaskRuns], size: tuple[int, int]) -> MaskRuns:
        """All masks of ``parts``, which are of ``size``, one after the other; no parts give N = 0."""
        nothing = torch.zeros(0, dtype=torch.int64)
        shifts = np.cumsum([0, *(part.num for part in parts)]).tolist()
        return cls(
            torch.cat([nothing, *(part.starts for part in parts)]),
            torch.cat([nothing, *(part.ends for part in parts)]),
            torch.cat([nothing, *(part.rows + shift for part, shift in zip(parts, shifts, strict=False))]),
            shifts[-1],
            size,
        )

    def to(self, device: torch.device) -> MaskRuns:
        """The same runs on ``device``."""
        return MaskRuns(self.starts.to(device), self.ends.to(device), self.rows.to(device), self.num, self.size)

    @property
    def areas(self) -> Tensor:
        """Pixels of each mask, int64 ``(N,)``."""
        return self.starts.new_zeros(self.num).index_add_(0, self.rows, self.ends - self.starts)

    @property
    def smallest_first(self) -> Tensor:
        """The masks from small to large, int64 ``(N,)``; of equals the later one first, as painted last."""
        return self.areas.flip(0).argsort(stable=True).neg() + (self.num - 1)


def _edges(rles: Sequence[Rle]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Begin, end and mask of every run of RLE masks, int64 ``(R,)``."""
    edges = [np.cumsum(run_lengths(rle["counts"]) or [0]) for rle in rles]
    starts = [of_mask[: len(of_mask) - 1 : 2] for of_mask in edges]
    ends = [of_mask[1::2] for of_mask in edges]
    rows = np.repeat(np.arange(len(rles)), [len(of_mask) for of_mask in ends])
    nothing = [np.zeros(0, dtype=np.int64)]
    begin, end = np.concatenate(nothing + starts), np.concatenate(nothing + ends)
    kept = end > begin
    return begin[kept], end[kept], rows[kept]


def by_column(pixels: Tensor) -> Tensor:
    """Values ``(H, W)`` as runs number them, ``(H * W,)``."""
    return pixels.T.reshape(-1)


def from_columns(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Values ``(H * W,)`` as runs number them, as ``(H, W)``; the way back of `by_column`."""
    return values.reshape(size[1], size[0]).T


def class_votes(runs: MaskRuns, classes: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Sum of the ``weights`` of each mask's pixels by their class, int64 ``(N, C)``.

    ``classes`` and ``weights``, integers: ``(H * W,)`` in the order of the runs. Sums of integers are the same in any
    order. A class outside [0, C) has no vote.
    """
    # Between two edges of runs lies a segment; the votes of a run are those of whole segments
    edges = runs.starts.new_zeros(len(classes) + 1)
    edges[runs.starts] = edges[runs.ends] = 1
    segment = edges.cumsum(0)
    begin, end = segment[runs.starts], segment[runs.ends]
    num_segments = int(segment[-1]) + 1
    votes = weights.new_zeros(runs.num, num_classes, dtype=torch.int64)
    at_once = max(1, _SUMS // num_segments)
    for first in range(0, num_classes, at_once):
        num = min(at_once, num_classes - first)
        column = classes.long() - first
        counted = weights.where((column >= 0) & (column < num), 0).long()
        sums = counted.new_zeros((num_segments + 1) * num)
        sums.index_add_(0, (segment[:-1] + 1) * num + column.clamp(0, num - 1), counted)
        before = sums.reshape(-1, num).cumsum(0)
        votes[:, first : first + num].index_add_(0, runs.rows, before[end] - before[begin])
    return votes


def first_covering(runs: MaskRuns, order: Tensor, writes: Tensor, open_pixels: Tensor | None = None) -> Tensor:
    """The first mask in ``order`` that covers each pixel, int64 ``(H * W,)`` in the order of the runs, -1 without any.

    ``order``: masks, int64 ``(N,)``. ``writes`` (N,) int64: 2 covers its pixels, 1 only those that are ``open_pixels``
    (bool ``(H * W,)``, all if None), 0 none.
    """
    num_pixels = runs.size[0] * runs.size[1]
    covering = runs.starts.new_full((num_pixels,), -1)
    order = order[writes[order] > 0]
    place = torch.full_like(writes, -1).scatter_(0, order, torch.arange(len(order), device=order.device))
    of_run = place[runs.rows]
    for first in range(0, len(order), _BITS):
        masks = order[first : first + _BITS]
        covered = _bits(runs, (of_run >= first) & (of_run < first + len(masks)), of_run - first, num_pixels)
        everywhere = (torch.ones_like(masks) << torch.arange(len(masks), device=masks.device))[writes[masks] == 2].sum()
        if open_pixels is not None:
            covered &= torch.where(open_pixels, -1, everywhere)
        if first:
            covered.masked_fill_(covering >= 0, 0)
        free = covered.nonzero()[:, 0]
        bits = covered[free]
        lowest = torch.frexp((bits & -bits).double()).exponent.long() - 1
        covering[free] = masks[lowest]
    return covering


def _bits(runs: MaskRuns, which: Tensor, bit: Tensor, num_pixels: int) -> Tensor:
    """Of every pixel the bits ``bit`` of the runs ``which`` (bool (R,)) that cover it, int64 ``(H * W,)``."""
    flags = torch.ones_like(bit[which]) << bit[which]
    change = runs.starts.new_zeros(num_pixels + 1)
    change.index_add_(0, runs.starts[which], flags).index_add_(0, runs.ends[which], -flags)
    return change[:-1].cumsum(0)
