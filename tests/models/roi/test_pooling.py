"""RoI pooling equals torchvision's, and its repeatable gradient does not change with the order of the RoIs."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from weaksam.models.roi.pooling import pool_rois

Method = Literal["align", "pool"]
METHODS: tuple[Method, ...] = ("align", "pool")
STRIDE = 8

# Inside, over each edge, all of the map and more, far outside, without area, without width, smaller than a cell.
AWKWARD = torch.tensor(
    [
        [8.0, 8, 60, 40], [-20, -30, 30, 20], [50, 30, 130, 90], [-100, -100, 300, 300], [400, 400, 500, 480],
        [24, 24, 24, 24], [16, 0, 16, 50], [9, 9, 11, 10], [-4, -4, 84, 60], [-12.0, 0, -4, 8],
    ]
)  # fmt: skip


def maps(photos: int = 2, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(photos, channels, 7, 10, dtype=dtype).requires_grad_()


def torchvisions(features: Tensor, boxes: list[Tensor], method: Method, size: int) -> Tensor:
    boxes = [of_photo.to(features) for of_photo in boxes]
    if method == "align":
        return roi_align(features, boxes, size, 1 / STRIDE, sampling_ratio=2, aligned=True)
    return roi_pool(features, boxes, size, 1 / STRIDE)


def crowd(num: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * 60 - 10
    return torch.cat([corner, corner + torch.rand(num, 2, generator=generator) * 60], dim=1)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("method", METHODS)
def test_values_and_gradient_equal_torchvision(method: Method, size: int, deterministic: bool) -> None:
    boxes = [torch.cat([AWKWARD, crowd(20)]), crowd(15, seed=2)]
    features = maps()
    pooled = pool_rois(features, boxes, size=size, stride=STRIDE, method=method, deterministic=deterministic)
    wanted = torchvisions(features, boxes, method, size)
    assert pooled.shape == (45, 3, size, size)
    torch.testing.assert_close(pooled, wanted, rtol=1e-5, atol=1e-6)
    grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad(pooled, features, grad)
    (wanted_gradient,) = torch.autograd.grad(wanted, features, grad)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling_ratio", [1, 3])
def test_the_gradient_follows_the_number_of_samples(sampling_ratio: int) -> None:
    features, boxes = maps(photos=1), [torch.cat([AWKWARD, crowd(10)])]
    options = {"size": 3, "stride": STRIDE, "method": "align", "sampling_ratio": sampling_ratio}
    grads = []
    for deterministic in (False, True):
        pooled = pool_rois(features, boxes, deterministic=deterministic, **options)
        grads.append(torch.autograd.grad(pooled.square().sum(), features)[0])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_right_to_the_last_digits_of_float64(method: Method) -> None:
    features = maps(channels=2, dtype=torch.float64)
    boxes = [AWKWARD, crowd(4)]
    assert torch.autograd.gradcheck(
        lambda values: pool_rois(values, boxes, size=2, stride=STRIDE, method=method, deterministic=True), (features,)
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_photo_gets_the_gradient_of_its_own_rois(method: Method) -> None:
    options = {"size": 2, "stride": STRIDE, "method": method, "deterministic": True}
    features, boxes = maps(), [AWKWARD, crowd(6)]
    pooled = pool_rois(features, boxes, **options)
    (together,) = torch.autograd.grad(pooled.square().sum(), features)
    for photo in range(2):
        own_map = features[photo : photo + 1]
        (alone,) = torch.autograd.grad(pool_rois(own_map, [boxes[photo]], **options).square().sum(), features)
        torch.testing.assert_close(together[photo], alone[photo])
    (first_only,) = torch.autograd.grad(pool_rois(features, boxes, **options)[: len(AWKWARD)].sum(), features)
    assert first_only[0].any() and not first_only[1].any()


def shuffled_gradient(features: Tensor, boxes: Tensor, grad: Tensor, order: Tensor, **options) -> Tensor:
    pooled = pool_rois(features, [boxes[order]], size=4, stride=STRIDE, **options)
    return torch.autograd.grad(pooled, features, grad[order])[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_the_repeatable_gradient_is_the_same_to_the_bit_in_any_order_and_the_plain_one_is_not(
    method: Method, dtype: torch.dtype
) -> None:
    features, boxes = maps(photos=1, channels=4, dtype=dtype), crowd(300)
    generator = torch.Generator().manual_seed(5)
    grad = torch.randn(300, 4, 4, 4, generator=generator) * torch.logspace(-6, 6, 300)[:, None, None, None]
    grad = grad.to(dtype)
    orders = [torch.arange(300), *(torch.randperm(300, generator=generator) for _ in range(3))]
    exact = [shuffled_gradient(features, boxes, grad, order, method=method, deterministic=True) for order in orders]
    plain = [shuffled_gradient(features, boxes, grad, order, method=method) for order in orders]
    assert all(torch.equal(exact[0], gradient) for gradient in exact)
    assert not all(torch.equal(plain[0], gradient) for gradient in plain)


def test_parts_of_another_length_add_up_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    features, boxes = maps(photos=1, channels=4), crowd(50)
    grad = torch.randn(50, 4, 4, 4, generator=torch.Generator().manual_seed(6))
    for method in METHODS:
        whole = shuffled_gradient(features, boxes, grad, torch.arange(50), method=method, deterministic=True)
        monkeypatch.setattr("weaksam.models.roi.pooling._PRODUCTS_AT_ONCE", {"cpu": 1})
        parts = shuffled_gradient(features, boxes, grad, torch.arange(50), method=method, deterministic=True)
        monkeypatch.undo()
        assert torch.equal(whole, parts)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_no_roi_teaches_nothing(method: Method, deterministic: bool) -> None:
    features, none = maps(), torch.zeros(0, 4)
    options = {"size": 3, "stride": STRIDE, "method": method, "deterministic": deterministic}
    pooled = pool_rois(features, [none, none], **options)
    assert pooled.shape == (0, 3, 3, 3)
    assert not torch.autograd.grad(pooled.sum(), features)[0].any()
    assert pool_rois(features, [none, crowd(2)], **options).shape == (2, 3, 3, 3)
    assert pool_rois(features[:0], [], **options).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_half_formats_are_pooled_in_float32(method: Method, deterministic: bool, dtype: torch.dtype) -> None:
    features = maps().detach().to(dtype).requires_grad_()
    exact = features.detach().float().requires_grad_()
    pooled = pool_rois(features, [AWKWARD, crowd(5)], size=2, stride=STRIDE, method=method, deterministic=deterministic)
    wanted = torchvisions(exact, [AWKWARD, crowd(5)], method, 2)
    torch.testing.assert_close(pooled, wanted.to(dtype), rtol=2**-7, atol=1e-3)
    (grad,) = torch.autograd.grad(pooled.float().sum(), features)
    (wanted_grad,) = torch.autograd.grad(wanted.sum(), exact)
    assert grad.dtype == dtype
    torch.testing.assert_close(grad.float(), wanted_grad, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_is_not_finite_stays_visible_where_it_is(method: Method, bad: float) -> None:
    features = maps(photos=1)
    pooled = pool_rois(
        features, [torch.tensor([[0.0, 0, 24, 24]])], size=2, stride=STRIDE, method=method, deterministic=True
    )
    grad = torch.full_like(pooled, 1e-30)
    grad[0, 1, 0, 0] = bad
    (gradient,) = torch.autograd.grad(pooled, features, grad)
    assert not gradient[0, 1].isfinite().all()
    assert gradient[0, 1, 3:].isfinite().all()
    for channel in (0, 2):
        assert gradient[0, channel].sum().item() == pytest.approx(4e-30, rel=1e-5, abs=0)  # one per output cell


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.0, 1e-40, 1e-30, 1e30])
def test_gradients_of_any_size_keep_their_digits(method: Method, factor: float) -> None:
    features, boxes = maps(photos=1), [torch.tensor([[0.0, 0, 40, 40]])]
    pooled = pool_rois(features, boxes, size=2, stride=STRIDE, method=method, deterministic=True)
    (plain,) = torch.autograd.grad(pooled.sum(), features, retain_graph=True)
    (gradient,) = torch.autograd.grad(pooled, features, torch.full_like(pooled, factor))
    torch.testing.assert_close(gradient, plain * factor, rtol=1e-5, atol=0.0 if factor > 1e-35 else 1e-44)


def test_a_sample_between_cells_by_hand() -> None:
    features = torch.zeros(1, 1, 2, 2, requires_grad=True)
    options = {"size": 1, "stride": 1, "method": "align", "deterministic": True, "sampling_ratio": 1}
    pool_rois(features, [torch.tensor([[0.5, 0.25, 1.5, 1.25]])], **options).sum().backward()
    # The one sample lies at x = 1, y = 0.75, half a cell less on the map: between both columns, a quarter down.
    assert features.grad is not None and features.grad.tolist() == [[[[0.375, 0.375], [0.125, 0.125]]]]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 feature maps need as many tensors of boxes, but there are 1"):
        pool_rois(maps(), [AWKWARD], size=2, stride=STRIDE)
    with pytest.raises(ValueError, match="size and sampling_ratio must be at least 1"):
        pool_rois(maps(), [AWKWARD, AWKWARD], size=2, stride=STRIDE, method="align", sampling_ratio=0)
