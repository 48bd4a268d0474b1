"""Matrix products by oneDNN equal torch's own, whatever the layout of the matrices, forward and backward."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weaksam.models.backbones.clamping import NO_BOUNDS, RELU, RELU6
from weaksam.models.backbones.products import FastLinear, linear, product, products, weight_gradient


@pytest.mark.parametrize("bounds", [NO_BOUNDS, RELU, RELU6])
def test_a_product_by_hand(bounds):
    rows = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 2.0], [2.0, 2.0]]), torch.tensor([0.5, 0.0, 1.0])
    by_hand = torch.tensor([[1.5, 4.0, 7.0], [3.5, -8.0, -1.0]])
    torch.testing.assert_close(product(rows, weight, bias, bounds), by_hand.clamp(*bounds))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_of_any_layout(dtype):
    torch.manual_seed(0)
    wide, tall = torch.randn(7, 60, dtype=dtype), torch.randn(40, 9, dtype=dtype)
    rows, weight = wide[:, ::2], tall.t()[:, 5:35]  # (7, 30) by (9, 30): neither is one piece of memory
    torch.testing.assert_close(product(rows, weight), rows @ weight.t(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(weight, rows), weight @ rows.t(), rtol=1e-5, atol=1e-5)
    for gradient in (torch.randn(7, 4, dtype=dtype), torch.randn(7, 50, dtype=dtype)):
        torch.testing.assert_close(weight_gradient(gradient, rows), gradient.t() @ rows, rtol=1e-5, atol=1e-5)
    of_both = torch.stack([product(rows, weight), product(rows + 1, weight)])
    torch.testing.assert_close(products(torch.stack([rows, rows + 1]), weight.expand(2, 9, 30)), of_both)


def test_nothing_gives_nothing():
    weight, bias = torch.randn(3, 4), torch.randn(3)
    assert product(torch.zeros(0, 4), weight, bias, RELU).shape == (0, 3)
    assert torch.equal(product(torch.zeros(2, 0), torch.zeros(3, 0), bias), bias.expand(2, 3))
    assert torch.equal(weight_gradient(torch.zeros(0, 3), torch.zeros(0, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize("bounds", [NO_BOUNDS, RELU6])
def test_gradients_are_those_of_torch(bounds):
    torch.manual_seed(0)
    x, weight, bias = (value.requires_grad_() for value in (torch.randn(2, 5, 6), torch.randn(4, 6), torch.randn(4)))
    plain, fast = F.linear(x, weight, bias).clamp(*bounds), linear(x, weight, bias, bounds)
    assert fast.shape == (2, 5, 4)
    wanted = torch.autograd.grad(plain.square().sum(), [x, weight, bias])
    for value, of_fast in zip(wanted, torch.autograd.grad(fast.square().sum(), [x, weight, bias]), strict=True):
        torch.testing.assert_close(of_fast, value, rtol=1e-5, atol=1e-5)


def test_a_linear_layer_keeps_its_state():
    plain, fast = nn.Linear(6, 4), FastLinear(6, 4)
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(3, 6)
    torch.testing.assert_close(fast(x), plain(x))
