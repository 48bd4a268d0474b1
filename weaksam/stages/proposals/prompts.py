"""Plan the prompts of a photo: the dense grid, each clue point alone, all points of a class together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.sam.prompts import Prompts
from weaksam.structures.clue_points import CLASSLESS, GIVEN, GRID, JOINT_OF, KINDS, CluePoints


class PlannedPrompts(NamedTuple):
    """P prompts of K foreground points each: ``points (P, K, 2)`` xy in photo pixels, ``sources (P,)`` int64.

    A source is one of the numbers of ``structures.clue_points``; ``positions (P,)`` int64 is each prompt's index among
    all prompts of the photo in the published order.
    """

    points: Tensor
    sources: Tensor
    positions: Tensor

    @property
    def prompts(self) -> Prompts:
        """What the segmenter is asked."""
        return Prompts(self.points)

    def between(self, start: int, end: int) -> PlannedPrompts:
        """The prompts from number ``start`` to ``end`` (not included)."""
        return PlannedPrompts(self.points[start:end], self.sources[start:end], self.positions[start:end])


def grid_points(size: tuple[int, int], grid_side: int) -> Tensor:
    """``grid_side`` squared xy points ``(G, 2)`` over a photo ``(H, W)``, row by row; none for 0.

    SAM's convention: the first point is half a step from the corner, 1/64 of the width for 32 points a side.
    """
    height, width = size
    step = (torch.arange(grid_side, dtype=torch.float32) + 0.5) / max(grid_side, 1)
    y, x = torch.meshgrid(step * height, step * width, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def grid_prompts(size: tuple[int, int], grid_side: int) -> PlannedPrompts:
    """The dense grid over a photo ``(H, W)``, each point alone; none for 0."""
    points = grid_points(size, grid_side)
    return PlannedPrompts(points[:, None], torch.full((len(points),), GRID), torch.arange(len(points)))


def clue_prompts(
    clues: CluePoints, kinds: Sequence[str], joint_kinds: Sequence[str], joint_of_one: bool
) -> list[PlannedPrompts]:
    """Every clue point alone and all points of a kind and class jointly, grouped by the number of points of a prompt.

    The prompts of WeakSAM (docs/method.md, Proposals). Of the kinds those named in ``kinds``, in the order of
    ``KINDS``, and points that somebody labelled; joint prompts for the ``joint_kinds`` among them, by class, ascending.
    Points without a class, cross-attention points and labelled ones are never joined. A class with one point is joined
    only if ``joint_of_one``, since its joint prompt is the single one again. ``positions`` hold the published order:
    per kind the points, then the classes. No point: no prompt.
    """
    wanted_kinds = [*(number for name, number in KINDS.items() if name in kinds), GIVEN]
    joined_kinds = {number for name, number in KINDS.items() if name in joint_kinds and number in JOINT_OF}
    singles: list[PlannedPrompts] = []
    joints: list[PlannedPrompts] = []
    position = 0
    for kind in wanted_kinds:
        of_kind = clues.select(clues.kinds == kind)
        num = len(of_kind.points)
        positions = torch.arange(position, position + num)
        singles.append(PlannedPrompts(of_kind.points[:, None], torch.full((num,), kind), positions))
        position += num
        for label in of_kind.labels[of_kind.labels != CLASSLESS].unique() if kind in joined_kinds else ():
            points = of_kind.points[of_kind.labels == label]
            if len(points) > 1 or joint_of_one:
                joints.append(PlannedPrompts(points[None], torch.tensor([JOINT_OF[kind]]), torch.tensor([position])))
                position += 1
    return [*_grouped_by_length(singles), *_grouped_by_length(joints)]


def _grouped_by_length(plans: Sequence[PlannedPrompts]) -> list[PlannedPrompts]:
    """Prompts of the same number of points together; never padded, since SAM's decoder sees padding as a token."""
    lengths = sorted({plan.points.shape[1] for plan in plans if len(plan.points)})
    groups = ([plan for plan in plans if plan.points.shape[1] == length] for length in lengths)
    return [PlannedPrompts(*(torch.cat(column) for column in zip(*group, strict=True))) for group in groups]
