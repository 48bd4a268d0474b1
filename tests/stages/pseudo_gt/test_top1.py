"""Top-1 pseudo ground truth: the best-scored box of every tag."""

from tests.helpers import instances
from weaksam.stages.pseudo_gt import top1_pseudo_gt

BOXES = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]


def test_the_first_best_of_each_tag_is_kept():
    kept = top1_pseudo_gt(instances(BOXES, [1, 0, 0, 1], [0.5, 0.7, 0.7, 0.6]), [1, 0])
    assert kept.boxes.tolist() == [BOXES[1], BOXES[3]] and kept.labels.tolist() == [0, 1]
