"""Detecting tile by tile finds what lies across seams, and holds a few tiles at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.helpers import block_photo, instances
from tests.prediction.toys import toy_checkpoint
from weaksam.prediction.predictor import Predictor
from weaksam.prediction.tiles import TileSettings, detect_in_tiles
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle, rle_from_mask


def red_blocks(images: Sequence[np.ndarray]) -> list[Instances]:
    """Every connected red region of each photo, box and mask."""
    detections = []
    for image in images:
        numbers, count = ndimage.label(image[..., 0] > 200)
        masks = [torch.from_numpy(numbers == number) for number in range(1, count + 1)]
        boxes = []
        for mask in masks:
            rows, columns = (mask.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
            boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
        rles = tuple(rle_from_mask(mask) for mask in masks)
        detections.append(instances(boxes, [0] * count, [0.5] * count).replace(masks=rles))
    return detections


def test_blocks_across_seams_are_found_as_in_the_whole_photo() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    blocks = [(10, 20, 50, 60), (90, 10, 260, 40), (100, 90, 290, 280), (330, 5, 345, 295), (5, 250, 8, 253)]
    for left, top, right, bottom in blocks:
        image[top:bottom, left:right, 0] = 255
    (whole,) = red_blocks([image])
    tiled = detect_in_tiles(red_blocks, image, TileSettings(side=128, overlap=0.25))
    assert sorted(tiled.boxes.tolist()) == sorted(whole.boxes.tolist()) == sorted(map(list, blocks))
    assert tiled.masks is not None and whole.masks is not None
    by_box = {tuple(box): rle for box, rle in zip(whole.boxes.tolist(), whole.masks, strict=True)}
    for box, rle in zip(tiled.boxes.tolist(), tiled.masks, strict=True):
        assert torch.equal(mask_from_rle(rle), mask_from_rle(by_box[tuple(box)]))


def test_a_photo_no_larger_than_a_tile_is_seen_whole() -> None:
    predictor = Predictor(toy_checkpoint("mask_rcnn"), device="cpu")
    image = block_photo(0)
    whole, tiled = predictor.predict(image), predictor.predict(image, tiles=160)
    assert torch.equal(whole.boxes, tiled.boxes) and whole.instances.masks == tiled.instances.masks


@pytest.mark.parametrize("architecture", ["faster_rcnn", "mask_rcnn", "mask2former", "weak_frozen"])
def test_every_detector_looks_at_tiles(architecture: str) -> None:
    predictor = Predictor(toy_checkpoint(architecture), device="cpu")
    image = np.concatenate([block_photo(0), block_photo(1)], axis=1)  # (120, 320, 3)
    tiled = predictor.predict(image, tiles=TileSettings(side=120, overlap=0.5))
    assert len(tiled) > 0 and tiled.size == (120, 320) and float(tiled.boxes.max()) <= 320
    assert tiled.masks is None or tiled.masks.shape[1:] == (120, 320)


def test_no_more_than_a_few_tiles_are_held_at_once() -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    seen: list[int] = []

    def count(images: Sequence[np.ndarray]) -> list[Instances]:
        seen.append(len(images))
        assert all(tile.shape == (100, 100, 3) for tile in images)
        return [Instances.empty(scored=True) for _ in images]

    assert len(detect_in_tiles(count, image, TileSettings(side=100, overlap=0.0))) == 0
    assert sum(seen) == 100 and max(seen) == 8
