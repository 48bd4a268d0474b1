"""Tiles cover a photo, masks move into its frame run by run, and what a seam cut is joined again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.helpers import instances
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle, rle_from_mask
from weaksam.structures.tiling import Tile, in_photo, joined_tiles, rle_in_photo, tiles_of


def test_tiles_by_hand() -> None:
    assert tiles_of((100, 250), 100, 0.25) == [Tile(0, 0, 100, 100), Tile(75, 0, 175, 100), Tile(150, 0, 250, 100)]
    assert tiles_of((60, 40), 100, 0.5) == [Tile(0, 0, 40, 60)]
    assert tiles_of((101, 100), 100, 0.0) == [Tile(0, 0, 100, 100), Tile(0, 1, 100, 101)]


@pytest.mark.parametrize("size", [(1, 1), (64, 65), (300, 700), (1000, 64), (129, 513)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.89])
def test_tiles_cover_every_pixel_and_share_enough(size: tuple[int, int], overlap: float) -> None:
    tiles = tiles_of(size, 64, overlap)
    covered = np.zeros(size, int)
    for tile in tiles:
        tile.cut(covered)[:] += 1
        assert tile.right - tile.left == min(64, size[1]) and tile.bottom - tile.top == min(64, size[0])
    assert covered.min() >= 1
    lefts = sorted({tile.left for tile in tiles})
    assert all(64 - (after - before) >= int(64 * overlap) for before, after in itertools.pairwise(lefts))


@pytest.mark.parametrize("seed", range(6))
def test_a_mask_in_the_photo_is_that_of_the_tile(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(5, 20)), int(rng.integers(5, 20)))
    top, left = int(rng.integers(0, size[0] - 3)), int(rng.integers(0, size[1] - 3))
    tile = Tile(left, 0 if seed % 3 == 0 else top, size[1], size[0])
    mask = torch.from_numpy(rng.random((tile.bottom - tile.top, tile.right - tile.left)) < (0.2, 0.5, 0.95)[seed % 3])
    wanted = torch.zeros(size, dtype=torch.bool)
    wanted[tile.top : tile.bottom, tile.left : tile.right] = mask
    assert rle_in_photo(rle_from_mask(mask), tile, size) == rle_from_mask(wanted)  # to the letter: canonical runs


def test_an_empty_and_a_full_mask_move_too() -> None:
    tile, size = Tile(2, 1, 5, 4), (6, 7)
    for value in (False, True):
        mask = torch.full((3, 3), value)
        moved = mask_from_rle(rle_in_photo(rle_from_mask(mask), tile, size))
        assert int(moved.sum()) == 9 * value and moved[1:4, 2:5].all() == value
    whole = Tile(0, 0, 7, 6)
    assert rle_in_photo(rle_from_mask(torch.ones(6, 7, dtype=torch.bool)), whole, size)["size"] == [6, 7]


TILES = [Tile(0, 0, 100, 100), Tile(60, 0, 160, 100)]


def filled(box: tuple[int, int, int, int], tile: Tile) -> Instances:
    """A detection with its whole box as mask, in the frame of ``tile``."""
    objects = instances([box], [0], [0.5])
    mask = torch.zeros(tile.bottom - tile.top, tile.right - tile.left, dtype=torch.bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return objects.replace(masks=(rle_from_mask(mask),))


def test_an_object_that_a_seam_cut_is_whole_again() -> None:
    """It reaches from 40 to 130; each tile sees a part."""
    size = (100, 160)
    parts = [
        in_photo(filled((40, 10, 100, 30), TILES[0]), TILES[0], size),
        in_photo(filled((0, 10, 70, 30), TILES[1]), TILES[1], size),
    ]
    joined = joined_tiles(parts, TILES, 0.5, 0.5)
    assert joined.boxes.tolist() == [[40, 10, 130, 30]] and joined.scores.tolist() == [0.5]
    assert joined.masks is not None
    wanted = torch.zeros(size, dtype=torch.bool)
    wanted[10:30, 40:130] = True
    assert torch.equal(mask_from_rle(joined.masks[0]), wanted)


def test_what_both_tiles_see_is_one_object_with_the_better_score() -> None:
    parts = [instances([[70, 10, 90, 30]], [1], [0.5]), instances([[71, 10, 90, 30]], [1], [0.9])]
    joined = joined_tiles(parts, TILES, 0.5, 0.99)
    assert joined.boxes.tolist() == [[70, 10, 90, 30]] and joined.scores.tolist() == pytest.approx([0.9])


def test_other_classes_other_places_and_other_tiles_stay_apart() -> None:
    parts = [
        instances([[70, 10, 90, 30], [5, 5, 20, 20]], [1, 0], [0.5, 0.3]),
        instances([[70, 10, 90, 30], [70, 50, 90, 70], [120, 5, 150, 20]], [0, 1, 0], [0.9, 0.4, 0.2]),
    ]
    joined = joined_tiles(parts, TILES, 0.5, 0.5)
    assert joined.scores.tolist() == pytest.approx([0.9, 0.5, 0.4, 0.3, 0.2])


def test_each_detection_has_one_partner_the_best_first() -> None:
    """Two boxes of the first tile look alike in what is shared: the better one alone takes the whole object."""
    parts = [
        instances([[40, 10, 100, 30], [0, 10, 100, 30]], [0, 0], [0.8, 0.1]),
        instances([[60, 10, 130, 30]], [0], [0.6]),
    ]
    joined = joined_tiles(parts, TILES, 0.5, 1.0)
    assert joined.boxes.tolist() == [[40, 10, 130, 30], [0, 10, 100, 30]]


def test_an_object_over_three_tiles_is_one() -> None:
    tiles = tiles_of((50, 120), 50, 0.3)
    assert [tile.left for tile in tiles] == [0, 35, 70]
    size, parts = (50, 120), []
    for tile in tiles:
        seen = instances([[max(tile.left, 10) - tile.left, 5, min(tile.right, 110) - tile.left, 40]], [0], [0.5])
        parts.append(in_photo(seen, tile, size))
    assert joined_tiles(parts, tiles, 0.5, 0.5).boxes.tolist() == [[10, 5, 110, 40]]


def test_nothing_seen_is_nothing() -> None:
    assert len(joined_tiles([], [], 0.5, 0.5)) == 0
    nothing = [Instances.empty(scored=True, masked=True)] * 2
    joined = joined_tiles(nothing, TILES, 0.5, 0.5)
    assert len(joined) == 0 and joined.masks == () and joined.scores is not None
