"""Proposal recall, counted by hand."""

import math

import pytest
import torch

from weaksam.config import UserError
from weaksam.evaluation.recall import proposal_recall
from weaksam.structures.instances import Instances

LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 110, 110]


def truth(boxes, **marks):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    flags = {name: torch.tensor(values) for name, values in marks.items()}
    return Instances(boxes, torch.zeros(len(boxes), dtype=torch.int64), **flags)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize("assignment", ["best-match", "one-to-one"])
@pytest.mark.parametrize("second", [{}, {"b": boxes()}])
def test_image_without_proposals_counts(assignment, second):
    # Two objects, one found, and a third in an image without proposals: 1/3, where the released tool says 1/2
    truths = {"a": truth([LEFT, RIGHT]), "b": truth([FAR])}
    result = proposal_recall(truths, {"a": boxes(LEFT), **second}, assignment=assignment)
    assert [result.at(iou) for iou in (0.5, 0.75, 0.9)] == pytest.approx([1 / 3] * 3)
    assert result.num_truths == 3 and result.num_proposals[-1] == 0.5


def test_thresholds_and_average_recall():
    # IoU 0.8 and 0.6: reached by 7 and 3 of the ten thresholds 0.5, .., 0.95
    truths = {"a": truth([LEFT, RIGHT])}
    result = proposal_recall(truths, {"a": boxes([0, 0, 10, 8], [20, 0, 30, 6])}, ious=(0.5, 0.6, 0.75, 0.9))
    assert [result.at(iou) for iou in (0.5, 0.6, 0.75, 0.9)] == [1, 1, 0.5, 0]
    assert result.average_recall[-1] == pytest.approx((7 + 3) / 20)
    assert result.best_overlap[-1] == pytest.approx(0.7)


def test_only_the_first_n_proposals_count():
    truths = {"a": truth([LEFT]), "b": truth([RIGHT])}
    proposals = {"a": boxes(FAR, FAR, LEFT), "b": boxes(RIGHT)}
    result = proposal_recall(truths, proposals, counts=(1, 2, 3, None))
    assert [result.at(0.5, count) for count in (1, 2, 3, None)] == [0.5, 0.5, 1, 1]
    assert result.num_proposals == (1, 1.5, 2, 2)


def test_one_proposal_for_two_objects():
    # One proposal over two near-equal objects: IoU 10/11 and 1; alone it can stand for one only
    truths = {"a": truth([LEFT, [0, 0, 10, 11]])}
    assert proposal_recall(truths, {"a": boxes(LEFT)}).at(0.5) == 1
    assert proposal_recall(truths, {"a": boxes(LEFT)}, assignment="one-to-one").at(0.5) == 0.5
    both = proposal_recall(truths, {"a": boxes(LEFT, [0, 0, 10, 20])}, assignment="one-to-one")
    assert both.best_overlap[-1] == pytest.approx((1 + 11 / 20) / 2)  # the closest pair goes first


def test_difficult_and_crowd():
    truths = {"a": truth([LEFT, RIGHT, FAR], difficult=[False, True, False], crowd=[False, False, True])}
    found = {"a": boxes(LEFT)}
    assert proposal_recall(truths, found).at(0.5) == 1
    counted = proposal_recall(truths, found, count_difficult=True)
    assert counted.at(0.5) == 0.5 and counted.num_truths == 2
    assert "difficult counted" in str(counted) and "difficult and crowd truths ignored" in str(
        proposal_recall(truths, found)
    )


def test_without_objects_recall_is_nothing():
    result = proposal_recall({"a": truth([])}, {"a": boxes(LEFT)})
    assert math.isnan(result.at(0.5)) and result.as_dict()["rows"][-1]["recall"]["0.5"] is None
    assert math.isnan(proposal_recall({}, {}).at(0.5))


def test_one_to_one_never_beats_best_match():
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        corners = torch.rand(14, 2, generator=generator) * 30
        drawn = torch.cat([corners, corners + 5 + torch.rand(14, 2, generator=generator) * 20], dim=1)
        truths, found = {"a": truth(drawn[:5].tolist())}, {"a": drawn[5:]}
        best = proposal_recall(truths, found, ious=(0.3, 0.5))
        one = proposal_recall(truths, found, ious=(0.3, 0.5), assignment="one-to-one")
        assert all(one.at(iou) <= best.at(iou) for iou in (0.3, 0.5))
        assert one.best_overlap[-1] <= best.best_overlap[-1] + 1e-12


def test_mistakes_are_one_sentence():
    with pytest.raises(UserError, match="first: z"):
        proposal_recall({"a": truth([LEFT])}, {"z": boxes(LEFT)})
    with pytest.raises(UserError, match="at least 1"):
        proposal_recall({"a": truth([LEFT])}, {}, counts=(0,))
