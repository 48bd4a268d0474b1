"""Show a photo and its labels at the network's size, cropped, flipped, turned and with other colours, all alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from weaksam.models.concealed.losses import UNLABELLED

MAX_CROP = 30 / 384
"""Greatest share of each side that a centred crop takes away: the published 30 pixels of its input."""
ROTATION_CHANCE, MAX_ROTATION = 0.2, 15.0
"""Chance of a rotation, and its greatest angle in degrees."""
SALT_AND_PEPPER = 0.0015
"""Share of the pseudo mask's pixels that become 0 or 1."""


@dataclass(frozen=True)
class LabelledView:
    """A photo at the network's size S.

    ``pixels``: uint8 ``(3, S, S)``; ``mask``: float32 ``(1, S, S)`` in [0, 1], what is learned; ``weights``: ``(1, S,
    S)`` in [0, 1], how far it counts; ``labels``: int8 ``(1, S, S)``, scribbles as 1, 0 or `UNLABELLED`.
    """

    pixels: Tensor
    mask: Tensor
    weights: Tensor
    labels: Tensor


def view_of(image: np.ndarray, mask: Tensor, weights: Tensor, labels: Tensor, side: int) -> LabelledView:
    """The photo, uint8 ``(H, W, 3)``, and its maps ``(H, W)`` at ``side`` pixels, whatever the photo's shape."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    soft = [
        TF.resize(values[None].float(), [side, side], interpolation=InterpolationMode.BILINEAR, antialias=True)
        for values in (mask, weights)
    ]
    return LabelledView(
        TF.resize(pixels, [side, side], antialias=True),
        soft[0].clamp(0, 1),
        soft[1].clamp(0, 1),
        resized_labels(labels, side)[None],
    )


def resized_labels(labels: Tensor, side: int) -> Tensor:
    """Scribbles int8 ``(H, W)`` at ``(side, side)``: no label is invented, and where the photo shrinks none is lost.

    Shrunk, each labelled pixel goes to the pixel that holds its middle, the object's over the background's; grown, each
    pixel takes the nearest label.
    """
    height, width = labels.shape
    if side > min(height, width):
        return F.interpolate(labels[None, None].float(), size=(side, side), mode="nearest-exact")[0, 0].to(labels.dtype)
    small = torch.full((side, side), UNLABELLED, dtype=labels.dtype)
    for value in (0, 1):
        rows, columns = (labels == value).nonzero(as_tuple=True)
        small[((rows + 0.5) * side / height).long(), ((columns + 0.5) * side / width).long()] = value
    return small


def augmented(view: LabelledView, generator: torch.Generator) -> LabelledView:
    """``view`` changed as published: flip, centred crop, rotation, colours, and salt and pepper on the mask.

    Scribbles move to the nearest pixel, so that none changes its label (the released code interpolates them, which
    makes foreground along background strokes); what a rotation brings in from beyond the photo is unlabelled and counts
    for nothing (there it is certain background).
    """
    draws = torch.rand(9, generator=generator).tolist()
    if draws[0] < 0.5:
        view = LabelledView(*(values.flip(-1) for values in _parts(view)))
    view = _cropped(view, draws[1])
    if draws[2] < ROTATION_CHANCE:
        view = _rotated(view, (2 * draws[3] - 1) * MAX_ROTATION)
    pixels = TF.adjust_brightness(view.pixels, 0.5 + draws[4])
    pixels = TF.adjust_contrast(pixels, 0.5 + draws[5])
    pixels = TF.adjust_saturation(pixels, 2 * draws[6])
    pixels = TF.adjust_sharpness(pixels, 3 * draws[7])
    return LabelledView(pixels, _salted(view.mask, generator), view.weights, view.labels)


def _parts(view: LabelledView) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return view.pixels, view.mask, view.weights, view.labels


def _cropped(view: LabelledView, draw: float) -> LabelledView:
    """The middle of the view at its old size, without up to `MAX_CROP` of each side."""
    side = view.pixels.shape[-1]
    inner = side - round(draw * MAX_CROP * side)
    start = (side - inner) // 2
    if inner == side:
        return view
    parts = [values[..., start : start + inner, start : start + inner] for values in _parts(view)]
    soft = [TF.resize(values, [side, side], antialias=True) for values in parts[:3]]
    return LabelledView(soft[0], soft[1].clamp(0, 1), soft[2].clamp(0, 1), resized_labels(parts[3][0], side)[None])


def _rotated(view: LabelledView, angle: float) -> LabelledView:
    """The view turned by ``angle`` degrees about its middle."""
    soft = {"interpolation": InterpolationMode.BILINEAR}
    covered = TF.rotate(torch.ones_like(view.weights), angle, interpolation=InterpolationMode.NEAREST)
    return LabelledView(
        TF.rotate(view.pixels, angle, **soft),
        TF.rotate(view.mask, angle, **soft),
        TF.rotate(view.weights, angle, **soft) * covered,
        TF.rotate(view.labels, angle, interpolation=InterpolationMode.NEAREST, fill=[float(UNLABELLED)]),
    )


def _salted(mask: Tensor, generator: torch.Generator) -> Tensor:
    """``mask`` with `SALT_AND_PEPPER` of its pixels at 0 or 1."""
    draws = torch.rand(mask.shape, generator=generator)
    salted = torch.where(draws < SALT_AND_PEPPER / 2, 0.0, mask)
    return torch.where(draws > 1 - SALT_AND_PEPPER / 2, 1.0, salted)
