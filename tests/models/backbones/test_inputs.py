"""A photo as a backbone's input: ImageNet's and Caffe's colours, sides by hand."""

import numpy as np
import pytest
import torch

from weaksam.models.backbones.colours import IMAGENET, CaffeColours
from weaksam.models.backbones.inputs import input_photo, normalise, normalise_levels


def test_normalise_is_the_imagenet_one_for_both_kinds_of_numbers():
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalise(white, IMAGENET).flatten().tolist() == pytest.approx(expected)
    assert torch.equal(normalise(white, IMAGENET), normalise(torch.ones(1, 3, 1, 1), IMAGENET))


def test_caffe_wants_blue_first_in_levels_less_their_mean():
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    by_hand = pytest.approx([-102.98, -115.95, 255 - 122.77], abs=1e-4)
    for pixels in (red, red.float() / 255):
        assert normalise(pixels, CaffeColours()).flatten().tolist() == by_hand
    assert normalise_levels(red.float(), CaffeColours()).flatten().tolist() == by_hand
    batch = normalise(red.expand(2, 3, 1, 1), CaffeColours())  # the order is that of the channels, not of the batch
    assert batch[1].flatten().tolist() == by_hand


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 200), (32, 64)), ((20, 40), (32, 64)), ((200, 100), (64, 32)), ((4, 400), (32, 64)), ((64, 64), (64, 64))],
)
def test_the_longer_side_is_as_asked_and_the_shorter_holds_two_cells(size, expected):
    photo = np.full((*size, 3), 255, dtype=np.uint8)
    pixels = input_photo(photo, 64, IMAGENET)
    assert pixels.shape == (1, 3, *expected)
    torch.testing.assert_close(pixels[0, :, :1, :1], normalise(torch.ones(3, 1, 1), IMAGENET))
