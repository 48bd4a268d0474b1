"""Put four training photos with all that lies on them into one frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weaksam.config import Settings
from weaksam.engine.detectors.frames import PhotoFrame
from weaksam.structures import boxes as box_ops
from weaksam.structures.instances import Instances


class MosaicSettings(Settings):
    """How four training photos are shown as one.

    Source: Bochkovskiy et al., YOLOv4, 2020; of pseudo-labelled photos, where it dilutes missed boxes, MixPL (Chen et
    al., 2023). Ours: photos fill their quarter, and what a quarter cuts in half is ignored.
    """

    probability: float = Field(0.0, ge=0, le=1)
    """Share of the views that show four photos; 0: none."""
    nearest: float = Field(0.3, gt=0, le=0.5)
    """The point where the four meet keeps this share of the photo's sides from its borders."""
    min_visible: float = Field(0.5, ge=0, le=1)
    """Boxes of which a smaller share of their area is left are ignored."""


def mosaic(frames: Sequence[PhotoFrame], settings: MosaicSettings, generator: torch.Generator) -> PhotoFrame:
    """Four ``frames`` in one of the first's size: upper left, upper right, lower left, lower right.

    Each is resized so that it just fills its quarter and cut to a window there; the meeting point and the windows are
    drawn. Boxes and regions go along, clipped; a box that is cut to less than ``min_visible`` of it is marked
    ``crowd``, and what lies outside goes. Tags are those of all four, as a class may be wherever one of them has it.
    """
    assert len(frames) == 4, f"wanted four photos, found {len(frames)}"
    height, width = frames[0].size
    draws = torch.rand(10, generator=generator).tolist()
    span = 1 - 2 * settings.nearest
    row = min(max(1, round(height * (settings.nearest + draws[0] * span))), height - 1)
    column = min(max(1, round(width * (settings.nearest + draws[1] * span))), width - 1)
    quarters = [(0, 0, row, column), (0, column, row, width), (row, 0, height, column), (row, column, height, width)]
    tiles = [
        _Tile(frame, quarter, (draws[2 + 2 * place], draws[3 + 2 * place]))
        for place, (frame, quarter) in enumerate(zip(frames, quarters, strict=True))
    ]

    @cache
    def read() -> Tensor:
        canvas = torch.empty(3, height, width, dtype=torch.uint8)
        for tile in tiles:
            top, left, bottom, right = tile.quarter
            canvas[:, top:bottom, left:right] = tile.pixels()
        return canvas

    names = frames[0].regions.keys()
    return PhotoFrame(
        (height, width),
        read,
        Instances.cat([_cut_marked(tile, settings.min_visible) for tile in tiles]),
        {name: Instances.cat([tile.moved(tile.frame.regions[name])[0] for tile in tiles]) for name in names},
        torch.stack([frame.tags for frame in frames]).any(dim=0),
    )


class _Tile:
    """A photo in a quarter (top, left, bottom, right), which it just fills; two ``draws`` in [0, 1) say which part."""

    def __init__(self, frame: PhotoFrame, quarter: tuple[int, int, int, int], draws: tuple[float, float]) -> None:
        self.frame, self.quarter = frame, quarter
        top, left, bottom, right = quarter
        self.window = bottom - top, right - left
        factor = max(side / of_photo for side, of_photo in zip(self.window, frame.size, strict=True))
        self.size = [
            max(side, round(of_photo * factor)) for side, of_photo in zip(self.window, frame.size, strict=True)
        ]
        self.begin = [
            int(draw * (whole - side + 1)) for draw, whole, side in zip(draws, self.size, self.window, strict=True)
        ]

    def pixels(self) -> Tensor:
        """What the quarter shows, uint8 ``(3, h, w)``."""
        image = self.frame.read()[None].float()
        image = F.interpolate(image, self.size, mode="bilinear", antialias=True, align_corners=False)[0]
        (down, across), (height, width) = self.begin, self.window
        cut = image[:, down : down + height, across : across + width]
        return cut.round().clamp(0, 255).to(torch.uint8)

    def moved(self, instances: Instances) -> tuple[Instances, Tensor]:
        """The instances of which something is left in the quarter, clipped to it, and the share ``(N,)`` that is."""
        factors = self.size[1] / self.frame.size[1], self.size[0] / self.frame.size[0]
        whole = box_ops.scale(instances.boxes, *factors)
        whole = whole - whole.new_tensor([self.begin[1], self.begin[0]] * 2)
        cut = box_ops.clip(whole, self.window)
        left = box_ops.area(cut) > 0
        shares = box_ops.area(cut)[left] / box_ops.area(whole)[left]
        top, begin = self.quarter[:2]
        placed = cut + cut.new_tensor([begin, top] * 2)
        return instances.replace(boxes=placed)[left], shares


def _cut_marked(tile: _Tile, min_visible: float) -> Instances:
    """The instances of a tile, those that are cut to less than ``min_visible`` to be ignored."""
    instances, shares = tile.moved(tile.frame.instances)
    cut = shares < min_visible - 1e-6
    if not bool(cut.any()):
        return instances
    return instances.replace(crowd=cut if instances.crowd is None else cut | instances.crowd)
