"""Box geometry, checked against values worked out by hand."""

import pytest
import torch

from weaksam.structures import boxes as B

NONE = torch.zeros(0, 4)


def rows(*boxes: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float32)


def test_area_is_half_open_and_never_negative() -> None:
    boxes = rows((0, 0, 4, 3), (2, 2, 2, 9), (5, 5, 1, 8))
    assert B.area(boxes).tolist() == [12, 0, 0]
    assert B.area(NONE).shape == (0,)


def test_iou_and_ioa_by_hand() -> None:
    first = rows((0, 0, 4, 4), (10, 10, 10, 20))
    second = rows((2, 2, 6, 4), (4, 0, 8, 4), (10, 10, 10, 20))
    # Box 1 and 2 share 2 x 2 = 4 of 16 + 8 - 4 = 20; box 1 and 3 only touch; the others are empty
    assert B.pairwise_intersection(first, second).tolist() == [[4, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(B.pairwise_iou(first, second), rows((0.2, 0, 0, 0), (0, 0, 0, 0))[:, :3])
    torch.testing.assert_close(B.pairwise_ioa(first, second)[0], torch.tensor([0.25, 0, 0]))
    assert B.pairwise_ioa(first, second)[1].tolist() == [0, 0, 0]
    # Of the second box half lies in the first
    torch.testing.assert_close(B.pairwise_ioa(second, first)[:, 0], torch.tensor([0.5, 0, 0]))


def test_a_box_equals_itself_and_pairs_have_their_shape_without_boxes() -> None:
    boxes = rows((1, 2, 30, 40), (0.5, 0.25, 0.75, 9))
    assert B.pairwise_iou(boxes, boxes).diagonal().tolist() == [1, 1]
    assert B.pairwise_iou(NONE, boxes).shape == (0, 2)
    assert B.pairwise_iou(boxes, NONE).shape == (2, 0)
    assert B.pairwise_ioa(NONE, NONE).shape == (0, 0)


def test_clip_keeps_what_is_inside_and_empties_what_is_outside() -> None:
    boxes = rows((-5, -5, 7, 30), (200, 3, 300, 4))
    assert B.clip(boxes, (20, 100)).tolist() == [[0, 0, 7, 20], [100, 3, 100, 4]]


def test_scale_and_hflip() -> None:
    boxes = rows((1, 2, 3, 6))
    assert B.scale(boxes, 2, 0.5).tolist() == [[2, 1, 6, 3]]
    assert B.hflip(boxes, 10).tolist() == [[7, 2, 9, 6]]
    assert B.hflip(B.hflip(boxes, 10), 10).equal(boxes)
    assert B.hflip(NONE, 10).shape == (0, 4)


@pytest.mark.parametrize(
    ("there", "back", "native"),
    [
        (B.xywh_from_xyxy, B.xyxy_from_xywh, (10, 20, 30, 50)),
        (B.inclusive_from_xyxy, B.xyxy_from_inclusive, (10, 20, 39, 69)),
        # Centre (25, 45) and 30 x 50 of an image 100 wide and 200 high
        (
            lambda boxes: B.yolo_from_xyxy(boxes, (200, 100)),
            lambda boxes: B.xyxy_from_yolo(boxes, (200, 100)),
            (0.25, 0.225, 0.3, 0.25),
        ),
    ],
)
def test_every_converter_by_hand_and_there_and_back(there, back, native) -> None:
    boxes = rows((10, 20, 40, 70))
    torch.testing.assert_close(there(boxes), rows(native))
    torch.testing.assert_close(back(there(boxes)), boxes)
    assert there(NONE).shape == back(NONE).shape == (0, 4)


def test_nms_keeps_the_best_of_overlapping_boxes_and_input_order_of_ties() -> None:
    boxes = rows((0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 60, 60), (20, 20, 30, 30))
    # IoU of the first two is 0.9
    assert B.nms(boxes, torch.tensor([0.5, 0.9, 0.5, 0.5]), 0.8).tolist() == [1, 2, 3]
    assert B.nms(boxes, torch.tensor([0.5, 0.9, 0.5, 0.5]), 0.95).tolist() == [1, 0, 2, 3]
    keep = B.nms(NONE, torch.zeros(0), 0.5)
    assert keep.shape == (0,)
    assert keep.dtype == torch.int64


def test_batched_nms_never_suppresses_across_labels() -> None:
    boxes = rows((0, 0, 10, 10), (0, 0, 10, 9), (-30, 0, 2000, 10), (0, 0, 10, 10))
    scores = torch.tensor([0.9, 0.8, 0.7, 0.95])
    assert B.batched_nms(boxes, scores, torch.tensor([0, 0, 1, 2]), 0.5).tolist() == [3, 0, 2]
    assert B.batched_nms(NONE, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []


def test_batched_nms_equals_nms_label_by_label() -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(300, 2, generator=generator) * 80
    boxes = torch.cat([corners, corners + 1 + torch.rand(300, 2, generator=generator) * 40], dim=1)
    scores = torch.rand(300, generator=generator)
    labels = torch.randint(0, 50, (300,), generator=generator)
    kept = set()
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        kept |= set(members[B.nms(boxes[members], scores[members], 0.4)].tolist())
    together = B.batched_nms(boxes, scores, labels, 0.4)
    assert set(together.tolist()) == kept
    assert scores[together].tolist() == sorted(scores[together].tolist(), reverse=True)
