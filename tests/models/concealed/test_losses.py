"""Losses of WS-SAM against values worked out by hand and by plain loops."""

import math

import pytest
import torch

from weaksam.models.concealed.losses import (
    boundary_weights,
    concealed_losses,
    partial_cross_entropy,
    structure_loss,
    structure_terms,
    uncertainty_coefficient,
    uncertainty_loss,
)


def square() -> torch.Tensor:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1.0
    return mask


def test_structure_of_zero_logits() -> None:
    mask = square()
    weights = boundary_weights(mask)
    assert weights.min() == 1.0 and weights.max() == pytest.approx(4.668, abs=1e-3)
    cross_entropy, iou = structure_terms(torch.zeros_like(mask), mask)
    assert cross_entropy.item() == pytest.approx(0.693147, abs=1e-6)
    assert iou.item() == pytest.approx(0.725124, abs=1e-6)


def test_the_boundary_weighs_in_the_cross_entropy() -> None:
    """What the released code computes, a plain mean, is another value (its ``reduce='none'`` reduces)."""
    mask = square()
    logits = torch.where(mask > 0, 1.0, -3.0)
    cross_entropy, iou = structure_terms(logits, mask)
    assert cross_entropy.item() == pytest.approx(0.148856, abs=1e-6)
    assert iou.item() == pytest.approx(0.321595, abs=1e-6)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, mask)
    assert plain.item() == pytest.approx(0.114756, abs=1e-6)
    assert structure_loss(logits, mask).item() == pytest.approx(0.148856 + 0.321595, abs=2e-6)


def test_ignored_pixels_are_as_if_they_were_not_there() -> None:
    mask, logits = square(), torch.linspace(-2, 2, 64 * 64).reshape(1, 1, 64, 64)
    weights = torch.ones_like(mask)
    weights[..., :, 40:] = 0.0
    changed = torch.where(weights > 0, logits, 9.0)
    assert torch.equal(structure_loss(logits, mask, weights), structure_loss(changed, mask, weights))
    assert torch.equal(structure_loss(logits, mask, torch.ones_like(mask)), structure_loss(logits, mask))
    halves = structure_terms(logits, mask, torch.full_like(mask, 0.5))[0]
    assert halves.item() == pytest.approx(structure_terms(logits, mask)[0].item())
    nothing = structure_loss(logits.requires_grad_(), mask, torch.zeros_like(mask))
    nothing.sum().backward()
    assert nothing.item() == 0.0 and logits.grad is not None and not logits.grad.any()


def test_structure_of_soft_masks_by_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    masks, logits, weights = (torch.rand(2, 1, 5, 6, generator=generator) for _ in range(3))
    terms = structure_terms(logits, masks, weights)
    for photo in range(2):
        total = entropy = shared = joined = 0.0
        for m, z, w in zip(*(t[photo].flatten().tolist() for t in (masks, logits, weights)), strict=True):
            b = (1 + 5 * abs(masks[photo].sum().item() / 31**2 - m)) * w  # the window covers the whole photo
            p = 1 / (1 + math.exp(-z))
            total, entropy = total + b, entropy - b * (m * math.log(p) + (1 - m) * math.log(1 - p))
            shared, joined = shared + b * p * m, joined + b * (p + m)
        assert terms[0][photo].item() == pytest.approx(entropy / total, rel=1e-5)
        assert terms[1][photo].item() == pytest.approx(1 - (shared + 1) / (joined - shared + 1), rel=1e-5)


def test_partial_cross_entropy_sees_labelled_pixels_alone() -> None:
    logits = torch.tensor([[[[0.0, 2.0, -1.0, 5.0]]]], requires_grad=True)
    labels = torch.tensor([[[[1, 0, -1, -1]]]])
    loss = partial_cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(math.log(2) + math.log(1 + math.exp(2)))
    loss.backward()
    assert logits.grad is not None and logits.grad[0, 0, 0, 2:].tolist() == [0.0, 0.0]
    assert partial_cross_entropy(logits, torch.full_like(labels, -1)).item() == 0.0


def test_uncertainty_and_its_schedule() -> None:
    logits = torch.tensor([[[[0.0, 100.0]]], [[[math.log(3), math.log(3)]]]])
    assert uncertainty_loss(logits).tolist() == pytest.approx([0.5, 0.75])  # p = 3/4: 1 - 1/4
    assert [uncertainty_coefficient(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0])


def test_the_sum_has_the_published_weights() -> None:
    mask, labels = square(), torch.full((1, 1, 64, 64), -1)
    labels[..., 20, 20:24], labels[..., 2, 2:6] = 1, 0
    outputs = [torch.zeros_like(mask)] * 5
    losses = concealed_losses(outputs, mask, None, labels, 0.5, num_photos=1, num_labelled=torch.tensor(8))
    stages = 1 / 16 + 1 / 8 + 1 / 4 + 1 / 2 + 1
    assert losses["structure"].item() == pytest.approx(stages * (0.693147 + 0.725124), abs=1e-5)
    assert losses["partial"].item() == pytest.approx(3 * stages * math.log(2), abs=1e-5)
    assert losses["uncertainty"].item() == pytest.approx(2 * 0.5 * 1.0)
    last = [*[torch.full_like(mask, 9.0)] * 4, torch.zeros_like(mask)]  # the last map alone is to be decided
    of_last = concealed_losses(last, mask, None, None, 1.0, num_photos=1, num_labelled=torch.tensor(0))
    assert set(of_last) == {"structure", "uncertainty"} and of_last["uncertainty"].item() == pytest.approx(2.0)
    none = torch.full_like(labels, -1)
    unlabelled = concealed_losses(outputs, mask, None, none, 0.0, num_photos=1, num_labelled=torch.tensor(0))
    assert unlabelled["partial"].item() == 0.0


def test_parts_of_a_batch_add_up() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = [torch.randn(3, 1, 8, 8, generator=generator) for _ in range(5)]
    masks, weights = (torch.rand(3, 1, 8, 8, generator=generator) for _ in range(2))
    labels = torch.randint(-1, 2, (3, 1, 8, 8), generator=generator)
    counts = {"num_photos": 3, "num_labelled": (labels >= 0).sum()}
    whole = concealed_losses(outputs, masks, weights, labels, 0.3, **counts)
    parts = [
        concealed_losses([o[rows] for o in outputs], masks[rows], weights[rows], labels[rows], 0.3, **counts)
        for rows in (slice(0, 1), slice(1, 3))
    ]
    for name, value in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-5)
