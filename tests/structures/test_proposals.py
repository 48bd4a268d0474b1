"""Proposals: what they refuse, that indexing keeps boxes and masks together, and that a store's row gives them back."""

import pytest
import torch

from weaksam.structures.masks import mask_from_rle, rle_from_mask
from weaksam.structures.proposals import IMPORTED, PROPOSAL_COLUMNS, Proposals


def three_proposals() -> Proposals:
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]], dtype=torch.float32)
    masks = torch.arange(6).reshape(2, 3) < torch.tensor([1, 2, 3])[:, None, None]
    scores, sources = torch.tensor([0.5, 0.9, 0.5]), torch.tensor([0, 1, 4])
    return Proposals(boxes, scores, sources, tuple(rle_from_mask(mask) for mask in masks), (2, 3))


def areas(proposals: Proposals) -> list[int]:
    return [int(mask_from_rle(rle).sum()) for rle in proposals.rles]


def test_order_and_choice_keep_boxes_and_masks_together() -> None:
    best_first = three_proposals().by_score()
    assert best_first.boxes[:, 2].tolist() == [2, 1, 3]  # equal scores keep their order
    assert (best_first.sources.tolist(), areas(best_first), best_first.mask_size) == ([1, 0, 4], [2, 1, 3], (2, 3))
    chosen = three_proposals()[torch.tensor([2, 0])]
    assert (chosen.scores.tolist(), areas(chosen)) == ([0.5, 0.5], [3, 1])
    nothing = three_proposals()[torch.zeros(0, dtype=torch.int64)]
    assert (len(nothing), nothing.rles, nothing.mask_size) == (0, (), (2, 3))


def test_boxes_alone_score_one_and_are_imported() -> None:
    proposals = Proposals.of(torch.tensor([[0, 0, 5, 5]]))
    assert (proposals.scores.tolist(), proposals.sources.tolist()) == ([1.0], [IMPORTED])
    assert proposals.boxes.dtype == torch.float32
    assert not proposals.has_masks and three_proposals().has_masks
    assert (len(Proposals.none()), Proposals.none().boxes.shape) == (0, (0, 4))


@pytest.mark.parametrize("proposals", [three_proposals(), Proposals.none(), Proposals.of(torch.ones(2, 4))])
def test_a_row_gives_the_proposals_back(proposals: Proposals) -> None:
    row = proposals.as_row()
    assert list(row) == list(PROPOSAL_COLUMNS)
    again = Proposals.from_row(row)
    for name in ("boxes", "scores", "sources"):
        assert getattr(again, name).tolist() == getattr(proposals, name).tolist()
    assert (again.rles, again.mask_size) == (proposals.rles, proposals.mask_size)


def test_a_row_without_the_columns_of_masks_gives_boxes_alone() -> None:
    row = three_proposals().as_row()
    proposals = Proposals.from_row({name: row[name] for name in ("boxes", "scores", "sources")})
    assert (len(proposals), proposals.rles, proposals.mask_size) == (3, (), (0, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(3, 5)}, r"Proposals.boxes must be \(3, 4\) for 3 boxes, found \(3, 5\)"),
        ({"scores": torch.zeros(2)}, r"Proposals.scores must be \(3,\)"),
        ({"sources": torch.zeros(3, 1)}, r"Proposals.sources must be \(3,\)"),
        ({"rles": three_proposals().rles[:2]}, "must hold 3 masks, one per box, or none, found 2"),
    ],
)
def test_fields_of_other_lengths_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proposals(**{**vars(three_proposals()), **change})
