"""Give augmented batches of the training photos with their targets; resized photos are kept as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weaksam.data.read_ahead import ReadAhead
from weaksam.engine.detectors.augmentation import AugmentSettings, vary_image, vary_instances, view_size
from weaksam.engine.detectors.frames import PhotoFrame
from weaksam.engine.detectors.mixing import Mixing, PhotoMixer
from weaksam.engine.detectors.photos import ResizedPhoto, fit_size, load_photo, shrink
from weaksam.engine.seeds import derive_seed
from weaksam.models.detectors.faster_rcnn import target_of
from weaksam.models.ranks import ranks
from weaksam.store.progress import progress
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

PhotoRegions = Mapping[str, Mapping[str, Instances]]
"""Further regions of the photos that the losses are told of: by name, then by image id."""

_BATCHES_AHEAD = 4
"""Batches whose photos are decoded in advance, where they are not kept."""


@dataclass(frozen=True)
class WeakView:
    """A photo, or what was mixed of several, before its view was drawn."""

    image: Tensor
    """uint8 ``(3, h, w)``."""
    tags: Tensor
    """Bool ``(C,)``: the classes that may be where no box is."""
    to_view: Callable[[Tensor], Tensor]
    """Boxes ``(N, 4)`` in its pixels to those in the view, where they may have no area."""


@dataclass(frozen=True)
class DetectorBatch:
    """Photos as float ``(3, h, w)`` in 0..1, their targets (torchvision's, or those of the detector) and ids.

    Where several processes compute a step, ``images``, ``targets``, ``sizes`` and ``seeds`` are of this one's photos.
    """

    image_ids: tuple[str, ...]
    """Of the whole batch."""
    images: list[Tensor]
    """Or, where ``sizes`` are given, what the frozen stages of the backbone make of each (`frozen_map`)."""
    targets: list[dict[str, Tensor]]
    sizes: tuple[tuple[int, int], ...] = ()
    """``(h, w)`` of each photo, of which ``images`` holds frozen maps."""
    canvas: tuple[int, int] = (0, 0)
    """The greatest height and width of the whole batch, which every process pads its photos to."""
    seeds: tuple[int, ...] = ()
    """What the random numbers of each photo's losses follow from; none: the global random numbers."""
    weak_views: tuple[WeakView, ...] = ()
    """The photos before their views were drawn, where a teacher wants them."""
    counts: bool = True
    """Whether the photos are part of the batch; else they only keep a process busy that has none, see `Ranks.share`."""


class TrainingPhotos:
    """The training photos and their instances; resized photos are kept up to ``max_cache_gib``, others read each time.

    A photo without a box and without a tag is a true negative. One with a tag but no box is left out, as nobody knows
    where its object is and training would call that place background; with ``boxless_as_background`` it is taught as
    background all the same. Regions to ignore (``crowd``) are no boxes. ``label`` names the training in the progress;
    ``target`` makes a view's instances and masks ``(N, h, w)`` into what the losses are told; beside that every target
    has the photo's ``tags``, bool ``(C,)``, without any for the image ids in ``complete``, which are background where
    they have no box, and for each name in ``regions`` (`PhotoRegions`) its ``<name>_boxes``
    (D, 4) and ``<name>_labels`` (D,) from 0 in the view, without those under a pixel wide or high; D may be 0.

    With ``mixing`` a photo may be shown with objects of others, or with three others in one frame of its size. With
    ``weak_views`` batches hold what was there before the views were drawn.

    With ``frozen``, the backbone's frozen stages (a photo ``(3, h, w)`` to its map on the CPU), batches hold maps
    instead of photos; those of fixed views are kept where ``max_cache_gib`` leaves room, else computed again.
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
        frozen: Callable[[Tensor], Tensor] | None = None,
        regions: PhotoRegions | None = None,
        mixing: Mixing | None = None,
        weak_views: bool = False,
        complete: Collection[str] = (),
    ) -> None:
        self.target, self.weak_views, self.complete = target, weak_views, complete
        self.num_classes = len(dataset.classes)
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
        self.regions = {name: self._shrunk(of_photos) for name, of_photos in (regions or {}).items()}
        room = int(max_cache_gib * 2**30)
        for number, sample in enumerate(progress(self.samples, len(self.samples), f"{label}: photos")):
            h, w = self.sizes[number]
            self.instances.append(shrink(instances.get(sample.image_id, nothing), sample.size, (h, w)))
            room -= 3 * h * w
            if room >= 0:
                self.photos[number] = self._load(number)
        self.mixer = None if mixing is None else self._mixer(mixing)
        self.frozen, self.room = frozen, room
        self.maps: dict[tuple[int, int], Tensor] = {}
        """Kept maps of the frozen stages, by number of the photo and of its view."""

    def _shrunk(self, of_photos: Mapping[str, Instances]) -> list[Instances]:
        """These of every photo, by its number, in its resized frame."""
        framed = zip(self.samples, self.sizes, strict=True)
        return [shrink(of_photos.get(sample.image_id, Instances.empty()), sample.size, size) for sample, size in framed]

    def _mixer(self, mixing: Mixing) -> PhotoMixer:
        """What mixes the frames of these photos."""
        cut_outs = self._shrunk({} if mixing.cut_outs is None else mixing.cut_outs.objects)
        image_ids = [sample.image_id for sample in self.samples]
        tagged = [bool(sample.tags) for sample in self.samples]
        return PhotoMixer(mixing.settings, self.plain_frame, image_ids, tagged, cut_outs)

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

    def _generator(self, number: int, view: int, seed: int) -> torch.Generator:
        """What this view of this photo is drawn from."""
        return torch.Generator().manual_seed(derive_seed(seed, self.samples[number].image_id, view))

    def _view_size(self, number: int, epoch: int, augment: AugmentSettings, seed: int) -> tuple[int, int]:
        """``(h, w)`` of the view of this photo."""
        return view_size(self.sizes[number], augment, self._generator(number, augment.view_in(epoch), seed))

    def _load(self, number: int) -> ResizedPhoto:
        """The photo of this number, read and resized."""
        return load_photo(self.samples[number], self.short_side, self.long_side)

    def _batch(self, numbers: Sequence[int], epoch: int, augment: AugmentSettings, seed: int) -> DetectorBatch:
        """Of the photos of these numbers this process's share, each varied by the draw of (seed, image id, view)."""
        view = augment.view_in(epoch)
        image_ids = tuple(self.samples[number].image_id for number in numbers)
        size_of = {number: self._view_size(number, epoch, augment, seed) for number in numbers}
        canvas = (max(height for height, _ in size_of.values()), max(width for _, width in size_of.values()))
        own, counts = ranks().share(numbers)
        frames = [self._frame(index, view, seed) for index in own]
        targets = [self._target(index, frame, view, augment, seed) for index, frame in zip(own, frames, strict=True)]
        seeds = tuple(derive_seed(seed, self.samples[index].image_id, epoch, "losses") for index in own)
        sizes: tuple[tuple[int, int], ...] = ()
        if self.frozen is None:
            images = [self._image(index, frame, view, augment, seed) for index, frame in zip(own, frames, strict=True)]
        else:
            images = [self._map(index, frame, view, augment, seed) for index, frame in zip(own, frames, strict=True)]
            sizes = tuple(size_of[index] for index in own)
        batch = DetectorBatch(image_ids, images, targets, sizes, canvas, seeds, counts=counts)
        if not self.weak_views:
            return batch
        weak = [self._weak_view(index, frame, view, augment, seed) for index, frame in zip(own, frames, strict=True)]
        return replace(batch, weak_views=tuple(weak))

    def plain_frame(self, index: int) -> PhotoFrame:
        """The photo of this number as it is."""
        tags = torch.zeros(self.num_classes, dtype=torch.bool)
        if self.samples[index].image_id not in self.complete:
            tags[list(self.samples[index].tags)] = True
        regions = {name: of_photos[index] for name, of_photos in self.regions.items()}

        def read() -> Tensor:
            return (self.photos[index] if index in self.photos else self._load(index)).image

        return PhotoFrame(self.sizes[index], read, self.instances[index], regions, tags)

    def _frame(self, index: int, view: int, seed: int) -> PhotoFrame:
        """What this view of this photo is drawn from."""
        return self.plain_frame(index) if self.mixer is None else self.mixer.frame(index, view, seed)

    def _target(
        self, index: int, frame: PhotoFrame, view: int, augment: AugmentSettings, seed: int
    ) -> dict[str, Tensor]:
        """What the losses are told of this view of this photo."""

        def varied(instances: Instances) -> tuple[Instances, Tensor | None]:
            return vary_instances(instances, frame.size, augment, self._generator(index, view, seed))

        target = self.target(*varied(frame.instances)) | {"tags": frame.tags}
        for name, of_photo in frame.regions.items():
            in_view, _ = varied(of_photo)
            in_view = in_view[(in_view.boxes[:, 2:] - in_view.boxes[:, :2] >= 1).all(dim=1)]
            target |= {f"{name}_boxes": in_view.boxes, f"{name}_labels": in_view.labels}
        return target

    def _weak_view(self, index: int, frame: PhotoFrame, view: int, augment: AugmentSettings, seed: int) -> WeakView:
        """The frame of this view of this photo."""

        def to_view(boxes: Tensor) -> Tensor:
            photo = Instances(boxes, torch.zeros(len(boxes), dtype=torch.int64))
            return vary_instances(photo, frame.size, augment, self._generator(index, view, seed))[0].boxes

        return WeakView(frame.read(), frame.tags, to_view)

    def _image(self, index: int, frame: PhotoFrame, view: int, augment: AugmentSettings, seed: int) -> Tensor:
        """This view of this photo ``(3, h, w)``."""
        return vary_image(frame.read(), augment, self._generator(index, view, seed))

    def _map(self, index: int, frame: PhotoFrame, view: int, augment: AugmentSettings, seed: int) -> Tensor:
        """What the frozen stages make of this view; kept where there is room and the view comes again."""
        if (index, view) in self.maps:
            return self.maps[index, view]
        assert self.frozen is not None
        frozen_map = self.frozen(self._image(index, frame, view, augment, seed))
        if augment.fixed_views is not None and self.room >= frozen_map.nbytes:
            self.room -= frozen_map.nbytes
            self.maps[index, view] = frozen_map
        return frozen_map
