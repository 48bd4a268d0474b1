"""Top-k pseudo ground truth: the best-scored boxes of every tag."""

from tests.helpers import instances
from weaksam.stages.pseudo_gt import topk_pseudo_gt

BOXES = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
DETECTIONS = instances(BOXES, [1, 0, 0, 1], [0.5, 0.7, 0.7, 0.6])


def test_the_first_best_of_each_tag_is_kept():
    kept = topk_pseudo_gt(DETECTIONS, [1, 0])
    assert kept.boxes.tolist() == [BOXES[1], BOXES[3]] and kept.labels.tolist() == [0, 1]


def test_several_of_each_tag_come_best_first_as_far_as_there_are_some():
    kept = topk_pseudo_gt(DETECTIONS, [1, 0], k=2)
    assert kept.boxes.tolist() == [BOXES[1], BOXES[2], BOXES[3], BOXES[0]] and kept.labels.tolist() == [0, 0, 1, 1]
    assert len(topk_pseudo_gt(DETECTIONS, [1], k=9)) == 2
