"""The prompt value: what it refuses, its rows, and its batches without padding."""

import pytest
import torch

from weaksam.sam.batches import BatchLimit, predict_batches
from weaksam.sam.prompts import Prompts, of_equal_length
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.proposals.prompts import grid_points

POINTS = torch.arange(24.0).reshape(4, 3, 2)
LABELS = torch.tensor([[1, -1, -1], [-1, 0, 1], [-1, -1, 1], [-1, -1, -1]])
BOXES = torch.arange(16.0).reshape(4, 4)


@pytest.mark.parametrize(
    "points, labels, boxes, words",
    [
        (None, None, None, "points or boxes"),
        (torch.zeros(3, 2), None, None, r"\(P, K, 2\)"),
        (torch.zeros(3, 1, 2), torch.zeros(3), None, "point_labels"),
        (None, None, torch.zeros(4), r"\(P, 4\)"),
        (torch.zeros(3, 1, 2), None, torch.zeros(2, 4), "3 and 2"),
    ],
)
def test_prompts_of_a_wrong_shape_are_refused(points, labels, boxes, words):
    with pytest.raises(ValueError, match=words):
        Prompts(points, labels, boxes)


def test_points_without_labels_are_foreground():
    prompts = Prompts(POINTS)
    assert prompts.point_labels.tolist() == [[1, 1, 1]] * 4 and prompts.boxes is None and len(prompts) == 4
    single = Prompts.single_points(POINTS[0])
    assert single.points.tolist() == [[[0, 1]], [[2, 3]], [[4, 5]]] and single.point_labels.tolist() == [[1]] * 3
    assert len(Prompts(boxes=BOXES)) == 4 and Prompts(boxes=BOXES).point_labels is None
    assert len(Prompts.single_points(torch.zeros(0, 2))) == 0


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False])])
def test_rows_are_chosen_of_all_that_is_given(rows):
    chosen = Prompts(POINTS, LABELS, BOXES)[rows]
    assert torch.equal(chosen.points, POINTS[1:3]) and torch.equal(chosen.point_labels, LABELS[1:3])
    assert torch.equal(chosen.boxes, BOXES[1:3])
    only_boxes = Prompts(boxes=BOXES)[rows]
    assert only_boxes.points is None and torch.equal(only_boxes.boxes, BOXES[1:3])


def test_prompts_of_equal_length_go_together_without_their_padding():
    batches = list(of_equal_length(Prompts(POINTS, LABELS, BOXES), at_once=1))
    assert [rows.tolist() for rows, _ in batches] == [[3], [0], [2], [1]]
    points = [prompts.points.tolist() for _, prompts in batches]
    assert points == [[[]], [[[0, 1]]], [[[16, 17]]], [[[8, 9], [10, 11]]]]
    assert [prompts.point_labels.tolist() for _, prompts in batches] == [[[]], [[1]], [[1]], [[0, 1]]]
    assert all(torch.equal(prompts.boxes, BOXES[rows]) for rows, prompts in batches)
    assert [rows.tolist() for rows, _ in of_equal_length(Prompts(boxes=BOXES), at_once=3)] == [[0, 1, 2], [3]]
    assert list(of_equal_length(Prompts(boxes=BOXES[:0]), at_once=3)) == []


def test_batches_of_prompts_equal_all_at_once():
    image = torch.randint(0, 255, (40, 60, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).numpy()
    segmenter = RegionTreeSegmenter()
    embedding = segmenter.encode(image)
    prompts = Prompts.single_points(grid_points((40, 60), 5))
    whole = segmenter.predict(embedding, prompts)
    parts = list(predict_batches(segmenter, embedding, prompts, BatchLimit(7)))
    assert [len(part) for part in parts] == [7, 7, 7, 4]
    assert torch.equal(torch.cat([part.masks for part in parts]), whole.masks)
    assert torch.equal(torch.cat([part.iou for part in parts]), whole.iou)
