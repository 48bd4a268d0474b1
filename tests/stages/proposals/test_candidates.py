"""Masks laid aside as bits come back as they were."""

import torch

from weaksam.stages.proposals.candidates import MaskPile
from weaksam.structures.masks import rle_from_mask


def test_a_pile_gives_back_each_mask_whatever_pieces_they_came_in() -> None:
    masks = torch.rand(150, 7, 13, generator=torch.Generator().manual_seed(0)) < 0.4
    masks[3], masks[4] = False, True
    pile = MaskPile()
    added = [pile.add(masks[:1]), pile.add(masks[1:1]), pile.add(masks[1:140]), pile.add(masks[140:])]
    assert torch.cat(added).tolist() == list(range(150))
    assert pile.frame == (7, 13)
    rows = torch.tensor([149, 3, 0, 64, 65, 139, 140, 4])
    assert pile.rles(rows) == tuple(rle_from_mask(masks[row]) for row in rows.tolist())
    assert pile.rles(rows[:0]) == ()


def test_an_empty_pile_has_no_frame_and_no_mask() -> None:
    pile = MaskPile()
    assert pile.frame == (0, 0) and pile.rles(torch.zeros(0, dtype=torch.int64)) == ()
