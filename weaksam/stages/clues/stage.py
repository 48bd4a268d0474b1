"""Write the class maps and peaks of every photo, from whichever source the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from weaksam.engine.context import RunContext
from weaksam.stages.clues.cam import CamSource
from weaksam.stages.clues.files import FilesSource
from weaksam.stages.clues.maps import ClassMaps
from weaksam.stages.clues.peaks import cluster_points, map_peaks
from weaksam.stages.clues.settings import ClueSettings
from weaksam.stages.clues.source import ClueSource
from weaksam.stages.clues.weaktr import WeakTrSource
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.clue_points import (
    CLASSLESS,
    COARSE,
    CROSS,
    FINE,
    KINDS,
    CluePeaks,
    CluePoints,
    KindMapsOf,
    PeaksOf,
)
from weaksam.structures.dataset import Dataset

COLUMNS = {
    "labels": "ints",
    "class_scores": "floats",
    "maps": "floats",
    "map_kinds": "ints",
    "map_size": "ints",
    "points": "floats",
    "point_labels": "ints",
    "point_kinds": "ints",
    "point_scores": "floats",
}
_BEST_FIRST = (FINE, COARSE, CROSS)
"""Which kind of map speaks for a class where later stages want one."""


def build_source(context: RunContext, settings: ClueSettings, dataset: Dataset) -> ClueSource:
    """The source that the settings name, for the photos of ``dataset``."""
    if settings.source == "files":
        return FilesSource(settings, dataset)
    return WeakTrSource(context, settings, dataset) if settings.source == "weaktr" else CamSource(context, settings)


def peaks_of(maps: ClassMaps, settings: ClueSettings) -> CluePeaks:
    """The peaks of a photo's maps, kind by kind as far as ``settings.kinds`` wants them (WeakSAM, Algorithm 1).

    Coarse and fine maps are searched with ``peak_kernel``, cross-attention with ``cross_kernel``. Its many peaks are
    clustered as published, all classes together, so that they speak for none (label -1), or within each class. A
    cluster's height is 1. No map, no peak.
    """
    found = [CluePeaks.none()]
    for name, kind in KINDS.items():
        if name in settings.kinds and kind in maps.kinds:
            points, labels, heights = map_peaks(
                maps.kinds[kind],
                maps.labels,
                maps.frame,
                maps.size,
                kernel=settings.cross_kernel if kind == CROSS else settings.peak_kernel,
                min_value=settings.min_peak,
                max_peaks=settings.max_peaks,
            )
            if kind == CROSS and settings.cross_points != "all":
                points, labels = _clustered(points, labels, per_class=settings.cross_points == "per_class")
                heights = torch.ones(len(points))
            found.append(CluePeaks(points, labels, torch.full((len(points),), kind), heights))
    return CluePeaks(*(torch.cat(column) for column in zip(*found, strict=True)))


def _clustered(points: Tensor, labels: Tensor, *, per_class: bool) -> tuple[Tensor, Tensor]:
    """Cluster centres ``(K, 2)`` of points and the class of each: class by class, or of all together and of none."""
    groups = labels.unique().tolist() if per_class else [CLASSLESS]
    centres = [cluster_points(points[labels == one] if per_class else points) for one in groups]
    owners = [torch.full((len(one),), label) for one, label in zip(centres, groups, strict=True)]
    none = torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    return torch.cat([none[0], *centres]), torch.cat([none[1], *owners])


def run(context: RunContext, settings: ClueSettings, dataset: Dataset, split: str) -> Store:
    """Write maps and peaks of every photo of ``dataset``; sealed. What the source must learn, it learns from
    ``context.train``.

    Columns: ``labels`` (L,) of the mapped classes, ``class_scores`` (C,) probabilities, ``maps`` flattened
    (K, L, h, w) with ``map_kinds`` (K,) and ``map_size`` [h, w], ``points`` flattened (P, 2) xy in photo pixels,
    ``point_labels`` (-1: no class), ``point_kinds`` and ``point_scores`` (P,). A photo without tags gets the classes
    that score high enough. Raises `UserError`.
    """
    source = build_source(context, settings, dataset)
    inputs = {"dataset": dataset.fingerprint, **source.inputs}
    fingerprint = stage_fingerprint("clues", settings.relevant(), inputs)
    folder = store_folder(context.out, "clues", split, fingerprint)
    store = Store(folder, stage="clues", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=COLUMNS)
    if store.sealed:
        return store
    source.prepare(folder, fingerprint)
    return store.fill(lambda image_id: row_of(source.look(dataset, image_id), settings), progress=f"clues ({split})")


def row_of(maps: ClassMaps, settings: ClueSettings) -> dict[str, Any]:
    """The maps of one photo, all of one size, and their peaks, as a row of the store."""
    peaks = peaks_of(maps, settings)
    stored = {kind: maps.stored(kind) for kind in maps.kinds}
    size = next(iter(stored.values())).shape[1:] if stored else (0, 0)
    return {
        "labels": maps.labels,
        "class_scores": maps.scores,
        "maps": torch.cat([torch.zeros(0), *(one.flatten() for one in stored.values())]),
        "map_kinds": torch.tensor(list(stored), dtype=torch.int64),
        "map_size": torch.tensor(size, dtype=torch.int64),
        "points": peaks.points.flatten(),
        "point_labels": peaks.labels,
        "point_kinds": peaks.kinds,
        "point_scores": peaks.heights,
    }


def clue_points(store: Store) -> Callable[[str], CluePoints]:
    """``image_id`` -> the clue points of a sealed clue store."""

    def points_of(image_id: str) -> CluePoints:
        row = store.read(image_id, "points", "point_labels", "point_kinds")
        return CluePoints(row["points"].reshape(-1, 2), row["point_labels"], row["point_kinds"])

    return points_of


def clue_peaks(store: Store) -> PeaksOf:
    """``image_id`` -> the clue points of a sealed clue store with the heights of their peaks."""
    points_of = clue_points(store)
    return lambda image_id: CluePeaks(*points_of(image_id), store.read(image_id, "point_scores")["point_scores"])


def kind_maps(store: Store) -> KindMapsOf:
    """``image_id`` -> labels ``(L,)`` and, for each kind of map, one map of each ``(L, h, w)``, from a sealed store."""

    def maps_of(image_id: str) -> tuple[Tensor, dict[int, Tensor]]:
        row = store.read(image_id, "labels", "maps", "map_kinds", "map_size")
        maps = row["maps"].reshape(len(row["map_kinds"]), len(row["labels"]), *row["map_size"].tolist())
        return row["labels"], dict(zip(row["map_kinds"].tolist(), maps, strict=True))

    return maps_of


def class_maps(store: Store) -> Callable[[str], tuple[Tensor, Tensor]]:
    """``image_id -> (labels (L,), maps (L, h, w))`` from a sealed clue store: fine maps, else coarse, else cross."""
    every = kind_maps(store)

    def maps_of(image_id: str) -> tuple[Tensor, Tensor]:
        labels, kinds = every(image_id)
        best = next((kinds[kind] for kind in _BEST_FIRST if kind in kinds), None)
        return labels, torch.zeros(0, 1, 1) if best is None else best

    return maps_of
