"""Draw scribbles and points from true masks, as an annotator would, for benchmarks whose labels are to be weak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

UNLABELLED, FOREGROUND, BACKGROUND = 0, 1, 2
"""Levels of a scribble picture, as the published sets have them."""
ScribbleKind = Literal["scribble", "points"]
_BENDS = 4
_MOST_SLIP = 0.35
"""How far beyond the object a slip lies at most, as a share of the object's extent (root of its area)."""


@dataclass(frozen=True)
class ScribbleStyle:
    """What is drawn: strokes of ``width`` pixels, or ``num_points`` single pixels each on object and background.

    ``slips``: chance of a stroke (of each point) to leave the object: labelled foreground that is background, near it.
    """

    kind: ScribbleKind = "scribble"
    num_points: int = 1
    width: int = 2
    slips: float = 0.0


def scribbled(mask: np.ndarray, style: ScribbleStyle, rng: np.random.Generator) -> np.ndarray:
    """Levels uint8 ``(H, W)`` of what is drawn for ``mask`` (H, W) bool; foreground goes over background.

    Strokes bend through a few random places of each connected object and of the background, well inside it where it is
    wide enough. Points are drawn alike over all of the foreground. Without any object, or without background, there are
    no labels of that kind.
    """
    levels = np.zeros(mask.shape, np.uint8)
    if style.kind == "points":
        _points(levels, ~mask, style, rng, BACKGROUND)
        _points(levels, mask, style, rng, FOREGROUND)
        return levels
    if not mask.all():
        levels[_stroke(~mask, style.width, rng)] = BACKGROUND
    parts, num_parts = ndimage.label(mask, structure=np.ones((3, 3)))
    for part in range(1, num_parts + 1):
        inside = parts == part
        levels[_stroke(inside, style.width, rng)] = FOREGROUND
        if style.slips and rng.random() < style.slips:
            _slip_of_stroke(levels, inside, mask, style.width, rng)
    return levels


def _points(levels: np.ndarray, region: np.ndarray, style: ScribbleStyle, rng: np.random.Generator, level: int) -> None:
    """Set ``num_points`` random pixels of ``region`` to ``level``, as many as there are; slips leave the object."""
    places = np.argwhere(region)
    chosen = places[rng.permutation(len(places))[: style.num_points]]
    for row, column in chosen.tolist():
        slips = level == FOREGROUND and rng.random() < style.slips
        levels[_beside(region, rng) if slips and not region.all() else (row, column)] = level


def _beside(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A pixel outside ``mask``, at most a third of the object's extent away, or else the nearest outside."""
    distance = ndimage.distance_transform_edt(~mask)
    reach = max(1.0, _MOST_SLIP * math.sqrt(float(mask.sum())))
    near = np.argwhere((distance > 0) & (distance <= max(reach, float(distance[distance > 0].min()))))
    row, column = near[rng.integers(len(near))].tolist()
    return row, column


def _slip_of_stroke(
    levels: np.ndarray, inside: np.ndarray, mask: np.ndarray, width: int, rng: np.random.Generator
) -> None:
    """Draw on from a random pixel of the object to a place beside it, all of it labelled foreground."""
    if mask.all():
        return
    places = np.argwhere(inside)
    start = places[rng.integers(len(places))].tolist()
    levels[_line(levels.shape[:2], [(start[0], start[1]), _beside(mask, rng)], width)] = FOREGROUND


def _stroke(region: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """Bool ``(H, W)``: a bent line within ``region``, which has a pixel; it goes through a few of its deeper places."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    deep = np.argwhere(depth >= max(1.0, min(0.4 * depth.max(), width + 2)))
    bends = deep[rng.integers(len(deep), size=_BENDS)]
    line = _line(region.shape[:2], [(int(row), int(column)) for row, column in bends], width) & region
    line[tuple(bends[0])] = True
    return line


def _line(size: tuple[int, ...], places: list[tuple[int, int]], width: int) -> np.ndarray:
    """Bool ``(H, W)``: straight lines of ``width`` pixels from place to place, each (row, column)."""
    picture = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(picture).line([(column, row) for row, column in places], fill=1, width=width)
    return np.array(picture, dtype=bool)
