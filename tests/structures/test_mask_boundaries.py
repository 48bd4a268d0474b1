"""Boundaries of masks against the library's and by hand, and the boundary IoU of pairs against plain loops."""

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as library
from scipy import ndimage

from weaksam.structures.mask_boundaries import boundary_from_rle, boundary_width, pairwise_boundary_iou
from weaksam.structures.masks import mask_from_rle, pairwise_mask_iou, rle_from_mask


def blobs(size: tuple[int, int], seed: int, level: float = 0.55) -> torch.Tensor:
    """A bool mask of smoothed noise with holes, islands and parts on the photo's edge."""
    noise = np.random.default_rng(seed).random(size)
    return torch.from_numpy(ndimage.uniform_filter(noise, 5) < level)


def square(start: int, stop: int, side: int = 60) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[start:stop, start:stop] = True
    return mask


def eroded(mask: np.ndarray, width: int) -> np.ndarray:
    """As published: a border of background is added, and the mask eroded by 3 x 3 pixels ``width`` times."""
    return ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)[1:-1, 1:-1]


@pytest.mark.parametrize("size", [(64, 80), (240, 33), (37, 151), (1, 1), (3, 400), (400, 3)])
def test_boundary_is_the_mask_without_its_eroded_part(size):
    for seed in range(5):
        mask = blobs(size, seed)
        wanted = mask.numpy() & ~eroded(mask.numpy(), boundary_width(size))
        rle = rle_from_mask(mask)
        assert (mask_from_rle(boundary_from_rle(rle)).numpy() == wanted).all()
        if size[0] > 2 * boundary_width(size):  # the library's erosion of lower photos keeps some pixels
            assert boundary_from_rle(rle)["counts"] == library.rleToBoundary(rle)["counts"].decode()


def test_boundary_by_hand():
    # 60 x 60: diagonal 84.9, width 2; of 20 x 20 pixels 16 x 16 are no boundary
    assert boundary_width((60, 60)) == 2 and boundary_width((5, 5)) == 1
    boundary = mask_from_rle(boundary_from_rle(rle_from_mask(square(10, 30))))
    assert boundary.sum() == 400 - 256 and not boundary[12:28, 12:28].any()
    # The photo's edge is a boundary too
    whole = mask_from_rle(boundary_from_rle(rle_from_mask(square(0, 60))))
    assert whole.sum() == 3600 - 56 * 56
    nothing = rle_from_mask(square(0, 0))
    assert boundary_from_rle(nothing) == nothing


def test_iou_by_hand():
    outer, inner = rle_from_mask(square(10, 30)), rle_from_mask(square(12, 28))
    # The rings 10-12 and 12-14 do not meet; equal masks do wholly; of two that do not overlap neither is outlined
    assert pairwise_boundary_iou([inner], [outer]).tolist() == [[0]]
    apart = rle_from_mask(square(40, 50))
    assert pairwise_boundary_iou([outer, apart], [outer]).tolist() == [[1], [0]]
    # One pixel further in: 18 x 18 in 20 x 20, rings of 144 and 128 pixels that share 18^2 - 16^2 = 68
    nearly = rle_from_mask(square(11, 29))
    assert pairwise_boundary_iou([nearly], [outer]).item() == pytest.approx(68 / (144 + 128 - 68))
    assert pairwise_mask_iou([nearly], [outer]).item() == pytest.approx(0.81)
    # A small object is all boundary, so that its mask IoU counts
    assert pairwise_boundary_iou([rle_from_mask(square(10, 12))], [rle_from_mask(square(10, 13))]).item() == (
        pytest.approx(4 / 9)
    )
    # A crowd has no outline of its own: COCO's mask IoU, the intersection by the first mask alone
    assert pairwise_boundary_iou([inner], [outer], torch.tensor([True])).item() == 1
    assert pairwise_boundary_iou([], [outer]).shape == (0, 1)


def test_equals_a_plain_loop_over_all_pairs():
    first = [rle_from_mask(blobs((60, 70), seed, 0.45)) for seed in range(4)] + [rle_from_mask(torch.zeros(60, 70) > 0)]
    second = [rle_from_mask(blobs((60, 70), seed, 0.5)) for seed in range(2, 6)]
    crowd = torch.tensor([False, True, False, False])
    wanted = torch.zeros(5, 4)
    for row, rle1 in enumerate(first):
        for column, rle2 in enumerate(second):
            mask1, mask2 = mask_from_rle(rle1), mask_from_rle(rle2)
            ring1, ring2 = (mask & ~torch.from_numpy(eroded(mask.numpy(), 2)) for mask in (mask1, mask2))
            shared, joined = (mask1 & mask2).sum(), (mask1.sum() if crowd[column] else (mask1 | mask2).sum())
            rings = (ring1 & ring2).sum() / (ring1 | ring2).sum().clamp(min=1)
            mask_iou = shared / joined.clamp(min=1)
            wanted[row, column] = mask_iou if crowd[column] else torch.minimum(mask_iou, rings)
    assert pairwise_boundary_iou(first, second, crowd).numpy() == pytest.approx(wanted.numpy(), abs=1e-6)
    assert 0.2 < float(wanted.mean()) < 0.9
