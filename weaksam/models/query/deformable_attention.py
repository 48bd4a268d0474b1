"""Multi-scale deformable attention: every query and head sums few cells of a feature pyramid.

On the CPU the sums are bags of embeddings over one table of all levels' cells; elsewhere they are `grid_sample`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Sizes = Sequence[tuple[int, int]]
"""``(h, w)`` of each level of a pyramid, in cells."""

_CORNERS = 4


def deformable_attention(values: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums ``(B, Q, H * D)`` of ``values`` at ``locations`` (Zhu et al., ICLR 2021, equation 3).

    ``values`` (B, S, H, D): the cells of all levels, one level of ``sizes`` after the other, row by row, for H heads.
    ``locations`` (B, Q, H, L, P, 2): x and y as shares of the level's width and height, read between cells and 0
    outside. ``weights`` (B, Q, H, L, P). Formats below float32 are computed in float32. Q is at least 1. The
    gradient of a location is that of the bilinear interpolation. On the CPU the result is the same in every run.
    """
    exact = values.dtype if values.dtype == torch.float64 else torch.float32
    inputs = values.to(exact), locations.to(exact), weights.to(exact)
    if values.device.type != "cpu" or torch.compiler.is_exporting():
        return attention_by_grid_sample(inputs[0], sizes, inputs[1], inputs[2]).to(values.dtype)
    sums: Tensor = _SampledSums.apply(*inputs, tuple(sizes))
    return sums.to(values.dtype)


def attention_by_grid_sample(values: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same by torch's `grid_sample`, level by level: the plain twin, for accelerators and for export."""
    batch, _, heads, depth = values.shape
    num_queries = locations.shape[1]
    grid = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B * H, Q, P, 2)
    weight = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)[:, :, None]  # (L, B * H, 1, Q, P)
    sums = values.new_zeros(batch * heads, depth, num_queries)
    for level, of_level in enumerate(values.split([h * w for h, w in sizes], dim=1)):
        maps = of_level.permute(0, 2, 3, 1).reshape(batch * heads, depth, *sizes[level])
        sampled = F.grid_sample(maps, grid[level], mode="bilinear", padding_mode="zeros", align_corners=False)
        sums = sums + (sampled * weight[level]).sum(-1)
    return sums.view(batch, heads * depth, num_queries).transpose(1, 2)


class _Samples(NamedTuple):
    """Where the points fall between cells, each ``(B, Q, H, L, P)``."""

    column: Tensor
    """Column on the left of the point, from -1."""
    row: Tensor
    """Row above it, from -1."""
    right: Tensor
    """Share of the column on the right."""
    below: Tensor
    """Share of the row below."""
    inside: Tensor
    """Whether the point meets a cell at all."""


class _SampledSums(torch.autograd.Function):
    """Deformable attention with the gradients of its three inputs, for the CPU."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
        """Sums ``(B, Q, H * D)`` of ``values`` (B, S, H, D) at the locations of each query, by their weights."""
        table = padded_cells(values, sizes)
        samples = _samples(locations, sizes)
        inside_weights = weights * samples.inside
        cells = _cells(samples, sizes, num_rows=table.shape[1]).view(-1, weights[0, 0, 0].numel() * _CORNERS)
        of_corners = _corner_weights(inside_weights, samples).view(cells.shape)
        rows = table.view(-1, values.shape[-1])
        with torch.enable_grad():  # torch knows the gradient of the corners' weights
            of_corners.requires_grad_(any(ctx.needs_input_grad))
            sums = F.embedding_bag(cells, rows, mode="sum", per_sample_weights=of_corners)
        ctx.sums, ctx.sizes, ctx.table_shape = sums, sizes, table.shape
        ctx.save_for_backward(cells, of_corners, inside_weights, samples.right, samples.below)
        return sums.detach().view(*locations.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of values, locations and weights by that of the sums ``(B, Q, H * D)``."""
        cells, of_corners, weights, right, below = ctx.saved_tensors
        of_rows = gradient.reshape(len(cells), -1).contiguous()
        of_values = None
        if ctx.needs_input_grad[0]:
            of_table = _transposed_product(cells, of_corners.detach(), of_rows, ctx.table_shape[:3].numel())
            of_values = _without_padding(of_table.view(ctx.table_shape), ctx.sizes)
        (of_each_corner,) = torch.autograd.grad(ctx.sums, of_corners, of_rows, retain_graph=True)
        corners = of_each_corner.view(*weights.shape, _CORNERS)
        of_locations, of_weights = _gradients_of_samples(corners, weights, right, below, ctx.sizes)
        return of_values, of_locations, of_weights, None


def padded_cells(values: Tensor, sizes: Sizes) -> Tensor:
    """Rows ``(B, T, H, D)`` in which zeros surround every level of ``values`` (B, S, H, D).

    A level of h x w cells has h + 2 rows of w + 1: the zero behind a row's last cell is also that before the next row's
    first. One zero more ends the level.
    """
    table = values.new_zeros(len(values), sum(_num_padded(size) for size in sizes), *values.shape[2:])
    for part, of_level in zip(_inner(table, sizes), _levels(values, sizes), strict=True):
        part.copy_(of_level)
    return table


