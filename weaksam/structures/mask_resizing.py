"""Enlarge masks of a working frame to their photo, computing no pixel that lies far from the mask."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class _LineSamples(NamedTuple):
    """Which cells of a line the pixels of a longer or shorter line lie between, and with which weights, ``(to,)``."""

    first: np.ndarray
    second: np.ndarray
    near: np.ndarray
    far: np.ndarray


def full_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool masks ``(N, h, w)`` of a working frame resized to the photo: bool ``(N, H, W)``, edges interpolated.

    As torch interpolates (bilinear, a half or more is inside), up to float rounding at a half; on a CPU only what lies
    around the mask is computed.
    """
    if len(masks) == 0 or masks.shape[-2:] == size:
        return masks.new_zeros((0, *size)) if len(masks) == 0 else masks
    if masks.device.type != "cpu":
        soft = F.interpolate(masks[:, None].float(), size=size, mode="bilinear", align_corners=False)
        return soft[:, 0] >= 0.5
    full = torch.zeros(len(masks), *size, dtype=torch.bool)
    rows, columns = _samples(masks.shape[1], size[0]), _samples(masks.shape[2], size[1])
    for place, mask in zip(full.numpy(), masks.numpy(), strict=True):
        if mask.any():
            _enlarge_into(place, mask, rows, columns)
    return full


def _enlarge_into(place: np.ndarray, mask: np.ndarray, rows: _LineSamples, columns: _LineSamples) -> None:
    """Write ``mask`` (h, w), which is not empty, into ``place`` (H, W), which is."""
    down, across = (_reached(np.asarray(mask.any(axis=axis)), samples) for axis, samples in ((1, rows), (0, columns)))
    if down.start >= down.stop or across.start >= across.stop:  # shrunk, no pixel falls on it
        return
    top = int(rows.first[down.start])
    part = mask[top : int(rows.second[down.stop - 1]) + 1].astype(np.float32)
    wide = part[:, columns.first[across]] * columns.near[across] + part[:, columns.second[across]] * columns.far[across]
    upper, lower = wide[rows.first[down] - top], wide[rows.second[down] - top]
    soft = upper * rows.near[down, None] + lower * rows.far[down, None]
    np.greater_equal(soft, np.float32(0.5), out=place[down, across])


def _reached(hit: np.ndarray, samples: _LineSamples) -> slice:
    """The pixels that any cell from the first to the last one ``hit`` has a part in."""
    cells = hit.nonzero()[0]
    start = np.searchsorted(samples.second, cells[0])
    return slice(int(start), int(np.searchsorted(samples.first, cells[-1], "right")))


@lru_cache(maxsize=256)
def _samples(length: int, to: int) -> _LineSamples:
    """For each of ``to`` pixels the two of ``length`` cells it lies between, centres on centres, as torch has them."""
    half = np.float32(0.5)
    at = np.float32(length) / np.float32(to) * (np.arange(to, dtype=np.float32) + half) - half
    at = np.clip(at, np.float32(0), np.float32(length - 1))
    first = at.astype(np.int64)
    far = at - first.astype(np.float32)
    return _LineSamples(first, np.minimum(first + 1, length - 1), np.float32(1) - far, far)
