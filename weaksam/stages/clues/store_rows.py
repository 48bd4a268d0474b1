"""Turn the maps and peaks of a photo into a row of a clue store, and read them from a sealed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from weaksam.stages.clues.maps import ClassMaps
from weaksam.store.store import Store
from weaksam.structures.clue_points import COARSE, CROSS, FINE, CluePeaks, CluePoints, KindMapsOf, PeaksOf

CLUE_COLUMNS = {
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
"""Columns of a clue store.

``labels`` (L,) of the mapped classes, ``class_scores`` (C,) probabilities, ``maps`` (K, L, h, w) flattened with
``map_kinds`` (K,) and ``map_size`` [h, w], ``points`` (P, 2) flattened, xy in photo pixels, ``point_labels`` (P,) (-1:
no class), ``point_kinds`` (P,) and ``point_scores`` (P,), the heights of the peaks.
"""
_BEST_FIRST = (FINE, COARSE, CROSS)
"""Which kind of map speaks for a class where later stages want one."""


def clue_row(maps: ClassMaps, peaks: CluePeaks) -> dict[str, Any]:
    """The maps of one photo, all of one size, and their peaks, as a row of the store."""
    stored = {kind: maps.stored(kind) for kind in maps.kinds}
    size = next(iter(stored.values())).shape[1:] if stored else (0, 0)
    return {
        "labels": maps.labels,
        "class_scores": maps.scores,
        "maps": torch.cat([torch.zeros(0), *(kind_maps.flatten() for kind_maps in stored.values())]),
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
    kind_maps_of = kind_maps(store)

    def maps_of(image_id: str) -> tuple[Tensor, Tensor]:
        labels, kinds = kind_maps_of(image_id)
        best = next((kinds[kind] for kind in _BEST_FIRST if kind in kinds), None)
        return (labels[:0], torch.zeros(0, 1, 1)) if best is None else (labels, best)

    return maps_of
