"""Masks as polygons along their pixels' edges: by hand, and there and back for masks of every kind."""

import numpy as np
import pytest
import torch

from weaksam.structures.mask_polygons import crosses_itself, mask_parts, polygon_from_rle, polygons_from_rle
from weaksam.structures.masks import mask_from_rle, rle_area, rle_from_mask, rle_from_polygons


def rle(rows: list[str]):
    return rle_from_mask(torch.tensor([[letter == "#" for letter in row] for row in rows]))


def filled(polygons, size) -> np.ndarray:
    """The pixels that COCO's even-odd rule fills, of all polygons together."""
    return mask_from_rle(rle_from_polygons([polygon.reshape(-1).tolist() for polygon in polygons], size)).numpy()


def test_a_ring_has_an_outline_and_a_hole() -> None:
    (part,) = mask_parts(rle(["....", ".###", ".#.#", ".###"]))
    assert {tuple(corner) for corner in part.outline.tolist()} == {(1, 1), (4, 1), (4, 4), (1, 4)}
    (hole,) = part.holes
    assert {tuple(corner) for corner in hole.tolist()} == {(2, 2), (3, 2), (3, 3), (2, 3)}


def test_pixels_that_touch_at_a_corner_are_two_parts() -> None:
    for rows in (["#.", ".#"], [".#", "#."]):
        first, second = mask_parts(rle(rows))
        assert len(first.outline) == len(second.outline) == 4 and first.outline[:, 1].min() == 0


def test_a_part_within_a_hole_is_a_part_of_its_own() -> None:
    outer, inner = mask_parts(rle(["#####", "#...#", "#.#.#", "#...#", "#####"]))
    assert len(outer.holes) == 1 and not inner.holes
    assert inner.outline.min() == 2 and inner.outline.max() == 3


def test_an_empty_mask_has_no_polygon() -> None:
    empty = rle(["...", "..."])
    assert mask_parts(empty) == [] and polygons_from_rle(empty) == [] and polygon_from_rle(empty) is None


@pytest.mark.parametrize("seed", range(60))
def test_polygons_give_the_mask_again(seed: int) -> None:
    draw = np.random.default_rng(seed)
    height, width = draw.integers(1, 20, 2)
    mask = draw.random((height, width)) < draw.random()
    encoded = rle_from_mask(torch.from_numpy(mask))
    assert (filled(polygons_from_rle(encoded), mask.shape) == mask).all()
    single = polygon_from_rle(encoded)
    assert not mask.any() if single is None else (filled([single], mask.shape) == mask).all()


def test_a_large_mask_of_many_holes_is_joined_soon() -> None:
    mask = torch.zeros(300, 400, dtype=torch.bool)
    mask[10:290, 10:390] = True
    mask[20:280:10, 20:380:10] = False  # 936 holes
    single = polygon_from_rle(rle_from_mask(mask))
    assert (filled([single], mask.shape) == mask.numpy()).all()


def area_of(points: list[list[float]], size: tuple[int, int] = (200, 200)) -> float:
    return float(rle_area([rle_from_polygons([[value for point in points for value in point]], size)]))


def test_crossing_is_told_from_touching() -> None:
    bow = [[0, 0], [10, 10], [10, 0], [0, 10]]
    square = [[0, 0], [10, 0], [10, 10], [0, 10]]
    assert crosses_itself(bow, area_of(bow)) and not crosses_itself(square, area_of(square))
    ring = polygons_from_rle(rle(["####", "#..#", "#.##", "####"]))[0]
    assert not crosses_itself(ring, 13)


def test_crossing_is_found_among_many_corners() -> None:
    turns = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    circle = np.stack([100 + 60 * np.cos(turns), 100 + 60 * np.sin(turns)], axis=1)
    eight = np.stack([100 + 60 * np.cos(turns), 100 + 60 * np.sin(2 * turns)], axis=1)
    assert not crosses_itself(circle, area_of(circle.tolist())) and crosses_itself(eight, area_of(eight.tolist()))
