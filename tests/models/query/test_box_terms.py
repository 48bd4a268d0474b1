"""Costs and losses of queries by hand, against torchvision, and at boxes without area."""

import math

import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from weaksam.models.query.box_terms import focal_losses, generalised_iou, matching_costs


def test_generalised_iou_by_hand_and_against_torchvision() -> None:
    # Two squares of side 2 that share a 1 x 1 corner: 1/7 of the union, 7/9 of the hull
    assert generalised_iou(torch.tensor([1.0, 1, 2, 2]), torch.tensor([2.0, 2, 2, 2])).item() == pytest.approx(
        1 / 7 - 2 / 9
    )
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(5, 4, generator=generator), torch.rand(7, 4, generator=generator)
    wanted = generalized_box_iou(*(box_convert(boxes, "cxcywh", "xyxy") for boxes in (first, second)))
    torch.testing.assert_close(generalised_iou(first[:, None], second), wanted)


def test_boxes_without_area_have_a_finite_overlap_and_gradient() -> None:
    points = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.0, 0.3]]).requires_grad_()
    overlap = generalised_iou(points[:, None], points.detach())
    assert overlap[0, 0].item() == 0 and bool(overlap.isfinite().all())
    assert bool(torch.autograd.grad(overlap.sum(), points)[0].isfinite().all())


def test_focal_loss_by_hand() -> None:
    # Logits 0 are scores of a half: 0.25 * 0.25 * ln 2 for the label, 0.75 * 0.25 * ln 2 for every other class
    losses = focal_losses(torch.zeros(2, 3), torch.tensor([1, -1]))
    unit = 0.25 * math.log(2)
    assert losses.tolist() == pytest.approx([unit * (0.25 + 2 * 0.75), unit * 3 * 0.75])


def test_a_matching_cost_by_hand() -> None:
    logits, boxes = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.5, 0.5, 0.2, 0.2]]]])
    labels, wanted = torch.tensor([[1, 0]]), torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.4, 0.4]]])
    # As object 0.25 * 0.25 * ln 2, as background 0.75 * 0.25 * ln 2
    of_class = 2 * -0.5 * 0.25 * math.log(2)
    costs = matching_costs(logits, boxes, labels, wanted)
    assert costs.flatten().tolist() == pytest.approx([of_class - 2, of_class + 5 * 0.4 - 2 * 0.25], abs=1e-5)
