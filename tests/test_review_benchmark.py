"""The benchmark of reviews: what a reviewer who sees the true objects decides, and its table's row."""

import importlib

import pytest

from tests.helpers import ROOT, instances

APPLE, PEAR = [0.0, 0, 40, 40], [60.0, 0, 100, 40]


@pytest.fixture
def review(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("review")


def decided(review, boxes, labels, tags=(0, 1)):
    truth = instances([APPLE, PEAR], [0, 1])
    rows = list(range(len(boxes)))
    scores = [0.9 - 0.1 * row for row in rows]
    return list(review.decide(truth, instances(boxes, labels, scores), rows, tags))


def test_a_tight_box_is_accepted_and_a_loose_one_redrawn_to_its_object(review):
    tight, loose = [0.0, 0, 40, 36], [60.0, 0, 100, 28]  # IoU 0.9 and 0.7
    assert decided(review, [tight, loose], [0, 1]) == [
        {"row": 0, "decision": "accept"},
        {"row": 1, "decision": "redraw", "to_box": PEAR},
    ]


def test_a_part_is_redrawn_where_no_box_has_the_object_and_rejected_where_one_has(review):
    part = [0.0, 0, 12, 12]
    assert decided(review, [part], [0]) == [{"row": 0, "decision": "redraw", "to_box": APPLE}]
    both = decided(review, [APPLE, part], [0, 0])
    assert [row["decision"] for row in both] == ["accept", "reject"]


def test_another_class_is_relabelled_if_that_is_a_tag(review):
    assert decided(review, [PEAR], [0]) == [{"row": 0, "decision": "relabel", "to_label": 1}]
    assert decided(review, [PEAR], [0], tags=(0,)) == [{"row": 0, "decision": "reject"}]
    assert decided(review, [], []) == []


def test_a_row_without_a_training_says_so(review):
    labels = {"stage": "pseudo_gt", "figures": {"train_chosen": {"precision": 0.75, "recall": 0.5}}}
    row = review.figures_of({"stages": [labels]})
    assert row == {"precision": "0.750", "recall": "0.500", "network": "not trained", "chosen": "not trained"}
