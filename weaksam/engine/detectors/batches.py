"""Resized photos kept in memory, and augmented training batches of them with their boxes and masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from weaksam.config import Settings
from weaksam.data.images import read_image
from weaksam.engine.seeds import derive_seed
from weaksam.models.detectors.faster_rcnn import target_of
from weaksam.store.progress import progress
from weaksam.structures import boxes as box_ops
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle, rle_from_mask


class AugmentSettings(Settings):
    """How training photos are varied; every photo's draw follows from the seed, its id and the epoch."""

    flip: bool = True
    """Mirror half of the photos left to right."""
    smallest_scale: float = Field(0.7, gt=0.1, le=1)
    """Photos are resized once more by a factor between this ..."""
    largest_scale: float = Field(1.1, ge=1, le=4)
    """... and this."""
    colour_jitter: float = Field(0.2, ge=0, lt=1)
    """Brightness, contrast and saturation each change by at most this share."""


@dataclass(frozen=True)
class ResizedPhoto:
    """One photo at the detector's size: ``image`` uint8 ``(3, h, w)``, ``size`` ``(H, W)`` of the original."""

    image_id: str
    image: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Photos as float ``(3, h, w)`` in 0..1, their torchvision targets and ids."""

    image_ids: tuple[str, ...]
    images: list[Tensor]
    targets: list[dict[str, Tensor]]


def fit_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """``(h, w)`` of a photo of ``size`` (H, W) resized to ``short_side``, or less so that ``long_side`` is kept."""
    factor = min(short_side / min(size), long_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def load_photo(sample: Sample, short_side: int, long_side: int) -> ResizedPhoto:
    """Decode one photo and resize it (antialiased) to the detector's size."""
    image = torch.from_numpy(read_image(sample.path)).permute(2, 0, 1)  # (3, H, W)
    size = (image.shape[1], image.shape[2])
    resized = TF.resize(image, list(fit_size(size, short_side, long_side)), antialias=True)
    return ResizedPhoto(sample.image_id, resized.contiguous(), size)


def shrink(instances: Instances, photo: ResizedPhoto) -> Instances:
    """Instances of the original photo in the frame of the resized one; masks are shrunk once and kept as RLE."""
    h, w = photo.image.shape[1:]
    boxes = box_ops.scale(box_ops.clip(instances.boxes, photo.size), w / photo.size[1], h / photo.size[0])
    if instances.masks is None:
        return Instances(boxes, instances.labels)
    masks = [mask_from_rle(rle)[None, None].float() for rle in instances.masks]
    small = [F.interpolate(mask, (h, w), mode="bilinear", antialias=True)[0, 0] >= 0.5 for mask in masks]
    return Instances(boxes, instances.labels, masks=tuple(rle_from_mask(mask) for mask in small))


class TrainingPhotos:
    """The training photos and their instances, decoded once.

    A photo without a box is kept only where it has no tag either (a true negative): with a tag but no box nobody
    knows where its object is, and training would call that place background.
    """

    def __init__(
        self, dataset: Dataset, instances: Mapping[str, Instances], short_side: int, long_side: int, label: str
    ) -> None:
        samples = [s for s in dataset if len(instances.get(s.image_id, Instances.empty())) or not s.tags]
        self.num_left_out = len(dataset) - len(samples)
        self.photos: list[ResizedPhoto] = []
        self.instances: list[Instances] = []
        for sample in progress(samples, len(samples), f"{label}: photos"):
            photo = load_photo(sample, short_side, long_side)
            self.photos.append(photo)
            self.instances.append(shrink(instances.get(sample.image_id, Instances.empty()), photo))

    def __len__(self) -> int:
        return len(self.photos)

    def num_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return sum(-(-len(group) // batch_size) for group in self._groups())

    def epoch(self, epoch: int, batch_size: int, augment: AugmentSettings, seed: int) -> Iterator[Batch]:
        """The batches of one epoch in a shuffled order that follows from ``(seed, epoch)`` alone.

        Upright and wide photos are batched apart, so that padding stays small.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        batches: list[list[int]] = []
        for group in self._groups():
            order = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
            batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield self._batch(batches[index], epoch, augment, seed)

    def _groups(self) -> list[list[int]]:
        upright = [i for i, photo in enumerate(self.photos) if photo.image.shape[1] > photo.image.shape[2]]
        wide = [i for i, photo in enumerate(self.photos) if photo.image.shape[1] <= photo.image.shape[2]]
        return [group for group in (upright, wide) if group]

    def _batch(self, indices: Sequence[int], epoch: int, augment: AugmentSettings, seed: int) -> Batch:
        images, targets = [], []
        for index in indices:
            photo = self.photos[index]
            generator = torch.Generator().manual_seed(derive_seed(seed, photo.image_id, epoch))
            image, instances, masks = vary(photo.image, self.instances[index], augment, generator)
            images.append(image)
            targets.append(target_of(instances, masks))
        return Batch(tuple(self.photos[i].image_id for i in indices), images, targets)


def vary(
    image: Tensor, instances: Instances, augment: AugmentSettings, generator: torch.Generator
) -> tuple[Tensor, Instances, Tensor | None]:
    """One random view: float image ``(3, h', w')`` in 0..1, its boxes, and its masks bool ``(N, h', w')`` if any.

    The draws are always made in the same order, whether they are used or not.
    """
    draws = torch.rand(5, generator=generator).tolist()
    scale = augment.smallest_scale + draws[0] * (augment.largest_scale - augment.smallest_scale)
    size = (max(32, round(image.shape[1] * scale)), max(32, round(image.shape[2] * scale)))
    view = image.float()[None] / 255.0
    view = F.interpolate(view, size, mode="bilinear", antialias=scale < 1, align_corners=False)[0]
    boxes = box_ops.scale(instances.boxes, size[1] / image.shape[2], size[0] / image.shape[1])
    masks = _scaled_masks(instances, size)
    if augment.flip and draws[1] < 0.5:
        view, boxes = view.flip(-1), box_ops.hflip(boxes, size[1])
        masks = None if masks is None else masks.flip(-1)
    return change_colours(view, draws[2:], augment.colour_jitter), instances.replace(boxes=boxes, masks=None), masks


def change_colours(image: Tensor, draws: Sequence[float], strength: float) -> Tensor:
    """Brightness, contrast and saturation of a 0..1 photo times ``1 - strength .. 1 + strength``; draws in [0, 1)."""
    if strength == 0:
        return image
    brightness, contrast, saturation = (1 + strength * (2 * draw - 1) for draw in draws)
    image = TF.adjust_brightness(image, brightness)
    image = TF.adjust_contrast(image, contrast)
    return TF.adjust_saturation(image, saturation)


def _scaled_masks(instances: Instances, size: tuple[int, int]) -> Tensor | None:
    """Masks of the instances at ``size`` (h, w), bool ``(N, h, w)``; None where they carry none."""
    if instances.masks is None:
        return None
    if not instances.masks:
        return torch.zeros((0, *size), dtype=torch.bool)
    masks = torch.stack([mask_from_rle(rle) for rle in instances.masks]).float()
    return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0] >= 0.5
