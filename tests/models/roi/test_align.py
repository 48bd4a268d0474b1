"""RoIAlign as bags of embeddings equals torchvision's, over one map and over a pyramid, values and gradients."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import roi_align as torchvision_align

from weaksam.models.roi.align import PyramidAlign, numbered, roi_align

# Inside, over each edge, all of the map and more, far outside, without area, smaller than a cell, over the far corner
AWKWARD = torch.tensor(
    [
        [8.0, 8, 60, 40], [-20, -30, 30, 20], [50, 30, 130, 90], [-100, -100, 300, 300], [400, 400, 500, 480],
        [24, 24, 24, 24], [9, 9, 11, 10], [-4, -4, 84, 60], [-12.0, 0, -4, 8], [70, 50, 81, 57],
    ]
)  # fmt: skip


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 5])
def test_equals_torchvision(size: int, sampling_ratio: int, aligned: bool) -> None:
    features, rois = maps(2, 3, 7, 10), numbered([AWKWARD, AWKWARD.flip(0)[:4] + 3])
    options = {"sampling_ratio": sampling_ratio, "aligned": aligned}
    pooled = roi_align(features, rois, scale=1 / 8, size=size, **options)
    wanted = torchvision_align(features, rois, size, 1 / 8, **options)
    torch.testing.assert_close(pooled, wanted, rtol=1e-5, atol=1e-6)
    grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    gradient, wanted_gradient = (torch.autograd.grad(values, features, grad)[0] for values in (pooled, wanted))
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-5, atol=1e-5)


def test_channels_last_maps_give_the_same() -> None:
    features, rois = maps(2, 6, 5, 5), numbered([AWKWARD / 2, AWKWARD / 3])
    plain = roi_align(features, rois, scale=1 / 8, size=3)
    last = roi_align(features.contiguous(memory_format=torch.channels_last), rois, scale=1 / 8, size=3)
    assert torch.equal(plain, last)


def test_the_gradient_is_right_to_the_last_digits_of_float64() -> None:
    features, rois = maps(2, 2, 4, 5, dtype=torch.float64), numbered([AWKWARD.double(), AWKWARD[:2].double()])
    for aligned in (True, False):
        assert torch.autograd.gradcheck(
            lambda values, aligned=aligned: roi_align(values, rois, scale=1 / 16, size=2, aligned=aligned), (features,)
        )


def test_a_sample_between_cells_by_hand() -> None:
    features = torch.tensor([[[[1.0, 3.0], [5.0, 9.0]]]])
    rois = torch.tensor([[0, 0.5, 0.25, 1.5, 1.25]])
    # The one sample lies at x = 1, y = 0.75, half a cell less on the map: between both columns, a quarter down.
    assert roi_align(features, rois, scale=1, size=1, sampling_ratio=1).item() == 0.75 * 2 + 0.25 * 7
    # Not aligned it lies at x = 1, y = 0.75: the second column, three quarters down.
    assert roi_align(features, rois, scale=1, size=1, sampling_ratio=1, aligned=False).item() == 0.25 * 3 + 0.75 * 9


def test_no_roi_teaches_nothing() -> None:
    features = maps(1, 3, 4, 4)
    pooled = roi_align(features, torch.zeros(0, 5), scale=1, size=2)
    assert pooled.shape == (0, 3, 2, 2)
    assert not torch.autograd.grad(pooled.sum(), features)[0].any()


def boxes_of_all_sizes(num: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(num, 2, generator=generator) * 700
    return torch.cat([corner, corner + torch.logspace(0, 3, num)[:, None] * torch.rand(1, 2, generator=generator)], 1)


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16), (4, 8, 16, 32), (16,)])
def test_a_pyramid_equals_torchvision(strides: tuple[int, ...]) -> None:
    sizes = [(832 // stride, 768 // stride) for stride in strides]
    names = [str(level) for level in range(len(strides))]
    levels = {name: maps(2, 4, *size) for name, size in zip(names, sizes, strict=True)}
    boxes, shapes = [boxes_of_all_sizes(40), boxes_of_all_sizes(15)], [(832, 700), (800, 768)]
    pooled = PyramidAlign(names, strides, size=3)(levels, boxes, shapes)
    wanted = MultiScaleRoIAlign(names, 3, 2)(levels, boxes, shapes)
    assert pooled.shape == (55, 4, 3, 3)
    torch.testing.assert_close(pooled, wanted, rtol=1e-5, atol=1e-6)
    grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    gradients, wanted_gradients = (
        torch.autograd.grad(values, list(levels.values()), grad) for values in (pooled, wanted)
    )
    for gradient, wanted_gradient in zip(gradients, wanted_gradients, strict=True):
        assert wanted_gradient.any()
        torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-5, atol=1e-5)


def test_a_pyramid_without_rois() -> None:
    levels = {"0": maps(2, 4, 8, 8), "1": maps(2, 4, 4, 4)}
    pooled = PyramidAlign(["0", "1"], (8, 16), size=3)(levels, [torch.zeros(0, 4)] * 2, [(64, 64)] * 2)
    assert pooled.shape == (0, 4, 3, 3)
