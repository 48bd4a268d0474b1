"""RoIAlign over one map or a pyramid: on the CPU as a bag of embeddings, elsewhere torchvision's."""

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
    it RoIs are at least one cell wide, as torchvision's detectors are used to. No RoI: ``(0, C, size, size)``.

    Every output cell is a weighted sum of few map cells. torchvision's CPU code adds them channel by channel, and
    their gradients one atomic addition at a time; here all channels of a cell lie side by side and the sums are those
    of ``embedding_bag``. The values differ in rounding alone, and the gradient is the same in every run.
    """
    if maps.device.type != "cpu":
        return torch.ops.torchvision.roi_align(maps, rois, scale, size, size, sampling_ratio, aligned)
    level = torch.zeros(len(rois), dtype=torch.int64)
    return _bags([maps], rois, level, [scale], size, sampling_ratio, aligned)


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
        return _bags(maps, numbered(boxes), self.level_of(boxes), scales, size, self.sampling_ratio, aligned=False)


def numbered(boxes: Sequence[Tensor]) -> Tensor:
    """Rows ``(sum R_i, 5)`` of photo number, x1, y1, x2, y2 of at least one photo's boxes (R_i, 4)."""
    rows = [torch.cat([torch.full_like(one[:, :1], photo), one], dim=1) for photo, one in enumerate(boxes)]
    return torch.cat(rows)


def _bags(
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
    cell, weight = sampled_cells(rois, level, [one.shape for one in maps], scales, size, sampling_ratio, aligned)
    cell, weight = (one.transpose(2, 3).reshape(-1, (2 * sampling_ratio) ** 2) for one in (cell, weight))
    rows = [one.permute(0, 2, 3, 1).reshape(-1, channels) for one in maps]
    table = rows[0] if len(rows) == 1 else torch.cat(rows)
    found = embedding_bag(cell, table, mode="sum", per_sample_weights=weight.to(table))
    return found.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


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
    height, width = (torch.tensor([one[axis] for one in shapes], device=rois.device)[level] for axis in (2, 3))
    sizes = [one[0] * one[2] * one[3] for one in shapes]
    first = torch.tensor([sum(sizes[:place]) for place in range(len(sizes))], device=rois.device)[level]
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
    place = start[:, None, None] + output_cell * step + sample * step / num  # (R, size, num)
    counts = (place >= -1) & (place <= length)
    place = place.clamp(min=0).minimum((length - 1).to(place))
    below = place.long()
    above_share = (place - below).double()
    weight = torch.stack([1 - above_share, above_share], dim=-1) * counts[..., None] / num
    cell = torch.stack([below, (below + 1).minimum(length - 1)], dim=-1)
    return cell.flatten(2), weight.flatten(2)
