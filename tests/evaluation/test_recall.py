"""Proposal recall, counted by hand."""

import contextlib
import io
import math

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weaksam.config import UserError
from weaksam.evaluation.recall import AR_IOUS, proposal_recall
from weaksam.structures.instances import Instances

LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 110, 110]


def truth(boxes, **marks):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    flags = {name: torch.tensor(values) for name, values in marks.items()}
    return Instances(boxes, torch.zeros(len(boxes), dtype=torch.int64), **flags)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize("assignment", ["best-match", "one-to-one", "coco"])
@pytest.mark.parametrize("second", [{}, {"b": boxes()}])
def test_image_without_proposals_counts(assignment, second):
    # Two objects, one found, and a third in an image without proposals: 1/3, where the released tool says 1/2
    truths = {"a": truth([LEFT, RIGHT]), "b": truth([FAR])}
    result = proposal_recall(truths, {"a": boxes(LEFT), **second}, assignment=assignment)
    assert [result.at(iou) for iou in (0.5, 0.75, 0.9)] == pytest.approx([1 / 3] * 3)
    assert result.average_recall[-1] == pytest.approx(1 / 3)
    assert (result.num_truths, result.num_bare, result.num_proposals[-1]) == (3, 1, 0.5)


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
    proposals = {"a": boxes(LEFT)}
    assert proposal_recall(truths, proposals).at(0.5) == 1
    counted = proposal_recall(truths, proposals, count_difficult=True)
    assert counted.at(0.5) == 0.5 and counted.num_truths == 2
    assert "difficult counted" in str(counted) and "difficult and crowd truths ignored" in str(
        proposal_recall(truths, proposals)
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
        truths, proposals = {"a": truth(drawn[:5].tolist())}, {"a": drawn[5:]}
        best = proposal_recall(truths, proposals, ious=(0.3, 0.5))
        one_to_one = proposal_recall(truths, proposals, ious=(0.3, 0.5), assignment="one-to-one")
        assert all(one_to_one.at(iou) <= best.at(iou) for iou in (0.3, 0.5))
        assert one_to_one.best_overlap[-1] <= best.best_overlap[-1] + 1e-12


def test_cocos_rule_by_hand():
    # Objects of 10 and 8 columns. The first proposal overlaps both (9/10 and 8/9) and takes the first object, the
    # second (8 columns: 0.8 and 1) the other; the closest pair would give the same. In the other order the 8 columns
    # take the second object as well. With 0.95 asked, the first proposal takes none.
    wide, narrow = [0, 0, 10, 10], [0, 0, 8, 10]
    truths = {"a": truth([wide, narrow])}
    nine = [0, 0, 9, 10]
    result = proposal_recall(
        truths, {"a": boxes(nine, narrow)}, counts=(1, 2), ious=(0.5, 0.85, 0.95), assignment="coco"
    )
    assert result.recall == ((0.5, 0.5, 0.0), (1.0, 1.0, 0.5))
    # A first proposal that takes the object a later one needs: 0.88 goes to narrow, whose own comes too late
    greedy = [0, 0, 8, 9]
    result = proposal_recall(truths, {"a": boxes(greedy, narrow)}, ious=(0.5, 0.85), assignment="coco")
    assert result.recall[-1] == (1.0, 0.5)  # narrow overlaps wide by 0.8
    closest = proposal_recall(truths, {"a": boxes(greedy, narrow)}, ious=(0.5, 0.75), assignment="one-to-one")
    assert closest.recall[-1] == (1.0, 0.5)  # narrow takes its twin, 72 of 100 pixels are left for wide


def as_coco(truths, proposals):
    """The same values as pycocotools holds them, with a single category; scores fall with the place in the list."""
    images, objects, results = [], [], []
    for number, (image_id, objects_of_image) in enumerate(truths.items(), start=1):
        images.append({"id": number, "width": 100, "height": 100})
        for (x1, y1, x2, y2), crowd in zip(
            objects_of_image.boxes.tolist(), objects_of_image.crowd.tolist(), strict=True
        ):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": 1, "iscrowd": int(crowd), **box})
        for place, (x1, y1, x2, y2) in enumerate(proposals.get(image_id, boxes()).tolist()):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": 1 / (1 + place)}
            results.append({"image_id": number, "category_id": 1, **box})
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "object"}]}
        dataset.createIndex()
        return dataset, dataset.loadRes(results)


