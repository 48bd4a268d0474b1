"""Hold the clue points of one photo and the peaks they come from, and number what can prompt a proposal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

GRID, COARSE, FINE, CROSS, COARSE_JOINT, FINE_JOINT, GIVEN, TEXT = range(8)
"""What prompted a proposal: the grid, a clue point of a kind, or all points of a kind and a class jointly; `GIVEN`: a
point or a box that somebody labelled; `TEXT`: a hit of a class's words."""

SOURCES = ("grid", "coarse", "fine", "cross", "coarse joint", "fine joint", "given", "text")
"""Names of what prompted a proposal, by its number."""

KindName = Literal["coarse", "fine", "cross"]
"""A kind of clue points as settings name it."""


KINDS = {"coarse": COARSE, "fine": FINE, "cross": CROSS}
"""Kinds of clue points by name; a point's kind is the source of what it prompts alone."""

KIND_NAMES = {number: name for name, number in KINDS.items()}
"""Names of the kinds of clue points by number."""

JOINT_OF = {COARSE: COARSE_JOINT, FINE: FINE_JOINT}
"""The source of a joint prompt by the kind of its points."""

CLASSLESS = -1
"""The label of a point that speaks for no class."""


class CluePoints(NamedTuple):
    """P clue points of one photo: places where a class map says that an object lies; P = 0 where it says nothing.

    ``points``: ``(P, 2)`` xy in pixels of the upright photo. ``labels``: int64 ``(P,)``, the class that each speaks
    for, ``CLASSLESS`` where it speaks for none (clustered cross-attention peaks). ``kinds``: int64 ``(P,)``, the map
    that each was found on: ``COARSE``, ``FINE`` or ``CROSS``; ``GIVEN`` where somebody labelled it.
    """

    points: Tensor
    labels: Tensor
    kinds: Tensor

    @classmethod
    def of(cls, points: Tensor, labels: Tensor, kind: int = COARSE) -> CluePoints:
        """``points (P, 2)`` xy with ``labels (P,)``, all of one ``kind``."""
        return cls(points, labels, torch.full((len(points),), kind))

    @classmethod
    def none(cls) -> CluePoints:
        """The clue points of a photo about which nothing is known: P = 0."""
        return cls.of(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))

    def with_given(self, points: Tensor, labels: Tensor) -> CluePoints:
        """The same points and, behind them, those ``(K, 2)`` of classes ``(K,)`` that somebody labelled."""
        given = CluePoints.of(points, labels, GIVEN)
        return CluePoints(*(torch.cat(columns) for columns in zip(self, given, strict=True)))

    def select(self, index: Tensor) -> CluePoints:
        """The points at an int64 index ``(K,)``, in that order, or kept by a bool mask ``(P,)``."""
        return CluePoints(self.points[index], self.labels[index], self.kinds[index])

    def in_canonical_order(self) -> CluePoints:
        """The same points by kind, class and position, so that nothing depends on the order they came in."""
        keys = (*self.points.flip(1).T, self.labels, self.kinds)  # the last key counts most
        return self.select(torch.from_numpy(np.lexsort([key.numpy() for key in keys])))


class CluePeaks(NamedTuple):
    """Clue points of one photo with the height of the peak that each was found on.

    ``points (P, 2)`` xy in photo pixels, ``labels (P,)`` and ``kinds (P,)`` int64 as in `CluePoints`, ``heights (P,)``
    in [0, 1], where 1 is the highest value of the class's map.
    """

    points: Tensor
    labels: Tensor
    kinds: Tensor
    heights: Tensor

    @classmethod
    def none(cls) -> CluePeaks:
        """The peaks of a photo without any: P = 0."""
        no_labels = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 2), no_labels, no_labels, torch.zeros(0))

    def select(self, index: Tensor) -> CluePeaks:
        """The peaks ``index`` (indices or a mask), in that order."""
        return CluePeaks(self.points[index], self.labels[index], self.kinds[index], self.heights[index])


PeaksOf = Callable[[str], CluePeaks]
"""image_id -> the peaks of the photo."""


KindMapsOf = Callable[[str], tuple[Tensor, Mapping[int, Tensor]]]
"""image_id -> labels ``(L,)`` int64 and, by kind, a class map of each label ``(L, h, w)``."""
