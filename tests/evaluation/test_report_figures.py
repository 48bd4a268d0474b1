"""Curves of precision over recall, recall by source and statistics of tags, by hand."""

import torch

from tests.helpers import instances
from weaksam.evaluation.precision_recall import MOST_POINTS, precision_recall
from weaksam.evaluation.source_recall import recall_by_source
from weaksam.evaluation.tag_ap import tag_agreement
from weaksam.evaluation.tag_statistics import tag_statistics
from weaksam.structures.clue_points import COARSE, GRID
from weaksam.structures.instances import Instances

OBJECT = instances([(0, 0, 10, 10)], [0])


def test_precision_over_recall():
    truths = {"a": OBJECT, "b": OBJECT}
    detections = {
        "a": instances([(0, 0, 10, 10)], [0], [0.9]),
        "b": instances([(20, 20, 30, 30), (0, 0, 10, 10)], [0, 0], [0.8, 0.7]),
    }
    curve, empty = precision_recall(truths, detections, 2)
    assert curve.recall.tolist() == [0.5, 0.5, 1.0] and curve.precision.tolist() == [1, 0.5, 2 / 3]
    assert len(empty.recall) == len(empty.precision) == 0


def test_long_curves_keep_their_ends():
    many = instances([(0, 0, 10, 10)] * 300, [0] * 300, [1 - n / 1000 for n in range(300)])
    (curve,) = precision_recall({"a": OBJECT}, {"a": many}, 1)
    assert len(curve.recall) == MOST_POINTS and curve.precision[0] == 1 and curve.precision[-1] == 1 / 300


def test_recall_of_each_source_alone():
    proposals = {"a": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]]), "b": torch.tensor([[0.0, 0, 10, 6]])}
    sources = {"a": torch.tensor([GRID, COARSE]), "b": torch.tensor([COARSE])}
    truths = {"a": OBJECT, "b": OBJECT}
    grid, coarse = recall_by_source(proposals, sources, truths)
    assert (grid.source, grid.per_photo, grid.recall) == (GRID, 0.5, {0.5: 0.5, 0.75: 0.5, 0.9: 0.5})
    assert (coarse.source, coarse.per_photo, coarse.recall) == (COARSE, 1.0, {0.5: 1.0, 0.75: 0.5, 0.9: 0.0})
    assert recall_by_source(proposals, sources, None)[0].recall == {0.5: None, 0.75: None, 0.9: None}
    assert recall_by_source({}, {}, truths) == []


def test_statistics_of_tags():
    statistics = tag_statistics([(0, 1), (1,), (), (1, 1)], 3)
    assert statistics.photos == (1, 3, 0) and statistics.by_number == {0: 1, 1: 2, 2: 1}
    assert statistics.together.tolist() == [[1, 1, 0], [1, 3, 0], [0, 0, 0]] and statistics.num_photos == 4
    assert tag_statistics([], 1).photos == (0,)


def test_agreement_with_tags_is_their_average_precision():
    # Class 0: photo a, with the tag, scores highest of three: AP 1. Class 1: c, with the tag, comes after a: AP 1/2.
    detections = {
        "a": instances([(0, 0, 9, 9)] * 2, [0, 1], [0.9, 0.8]),
        "c": instances([(0, 0, 9, 9)], [1], [0.5]),
    }
    assert tag_agreement(detections, {"a": (0,), "b": (), "c": (1,)}, 2) == 0.75
    assert tag_agreement({}, {}, 2) == 0 and tag_agreement({"a": Instances.empty()}, {"a": ()}, 2) == 0
