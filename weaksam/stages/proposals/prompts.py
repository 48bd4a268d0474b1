"""Arrange points as prompts: the dense grid, one prompt per point, all points of a class as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.sam.prompts import Prompts
from weaksam.structures.clue_points import CLASSLESS, GRID, JOINT_OF, KINDS, CluePoints


class PlannedPrompts(NamedTuple):
    """P prompts of K foreground points each: ``points (P, K, 2)`` xy in photo pixels, ``sources (P,)``.

    ``places (P,)`` is each prompt's turn among all prompts of the photo.
    """

    points: Tensor
    sources: Tensor
    places: Tensor

    @property
    def prompts(self) -> Prompts:
        """What the segmenter is asked."""
        return Prompts(self.points)


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
    """Every clue point alone, then all points of a class jointly (WeakSAM section 2.2), as few batches as it takes.

    Kinds in the order of ``KINDS``, as far as named in ``kinds``; joint prompts for the ``joint_kinds`` among them, by
    class, ascending. Class-less points and cross-attention points are never joined. A class with one point is joined
    only if ``joint_of_one``: its joint prompt is the single one. ``places`` tell the published order: per kind the
    points, then the classes.
    """
    wanted = [number for name, number in KINDS.items() if name in kinds]
    joined = {number for name, number in KINDS.items() if name in joint_kinds and number in JOINT_OF}
    singles: list[PlannedPrompts] = []
    joints: list[PlannedPrompts] = []
    place = 0
    for kind in wanted:
        mine = clues.select(clues.kinds == kind)
        num = len(mine.points)
        turn = torch.arange(place, place + num)
        singles.append(PlannedPrompts(mine.points[:, None], torch.full((num,), kind), turn))
        place += num
        for label in mine.labels[mine.labels != CLASSLESS].unique() if kind in joined else ():
            points = mine.points[mine.labels == label]
            if len(points) > 1 or joint_of_one:
                joints.append(PlannedPrompts(points[None], torch.tensor([JOINT_OF[kind]]), torch.tensor([place])))
                place += 1
    return [*_joined(singles), *_joined(joints)]


def _joined(prompts: Sequence[PlannedPrompts]) -> list[PlannedPrompts]:
    """Prompts of the same number of points together; never padded, since SAM's decoder sees padding as a token."""
    lengths = sorted({one.points.shape[1] for one in prompts if len(one.points)})
    groups = ([one for one in prompts if one.points.shape[1] == length] for length in lengths)
    return [PlannedPrompts(*(torch.cat(column) for column in zip(*group, strict=True))) for group in groups]