def _without_padding(table: Tensor, sizes: Sizes) -> Tensor:
    """Cells ``(B, S, H, D)`` of a padded table ``(B, T, H, D)``."""
    num_cells = sum(h * w for h, w in sizes)
    values = table.new_empty(len(table), num_cells, *table.shape[2:])
    for part, of_level in zip(_inner(table, sizes), _levels(values, sizes), strict=True):
        of_level.copy_(part)
    return values


def _levels(values: Tensor, sizes: Sizes) -> list[Tensor]:
    """Each level's cells as a view ``(B, h, w, H, D)``."""
    parts = values.split([h * w for h, w in sizes], dim=1)
    return [part.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]


def _inner(table: Tensor, sizes: Sizes) -> list[Tensor]:
    """The same of a padded table."""
    views, start = [], 0
    for height, width in sizes:
        first = start + width + 2
        rows = table[:, first : first + height * (width + 1)].unflatten(1, (height, width + 1))
        views.append(rows[:, :, :width])
        start += _num_padded((height, width))
    return views


def _num_padded(size: tuple[int, int]) -> int:
    """Rows of the table that a level of ``size`` (h, w) takes."""
    return (size[0] + 2) * (size[1] + 1) + 1


def _samples(locations: Tensor, sizes: Sizes) -> _Samples:
    """Where points fall; those outside lie on the zeros around the map."""
    lengths = locations.new_tensor([[w, h] for h, w in sizes])  # (L, 2)
    position = locations * lengths[:, None] - 0.5
    inside = ((position > -1) & (position < lengths[:, None])).all(-1)
    (x, width), (y, height) = ((position[..., axis], lengths[:, None, axis]) for axis in range(2))
    x, y = x.clamp(min=-1).minimum(width), y.clamp(min=-1).minimum(height)
    column, row = x.floor().minimum(width - 1), y.floor().minimum(height - 1)
    return _Samples(column, row, x - column, y - row, inside)


def _cells(samples: _Samples, sizes: Sizes, num_rows: int) -> Tensor:
    """Rows of the table (its ``num_rows`` of every photo) at the four corners of each point, ``(B, Q, H, L, P, 4)``."""
    batch, _, heads, num_levels, _ = samples.column.shape
    index = torch.int32 if batch * num_rows * heads < 2**31 else torch.int64
    starts = [sum(_num_padded(size) for size in sizes[:level]) for level in range(num_levels)]
    first = torch.tensor(starts, dtype=index)[:, None]
    stride = torch.tensor([w + 1 for _, w in sizes], dtype=index)[:, None]
    cell = (samples.row.to(index) + 1).mul_(stride).add_(samples.column.to(index)).add_(first + 1)
    cell += torch.arange(batch, dtype=index)[:, None, None, None, None] * num_rows
    cell = cell.mul_(heads).add_(torch.arange(heads, dtype=index)[:, None, None])
    steps = torch.stack([torch.zeros_like(stride), torch.ones_like(stride), stride, stride + 1], dim=-1) * heads
    return cell[..., None] + steps


def _corner_weights(weights: Tensor, samples: _Samples) -> Tensor:
    """Weights ``(B, Q, H, L, P, 4)`` of the corners: upper left, upper right, lower left, lower right."""
    corners = weights.new_empty(*weights.shape, _CORNERS)
    lower = weights * samples.below
    for side, of_row in enumerate((weights - lower, lower)):
        torch.mul(of_row, samples.right, out=corners[..., 2 * side + 1])
        torch.sub(of_row, corners[..., 2 * side + 1], out=corners[..., 2 * side])
    return corners


def _transposed_product(cells: Tensor, weights: Tensor, of_rows: Tensor, num: int) -> Tensor:
    """Gradient ``(num, D)`` of the table's rows: each gets the gradients ``of_rows`` (R, D) that it had a part in.

    ``cells`` (R, n) int and ``weights`` (R, n) are a sparse matrix, whose transposed product scipy adds up row by row.
    """
    offsets = torch.arange(0, cells.numel() + 1, cells.shape[1], dtype=cells.dtype)
    parts = (part.flatten().numpy() for part in (weights, cells))
    matrix = csr_array((*parts, offsets.numpy()), shape=(len(cells), num))
    return torch.from_numpy(matrix.T @ of_rows.numpy())


def _gradients_of_samples(
    corners: Tensor, weights: Tensor, right: Tensor, below: Tensor, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Gradients of locations ``(B, Q, H, L, P, 2)`` and weights ``(B, Q, H, L, P)`` from those of the corners.

    ``corners`` (B, Q, H, L, P, 4) are gradients of the corners' weights: products of the output's gradient and a cell.
    """
    upper_left, upper_right, lower_left, lower_right = corners.unbind(-1)
    across_upper, across_lower = upper_right - upper_left, lower_right - lower_left
    upper = torch.addcmul(upper_left, right, across_upper)
    down = torch.addcmul(lower_left, right, across_lower) - upper
    of_weights = torch.addcmul(upper, below, down)
    across = torch.addcmul(across_upper, below, across_lower - across_upper)
    lengths = weights.new_tensor([[w, h] for h, w in sizes])
    of_locations = torch.stack([across, down], dim=-1).mul_(weights[..., None]).mul_(lengths[:, None])
    return of_locations, of_weights
