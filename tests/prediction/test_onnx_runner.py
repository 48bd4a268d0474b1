"""The runner's numpy functions compute what torchvision's and torch's do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.transforms.v2 import functional as TF

from tests.helpers import block_photo, noise_photo
from weaksam.engine.detectors.photos import fit_size
from weaksam.prediction.onnx_runner import Model, bilinear, box_of, pasted, resized


@pytest.mark.parametrize("size", [(60, 80), (33, 47), (150, 170), (120, 160), (1, 1), (240, 20)])
def test_resizing_is_that_of_torchvision_to_a_level(size: tuple[int, int]) -> None:
    for image in (noise_photo((120, 160)), block_photo(0)):
        wanted = (
            TF.resize(torch.from_numpy(image).permute(2, 0, 1), list(size), antialias=True).permute(1, 2, 0).numpy()
        )
        difference = np.abs(resized(image, size).astype(int) - wanted.astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.1


@pytest.mark.parametrize("size", [(40, 30), (7, 9), (20, 24), (1, 50)])
def test_bilinear_is_that_of_torch(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random((20, 24), np.float32)
    wanted = F.interpolate(torch.from_numpy(values)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(bilinear(values, size), wanted.numpy(), atol=2e-6)


@pytest.mark.parametrize(
    "box", [(10.3, 5.2, 40.9, 30.1), (-4.0, -3.0, 12.0, 9.0), (50.0, 40.0, 70.0, 60.0), (3.0, 3.0, 3.5, 3.2)]
)
def test_masks_are_pasted_as_torchvision_does(box: tuple[float, ...]) -> None:
    mask = np.random.default_rng(1).random((28, 28), np.float32)
    boxes = torch.tensor([box])
    wanted = paste_masks_in_image(torch.from_numpy(mask)[None, None], boxes, (50, 60))[0, 0].numpy()
    np.testing.assert_allclose(pasted(mask, np.array(box, np.float32), (50, 60)), wanted, atol=3e-6)


def test_box_of_a_mask() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    assert box_of(mask).tolist() == [2, 1, 6, 3]


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (30, 3000), (5, 5), (1000, 1000)])
def test_photos_are_shown_as_large_as_in_the_training_if_the_frame_allows(size: tuple[int, int]) -> None:
    model = Model.__new__(Model)
    model.about = {"short_side": 64, "long_side": 96, "height": 96, "width": 96}
    assert model.shown_size(size) == fit_size(size, 64, 96)
    model.about["height"] = 32
    height, width = model.shown_size(size)
    assert 1 <= height <= 32 and 1 <= width <= 96
