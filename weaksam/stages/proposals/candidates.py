"""Collect candidate regions of one photo: boxes with scores and sources, and their masks until some are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from weaksam.sam.protocol import Masks
from weaksam.structures.bits import packed, unpacked
from weaksam.structures.masks import Rle, rle_from_mask

_PACKED_AT_ONCE = 64


class MaskPile:
    """Masks ``(h, w)`` of one photo as bits on the CPU, until it is known which are kept.

    ``frame`` is their ``(h, w)``, ``(0, 0)`` as long as nothing was added.
    """

    def __init__(self) -> None:
        self.frame = (0, 0)
        self._pieces: list[Tensor] = []
        self._starts = [0]

    def add(self, masks: Tensor) -> Tensor:
        """Lay bool masks ``(N, h, w)`` of any device aside; returns their rows ``(N,)``.

        They are packed where they are, so that an eighth of their bytes goes to the CPU.
        """
        start = self._starts[-1]
        self.frame = (masks.shape[1], masks.shape[2])
        for part in masks.flatten(1).split(_PACKED_AT_ONCE):
            self._pieces.append(packed(part).cpu())
            self._starts.append(self._starts[-1] + len(part))
        return torch.arange(start, self._starts[-1])

    def rles(self, rows: Tensor) -> tuple[Rle, ...]:
        """The masks of ``rows (N,)`` as RLE."""
        starts = torch.tensor(self._starts)
        pieces = torch.searchsorted(starts, rows, right=True) - 1
        piece_rows = (rows - starts[pieces]).tolist()
        return tuple(
            rle_from_mask(self._mask(piece, row)) for piece, row in zip(pieces.tolist(), piece_rows, strict=True)
        )

    def _mask(self, piece: int, row: int) -> Tensor:
        height, width = self.frame
        return unpacked(self._pieces[piece][row][None], height * width).view(height, width)


@dataclass(frozen=True)
class Candidates:
    """N regions of one photo that may become proposals.

    ``boxes (N, 4)`` half-open xyxy in photo pixels, ``scores (N,)`` predicted IoU, ``sources (N,)`` int64 of the
    prompts (see ``structures.clue_points.SOURCES``) and ``rows (N,)`` int64 of the masks in the photo's `MaskPile`.
    """

    boxes: Tensor
    scores: Tensor
    sources: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Candidates:
        return Candidates(self.boxes[index], self.scores[index], self.sources[index], self.rows[index])

    @classmethod
    def none(cls) -> Candidates:
        """No candidate."""
        empty = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 4), torch.zeros(0), empty, empty)

    @classmethod
    def cat(cls, parts: Sequence[Candidates]) -> Candidates:
        """All ``parts`` in order; none of none."""
        parts = [cls.none(), *parts]
        columns = ("boxes", "scores", "sources", "rows")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in columns))

    def with_sources(self, sources: Tensor) -> Candidates:
        """The same candidates with other ``sources (N,)``."""
        return replace(self, sources=sources)


def masks_numbered(answer: Masks, numbers: Sequence[int]) -> Tensor:
    """Bool ``(P, 3)`` on the CPU, true for the masks ``numbers`` (0 the smallest) of each of P prompts."""
    chosen = torch.zeros(answer.iou.shape, dtype=torch.bool)
    chosen[:, list(numbers)] = True
    return chosen


def candidates_of(
    answer: Masks, wanted: Tensor, sources: Tensor, pile: MaskPile, keep_empty: bool = False
) -> tuple[Candidates, Tensor]:
    """The ``wanted (P, 3)`` masks of P prompts, prompt by prompt, and the prompt ``(N,)`` int64 that each answers.

    ``sources (P,)`` of the prompts; the masks are laid on the ``pile``. An empty mask is left out, or with
    ``keep_empty`` gets the box of the photo's first pixel, as in the original, where its inclusive corners are
    0, 0, 0, 0.
    """
    boxes = answer.boxes.cpu()
    is_empty = boxes[..., 2] <= boxes[..., 0]
    if keep_empty:
        boxes = torch.where(is_empty[..., None], boxes.new_tensor([0.0, 0.0, 1.0, 1.0]), boxes)
    else:
        wanted = wanted & ~is_empty
    prompts = wanted.nonzero()[:, 0]
    rows = pile.add(answer.masks[wanted.to(answer.masks.device)])
    scores = answer.iou.cpu()[wanted].float()
    return Candidates(boxes[wanted], scores, sources[prompts], rows), prompts


def canonical_order(candidates: Candidates) -> Candidates:
    """Best score first, ties by box coordinates, then the higher source first: no trace of the input order."""
    keys = (-candidates.sources, *candidates.boxes.flip(1).T, -candidates.scores)  # the last key counts most
    order = np.lexsort([key.numpy() for key in keys])
    return candidates[torch.from_numpy(order)]
