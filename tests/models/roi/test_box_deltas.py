"""Box offsets: encoded, decoded and learnt, by hand and against plain loops."""

import math

import pytest
import torch
from torch import Tensor

from weaksam.models.roi.box_deltas import decode_boxes, encode_boxes, mirrored_deltas
from weaksam.models.wsod.box_regression import box_loss
from weaksam.models.wsod.targets import Targets, assign_rois
from weaksam.stages.wsod.seeds.oicr import oicr_seeds
from weaksam.structures.boxes import pairwise_iou


def scene(num: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Crowded boxes ``(num, 4)``, scores ``(num, classes)`` with ties, and their pairwise IoU."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(num, 2, generator=generator) * 30], dim=1)
    scores = (torch.rand(num, classes, generator=generator) * 20).round() / 20
    return boxes, scores, pairwise_iou(boxes, boxes)


def test_offsets_by_hand_and_back() -> None:
    proposal, wanted = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 5, 25, 15]])
    offsets = encode_boxes(proposal, wanted)
    # centre (5, 10) to (15, 10): one width; width 10 to 20, height 20 to 10
    assert offsets[0].tolist() == pytest.approx([10 * 1.0, 0.0, 5 * math.log(2), -5 * math.log(2)])
    assert decode_boxes(proposal, offsets[:, None])[0, 0].tolist() == pytest.approx(wanted[0].tolist(), abs=1e-4)
    assert decode_boxes(proposal, torch.zeros(1, 3, 4)).tolist() == [[[0.0, 0, 10, 20]] * 3]
    assert decode_boxes(torch.zeros(0, 4), torch.zeros(0, 3, 4)).shape == (0, 3, 4)
    assert encode_boxes(torch.zeros(1, 4), wanted).isfinite().all()


def test_offsets_of_the_mirror_image() -> None:
    boxes, _, _ = scene(2, 1, 0)
    mirrored = torch.stack([100 - boxes[:, 2], boxes[:, 1], 100 - boxes[:, 0], boxes[:, 3]], dim=1)
    seen = encode_boxes(mirrored[:1], mirrored[1:])
    assert mirrored_deltas(seen)[0].tolist() == pytest.approx(encode_boxes(boxes[:1], boxes[1:])[0].tolist(), abs=1e-4)


def test_box_loss_equals_a_plain_loop_and_leaves_background_alone() -> None:
    boxes, scores, iou = scene(60, 2, 7)
    targets = assign_rois(iou, oicr_seeds(scores, torch.tensor([0, 1]), iou))
    deltas = torch.randn(60, 3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    total = 0.0
    for roi in range(60):
        label = int(targets.target[roi])
        if label > 0:
            wanted = encode_boxes(boxes[roi : roi + 1], boxes[int(targets.seed[roi])][None])[0]
            for place in range(4):
                gap = abs(deltas[roi, label, place].item() - wanted[place].item())
                total += targets.weight[roi].item() * (0.5 * gap**2 if gap < 1 else gap - 0.5)
    loss = box_loss(deltas, targets, boxes)
    assert total > 0 and loss.item() == pytest.approx(total / 60, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, deltas)
    assert gradient[targets.target == 0].abs().max() == 0
    assert gradient[:, 0].abs().max() == 0


def test_box_loss_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    targets = Targets(torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), torch.tensor([0, 0]))
    deltas = torch.zeros(2, 2, 4)
    deltas[0, 1] = torch.tensor([3.0, 0.5, 0.0, 0.0])  # 2.5 + 0.125
    assert box_loss(deltas, targets, boxes).item() == pytest.approx(0.5 * 2.625 / 2)
