"""Bools packed as bits, bit by bit, and back."""

import pytest
import torch

from weaksam.structures.bits import packed, packed_by_torch, unpacked


@pytest.mark.parametrize("num", [1, 7, 63, 64, 65, 130])
def test_packed_bits_are_the_columns(num: int) -> None:
    table = torch.rand(5, num, generator=torch.Generator().manual_seed(num)) < 0.5
    table[0], table[1] = True, False
    words = packed(table)
    assert words.dtype == torch.int64 and words.shape == (5, (num + 63) // 64)
    for line in range(5):
        for column in range(64 * words.shape[1]):
            bit = (words[line, column // 64].item() >> column % 64) & 1
            assert bit == (column < num and table[line, column].item())
    assert torch.equal(packed_by_torch(table), words)
    assert torch.equal(unpacked(words, num), table)


@pytest.mark.parametrize("shape", [(0, 0), (0, 70), (3, 0)])
def test_a_table_without_cells_packs_to_no_word(shape: tuple[int, int]) -> None:
    words = packed(torch.zeros(shape, dtype=torch.bool))
    assert packed_by_torch(torch.zeros(shape, dtype=torch.bool)).shape == words.shape
    assert words.shape == (shape[0], -(-shape[1] // 64))
    assert unpacked(words, shape[1]).shape == shape


def test_packed_masks_take_an_eighth_of_their_bytes() -> None:
    masks = torch.rand(3, 256, 192, generator=torch.Generator().manual_seed(0)) < 0.3
    words = packed(masks.flatten(1))
    assert 8 * words.nbytes == masks.nbytes
    assert torch.equal(unpacked(words[1:2], 256 * 192).view(256, 192), masks[1])
