"""Winograd's convolution equals the direct one, forward and backward, at sizes that its tiles do not divide."""

import pytest
import torch
from torch.nn import functional as F

from weaksam.models.backbones.clamping import NO_BOUNDS, RELU
from weaksam.models.backbones.winograd import pays_off, winograd3x3


@pytest.mark.parametrize("size", [(8, 12), (7, 10), (1, 3)])
@pytest.mark.parametrize("bounds", [NO_BOUNDS, RELU])
def test_values_and_gradients_are_those_of_the_direct_convolution(size, bounds):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, *size), torch.randn(4, 5, 3, 3), torch.randn(4)
    inputs = [value.requires_grad_() for value in (x, weight, bias)]
    direct = F.conv2d(x, weight, bias, padding=1).clamp(*bounds)
    fast = winograd3x3(x, weight, bias, bounds)
    torch.testing.assert_close(fast, direct, rtol=1e-4, atol=1e-4)
    gradient = torch.randn_like(direct)
    expected = torch.autograd.grad(direct, inputs, gradient)
    for wanted, of_fast in zip(expected, torch.autograd.grad(fast, inputs, gradient), strict=True):
        torch.testing.assert_close(of_fast, wanted, rtol=1e-3, atol=1e-3)


def test_it_pays_off_on_wide_and_large_maps_that_its_tiles_fit():
    assert pays_off(torch.empty(4, 128, 80, 112), 128)
    assert not pays_off(torch.empty(4, 128, 20, 28), 128)
    assert not pays_off(torch.empty(4, 32, 80, 112), 128)
    assert not pays_off(torch.empty(1, 128, 8, 8), 128)
    assert not pays_off(torch.empty(256, 128, 14, 14), 128)  # tiles cover 16 x 16
