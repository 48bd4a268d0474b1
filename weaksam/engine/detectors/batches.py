"""Keep the resized training photos in memory and give augmented batches of them with their targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weaksam.engine.detectors.augmentation import AugmentSettings, vary
from weaksam.engine.detectors.photos import ResizedPhoto, load_photo, shrink
from weaksam.engine.seeds import derive_seed
from weaksam.models.detectors.faster_rcnn import target_of
from weaksam.store.progress import progress
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class DetectorBatch:
    """Photos as float ``(3, h, w)`` in 0..1, their torchvision targets and ids."""

    image_ids: tuple[str, ...]
    images: list[Tensor]
    targets: list[dict[str, Tensor]]


class TrainingPhotos:
    """The training photos and their instances, decoded once.

    A photo without a box is kept only where it has no tag either (a true negative): with a tag but no box nobody
    knows where its object is, and training would call that place background. ``label`` names the training in the
    progress.
    """

    def __init__(
        self, dataset: Dataset, instances: Mapping[str, Instances], short_side: int, long_side: int, label: str
    ) -> None:
        samples = [
            sample for sample in dataset if len(instances.get(sample.image_id, Instances.empty())) or not sample.tags
        ]
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

    def epoch(self, epoch: int, batch_size: int, augment: AugmentSettings, seed: int) -> Iterator[DetectorBatch]:
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
        """Numbers of the upright and of the wide photos, without empty groups."""
        upright = [i for i, photo in enumerate(self.photos) if photo.image.shape[1] > photo.image.shape[2]]
        wide = [i for i, photo in enumerate(self.photos) if photo.image.shape[1] <= photo.image.shape[2]]
        return [group for group in (upright, wide) if group]

    def _batch(self, indices: Sequence[int], epoch: int, augment: AugmentSettings, seed: int) -> DetectorBatch:
        """The photos of these numbers, each varied by the draw of (seed, image id, epoch)."""
        images, targets = [], []
        for index in indices:
            photo = self.photos[index]
            generator = torch.Generator().manual_seed(derive_seed(seed, photo.image_id, epoch))
            image, instances, masks = vary(photo.image, self.instances[index], augment, generator)
            images.append(image)
            targets.append(target_of(instances, masks))
        return DetectorBatch(tuple(self.photos[i].image_id for i in indices), images, targets)
