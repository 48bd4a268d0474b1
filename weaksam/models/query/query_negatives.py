"""Decide of which classes background queries teach nothing, where the boxes of the photos are incomplete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

from weaksam.models.detectors.ignored_regions import IGNORED
from weaksam.models.detectors.negatives import NegativeSettings, unknown_classes
from weaksam.models.query.ignored import lies_in_ignored
from weaksam.structures.boxes import area, pairwise_intersection, pairwise_iou
from weaksam.structures.devices import moved_together


@dataclass(frozen=True)
class QueryNegatives:
    """The rule of `unknown_classes` for the queries of B photos, with what is known of each."""

    settings: NegativeSettings
    confident: float | None
    """Score of a tagged class above which a query does not teach that it is not there; None: each does."""
    targets: tuple[Mapping[str, Tensor], ...]
    """Of each photo what `unknown_classes` reads."""
    photo_sizes: tuple[tuple[int, int], ...]
    """``(h, w)`` of each photo in pixels."""

    @classmethod
    def of(
        cls,
        settings: NegativeSettings,
        confident: float | None,
        targets: Sequence[Mapping[str, Tensor]],
        photo_sizes: Sequence[tuple[int, int]],
        device: torch.device,
    ) -> QueryNegatives:
        """With the targets on ``device``, in one copy for each type."""
        values = iter(moved_together([value for target in targets for value in target.values()], device))
        moved = tuple({name: next(values) for name in target} for target in targets)
        return cls(settings, confident, moved, tuple(photo_sizes))

    @torch.no_grad()
    def unknown(self, logits: Tensor, boxes: Tensor) -> Tensor:
        """Bool ``(M, B, N, C)``: classes of which each query teaches nothing, if it is background.

        ``logits`` (M, B, N, C); ``boxes`` (M, B, N, 4) of centre and sides as shares of the photo.
        """
        sets, _, num_queries, _ = logits.shape
        corners = box_convert(boxes, "cxcywh", "xyxy")
        photos = [
            self._of_photo(logits[:, number].flatten(0, 1), corners[:, number].flatten(0, 1), number)
            for number in range(len(self.targets))
        ]
        return torch.stack([of_photo.unflatten(0, (sets, num_queries)) for of_photo in photos], dim=1)

    def _of_photo(self, logits: Tensor, corners: Tensor, number: int) -> Tensor:
        """Bool ``(R, C)`` of the queries of photo ``number``: ``logits`` (R, C), ``corners`` (R, 4) as shares of it.

        A query whose score of a tagged class is above ``confident`` and that overlaps no box by more than
        ``confident_iou`` teaches nothing of that class; one that lies mostly in an ignored box nothing of all tagged
        classes, or nothing at all where there are none or the rule is ``all``.
        """
        target, (height, width) = self.targets[number], self.photo_sizes[number]
        regions = torch.stack([corners[:, side] * (width, height)[side % 2] for side in range(4)], dim=1)
        tags, boxes = target["tags"], target["boxes"]
        unknown = unknown_classes(regions, target, self.settings)
        if len(boxes) == 0:
            overlap = inside = regions.new_zeros(len(regions))
        else:
            overlap = pairwise_iou(regions, boxes).amax(dim=1)
            shared = pairwise_intersection(regions, boxes)
            inside = shared.masked_fill(target["labels"] != IGNORED, 0.0).amax(dim=1)
        of_ignored = torch.ones_like(tags) if self.settings.rule == "all" else tags | ~tags.any()
        unknown |= lies_in_ignored(inside, area(regions))[:, None] & of_ignored
        if self.confident is not None:
            far = overlap <= self.settings.confident_iou
            unknown |= (logits.float().sigmoid() > self.confident) & tags & far[:, None]
        return unknown
