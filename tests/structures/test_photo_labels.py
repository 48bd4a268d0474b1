"""What is labelled on a photo: marks of points and scribbles, the tags that follow, and fingerprints by part."""

import pytest
import torch

from tests.helpers import instances
from weaksam.structures.masks import rle_from_mask
from weaksam.structures.photo_labels import NO_LABELS, Marks, PhotoLabels, labels_fingerprint, spread_points


def points(*rows: tuple[float, float]) -> torch.Tensor:
    """Points ``(P, 2)``."""
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 2)


def test_the_middle_comes_first_and_then_what_is_farthest_from_all_taken():
    line = points((0, 0), (4, 0), (5, 0), (10, 0))  # mean 4.75: (5, 0) is nearest, (0, 0) and (10, 0) as far from it
    assert spread_points(line).tolist() == [[5, 0], [0, 0], [10, 0]]
    assert spread_points(line, most=2).tolist() == [[5, 0], [0, 0]]
    assert spread_points(points((3, 3), (3, 3))).tolist() == [[3, 3]]


def test_a_scribble_is_one_mark_around_its_pixels():
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[2, 3:8] = True  # pixels (3..7, 2)
    marks = Marks.of_scribble(rle_from_mask(mask), 1)
    assert marks.extents.tolist() == [[3, 2, 8, 3]] and marks.labels.tolist() == [1]
    assert marks.points[0].tolist() == [[5.5, 2.5], [3.5, 2.5], [7.5, 2.5]]
    both = Marks.cat([Marks.of_points(points((1, 1)), torch.tensor([0])), marks])
    assert both.are_scribbles.tolist() == [False, True]
    xy, labels = both.all_points()
    assert xy[:2].tolist() == [[1, 1], [5.5, 2.5]] and labels.tolist() == [0, 1, 1, 1]
    assert both.select(torch.tensor([False, True])).extents.tolist() == [[3, 2, 8, 3]]
    assert Marks.none().all_points()[0].shape == (0, 2)


def test_a_line_is_one_mark_through_its_points():
    marks = Marks.of_line(points((2, 2), (6, 4)), 0)
    assert marks.extents.tolist() == [[2, 2, 6, 4]] and len(marks.points[0]) == 2


def test_tags_follow_from_what_is_labelled():
    marks = Marks.of_points(points((1, 1)), torch.tensor([2]))
    labels = PhotoLabels(instances([(0, 0, 4, 4)], [3]), (None,), marks, {4: 1, 0: 0})
    assert labels.tags((0, 1)) == (1, 2, 3, 4)  # a count of 0 takes its tag away
    complete = PhotoLabels(instances([(0, 0, 4, 4)], [3]), (None,), complete=True)
    assert complete.tags((0, 1)) == (3,)
    assert NO_LABELS.tags((0, 1)) == (0, 1) and NO_LABELS.says_nothing
    ignored = PhotoLabels(instances([(0, 0, 4, 4)], [3], crowd=[True]), (None,))
    assert ignored.tags((1,)) == (1,) and len(ignored.objects) == 0 and not ignored.says_nothing


def test_masks_must_be_as_many_as_boxes():
    with pytest.raises(ValueError, match="must be 1, one or None per box, found 0"):
        PhotoLabels(instances([(0, 0, 4, 4)]))


def test_a_fingerprint_is_of_the_parts_that_are_asked_for():
    boxes = {"a": PhotoLabels(instances([(0, 0, 4, 4)]), (None,))}
    counted = {"a": PhotoLabels(instances([(0, 0, 4, 4)]), (None,), counts={0: 2})}
    assert labels_fingerprint({}) == labels_fingerprint(boxes, "marks") == labels_fingerprint({"a": NO_LABELS}) == ""
    assert labels_fingerprint(boxes) != labels_fingerprint(counted) != ""
    assert labels_fingerprint(boxes, "boxes") == labels_fingerprint(counted, "boxes") != ""
    moved = {"a": PhotoLabels(instances([(0, 0, 4, 5)]), (None,))}
    assert labels_fingerprint(boxes, "boxes") != labels_fingerprint(moved, "boxes")
