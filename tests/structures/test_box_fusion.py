"""Weighted boxes fusion: cases by hand, and against a plain loop over lists on random boxes."""

import pytest
import torch

from tests.helpers import instances
from weaksam.structures.box_fusion import weighted_boxes_fusion
from weaksam.structures.instances import Instances


def rows(detections: Instances) -> list[list[float]]:
    """Box, label and score of each detection, rounded."""
    columns = [detections.boxes, detections.labels[:, None], detections.scores[:, None]]
    return [[round(value, 4) for value in row] for row in torch.cat(columns, dim=1).tolist()]


def test_two_boxes_become_their_mean_and_a_lonely_one_loses_half():
    first = instances([[0, 0, 10, 10], [50, 50, 60, 60]], [1, 0], [0.8, 0.5])
    second = instances([[0, 0, 10, 8]], [1], [0.4])
    # y2 = (0.8 * 10 + 0.4 * 8) / 1.2, score = (0.8 + 0.4) / 2; the other: 0.5 * 1 / 2
    assert rows(weighted_boxes_fusion([first, second])) == [[0, 0, 10, 9.3333, 1, 0.6], [50, 50, 60, 60, 0, 0.25]]


def test_another_class_or_too_little_overlap_is_another_cluster():
    first = instances([[0, 0, 10, 10]], [0], [0.8])
    other_class = instances([[0, 0, 10, 10]], [1], [0.4])
    assert rows(weighted_boxes_fusion([first, other_class])) == [[0, 0, 10, 10, 0, 0.4], [0, 0, 10, 10, 1, 0.2]]
    at_the_limit = instances([[0, 0, 10, 5]], [0], [0.4])  # IoU 0.5, which must be exceeded
    assert len(weighted_boxes_fusion([first, at_the_limit], 0.5)) == 2
    assert len(weighted_boxes_fusion([first, at_the_limit], 0.49)) == 1


def test_a_box_is_compared_with_the_fused_one_and_three_of_two_sources_count_as_two():
    first = instances([[0, 0, 10, 10], [0, 0, 10, 6]], scores=[0.5, 0.25])
    second = instances([[0, 0, 10, 8]], scores=[0.5])
    # The first two fuse to y2 = 9; 6 / 9 exceeds 0.62, though 6 / 10 would not
    (row,) = rows(weighted_boxes_fusion([first, second], 0.62))
    assert row == [0, 0, 10, 8.4, 0, round(1.25 / 3, 4)]


def test_weights_scale_the_scores_of_a_source():
    first, second = instances([[0, 0, 10, 10]], scores=[0.4]), instances([[0, 0, 10, 8]], scores=[0.4])
    # 3 * 0.4 and 1 * 0.4: mean 0.8, times 2 / (3 + 1); y2 = (3 * 10 + 8) / 4
    assert rows(weighted_boxes_fusion([first, second], weights=[3, 1])) == [[0, 0, 10, 9.5, 0, 0.4]]
    assert rows(weighted_boxes_fusion([first, second], weights=[1, 0])) == [[0, 0, 10, 10, 0, 0.4]]
    alone = instances([[0, 0, 10, 10]], scores=[0.9])
    empty = Instances.empty(scored=True)
    assert rows(weighted_boxes_fusion([alone, empty], weights=[3, 1])) == [[0, 0, 10, 10, 0, 0.675]]


def test_masks_follow_the_best_scored_member():
    rle = {"size": [4, 4], "counts": "04L"}
    first = instances([[0, 0, 4, 4]], scores=[0.3]).replace(masks=({**rle, "counts": "first"},))
    second = instances([[0, 0, 4, 3]], scores=[0.6]).replace(masks=({**rle, "counts": "second"},))
    assert [mask["counts"] for mask in weighted_boxes_fusion([first, second]).masks] == ["second"]


def test_nothing_gives_nothing_and_scores_of_zero_keep_the_first_box():
    empty = Instances.empty(scored=True)
    for sources in ([], [empty], [empty, empty]):
        merged = weighted_boxes_fusion(sources)
        assert len(merged) == 0 and merged.scores.shape == (0,)
    zeros = [instances([[0, 0, 10, 10]], scores=[0.0]), instances([[0, 0, 10, 8]], scores=[0.0])]
    assert rows(weighted_boxes_fusion(zeros)) == [[0, 0, 10, 10, 0, 0]]


def test_bad_weights_and_missing_scores_are_refused():
    source = instances([[0, 0, 4, 4]], scores=[0.3])
    for weights in ([1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match="wanted 2 weights of at least 0 and not all 0"):
            weighted_boxes_fusion([source, source], weights=weights)
    with pytest.raises(ValueError, match="found a source without scores"):
        weighted_boxes_fusion([instances([[0, 0, 4, 4]]), source])


def plain_fusion(sources: list[Instances], fusion_iou: float, weights: list[float]) -> list[list[float]]:
    """The same with lists alone, box by box: x1, y1, x2, y2, label, score."""
    boxes = [
        (score * weight, label, box)
        for source, weight in zip(sources, weights, strict=True)
        for box, label, score in zip(source.boxes.tolist(), source.labels.tolist(), source.scores.tolist(), strict=True)
    ]
    clusters: list[list] = []
    for score, label, box in sorted(boxes, key=lambda entry: -entry[0]):
        best, cluster = fusion_iou, None
        for other in clusters:
            if other[0][1] == label and plain_iou(box, plain_mean(other)) > best:
                best, cluster = plain_iou(box, plain_mean(other)), other
        if cluster is None:
            clusters.append([])
            cluster = clusters[-1]
        cluster.append((score, label, box))
    fused = []
    for cluster in clusters:
        mean = sum(member[0] for member in cluster) / len(cluster)
        score = min(1, mean * min(len(cluster), len(sources)) / sum(weights))
        fused.append([*plain_mean(cluster), cluster[0][1], score])
    return sorted(fused, key=lambda row: -row[5])


def plain_mean(cluster: list) -> list[float]:
    total = sum(score for score, _, _ in cluster)
    return [sum(score * box[side] for score, _, box in cluster) / total for side in range(4)]


def plain_iou(box1: list[float], box2: list[float]) -> float:
    width = max(0, min(box1[2], box2[2]) - max(box1[0], box2[0]))
    height = max(0, min(box1[3], box2[3]) - max(box1[1], box2[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (box1, box2)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("seed", range(6))
def test_it_equals_a_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    sources = []
    for num in (25, 15, 10):
        corners = torch.rand(num, 2, generator=generator) * 30
        boxes = torch.cat([corners, corners + 20 + 10 * torch.rand(num, 2, generator=generator)], dim=1)
        labels, scores = torch.randint(0, 2, (num,), generator=generator), torch.rand(num, generator=generator)
        sources.append(Instances(boxes, labels, scores))
    weights = [1.0, 2.0, 0.5]
    merged = weighted_boxes_fusion(sources, 0.55, weights)
    expected = torch.tensor(plain_fusion(sources, 0.55, weights))
    assert 1 < len(merged) < 50
    torch.testing.assert_close(merged.boxes, expected[:, :4])
    assert merged.labels.tolist() == expected[:, 4].tolist()
    torch.testing.assert_close(merged.scores, expected[:, 5])
