"""Ignored regions of pseudo ground truth: which missed objects they cover, by hand."""

import math

import pytest
import torch

from tests.helpers import instances
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.evaluation.pseudo_gt_figures import pseudo_gt_figures
from weaksam.evaluation.pseudo_gt_kinds import count_kinds
from weaksam.evaluation.pseudo_gt_zones import count_zones, covered_objects
from weaksam.evaluation.text import pseudo_gt_text
from weaksam.structures.instances import Instances

TRUTH = instances([[0, 0, 40, 40], [40, 0, 80, 40], [0, 100, 40, 140]], [0, 0, 1])
# The first cat is found; a group around both cats and half of the dog are ignored
BOXES = instances([[0, 0, 40, 40], [0, 0, 80, 40], [0, 100, 20, 140]], [0, 0, 1], [0.9, 0.5, 0.4]).replace(
    crowd=torch.tensor([False, True, True])
)


def test_an_object_is_covered_by_the_region_that_it_overlaps_most():
    objects, believed = TRUTH.boxes, BOXES.boxes[:1]
    assert covered_objects(objects, believed, BOXES.boxes[1:]).tolist() == [False, True, True]
    less = torch.tensor([[0.0, 100, 19, 140]])  # 19 of its 40 columns
    assert covered_objects(objects, believed, less).tolist() == [False, False, False]
    better = torch.tensor([[41.0, 0, 81, 40]])  # a believed box that the second cat overlaps more than the group
    assert covered_objects(objects, better, BOXES.boxes[1:2]).tolist() == [True, False, False]
    assert covered_objects(objects, believed[:0], BOXES.boxes[1:2]).tolist() == [True, True, False]
    assert covered_objects(objects, believed, BOXES.boxes[:0]).tolist() == [False] * 3
    assert covered_objects(objects[:0], believed, BOXES.boxes).tolist() == []


def test_zones_are_counted_by_class_and_ignored_regions_are_no_boxes():
    zones = count_zones({"a": TRUTH, "b": TRUTH}, {"a": BOXES}, 2)
    assert zones.num_ignored == (1, 1) and zones.num_missed == (3, 2) and zones.num_covered == (1, 1)
    assert zones.covered_share == pytest.approx(2 / 5)
    assert math.isnan(count_zones({}, {}, 2).covered_share)
    quality = pseudo_gt_quality({"a": TRUTH}, {"a": BOXES}, 2)
    assert quality.total() == (1.0, pytest.approx(1 / 3), 1)
    kinds = count_kinds({"a": TRUTH}, {"a": BOXES}, 2)
    assert kinds.total("right") == 1 and sum(map(sum, kinds.boxes.values())) == 1


def test_the_figures_and_their_text_name_the_ignored_regions():
    figures = pseudo_gt_figures({"a": BOXES}, ["a", "b"], ["cat", "dog"], {"a": TRUTH})
    assert figures.num_boxes == (1, 0) and figures.num_ignored == (1, 1) and figures.num_empty == 1
    assert figures.as_dict()["against_truth"]["zones"]["covered_share"] == 1.0
    assert "ignored regions: 2 (cat 1, dog 1); 2 of 2 missed objects covered" in pseudo_gt_text(figures)
    without = pseudo_gt_figures({"a": BOXES}, ["a", "b"], ["cat", "dog"])
    assert "ignored regions: 2 (cat 1, dog 1)\n" in pseudo_gt_text(without) + "\n"
    plain = pseudo_gt_figures({"a": BOXES.without_crowd()}, ["a"], ["cat", "dog"], {"a": TRUTH})
    assert "ignored regions" not in pseudo_gt_text(plain)
    alone = pseudo_gt_figures({"a": BOXES[torch.tensor([1])]}, ["a"], ["cat", "dog"], {"a": Instances.empty()})
    assert alone.num_empty == 1 and alone.num_ignored == (1, 0)
