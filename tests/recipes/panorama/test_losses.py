"""Losses of the assistant and the student by hand, and boundaries that masks repair."""

import math

import pytest
import torch

from weaksam.recipes.panorama.distillation import FeatureProjections, feature_loss, label_loss, logit_loss
from weaksam.recipes.panorama.fusion import DOUBTFUL
from weaksam.recipes.panorama.rectification import boundary_loss, boundary_masks, consistency_loss, repaired_labels
from weaksam.structures.masks import rle_from_mask
from weaksam.structures.panorama_windows import overlaps

LOG3 = math.log(3.0)


def test_windows_that_disagree_where_they_overlap() -> None:
    logits = torch.zeros(2, 2, 1, 2)
    logits[0, 0, 0, 1] = LOG3  # p = (3/4, 1/4) where the other window says q = (1/2, 1/2)
    logits.requires_grad_()
    pairs = overlaps([(0, 0), (0, 1)], (1, 2), (1, 9))
    kl_pq = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    kl_qp = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    loss = consistency_loss(logits, pairs)
    assert loss.item() == pytest.approx((kl_pq + kl_qp) / 2)
    loss.backward()
    assert logits.grad is not None and logits.grad[0, :, 0, 1].abs().min() > 0
    assert logits.grad[0, :, 0, 0].abs().max() == 0 == logits.grad[1, :, 0, 1].abs().max()  # not shared
    softer = consistency_loss(logits.detach() * 2, pairs, temperature=2.0)
    assert softer.item() == pytest.approx(loss.item())
    assert consistency_loss(torch.ones(2, 2, 1, 2), pairs).item() == 0.0
    assert consistency_loss(logits.detach(), []).item() == 0.0


def test_boundaries_take_the_class_of_the_interior() -> None:
    mask = torch.zeros(9, 12, dtype=torch.bool)
    mask[:, :6] = True  # its contour is one line, the other sides are the window's edge
    masks = boundary_masks([rle_from_mask(mask)], (9, 12), radius=2)
    assert masks.interiors.areas.tolist() == [9 * 4]
    assert masks.covering[0].tolist() == [-1] * 4 + [0, 0] + [-1] * 6  # beyond the contour no mask covers
    classes = torch.full((9, 12), 1)
    classes[:, 3:] = 2  # the interior has 27 pixels of class 1 and 9 of class 2
    labels = repaired_labels(classes, masks, 3, purity=0.75)
    assert labels[:, 4:6].eq(1).all() and (labels != DOUBTFUL).sum() == 18
    assert repaired_labels(classes, masks, 3, purity=0.76).eq(DOUBTFUL).all()


def test_the_smallest_mask_repairs_and_an_empty_interior_does_not() -> None:
    large, small, line = (torch.zeros(12, 12, dtype=torch.bool) for _ in range(3))
    large[:], small[2:9, 2:9], line[11, 3:9] = True, True, True
    masks = boundary_masks([rle_from_mask(mask) for mask in (large, small, line)], (12, 12), radius=1)
    classes = torch.zeros(12, 12, dtype=torch.int64)
    classes[3:8, 3:8] = 1
    labels = repaired_labels(classes, masks, 2)
    assert labels[2, 5] == 1 and labels[1, 5] == 0  # inside the small mask, and outside it, in the large one
    assert labels[11, 5] == DOUBTFUL and labels[10, 5] == 0 and labels[5, 5] == DOUBTFUL
    nothing = boundary_masks([], (4, 5))
    assert repaired_labels(torch.zeros(4, 5, dtype=torch.int64), nothing, 2).eq(DOUBTFUL).all()


def test_label_losses_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 1, 0, 0] = LOG3  # -log 3/4 for class 1
    labels = torch.tensor([[[1, 0, DOUBTFUL]]])
    wanted = (math.log(4 / 3) + math.log(2)) / 2
    for loss in (boundary_loss, label_loss):
        assert loss(logits, labels).item() == pytest.approx(wanted)
        assert loss(logits, torch.full_like(labels, DOUBTFUL)).item() == 0.0


def test_the_logit_loss_by_hand() -> None:
    student, assistant = torch.zeros(1, 2, 1, 1, requires_grad=True), torch.zeros(1, 2, 1, 1, requires_grad=True)
    with torch.no_grad():
        assistant[0, 0] = 2 * LOG3  # at T = 2 (3/4, 1/4)
    loss = logit_loss(student, assistant)
    assert loss.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))
    loss.backward()
    assert assistant.grad is None
    assert student.grad is not None and student.grad.flatten().tolist() == pytest.approx([-0.5, 0.5])
    assert logit_loss(assistant, assistant).item() == pytest.approx(0.0, abs=1e-6)


def test_the_feature_loss_by_hand() -> None:
    along, across = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([0.0, 5.0]).reshape(1, 2, 1, 1)
    assert feature_loss([along, along], [3 * along, across]).item() == pytest.approx(0.5)
    assert feature_loss([along], [-along]).item() == pytest.approx(2.0)
    finer = torch.cat([along, across], dim=3)  # its mean over both pixels is (0.5, 2.5)
    assert feature_loss([along], [finer]).item() == pytest.approx(1 - 0.5 / math.sqrt(0.5**2 + 2.5**2))
    assert feature_loss([], []).item() == 0.0


def test_projections_bring_the_student_to_the_assistant_s_channels() -> None:
    projections = FeatureProjections([2, 3], [5, 7])
    projected = projections([torch.rand(1, 2, 4, 4), torch.rand(1, 3, 2, 2)])
    assert [tuple(feature.shape) for feature in projected] == [(1, 5, 4, 4), (1, 7, 2, 2)]
    wanted = torch.rand(1, 5, 4, 4, requires_grad=True)
    feature_loss(projected[:1], [wanted]).backward()
    assert wanted.grad is None and projections.stages[0].weight.grad is not None
