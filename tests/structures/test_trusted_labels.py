"""The rule of trust, by hand: given boxes, one box for a point, counts, and photos that are complete."""

import torch

from tests.helpers import instances, proposals
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import NO_LABELS, Marks, PhotoLabels
from weaksam.structures.trusted_labels import boxes_of_marks, holding, sort_guesses, stood_for_by, trusted

NOTHING = instances([], scores=[])


def point(x: float, y: float, label: int = 0) -> Marks:
    """The mark of one point."""
    return Marks.of_points(torch.tensor([[x, y]]), torch.tensor([label]))


def given(*boxes: tuple[float, ...], label: int = 0, **more: object) -> PhotoLabels:
    """Labels of a photo with these boxes of one class."""
    return PhotoLabels(instances(boxes, [label] * len(boxes)), (None,) * len(boxes), **more)


def rows(boxes: Instances) -> list[tuple[list[float], int, float]]:
    """Boxes, labels and scores as lists."""
    return list(zip(boxes.boxes.tolist(), boxes.labels.tolist(), boxes.scores.tolist(), strict=True))


def test_a_given_box_stands_for_guesses_on_its_object_and_for_parts_of_it():
    boxes = instances([(0, 0, 10, 8), (2, 2, 5, 5), (0, 0, 10, 30), (0, 0, 10, 8), (20, 0, 30, 10)], [0, 0, 0, 1, 0])
    # IoU 0.8; a part; a box around it of IoU 1/3; another class; another place
    assert stood_for_by(boxes, instances([(0, 0, 10, 10)])).tolist() == [True, True, False, False, False]
    assert stood_for_by(boxes, instances([])).tolist() == [False] * 5


def test_given_boxes_are_believed_and_replace_guesses():
    guesses = instances([(0, 0, 10, 8), (20, 0, 30, 10)], [0, 0], [0.9, 0.4])
    result = trusted(guesses, guesses, given((0, 0, 10, 10)), None)
    assert rows(result) == [([20, 0, 30, 10], 0, 0.4000000059604645), ([0, 0, 10, 10], 0, 1.0)]
    assert result.crowd is None
    assert trusted(guesses, guesses, NO_LABELS, None) is guesses


def test_a_mark_is_held_by_a_box_of_its_class_alone_up_to_rounding():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [4.4, 0, 9, 9], [5, 0, 9, 9]])
    marks = point(4, 4)
    assert holding(boxes, torch.tensor([0, 1, 0, 0]), marks).tolist() == [[True], [False], [True], [False]]


def test_each_point_gets_one_box_and_a_box_around_one_point_comes_before_a_group():
    marks = Marks.cat([point(5, 5), point(25, 5)])
    boxes = torch.tensor([[0.0, 0, 30, 10], [0, 0, 10, 10], [1, 1, 9, 9], [40, 0, 50, 10]])
    labels = torch.zeros(4, dtype=torch.int64)
    scores = torch.tensor([0.9, 0.3, 0.5, 0.8])
    # The first point has boxes of its own, the better is row 2; the second is in the group alone, which it gets
    assert boxes_of_marks(boxes, labels, scores, marks).tolist() == [2, 0]
    # Two points in the group alone: one of them gets it
    assert boxes_of_marks(boxes[:1], labels[:1], scores[:1], marks).tolist() == [0, -1]
    assert boxes_of_marks(boxes[:0], labels[:0], scores[:0], marks).tolist() == [-1, -1]


