"""Describe places by sines and cosines, and where the photos of a padded batch lie on every level of a pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.models.full_precision import full_precision
from weaksam.structures.devices import numbers_on

_QUERY_TEMPERATURE = 10000.0
"""Ratio of the longest to the shortest wave for queries, as published."""


class CellWaves(NamedTuple):
    """How the places of the pyramid's cells become waves."""

    temperature: float = 20.0
    """Ratio of the longest to the shortest wave."""
    offset: float = 1.0
    """What counts as a cell's place, in cells from its left and upper edge: 1 is its far edge, 0.5 its centre."""


_FIRST_SIDE = 0.05
"""Side of the box that a cell of the first level proposes, as a share of the photo; each level doubles it."""
_BORDER = 0.01
"""Cells this close to the photo's border, as a share of it, propose nothing."""


def inverse_sigmoid(shares: Tensor, least: float = 1e-5) -> Tensor:
    """Logits of ``shares`` in [0, 1]; both a share and its complement count as at least ``least``."""
    shares = shares.clamp(0, 1)
    return (shares.clamp(min=least) / (1 - shares).clamp(min=least)).log()


def waves(shares: Tensor, num: int, temperature: float) -> Tensor:
    """Sines and cosines in turn ``(..., num)`` of ``shares`` (...), where 1 is a whole turn of the shortest wave."""
    pairs = torch.div(torch.arange(num, device=shares.device), 2, rounding_mode="floor")
    angles = (2 * math.pi * shares)[..., None] / temperature ** (2 * pairs / num)
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


def box_waves(boxes: Tensor, dims: int) -> Tensor:
    """Embedding ``(..., 2 * dims)`` of relative boxes ``(..., 4)``: centre x and y, width, height; y comes first."""
    x, y, width, height = (waves(side, dims // 2, _QUERY_TEMPERATURE) for side in full_precision(boxes).unbind(-1))
    return torch.cat([y, x, width, height], dim=-1)


@dataclass(frozen=True)
class PyramidAreas:
    """Which cells of every level belong to the photos of a batch, which are padded on the right and below.

    ``sizes`` (h, w) of the L levels, S cells in all; ``valid`` (B, L, 2) float: columns and rows of each photo.
    """

    sizes: tuple[tuple[int, int], ...]
    valid: Tensor
    is_padded: bool
    """Whether any photo is padded."""

    @classmethod
    def of(
        cls,
        sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
        photo_sizes: Sequence[tuple[int, int]],
        device: torch.device,
    ) -> PyramidAreas:
        """The areas of photos of ``photo_sizes`` (h, w) in a batch of ``padded_size`` (H, W), on ``device``.

        A cell belongs to the photo if the pixel at its upper left corner does, as in mmdet.
        """
        height, width = padded_size
        valid = [
            [[math.ceil(w * columns / width), math.ceil(h * rows / height)] for rows, columns in sizes]
            for h, w in photo_sizes
        ]
        is_padded = any(tuple(size) != tuple(padded_size) for size in photo_sizes)
        return cls(tuple(sizes), numbers_on(device, valid), is_padded)

    @cached_property
    def ratios(self) -> Tensor:
        """Share ``(B, L, 2)`` of each level's width and height that the photo takes."""
        return self.valid / numbers_on(self.valid.device, [[w, h] for h, w in self.sizes], self.valid.dtype)

    @cached_property
    def points(self) -> Tensor:
        """Centre ``(B, S, 2)`` of every cell as x and y relative to the photo; beyond 1 in the padding."""
        return torch.cat([torch.stack(self._grid(level, 0.5), dim=-1).flatten(1, 2) for level in self._levels()], dim=1)

    @cached_property
    def padding(self) -> Tensor | None:
        """Bool ``(B, S)``: cells beyond their photo; None where no photo is padded."""
        return (self.points > 1).any(-1) if self.is_padded else None

    def embedding(self, dims: int, cell_waves: CellWaves) -> Tensor:
        """Sine embedding ``(B, S, dims)`` of every cell's place in its photo, y first."""
        return torch.cat([self._level_embedding(level, dims // 2, cell_waves) for level in self._levels()], dim=1)

    def proposals(self) -> tuple[Tensor, Tensor]:
        """Logits ``(B, S, 4)`` of the box around each cell (centre, sides), and bool ``(B, S)``: cells that propose.

        Cells in the padding and near the border do not; their logits are infinite.
        """
        num_cells = [h * w for h, w in self.sizes]
        side = numbers_on(self.valid.device, [_FIRST_SIDE * 2.0**level for level in self._levels()])
        repeats = numbers_on(self.valid.device, num_cells, torch.int64)
        sides = side.repeat_interleave(repeats, output_size=sum(num_cells))
        boxes = torch.cat([self.points, sides[:, None].expand(self.valid.shape[0], -1, 2)], dim=-1)
        proposing = ((boxes > _BORDER) & (boxes < 1 - _BORDER)).all(-1)
        logits = (boxes / (1 - boxes)).log()
        return logits.masked_fill(~proposing[..., None], torch.inf), proposing

    def _levels(self) -> range:
        return range(len(self.sizes))

    def _grid(self, level: int, offset: float) -> tuple[Tensor, Tensor]:
        """x and y ``(B, h, w)`` of a level's cells, ``offset`` cells from their left and upper edge, as shares."""
        height, width = self.sizes[level]
        x, y = self._along_axes(level, offset, 0.0)
        return x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)

    def _along_axes(self, level: int, offset: float, more: float) -> tuple[Tensor, Tensor]:
        """The shares ``(B, w)`` and ``(B, h)`` along each axis; ``more`` is added to the number of valid cells."""
        height, width = self.sizes[level]
        columns, rows = (self.valid[:, level, axis, None] + more for axis in range(2))
        device = self.valid.device
        return (
            (torch.arange(width, device=device) + offset) / columns,
            (torch.arange(height, device=device) + offset) / rows,
        )

    def _level_embedding(self, level: int, dims: int, cell_waves: CellWaves) -> Tensor:
        """Embedding ``(B, h * w, 2 * dims)`` of a level's cells."""
        height, width = self.sizes[level]
        along_axes = self._along_axes(level, cell_waves.offset, 1e-6)
        x, y = (waves(share, dims, cell_waves.temperature) for share in along_axes)
        of_cells = [y[:, :, None].expand(-1, -1, width, -1), x[:, None].expand(-1, height, -1, -1)]
        return torch.cat(of_cells, dim=-1).flatten(1, 2)
