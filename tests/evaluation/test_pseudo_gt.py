"""Precision, recall and number of pseudo ground truth, counted by hand."""

import math

import pytest

from tests.helpers import instances
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.structures.instances import Instances

LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 110, 110]


def test_precision_recall_and_number():
    truths = {"a": instances([LEFT, RIGHT, FAR], [0, 0, 1]), "b": instances([LEFT], [1]), "c": Instances.empty()}
    pseudo_gt = {
        "a": instances([LEFT, [0, 0, 10, 9], RIGHT], [0, 0, 1], [0.9, 0.8, 0.7]),  # hit, twin, wrong place
        "b": instances([[0, 0, 10, 8]], [1], [0.5]),  # hit at 0.8
        "c": instances([LEFT], [0], [0.1]),  # nothing there
    }
    result = pseudo_gt_quality(truths, pseudo_gt, 3)
    assert result.num_boxes == (3, 2, 0) and result.num_hits == (1, 1, 0) and result.num_truths == (2, 2, 0)
    assert result.precision[:2] == pytest.approx((1 / 3, 1 / 2)) and math.isnan(result.precision[2])
    assert result.recall[:2] == pytest.approx((1 / 2, 1 / 2)) and math.isnan(result.recall[2])
    assert result.overlap[:2] == pytest.approx((1, 0.8))
    assert result.total() == pytest.approx((2 / 5, 2 / 4, 5))
    summary = result.as_dict()
    assert summary["mean_precision"] == pytest.approx((1 / 3 + 1 / 2) / 2) and summary["number"] == 5
    assert "IoU >= 0.5" in str(result) and "precision 0.400" in str(result)


def test_higher_threshold_and_missing_scores():
    truths = {"a": instances([LEFT], [0])}
    pseudo_gt = {"a": instances([[0, 0, 10, 8]], [0])}
    assert pseudo_gt_quality(truths, pseudo_gt, 1, iou=0.8).precision == (1,)
    assert pseudo_gt_quality(truths, pseudo_gt, 1, iou=0.9).precision == (0,)


def test_box_on_a_difficult_object_is_left_out():
    truths = {"a": instances([LEFT, RIGHT], [0, 0], difficult=[False, True])}
    result = pseudo_gt_quality(truths, {"a": instances([LEFT, RIGHT], [0, 0], [0.5, 0.9])}, 1)
    assert result.num_boxes == (1,) and result.precision == (1,) and result.recall == (1,)


def test_no_pseudo_gt():
    result = pseudo_gt_quality({"a": instances([LEFT], [0])}, {}, 1)
    assert math.isnan(result.precision[0]) and result.recall == (0,) and result.as_dict()["precision"] is None
