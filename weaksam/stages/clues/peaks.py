"""Find the peaks of class maps (WeakSAM, Algorithm 1), and cluster those of cross-attention."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from torch import Tensor

from weaksam.stages.clues.maps import ClassMaps, fused_map, min_max
from weaksam.stages.clues.settings import ClueSettings
from weaksam.structures.clue_points import CLASSLESS, COARSE, CROSS, KINDS, CluePeaks

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)
PEAKS_PER_CLUSTER = 5
"""Cross-attention peaks for each of which there is one cluster, as published."""


def photo_peaks(maps: ClassMaps, settings: ClueSettings) -> CluePeaks:
    """The peaks of a photo's maps, kind by kind as far as ``settings.kinds`` wants them (docs/method.md, Clues).

    Coarse and fine maps are searched with ``peak_kernel``, cross-attention with ``cross_kernel``. Its many peaks are
    clustered as published, all classes together, so that they speak for none (label -1), or within each class. A
    cluster's height is 1. Classes whose ``points`` are known have these as coarse peaks of height 1, without a search.
    No map, no peak.
    """
    parts = [CluePeaks.none()]
    searched = torch.tensor([label not in maps.points for label in maps.labels.tolist()], dtype=torch.bool)
    for label, places in maps.points.items():
        column = torch.full((len(places),), label)
        parts.append(CluePeaks(places, column, torch.full_like(column, COARSE), torch.ones(len(places))))
    for name, kind in KINDS.items():
        if name in settings.kinds and kind in maps.kinds:
            points, labels, heights = map_peaks(
                [scale[:, searched] for scale in maps.kinds[kind]],
                maps.labels[searched],
                maps.frame,
                maps.size,
                kernel=settings.cross_kernel if kind == CROSS else settings.peak_kernel,
                min_value=settings.min_peak,
                max_peaks=settings.max_peaks,
            )
            if kind == CROSS and settings.cross_points != "all":
                points, labels = _clustered(points, labels, per_class=settings.cross_points == "per_class")
                heights = torch.ones(len(points))
            parts.append(CluePeaks(points, labels, torch.full((len(points),), kind), heights))
    return CluePeaks(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _clustered(points: Tensor, labels: Tensor, *, per_class: bool) -> tuple[Tensor, Tensor]:
    """Cluster centres ``(K, 2)`` of points and the class of each: class by class, or of all together and of none."""
    groups = labels.unique().tolist() if per_class else [CLASSLESS]
    centres, owners = [torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.int64)]
    for label in groups:
        centres.append(cluster_points(points[labels == label] if per_class else points))
        owners.append(torch.full((len(centres[-1]),), label))
    return torch.cat(centres), torch.cat(owners)


def find_peaks(class_map: Tensor, *, kernel: int = 17, min_value: float = 0.9, max_peaks: int = 25) -> Tensor:
    """Peaks ``(P, 2)`` as integer (x, y), highest first, of one map ``(H, W)`` stretched to [0, 1].

    A peak equals the maximum of the ``kernel`` x ``kernel`` window around it (``kernel`` odd), reaches ``min_value``
    and is positive. Of a plateau of tied pixels the one nearest its centroid stays. Walking down, a peak within
    ``kernel / 2`` pixels (Euclidean) of a kept one is dropped (WeakSAM, Zhu et al., ACM MM 2024, Algorithm 1).
    Deviation: the published code takes the 25 best *pixels*, so a corner plateau hides every other object; here
    ``max_peaks`` counts peaks after plateaus are merged. A map without a value over 0 has no peak: ``(0, 2)``.
    """
    if kernel % 2 == 0:
        raise ValueError(f"the peak kernel must be odd, found {kernel}: use {kernel + 1}")
    values = class_map.float().numpy()
    is_peak = (values == _window_maximum(values, kernel)) & (values >= min_value) & (values > 0)
    points = _plateau_centres(is_peak)  # (P, 2) as (y, x)
    heights = values[points[:, 0], points[:, 1]]
    order = np.lexsort((points[:, 1], points[:, 0], -heights))
    return torch.from_numpy(_drop_neighbours(points[order], kernel / 2)[:max_peaks, ::-1].copy())


def map_peaks(
    scales: Sequence[Tensor],
    labels: Tensor,
    frame: tuple[int, int],
    size: tuple[int, int],
    *,
    kernel: int,
    min_value: float,
    max_peaks: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Peaks of the maps of classes ``labels`` (L,): points ``(P, 2)``, their labels and heights ``(P,)``.

    ``scales`` holds one ``(N, L, h, w)`` for each scale of the photo: N maps of every class (1 of a CAM, one for each
    head and layer of attention), each a source of peaks of its own. A map is fused over the scales in the search
    ``frame`` (H', W'), stretched to [0, 1] and searched; points are xy in a photo of ``size`` (H, W), at pixel centres.
    By class, then by map. No class: no point.
    """
    points, owners, heights = [torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    to_photo = torch.tensor([size[1] / frame[1], size[0] / frame[0]])
    for row, label in enumerate(labels):
        for number in range(len(scales[0])):
            class_map = min_max(fused_map([maps[number, row] for maps in scales], frame))  # (H', W')
            peaks = find_peaks(class_map, kernel=kernel, min_value=min_value, max_peaks=max_peaks)
            heights.append(class_map[peaks[:, 1], peaks[:, 0]])
            points.append((peaks + 0.5) * to_photo)
            owners.append(label.repeat(len(peaks)))
    return torch.cat(points), torch.cat(owners), torch.cat(heights)


def cluster_points(points: Tensor, *, seed: int = 0) -> Tensor:
    """Centres ``(K, 2)`` of ``points`` (P, 2) by k-means with k = max(1, P // 5), by x then y; no point gives none.

    k-means++ with one start and seed 0, as in WeakSAM's released code (docs/method.md, Clues). Deviations: centres keep
    their fraction instead of being cut to whole pixels, coinciding points never ask for more clusters than there are
    places, and a photo without points gets none instead of a made-up one at (100, 100).
    """
    data = points.numpy().astype(np.float64)
    num_places = len(np.unique(data, axis=0))
    if num_places == 0:
        return points.new_zeros(0, 2)
    count = min(max(1, len(points) // PEAKS_PER_CLUSTER), num_places)
    # The same peaks in another order are the same clusters
    data = data[np.lexsort(data.T[::-1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster that ends empty is left out below
        starts = _spread_starts(data, count, np.random.default_rng(seed))
        centres, owner = kmeans2(data, starts, iter=50, minit="matrix")
    kept = centres[np.unique(owner)]
    return torch.from_numpy(kept[np.lexsort(kept.T[::-1])]).to(points.dtype)


def _spread_starts(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` of the ``points`` (P, 2), each drawn by its squared distance from those before it (k-means++)."""
    chosen = [points[rng.integers(len(points))]]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.square(points - chosen[-1]).sum(axis=1))
        chosen.append(points[rng.choice(len(points), p=nearest / nearest.sum())])
    return np.array(chosen)


def _window_maximum(values: np.ndarray, kernel: int) -> np.ndarray:
    """The maximum of the ``kernel`` x ``kernel`` window around each pixel: along rows, then columns, any size alike."""
    for axis in (0, 1):
        values = ndimage.maximum_filter1d(values, kernel, axis=axis, mode="constant", cval=-np.inf)
    return values


def _plateau_centres(is_peak: np.ndarray) -> np.ndarray:
    """One pixel ``(P, 2)`` as (y, x) of every 8-connected plateau: its pixel nearest the centroid."""
    plateau, _ = ndimage.label(is_peak, structure=_EIGHT_NEIGHBOURS)
    centres = []
    for number, window in enumerate(ndimage.find_objects(plateau), start=1):
        pixels = np.argwhere(plateau[window] == number) + np.array([window[0].start, window[1].start])
        distance = np.square(pixels - pixels.mean(axis=0)).sum(axis=1)
        centres.append(pixels[distance.argmin()])
    return np.array(centres, dtype=np.int64).reshape(-1, 2)


def _drop_neighbours(points: np.ndarray, radius: float) -> np.ndarray:
    """``points`` (P, 2) in order, without those within ``radius`` of an earlier kept one."""
    kept: list[np.ndarray] = []
    for point in points:
        if all(np.square(point - other).sum() > radius**2 for other in kept):
            kept.append(point)
    return np.array(kept, dtype=np.int64).reshape(-1, 2)
