"""Compute 3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3): a quarter of the products, also backward."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.models.backbones.clamping import NO_BOUNDS, Bounds, clamped, of_clamped
from weaksam.models.backbones.products import products

_OUT, _IN = 4, 6
"""Side of a tile of the output, and of the input cells that it reads."""
_FEWEST_CHANNELS, _MOST_COVERED = 64, 1.15
"""The transforms cost more than the products they save below the first, and where tiles cover a larger share."""
_FEWEST_TILES, _FEWEST_TILES_OF_WIDE = 256, 1024
"""So they do below this number of tiles; the second where vectors of 512 bits speed up the direct sum."""

# Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.3
_OF_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OF_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OF_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def pays_off(x: Tensor, num_outputs: int) -> bool:
    """Whether `winograd3x3` of a map ``(B, C, h, w)`` to ``num_outputs`` channels is faster than the direct sum."""
    batch, channels, height, width = x.shape
    rows, columns = _num_tiles(x.shape)
    fits = x.device.type == "cpu" and x.dtype == torch.float32 and min(channels, num_outputs) >= _FEWEST_CHANNELS
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    many = batch * rows * columns >= (_FEWEST_TILES_OF_WIDE if wide else _FEWEST_TILES)
    return fits and many and rows * columns * _OUT**2 <= _MOST_COVERED * height * width


def winograd3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, bounds: Bounds = NO_BOUNDS) -> Tensor:
    """``conv2d(x, weight, bias, padding=1)`` of a map ``(B, C, h, w)``, channels last, clamped to ``bounds``.

    ``weight`` (K, C, 3, 3), ``bias`` (K,). The same to rounding, which is some ten times that of the direct sum, since
    the transforms add and subtract.
    """
    out: Tensor = _Winograd.apply(x, weight, bias, bounds)
    return out


class _Winograd(torch.autograd.Function):
    """Tiles of input, kernel and output meet as 36 matrix products; so do those of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, bounds: Bounds) -> Tensor:
        """Map ``(B, K, h, w)``, channels last."""
        of_input, of_kernel, of_output = _transforms()
        num_outputs, channels = weight.shape[:2]
        kernel = (of_kernel @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(_IN**2, channels, num_outputs)
        tiles = (of_input @ _input_tiles(x)).view(_IN**2, -1, channels)  # (36, tiles, C)
        of_products = products(tiles, kernel.transpose(1, 2)).view(_IN**2, -1)
        out = _assembled(of_output @ of_products, x.shape, num_outputs)
        out = clamped(out if bias is None else out.add_(bias[:, None, None]), bounds)
        ctx.shape, ctx.bounds = x.shape, bounds
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(tiles, kernel, *([] if bounds == NO_BOUNDS else [out]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of map, weight and bias, those that are wanted."""
        tiles, kernel, *outputs = ctx.saved_tensors
        gradient = of_clamped(gradients[0], outputs, ctx.bounds)
        of_input, of_kernel, of_output = _transforms()
        num_outputs = gradient.shape[1]
        of_products = (of_output.t() @ _output_tiles(gradient)).view(_IN**2, -1, num_outputs)  # (36, tiles, K)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_tiles = products(of_products, kernel)
            of_x = _added_up(of_input.t() @ of_tiles.view(_IN**2, -1), ctx.shape)
        if ctx.needs_input_grad[1]:
            of_weight = of_kernel.t() @ products(tiles.transpose(1, 2), of_products.transpose(1, 2)).view(_IN**2, -1)
            of_weight = of_weight.view(3, 3, -1, num_outputs).permute(3, 2, 0, 1)
        return of_x, of_weight, gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None


@lru_cache(maxsize=1)
def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Of a flattened tile of the input ``(36, 36)``, of the kernel ``(36, 9)`` and of the output ``(16, 36)``."""
    with torch.inference_mode(False):
        matrices = (torch.tensor(rows, dtype=torch.float32) for rows in (_OF_INPUT, _OF_KERNEL, _OF_OUTPUT))
        of_input, of_kernel, of_output = (torch.kron(matrix, matrix) for matrix in matrices)
    return of_input, of_kernel, of_output


def _num_tiles(shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of tiles that cover a map ``(B, C, h, w)``."""
    return -(-shape[2] // _OUT), -(-shape[3] // _OUT)


def _input_tiles(x: Tensor) -> Tensor:
    """Overlapping tiles ``(36, B * rows * columns * C)`` of a map ``(B, C, h, w)`` with a border of zeros."""
    rows, columns = _num_tiles(x.shape)
    height, width = rows * _OUT + 2, columns * _OUT + 2
    cells = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, width - x.shape[3] - 1, 1, height - x.shape[2] - 1))
    tiles = cells.unfold(1, _IN, _OUT).unfold(2, _IN, _OUT)  # (B, rows, columns, C, 6, 6)
    return tiles.permute(4, 5, 0, 1, 2, 3).reshape(_IN**2, -1)


def _output_tiles(x: Tensor) -> Tensor:
    """Tiles side by side ``(16, B * rows * columns * C)`` of a map ``(B, C, h, w)``, filled up with zeros."""
    rows, columns = _num_tiles(x.shape)
    cells = x.permute(0, 2, 3, 1)
    if x.shape[2:] != (rows * _OUT, columns * _OUT):
        cells = F.pad(cells, (0, 0, 0, columns * _OUT - x.shape[3], 0, rows * _OUT - x.shape[2]))
    tiles = cells.unflatten(2, (columns, _OUT)).unflatten(1, (rows, _OUT))  # (B, rows, 4, columns, 4, C)
    return tiles.permute(2, 4, 0, 1, 3, 5).reshape(_OUT**2, -1)


def _assembled(tiles: Tensor, shape: torch.Size, channels: int) -> Tensor:
    """The map ``(B, channels, h, w)``, channels last, of its tiles ``(16, B * rows * columns * channels)``."""
    batch, _, height, width = shape
    rows, columns = _num_tiles(shape)
    cells = tiles.view(_OUT, _OUT, batch, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    cells = cells.reshape(batch, rows * _OUT, columns * _OUT, channels)
    out = torch.empty(
        (batch, channels, height, width), dtype=tiles.dtype, device=tiles.device, memory_format=torch.channels_last
    )
    return out.copy_(cells[:, :height, :width].permute(0, 3, 1, 2))


def _added_up(tiles: Tensor, shape: torch.Size) -> Tensor:
    """The map ``(B, C, h, w)``, channels last: the sum of overlapping tiles ``(36, B * rows * columns * C)``."""
    batch, channels, height, width = shape
    rows, columns = _num_tiles(shape)
    tiles = tiles.view(_IN, _IN, batch, rows, columns, channels)
    cells = tiles.new_zeros(batch, rows * _OUT + 2, columns * _OUT + 2, channels)
    for y in range(_IN):
        for x in range(_IN):
            cells[:, y : y + rows * _OUT : _OUT, x : x + columns * _OUT : _OUT] += tiles[y, x]
    return cells[:, 1 : height + 1, 1 : width + 1].contiguous().permute(0, 3, 1, 2)
