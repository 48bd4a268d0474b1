"""Deformable attention as bags of embeddings equals `grid_sample` and transformers, values and gradients."""

import pytest
import torch
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from weaksam.models.query.deformable_attention import attention_by_grid_sample, deformable_attention

SIZES = [(5, 7), (3, 4), (1, 2)]


def inputs(batch: int, num_queries: int, dtype: torch.dtype, heads: int = 2, depth: int = 3) -> list[Tensor]:
    """Values, locations (a fifth of them outside) and weights that ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    num_cells = sum(h * w for h, w in SIZES)
    values = torch.randn(batch, num_cells, heads, depth, generator=generator, dtype=dtype)
    shape = (batch, num_queries, heads, len(SIZES), 4)
    locations = torch.rand(*shape, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(*shape, generator=generator, dtype=dtype)
    return [values.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()]


def with_gradients(attend, values: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    sums = attend(values, SIZES, locations, weights)
    grad = torch.randn(sums.shape, generator=torch.Generator().manual_seed(1), dtype=sums.dtype)
    return (sums, *torch.autograd.grad(sums, (values, locations, weights), grad))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_plain_twin(batch: int, dtype: torch.dtype) -> None:
    tensors = inputs(batch, 50, dtype)
    ours, plain = (with_gradients(attend, *tensors) for attend in (deformable_attention, attention_by_grid_sample))
    for value, wanted in zip(ours, plain, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)
        assert wanted.any()


def test_both_equal_transformers() -> None:
    values, locations, weights = inputs(2, 20, torch.float32)
    wanted = MultiScaleDeformableAttention()(values, None, SIZES, None, locations, weights, 64)
    for attend in (deformable_attention, attention_by_grid_sample):
        torch.testing.assert_close(attend(values, SIZES, locations, weights), wanted, rtol=1e-5, atol=1e-5)


def test_the_gradients_are_right_to_the_last_digits_of_float64() -> None:
    values, locations, weights = inputs(1, 4, torch.float64, heads=1, depth=2)
    assert torch.autograd.gradcheck(lambda *tensors: deformable_attention(tensors[0], SIZES, *tensors[1:]), (
        values, locations, weights,
    ))  # fmt: skip


def attended(location: tuple[float, float], cells: list[float], size: tuple[int, int]) -> float:
    """What the one point of one head reads from a map of one channel."""
    values = torch.tensor(cells).view(1, -1, 1, 1)
    point = torch.tensor(location).view(1, 1, 1, 1, 1, 2)
    return deformable_attention(values, [size], point, torch.ones(1, 1, 1, 1, 1)).item()


def test_points_by_hand() -> None:
    cells = [1.0, 3.0, 5.0, 9.0]  # two rows of two
    assert attended((0.25, 0.25), cells, (2, 2)) == 1  # the centre of the first cell
    assert attended((0.5, 0.75), cells, (2, 2)) == 7  # between the two cells of the second row
    assert attended((0.5, 0.625), cells, (2, 2)) == 0.25 * 2 + 0.75 * 7
    assert attended((0.0, 0.25), cells, (2, 2)) == 0.5  # half of it lies outside
    assert attended((1.0, 1.0), cells, (2, 2)) == 9 / 4
    assert attended((1.3, 0.5), cells, (2, 2)) == 0 == attended((0.5, -9.0), cells, (2, 2))


def test_a_point_between_rows_does_not_read_the_next_row() -> None:
    # Behind the last column of the first row comes the first of the second in memory
    assert attended((1.0, 0.25), [0.0, 2.0, 100.0, 0.0], (2, 2)) == 1
    assert attended((0.0, 0.75), [0.0, 100.0, 2.0, 0.0], (2, 2)) == 1


def test_half_precision_is_computed_in_float32() -> None:
    tensors = [tensor.detach() for tensor in inputs(2, 9, torch.float32)]
    values, locations, weights = tensors
    half = deformable_attention(values.bfloat16(), SIZES, locations, weights)
    assert half.dtype == torch.bfloat16
    wanted = deformable_attention(values.bfloat16().float(), SIZES, locations, weights)
    assert torch.equal(half, wanted.bfloat16())


def test_frozen_inputs_get_no_gradient() -> None:
    values, locations, weights = inputs(2, 5, torch.float32)
    sums = deformable_attention(values.detach(), SIZES, locations, weights)
    assert all(gradient.any() for gradient in torch.autograd.grad(sums.sum(), (locations, weights)))
    assert not deformable_attention(values.detach(), SIZES, locations.detach(), weights.detach()).requires_grad
