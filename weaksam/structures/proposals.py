"""Class-free proposals of one photo, and the columns of a store that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.structures.masks import Rle

PROPOSAL_COLUMNS = {"boxes": "boxes", "scores": "floats", "sources": "ints", "rles": "rles", "mask_size": "ints"}
"""Columns of a store of proposals; the proposals stage writes the same (a test compares them)."""


IMPORTED = -1
"""The source of a proposal that another tool made."""


@dataclass(frozen=True)
class Proposals:
    """N proposals of one image in their file's order.

    ``boxes``: float32 ``(N, 4)`` half-open xyxy in photo pixels; ``scores``: float32 ``(N,)``; ``sources``: int64
    ``(N,)``, the number of what prompted each, -1 for another tool's; ``rles``: N masks in a frame of ``mask_size``
    (h, w) that covers the whole photo, or none, then ``mask_size`` is (0, 0).
    """

    boxes: Tensor
    scores: Tensor
    sources: Tensor
    rles: tuple[Rle, ...] = ()
    mask_size: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, boxes: Tensor, scores: Tensor | None = None, sources: Tensor | None = None) -> Proposals:
        """Boxes ``(N, 4)`` without masks; scores are 1 and sources ``IMPORTED`` where they are not given."""
        scores = torch.ones(len(boxes)) if scores is None else scores
        sources = torch.full((len(boxes),), IMPORTED) if sources is None else sources
        return cls(boxes.float(), scores.float(), sources.long())

    @classmethod
    def none(cls) -> Proposals:
        """No proposals."""
        return cls.of(torch.zeros(0, 4))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor) -> Proposals:
        """The proposals of ``rows``, places ``(K,)`` int64, in that order."""
        rles = tuple(self.rles[row] for row in rows.tolist()) if self.rles else ()
        return Proposals(self.boxes[rows], self.scores[rows], self.sources[rows], rles, self.mask_size)

    def by_score(self) -> Proposals:
        """Best score first, equals in their order."""
        return self[self.scores.argsort(descending=True, stable=True)]


def store_columns(one: Proposals) -> dict[str, Any]:
    """The proposals of one image as a row of a store, see ``PROPOSAL_COLUMNS``."""
    columns = {"boxes": one.boxes, "scores": one.scores, "sources": one.sources, "rles": list(one.rles)}
    return {**columns, "mask_size": torch.tensor(one.mask_size)}
