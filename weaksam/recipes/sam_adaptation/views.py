"""Show a photo as the network sees it: a weak view, flipped or not, and a strong one of the same geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from weaksam.structures.masks import mask_from_rle

Fit = Literal["padded", "stretched", "centred"]
"""How a photo fills the square input: at its upper left, stretched to all of it, or in its middle."""
EACH = 0.5
"""Chance of each change of a view, as published."""


@dataclass(frozen=True)
class NetworkView:
    """A photo resized to the network's input, ``pixels`` uint8 ``(3, h, w)``, and its instances there.

    ``masks``: bool ``(n, S, S)`` on the padded square, whose side is S; ``covered`` (h, w): what the photo covers.
    """

    pixels: Tensor
    masks: Tensor

    @property
    def covered(self) -> tuple[int, int]:
        """(h, w) of the photo in the input."""
        return self.pixels.shape[1], self.pixels.shape[2]


def network_view(image: np.ndarray, masks: Tensor, side: int, fit: Fit = "padded") -> NetworkView:
    """The photo, uint8 ``(H, W, 3)``, and its ``masks``, bool ``(n, H, W)``, in a square of ``side`` pixels.

    ``padded``: the longer side has ``side`` pixels, and the network pads at the lower right and normalises, as SAM
    does. ``stretched``: both sides have (SAM 2). ``centred``: black around the photo is part of the view, as in WeSAM's
    code. Masks are resized to the nearest pixel; one that vanishes stays, empty.
    """
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    if fit == "stretched":
        size = (side, side)
    top, left = ((side - size[0]) // 2, (side - size[1]) // 2) if fit == "centred" else (0, 0)
    pixels = TF.resize(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), list(size), antialias=True)
    square = torch.zeros(len(masks), side, side, dtype=torch.bool)
    if len(masks):
        resized = F.interpolate(masks[None].float(), size=size, mode="nearest-exact")[0] > 0.5
        square[:, top : top + size[0], left : left + size[1]] = resized
    if fit == "centred":
        pixels = F.pad(pixels, (left, side - size[1] - left, top, side - size[0] - top))
    return NetworkView(pixels, square)


def masks_of(rles: tuple[object, ...], size: tuple[int, int]) -> Tensor:
    """Bool ``(n, H, W)`` of the instances' RLE masks; n = 0 gives ``(0, H, W)``."""
    if not rles:
        return torch.zeros(0, *size, dtype=torch.bool)
    return torch.stack([mask_from_rle(rle) for rle in rles])  # type: ignore[arg-type]


def weak_view(view: NetworkView, generator: torch.Generator) -> tuple[NetworkView, tuple[bool, bool]]:
    """``view`` flipped as drawn, masks with it; and whether it was flipped down and across.

    Three flips in turn, each with a chance of a half: in both directions, across, down (WeSAM's sequence).
    """
    both, across, down = (torch.rand(3, generator=generator) < EACH).tolist()
    down, across = down != both, across != both
    pixels, (h, w) = view.pixels, view.covered
    inside = view.masks[:, :h, :w]
    for flipped, dim in ((down, 1), (across, 2)):
        if flipped:
            pixels, inside = pixels.flip(dim), inside.flip(dim)
    masks = view.masks.clone()
    masks[:, :h, :w] = inside
    return NetworkView(pixels.contiguous(), masks), (down, across)


def strong_view(view: NetworkView, generator: torch.Generator) -> NetworkView:
    """``view`` with changed colours alone, so that prompts and pseudo masks hold for it.

    In turn, each with a chance of a half: fewer bits (4 to 7), equalised, sharpened or blurred (0.2 to 1.8), solarised
    from 128 to 255, brightness and contrast (each 0.8 to 1.2), a shadow (a band across, half as bright).
    """
    pixels = view.pixels
    chances = (torch.rand(6, generator=generator) < EACH).tolist()
    draws = torch.rand(6, generator=generator).tolist()
    if chances[0]:
        pixels = TF.posterize(pixels, 4 + int(draws[0] * 4))
    if chances[1]:
        pixels = TF.equalize(pixels)
    if chances[2]:
        pixels = TF.adjust_sharpness(pixels, 0.2 + 1.6 * draws[1])
    if chances[3]:
        pixels = TF.solarize(pixels, 128 + 127 * draws[2])
    if chances[4]:
        pixels = TF.adjust_contrast(TF.adjust_brightness(pixels, 0.8 + 0.4 * draws[3]), 0.8 + 0.4 * draws[4])
    if chances[5]:
        pixels = _shadowed(pixels, draws[5])
    return NetworkView(pixels, view.masks)


def _shadowed(pixels: Tensor, draw: float) -> Tensor:
    """Half as bright in a slanting band of a third of the width, which begins as drawn."""
    height, width = pixels.shape[1:]
    slant = torch.arange(height)[:, None] * (width / max(height, 1) / 3) + torch.arange(width)
    start = draw * width
    shadow = (slant >= start) & (slant < start + width / 3)
    return torch.where(shadow, pixels // 2, pixels)
