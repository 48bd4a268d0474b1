"""Arrange points as prompts: the dense grid, one prompt per point, all points of a class as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from weaksam.sam.batches import BatchLimit, in_batches
from weaksam.sam.protocol import FOREGROUND, PADDING, Embedding, Masks, Segmenter

GRID, COARSE, FINE, CROSS, COARSE_JOINT, FINE_JOINT = range(6)
SOURCES = ("grid", "coarse", "fine", "cross", "coarse joint", "fine joint")
"""What prompted a proposal, by number: the grid, a clue point of a kind, or all points of a kind and a class."""
KINDS = {"coarse": COARSE, "fine": FINE, "cross": CROSS}
"""Kinds of clue points by name; a point's kind is the source of what it prompts alone."""
JOINT_OF = {COARSE: COARSE_JOINT, FINE: FINE_JOINT}
"""The source of a joint prompt by the kind of its points."""
CLASSLESS = -1


class CluePoints(NamedTuple):
    """Points of one photo: ``points (P, 2)`` xy in photo pixels, ``labels (P,)`` and ``kinds (P,)`` int64.

    A label is the class that the point speaks for, -1 where it speaks for none (clustered cross-attention peaks). A
    kind is ``COARSE``, ``FINE`` or ``CROSS``: the map it was found on.
    """

    points: Tensor
    labels: Tensor
    kinds: Tensor

    @classmethod
    def of(cls, points: Tensor, labels: Tensor, kind: int = COARSE) -> CluePoints:
        """Points that are all of one ``kind``."""
        return cls(points, labels, torch.full((len(points),), kind))

    @classmethod
    def none(cls) -> CluePoints:
        """The clue points of a photo about which nothing is known: P = 0."""
        return cls.of(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))

    def select(self, index: Tensor) -> CluePoints:
        """The points ``index`` (places or a mask), in that order."""
        return CluePoints(self.points[index], self.labels[index], self.kinds[index])

    def in_canonical_order(self) -> CluePoints:
        """The same points by kind, class and place, so that nothing depends on the order they came in."""
        keys = (*self.points.flip(1).T, self.labels, self.kinds)  # the last key counts most
        return self.select(torch.from_numpy(np.lexsort([key.numpy() for key in keys])))


class Prompts(NamedTuple):
    """P point prompts of K points each: ``points (P, K, 2)``, ``point_labels (P, K)``, ``sources (P,)``.

    ``places (P,)`` is each prompt's turn among all prompts of the photo.
    """

    points: Tensor
    point_labels: Tensor
    sources: Tensor
    places: Tensor


def grid_points(size: tuple[int, int], grid_side: int) -> Tensor:
    """``grid_side`` squared xy points ``(G, 2)`` over a photo ``(H, W)``, row by row; none for 0.

    SAM's convention: the first point is half a step from the corner, 1/64 of the width for 32 points a side.
    """
    height, width = size
    step = (torch.arange(grid_side, dtype=torch.float32) + 0.5) / max(grid_side, 1)
    y, x = torch.meshgrid(step * height, step * width, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def grid_prompts(size: tuple[int, int], grid_side: int) -> Prompts:
    """The dense grid over a photo ``(H, W)``, each point alone; none for 0."""
    points = grid_points(size, grid_side)
    return Prompts(*single_prompts(points), torch.full((len(points),), GRID), torch.arange(len(points)))


def clue_prompts(
    clues: CluePoints, kinds: Sequence[str], joint_kinds: Sequence[str], joint_of_one: bool
) -> list[Prompts]:
    """Every clue point alone, then all points of a class jointly (WeakSAM section 2.2), as few batches as it takes.

    Kinds in the order of ``KINDS``, as far as named in ``kinds``; joint prompts for the ``joint_kinds`` among them, by
    class, ascending. Class-less points and cross-attention points are never joined. A class with one point is joined
    only if ``joint_of_one``: its joint prompt is the single one. ``places`` tell the published order: per kind the
    points, then the classes.
    """
    wanted = [number for name, number in KINDS.items() if name in kinds]
    joined = {number for name, number in KINDS.items() if name in joint_kinds and number in JOINT_OF}
    singles: list[Prompts] = []
    joints: list[Prompts] = []
    place = 0
    for kind in wanted:
        mine = clues.select(clues.kinds == kind)
        num = len(mine.points)
        turn = torch.arange(place, place + num)
        singles.append(Prompts(*single_prompts(mine.points), torch.full((num,), kind), turn))
        place += num
        for label in mine.labels[mine.labels != CLASSLESS].unique() if kind in joined else ():
            points = mine.points[mine.labels == label]
            if len(points) > 1 or joint_of_one:
                one = torch.full((1, len(points)), FOREGROUND)
                joints.append(Prompts(points[None], one, torch.tensor([JOINT_OF[kind]]), torch.tensor([place])))
                place += 1
    return [*_joined(singles), *_joined(joints)]


def _joined(prompts: Sequence[Prompts]) -> list[Prompts]:
    """Prompts of the same number of points together; never padded, since SAM's decoder sees padding as a token."""
    lengths = sorted({one.points.shape[1] for one in prompts if len(one.points)})
    groups = ([one for one in prompts if one.points.shape[1] == length] for length in lengths)
    return [Prompts(*(torch.cat(column) for column in zip(*group, strict=True))) for group in groups]


def single_prompts(points: Tensor) -> tuple[Tensor, Tensor]:
    """Each of ``points (N, 2)`` as its own foreground prompt: ``(N, 1, 2)`` and labels ``(N, 1)``."""
    return points[:, None], torch.full((len(points), 1), FOREGROUND)


def rows_of_a_length(num: int, point_labels: Tensor | None, at_once: int) -> Iterator[tuple[Tensor, int]]:
    """Rows of ``num`` prompts to decode together, at most ``at_once``, with the number of points that each of them has.

    ``point_labels (P, K)`` as in ``Segmenter.predict``. Padding would be a token that SAM's decoder sees, so prompts of
    different lengths go separately. No prompt: nothing.
    """
    counts = torch.zeros(num).long() if point_labels is None else (point_labels != PADDING).sum(1)
    for length in counts.unique().tolist():
        for rows in (counts == length).nonzero()[:, 0].split(at_once):
            yield rows, length


def without_padding(points: Tensor, labels: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The ``length`` points and labels, in order, of prompts ``(P, K, 2)``, ``(P, K)`` that have that many each."""
    first = (labels == PADDING).long().argsort(dim=1, stable=True)[:, :length]  # padding may lie between
    return points.gather(1, first[..., None].expand(-1, -1, 2)), labels.gather(1, first)


def predict_batches(
    segmenter: Segmenter,
    embedding: Embedding,
    points: Tensor,
    point_labels: Tensor,
    batch_size: BatchLimit | int,
    min_pred_iou: float | None = None,
) -> Iterator[Masks]:
    """Answers of P point prompts ``(P, K, 2)``, at most ``batch_size`` prompts at a time; nothing for P = 0.

    Masks not above ``min_pred_iou`` may be empty, see ``Segmenter.predict``.
    """

    def answer(part: slice) -> Masks:
        labels = point_labels[part]
        return segmenter.predict(embedding, points=points[part], point_labels=labels, min_pred_iou=min_pred_iou)

    yield from in_batches(len(points), BatchLimit(batch_size) if isinstance(batch_size, int) else batch_size, answer)
