"""Hold the points, boxes and masks that prompt a segmenter, as one checked value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FOREGROUND, BACKGROUND, PADDING = 1, 0, -1


@dataclass(frozen=True)
class Prompts:
    """P prompts for one photo, each of K points, of a box, or of both, and of a mask beside them; P may be 0.

    ``points (P, K, 2)``: xy in photo pixels. ``point_labels (P, K)``: 1 foreground, 0 background, -1 padding; all
    foreground where points come without labels. ``boxes (P, 4)``: half-open xyxy in photo pixels. ``mask_logits (P, g,
    g)``: what an earlier answer of the same segmenter gives for it, see `MaskPrompting`. What is not given is None.

    Raises:
        ValueError: the shapes disagree, or there are neither points nor boxes.
    """

    points: Tensor | None = None
    point_labels: Tensor | None = None
    boxes: Tensor | None = None
    mask_logits: Tensor | None = None

    def __post_init__(self) -> None:
        points, labels, boxes = self.points, self.point_labels, self.boxes
        if points is None and boxes is None:
            raise ValueError("a prompt needs points or boxes, found neither: pass points= or boxes=")
        if points is not None and (points.dim() != 3 or points.shape[-1] != 2):
            raise ValueError(f"points must be (P, K, 2) xy, found {tuple(points.shape)}: add the missing dimension")
        if boxes is not None and (boxes.dim() != 2 or boxes.shape[-1] != 4):
            raise ValueError(f"boxes must be (P, 4) xyxy, found {tuple(boxes.shape)}: reshape them")
        if labels is not None and (points is None or labels.shape != points.shape[:2]):
            raise ValueError(f"point_labels must be (P, K) beside points, found {tuple(labels.shape)}: match points")
        if points is not None and boxes is not None and len(points) != len(boxes):
            raise ValueError(f"points and boxes must hold the same P, found {len(points)} and {len(boxes)}: pad one")
        logits = self.mask_logits
        if logits is not None and (logits.dim() != 3 or len(logits) != len(self)):
            raise ValueError(f"mask_logits must be (P, g, g), found {tuple(logits.shape)}: give each prompt its mask")
        if points is not None and labels is None:
            foreground = torch.full(points.shape[:2], FOREGROUND, device=points.device)
            object.__setattr__(self, "point_labels", foreground)

    @classmethod
    def single_points(cls, points: Tensor) -> Prompts:
        """Each of ``points (P, 2)`` as a foreground prompt of its own."""
        return cls(points[:, None])

    def __len__(self) -> int:
        given = self.boxes if self.points is None else self.points
        assert given is not None
        return len(given)

    def __getitem__(self, rows: Tensor | slice) -> Prompts:
        """The prompts ``rows``: indices ``(N,)``, a mask ``(P,)`` or a slice."""
        given = (self.points, self.point_labels, self.boxes, self.mask_logits)
        return Prompts(*(None if part is None else part[rows] for part in given))


def of_equal_length(prompts: Prompts, at_once: int) -> Iterator[tuple[Tensor, Prompts]]:
    """Prompts to decode together, at most ``at_once``: their rows ``(N,)``, and themselves without padding.

    Padding would be a token that SAM's decoder sees, so only prompts of the same number of points go together. No
    prompt: nothing.
    """
    labels = prompts.point_labels
    counts = torch.zeros(len(prompts)).long() if labels is None else (labels != PADDING).sum(1)
    for length in counts.unique().tolist():
        for rows in (counts == length).nonzero()[:, 0].split(at_once):
            yield rows, _without_padding(prompts[rows], length)


def _without_padding(prompts: Prompts, length: int) -> Prompts:
    """``prompts`` that have ``length`` points each and padding anywhere, with those points only, in order."""
    if prompts.points is None or prompts.point_labels is None:
        return prompts
    first = (prompts.point_labels == PADDING).long().argsort(dim=1, stable=True)[:, :length]
    points = prompts.points.gather(1, first[..., None].expand(-1, -1, 2))
    return Prompts(points, prompts.point_labels.gather(1, first), prompts.boxes, prompts.mask_logits)
