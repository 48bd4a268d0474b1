"""Pool RoIs by RoIAlign from one map or a pyramid: on the CPU as a bag of embeddings, elsewhere by torchvision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper


def roi_align(
    maps: Tensor, rois: Tensor, *, scale: float, size: int, sampling_ratio: int = 2, aligned: bool = True
) -> Tensor:
    """Features ``(R, C, size, size)`` of ``rois`` (R, 5): number of the map, x1, y1, x2, y2 in input pixels.

    RoIAlign (He et al., ICCV 2017) of float ``maps`` (B, C, h, w) with ``scale`` cells per input pixel and
    ``sampling_ratio`` samples a side of each output cell. ``aligned`` moves by half a cell, as it should be; without
    it RoIs are at least one cell wide, as in torchvision's detectors. No RoI: ``(0, C, size, size)``.

    Every output cell is a weighted sum of few map cells. torchvision's CPU code adds them channel by channel, and
    their gradients one atomic addition at a time; here all channels of a cell lie side by side and the sums are those
    of ``embedding_bag``. The values differ in rounding alone, and the gradient is the same in every run.
    """
    if maps.device.type != "cpu":
        return torch.ops.torchvision.roi_align(maps, rois, scale, size, size, sampling_ratio, aligned)
    level = torch.zeros(len(rois), dtype=torch.int64)
    return _bag_align([maps], rois, level, [scale], size, sampling_ratio, aligned)


class PyramidAlign(MultiScaleRoIAlign):
    """Torchvision's RoIAlign over a feature pyramid; each RoI reads the level that suits its size (FPN, equation 1).

    ``strides``: input pixels per cell of each level, powers of two, each twice the one before.
    """

    def __init__(self, names: Sequence[str], strides: Sequence[int], size: int, sampling_ratio: int = 2) -> None:
        super().__init__(list(names), size, sampling_ratio)
        self.strides = tuple(strides)
        first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        self.level_of = LevelMapper(first, last, self.canonical_scale, self.canonical_level)

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Features ``(sum R_i, C, size, size)`` of B photos' ``boxes`` (R_i, 4) from maps ``x``, photo by photo."""
        maps = [x[name] for name in self.featmap_names]
        if maps[0].device.type != "cpu":
            return super().forward(x, boxes, image_shapes)
        (size, _), scales = self.output_size, [1 / stride for stride in self.strides]
        return _bag_align(maps, numbered(boxes), self.level_of(boxes), scales, size, self.sampling_ratio, aligned=False)


def numbered(boxes: Sequence[Tensor]) -> Tensor:
    """Rows ``(sum R_i, 5)`` of photo number, x1, y1, x2, y2 of at least one photo's boxes (R_i, 4)."""
    rows = [
        torch.cat([torch.full_like(of_photo[:, :1], number), of_photo], dim=1) for number, of_photo in enumerate(boxes)
    ]
    return torch.cat(rows)


def _bag_align(
    maps: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    scales: Sequence[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign of each RoI on the map of its ``level`` (R,): rows of one table of all maps' cells, summed in bags."""
    channels = maps[0].shape[1]
    shapes = [level_map.shape for level_map in maps]
    cell, weight = sampled_cells(rois, level, shapes, scales, size, sampling_ratio, aligned)
    samples_per_cell = (2 * sampling_ratio) ** 2
    cell = cell.transpose(2, 3).reshape(-1, samples_per_cell)  # (R * size * size, samples)
    weight = weight.transpose(2, 3).reshape(-1, samples_per_cell)
    rows = [level_map.permute(0, 2, 3, 1).reshape(-1, channels) for level_map in maps]
    table = rows[0] if len(rows) == 1 else torch.cat(rows)  # (cells of all maps, C)
    pooled = embedding_bag(cell, table, mode="sum", per_sample_weights=weight.to(table))
    return pooled.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


def sampled_cells(
    rois: Tensor,
    level: Tensor,
    shapes: Sequence[Sequence[int]],
    scales: Sequence[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """Cells that RoIAlign reads, ``(R, size, 2n, size, 2n)``, and the weight of each, float64.

    Cells are counted over all maps of the first level's ``shapes`` (B, C, h, w), then the next level's, row by row.
    Of each output cell there are n = ``sampling_ratio`` samples along y and along x, each between two cells.
    """
    height, width = (torch.tensor([shape[axis] for shape in shapes], device=rois.device)[level] for axis in (2, 3))
    num_cells = [shape[0] * shape[2] * shape[3] for shape in shapes]
    first = torch.tensor([sum(num_cells[:index]) for index in range(len(num_cells))], device=rois.device)[level]
    edges = rois[:, 1:] * torch.tensor(scales, device=rois.device, dtype=rois.dtype)[level, None]
    near, far = edges.unflatten(1, (2, 2)).unbind(1)  # (R, 2): x and y
    near, far = (near - 0.5, far - 0.5) if aligned else (near, far.maximum(near + 1))
    row, y_weight = _along_axis(near[:, 1], far[:, 1], size, sampling_ratio, height)
    column, x_weight = _along_axis(near[:, 0], far[:, 0], size, sampling_ratio, width)
    row = row + (rois[:, 0].long() * height)[:, None, None]
    cell = (row * width[:, None, None])[..., None, None] + (column + first[:, None, None])[:, None, None]
    return cell, y_weight[..., None, None] * x_weight[:, None, None]


def _along_axis(start: Tensor, end: Tensor, size: int, num: int, length: Tensor) -> tuple[Tensor, Tensor]:
    """Cells ``(R, size, 2 * num)`` below and above each sample of RoIs from ``start`` to ``end`` (R,), and weights.

    ``length`` (R,) cells there are. torchvision's rule: a sample further than one cell before the first or one behind
    the last counts 0, others are moved onto the map.
    """
    length = length[:, None, None]
    step = (end - start)[:, None, None] / size
    output_cell = torch.arange(size, device=start.device)[:, None]
    sample = torch.arange(num, device=start.device) + 0.5
    position = start[:, None, None] + output_cell * step + sample * step / num  # (R, size, num)
    counts = (position >= -1) & (position <= length)
    position = position.clamp(min=0).minimum((length - 1).to(position))
    below = position.long()
    above_share = (position - below).double()
    weight = torch.stack([1 - above_share, above_share], dim=-1) * counts[..., None] / num
    cell = torch.stack([below, (below + 1).minimum(length - 1)], dim=-1)
    return cell.flatten(2), weight.flatten(2)
