"""Photos at the detector's size: by hand, with the boxes and masks that shrink with them."""

import pytest
import torch

from tests.helpers import instances, write_photo
from weaksam.engine.detectors.photos import fit_size, load_scales, shrink
from weaksam.structures.dataset import Sample
from weaksam.structures.masks import mask_from_rle, rle_from_mask


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (288, 384)), ((640, 480), (384, 288)), ((100, 400), (104, 416)), ((288, 300), (288, 300))],
)
def test_resizing_keeps_the_short_side_unless_the_long_one_would_be_too_long(size, expected):
    assert fit_size(size, 288, 416) == expected


def test_boxes_and_masks_shrink_with_the_photo():
    full = torch.zeros(96, 64, dtype=torch.bool)
    full[32:64, 16:48] = True
    small = shrink(instances([[16, 32, 48, 64]]).replace(masks=(rle_from_mask(full),)), (96, 64), (48, 32))
    assert small.boxes.tolist() == [[8, 16, 24, 32]]
    mask = mask_from_rle(small.masks[0])
    assert mask.shape == (48, 32) and mask[16:32, 8:24].all() and int(mask.sum()) == 256


def test_every_scale_has_its_own_limit_or_one_for_all(tmp_path):
    path = write_photo(tmp_path / "a.png", size=(40, 120))
    sample = Sample("a.png", path, (40, 120), (), None, 1)
    sizes = [tuple(photo.image.shape[1:]) for photo in load_scales(sample, 80, 160, (0.5, 1.0, 2.0))]
    assert sizes == [(27, 80), (53, 160), (107, 320)]  # the longer side limits each
    sizes = [tuple(photo.image.shape[1:]) for photo in load_scales(sample, 80, 160, (0.5, 1.0, 2.0), longest=270)]
    assert sizes == [(40, 120), (80, 240), (90, 270)]
