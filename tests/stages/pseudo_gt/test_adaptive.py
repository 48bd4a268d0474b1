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


def test_of_a_small_box_in_a_large_one_the_better_scored_remains():
    small, large = [50, 50, 70, 70], [0, 0, 200, 200]
    detections = detected((0.9, 0, small), (0.5, 0, large), (0.01, 0, [500, 0, 510, 10]))
    assert kept_scores(detections) == [0.9]
    assert kept_scores(detections, larger_share=0.0) == [0.5]  # Algorithm 2: the larger box whatever its score
    # 0.5 is 0.56 of 0.9
    assert kept_scores(detections, larger_share=0.55) == [0.5]
    assert kept_scores(detections, larger_share=0.56) == [0.9]
    # The better-scored large box takes a part away at any share
    for share in (0.0, 0.5, 1.0):
        assert kept_scores(detected((0.9, 0, large), (0.5, 0, small), (0, 0, apart(9))), larger_share=share) == [0.9]


def test_a_group_box_of_a_lower_score_goes_and_its_members_stay():
    group, left, right = [0, 0, 100, 50], [2, 2, 48, 48], [52, 2, 98, 48]
    detections = detected((0.9, 0, left), (0.6, 0, group), (0.5, 0, right), (0.0, 0, [500, 0, 510, 10]))
    assert kept_scores(detections) == [0.9, 0.5]
    assert kept_scores(detections, larger_share=0.5) == [0.6]


def test_of_equal_scores_the_larger_box_remains():
    small, large = [50, 50, 70, 70], [0, 0, 200, 200]
    for rows in ([small, large], [large, small]):
        kept = adaptive_pseudo_gt(detected(*((0.5, 0, box) for box in rows)), [0], AdaptiveSettings(larger_share=1))
        assert kept.boxes.tolist() == [large]


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
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert drop_contained(torch.tensor([small, middle, large]).float(), scores, 0.85, 0.0).tolist() == [1]
    assert drop_contained(torch.tensor([small, large, middle]).float(), scores, 0.85, 1.0).tolist() == [0, 1]
    assert drop_contained(torch.tensor([large, middle, small]).float(), scores, 0.85, 1.0).tolist() == [0, 2]


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
        for containment, share in ((0.2, 0.9), (0.85, 0.0), (0.85, 0.9), (0.85, 1.0)):
            settings = AdaptiveSettings(containment=containment, larger_share=share)
            kept = adaptive_pseudo_gt(detections, [0, 1, 2], settings)
            assert set(kept.labels.tolist()) == set(labels.tolist())
            inside = pairwise_ioa(kept.boxes.double(), kept.boxes.double()) >= containment
            same = kept.labels[:, None] == kept.labels
            assert not (inside & same & ~torch.eye(len(kept), dtype=torch.bool)).any()


def plain_remaining(boxes, scores, containment, larger_share):
    """`drop_contained` box by box: the best-scored, or the largest that may replace it, deletes its like."""

    def lies_in(inner, outer):
        shared = [min(inner[2], outer[2]) - max(inner[0], outer[0]), min(inner[3], outer[3]) - max(inner[1], outer[1])]
        return max(shared[0], 0) * max(shared[1], 0) >= containment * size(inner)

    def size(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    left, kept = list(range(len(boxes))), []
    while left:
        taken = left[0]
        for row in left:
            holds = lies_in(boxes[left[0]], boxes[row]) and not lies_in(boxes[row], boxes[left[0]])
            if holds and scores[row] >= larger_share * scores[left[0]] and size(boxes[row]) > size(boxes[taken]):
                taken = row
        kept.append(taken)
        gone = {row for row in left if lies_in(boxes[row], boxes[taken]) or lies_in(boxes[taken], boxes[row])}
        left = [row for row in left[1:] if row not in gone]
    return sorted(kept)


def test_the_fast_form_is_the_plain_one_and_no_box_goes_for_a_much_worse_one():
    generator = torch.Generator().manual_seed(2)
    for share in (0.0, 0.5, 0.8, 1.0):
        for _ in range(25):
            corners = torch.rand(14, 2, generator=generator) * 20
            boxes = torch.cat([corners, corners + 1 + torch.rand(14, 2, generator=generator) * 40], dim=1)
            scores = torch.rand(14, generator=generator).sort(descending=True).values
            kept = drop_contained(boxes, scores, 0.7, share).tolist()
            assert kept == plain_remaining(boxes.double().tolist(), scores.double().tolist(), 0.7, share)
            inside = pairwise_ioa(boxes.double(), boxes.double()) >= 0.7
            for row in sorted(set(range(14)) - set(kept)):
                rivals = [other for other in kept if inside[row, other] or inside[other, row]]
                assert rivals and scores[rivals].max() >= share * scores[row]


def test_detections_need_scores():
    with pytest.raises(UserError, match="score"):
        adaptive_pseudo_gt(detected((0.5, 0, apart(0))).replace(scores=None), [0])
