"""Seeds from class maps by the contrast of regions, on values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from weaksam.stages.wsod.seeds.class_maps import instance_seeds, region_contrast


def test_contrast_by_hand() -> None:
    class_map = torch.tensor([[[4.0, 4.0, 0.0, 0.0]]])  # (1, 1, 4)
    masks = torch.tensor(
        [[[1, 1, 0, 0]], [[1, 0, 0, 0]], [[1, 1, 1, 0]], [[1, 1, 1, 1]], [[0, 0, 0, 0]], [[0, 0, 1, 0]]]
    )
    # exact: 4 * 0.5; part: (4 - 4/3) sqrt(3/16); too large: 8/3 sqrt(3/16); the rest can not split or points away
    part = (8 / 3) * (3 / 16) ** 0.5
    assert region_contrast(class_map, masks.bool())[:, 0].tolist() == pytest.approx([2.0, part, part, 0.0, 0.0, 0.0])


def test_contrast_ignores_a_constant() -> None:
    class_map, masks = torch.randn(2, 5, 6), torch.rand(7, 5, 6) > 0.5
    torch.testing.assert_close(region_contrast(class_map, masks), region_contrast(class_map + 3.0, masks))


def test_contrast_of_nothing_is_empty() -> None:
    assert region_contrast(torch.zeros(2, 3, 3), torch.zeros(0, 3, 3, dtype=torch.bool)).shape == (0, 2)
    assert region_contrast(torch.zeros(0, 3, 3), torch.ones(4, 3, 3, dtype=torch.bool)).shape == (4, 0)


def test_two_instances_are_two_seeds_and_parts_or_unions_do_not_return() -> None:
    class_map = torch.zeros(1, 8, 20)
    class_map[0, 2:6, 1:6] = 2.0
    class_map[0, 2:6, 14:18] = 1.8
    masks = torch.zeros(5, 8, 20, dtype=torch.bool)
    masks[0, 2:6, 14:18] = True  # second object
    masks[1, 2:6, 1:3] = True  # part of the first
    masks[2, 2:6, 1:6] = True  # first object
    masks[3, 2:6, 1:7] = True  # first object and a bit
    masks[4, 0:2, 0:20] = True  # background
    index, which, weight = instance_seeds(class_map, masks, share=0.5, max_seeds=5)
    assert index.tolist() == [2, 0]
    assert which.tolist() == [0, 0]
    assert weight[0] == 1.0
    assert 0.5 <= weight[1] < 1.0


def test_seeds_of_flat_maps_and_of_no_region_are_empty() -> None:
    flat, masks = torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    assert len(instance_seeds(flat, masks)[0]) == 0
    assert len(instance_seeds(torch.rand(1, 4, 4), masks[:0])[0]) == 0
