"""Remove fragments and fill holes of masks, and give pixels that several masks claim to one of them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_WITH_DIAGONALS = np.ones((3, 3), dtype=bool)


def without_fragments(mask: Tensor, smallest: float) -> Tensor:
    """``mask`` (H, W) bool without its parts smaller than ``smallest``, a share of its area in [0, 1).

    Parts are connected over sides and corners. The largest one always stays, so that no mask becomes empty; an empty
    mask stays empty.
    """
    window = _window(mask) if smallest > 0 else None
    if window is None:
        return mask
    inside = mask[window].numpy()
    numbers, count = ndimage.label(inside, structure=_WITH_DIAGONALS)
    if count == 1:
        return mask
    areas = np.bincount(numbers.ravel())
    areas[0] = 0
    kept = areas >= smallest * areas.sum()
    kept[areas.argmax()] = True
    kept[0] = False
    return _with_window(mask, window, kept[numbers])


def without_holes(mask: Tensor, largest: float) -> Tensor:
    """``mask`` (H, W) bool with its holes smaller than ``largest`` filled, a share of its area in [0, 1).

    A hole is background that the mask surrounds: connected over sides alone, and not reaching the photo's border.
    """
    window = _window(mask) if largest > 0 else None
    if window is None:
        return mask
    inside = mask[window].numpy()
    holes = ndimage.binary_fill_holes(inside) & ~inside
    numbers, count = ndimage.label(holes)
    if count == 0:
        return mask
    areas = np.bincount(numbers.ravel())
    filled = areas < largest * int(inside.sum())
    filled[0] = False
    return _with_window(mask, window, inside | filled[numbers])


def deepest_point(mask: Tensor) -> Tensor | None:
    """The centre xy ``(2,)`` of the pixel of ``mask`` (H, W) that is farthest from all outside it; None if empty.

    What lies beyond the photo counts as outside. Of several such pixels the first, row by row.
    """
    window = _window(mask)
    if window is None:
        return None
    depth = ndimage.distance_transform_edt(np.pad(mask[window].numpy(), 1))[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), depth.shape[1])
    return torch.tensor([window[1].start + x + 0.5, window[0].start + y + 0.5])


def _window(mask: Tensor) -> tuple[slice, slice] | None:
    """Rows and columns that hold all of ``mask`` (H, W); None for an empty one."""
    rows, columns = (mask.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    if len(rows) == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _with_window(mask: Tensor, window: tuple[slice, slice], inside: np.ndarray) -> Tensor:
    """A copy of ``mask`` (H, W) whose ``window`` holds ``inside``."""
    changed = mask.clone()
    changed[window] = torch.from_numpy(inside)
    return changed
