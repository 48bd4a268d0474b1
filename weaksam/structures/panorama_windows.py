"""Cut a panorama into overlapping windows that go on at the opposite edge, and stitch what was seen in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weaksam.config import UserError


@dataclass(frozen=True)
class PanoramaWindows:
    """Windows of ``size`` (h, w) pixels at every ``stride`` (down, across) of a panorama (GoodSAM-style; sizes ours).

    With ``wrap_x`` windows go on at the left edge (a panorama's edges meet), with ``wrap_y`` at the top too, so that
    every pixel lies in equally many where the strides divide the panorama. Along an axis that does not wrap the last
    window ends at the edge. A panorama that is smaller than a window along an axis is one window there.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    wrap_x: bool = True
    wrap_y: bool = False

    def offsets(self, panorama: tuple[int, int]) -> list[tuple[int, int]]:
        """Top and left of the windows of a panorama of (H, W) pixels, row by row; at least one.

        Raises `UserError` where the stride is larger than the window, which would leave pixels out.
        """
        if not all(0 < step <= side for step, side in zip(self.stride, self.size, strict=True)):
            raise UserError(
                f"wanted a stride of at least one pixel and at most the window's {self.size[0]} x {self.size[1]}, "
                f"found {self.stride[0]} x {self.stride[1]}: lower the stride, or enlarge the window"
            )
        tops, lefts = (
            _starts(*sides, wrap)
            for sides, wrap in zip(
                zip(panorama, self.size, self.stride, strict=True), (self.wrap_y, self.wrap_x), strict=True
            )
        )
        return [(top, left) for top in tops for left in lefts]

    def fitted(self, panorama: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the windows of a panorama of (H, W) pixels: no larger than it."""
        return min(self.size[0], panorama[0]), min(self.size[1], panorama[1])

    def crops(self, panorama: Tensor) -> Tensor:
        """The windows ``(n, C, h, w)`` of a panorama ``(C, H, W)``, in the order of `offsets`."""
        size = (panorama.shape[1], panorama.shape[2])
        return crops_at(panorama, self.offsets(size), self.fitted(size))

    def stitch(self, crops: Tensor, panorama: tuple[int, int]) -> Tensor:
        """The panorama ``(C, H, W)`` of windows ``(n, C, h, w)`` of all `offsets`, averaged where they overlap."""
        return stitch(crops, self.offsets(panorama), panorama)


def _starts(length: int, side: int, step: int, wraps: bool) -> list[int]:
    """Where windows begin along an axis of ``length`` pixels."""
    if side >= length:
        return [0]
    if wraps:
        return list(range(0, length, step))
    return [*range(0, length - side, step), length - side]


def crops_at(panorama: Tensor, offsets: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Windows ``(n, C, h, w)`` of ``size`` whose tops and lefts are ``offsets``, of a panorama ``(C, H, W)``.

    What lies beyond an edge is taken from the opposite one; no offsets give ``(0, C, h, w)``.
    """
    rows, columns = _pixels(offsets, size, (panorama.shape[1], panorama.shape[2]), panorama.device)
    return panorama[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)


def stitch(crops: Tensor, offsets: Sequence[tuple[int, int]], panorama: tuple[int, int]) -> Tensor:
    """The mean ``(C, H, W)`` of windows ``(n, C, h, w)`` with these ``offsets``; 0 where there is none."""
    rows, columns = _pixels(offsets, (crops.shape[2], crops.shape[3]), panorama, crops.device)
    places = (rows[:, :, None] * panorama[1] + columns[:, None, :]).reshape(-1)
    total = crops.new_zeros(crops.shape[1], panorama[0] * panorama[1])
    total.index_add_(1, places, crops.transpose(0, 1).reshape(crops.shape[1], -1))
    count = torch.bincount(places, minlength=panorama[0] * panorama[1]).clamp(min=1)
    return (total / count.to(total.dtype)).reshape(crops.shape[1], *panorama)


def _pixels(
    offsets: Sequence[tuple[int, int]], size: tuple[int, int], panorama: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows ``(n, h)`` and columns ``(n, w)`` of the panorama that windows show."""
    starts = torch.tensor(offsets, dtype=torch.int64, device=device).reshape(-1, 2)
    rows, columns = (
        (starts[:, axis, None] + torch.arange(side, device=device)) % length
        for axis, (side, length) in enumerate(zip(size, panorama, strict=True))
    )
    return rows, columns


def overlaps(
    offsets: Sequence[tuple[int, int]], size: tuple[int, int], panorama: tuple[int, int]
) -> list[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """Pairs of windows that share pixels: their numbers, and what each has of the shared part, rows and columns.

    Two windows that meet at both ends of a panorama come as two pairs. No overlap gives none.
    """
    pairs = []
    for first, (top, left) in enumerate(offsets):
        for second in range(first + 1, len(offsets)):
            down = _shared(top, offsets[second][0], size[0], panorama[0])
            across = _shared(left, offsets[second][1], size[1], panorama[1])
            pairs += [(first, second, (y[0], x[0]), (y[1], x[1])) for y in down for x in across]
    return pairs


def _shared(start: int, other: int, side: int, length: int) -> list[tuple[slice, slice]]:
    """What two spans of ``side`` pixels share on a ring of ``length``: for each part its place in either span."""
    parts = []
    for turn in sorted({(other - start) % length, (other - start) % length - length}):
        if abs(turn) < side:
            low, high = max(0, turn), min(side, side + turn)
            parts.append((slice(low, high), slice(low - turn, high - turn)))
    return parts
