"""Clue points: choosing and sorting them keeps place, class and kind together."""

import torch

from weaksam.structures.clue_points import CLASSLESS, COARSE, CROSS, FINE, JOINT_OF, KINDS, SOURCES, CluePoints


def test_the_canonical_order_is_by_kind_class_and_place() -> None:
    points = torch.tensor([[1.0, 9.0], [2.0, 3.0], [7.0, 3.0], [0.0, 0.0], [5.0, 5.0]])
    labels = torch.tensor([1, 0, 0, CLASSLESS, 0])
    clues = CluePoints(points, labels, torch.tensor([COARSE, COARSE, COARSE, CROSS, FINE]))
    expected = [[2, 3, 0, COARSE], [7, 3, 0, COARSE], [1, 9, 1, COARSE], [5, 5, 0, FINE], [0, 0, CLASSLESS, CROSS]]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        ordered = clues.select(torch.tensor(order)).in_canonical_order()
        rows = torch.cat([ordered.points, ordered.labels[:, None], ordered.kinds[:, None]], dim=1)
        assert rows.tolist() == expected


def test_points_are_chosen_by_index_or_mask_and_may_be_none() -> None:
    clues = CluePoints.of(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 1]), FINE)
    assert clues.select(torch.tensor([False, True])).points.tolist() == [[3, 4]]
    assert clues.select(torch.tensor([1, 0])).labels.tolist() == [1, 0]
    assert clues.kinds.tolist() == [FINE, FINE]
    nothing = CluePoints.none().in_canonical_order()
    assert (nothing.points.shape, nothing.labels.shape, nothing.kinds.shape) == ((0, 2), (0,), (0,))


def test_every_source_has_a_name() -> None:
    assert [SOURCES[number] for number in KINDS.values()] == list(KINDS)
    assert {SOURCES[kind]: SOURCES[joint] for kind, joint in JOINT_OF.items()} == {
        "coarse": "coarse joint",
        "fine": "fine joint",
    }
