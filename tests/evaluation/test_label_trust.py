"""How far pseudo labels can be trusted, without a truth, by hand."""

import math

import pytest
import torch

from tests.helpers import instances
from weaksam.evaluation.label_trust import (
    NUM_FOLDS,
    BoxTrust,
    agreement,
    doubt,
    fold_of,
    predicted_precision,
    tag_shares,
    trust_of,
)
from weaksam.structures.instances import Instances


def photos_of_fold(fold, num):
    """Names of ``num`` photos of a fold."""
    names = (f"{number}.jpg" for number in range(1000))
    return [name for name in names if fold_of(name) == fold][:num]


def trust(shares, agreements):
    return BoxTrust(torch.tensor(shares), torch.tensor(agreements))


def test_agreement_is_the_mean_iou_with_the_nearest_box_of_the_class():
    boxes = instances([(0, 0, 10, 10), (20, 0, 30, 10)], [0, 1])
    first = instances([(0, 0, 10, 5), (0, 0, 10, 10)], [0, 1])  # IoU 0.5 with the first; another class does not count
    second = instances([(0, 0, 10, 10)], [0])
    assert agreement(boxes, [first, second]).tolist() == [0.75, 0.0]
    assert agreement(boxes, [Instances.empty()]).tolist() == [0, 0]
    assert agreement(boxes, []).isnan().all() and len(agreement(Instances.empty(), [first])) == 0


def test_the_chance_is_the_product_of_what_is_known():
    of_four = trust([0.5, 0.5, math.nan, math.nan], [0.5, math.nan, 0.25, math.nan])
    assert of_four.known[:3].tolist() == [0.25, 0.5, 0.25] and math.isnan(of_four.known[3])
    # Tags alone say nothing of where an object ends: without a second look nothing is predicted
    assert of_four.chance[[0, 2]].tolist() == [0.25, 0.25] and of_four.chance[[1, 3]].isnan().all()
    assert predicted_precision({"a": trust([1.0], [math.nan])}).as_dict()["precision"] is None
    assert doubt(trust([0.75], [math.nan]), (0,), (0,)) == 0.25


def test_the_share_of_a_box_comes_from_other_folds():
    # In every fold but the held one, photos with the tag alone have the class: the tag brings all of it. In the held
    # fold it is the other way round, which its own photos must not learn.
    held, tags, detections = 2, {}, {}
    for fold in range(NUM_FOLDS):
        for number, name in enumerate(photos_of_fold(fold, 4)):
            tags[name] = (0,) if number % 2 else ()
            has_box = (number % 2 == 1) != (fold == held)
            detections[name] = instances([(0, 0, 9, 9)], [0], [0.8]) if has_box else Instances.empty(scored=True)
    believed = {name: instances([(0, 0, 9, 9)], [0], [0.8]) for name in photos_of_fold(held, 2)}
    shares = tag_shares(believed, detections, tags, 1)
    assert [value.tolist() for value in shares.values()] == [[1.0], [1.0]]
    # A photo of another fold learns from the held one too: 6 of 8 with the tag have a box, 2 of 8 without it
    other = photos_of_fold(0, 1)[0]
    (share,) = tag_shares({other: believed[photos_of_fold(held, 1)[0]]}, detections, tags, 1).values()
    assert share.tolist() == pytest.approx([1 - 2 / 6])


def test_a_class_of_which_the_tags_tell_nothing_has_no_share():
    names = [name for fold in range(NUM_FOLDS) for name in photos_of_fold(fold, 1)]
    boxes = {name: instances([(0, 0, 9, 9)], [0], [0.8]) for name in names}
    shares = tag_shares(boxes, boxes, dict.fromkeys(names, (0,)), 1)
    assert all(value.isnan().all() for value in shares.values())
    assert trust_of(boxes, {}, [boxes])[names[0]].chance.tolist() == [1.0]


def test_predicted_precision_and_its_interval():
    predicted = predicted_precision({"a": trust([1.0, 0.5], [1.0, 0.5]), "b": trust([0.5], [0.5])})
    assert predicted.precision == pytest.approx((1 + 0.25 + 0.25) / 3)
    # Of two photos a sample is a a, b b or both: means 0.625, 0.25, 0.5
    assert predicted.low == pytest.approx(0.25) and predicted.high == pytest.approx(0.625)
    assert predicted.stability == 1.0 and (predicted.num_boxes, predicted.num_unknown) == (3, 0)


def test_nothing_known_predicts_nothing():
    predicted = predicted_precision({"a": trust([math.nan], [math.nan]), "b": trust([], [])})
    assert predicted.as_dict() == {
        "precision": None,
        "low": None,
        "high": None,
        "stability": None,
        "num_boxes": 0,
        "num_unknown": 1,
    }
    assert predicted_precision({}).num_boxes == 0


def test_doubt_is_that_of_the_least_trusted_box():
    assert doubt(trust([1.0, 0.5], [1.0, 0.5]), (0,), (0, 0)) == 0.75
    assert doubt(trust([1.0], [1.0]), (0, 1), (0,)) == 1  # a tag without a box
    assert doubt(trust([], []), (), ()) == 0 and doubt(trust([math.nan], [math.nan]), (0,), (0,)) == 0.5
