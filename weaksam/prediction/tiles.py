"""Detect on photos far larger than the network's input, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from weaksam.config import Settings
from weaksam.structures.instances import Instances
from weaksam.structures.tiling import in_photo, joined_tiles, tiles_of

_TILES_AT_ONCE = 8


class TileSettings(Settings):
    """How a photo is cut into tiles, and how what they show is joined."""

    side: int = Field(1024, ge=64, description="pixels of a tile's sides")
    overlap: float = Field(0.25, ge=0, lt=0.9, description="least share of its side that a tile shares with the next")
    same_iou: float = Field(
        0.5, gt=0, le=1, description="IoU, in what two tiles share, from which two detections are one object"
    )
    nms_iou: float = Field(0.5, gt=0, le=1, description="joined objects of a class that overlap by more are the same")


def detect_in_tiles(
    detect: Callable[[Sequence[np.ndarray]], list[Instances]], image: np.ndarray, settings: TileSettings
) -> Instances:
    """Detections on a photo, uint8 ``(H, W, 3)``, from those of ``detect`` on its tiles, see `joined_tiles`.

    A photo no larger than a tile is given to ``detect`` whole. Beside the photo itself no more than a few tiles are in
    memory. Detections, and so their number, are limited for each tile.
    """
    size = (image.shape[0], image.shape[1])
    tiles = tiles_of(size, settings.side, settings.overlap)
    if len(tiles) == 1:
        return detect([image])[0]
    parts: list[Instances] = []
    for start in range(0, len(tiles), _TILES_AT_ONCE):
        chunk = tiles[start : start + _TILES_AT_ONCE]
        seen = detect([np.ascontiguousarray(tile.cut(image)) for tile in chunk])
        parts += [in_photo(instances, tile, size) for instances, tile in zip(seen, chunk, strict=True)]
    return joined_tiles(parts, tiles, settings.same_iou, settings.nms_iou)
