"""Mean IoU of painted masks by hand, and against a plain loop over pixels."""

import math

import numpy as np
import pytest

from tests.evaluation.masks import random_sets, rectangles
from weaksam.config import UserError
from weaksam.evaluation.matching import ignored_truths
from weaksam.evaluation.semantic import semantic_iou
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle, rle_area


def test_by_hand():
    # 40 x 40. True: a cat of 10 x 10 and a dog of 10 x 20 beside it. Painted: the cat one half, the dog whole
    truths = {"a": rectangles([(0, 0, 10, 10), (10, 0, 20, 20)], [0, 1])}
    detections = {"a": rectangles([(0, 0, 5, 10), (10, 0, 20, 20)], [0, 1], [0.9, 0.8])}
    result = semantic_iou(truths, detections, 3)
    assert result.per_class[:2] == pytest.approx((0.5, 1)) and math.isnan(result.per_class[2])
    assert result.background == pytest.approx((1600 - 300) / (1600 - 250))
    assert result.mean == pytest.approx((0.5 + 1 + 1300 / 1350) / 3)
    assert result.mean_of_objects == pytest.approx(0.75)
    figures = result.as_dict()
    assert figures["mean"] == pytest.approx(result.mean) and figures["per_class"][2] is None
    assert "background" in str(result) and "score >= 0.5" in figures["protocol"]


def test_the_better_scored_detection_and_the_smaller_object_are_on_top():
    truths = {"a": rectangles([(0, 0, 10, 10), (0, 0, 20, 20)], [0, 1])}
    over = rectangles([(0, 0, 20, 20), (0, 0, 10, 10)], [1, 0], [0.8, 0.9])
    assert semantic_iou(truths, {"a": over}, 2).mean == 1
    under = over.replace(scores=over.scores.flip(0))
    assert semantic_iou(truths, {"a": under}, 2).per_class == pytest.approx((0, 0.75))
    # A detection of low score is not painted; pseudo masks without scores all are
    low = over.replace(scores=over.scores - 0.35)
    assert semantic_iou(truths, {"a": low}, 2).per_class == pytest.approx((1, 0))
    assert semantic_iou(truths, {"a": low}, 2, min_score=0.4).mean == 1
    assert semantic_iou(truths, {"a": over[over.labels == 0].replace(scores=None)}, 2).per_class == (1, 0)


def test_empty_cases():
    truths = {"a": rectangles([(0, 0, 10, 10)]), "b": Instances.empty()}
    missing = semantic_iou(truths, {}, 1)
    assert missing.per_class == (0,) and missing.background == pytest.approx(1500 / 1600)
    sized = semantic_iou(truths, {}, 1, sizes={"a": (40, 40), "b": (10, 10)})  # b: 100 pixels of background
    assert sized.background == pytest.approx(1600 / 1700)
    nothing = semantic_iou({"b": Instances.empty()}, {}, 1)
    assert math.isnan(nothing.mean) and nothing.as_dict()["mean"] is None


def test_equals_a_loop_over_pixels():
    truths, detections = random_sets(0)
    result = semantic_iou(truths, detections, 3)
    shared, joined, occurs = np.zeros(4), np.zeros(4), np.zeros(4, bool)
    for image_id, truth in truths.items():
        guesses = detections[image_id]
        masks = [[mask_from_rle(rle).numpy() for rle in objects.masks] for objects in (truth, guesses)]
        areas, ignored = rle_area(truth.masks).tolist(), ignored_truths(truth).tolist()
        for y in range(40):
            for x in range(40):
                here = [row for row in range(len(truth)) if masks[0][row][y, x]]
                top = min(here, key=lambda row: (areas[row], -row)) if here else None
                if top is not None and ignored[top]:
                    continue
                true_class = 0 if top is None else int(truth.labels[top]) + 1
                at = [row for row in range(len(guesses)) if masks[1][row][y, x] and guesses.scores[row] >= 0.5]
                guess = int(guesses.labels[max(at, key=lambda row: guesses.scores[row])]) + 1 if at else 0
                occurs[true_class] = True
                shared[true_class] += true_class == guess
                joined[true_class] += 1
                joined[guess] += true_class != guess
    assert occurs.all()
    assert [result.background, *result.per_class] == pytest.approx((shared / joined).tolist())
    assert 0.3 < result.mean < 0.9


def test_mistakes_are_one_sentence():
    truths = {"a": rectangles([(0, 0, 10, 10)])}
    other = {"a": rectangles([(0, 0, 10, 10)], scores=[0.9], size=(30, 40))}
    with pytest.raises(UserError, match="found 40 x 30 and 40 x 40 pixels"):
        semantic_iou(truths, other, 1)
    with pytest.raises(UserError, match="where detections have them, found boxes alone"):
        semantic_iou(truths, {"a": other["a"].replace(masks=None)}, 1)
    with pytest.raises(UserError, match="first: z"):
        semantic_iou(truths, {"z": other["a"]}, 1)
