"""Read heat maps from .npy and .png files without running anything in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.images import LIMITS
from weaksam.regular_files import open_regular

_MOST_NUMBERS = 240_000_000
"""Numbers in one file of heat maps: 1 GB in float32."""
SUFFIXES = (".npy", ".png")
"""Endings of heat maps."""
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L")
"""Pillow's modes of one channel."""


def read_heat_maps(path: Path) -> Tensor:
    """Float32 maps ``(N, h, w)`` of a file: ``(h, w)`` or ``(N, h, w)`` numbers in .npy, one grey .png of 8 or 16 bits.

    Any scale will do, greater meaning more likely; what is below 0 counts as 0 later. Raises `UserError` for a file
    that is damaged, pickled, empty, of another shape, or holds a number that is not finite.
    """
    values = _read_png(path) if path.suffix.lower() == ".png" else _read_npy(path)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or 0 in values.shape:
        raise UserError(
            f"wanted a heat map (height, width) or several (number, height, width) in {path}, found an array of shape "
            f"{values.shape}: save one of those shapes"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        maps = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(maps).all():
        fault = "numbers too large for float32" if np.isfinite(values).all() else "nan or infinity"
        raise UserError(f"wanted finite numbers in {path}, found {fault}: replace them")
    return torch.from_numpy(maps)


def _read_npy(path: Path) -> np.ndarray:
    try:
        with open_regular(path) as file:
            major, _ = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, _, kind = header(file)
            # A header may claim any size: what it claims must be there before room is made for it
            rest = path.stat().st_size - file.tell()
            if kind.hasobject or kind.kind not in "biuf":
                raise UserError(f"wanted numbers in {path}, found {kind}: save a plain array of floats or integers")
            if np.prod(shape, dtype=object) > _MOST_NUMBERS:
                raise UserError(f"wanted at most {_MOST_NUMBERS:,} numbers in {path}, found {shape}: shrink the maps")
            if np.prod(shape, dtype=object) * kind.itemsize != rest:
                raise UserError(
                    f"wanted the {shape} numbers that {path} says it holds, found {rest} bytes: write it again"
                )
            file.seek(0)
            return np.load(file, allow_pickle=False)
    except UserError:
        raise
    except (ValueError, OSError, EOFError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise UserError(f"wanted a heat map of numpy.save at {path}, found none ({reason}): write it again") from None


def _read_png(path: Path) -> np.ndarray:
    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG",)) as image:
            if image.width * image.height > LIMITS.max_pixels:
                raise UserError(
                    f"wanted a heat map of at most {LIMITS.max_pixels} pixels at {path}, found more: shrink it"
                )
            if image.mode not in _GREY:
                raise UserError(
                    f"wanted a grey heat map in {path}, found a picture of mode {image.mode}: save one channel"
                )
            return np.asarray(image).astype(np.float32)
    except UserError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more for broken files
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise UserError(f"wanted a PNG heat map at {path}, found none ({reason}): write it again") from None
