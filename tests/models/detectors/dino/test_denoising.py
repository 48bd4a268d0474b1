"""Denoising queries: which box each shall become, how far they move, who sees whom."""

import pytest
import torch
from torchvision.ops import box_convert

from tests.helpers import CPU
from tests.models.detectors.dino.toys import SMALL_SHAPE
from weaksam.models.detectors.dino.denoising import DenoisingQueries, boxes_with_noise, labels_with_noise
from weaksam.models.query.targets import QueryTargets

BOXES = torch.tensor([[10.0, 10, 30, 20], [0, 0, 40, 40]])
TARGETS = [
    {"boxes": BOXES, "labels": torch.tensor([1, 3])},
    {"boxes": BOXES[:1], "labels": torch.tensor([2])},
]


def made(**changes: object):
    torch.manual_seed(0)
    generator = DenoisingQueries(SMALL_SHAPE.model_copy(update=changes), 3)
    return generator, generator(QueryTargets.of(TARGETS, [(40, 40)] * 2, CPU))


def test_groups_hold_positive_then_negative_queries() -> None:
    generator, denoising = made(label_noise=0.0, box_noise=0.0, num_denoising=5)
    # Two groups (five queries by two boxes) of two positive and two negative ones
    assert denoising.num_groups == 2 and len(denoising) == 8
    assert denoising.matched.tolist() == [[0, 1, -1, -1] * 2, [0, -1, -1, -1] * 2]
    assert denoising.labels.tolist() == [[0, 2, 0, 2] * 2, [1, -1, 1, -1] * 2]
    wanted = torch.tensor([0.5, 0.375, 0.5, 0.25])
    torch.testing.assert_close(denoising.boxes.sigmoid()[0, [0, 2, 4, 6]], wanted.expand(4, 4))
    assert denoising.boxes[1, [1, 3, 5, 7]].eq(0).all()
    contents = generator.embed(denoising)
    assert torch.equal(contents[0, 1], generator.label_embedding.weight[2]) and not contents[1, 1].any()


def test_who_sees_whom_by_hand() -> None:
    _, denoising = made(num_denoising=4)
    blocked = denoising.blocked(3)
    assert blocked is not None and blocked.shape == (11, 11)
    seen = [(~row).nonzero()[:, 0].tolist() for row in blocked]
    assert seen == [[0, 1, 2, 3, 8, 9, 10]] * 4 + [[4, 5, 6, 7, 8, 9, 10]] * 4 + [[8, 9, 10]] * 3


def test_positive_boxes_move_by_at_most_half_a_side_and_negative_ones_by_more() -> None:
    torch.manual_seed(0)
    box = torch.tensor([0.5, 0.5, 0.2, 0.1]).expand(3, 50, 2, 4, 4)
    corners = box_convert(boxes_with_noise(box, 1.0), "cxcywh", "xyxy")
    moved = (corners - box_convert(box, "cxcywh", "xyxy")).abs() / torch.tensor([0.1, 0.05, 0.1, 0.05])
    assert moved[:, :, 0].max() <= 1 + 1e-5 and moved[:, :, 1].min() >= 1 - 1e-5 and moved[:, :, 1].max() <= 2 + 1e-5
    assert moved[:, :, 0].mean().item() == pytest.approx(0.5, abs=0.02)
    at_border = boxes_with_noise(torch.tensor([0.05, 0.95, 0.1, 0.1]).expand(3, 50, 2, 4, 4), 1.0)
    corners = box_convert(at_border, "cxcywh", "xyxy")
    assert corners.min() >= -1e-6 and corners.max() <= 1 + 1e-6


def test_half_of_the_noise_changes_labels() -> None:
    torch.manual_seed(0)
    labels = torch.zeros(100, 200, dtype=torch.int64)
    assert labels_with_noise(labels, 0.0, 5).eq(0).all()
    changed = labels_with_noise(labels, 0.5, 5)
    # A quarter is drawn anew, a fifth of it is right again
    assert changed.ne(0).float().mean().item() == pytest.approx(0.25 * 0.8, abs=0.01) and changed.max() == 4


def test_no_box_and_no_denoising() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    targets = QueryTargets.of([nothing], [(40, 40)], CPU)
    generator, _ = made()
    empty = generator(targets)
    assert empty is not None and len(empty) == 0 and empty.blocked(3) is None
    assert generator.embed(empty).shape == (1, 0, 32)
    assert DenoisingQueries(SMALL_SHAPE.model_copy(update={"num_denoising": 0}), 3)(targets) is None


def test_more_boxes_than_denoising_queries_make_one_group() -> None:
    _, denoising = made(num_denoising=1)
    assert denoising.num_groups == 1 and len(denoising) == 4
