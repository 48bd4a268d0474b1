"""Fragments, holes and the deepest point of masks, by hand on small drawings."""

import pytest
import torch

from weaksam.structures.mask_cleaning import deepest_point, without_fragments, without_holes


def drawn(text: str) -> torch.Tensor:
    """Bool mask of lines in which # is set."""
    return torch.tensor([[letter == "#" for letter in line] for line in text.split()])


NOTHING = drawn("... ...")


SCATTERED = "##...#. ##....# ....... ##....."
"""Parts of 4, 2 (over a corner) and 2 of 8 pixels."""
PIERCED = "####### #.##..# ####### ##.####"
"""24 pixels around holes of 1 and 2, and a gap at the border."""


@pytest.mark.parametrize(
    ("smallest", "expected"),
    [
        (0.0, SCATTERED),
        (0.25, SCATTERED),
        (0.26, "##..... ##..... ....... ......."),
        (0.9, "##..... ##..... ....... ......."),  # the largest part stays although it is only half
    ],
)
def test_fragments(smallest, expected):
    assert torch.equal(without_fragments(drawn(SCATTERED), smallest), drawn(expected))


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (0.0, PIERCED),
        (0.04, PIERCED),  # one pixel of 24 is 0.042
        (0.05, "####### ####..# ####### ##.####"),
        (0.5, "####### ####### ####### ##.####"),  # the gap at the border is no hole
    ],
)
def test_holes(largest, expected):
    mask = drawn(PIERCED)
    assert int(mask.sum()) == 24
    assert torch.equal(without_holes(mask, largest), drawn(expected))


def test_a_gap_at_a_corner_is_a_hole():
    """Background is connected over sides alone, so that this pixel does not leak out."""
    assert torch.equal(without_holes(drawn(".## #.# ###"), 0.5), drawn(".## ### ###"))


def test_what_is_left_alone():
    mask = drawn(".#. ###")
    for clean in (without_fragments, without_holes):
        assert not clean(NOTHING, 0.5).any()
        assert torch.equal(clean(mask, 0.5), mask)


def test_cleaning_equals_a_plain_flood():
    """Against a loop over pixels that visits every part."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        mask = torch.rand(9, 11, generator=generator) > 0.55
        expected, total = mask.clone(), int(mask.sum())
        parts = flooded(mask)
        largest = max(parts, key=len)
        for part in parts:
            if part is not largest and len(part) < 0.2 * total:
                for pixel in part:
                    expected[pixel] = False
        assert torch.equal(without_fragments(mask, 0.2), expected)


def flooded(mask):
    """Pixels of each part of ``mask``, connected over sides and corners, in the order of their first pixels."""
    left = {tuple(pixel) for pixel in mask.nonzero().tolist()}
    parts = []
    for start in mask.nonzero().tolist():
        stack, part = [tuple(start)], []
        while stack:
            pixel = stack.pop()
            if pixel in left:
                left.remove(pixel)
                part.append(pixel)
                stack += [(pixel[0] + y, pixel[1] + x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        if part:
            parts.append(part)
    return parts


def test_the_deepest_point():
    assert deepest_point(NOTHING) is None
    # Three pixels of the middle row are two deep; the first counts
    assert deepest_point(drawn("....... .#####. .#####. .#####. .......")).tolist() == [2.5, 2.5]
    assert deepest_point(drawn("##### ##### #####")).tolist() == [1.5, 1.5]  # beyond the photo is outside
