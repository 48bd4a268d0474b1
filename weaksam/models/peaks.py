"""Find the peaks of a class map: WeakSAM's Algorithm 1, with plateaus that hide nobody."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def find_peaks(class_map: Tensor, *, kernel: int = 17, min_value: float = 0.9, max_peaks: int = 25) -> Tensor:
    """Peaks ``(P, 2)`` as integer (x, y), highest first, of one map ``(H, W)`` stretched to [0, 1].

    A peak equals the maximum of the ``kernel`` x ``kernel`` window around it (``kernel`` odd), reaches ``min_value``
    and is positive. Of a plateau of tied pixels the one nearest its centroid speaks. Walking down, a peak within
    ``kernel / 2`` pixels (Euclidean) of a kept one is dropped (WeakSAM, Algorithm 1). Deviation: the published code
    takes the 25 best *pixels*, so a corner plateau hides every other object; here ``max_peaks`` counts peaks after
    plateaus are merged. A map without a value over 0 has no peak: ``(0, 2)``.
    """
    if kernel % 2 == 0:
        raise ValueError(f"the peak kernel must be odd, found {kernel}: use {kernel + 1}")
    window_max = F.max_pool2d(class_map[None, None].float(), kernel, stride=1, padding=kernel // 2)[0, 0]
    is_peak = (class_map == window_max) & (class_map >= min_value) & (class_map > 0)
    points = _plateau_centres(is_peak.numpy())  # (P, 2) as (y, x)
    values = class_map.numpy()[points[:, 0], points[:, 1]]
    order = np.lexsort((points[:, 1], points[:, 0], -values))
    return torch.from_numpy(_drop_neighbours(points[order], kernel / 2)[:max_peaks, ::-1].copy())


def _plateau_centres(is_peak: np.ndarray) -> np.ndarray:
    """One pixel ``(P, 2)`` as (y, x) of every 8-connected plateau: its pixel nearest the centroid."""
    plateau, count = ndimage.label(is_peak, structure=_EIGHT_NEIGHBOURS)
    centres = []
    for number in range(1, count + 1):
        pixels = np.argwhere(plateau == number)
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
