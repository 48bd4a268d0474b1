"""Panoptic quality by hand, and against the definition written as plain loops over disjoint sets of pixels."""

import math

import numpy as np
import pytest

from tests.evaluation.masks import random_sets, rectangles
from weaksam.config import UserError
from weaksam.evaluation.panoptic import panoptic_quality
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle


def test_by_hand():
    # Cats: one pair of IoU 0.8, one false, one missed. Dogs: a false one alone. Fish: nowhere
    truths = {"a": rectangles([(0, 0, 10, 10), (20, 20, 30, 30)], [0, 0])}
    detections = {"a": rectangles([(0, 0, 8, 10), (0, 20, 10, 30), (20, 0, 30, 10)], [0, 0, 1], [0.9, 0.8, 0.7])}
    result = panoptic_quality(truths, detections, 3)
    assert (result.num_pairs, result.num_false, result.num_missed) == ((1, 0, 0), (1, 1, 0), (1, 0, 0))
    assert result.sq[:2] == pytest.approx((0.8, 0)) and result.rq[:2] == pytest.approx((0.5, 0))
    assert result.pq[:2] == pytest.approx((0.4, 0)) and math.isnan(result.pq[2])
    figures = result.as_dict()
    assert figures["pq"] == pytest.approx(0.2) and figures["per_class"] == [pytest.approx(0.4), 0, None]
    assert figures["sq"] == pytest.approx(0.4) and figures["rq"] == pytest.approx(0.25)
    assert "things only" in str(result) and "dropped below 50% free" in figures["protocol"]


def test_an_iou_of_a_half_is_no_pair_and_another_class_neither():
    truths = {"a": rectangles([(0, 0, 10, 10)])}
    half = rectangles([(0, 0, 5, 10)], scores=[0.9])
    assert panoptic_quality(truths, {"a": half}, 1).num_pairs == (0,)
    other = rectangles([(0, 0, 10, 10)], [1], [0.9])
    assert panoptic_quality(truths, {"a": other}, 2).num_false == (0, 1)


def test_overlapping_detections_are_cut_by_score_and_dropped_when_half_is_gone():
    truths = {"a": rectangles([(0, 0, 10, 10), (10, 0, 20, 10)])}
    # The second reaches 4 columns into the first, keeps its own 10 of 14: IoU 1 after the cut
    detections = rectangles([(0, 0, 10, 10), (6, 0, 20, 10)], scores=[0.9, 0.8])
    assert panoptic_quality(truths, {"a": detections}, 1).pq == (1,)
    # Of a third, 40 of 100 pixels are free: dropped, no false one
    third = rectangles([(0, 0, 10, 10), (6, 0, 20, 10), (14, 0, 24, 10)], scores=[0.9, 0.8, 0.7])
    assert panoptic_quality(truths, {"a": third}, 1).num_false == (0,)
    assert panoptic_quality(truths, {"a": third}, 1, min_free=0.3).num_false == (1,)
    # Below the score nothing is painted
    assert panoptic_quality(truths, {"a": detections}, 1, min_score=0.85).num_missed == (1,)


def test_crowds_and_difficult_objects():
    truths = {"a": rectangles([(0, 0, 20, 20), (20, 20, 40, 40)], [0, 1], crowd=[True, False], difficult=[False, True])}
    inside = rectangles([(0, 0, 10, 10), (30, 30, 40, 40)], [0, 1], [0.9, 0.8])
    result = panoptic_quality(truths, {"a": inside}, 2)
    assert result.num_false == result.num_missed == result.num_pairs == (0, 0) and result.as_dict()["pq"] is None
    # Half on the crowd is not more than half; a detection of another class is false anywhere
    half = rectangles([(10, 0, 30, 10), (0, 0, 10, 10)], [0, 1], [0.9, 0.8])
    assert panoptic_quality(truths, {"a": half}, 2).num_false == (1, 1)


def test_empty_cases():
    truths = {"a": rectangles([(0, 0, 10, 10)]), "b": Instances.empty(), "c": Instances.empty(masked=True)}
    assert panoptic_quality(truths, {}, 1).pq == (0,)
    assert math.isnan(panoptic_quality({"b": Instances.empty()}, {}, 1).pq[0])
    empty_mask = {"a": rectangles([(5, 5, 5, 5)], scores=[0.9])}
    assert panoptic_quality(truths, empty_mask, 1).num_false == (0,)
    with pytest.raises(UserError, match="boxes alone"):
        panoptic_quality({"a": truths["a"].replace(masks=None)}, {}, 1)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition_on_sets_of_pixels(seed):
    truths, detections = random_sets(seed)
    iou_sum, counts = np.zeros(3), np.zeros((3, 3), int)
    for image_id, truth in truths.items():
        true_sets = _true_sets(truth)
        for label in range(3):
            segments = [pixels for row, pixels in _painted_sets(detections[image_id]) if row == label]
            objects = [(pixels, ignored) for of, pixels, ignored in true_sets if of == label and pixels]
            missed = {index for index, (_, ignored) in enumerate(objects) if not ignored}
            for segment in segments:
                ious = [0 if ignored else len(segment & o) / len(segment | o) for o, ignored in objects]
                best = max(ious, default=0)
                if best > 0.5:
                    iou_sum[label] += best
                    counts[0, label] += 1
                    missed.discard(ious.index(best))
                elif sum(len(segment & o) for o, ignored in objects if ignored) <= len(segment) / 2:
                    counts[1, label] += 1
            counts[2, label] += len(missed)
    result = panoptic_quality(truths, detections, 3)
    assert [result.num_pairs, result.num_false, result.num_missed] == [tuple(row) for row in counts.tolist()]
    assert result.iou_sum == pytest.approx(iou_sum.tolist())
    assert counts.sum(1).min() > 0
    total = counts[0] + 0.5 * counts[1] + 0.5 * counts[2]
    assert result.pq == pytest.approx((iou_sum / total).tolist())


def _pixels(rle) -> set[int]:
    return set(np.flatnonzero(mask_from_rle(rle).numpy()).tolist())


def _true_sets(truth):
    """(label, pixels, ignored) of every true object, smaller ones first."""
    taken, sets = set(), []
    masks = [_pixels(rle) for rle in truth.masks]
    for row in sorted(range(len(truth)), key=lambda row: (len(masks[row]), -row)):
        sets.append((int(truth.labels[row]), masks[row] - taken, bool(truth.crowd[row] | truth.difficult[row])))
        taken |= masks[row]
    return sets


def _painted_sets(detections):
    """(label, pixels) of every painted detection, best score first."""
    taken, sets = set(), []
    for row in sorted(range(len(detections)), key=lambda row: -float(detections.scores[row])):
        pixels = _pixels(detections.masks[row])
        free = pixels - taken
        if detections.scores[row] >= 0.5 and len(free) >= 0.5 * len(pixels) and free:
            sets.append((int(detections.labels[row]), free))
            taken |= free
    return sets
