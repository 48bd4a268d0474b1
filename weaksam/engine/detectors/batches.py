"""Give augmented batches of the training photos with their targets; resized photos are kept as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weaksam.data.read_ahead import ReadAhead
from weaksam.engine.detectors.augmentation import AugmentSettings, vary, view_size
from weaksam.engine.detectors.photos import ResizedPhoto, fit_size, load_photo, shrink
from weaksam.engine.seeds import derive_seed
from weaksam.models.detectors.faster_rcnn import target_of
from weaksam.store.progress import progress
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

_BATCHES_AHEAD = 4
"""Batches whose photos are decoded in advance, where they are not kept."""


@dataclass(frozen=True)
class DetectorBatch:
    """Photos as float ``(3, h, w)`` in 0..1, their targets (torchvision's, or those of the detector) and ids."""

    image_ids: tuple[str, ...]
    images: list[Tensor]
    targets: list[dict[str, Tensor]]


class TrainingPhotos:
    """The training photos and their instances; resized photos are kept up to ``max_cache_gib``, others read each time.

    A photo without a box and without a tag is a true negative. One with a tag but no box is left out, as nobody knows
    where its object is and training would call that place background; with ``boxless_as_background`` it is taught as
    background all the same. Regions to ignore (``crowd``) are no boxes. ``label`` names the training in the progress;
    ``target`` makes a view's instances and masks ``(N, h, w)`` into what the losses are told.
    """

    def __init__(
        self,
        dataset: Dataset,
        instances: Mapping[str, Instances],
        short_side: int,
        long_side: int,
        label: str,
        max_cache_gib: float = 4.0,
        *,
        boxless_as_background: bool = False,
        target: Callable[[Instances, Tensor | None], dict[str, Tensor]] = target_of,
    ) -> None:
        self.target = target
        nothing = Instances.empty()
        self.samples = [
            sample
            for sample in dataset
            if boxless_as_background or len(instances.get(sample.image_id, nothing).without_crowd()) or not sample.tags
        ]
        self.num_left_out = len(dataset) - len(self.samples)
        self.short_side, self.long_side = short_side, long_side
        self.sizes = [fit_size(sample.size, short_side, long_side) for sample in self.samples]  # (h, w) of each
        self.photos: dict[int, ResizedPhoto] = {}
        """Those that are kept, by number."""
        self.instances: list[Instances] = []
        room = int(max_cache_gib * 2**30)
        for number, sample in enumerate(progress(self.samples, len(self.samples), f"{label}: photos")):
            h, w = self.sizes[number]
            self.instances.append(shrink(instances.get(sample.image_id, nothing), sample.size, (h, w)))
            room -= 3 * h * w
            if room >= 0:
                self.photos[number] = self._load(number)

    def __len__(self) -> int:
        return len(self.samples)

    def num_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return sum(-(-len(group) // batch_size) for group in self._groups())

    def epoch(
        self, epoch: int, batch_size: int, augment: AugmentSettings, seed: int, batches_sorted: int = 1
    ) -> Sequence[DetectorBatch]:
        """The batches of one epoch in a shuffled order that follows from ``(seed, epoch)`` alone.

        Upright and wide photos are batched apart, and the photos of ``batches_sorted`` batches after one another are
        sorted by the width of their views before they are divided, so that padding stays small. Where photos must be
        read again, that is done on threads ahead of the step.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        batches: list[list[int]] = []
        for group in self._groups():
            order = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
            if batches_sorted > 1:
                together = batch_size * batches_sorted
                width_first = [self._view_size(number, epoch, augment, seed)[::-1] for number in range(len(self))]
                parts = [order[start : start + together] for start in range(0, len(order), together)]
                order = [number for part in parts for number in sorted(part, key=width_first.__getitem__)]
            batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        shuffled = [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
        num_ahead = 0 if len(self.photos) == len(self.samples) else _BATCHES_AHEAD
        return ReadAhead(shuffled, lambda numbers: self._batch(numbers, epoch, augment, seed), num_ahead)

    def _groups(self) -> list[list[int]]:
        """Numbers of the upright and of the wide photos, without empty groups."""
        upright = [i for i, (h, w) in enumerate(self.sizes) if h > w]
        wide = [i for i, (h, w) in enumerate(self.sizes) if h <= w]
        return [group for group in (upright, wide) if group]

    def _generator(self, number: int, epoch: int, seed: int) -> torch.Generator:
        """What the view of this photo is drawn from."""
        return torch.Generator().manual_seed(derive_seed(seed, self.samples[number].image_id, epoch))

    def _view_size(self, number: int, epoch: int, augment: AugmentSettings, seed: int) -> tuple[int, int]:
        """``(h, w)`` of the view of this photo."""
        return view_size(self.sizes[number], augment, self._generator(number, epoch, seed))

    def _load(self, number: int) -> ResizedPhoto:
        """The photo of this number, read and resized."""
        return load_photo(self.samples[number], self.short_side, self.long_side)

    def _batch(self, indices: Sequence[int], epoch: int, augment: AugmentSettings, seed: int) -> DetectorBatch:
        """The photos of these numbers, each varied by the draw of (seed, image id, epoch)."""
        images, targets = [], []
        for index in indices:
            photo = self.photos[index] if index in self.photos else self._load(index)
            generator = self._generator(index, epoch, seed)
            image, instances, masks = vary(photo.image, self.instances[index], augment, generator)
            images.append(image)
            targets.append(self.target(instances, masks))
        return DetectorBatch(tuple(self.samples[i].image_id for i in indices), images, targets)
