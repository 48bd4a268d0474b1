"""Masks enlarged to their photo, against torch's interpolation of the whole frame."""

import pytest
import torch
from torch.nn import functional as F

from weaksam.structures.mask_resizing import full_masks


@pytest.mark.parametrize("size", [(40, 64), (7, 5), (61, 30), (1, 90), (128, 128)])
def test_only_ties_differ_from_torch(size):
    """Noise, a corner, one cell and nothing, larger and smaller; a pixel may differ where torch is at a half."""
    generator = torch.Generator().manual_seed(size[0])
    masks = torch.rand(6, 20, 32, generator=generator) > 0.5
    masks[1] = False
    masks[2, 10:], masks[2, :, 8:] = False, False
    masks[3] = False
    masks[3, 19, 31] = True
    masks[4, :15] = False
    full = full_masks(masks, size)
    soft = F.interpolate(masks[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
    sure = (soft - 0.5).abs() > 1e-5
    assert full.dtype == torch.bool and torch.equal(full & sure, (soft >= 0.5) & sure)
    assert sure.float().mean() > 0.7
    assert not full[1].any()


def test_masks_of_the_photos_size_and_none():
    masks = torch.rand(2, 5, 6) > 0.5
    assert full_masks(masks, (5, 6)) is masks
    assert full_masks(masks[:0], (50, 60)).shape == (0, 50, 60)
