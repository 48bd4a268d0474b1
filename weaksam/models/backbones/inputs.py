"""Resize and normalise a photo as a backbone's input."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from weaksam.models.backbones.colours import ColourSettings

_SHORTEST_INPUT = 32


def normalise(images: Tensor, colours: ColourSettings) -> Tensor:
    """The numbers that a network of ``colours`` wants of ``(..., 3, H, W)`` RGB, uint8 0..255 or float 0..1."""
    if images.dtype == torch.uint8:
        images = images.float() / 255.0
    return _standardise(images, colours, 255.0)


def normalise_levels(images: Tensor, colours: ColourSettings) -> Tensor:
    """The same of float levels ``(..., 3, H, W)`` RGB 0..255, which may lie outside where light was added."""
    return _standardise(images, colours, 1.0)


def _standardise(images: Tensor, colours: ColourSettings, levels_per_unit: float) -> Tensor:
    """``(image - mean) / deviation`` in the network's order of channels; the settings' numbers are levels of 0..255."""
    mean, deviation = (
        _channels(tuple(level / levels_per_unit for level in levels), images.dtype, images.device)
        for levels in (colours.mean, colours.deviation)
    )
    pixels = (images - mean) / deviation
    return pixels.flip(-3) if colours.order == "bgr" else pixels


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number for each channel ``(3, 1, 1)``, kept on the device: bringing it there anew would wait at every photo."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)


def input_photo(image: np.ndarray, long_side: int, colours: ColourSettings) -> Tensor:
    """Float input ``(1, 3, h, w)`` in ``colours`` of a photo, uint8 ``(H, W, 3)``, resized to ``long_side``.

    The longer side is ``long_side`` pixels; the shorter at least 32, so that a stride-16 map has two cells.
    """
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    size = [max(_SHORTEST_INPUT, round(height * factor)), max(_SHORTEST_INPUT, round(width * factor))]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return normalise(TF.resize(pixels, size, antialias=True), colours)[None]
