"""Draw and save the maps of test photos, with and without stretching each to 0..1, and measure what was saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from weaksam.evaluation.foreground_maps import stretched
from weaksam.evaluation.map_files import MapReport, measure_pairs
from weaksam.recipes.concealed.photos import ConcealedPhotos
from weaksam.recipes.concealed.predicting import MapPredictor
from weaksam.store.files import atomic_file
from weaksam.store.progress import progress

AS_IS, MIN_MAX = "maps", "maps_min_max"
"""Folders of the saved maps: the network's probabilities, and each map's least value moved to 0, its greatest to 1."""


def save_maps(out: Path, photos: ConcealedPhotos, predictor: MapPredictor) -> None:
    """Write OUT/maps and OUT/maps_min_max: a PNG of 8 bits for each photo, of its size and by its name."""
    for image_id in progress(photos.image_ids, len(photos), "concealed: maps of the test photos"):
        drawn = predictor(photos.image(image_id))
        for folder, values in ((AS_IS, drawn), (MIN_MAX, stretched(drawn))):
            _save(map_file(out / folder, image_id), values)


def map_file(folder: Path, image_id: str) -> Path:
    """Where the map of a photo lies below ``folder``."""
    return folder / PurePosixPath(image_id).with_suffix(".png")


def measure_saved(out: Path, photos: ConcealedPhotos) -> dict[str, MapReport]:
    """The figures of both folders of maps against the photos' true masks; none where there are no masks."""
    if not photos.truth:
        return {}
    return {folder: _measured(out / folder, photos, folder) for folder in (AS_IS, MIN_MAX)}


def _measured(folder: Path, photos: ConcealedPhotos, name: str) -> MapReport:
    def pair(image_id: str) -> tuple[np.ndarray, np.ndarray]:
        with Image.open(map_file(folder, image_id)) as picture:
            return np.asarray(picture) / 255.0, photos.mask(image_id).numpy()

    stretch = name == MIN_MAX  # of 8 bits once more, as eval-maps does
    return measure_pairs(list(photos.image_ids), pair, stretch=stretch, title=f"concealed: figures of {name}")


def label_figures(iou: Mapping[str, float | None], kept: tuple[str, ...]) -> dict[str, Any]:
    """How many photos train and how many are left out, and the mean IoU of the labels of either, where truth is known.

    ``iou``: of each photo's label with its true mask, None where that is not known. A mean over no photo is None.
    """
    inside = set(kept)
    figures: dict[str, Any] = {"kept": len(kept), "dropped": len(iou) - len(kept)}
    if None in iou.values():
        return figures
    for name, chosen in (("kept", inside), ("dropped", set(iou) - inside)):
        values = [iou[image_id] for image_id in chosen]
        figures[f"{name}_iou"] = float(np.mean(values)) if values else None
    return figures


def label_iou(fused: Tensor, truth: Tensor) -> float:
    """IoU in [0, 1] of the pixels above a half of a map with the ``truth``, both ``(H, W)``; both empty is 1."""
    inside = fused > 0.5
    joined = int((inside | truth).sum())
    return int((inside & truth).sum()) / joined if joined else 1.0


def _save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        Image.fromarray((values * 255).round().astype(np.uint8)).save(temporary, format="PNG")
