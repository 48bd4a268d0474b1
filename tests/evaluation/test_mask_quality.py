"""Mean IoU of pseudo masks by hand, and against plain loops over pairs of masks."""

import math

import numpy as np
import pytest
import torch

from tests.evaluation.masks import random_sets, rectangles
from weaksam.config import UserError
from weaksam.evaluation.mask_quality import mask_quality
from weaksam.evaluation.matching import ignored_truths
from weaksam.structures.instances import Instances
from weaksam.structures.mask_boundaries import pairwise_boundary_iou
from weaksam.structures.masks import mask_from_rle


def test_by_hand():
    # Cats of 100 pixels: one masked by IoU 0.5 and 0.8, one not at all. The dog of 2,500: mask of half of it
    truths = {
        "a": rectangles([(0, 0, 10, 10), (30, 0, 40, 10)], [0, 0], size=(60, 60)),
        "b": rectangles([(0, 0, 50, 50)], [1], size=(60, 60)),
    }
    pseudo = {
        "a": rectangles([(0, 0, 5, 10), (0, 0, 8, 10), (20, 20, 30, 30)], [0, 0, 0], size=(60, 60)),
        "b": rectangles([(0, 0, 25, 50)], [1], size=(60, 60)),
    }
    result = mask_quality(truths, pseudo, 3)
    cats, dogs, fish = result.per_class
    assert cats.mask_iou == pytest.approx((0.5 + 0.8 + 0) / 3) and cats.object_iou == pytest.approx(0.4)
    assert (cats.num_masks, cats.num_objects) == (3, 2)
    assert dogs.mask_iou == dogs.object_iou == pytest.approx(0.5)
    assert math.isnan(fish.mask_iou) and fish.num_masks == 0
    assert result.total.mask_iou == pytest.approx(1.8 / 4) and result.total.object_iou == pytest.approx(1.3 / 3)
    assert result.per_size["small"] == cats and result.per_size["medium"] == dogs
    assert result.per_size["large"].num_objects == 0
    # Width 2 of a boundary: the dog's ring has 2500 - 46^2 pixels, its mask's 1250 - 21 * 46, three sides are shared
    shared = 2 * 2 * 25 + 46 * 2
    assert dogs.boundary_iou == pytest.approx(shared / (2500 - 46**2 + 1250 - 21 * 46 - shared))
    figures = result.as_dict()
    assert figures["per_class"][2]["object_iou"] is None and figures["per_size"]["small"]["num_masks"] == 3
    assert "32 x 32" in str(result) and "2% of the photo's diagonal" in figures["protocol"]


def test_the_size_is_the_objects_at_its_lower_end():
    truths = {"a": rectangles([(0, 0, 32, 32), (0, 40, 32, 71)], size=(80, 80))}
    pseudo = {"a": rectangles([(0, 0, 20, 20), (0, 40, 32, 72)], size=(80, 80))}
    result = mask_quality(truths, pseudo, 1)
    assert result.per_size["medium"].mask_iou == pytest.approx(400 / 1024)
    assert result.per_size["small"].mask_iou == pytest.approx(31 / 32)


def test_difficult_objects_are_not_counted_nor_their_masks():
    truths = {"a": rectangles([(0, 0, 10, 10), (20, 0, 30, 10)], difficult=[True, False])}
    pseudo = {"a": rectangles([(0, 0, 9, 10), (20, 0, 26, 10)])}
    result = mask_quality(truths, pseudo, 1)
    assert result.total.mask_iou == result.total.object_iou == pytest.approx(0.6)
    assert (result.total.num_masks, result.total.num_objects) == (1, 1)


def test_empty_cases():
    truths = {"a": rectangles([(0, 0, 10, 10)]), "b": Instances.empty()}
    without = mask_quality(truths, {}, 1).total
    assert math.isnan(without.mask_iou) and without.object_iou == 0 and without.num_objects == 1
    false = mask_quality({"b": Instances.empty()}, {"b": rectangles([(0, 0, 10, 10)])}, 1).total
    assert false.mask_iou == 0 and math.isnan(false.object_iou)
    with pytest.raises(UserError, match="boxes alone"):
        mask_quality(truths, {"a": truths["a"].replace(masks=None)}, 1)
    with pytest.raises(UserError, match="found 40 x 30 and 40 x 40"):
        mask_quality(truths, {"a": rectangles([(0, 0, 10, 10)], size=(30, 40))}, 1)


@pytest.mark.parametrize("seed", range(2))
def test_equals_loops_over_pairs(seed):
    truths, pseudo = random_sets(seed)
    of_masks, of_rings, of_objects = [], [], []
    for image_id, truth in truths.items():
        guesses, ignored = pseudo[image_id], ignored_truths(truth).tolist()
        table = np.zeros((len(guesses), len(truth)))
        for row, column in np.ndindex(*table.shape):
            if guesses.labels[row] == truth.labels[column]:
                masks = mask_from_rle(guesses.masks[row]), mask_from_rle(truth.masks[column])
                table[row, column] = int((masks[0] & masks[1]).sum()) / int((masks[0] | masks[1]).sum())
        for row, values in enumerate(table):
            column = int(values.argmax()) if len(truth) and values.max() > 0 else None
            if column is None or not ignored[column]:
                of_masks.append(0 if column is None else values[column])
                pair = None if column is None else ([guesses.masks[row]], [truth.masks[column]])
                of_rings.append(0 if pair is None else float(pairwise_boundary_iou(*pair)))
        of_objects += [table[:, column].max() for column in range(len(truth)) if not ignored[column]]
    total = mask_quality(truths, pseudo, 3).total
    assert (total.num_masks, total.num_objects) == (len(of_masks), len(of_objects))
    assert total.mask_iou == pytest.approx(np.mean(of_masks)) and total.object_iou == pytest.approx(np.mean(of_objects))
    assert total.boundary_iou == pytest.approx(np.mean(of_rings)) and total.boundary_iou < total.mask_iou
    shuffled = {image_id: values[torch.randperm(len(values))] for image_id, values in pseudo.items()}
    assert mask_quality(truths, shuffled, 3).total.mask_iou == pytest.approx(total.mask_iou)
