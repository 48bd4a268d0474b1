"""Show a photo flipped, turned and scaled, carry its prompts along, and bring what was answered back exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]
Flip = Literal["none", "horizontal", "vertical"]
FLIPS: tuple[Flip, ...] = ("horizontal", "vertical")
"""The flips of random views, one of which every view has, as published."""
SCALES = (0.5, 1.0, 2.0)
"""Factors of a view's sides, as published for WS-SAM's follow-up."""


@dataclass(frozen=True)
class FlippedView:
    """A photo flipped across (``horizontal``), down (``vertical``) or not, then turned, then scaled.

    ``turns``: quarter turns against the clock, 0 to 3. ``scale``: factor of both sides, which are rounded to whole
    pixels. All methods take the size (H, W) of the photo, not of the view, where they need one; points and boxes are in
    pixels with the origin at the corner of the first one, as everywhere in this package.
    """

    flip: Flip = "none"
    turns: int = 0
    scale: float = 1.0

    def size(self, size: Size) -> Size:
        """(h, w) of the view of a photo of ``size``."""
        turned = self._turned_size(size)
        return max(1, round(turned[0] * self.scale)), max(1, round(turned[1] * self.scale))

    # Into the view

    def image(self, image: np.ndarray) -> np.ndarray:
        """The photo, uint8 ``(H, W, 3)``, as the view shows it, ``(h, w, 3)`` (bilinear, smoothed where it shrinks)."""
        height, width = self.size((image.shape[0], image.shape[1]))
        flipped = image if self.flip == "none" else np.flip(image, 1 if self.flip == "horizontal" else 0)
        turned = np.rot90(flipped, self.turns)
        if turned.shape[:2] == (height, width):
            return np.ascontiguousarray(turned)
        picture = Image.fromarray(np.ascontiguousarray(turned))
        return np.array(picture.resize((width, height), Image.Resampling.BILINEAR))

    def labels(self, labels: Tensor) -> Tensor:
        """A map of labels ``(..., H, W)``, such as scribbles or masks, at the nearest pixel: ``(..., h, w)``."""
        size = self.size((labels.shape[-2], labels.shape[-1]))
        return _nearest(torch.rot90(labels.flip(self._axes), self.turns, (-2, -1)), size)

    def points(self, points: Tensor, size: Size) -> Tensor:
        """Points ``(..., 2)`` xy of the photo of ``size`` in the view."""
        turned = self._turned_size(size)
        h, w = self.size(size)
        x, y = self._flipped(points, size).unbind(dim=-1)
        (height, width) = size
        for _ in range(self.turns):
            x, y = y, width - x
            height, width = width, height
        return torch.stack([x * (w / turned[1]), y * (h / turned[0])], dim=-1)

    def boxes(self, boxes: Tensor, size: Size) -> Tensor:
        """Half-open xyxy boxes ``(..., 4)`` of the photo of ``size`` in the view."""
        return _ordered(self.points(boxes.unflatten(-1, (2, 2)), size))

    # Back to the photo

    def original_maps(self, maps: Tensor, size: Size) -> Tensor:
        """Maps ``(..., h, w)`` float or bool of the view, such as masks, on the photo of ``size``: ``(..., H, W)``.

        Floats are interpolated (averaged where the view is larger), of bools a pixel is true where a half or more of it
        is. A view of scale 1 comes back bit by bit.
        """
        turned = self._turned_size(size)
        back = maps
        if maps.shape[-2:] != turned:
            flat = maps.reshape(-1, 1, *maps.shape[-2:]).to(torch.float32)
            larger = maps.shape[-2] > turned[0]
            mode = {"mode": "area"} if larger else {"mode": "bilinear", "align_corners": False}
            back = F.interpolate(flat, size=turned, **mode).reshape(*maps.shape[:-2], *turned)
            back = back >= 0.5 if maps.dtype == torch.bool else back
        return torch.rot90(back, -self.turns, (-2, -1)).flip(self._axes)

    def original_labels(self, labels: Tensor, size: Size) -> Tensor:
        """A map of labels ``(..., h, w)`` of the view on the photo of ``size``, at the nearest pixel."""
        back = _nearest(labels, self._turned_size(size))
        return torch.rot90(back, -self.turns, (-2, -1)).flip(self._axes)

    def original_points(self, points: Tensor, size: Size) -> Tensor:
        """Points ``(..., 2)`` xy of the view on the photo of ``size``."""
        turned = self._turned_size(size)
        h, w = self.size(size)
        x, y = points.unbind(dim=-1)
        x, y = x * (turned[1] / w), y * (turned[0] / h)
        height, width = turned
        for _ in range(self.turns):
            x, y = height - y, x
            height, width = width, height
        return self._flipped(torch.stack([x, y], dim=-1), size)

    def original_boxes(self, boxes: Tensor, size: Size) -> Tensor:
        """Half-open xyxy boxes ``(..., 4)`` of the view on the photo of ``size``."""
        return _ordered(self.original_points(boxes.unflatten(-1, (2, 2)), size))

    # Details

    @property
    def _axes(self) -> tuple[int, ...]:
        return {"none": (), "horizontal": (-1,), "vertical": (-2,)}[self.flip]

    def _turned_size(self, size: Size) -> Size:
        return (size[1], size[0]) if self.turns % 2 else size

    def _flipped(self, points: Tensor, size: Size) -> Tensor:
        if self.flip == "none":
            return points
        x, y = points.unbind(dim=-1)
        return torch.stack([size[1] - x, y] if self.flip == "horizontal" else [x, size[0] - y], dim=-1)


def draw_views(num: int, generator: torch.Generator) -> list[FlippedView]:
    """``num`` random views: one of two flips, four turns and three scales, all alike (WS-SAM's follow-up)."""
    draws = torch.rand(num, 3, generator=generator)
    counts = torch.tensor([len(FLIPS), 4, len(SCALES)])
    return [FlippedView(FLIPS[f], t, SCALES[s]) for f, t, s in (draws * counts).long().tolist()]


def _nearest(labels: Tensor, size: Size) -> Tensor:
    """``labels`` (..., h, w) of any kind at ``size``, each pixel that of the nearest one."""
    if labels.shape[-2:] == size:
        return labels
    flat = labels.reshape(-1, 1, *labels.shape[-2:]).to(torch.float64)
    resized = F.interpolate(flat, size=size, mode="nearest-exact")
    return resized.reshape(*labels.shape[:-2], *size).to(labels.dtype)


def _ordered(corners: Tensor) -> Tensor:
    """Boxes ``(..., 4)`` of two opposite ``corners (..., 2, 2)``, the upper left first."""
    return torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)
