"""Targets of RoIs from seeds, by hand and against plain loops."""

import pytest
import torch

from weaksam.models.wsod.losses import refine_loss
from weaksam.models.wsod.targets import Seeds, assign_rois, empty_seeds, first_maximum
from weaksam.structures.boxes import pairwise_iou

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [40, 40, 50, 50]])


def test_rois_take_the_class_and_weight_of_their_best_seed() -> None:
    seeds = Seeds(torch.tensor([0, 3]), torch.tensor([1, 0]), torch.tensor([0.7, 0.4]))
    labels = assign_rois(pairwise_iou(BOXES, BOXES), seeds)
    assert labels.target.tolist() == [2, 2, 0, 1]
    assert labels.weight.tolist() == pytest.approx([0.7, 0.7, 0.7, 0.4])


def test_without_seeds_every_weight_is_zero() -> None:
    labels = assign_rois(pairwise_iou(BOXES, BOXES), empty_seeds())
    assert labels.weight.tolist() == [0.0] * 4
    assert refine_loss(torch.randn(4, 3), labels).item() == 0.0


@pytest.mark.parametrize("num", [1, 2, 80, 128, 129, 143, 144, 145, 300])
def test_first_maximum_equals_a_plain_loop(num: int) -> None:
    values = (torch.rand(num, 40, generator=torch.Generator().manual_seed(num)) * 4).round()  # full of equals
    values[:, 0], values[:, 1] = -1.0, torch.arange(num)
    highest, first = first_maximum(values)
    for column in range(40):
        of_column = values[:, column].tolist()
        assert highest[column] == max(of_column) and first[column] == of_column.index(max(of_column))


def test_padding_never_labels_a_roi() -> None:
    """On an accelerator the seeds keep a fixed length; padding has label -1."""
    iou = torch.eye(3)
    seeds = Seeds(torch.tensor([0, 1, 2]), torch.tensor([-1, 4, -1]), torch.tensor([0.9, 0.5, 0.8]))
    targets = assign_rois(iou, seeds)
    assert targets.target.tolist() == [0, 5, 0]
    assert targets.weight.tolist() == [0.5, 0.5, 0.5]
    nothing = assign_rois(iou, seeds._replace(label=torch.tensor([-1, -1, -1])))
    assert (nothing.target.tolist(), nothing.weight.tolist(), nothing.seed.tolist()) == ([0] * 3, [0.0] * 3, [0] * 3)
