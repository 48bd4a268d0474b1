"""Make random views of photos for training WeakTr: crops, colours and gaps, each from (seed, photo, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as T
from torchvision.transforms.v2 import functional as TF

from weaksam.config import Settings
from weaksam.data.sample_photos import read_photo
from weaksam.engine.seeds import derive_seed
from weaksam.models.backbones.colours import IMAGENET
from weaksam.models.backbones.inputs import normalise
from weaksam.models.ranks import ranks
from weaksam.structures.dataset import Sample

_BICUBIC = InterpolationMode.BICUBIC
_MAX_KEPT_BYTES = 2 * 2**30
"""Room for photos that are kept between epochs."""


class WeakTrViewSettings(Settings):
    """How photos are varied for training; the defaults are DeiT's, which WeakTr uses."""

    smallest_crop: float = Field(0.08, gt=0, le=1, description="least share of the photo's area in a crop")
    flip: bool = Field(True, description="mirror half of the views")
    operations: int = Field(2, ge=0, description="RandAugment: changes of a view, each made half of the time")
    magnitude: float = Field(9, ge=0, le=10, description="RandAugment: mean strength of a change, 0 to 10")
    magnitude_spread: float = Field(0.5, ge=0, description="RandAugment: deviation of the strength")
    colour_jitter: float = Field(0.4, ge=0, lt=1, description="brightness, contrast, saturation; only if operations=0")
    erase: float = Field(0.25, ge=0, le=1, description="chance that a rectangle of a view becomes noise")


class ViewBatch(NamedTuple):
    """Views of B photos: normalised ``pixels (B, 3, S, S)``, ``tags (B, C)`` in {0, 1} and the photos' ids.

    Where several processes compute a step, pixels, tags and seeds are of this one's photos.
    """

    pixels: Tensor
    tags: Tensor
    image_ids: tuple[str, ...]
    """Of the whole batch."""
    seeds: tuple[int, ...] = ()
    """What the random numbers of each photo's step follow from."""
    counts: bool = True
    """Whether the photos are part of the batch, see `Ranks.share`."""


def vary_photo(photo: Tensor, size: int, settings: WeakTrViewSettings) -> Tensor:
    """One random view, normalised ``(3, size, size)``, of a uint8 photo ``(3, H, W)``; draws from torch's randomness.

    DeiT's recipe: a crop of random area and shape (bicubic), a flip, RandAugment, random erasing by noise. Deviation:
    the changes are torchvision's, which lack timm's inversion and its added solarisation and turn and shear bilinearly.
    """
    view = T.RandomResizedCrop(size, (settings.smallest_crop, 1.0), interpolation=_BICUBIC, antialias=True)(photo)
    if settings.flip:
        view = T.RandomHorizontalFlip()(view)
    for _ in range(settings.operations):
        strength = settings.magnitude + settings.magnitude_spread * float(torch.randn(()))
        if torch.rand(()) < 0.5:
            level = min(30, max(0, round(3 * strength)))
            view = T.RandAugment(1, level, interpolation=InterpolationMode.BILINEAR, fill=127)(view)
    if settings.operations == 0 and settings.colour_jitter:
        view = T.ColorJitter(*(settings.colour_jitter,) * 3)(view)
    return T.RandomErasing(settings.erase, (0.02, 1 / 3), value="random")(normalise(view, IMAGENET))


def whole_photo(photo: Tensor, size: int) -> Tensor:
    """The whole uint8 photo ``(3, H, W)`` stretched to a normalised ``(3, size, size)``: the view that is scored."""
    return normalise(TF.resize(photo, [size, size], interpolation=_BICUBIC, antialias=True), IMAGENET)


class TaggedViews(torch.utils.data.Dataset[tuple[Tensor, Tensor, str]]):
    """Batches of views of ``samples`` with their tags ``(N, C)``; shrunk photos are kept in memory where they fit.

    ``workers`` processes make them, 0 for none; the views do not depend on it.
    """

    def __init__(
        self, samples: Sequence[Sample], tags: Tensor, size: int, settings: WeakTrViewSettings, seed: int, workers: int
    ) -> None:
        self.samples, self.tags, self.size, self.settings = samples, tags, size, settings
        self.seed, self.workers = seed, workers
        self._kept: dict[int, Tensor] = {}
        self._bytes_left = 0 if workers else _MAX_KEPT_BYTES

    def __len__(self) -> int:
        return len(self.samples)

    def num_batches(self, batch_size: int) -> int:
        """Batches of an epoch; photos that fill no batch are left out, unless there is no full batch."""
        return max(1, len(self) // batch_size)

    def varied(self, epoch: int, batch_size: int) -> Iterator[ViewBatch]:
        """The random views of an epoch, in an order that follows from (seed, epoch)."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "tag order", epoch))
        order = torch.randperm(len(self), generator=generator).split(batch_size)
        parts = [part.tolist() for part in order[: self.num_batches(batch_size)]]
        shares = [ranks().share(part) for part in parts]
        batches = self._batches([[(i, epoch) for i in own] for own, _ in shares])
        for batch, part, (_, counts) in zip(batches, parts, shares, strict=True):
            seeds = tuple(derive_seed(self.seed, image_id, epoch, "losses") for image_id in batch.image_ids)
            yield batch._replace(image_ids=tuple(self.samples[i].image_id for i in part), seeds=seeds, counts=counts)

    def whole(self, batch_size: int) -> Iterator[ViewBatch]:
        """Every photo once, whole and unvaried, in order."""
        return self._batches([[(i, None) for i in part.tolist()] for part in torch.arange(len(self)).split(batch_size)])

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[Tensor, Tensor, str]:
        """Pixels ``(3, S, S)``, tags ``(C,)`` and id of photo ``key[0]``: its view of epoch ``key[1]``, else whole."""
        index, epoch = key
        sample, photo = self.samples[index], self._photo(index)
        if epoch is None:
            return whole_photo(photo, self.size), self.tags[index], sample.image_id
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, sample.image_id, epoch))
            return vary_photo(photo, self.size, self.settings), self.tags[index], sample.image_id

    def _photo(self, index: int) -> Tensor:
        """The photo ``(3, H, W)`` uint8, shrunk so that its shorter side is at most twice the view's."""
        if index in self._kept:
            return self._kept[index]
        photo = torch.from_numpy(read_photo(self.samples[index])).permute(2, 0, 1)
        if min(photo.shape[1:]) > 2 * self.size:
            photo = TF.resize(photo, [2 * self.size], interpolation=_BICUBIC, antialias=True)
        photo = photo.contiguous()
        if photo.numel() <= self._bytes_left:
            self._bytes_left -= photo.numel()
            self._kept[index] = photo
        return photo

    def _batches(self, keys: list[list[tuple[int, int | None]]]) -> Iterator[ViewBatch]:
        """Batches of the items at ``keys``; the loader's own generator keeps it from drawing on the global one."""
        options: dict[str, Any] = {"num_workers": self.workers, "collate_fn": _collate}
        return iter(DataLoader(self, batch_sampler=keys, generator=torch.Generator(), **options))


def _collate(items: list[tuple[Tensor, Tensor, str]]) -> ViewBatch:
    pixels, tags, image_ids = zip(*items, strict=True)
    return ViewBatch(torch.stack(pixels), torch.stack(tags), image_ids)
