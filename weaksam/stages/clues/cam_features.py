"""Read the deepest feature maps of a photo, at several scales and mirrored, from a frozen CNN."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from weaksam.data.sample_photos import read_photo
from weaksam.models.backbones.colours import ColourSettings
from weaksam.models.backbones.inputs import input_photo
from weaksam.stages.clues.maps import both_views
from weaksam.stages.clues.settings import ClueSettings
from weaksam.structures.dataset import Dataset

_MAX_KEPT_BYTES = 3 * 2**29
"""Room for the maps that are kept between the two readings of a photo."""


class FeatureMaps(NamedTuple):
    """The deepest feature maps of one photo.

    ``maps`` holds for each scale those of its views, each ``(D, h, w)`` float16: the photo's, and its mirror image's
    turned back where that was asked for. ``frame`` is the (H, W) of the network's first input, ``size`` the photo's.
    """

    maps: tuple[tuple[Tensor, ...], ...]
    frame: tuple[int, int]
    size: tuple[int, int]


class FeatureReader:
    """Computes the feature maps of photos; those that will be read again are kept where memory allows."""

    def __init__(
        self, network: nn.Module, colours: ColourSettings, map_name: str, device: torch.device, settings: ClueSettings
    ) -> None:
        """``network`` sees photos in ``colours`` and gives maps by name, of which ``map_name`` is read."""
        self.network, self.colours, self.map_name = network.to(device), colours, map_name
        self.device, self.settings = device, settings
        self._kept: dict[str, FeatureMaps] = {}
        self._bytes_left = _MAX_KEPT_BYTES

    def read(self, dataset: Dataset, image_id: str, again: bool = False) -> FeatureMaps:
        """The feature maps of one photo; ``again``: they will be read once more."""
        key = dataset.by_id[image_id].sha256 or image_id
        if key in self._kept:
            return self._kept.pop(key)
        features = self._compute(dataset, image_id)
        num_bytes = sum(view.numel() * view.element_size() for views in features.maps for view in views)
        if again and num_bytes <= self._bytes_left:
            self._bytes_left -= num_bytes
            self._kept[key] = features
        return features

    @torch.inference_mode()
    def _compute(self, dataset: Dataset, image_id: str) -> FeatureMaps:
        image = read_photo(dataset.by_id[image_id])
        sides = [round(self.settings.long_side * scale) for scale in self.settings.view_scales]
        inputs = [input_photo(image, side, self.colours) for side in sides]
        maps = []
        for pixels in inputs:
            views = (both_views(pixels) if self.settings.flip else pixels).to(self.device)
            outputs = self.network(views.to(memory_format=torch.channels_last))
            first, *mirrored = outputs[self.map_name].float().cpu()
            maps.append((first.half(), *(view.flip(2).half() for view in mirrored)))
        return FeatureMaps(tuple(maps), (inputs[0].shape[2], inputs[0].shape[3]), (image.shape[0], image.shape[1]))


def pool_views(views: tuple[Tensor, ...]) -> Tensor:
    """Mean of each of V views' maps ``(D, h, w)`` over its positions: ``(V, D)``."""
    return torch.stack([view.float().mean(dim=(1, 2)) for view in views])
