"""Class maps by hand: IoU over the dataset, unlabelled pixels, boundaries that meet, also across a panorama's seam."""

import math

import numpy as np
import pytest

from weaksam.config import UserError
from weaksam.evaluation.class_maps import UNLABELLED, measure_class_maps


def test_iou_is_of_all_photos_together() -> None:
    first = (np.array([[0, 0, 1, UNLABELLED]]), np.array([[0, 1, 1, 1]]))
    second = (np.array([[1, 1]], dtype=np.uint8), np.array([[1, 0]], dtype=np.uint8))
    result = measure_class_maps([first, second], 3)
    assert result.confusion.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert result.ious[:2] == (pytest.approx(1 / 3), pytest.approx(2 / 4)) and math.isnan(result.ious[2])
    assert result.mean_iou == pytest.approx((1 / 3 + 1 / 2) / 2) and result.accuracy == pytest.approx(3 / 5)
    figures = result.as_dict(["road", "sky", "car"])
    assert figures["iou"]["sky"] == pytest.approx(0.5) and figures["iou"]["car"] is None
    assert "2 images" in figures["protocol"]


def test_boundaries_that_meet() -> None:
    truth = np.zeros((20, 40), dtype=np.int64)
    truth[:, 10:] = 1
    near, far = np.roll(truth, 1, axis=1), np.roll(truth, 6, axis=1)
    near[:, 0], far[:, :6] = 0, 0
    assert measure_class_maps([(truth, truth)], 2).mean_boundary_f == 1.0
    assert measure_class_maps([(truth, near)], 2).mean_boundary_f == 1.0  # one pixel is near enough
    assert measure_class_maps([(truth, far)], 2).mean_boundary_f == 0.0
    half = truth.copy()
    half[:10, 10:16] = 0  # the upper half of the line is six pixels off
    result = measure_class_maps([(truth, half)], 2)
    # Class 0: predicted 10 pixels far off and 10 that meet, a corner of 6 along the lower edge of which one is near
    recall = 11 / 20
    assert 2 * recall * 0.3 / (recall + 0.3) < result.boundary_f[0] < 2 * recall / (1 + recall)


def test_a_panorama_has_no_edge() -> None:
    truth = np.zeros((20, 40), dtype=np.int64)
    truth[:, :10] = 1
    turned = np.roll(truth, -1, axis=1)  # its line at the seam moves to the other edge
    assert measure_class_maps([(truth, turned)], 2, wraps=True).mean_boundary_f == 1.0
    flat = measure_class_maps([(truth, truth)], 2)
    assert flat.mean_boundary_f == 1.0
    without_seam = np.ones((4, 6), dtype=np.int64)
    assert math.isnan(measure_class_maps([(without_seam, without_seam)], 2, wraps=True).mean_boundary_f)


def test_nothing_and_what_cannot_be_measured() -> None:
    assert math.isnan(measure_class_maps([], 2).mean_iou) and math.isnan(measure_class_maps([], 2).accuracy)
    unlabelled = np.full((3, 3), UNLABELLED)
    assert math.isnan(measure_class_maps([(unlabelled, np.zeros((3, 3)))], 2).mean_iou)
    with pytest.raises(UserError, match="classes 0 to 1"):
        measure_class_maps([(np.array([[2]]), np.array([[0]]))], 2)
    with pytest.raises(UserError, match="one size"):
        measure_class_maps([(np.array([[0, 0]]), np.array([[0]]))], 2)
