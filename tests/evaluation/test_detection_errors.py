"""Kinds of errors of detections, counted by hand."""

import pytest
import torch

from tests.helpers import instances
from weaksam.config import UserError
from weaksam.evaluation.detection_errors import ERROR_KINDS, count_errors, error_kinds
from weaksam.structures.instances import Instances

TRUTH = instances([(0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)], [0, 0, 1])
"""Two objects of class 0 side by side, one of class 1 far away."""


def kinds(*detections, truth=TRUTH, labels=None):
    """The kinds of boxes of falling scores; of class 0 unless ``labels`` say otherwise."""
    scores = [1 - number / 10 for number in range(len(detections))]
    return error_kinds(truth, instances(detections, labels or [0] * len(detections), scores))


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        ((0, 0, 10, 10), 0, "right"),
        ((0, 0, 10, 5), 0, "right"),  # IoU is exactly a half
        ((0, 0, 10, 4), 0, "part"),  # IoU 0.4, wholly inside
        ((0, 0, 30, 10), 0, "group"),  # both objects in it; IoU 1/3
        ((5, 0, 15, 10), 0, "localisation"),  # IoU 50/150, half of it inside
        ((0, 0, 10, 10), 1, "class"),  # on an object of class 0
        ((5, 0, 15, 10), 1, "class"),  # near one by IoU 1/3, near none of its own
        ((100, 100, 110, 110), 0, "background"),
        ((9, 9, 29, 29), 0, "background"),  # IoU with both under 0.1: 1/499 and 9/491
    ],
)
def test_each_kind(box, label, kind):
    assert kinds(box, labels=[label]).kinds == (kind,)


def test_a_second_box_is_a_duplicate_and_what_nobody_finds_is_missed():
    errors = kinds((0, 0, 10, 10), (0, 0, 10, 9))
    assert errors.kinds == ("right", "duplicate") and errors.missed.tolist() == [False, True, True]


def test_difficult_objects_are_ignored_and_never_missed():
    truth = TRUTH.replace(difficult=torch.tensor([True, False, False]))
    errors = kinds((0, 0, 10, 10), truth=truth)
    assert errors.kinds == ("ignored",) and errors.missed.tolist() == [False, True, True]


def test_nothing_is_an_error_or_everything():
    assert error_kinds(TRUTH, Instances.empty(scored=True)).missed.tolist() == [True] * 3
    errors = kinds((0, 0, 10, 10), truth=Instances.empty())
    assert errors.kinds == ("background",) and errors.missed.tolist() == []


def test_a_class_counts_as_many_detections_as_it_has_objects():
    # Class 0 has three objects: its best three of four detections count. Class 1 has one: its best one does.
    truths = {"a": TRUTH, "b": instances([(0, 0, 10, 10)], [0])}
    detections = {
        "a": instances([(0, 0, 10, 10), (0, 0, 10, 9), (20, 0, 30, 10)], [0, 0, 0], [0.9, 0.8, 0.1]),
        "b": instances([(0, 0, 10, 4), (0, 0, 10, 10), (0, 0, 10, 10)], [0, 1, 1], [0.7, 0.6, 0.5]),
    }
    counts = count_errors(truths, detections, 2)
    assert {kind: counts.counts[kind] for kind in ERROR_KINDS if counts.total(kind)} == {
        "right": (1, 0),
        "duplicate": (1, 0),
        "part": (1, 0),
        "class": (0, 1),
    }
    assert counts.missed == (2, 1) and counts.num_truths == (3, 1)
    figures = counts.as_dict()
    assert figures["kinds"]["class"] == 1 and figures["missed"] == 3 and figures["kinds_per_class"]["part"] == [1, 0]


def test_equal_scores_count_in_the_order_of_the_photos():
    truths = {"a": instances([(0, 0, 10, 10)], [0]), "b": Instances.empty()}
    detections = {name: instances([(0, 0, 10, 10)], [0], [0.5]) for name in "ab"}
    counts = count_errors(truths, detections, 1)
    assert counts.total("right") == 1 and counts.total("background") == 0


def test_no_photo_and_no_score():
    assert count_errors({}, {}, 2).missed == (0, 0)
    with pytest.raises(UserError, match="score"):
        count_errors({"a": TRUTH}, {"a": TRUTH}, 2)
