"""Batches of prompts and photos that halve where the device runs out of memory."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import SmallDevice, block_photo
from weaksam.config import UserError
from weaksam.sam.batches import BatchLimit, decode_prompts, encode_all, in_batches
from weaksam.sam.prompts import Prompts


def test_a_full_device_gets_half_as_much_from_then_on():
    limit = BatchLimit(8, "prompts", (notes := []).append)

    def compute(part: slice) -> list[int]:
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))

    assert list(in_batches(9, limit, compute)) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    assert limit.size == 2
    assert notes == ["the device ran out of memory: 2 prompts at a time from here on"]
    assert list(in_batches(3, limit, compute)) == [[0, 1], [2]] and len(notes) == 1
    assert list(in_batches(0, limit, compute)) == []


def test_a_device_too_small_for_one_says_so():
    with pytest.raises(UserError, match="one of the photos at a time"):
        list(encode_all(SmallDevice(1, photos_room=0), [block_photo()] * 3, BatchLimit(4, "photos")))


def test_photos_are_encoded_in_batches_that_fit():
    segmenter, notes = SmallDevice(1, photos_room=2), []
    limit = BatchLimit(8, "photos", notes.append)
    photos = [block_photo(seed)[: 60 + seed] for seed in range(9)]
    sizes = [embedding.size for embedding in encode_all(segmenter, photos, limit)]
    assert sizes == [(60 + seed, 160) for seed in range(9)]
    assert segmenter.encoded == [2, 2, 2, 2, 1] and len(notes) == 1


def test_prompts_of_equal_length_are_decoded_together_and_answered_in_order():
    points = torch.arange(5.0)[:, None, None].expand(5, 2, 2)
    labels = torch.tensor([[1, -1], [1, 1], [-1, 1], [1, 0], [1, -1]])
    sizes = []

    def decode(prompts: Prompts) -> tuple[torch.Tensor, ...]:
        sizes.append(tuple(prompts.points.shape[:2]))
        value = prompts.points[:, 0, 0, None].expand(-1, 3)  # each prompt's own number
        return value[..., None, None].expand(-1, 3, 4, 4), value / 10, value / 100, value[..., None].expand(-1, 3, 4)

    answer = decode_prompts(Prompts(points, labels), 4, torch.device("cpu"), 2, decode)
    assert sizes == [(2, 1), (1, 1), (2, 2)]
    number = torch.arange(5.0)[:, None].expand(5, 3)
    assert torch.equal(answer.logits, number[..., None, None].expand(5, 3, 4, 4))
    assert torch.equal(answer.iou, number / 10) and torch.equal(answer.stability, number / 100)
    assert torch.equal(answer.boxes, number[..., None].expand(5, 3, 4))
    empty = decode_prompts(Prompts(points[:0]), 4, torch.device("cpu"), 2, decode)
    assert empty.logits.shape == (0, 3, 4, 4) and empty.boxes.shape == (0, 3, 4) and len(sizes) == 3
