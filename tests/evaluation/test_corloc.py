"""CorLoc and its naive baselines, counted by hand."""

import math

import pytest
import torch

from tests.helpers import instances
from weaksam.config import UserError
from weaksam.evaluation.corloc import (
    corloc,
    largest_proposal_detections,
    random_proposal_corloc,
    whole_image_detections,
)
from weaksam.structures.masks import rle_from_mask

LEFT, RIGHT, WIDE = [0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 30, 10]


def test_only_the_best_box_of_each_tag_counts():
    truths = {
        "a": instances([LEFT, RIGHT], [0, 1]),
        "b": instances([LEFT], [0]),
        "c": instances([RIGHT], [1]),
        "d": instances([LEFT], [0]),
    }
    detections = {
        "a": instances([RIGHT, LEFT, RIGHT], [0, 0, 1], [0.2, 0.9, 0.1]),  # 0 right, 1 right
        "b": instances([RIGHT, LEFT], [0, 0], [0.9, 0.8]),  # 0 wrong: its best box misses
        "c": instances([RIGHT], [0], [0.9]),  # 1 wrong: no box of its class
    }  # d has no detection at all: wrong
    tags = {"a": [0, 1], "b": [0], "c": [1], "d": [0]}
    result = corloc(truths, detections, tags, 3)
    assert result.corloc[:2] == pytest.approx((1 / 3, 1 / 2)) and math.isnan(result.corloc[2])
    assert result.num_images == (3, 2, 0)
    alone = {name: corloc(truths, detections, {name: [0]}, 3).mean() for name in "abd"}
    assert alone == {"a": 1, "b": 0, "d": 0}
    assert result.mean() == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert result.as_dict()["per_class"][2] is None
    assert "IoU >= 0.5" in str(result) and "4 images" in str(result)


def test_first_of_equal_scores_is_the_best():
    truths, tags = {"a": instances([LEFT], [0])}, {"a": [0]}
    assert corloc(truths, {"a": instances([LEFT, RIGHT], [0, 0], [0.5, 0.5])}, tags, 1).mean() == 1
    assert corloc(truths, {"a": instances([RIGHT, LEFT], [0, 0], [0.5, 0.5])}, tags, 1).mean() == 0


def test_one_true_box_of_many_is_enough_and_difficult_ones_count():
    truths, tags = {"a": instances([LEFT, RIGHT], [0, 0], difficult=[False, True])}, {"a": [0]}
    assert corloc(truths, {"a": instances([RIGHT], [0], [0.5])}, tags, 1).mean() == 1


def test_tag_without_a_true_box_is_a_miss_and_no_tag_is_nothing():
    truths = {"a": instances([LEFT], [0])}
    detections = {"a": instances([LEFT, LEFT], [0, 1], [0.5, 0.5])}
    assert corloc(truths, detections, {"a": [1]}, 2).corloc[1] == 0
    assert math.isnan(corloc(truths, detections, {"a": []}, 2).mean())
    assert corloc(truths, detections, {"a": [0, 0]}, 2).num_images == (1, 0)  # a tag said twice is one tag


def test_overlap_of_exactly_the_threshold_hits():
    truths, tags = {"a": instances([LEFT], [0])}, {"a": [0]}
    half = {"a": instances([[0, 0, 10, 5]], [0], [0.5])}
    assert corloc(truths, half, tags, 1).mean() == 1
    assert corloc(truths, half, tags, 1, iou=0.51).mean() == 0


def test_masks_can_be_compared():
    true_mask, mask = torch.zeros(10, 10, dtype=torch.bool), torch.zeros(10, 10, dtype=torch.bool)
    true_mask[:, :] = True
    mask[:, :4] = True
    mask[0, 9] = True  # the box is nearly right, the mask is not
    truths = {"a": instances([LEFT], [0]).replace(masks=(rle_from_mask(true_mask),))}
    detections = {"a": instances([LEFT], [0], [0.5]).replace(masks=(rle_from_mask(mask),))}
    assert corloc(truths, detections, {"a": [0]}, 1).mean() == 1
    assert corloc(truths, detections, {"a": [0]}, 1, geometry="masks").mean() == 0


def test_random_proposal_is_an_expectation():
    truths = {"a": instances([LEFT], [0]), "b": instances([LEFT, RIGHT], [0, 1])}
    proposals = {"a": torch.tensor([LEFT, RIGHT, WIDE, [0, 0, 10, 6]]).float()}  # IoU 1, 0, 1/3, 0.6
    result = random_proposal_corloc(truths, proposals, {"a": [0], "b": [0, 1]}, 2)
    assert result.corloc == pytest.approx((0.5 * (2 / 4 + 0), 0))  # b has no proposals


def test_largest_proposal_and_whole_image():
    truths = {"a": instances([LEFT], [0]), "b": instances([[0, 0, 100, 60]], [0]), "c": instances([LEFT], [0])}
    proposals = {"a": torch.tensor([LEFT, WIDE]).float(), "b": torch.tensor([RIGHT, [0, 0, 90, 60]]).float()}
    tags = {"a": [0], "b": [0], "c": [0]}
    largest = largest_proposal_detections(proposals, tags)
    assert largest["a"].boxes.tolist() == [WIDE] and len(largest["c"]) == 0
    assert corloc(truths, largest, tags, 1).mean() == pytest.approx(1 / 3)
    whole = whole_image_detections({"a": (10, 12), "b": (60, 100), "c": (50, 50)}, tags)
    assert whole["b"].boxes.tolist() == [[0, 0, 100, 60]]
    assert corloc(truths, whole, tags, 1).mean() == pytest.approx(2 / 3)  # a at 100 / 120, b; not c
    assert whole_image_detections({"a": (5, 9)}, {"a": [2, 0]})["a"].labels.tolist() == [0, 2]


def test_tagged_image_without_a_truth_takes_no_part():
    truths, detections = {"a": instances([LEFT], [0])}, {name: instances([LEFT], [0], [0.5]) for name in "ab"}
    result = corloc(truths, detections, {"a": [0], "b": [0]}, 1)
    assert result.mean() == 1 and result.num_images == (1,) and "1 images" in str(result)


def test_mistakes_are_one_sentence():
    truths = {"a": instances([LEFT], [0])}
    with pytest.raises(UserError, match="found 3 at a"):
        corloc(truths, {}, {"a": [3]}, 2)
    with pytest.raises(UserError, match="tags must belong"):
        corloc(truths, {}, {"z": [0]}, 2)
    with pytest.raises(UserError, match="score"):
        corloc(truths, {"a": instances([LEFT], [0])}, {"a": [0]}, 2)
