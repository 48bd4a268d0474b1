"""Hold the class-free proposals of one photo, and name the columns of a store that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.structures.masks import Rle

PROPOSAL_COLUMNS = {"boxes": "boxes", "scores": "floats", "sources": "ints", "rles": "rles", "mask_size": "ints"}
"""Columns of a store of proposals and their kinds, see `Store`; every writer and reader of proposals uses these."""

IMPORTED = -1
"""The source of a proposal that another tool made."""


@dataclass(frozen=True)
class Proposals:
    """N proposals of one photo: best first where the proposals stage made them, else in the order of their file.

    ``boxes``: float32 ``(N, 4)``, half-open xyxy in pixels of the upright photo.
    ``scores``: float32 ``(N,)``, greater is better: a predicted IoU in [0, 1], or any scale in a file of another tool.
    ``sources``: int64 ``(N,)``, what prompted each: a number into ``clue_points.SOURCES``, or ``IMPORTED``.
    ``rles``: one mask each, in a frame of ``mask_size`` (h, w) that covers the whole photo and may be smaller; or no
    mask at all, and then ``mask_size`` says nothing.

    N = 0 is a photo without proposals. Raises ``ValueError`` where the fields disagree on N.
    """

    boxes: Tensor
    scores: Tensor
    sources: Tensor
    rles: tuple[Rle, ...] = ()
    mask_size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Raise ``ValueError`` where a field has another shape or length than the class says."""
        count = len(self.boxes)
        for name, shape in (("boxes", (count, 4)), ("scores", (count,)), ("sources", (count,))):
            value = getattr(self, name)
            if value.shape != shape:
                raise ValueError(f"Proposals.{name} must be {shape} for {count} boxes, found {tuple(value.shape)}")
        if self.rles and len(self.rles) != count:
            raise ValueError(f"Proposals.rles must hold {count} masks, one per box, or none, found {len(self.rles)}")

    @classmethod
    def of(cls, boxes: Tensor, scores: Tensor | None = None, sources: Tensor | None = None) -> Proposals:
        """Boxes ``(N, 4)`` without masks; scores are 1 and sources ``IMPORTED`` where they are not given."""
        scores = torch.ones(len(boxes)) if scores is None else scores
        sources = torch.full((len(boxes),), IMPORTED) if sources is None else sources
        return cls(boxes.float(), scores.float(), sources.long())

    @classmethod
    def none(cls) -> Proposals:
        """No proposals: N = 0."""
        return cls.of(torch.zeros(0, 4))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Proposals:
        """The proposals of a store's row, see `as_row`; without masks where the row was read without their columns."""
        height, width = row["mask_size"].tolist() if len(row.get("mask_size", ())) == 2 else (0, 0)
        return cls(row["boxes"], row["scores"], row["sources"], tuple(row.get("rles", ())), (height, width))

    def as_row(self) -> dict[str, Any]:
        """The values of a store's row, one for each of ``PROPOSAL_COLUMNS``; `from_row` is the way back."""
        return {
            "boxes": self.boxes,
            "scores": self.scores,
            "sources": self.sources,
            "rles": list(self.rles),
            "mask_size": torch.tensor(self.mask_size),
        }

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor) -> Proposals:
        """The proposals at the indices ``rows (K,)`` int64, in that order, with their masks where there are some."""
        rles = tuple(self.rles[row] for row in rows.tolist()) if self.rles else ()
        return Proposals(self.boxes[rows], self.scores[rows], self.sources[rows], rles, self.mask_size)

    @property
    def has_masks(self) -> bool:
        """Whether every proposal has its mask; true of no proposals."""
        return len(self.rles) == len(self)

    def by_score(self) -> Proposals:
        """The same proposals, best score first; equal scores keep their order."""
        return self[self.scores.argsort(descending=True, stable=True)]
