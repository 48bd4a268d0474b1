"""Class maps of several views become one map."""

from __future__ import annotations

import torch

from weaksam.stages.clues.maps import ClassMaps, both_views, scaled_size, shrunk_size, views_mean
from weaksam.structures.clue_points import CROSS


def test_views_become_one_map_by_hand() -> None:
    pixels = torch.arange(6.0).reshape(1, 1, 2, 3).expand(1, 3, 2, 3)
    views = both_views(pixels)
    assert views.shape == (2, 3, 2, 3) and views[1, 0, 0].tolist() == [2, 1, 0]
    assert torch.equal(views_mean(views), pixels[0])  # turned back, both say the same
    assert scaled_size((375, 500), 0.8, 16) == (304, 400)
    assert scaled_size((10, 500), 0.8, 16) == (16, 400)
    assert shrunk_size((300, 1280), 640) == (150, 640) and shrunk_size((30, 40), 640) == (30, 40)


def test_stored_maps_are_the_mean_over_scales_and_heads() -> None:
    first = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 3)
    second = torch.tensor([5.0, 7.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 6)
    maps = ClassMaps(torch.tensor([0]), torch.ones(1), {CROSS: (first, second)}, (64, 96), (64, 96))
    assert maps.grid == (2, 3)
    assert torch.equal(maps.stored(CROSS), torch.full((1, 2, 3), 4.0))
    assert ClassMaps(torch.zeros(0), torch.zeros(1), {}, (64, 96), (64, 96)).grid == (0, 0)
