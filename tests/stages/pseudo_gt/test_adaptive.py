"""Adaptive pseudo ground truth: every case of docs/method.md by hand."""

import pytest
import torch

from weaksam.config import UserError
from weaksam.stages.pseudo_gt import AdaptiveSettings, adaptive_pseudo_gt, topk_pseudo_gt
from weaksam.stages.pseudo_gt.adaptive import drop_contained, normalised_scores
from weaksam.structures.boxes import pairwise_ioa
from weaksam.structures.instances import Instances


def detected(*rows):
    """One detection per row: score, label, box."""
    scores, labels, boxes = zip(*rows, strict=True) if rows else ((), (), ())
    return Instances(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float32),
    )


def apart(number):
    """A 10 x 10 box that meets no other ``apart`` box."""
    return [20 * number, 0, 20 * number + 10, 10]


def kept_scores(detections, tags=(0,), **settings):
    kept = adaptive_pseudo_gt(detections, tags, AdaptiveSettings(**settings))
    return pytest.approx(kept.scores.tolist())


def test_scores_are_min_max_normalised():
    # .20 .12 .05 .01 -> 1, .58, .21, 0
    assert normalised_scores(torch.tensor([0.20, 0.12, 0.05, 0.01])).tolist() == pytest.approx(
        [1, 11 / 19, 4 / 19, 0], abs=1e-6
    )
    detections = detected(*((score, 0, apart(n)) for n, score in enumerate([0.20, 0.12, 0.05, 0.01])))
    assert kept_scores(detections) == [0.20, 0.12]
    # .9 .5 .45 -> 1, .11, 0: only the best, where division alone would keep all three
    detections = detected(*((score, 0, apart(n)) for n, score in enumerate([0.9, 0.5, 0.45])))
    assert kept_scores(detections) == [0.9]
    assert kept_scores(detections, min_score_norm=0.1) == [0.9, 0.5]


def test_equal_scores_are_all_kept():
    assert normalised_scores(torch.tensor([0.3, 0.3, 0.3])).tolist() == [1, 1, 1]
    detections = detected(*((0.001, 0, apart(n)) for n in range(3)))
    assert len(adaptive_pseudo_gt(detections, [0])) == 3


def test_single_box_is_kept_with_its_own_score():
    assert kept_scores(detected((0.0625, 0, apart(0)))) == [0.0625]


def test_of_two_near_identical_boxes_the_better_remains():
    # Each covers 90 % or more of the other: the released code deletes both and the class is gone
    small, large = [0, 0, 10, 9], [0, 0, 10, 10]
    for better, worse in ((small, large), (large, small)):
        for rows in ([(0.9, 0, better), (0.8, 0, worse)], [(0.8, 0, worse), (0.9, 0, better)]):
            kept = adaptive_pseudo_gt(detected(*rows, (0.0, 0, apart(3))), [0])
            assert kept.boxes.tolist() == [better]
    twins = detected((0.5, 0, small), (0.5, 0, small))
    assert len(adaptive_pseudo_gt(twins, [0])) == 1


def test_small_box_inside_a_large_one_goes_whatever_its_score():
    detections = detected((0.9, 0, [50, 50, 70, 70]), (0.5, 0, [0, 0, 200, 200]), (0.01, 0, [500, 0, 510, 10]))
    assert kept_scores(detections) == [0.5]
    # Alone, the two normalise to 1 and 0: the large one goes first, by its score
    assert kept_scores(detections[torch.tensor([0, 1])]) == [0.9]


def test_containment_is_judged_within_a_class():
    detections = detected((0.9, 0, [50, 50, 70, 70]), (0.9, 1, [0, 0, 200, 200]))
    assert adaptive_pseudo_gt(detections, [0, 1]).labels.tolist() == [0, 1]


def test_containment_share_at_the_threshold():
    # 85 of its 100 pixels lie inside: dropped at 0.85, kept at 0.86
    detections = detected((0.9, 0, [0, 0, 100, 100]), (0.9, 0, [91.5, 20, 101.5, 30]))
    assert len(adaptive_pseudo_gt(detections, [0], AdaptiveSettings(containment=0.85))) == 1
    assert len(adaptive_pseudo_gt(detections, [0], AdaptiveSettings(containment=0.86))) == 2


def test_box_dropped_by_a_dropped_box_stays():
    # The middle lies in the large one, the small one in the middle only (16 of 20 columns in the large one)
    large, middle, small = [0, 0, 100, 100], [60, 0, 104, 40], [84, 0, 104, 10]
    shares = pairwise_ioa(torch.tensor([middle, small]).float(), torch.tensor([large, middle]).float())
    assert shares[0, 0] >= 0.85 and shares[1, 1] >= 0.85 and shares[1, 0] < 0.85
    assert drop_contained(torch.tensor([small, middle, large]).float(), 0.85).tolist() == [0, 2]


def test_input_order_does_not_matter():
    rows = [(0.001, 0, apart(0)), (0.9, 0, apart(1)), (0.7, 0, apart(2)), (0.6, 1, apart(3)), (0.1, 1, apart(4))]
    wanted = adaptive_pseudo_gt(detected(*rows), [0, 1])
    assert wanted.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])  # the code kept 0.001, as it came first
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        again = adaptive_pseudo_gt(detected(*rows)[torch.tensor(order)], [0, 1])
        assert torch.equal(again.boxes, wanted.boxes) and torch.equal(again.labels, wanted.labels)


def test_only_tags_get_boxes_and_a_tag_without_detection_gets_none():
    detections = detected((0.9, 0, apart(0)), (0.8, 1, apart(1)))
    assert adaptive_pseudo_gt(detections, [1, 2]).labels.tolist() == [1]
    assert topk_pseudo_gt(detections, [1, 2]).labels.tolist() == [1]
    for choose in (adaptive_pseudo_gt, topk_pseudo_gt):
        assert len(choose(detections, [])) == 0
        assert len(choose(Instances.empty(), [0, 1])) == 0


def test_boxes_without_area_are_never_pseudo_ground_truth():
    detections = detected((0.9, 0, [5, 5, 5, 9]), (0.2, 0, apart(1)))
    assert kept_scores(detections) == [0.2]
    assert topk_pseudo_gt(detections, [0]).scores.tolist() == pytest.approx([0.2])


def test_every_tag_with_a_detection_keeps_a_box():
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        corners = torch.rand(12, 2, generator=generator) * 10
        boxes = torch.cat([corners, corners + 1 + torch.rand(12, 2, generator=generator) * 30], dim=1)
        labels = torch.randint(0, 3, (12,), generator=generator)
        detections = Instances(boxes, labels, torch.rand(12, generator=generator))
        for containment in (0.2, 0.85):
            kept = adaptive_pseudo_gt(detections, [0, 1, 2], AdaptiveSettings(containment=containment))
            assert set(kept.labels.tolist()) == set(labels.tolist())
            inside = pairwise_ioa(kept.boxes.double(), kept.boxes.double()) >= containment
            same = kept.labels[:, None] == kept.labels
            assert not (inside & same & ~torch.eye(len(kept), dtype=torch.bool)).any()


def test_detections_need_scores():
    with pytest.raises(UserError, match="score"):
        adaptive_pseudo_gt(detected((0.5, 0, apart(0))).replace(scores=None), [0])
