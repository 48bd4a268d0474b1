"""The segmenter protocol: masks in a working frame, boxes in photo pixels, prompts in order."""

import pytest
import torch

from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.protocol import Masks, RegionLister, Segmenter, boxes_in_photo
from weaksam.stages.proposals.prompts import grid_points
from weaksam.structures.mask_resizing import full_masks


def test_boxes_are_half_open_in_photo_pixels_and_zero_for_an_empty_mask():
    masks = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    masks[0, 1, 1:3, 2:5] = True  # rows 1-2, columns 2-4
    masks[1, 0, 3, 4] = True
    boxes = boxes_in_photo(masks, (40, 100))  # 10 photo rows and 20 photo columns to a working pixel
    assert boxes.shape == (2, 3, 4)
    assert boxes[0, 1].tolist() == [40, 10, 100, 30]
    assert boxes[1, 0].tolist() == [80, 30, 100, 40]
    assert boxes[0, 0].tolist() == [0, 0, 0, 0]


def test_full_puts_the_wanted_mask_into_the_photo():
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    masks[1, 2, :, 2:] = True
    answer = Masks(masks, torch.zeros(2, 3), torch.zeros(2, 3), boxes_in_photo(masks, (8, 12)), (8, 12))
    full = answer.full(torch.tensor([1, 0]), torch.tensor([2, 2]))
    assert full.shape == (2, 8, 12)
    assert full[0].sum(0).tolist() == [0] * 6 + [8] * 6  # the right half, to the pixel
    assert not full[1].any()
    none = torch.zeros(0, dtype=torch.int64)
    assert answer.full(none, none).shape == (0, 8, 12)


def test_full_masks_at_the_same_size_are_unchanged():
    masks = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(full_masks(masks, (5, 7)), masks)


def test_grid_follows_sams_half_step():
    points = grid_points((64, 320), 32)
    assert points.shape == (1024, 2)
    assert points[0].tolist() == [5, 1]  # 1/64 of the width and of the height
    assert points[1].tolist() == [15, 1]  # along the row first
    assert points[-1].tolist() == [315, 63]
    assert grid_points((64, 320), 0).shape == (0, 2)


def test_settings_choose_the_family(tmp_path):
    cpu = torch.device("cpu")
    tree = build_segmenter(SegmenterSettings(), cpu)
    assert isinstance(tree, Segmenter)
    assert isinstance(tree, RegionLister)
    assert tree.name == "tree"
    coarse = build_segmenter(SegmenterSettings(family="tree", tree={"long_side": 64}), cpu)
    assert coarse.fingerprint != tree.fingerprint
    with pytest.raises(ValueError, match="needs a checkpoint"):
        build_segmenter(SegmenterSettings(family="segment_anything"), cpu)
    with pytest.raises(ValueError, match="takes no weights"):
        build_segmenter(SegmenterSettings(family="tree", weights=tmp_path / "x.pth"), cpu)
