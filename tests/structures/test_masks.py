"""Masks and RLE, checked against values worked out by hand."""

import json

import pytest
import torch

from weaksam.structures import masks as M


def drawn(*lines: str) -> torch.Tensor:
    return torch.tensor([[character == "#" for character in line] for line in lines])


def test_rle_there_and_back_and_through_json() -> None:
    mask = drawn(
        "......",
        "..##..",
        "..#...",
    )
    rle = M.rle_from_mask(mask)
    assert rle["size"] == [3, 6]
    assert M.mask_from_rle(json.loads(json.dumps(rle))).equal(mask)
    # Column by column: 7 background, 2 object, 1 background, 1 object, 7 background
    assert rle == M.rle_from_counts([7, 2, 1, 1, 7], (3, 6))
    assert M.box_from_rle(rle).tolist() == [2, 1, 4, 3]


def test_an_empty_mask_has_area_zero_and_a_box_of_zeros() -> None:
    rle = M.rle_from_mask(torch.zeros(4, 5, dtype=torch.bool))
    assert M.rle_area([rle]).tolist() == [0]
    assert M.box_from_rle(rle).tolist() == [0, 0, 0, 0]
    assert M.mask_from_rle(rle).shape == (4, 5)
    assert M.rle_area([]).shape == (0,)


def test_a_stack_of_masks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        M.rle_from_mask(torch.zeros(2, 3, 4, dtype=torch.bool))


def test_polygons_are_joined_and_scraps_cover_nothing() -> None:
    left, right = [0, 0, 2, 0, 2, 4, 0, 4], [4, 0, 6, 0, 6, 4, 4, 4]
    rle = M.rle_from_polygons([left, right], (4, 8))
    assert M.mask_from_rle(rle).equal(drawn(*["##..##.."] * 4))
    # Four numbers are two points, not a box
    assert M.rle_area([M.rle_from_polygons([[0, 0, 5, 3]], (4, 8))]).tolist() == [0]
    assert M.mask_from_rle(M.rle_from_polygons([[1, 1], left], (4, 8))).equal(drawn(*["##......"] * 4))
    assert M.rle_from_polygons([], (4, 8))["size"] == [4, 8]


def test_mask_iou_by_hand_and_with_a_crowd() -> None:
    whole, half, other = (
        M.rle_from_mask(drawn("####", "####")),
        M.rle_from_mask(drawn("##..", "##..")),
        M.rle_from_mask(drawn("...#", "....")),
    )
    iou = M.pairwise_mask_iou([half, other], [whole, half])
    torch.testing.assert_close(iou, torch.tensor([[0.5, 1.0], [0.125, 0.0]]))
    # In a crowd a mask counts by its own area: all of both lie inside the whole
    crowd = M.pairwise_mask_iou([half, other], [whole, half], torch.tensor([True, False]))
    torch.testing.assert_close(crowd, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))


def test_mask_iou_of_nothing() -> None:
    empty = M.rle_from_mask(drawn("....", "...."))
    assert M.pairwise_mask_iou([empty], [empty]).tolist() == [[0]]
    assert M.pairwise_mask_iou([], [empty]).shape == (0, 1)
    assert M.pairwise_mask_iou([empty], []).shape == (1, 0)


def test_boxes_from_masks_at_every_edge_and_with_leading_dimensions() -> None:
    masks = torch.stack(
        [
            drawn("#....", ".....", "....."),
            drawn(".....", ".....", "....#"),
            drawn(".....", ".#.#.", "....."),
            drawn(".....", ".....", "....."),
        ]
    )
    expected = [[0, 0, 1, 1], [4, 2, 5, 3], [1, 1, 4, 2], [0, 0, 0, 0]]
    boxes = M.boxes_from_masks(masks)
    assert boxes.tolist() == expected
    assert boxes.dtype == torch.float32
    assert M.boxes_from_masks(masks.reshape(2, 2, 3, 5)).tolist() == [expected[:2], expected[2:]]
    assert M.boxes_from_masks(masks[:0]).shape == (0, 4)


def test_both_ways_to_a_box_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(20, 13, 17, generator=generator) > 0.99
    assert (~masks.flatten(1).any(1)).any(), "the seed should give an empty mask too"
    one_by_one = torch.stack([M.box_from_rle(M.rle_from_mask(mask)) for mask in masks])
    assert M.boxes_from_masks(masks).equal(one_by_one)


def test_mask_suppression_by_hand_and_of_nothing() -> None:
    whole, three, half, apart = (
        M.rle_from_mask(drawn(line, line)) for line in ("####..", "###...", "##....", "....##")
    )
    masks, scores = [half, whole, three, apart], torch.tensor([0.9, 0.8, 0.8, 0.1])
    same = torch.zeros(4, dtype=torch.int64)
    # IoU of the half and the whole is 1/2, of the half and three quarters 2/3, of the two larger ones 3/4
    assert M.batched_mask_nms(masks, scores, same, 0.6).tolist() == [0, 1, 3]
    assert M.batched_mask_nms(masks, scores, same, 0.4).tolist() == [0, 3]
    # Only more than the limit suppresses, and only within a label
    assert M.batched_mask_nms(masks, scores, same, 0.75).tolist() == [0, 1, 2, 3]
    assert M.batched_mask_nms(masks, scores, torch.tensor([1, 0, 1, 1]), 0.6).tolist() == [0, 1, 3]
    assert M.batched_mask_nms([], torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []


def test_mask_suppression_equals_a_plain_loop() -> None:
    draw = torch.Generator().manual_seed(3)
    corners = torch.randint(0, 7, (40, 2), generator=draw)
    sides = torch.randint(2, 7, (40, 2), generator=draw)
    masks = torch.zeros(40, 12, 12, dtype=torch.bool)
    for mask, (y, x), (height, width) in zip(masks, corners.tolist(), sides.tolist(), strict=True):
        mask[y : y + height, x : x + width] = True
    scores, labels = torch.randint(0, 9, (40,), generator=draw) / 9, torch.randint(0, 3, (40,), generator=draw)
    kept: list[int] = []
    for row in sorted(range(40), key=lambda row: -float(scores[row])):
        if not any(
            labels[row] == labels[other] and (masks[row] & masks[other]).sum() > 0.4 * (masks[row] | masks[other]).sum()
            for other in kept
        ):
            kept.append(row)
    found = M.batched_mask_nms([M.rle_from_mask(mask) for mask in masks], scores, labels, 0.4)
    assert found.tolist() == kept and 5 < len(kept) < 35
