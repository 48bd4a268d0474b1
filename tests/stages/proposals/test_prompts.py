"""Prompts of a photo: each clue point alone, and all points of a kind and class together."""

from __future__ import annotations

import torch

from weaksam.stages.proposals.prompts import clue_prompts
from weaksam.structures.clue_points import COARSE, COARSE_JOINT, CROSS, FINE, FINE_JOINT, GRID, SOURCES, CluePoints

ALL_KINDS = ("coarse", "fine", "cross")


def clues() -> CluePoints:
    """Coarse points of class 4 (three) and 2 (one), fine ones of class 2 (two), two of cross-attention."""
    points = torch.arange(16.0).reshape(8, 2)
    kinds = [COARSE, CROSS, COARSE, FINE, COARSE, FINE, CROSS, COARSE]
    return CluePoints(points, torch.tensor([4, -1, 2, 2, 4, 2, -1, 4]), torch.tensor(kinds))


def described(prompts) -> dict[int, tuple[int, list[list[float]]]]:
    """Source and points of each prompt by its position."""
    rows = {}
    for group in prompts:
        columns = zip(group.points, group.sources.tolist(), group.positions.tolist(), strict=True)
        for points, source, position in columns:
            rows[position] = (source, [int(x) // 2 for x in points[:, 0]])  # the point's number
    return dict(sorted(rows.items()))


def test_points_prompt_alone_and_then_together_by_class():
    assert SOURCES[COARSE_JOINT] == "coarse joint" and SOURCES[GRID] == "grid"
    assert list(described(clue_prompts(clues(), ALL_KINDS, ("coarse", "fine"), False)).values()) == [
        (COARSE, [0]),
        (COARSE, [2]),
        (COARSE, [4]),
        (COARSE, [7]),
        (COARSE_JOINT, [0, 4, 7]),
        (FINE, [3]),
        (FINE, [5]),
        (FINE_JOINT, [3, 5]),
        (CROSS, [1]),
        (CROSS, [6]),
    ]


def test_kinds_and_joint_prompts_can_be_chosen():
    def sources(*arguments) -> list[int]:
        return [source for source, _ in described(clue_prompts(clues(), *arguments)).values()]

    assert sources(("fine",), ("coarse",), False) == [FINE, FINE]
    assert sources(("cross",), ("cross",), True) == [CROSS, CROSS]  # never joined
    # The published count: two for each class of coarse points, also the one with a single point
    assert sources(("coarse",), ("coarse",), True) == [COARSE] * 4 + [COARSE_JOINT] * 2
    assert clue_prompts(CluePoints.none(), ALL_KINDS, ALL_KINDS, True) == []


def test_class_less_points_of_any_kind_are_not_joined():
    points = CluePoints.of(torch.rand(3, 2), torch.tensor([-1, -1, 5]), COARSE)
    prompts = described(clue_prompts(points, ALL_KINDS, ALL_KINDS, True))
    assert [source for source, _ in prompts.values()] == [*[COARSE] * 3, COARSE_JOINT]
