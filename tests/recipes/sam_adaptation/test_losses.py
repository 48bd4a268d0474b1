"""The losses of WeSAM against values by hand and the fixtures of its description."""

import math

import pytest
import torch

from weaksam.recipes.sam_adaptation.losses import (
    WEIGHTS,
    anchor_loss,
    contrast_loss,
    dice_loss,
    focal_loss,
    iou_loss,
    prototypes,
    step_losses,
)

LOGITS = torch.tensor([[[2.0, -2.0], [-2.0, 2.0]]])
TARGETS = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
"""Two pixels of 0.8808 and two of 0.1192, of which one of the first is positive."""


@pytest.mark.parametrize(("alpha", "wanted"), [(0.8, 0.3311), (40.0, 16.555)])
def test_focal_as_described(alpha: float, wanted: float) -> None:
    assert float(focal_loss(LOGITS, TARGETS, alpha=alpha)) == pytest.approx(wanted, rel=1e-4)


def test_empty_masks_of_the_teacher_give_finite_losses_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(4, 2, 2, generator=generator, requires_grad=True)
    student = torch.randn(2, 8, 8, generator=generator, requires_grad=True)
    empty = torch.full((2, 8, 8), -9.0, requires_grad=True)
    of_teacher = prototypes(embedding, empty)
    assert not of_teacher.any()
    losses = step_losses(student, torch.zeros(2), empty, empty.detach(), of_teacher, of_teacher.detach(), 2)
    assert float(losses["contrast"].detach()) == pytest.approx(math.log(2))  # nothing tells them apart
    torch.stack(list(losses.values())).sum().backward()
    assert all(tensor.grad is None or torch.isfinite(tensor.grad).all() for tensor in (embedding, student, empty))
    assert all(torch.isfinite(value) for value in losses.values()) and student.grad is not None


def test_pseudo_labels_of_an_average_replace_the_teacher() -> None:
    """The student learns the given masks; the teacher keeps its tie to the anchor."""
    none = torch.zeros(1, 4)
    given = torch.zeros(1, 2, 2, dtype=torch.bool)
    losses = step_losses(LOGITS, torch.zeros(1), LOGITS, LOGITS, none, none, 1, pseudo_labels=given)
    assert float(losses["dice"]) == pytest.approx(float(dice_loss(LOGITS, torch.zeros_like(LOGITS))))
    assert float(losses["anchor"]) == pytest.approx(float(anchor_loss(LOGITS, LOGITS, LOGITS)))


def test_focal_by_hand() -> None:
    right, wrong = -math.log(0.880797), -math.log(0.119203)
    by_hand = sum(0.8 * (1 - math.exp(-b)) ** 2 * b for b in (right, right, right, wrong)) / 4
    assert float(focal_loss(LOGITS, TARGETS)) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(("smooth", "wanted"), [(1.0, 0.3096), (40.0, 0.0288)])
def test_dice_as_described(smooth: float, wanted: float) -> None:
    assert float(dice_loss(LOGITS, TARGETS, smooth=smooth)) == pytest.approx(wanted, abs=5e-5)


def test_dice_is_over_all_masks_jointly() -> None:
    logits, targets = LOGITS.repeat(2, 1, 1), torch.cat([TARGETS, torch.zeros_like(TARGETS)])
    p, q = 0.880797, 0.119203
    assert float(dice_loss(logits, targets)) == pytest.approx(1 - (2 * p + 1) / (4 * p + 4 * q + 1 + 1), rel=1e-5)


def test_iou_regression_counts_logits_from_a_half_on() -> None:
    logits = torch.tensor([[[0.6, 0.4], [0.3, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    targets = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    # One of two pixels, IoU 1 / 2; and an empty mask of an empty target, IoU 1
    loss = iou_loss(torch.tensor([0.8, 0.9]), logits, targets, num_masks=4)
    assert float(loss) == pytest.approx((0.3**2 + 0.1**2) / 4)


@pytest.mark.parametrize(
    ("similar", "wanted"),
    [(torch.eye(2), 0.035052), (torch.eye(1), 0.0), (torch.ones(4, 1), math.log(4))],
)
def test_contrast_as_described(similar: torch.Tensor, wanted: float) -> None:
    assert float(contrast_loss(similar, similar)) == pytest.approx(wanted, abs=1e-6)


def test_contrast_pools_its_sums() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    anchor = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    exps = [[math.exp(s / 0.3) for s in row] for row in ([0.0, 1.0], [0.8, 0.6])]
    by_hand = -math.log((exps[0][0] + exps[1][1]) / sum(map(sum, exps)))
    assert float(contrast_loss(teacher, anchor)) == pytest.approx(by_hand, rel=1e-5)


def test_prototypes_are_means_of_unit_cells() -> None:
    embedding = torch.tensor([[[3.0, 0.0], [1.0, 1.0]], [[4.0, 2.0], [0.0, 1.0]]])  # (2, 2, 2)
    logits = torch.tensor([[[1.0, -1.0], [1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    # Cells (0, 0) = (.6, .8) and (1, 0) = (1, 0) of the first mask; the second covers none
    assert torch.allclose(prototypes(embedding, logits), torch.tensor([[0.8, 0.4], [0.0, 0.0]]))


def test_a_step_sums_published_weights_and_gradients_reach_both_views() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher, anchor = (torch.randn(3, 8, 8, generator=generator).requires_grad_() for _ in range(3))
    iou, of_teacher, of_anchor = (torch.rand(3, 4, generator=generator).requires_grad_() for _ in range(3))
    losses = step_losses(student, iou[:, 0], teacher, anchor, of_teacher, of_anchor, 3)
    wanted = (teacher > 0).float()
    assert set(losses) == set(WEIGHTS)
    assert losses["focal"].item() == pytest.approx(20 * focal_loss(student, wanted).item())
    assert losses["anchor"].item() == pytest.approx(
        0.5 * dice_loss(student, (anchor > 0).float()).item() + 0.5 * dice_loss(teacher, (anchor > 0).float()).item()
    )
    torch.stack(list(losses.values())).sum().backward()
    assert student.grad is not None and teacher.grad is not None and of_teacher.grad is not None
    assert anchor.grad is None  # its masks are labels
    assert anchor_loss(student, teacher, anchor).item() == pytest.approx(losses["anchor"].item())


def test_legacy_takes_the_number_of_masks_for_alpha_and_smoothing() -> None:
    logits, targets = LOGITS.repeat(40, 1, 1), TARGETS.repeat(40, 1, 1)
    teacher = targets * 2 - 1
    nothing = torch.zeros(40, 2)
    released = step_losses(logits, torch.zeros(40), teacher, teacher, nothing, nothing, 40, legacy=True)
    assert float(released["focal"]) == pytest.approx(20 * 16.555, rel=1e-4)
    assert float(released["dice"]) == pytest.approx(float(dice_loss(logits, targets, smooth=40.0)))


def test_an_image_without_a_mask_teaches_nothing() -> None:
    nothing, vectors = torch.zeros(0, 4, 4, requires_grad=True), torch.zeros(0, 2)
    losses = step_losses(nothing, torch.zeros(0), nothing, nothing, vectors, vectors, 1)
    assert all(value.item() == 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
