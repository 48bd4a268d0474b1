"""Write the windows of panoramas as photos, and read what a segmenter's masks of them say of the panorama."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weaksam.recipes.panorama.photos import SemanticPhotos
from weaksam.recipes.panorama.rectification import BoundaryMasks, boundary_masks
from weaksam.recipes.panorama.settings import WindowSettings
from weaksam.store.files import atomic_file
from weaksam.store.progress import progress
from weaksam.structures.mask_resizing import full_masks
from weaksam.structures.mask_runs import MaskRuns
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask
from weaksam.structures.panorama_windows import PanoramaWindows
from weaksam.structures.proposals import Proposals

_KEPT = 1024
"""Windows whose boundaries stay in memory."""


class MaskStore(Protocol):
    """Sealed proposals of windows by the window's image id, as the proposal stage writes them."""

    @property
    def fingerprint(self) -> str:
        """Hex of all that decides the masks."""
        ...

    def __getitem__(self, image_id: str) -> Mapping[str, Any]:
        """The row of a window."""
        ...


def window_id(image_id: str, offset: tuple[int, int]) -> str:
    """The image id of the window at ``offset`` (top, left) of a panorama."""
    return f"{image_id}/{offset[0]:05d}_{offset[1]:05d}.png"


def write_windows(photos: SemanticPhotos, settings: WindowSettings, folder: Path) -> None:
    """Write every window of every panorama below ``folder``, by its `window_id`; those that are there stay."""
    windows = settings.windows
    for row in progress(range(len(photos)), len(photos), "windows"):
        image_id, size = photos.dataset.samples[row].image_id, photos.size(row)
        offsets = windows.offsets(size)
        paths = [folder / window_id(image_id, offset) for offset in offsets]
        if all(path.is_file() for path in paths):
            continue
        for path, crop in zip(paths, windows.crops(photos.pixels(row)), strict=True):
            with atomic_file(path) as temporary:
                Image.fromarray(np.ascontiguousarray(crop.permute(1, 2, 0).numpy())).save(temporary, format="PNG")


class WindowMasks:
    """The masks of the windows of panoramas, from a sealed store of proposals.

    ``most``: masks of a window that are used, the best by score.
    """

    def __init__(self, store: MaskStore, photos: SemanticPhotos, settings: WindowSettings, most: int) -> None:
        self.store, self.photos, self.settings, self.most = store, photos, settings, most
        self.boundaries = lru_cache(maxsize=_KEPT)(self._boundaries)

    @property
    def windows(self) -> PanoramaWindows:
        """The windows."""
        return self.settings.windows

    def rles(self, row: int, offset: tuple[int, int]) -> list[Rle]:
        """The masks of a window of panorama ``row``, in the window's pixels; those without a pixel are left out."""
        image_id = window_id(self.photos.dataset.samples[row].image_id, offset)
        proposals = Proposals.from_row(self.store[image_id]).by_score()
        rles, size = list(proposals.rles[: self.most]), self.windows.fitted(self.photos.size(row))
        if rles and proposals.mask_size != size:
            masks = full_masks(torch.stack([mask_from_rle(rle) for rle in rles]), size)
            rles = [rle_from_mask(mask) for mask in masks if bool(mask.any())]
        return rles

    def on_panorama(self, row: int) -> MaskRuns:
        """The masks of all windows of panorama ``row``, on the panorama; N = 0 where there is none."""
        size = self.photos.size(row)
        window = self.windows.fitted(size)
        parts = [
            MaskRuns.of_window(self.rles(row, offset), offset, window, size) for offset in self.windows.offsets(size)
        ]
        return MaskRuns.cat(parts, size)

    def _boundaries(self, row: int, offset: tuple[int, int]) -> BoundaryMasks:
        return boundary_masks(self.rles(row, offset), self.windows.fitted(self.photos.size(row)))


def enlarged(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits ``(n, C, h, w)`` on the pixels of photos of ``size``, bilinearly."""
    return torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
