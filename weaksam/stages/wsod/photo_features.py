"""Compute and keep the frozen feature maps of photos and their mirror images, in a few principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam.data.sample_photos import read_photo, reading_ahead
from weaksam.engine.context import RunContext
from weaksam.models.backbones.colours import ColourSettings
from weaksam.models.backbones.features import FeatureExtractor, build_features
from weaksam.models.backbones.inputs import input_photo
from weaksam.models.backbones.weights import input_colours
from weaksam.models.roi.align import numbered, roi_align
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.store.progress import progress
from weaksam.structures.boxes import hflip, scale
from weaksam.structures.dataset import Dataset, Sample


@dataclass(frozen=True)
class View:
    """One view of a photo: ``features`` (K, h, w) float16, ``scale`` (x, y) from photo to input, mirrored or not."""

    features: Tensor
    scale: tuple[float, float]
    mirrored: bool

    def cells(self, boxes: Tensor, width: int, stride: int) -> Tensor:
        """Photo boxes ``(N, 4)`` as cells of the map; mirrored with it, ``width`` being the photo's."""
        shown = hflip(boxes, width) if self.mirrored else boxes
        return scale(shown, self.scale[0] / stride, self.scale[1] / stride)


@dataclass(frozen=True)
class Projection:
    """Principal components of features: ``weight`` (K, D), ``mean`` (D,); projected features have mean variance 1."""

    weight: Tensor
    mean: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """``(B, D, h, w)`` to ``(B, K, h, w)``."""
        return torch.einsum("kd,bdhw->bkhw", self.weight, features - self.mean[:, None, None])


def principal_projection(positions: Tensor, num_components: int) -> Projection:
    """The ``num_components`` strongest principal directions of features ``(P, D)`` at P positions, at most D.

    Components keep their relative strength (no whitening, which would lift noise); their signs are fixed by the
    largest entry, so that the result is one and the same.
    """
    mean = positions.mean(dim=0)
    covariance = torch.cov(positions.double().T, correction=0).reshape(positions.shape[1], -1)
    strength, directions = torch.linalg.eigh(covariance)  # ascending
    chosen = directions.flip(1)[:, :num_components].T  # (K, D)
    largest = chosen.abs().argmax(dim=1, keepdim=True)
    chosen = chosen * chosen.gather(1, largest).sign()
    spread = strength.flip(0)[:num_components].clamp(min=0).mean().sqrt() + 1e-12
    return Projection((chosen / spread).float(), mean)


class PhotoFeatures:
    """The frozen network's maps of photos and their mirror images, computed once where ``max_cache_gib`` allows it.

    Every source map is brought to unit length at each position before they are joined, so that neither its scale nor
    its depth decides; the joined map is then reduced by ``projection`` (set by `fit_projection` or `set_projection`).
    """

    def __init__(
        self,
        network: FeatureExtractor,
        colours: ColourSettings,
        long_side: int,
        device: torch.device,
        max_cache_gib: float = 2.0,
    ) -> None:
        self.network, self.colours, self.long_side, self.device = network, colours, long_side, device
        self.stride = list(network.strides.values())[-1]
        self.room = int(max_cache_gib * 2**30)
        self.cache: dict[str, tuple[View, View]] = {}
        self.regions: dict[str, tuple[Tensor, int, Tensor]] = {}
        self.projection: Projection | None = None

    def fit_projection(self, dataset: Dataset, num_components: int, num_photos: int = 64) -> Projection:
        """Set and return the projection from at most ``num_photos`` photos, evenly spaced in the dataset's order."""
        samples = list(dataset)[:: -(-len(dataset) // num_photos)]
        positions = []
        with reading_ahead(samples):
            for sample in progress(samples, len(samples), "reading feature statistics"):
                joined, _ = self._joined(read_photo(sample))
                positions.append(joined[0].flatten(1).T.cpu())
        self.projection = principal_projection(torch.cat(positions), num_components)
        return self.projection

    def views(self, sample: Sample) -> tuple[View, View]:
        """The photo's view and its mirror image's."""
        key = sample.sha256 or sample.image_id
        views = self.cache.get(key)
        if views is None:
            views = self.views_of(read_photo(sample))
            size = sum(view.features.numel() * view.features.element_size() for view in views)
            if size <= self.room:
                self.room -= size
                self.cache[key] = views
        return views

    @torch.no_grad()
    def pooled(self, sample: Sample, boxes: Tensor, roi_size: int) -> Tensor:
        """Features ``(2, R, K * roi_size^2)`` float16 of photo boxes (R, 4), in the photo and in its mirror image.

        RoIAlign, ``roi_size`` cells a side. Frozen features of boxes that do not move are computed once, too, where
        there is room.
        """
        key = sample.sha256 or sample.image_id
        known = self.regions.get(key)
        if known is not None and known[1] == roi_size and torch.equal(known[0], boxes):
            return known[2]
        both = self.pool(self.views(sample), boxes, sample.size[1], roi_size)
        size = both.numel() * both.element_size()
        if size <= self.room and known is None:
            self.room -= size
            self.regions[key] = (boxes, roi_size, both)
        return both

    @torch.no_grad()
    def pool(self, views: tuple[View, View], boxes: Tensor, width: int, roi_size: int) -> Tensor:
        """What `pooled` gives, of a photo's two ``views``; the photo is ``width`` pixels wide."""
        pooled = []
        for view in views:
            cells = view.cells(boxes, width, self.stride).to(self.device)
            rois = roi_align(view.features[None].to(cells), numbered([cells]), scale=1.0, size=roi_size)
            pooled.append(rois.flatten(1).half())
        return torch.stack(pooled)

    @torch.no_grad()
    def views_of(self, image: np.ndarray) -> tuple[View, View]:
        """The views of a photo, uint8 RGB ``(H, W, 3)``; nothing of it is kept."""
        assert self.projection is not None, "fit_projection or set the projection first"
        joined, scale = self._joined(image)
        reduced = self.projection(joined.cpu()).half()
        return View(reduced[0].clone(), scale, False), View(reduced[1].clone(), scale, True)

    @torch.no_grad()
    def _joined(self, image: np.ndarray) -> tuple[Tensor, tuple[float, float]]:
        """Joined maps ``(2, D, h, w)`` of the photo and its mirror image, and the (x, y) scale from photo to input."""
        pixels = input_photo(image, self.long_side, self.colours).to(self.device)
        both = torch.cat([pixels, pixels.flip(3)]).to(memory_format=torch.channels_last)
        maps = list(self.network(both).values())
        size = maps[-1].shape[-2:]
        pooled = [item if item.shape[-2:] == size else F.adaptive_avg_pool2d(item, size) for item in maps]
        joined = torch.cat([F.normalize(item.float(), dim=1) for item in pooled], dim=1)
        return joined.contiguous(), (pixels.shape[3] / image.shape[1], pixels.shape[2] / image.shape[0])


def unread_features(context: RunContext, settings: WsodSettings) -> PhotoFeatures:
    """Frozen features of the run's backbone, none computed yet."""
    network = build_features(context.backbone).to(context.device)
    colours = input_colours(context.backbone)
    return PhotoFeatures(network, colours, settings.long_side, context.device, settings.max_cache_gib)
