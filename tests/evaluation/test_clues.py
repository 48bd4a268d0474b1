"""Figures of clue points and of thresholded class maps, worked out by hand."""

import math

import pytest
import torch

from weaksam.evaluation.cam_masks import cam_mask_quality, strongest_class, true_classes
from weaksam.evaluation.clues import clue_quality
from weaksam.structures.clue_points import COARSE, CluePeaks
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask


def points(*rows: tuple[float, float, int, float]) -> CluePeaks:
    """(x, y, label, height) of each."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    return CluePeaks(values[:, :2], values[:, 2].long(), torch.full((len(rows),), COARSE), values[:, 3])


TRUTH = {
    "a": Instances(torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 20, 10, 30]]), torch.tensor([0, 1, 0])),
    "b": Instances(torch.tensor([[5.0, 5, 15, 15]]), torch.tensor([0]), difficult=torch.tensor([True])),
    "c": Instances(torch.tensor([[5.0, 5, 15, 15]]), torch.tensor([1])),
}


def test_points_by_hand() -> None:
    found = {
        # inside the first cat twice, once low; on its right edge, which is outside; a cat's point inside the dog
        "a": points((0, 0, 0, 0.9), (9.9, 5, 0, 0.95), (10, 5, 0, 1.0), (25, 25, 0, 0.91)),
        "b": points((10, 10, 0, 1.0)),  # in a difficult object: right, and the object is not asked for
    }
    result = clue_quality(TRUTH, found, 2)
    assert (result.num_points, result.num_objects) == (5, 4)
    assert result.inside == pytest.approx(3 / 5)
    assert result.top_inside == pytest.approx(1 / 2)  # the highest of a lies on the edge, that of b is right
    assert result.hit == pytest.approx(1 / 4)
    assert result.points_per_object == pytest.approx(5 / 4)
    cat, dog = result.per_class
    assert (cat.inside, cat.hit, cat.num_objects) == (pytest.approx(3 / 5), 1 / 2, 2)
    assert math.isnan(dog.inside) and (dog.hit, dog.num_objects) == (0.0, 2)
    assert result.as_dict()["per_class"][1]["inside"] is None


def test_points_of_no_class_are_right_in_any_box() -> None:
    result = clue_quality(TRUTH, {"a": points((25, 25, -1, 1.0), (50, 50, -1, 1.0))}, 2)
    assert (result.inside, result.hit) == (0.5, 0.25)
    assert math.isnan(result.top_inside)
    assert [of_class.num_points for of_class in result.per_class] == [0, 0]


def test_no_points_and_no_objects() -> None:
    result = clue_quality({"a": Instances.empty()}, {}, 1)
    assert all(map(math.isnan, (result.inside, result.hit, result.points_per_object)))
    assert result.as_dict()["inside"] is None


def with_masks() -> Instances:
    """A large object of class 1 with a small one of class 0 on it, and a crowd."""
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, :, :2] = True
    masks[1, 0, 0] = True
    masks[2, 3, 3] = True
    boxes = torch.tensor([[0.0, 0, 2, 4], [0, 0, 1, 1], [3, 3, 4, 4]])
    crowd = torch.tensor([False, False, True])
    return Instances(boxes, torch.tensor([1, 0, 0]), masks=tuple(rle_from_mask(mask) for mask in masks), crowd=crowd)


def test_the_smaller_object_lies_on_top_and_crowds_are_left_out() -> None:
    wanted = [[1, 2, 0, 0], [2, 2, 0, 0], [2, 2, 0, 0], [2, 2, 0, -1]]
    assert true_classes(with_masks(), (4, 4)).tolist() == wanted
    assert true_classes(Instances.empty(), (2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_strongest_class_is_of_normalised_maps() -> None:
    maps = torch.tensor([[[0.0, 1.0, -5.0]], [[40.0, 20.0, 0.0]]])
    height, owner = strongest_class(torch.tensor([3, 1]), maps, (1, 3))
    assert height.tolist() == [pytest.approx([1.0, 1.0, 0.0])]
    assert owner[0, :2].tolist() == [1, 3]
    height, _ = strongest_class(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 1), (2, 2))
    assert height.tolist() == [[0, 0], [0, 0]]


def test_mean_iou_by_hand() -> None:
    truth = {"a": with_masks()}
    large = torch.zeros(4, 4)
    large[:, :2] = 1.0
    large[:, 2] = 0.5  # a wrong column, gone above 0.5
    result = cam_mask_quality(truth, lambda _: (torch.tensor([1]), large[None]), {"a": (4, 4)}, 2, (0.4, 0.6))
    # background 3 of 3 + 4 missed; class 0 (one pixel) never found; class 1: 7 of 12 found, then 7 of 8
    assert result.miou == (pytest.approx((3 / 7 + 0 + 7 / 12) / 3), pytest.approx((1 + 0 + 7 / 8) / 3))
    assert result.best == 0.6
    assert result.per_class == pytest.approx((1.0, 0.0, 7 / 8))
    assert result.at(0.4) == result.miou[0]


def test_a_photo_without_maps_is_background() -> None:
    nothing = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 1))
    result = cam_mask_quality({"a": with_masks()}, lambda _: nothing, {"a": (4, 4)}, 2, (0.5,))
    assert result.miou == (pytest.approx((7 / 15 + 0 + 0) / 3),)
