"""Hold the class maps of one photo, and make one map of those of its views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ClassMaps:
    """What a source of clues knows of one photo.

    ``labels (L,)``: the classes that are mapped; ``scores (C,)``: probability of every class. ``kinds``: for each kind
    of map (`COARSE`, `FINE`, `CROSS` of ``structures.clue_points``) one ``(N, L, h, w)`` per scale of the photo, N = 1
    of a class map, one for each layer and head of cross-attention. ``frame`` (H', W') is the picture in which peaks are
    searched, ``size`` (H, W) the photo. ``points``: by label, the places ``(P, 2)`` xy in the photo of classes that are
    known without a search. L = 0 is a photo of which nothing is known.
    """

    labels: Tensor
    scores: Tensor
    kinds: Mapping[int, tuple[Tensor, ...]]
    frame: tuple[int, int]
    size: tuple[int, int]
    points: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, int]:
        """The (h, w) at which maps are kept: the first one's own, at most an eighth of the frame; 0 x 0 of none."""
        if not self.kinds:
            return 0, 0
        height, width = next(iter(self.kinds.values()))[0].shape[2:]
        return min(height, max(1, self.frame[0] // 8)), min(width, max(1, self.frame[1] // 8))

    def stored(self, kind: int) -> Tensor:
        """One map of each class ``(L, h, w)`` on the grid: the mean over scales and over N."""
        scales = [_on_grid(maps, self.grid) for maps in self.kinds[kind]]
        return (scales[0] if len(scales) == 1 else torch.stack(scales).mean(dim=0)).mean(dim=0)


def min_max(class_map: Tensor) -> Tensor:
    """Each map of ``(..., H, W)`` stretched to [0, 1]; a constant map becomes 0."""
    low = class_map.amin(dim=(-2, -1), keepdim=True)
    high = class_map.amax(dim=(-2, -1), keepdim=True)
    return (class_map - low) / (high - low + 1e-8)


def both_views(pixels: Tensor) -> Tensor:
    """A picture ``(1, 3, H, W)`` and its mirror image as one batch ``(2, 3, H, W)``: one forward pass for both."""
    return torch.cat([pixels, pixels.flip(3)])


def views_mean(maps: Tensor) -> Tensor:
    """Mean ``(..., h, w)`` of the maps ``(V, ..., h, w)`` of a picture and, where V is 2, its mirror image's."""
    if len(maps) == 1:
        return maps[0]
    return torch.stack([maps[0], maps[1].flip(-1)]).mean(dim=0)


def fused_map(scales: Sequence[Tensor], frame: tuple[int, int]) -> Tensor:
    """One map ``(H', W')`` from the maps ``(h, w)`` of one class at several scales: cut at 0, resized, summed.

    See docs/method.md, Clues. Resizing is linear, so the views of one scale may be averaged before it.
    """
    first, *others = scales
    total = _resized(first[None, None].relu(), frame)[0, 0]
    for class_map in others:
        total = total + _resized(class_map[None, None].relu(), frame)[0, 0]
    return total


def scaled_size(frame: tuple[int, int], scale: float, step: int = 1) -> tuple[int, int]:
    """``frame`` (H, W) times ``scale``, both sides rounded to multiples of ``step``, at least one step.

    With the network's patch as ``step`` nothing of a view is cut off, so that a mirrored view has mirrored patches;
    the published code cuts the rest off, which shifts the mirrored map by up to a patch.
    """
    height, width = (max(step, round(side * scale / step) * step) for side in frame)
    return height, width


def shrunk_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """A photo's ``size`` (H, W) shrunk so that its longer side is at most ``max_side``; never enlarged."""
    factor = min(1.0, max_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps ``(N, L, h, w)`` on a grid (h', w'), untouched where that is theirs."""
    if maps.shape[2:] == grid or maps.numel() == 0:
        return maps.new_zeros(*maps.shape[:2], *grid) if maps.numel() == 0 else maps
    if maps.shape[2] >= grid[0] and maps.shape[3] >= grid[1]:
        return F.adaptive_avg_pool2d(maps, grid)
    return _resized(maps, grid)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(N, L, h, w)`` resized bilinearly."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
