"""Read the instances of photos that an adaptation learns from or is measured on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError, fingerprint_of
from weaksam.data.detection_stores import instances_key
from weaksam.data.sample_photos import read_photo
from weaksam.recipes.sam_adaptation.views import Fit, NetworkView, masks_of, network_view
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_mask


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos with at least one instance, in their order; ``has_masks``: whether the labels are masks, not boxes."""

    samples: tuple[Sample, ...]
    instances: tuple[Instances, ...]
    has_masks: bool

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def fingerprint(self) -> str:
        """Hash of the photos and of their labels."""
        by_id = {sample.image_id: of for sample, of in zip(self.samples, self.instances, strict=True)}
        return fingerprint_of([[sample.sha256 for sample in self.samples], instances_key(by_id)])

    def image(self, row: int) -> np.ndarray:
        """The photo, uint8 ``(H, W, 3)``."""
        return read_photo(self.samples[row])

    def view(self, row: int, side: int, fit: Fit = "padded") -> NetworkView:
        """The photo at the network's input size with a mask for each instance that has a pixel there.

        Of an instance that is known by its box the mask is the box.
        """
        of_photo, size = self.instances[row], self.samples[row].size
        masks = masks_of(of_photo.masks or (), size) if self.has_masks else box_masks(of_photo.boxes, size)
        view = network_view(self.image(row), masks, side, fit)
        return NetworkView(view.pixels, view.masks[view.masks.any(dim=2).any(dim=1)])


def labelled(samples: Iterable[Sample], instances: Mapping[str, Instances], what: str) -> LabelledPhotos:
    """The photos of ``samples`` that have ``instances`` (by image id), which ``what`` names in an error.

    Photos without one are left out, crowds too. Raises `UserError` where no photo is left.
    """
    with_instances, kept = [], []
    for sample in samples:
        of_photo = instances.get(sample.image_id, Instances.empty()).without_crowd()
        if len(of_photo):
            with_instances.append(sample)
            kept.append(of_photo)
    if not with_instances:
        raise UserError(f"wanted photos with instances in {what}, found none: each needs a mask or a box")
    return LabelledPhotos(tuple(with_instances), tuple(kept), all(of_photo.masks is not None for of_photo in kept))


def divided(samples: Sequence[Sample], rule: str) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The photos to adapt to and those to measure on by the rule ``k:1``: of each k + 1 in turn the last is measured.

    ``samples`` in the order of their paths. Of fewer than k + 1 photos none is measured (WeSAM's splits).
    """
    period = int(rule.partition(":")[0]) + 1
    adapted = tuple(sample for row, sample in enumerate(samples) if row % period != period - 1)
    return adapted, tuple(samples[period - 1 :: period])


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool ``(n, H, W)``: the pixels of each box; n = 0 gives ``(0, H, W)``."""
    if len(boxes) == 0:
        return torch.zeros(0, *size, dtype=torch.bool)
    return torch.stack([box_mask(box, size) for box in boxes])
