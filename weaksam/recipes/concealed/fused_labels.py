"""Let a frozen segmenter turn the weak labels of each photo into a fused map, and keep the maps in a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from weaksam.config import UserError, fingerprint_of
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.data.sample_photos import read_photo, rows_reading_ahead
from weaksam.engine.seeds import derive_seed
from weaksam.recipes.concealed.photos import ConcealedPhotos
from weaksam.recipes.concealed.settings import FusedLabelSettings
from weaksam.sam.batches import BatchLimit
from weaksam.sam.ensemble import LabelPool, Uncertainty, fused_maps, masks_of_points, viewed
from weaksam.sam.flipped_views import FlippedView, draw_views
from weaksam.sam.prompts import BACKGROUND, FOREGROUND, PADDING, Prompts
from weaksam.sam.protocol import Embedding, Segmenter
from weaksam.store.store import Store, store_folder
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask

STAGE = "concealed labels"
PSEUDO_GT = Path("pseudo_gt/train.json")
"""Pseudo boxes below the folder of a run, as COCO JSON."""
COLUMNS = {"levels": "floats", "rles": "rles"}
"""The values above 0 in a fused map, rising, and of each the pixels that have at least it."""


def make_fused_labels(
    out: Path,
    photos: ConcealedPhotos,
    segmenter: Segmenter,
    settings: FusedLabelSettings,
    seed: int,
    boxes: Mapping[str, Tensor] | None = None,
) -> Store:
    """The sealed store of one fused map for each photo; all zero where nothing prompts.

    ``boxes``: those that prompt, ``(N, 4)`` by image id, for ``settings.prompt=boxes``. Views and points follow from
    (seed, image id); limits and weights have no part in the store, see `FusedLabelSettings`.
    """
    given = None if boxes is None else {image_id: of_photo.tolist() for image_id, of_photo in boxes.items()}
    fingerprint = fingerprint_of(
        {
            "stage": STAGE,
            "settings": settings.model_copy(update={"run": None}),
            "segmenter": segmenter.fingerprint,
            "photos": photos.fingerprint,
            "boxes": given,
            "seed": seed,
        }
    )
    folder = store_folder(out, "labels", "fused", fingerprint)
    store = Store(folder, stage=STAGE, fingerprint=fingerprint, image_ids=photos.image_ids, columns=COLUMNS)
    limit = BatchLimit(4, "views")

    def row(image_id: str) -> Mapping[str, Any]:
        image = read_photo(photos.dataset.by_id[image_id])
        of_photo = None if boxes is None else boxes.get(image_id, torch.zeros(0, 4))
        source = PromptSource(photos.labels(image_id), settings, of_photo)
        return level_sets(fused_label(segmenter, image, source, settings, derive_seed(seed, STAGE, image_id), limit))

    return store.fill_parts(rows_reading_ahead(photos.dataset, row), "concealed: labels by the segmenter")


@dataclass(frozen=True)
class PromptSource:
    """What prompts on one photo: ``labels`` int8 ``(H, W)`` in {1, 0, -1}, or ``boxes (N, 4)`` where they are given."""

    labels: Tensor
    settings: FusedLabelSettings
    boxes: Tensor | None = None

    def prompts(self, generator: torch.Generator) -> Prompts:
        """P prompts in photo pixels, points drawn by ``generator``; P = 0 where nothing is labelled as foreground."""
        if self.boxes is not None:
            return Prompts(boxes=self.boxes)
        objects = [_places(part) for part in self._objects()]
        background, num = _places(self.labels == 0), self.settings.num_points
        rows = [(_drawn(places, num, generator), _drawn(background, num, generator)) for places in objects]
        points = torch.zeros(len(rows), 2 * num, 2)
        kinds = torch.full((len(rows), 2 * num), PADDING)
        for row, (inside, outside) in enumerate(rows):
            together = torch.cat([inside, outside])
            points[row, : len(together)] = together
            kinds[row, : len(inside)], kinds[row, len(inside) : len(together)] = FOREGROUND, BACKGROUND
        return Prompts(points, kinds)

    def _objects(self) -> list[Tensor]:
        """Bool ``(H, W)`` of the labelled pixels of each prompt: connected strokes, or all points together."""
        inside = self.labels == 1
        if self.settings.prompt == "points":
            return [inside] if inside.any() else []
        parts, num_parts = ndimage.label(inside.numpy(), structure=np.ones((3, 3)))
        return [torch.from_numpy(parts == part) for part in range(1, num_parts + 1)]


def _places(inside: Tensor) -> Tensor:
    """Middles ``(N, 2)`` xy of the pixels ``inside`` (H, W) bool."""
    return inside.nonzero().flip(1).float() + 0.5


def _drawn(places: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """At most ``num`` of ``places`` (N, 2), drawn without putting back."""
    return places[torch.randperm(len(places), generator=generator)[:num]]


def fused_label(
    segmenter: Segmenter,
    image: np.ndarray,
    source: PromptSource,
    settings: FusedLabelSettings,
    seed: int,
    limit: BatchLimit,
) -> Tensor:
    """The fused map ``(H, W)`` in [0, 1] of one photo: the share of views in which a prompt's mask has the pixel.

    Of several draws the mean of the best, see `LabelPool`. Zeros where nothing prompts.
    """
    generator = torch.Generator().manual_seed(seed)
    size = (image.shape[0], image.shape[1])
    if len(source.prompts(generator)) == 0:
        return torch.zeros(size)

    def answer(embedding: Embedding, view: FlippedView) -> Tensor:
        prompts = viewed(source.prompts(generator), view, size)
        return masks_of_points(segmenter, embedding, prompts).any(dim=0, keepdim=True)

    pool = LabelPool(settings.pool, settings.relative_to)
    for _ in range(settings.draws):
        views = draw_views(settings.views, generator) if settings.views else [FlippedView()]
        pool.add(fused_maps(segmenter, image, views, answer, limit)[0])
    return pool.fused()


def level_sets(fused: Tensor) -> dict[str, Any]:
    """A map ``(H, W)`` in [0, 1] of few values as rows of the store hold it, see `COLUMNS`."""
    levels = fused.unique()
    levels = levels[levels > 0]
    return {"levels": levels, "rles": [rle_from_mask(fused >= level) for level in levels]}


def map_of_levels(levels: Tensor, rles: Sequence[Rle], size: tuple[int, int]) -> Tensor:
    """The map float32 ``(H, W)`` that `level_sets` took apart."""
    fused = torch.zeros(size)
    for level, rle in zip(levels.tolist(), rles, strict=True):
        fused[mask_from_rle(rle)] = level
    return fused


def stored_map(store: Store, photos: ConcealedPhotos, image_id: str) -> Tensor:
    """The fused map ``(H, W)`` of a photo in a sealed store."""
    row = store.read(image_id)
    return map_of_levels(row["levels"], row["rles"], photos.dataset.by_id[image_id].size)


def kept_photos(uncertain: Mapping[str, Uncertainty], settings: FusedLabelSettings) -> tuple[str, ...]:
    """Ids of the photos that train, in order: all whose map is certain enough.

    Raises `UserError` where none is left.
    """
    if not settings.select:
        return tuple(uncertain)
    limits = (settings.max_absolute, settings.max_relative)
    kept = tuple(image_id for image_id, of_photo in uncertain.items() if of_photo.kept(*limits))
    if not kept:
        least = min(uncertain.values(), key=lambda of_photo: of_photo.absolute)
        raise UserError(
            f"wanted photos with an absolute uncertainty below {limits[0]:g} and a relative one below {limits[1]:g}, "
            f"found none of {len(uncertain)} (the most certain has {least.absolute:.3f} and {least.relative:.3f}): "
            "raise labels.max_absolute and labels.max_relative, or set labels.select=false"
        )
    return kept


def boxes_of_run(run: Path, images: Path) -> dict[str, Tensor]:
    """The pseudo boxes ``(N, 4)`` that a run made from tags of the photos in ``images``, by image id, all classes.

    Raises `UserError` where the run has none.
    """
    file = run / PSEUDO_GT
    if not file.is_file():
        raise UserError(
            f"wanted the pseudo boxes of a run at {file}, found none: run 'weaksam pseudo-gt' there first, or set "
            "labels.run to its folder"
        )
    truths = load_dataset(SplitSettings(images=images, truth=file), name="train").truths
    return {image_id: objects.without_crowd().boxes for image_id, objects in truths.items()}


def maps_of(store: Store, photos: ConcealedPhotos) -> Iterator[tuple[str, Tensor]]:
    """Image id and fused map of each photo."""
    for image_id in photos.image_ids:
        yield image_id, stored_map(store, photos, image_id)
