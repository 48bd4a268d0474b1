"""Read the best proposals of each split's photos, which the box head of a detector takes beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weaksam.store.store import Store
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals


@dataclass(frozen=True)
class SplitProposals:
    """The best proposals of every photo of a split."""

    fingerprint: str
    """Of the store that they were read from."""
    boxes: Mapping[str, Tensor]
    """By image id, float32 ``(P, 4)`` xyxy in pixels of the photo, best score first; P may be 0."""

    @classmethod
    def best(cls, store: Store, num: int) -> SplitProposals:
        """At most ``num`` of each photo, from a sealed store of proposals."""
        boxes = {
            row["image_id"]: Proposals.from_row(row).by_score().boxes[:num]
            for row in store.rows("boxes", "scores", "sources", "mask_size")
        }
        return cls(store.fingerprint, boxes)

    def as_regions(self) -> dict[str, Instances]:
        """The same as regions of training photos, all of class 0."""
        return {
            image_id: Instances(boxes, torch.zeros(len(boxes), dtype=torch.int64))
            for image_id, boxes in self.boxes.items()
        }