def test_a_point_takes_the_best_detection_else_a_proposal_and_guesses_around_it_go():
    guesses = instances([(0, 0, 10, 10)], [0], [0.9])
    detections = instances([(0, 0, 10, 10), (20, 0, 30, 10), (21, 1, 29, 9)], [0, 0, 0], [0.9, 0.2, 0.1])
    marks = Marks.cat([point(25, 5), point(45, 5)])
    labels = PhotoLabels(marks=marks)
    mask_boxes = proposals((40, 0, 50, 10, 0.7), (35, 0, 60, 20, 0.6), (20, 0, 50, 10, 0.95))
    result = trusted(guesses, detections, labels, mask_boxes)
    assert result.boxes.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    assert trusted(guesses, detections, labels, None).boxes.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]]
    # A guess around the marked object goes: it has its box
    group = instances([(18, 0, 52, 12)], [0], [0.8])
    both = Instances.cat([detections, group])
    assert trusted(group, both, labels, mask_boxes).boxes.tolist() == [[20, 0, 30, 10], [18, 0, 52, 12]]


def test_a_point_in_a_given_box_needs_no_other():
    detections = instances([(0, 0, 11, 11)], [0], [0.9])
    labels = given((0, 0, 10, 10), marks=point(5, 5))
    assert rows(trusted(NOTHING, detections, labels, None)) == [([0, 0, 10, 10], 0, 1.0)]


def test_a_count_bounds_the_believed_boxes_and_the_rest_is_ignored():
    guesses = instances(
        [(0, 0, 9, 9), (10, 0, 19, 9), (20, 0, 29, 9), (0, 0, 9, 9)], [0, 0, 0, 1], [0.3, 0.9, 0.5, 0.1]
    )
    result = trusted(guesses, guesses, PhotoLabels(counts={0: 2}), None)
    assert result.boxes[:, 0].tolist() == [0, 10, 20, 0]
    assert result.crowd.tolist() == [True, False, False, False]
    # As many given boxes as the count: no other place can be an object
    full = trusted(guesses, guesses, given((50, 0, 60, 10), counts={0: 1}), None)
    assert rows(full) == [([0, 0, 9, 9], 1, guesses.scores[3].item()), ([50, 0, 60, 10], 0, 1.0)]
    assert full.crowd is None
    one_left = trusted(guesses, guesses, given((50, 0, 60, 10), counts={0: 2}), None)
    assert one_left.crowd.tolist() == [True, False, True, False, False]


def test_a_complete_photo_has_its_labelled_objects_alone_and_no_zones():
    guesses = instances([(0, 0, 9, 9), (30, 0, 39, 9)], [0, 0], [0.9, 0.8], crowd=[False, True])
    result = trusted(guesses, guesses, given((50, 0, 60, 10), complete=True), None)
    assert result.boxes.tolist() == [[50, 0, 60, 10]] and result.crowd.tolist() == [False]
    assert len(trusted(guesses, guesses, PhotoLabels(complete=True), None)) == 0
    marked = PhotoLabels(marks=point(5, 5), complete=True)
    assert trusted(guesses, guesses.without_crowd(), marked, None).boxes.tolist() == [[0, 0, 9, 9]]


def test_zones_stay_but_on_given_boxes_and_given_regions_are_ignored():
    guesses = instances([(0, 0, 9, 9), (30, 0, 39, 9)], [0, 0], [0.9, 0.8], crowd=[True, True])
    result = trusted(guesses, guesses, given((0, 0, 9, 8)), None)
    assert result.boxes.tolist() == [[30, 0, 39, 9], [0, 0, 9, 8]] and result.crowd.tolist() == [True, False]
    ignored = PhotoLabels(instances([(0, 0, 9, 9)], [0], crowd=[True]), (None,))
    found_none = trusted(NOTHING, NOTHING, ignored, None)
    assert found_none.boxes.tolist() == [[0, 0, 9, 9]] and found_none.crowd.tolist() == [True]


def test_sorting_says_what_is_believed_ignored_or_known_to_be_none():
    guesses = instances([(0, 0, 9, 9), (10, 0, 19, 9), (20, 0, 29, 9)], scores=[0.3, 0.9, 0.5])
    certain = instances([(20, 0, 29, 8)])
    believed, ignored = sort_guesses(guesses, certain, PhotoLabels(counts={0: 2}))
    assert believed.tolist() == [False, True, False] and ignored.tolist() == [True, False, False]
