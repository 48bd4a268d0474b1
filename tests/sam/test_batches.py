"""Batches of prompts and photos that halve where the device runs out of memory."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import SmallDevice, block_photo
from weaksam.config import UserError
from weaksam.sam.batches import BatchLimit, encode_all, in_batches


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