def pycocotools_recall(truths, proposals, count):
    """Class-free recall at IoU 0.5, 0.55, .., 0.95 of the first ``count`` proposals, and its mean, by pycocotools."""
    dataset, results = as_coco(truths, proposals)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(dataset, results, "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [count]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0, 0, 0]
    return recall.tolist(), float(recall.mean())


def crowded_images(num):
    """Images of many small whole-pixel boxes that overlap, so that proposals compete for objects and IoUs tie."""
    generator = torch.Generator().manual_seed(11)
    truths, proposals = {}, {}
    for image in range(num):
        corners = torch.randint(0, 12, (40, 2), generator=generator).float()
        drawn = torch.cat([corners, corners + torch.randint(4, 12, (40, 2), generator=generator)], dim=1)
        truths[f"{image}.jpg"] = truth(drawn[:10].tolist(), crowd=[False] * 9 + [True])
        if image % 5:  # some images have no proposals at all
            proposals[f"{image}.jpg"] = drawn[10:]
    return truths, proposals


def test_average_recall_is_that_of_pycocotools():
    truths, proposals = crowded_images(30)
    counts = (1, 5, 10, 30)
    result = proposal_recall(truths, proposals, counts=counts, ious=AR_IOUS, assignment="coco")
    for row, count in enumerate(counts):
        recall, average = pycocotools_recall(truths, proposals, count)
        assert result.recall[row] == pytest.approx(recall, abs=1e-12)
        assert result.average_recall[row] == pytest.approx(average, abs=1e-12)
    # The rules differ on these images, or the comparison would say nothing
    others = [
        proposal_recall(truths, proposals, counts=counts, assignment=name) for name in ("best-match", "one-to-one")
    ]
    assert [other.average_recall != result.average_recall for other in others] == [True, True]


def test_per_class_shares_the_pairs():
    # One proposal over two near-equal objects of two classes goes to one of them only
    two = Instances(torch.tensor([LEFT, [0, 0, 10, 11], RIGHT]).float(), torch.tensor([0, 1, 1]))
    result = proposal_recall({"a": two}, {"a": boxes(LEFT)}, assignment="coco", num_classes=3)
    assert result.at(0.5) == pytest.approx(1 / 3)
    assert [of_class.num_truths for of_class in result.per_class] == [1, 2, 0]
    assert [of_class.at(0.5) for of_class in result.per_class[:2]] == [1, 0]
    assert math.isnan(result.per_class[2].at(0.5)) and len(result.as_dict()["per_class"]) == 3
    with pytest.raises(UserError, match=r"0\.\.0"):
        proposal_recall({"a": two}, {}, num_classes=1)


def test_an_iou_of_exactly_the_threshold_counts():
    # Three quarters of a box 0.3 wide: 0.75 in decimals, 0.74999995 in float32
    truths, proposals = {"a": truth([[0, 0, 0.3, 10]])}, {"a": boxes([0, 0, 0.225, 10])}
    for assignment in ("best-match", "one-to-one", "coco"):
        assert proposal_recall(truths, proposals, assignment=assignment).at(0.75) == 1


def test_mistakes_are_one_sentence():
    with pytest.raises(UserError, match="first: z"):
        proposal_recall({"a": truth([LEFT])}, {"z": boxes(LEFT)})
    with pytest.raises(UserError, match="at least 1"):
        proposal_recall({"a": truth([LEFT])}, {}, counts=(0,))
