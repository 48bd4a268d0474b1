"""Draw prompts and their nested target masks from the level maps of a part scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_POINTS = 3  # prompt slots: points, or a box's two corners, or padding
MIN_CELLS = 8  # a target covers at least so many cells of the mask grid
SAME_REGION = 0.85  # a region that fills this share of the one around it is the same region
PAD, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class PartPrompts:
    """P prompts in scene pixels: ``coords (P, 3, 2)`` xy, ``labels (P, 3)`` (1 in, 0 out, 2 and 3 corners, -1 none).

    ``targets (P, 3, cells, cells)`` bool are the regions meant, small to large, of which the first ``counts (P,)``
    are used: up to three for one point, one for a box or several points.
    """

    coords: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    counts: np.ndarray


def nested_regions(levels: np.ndarray, cells: np.ndarray, y: int, x: int) -> list[tuple[int, int, np.ndarray]]:
    """The regions around pixel ``(y, x)`` as (level, number, bool ``(cells, cells)``), small to large.

    ``levels (3, H, W)`` are the full maps and ``cells`` the same maps sampled on the mask grid. Regions too small to
    be drawn, and those that nearly equal the one around them, are left out; the list may be empty.
    """
    regions: list[tuple[int, int, np.ndarray]] = []
    area = 0
    for level in (0, 1, 2):
        number = int(levels[level, y, x])
        if number == 0:
            continue
        mask = cells[level] == number
        own = int(np.count_nonzero(mask))
        if own >= MIN_CELLS and (not regions or own < SAME_REGION * area):
            regions.insert(0, (level, number, mask))
            area = own
    return regions


def sample_prompts(levels: np.ndarray, num: int, rng: np.random.Generator, *, stride: int = 4) -> PartPrompts:
    """``num`` prompts on ``levels (3, H, W)``: six in ten a single point, the rest boxes, several points, or both.

    A map whose regions are all too small gives padding prompts with empty targets.
    """
    cells = levels[:, stride // 2 :: stride, stride // 2 :: stride]
    coords = np.zeros((num, NUM_POINTS, 2), np.float32)
    labels = np.full((num, NUM_POINTS), PAD, np.int64)
    targets = np.zeros((num, 3, *cells.shape[1:]), bool)
    counts = np.zeros(num, np.int64)
    candidates = [np.flatnonzero(np.bincount(level.ravel()) >= MIN_CELLS) for level in cells]
    choices = [(level, number) for level, numbers in enumerate(candidates) for number in numbers if number > 0]
    for index in range(num):
        y, x = _pick_pixel(levels, cells, choices, rng, stride)
        regions = nested_regions(levels, cells, y, x)
        if not regions:
            continue
        coords[index, 0], labels[index, 0] = (x + 0.5, y + 0.5), FOREGROUND
        if rng.random() >= 0.6:
            regions = [regions[rng.integers(len(regions))]]
            _extend(coords[index], labels[index], levels, regions[0], rng)
        targets[index, : len(regions)] = np.stack([mask for _, _, mask in regions])
        counts[index] = len(regions)
    return PartPrompts(coords, labels, targets, counts)


def _pick_pixel(
    levels: np.ndarray, cells: np.ndarray, choices: list[tuple[int, int]], rng: np.random.Generator, stride: int
) -> tuple[int, int]:
    """A pixel ``(y, x)`` of a random region (regions equally likely), or in two of five draws any pixel."""
    for _ in range(4):
        if not choices or rng.random() < 0.4:
            y, x = rng.integers(levels.shape[1]), rng.integers(levels.shape[2])
        else:
            level, number = choices[rng.integers(len(choices))]
            inside = np.flatnonzero(cells[level] == number)
            row, column = divmod(int(inside[rng.integers(len(inside))]), cells.shape[2])
            y, x = row * stride + rng.integers(stride), column * stride + rng.integers(stride)
        y, x = min(int(y), levels.shape[1] - 1), min(int(x), levels.shape[2] - 1)
        if levels[0, y, x] and nested_regions(levels, cells, y, x):
            return y, x
    return y, x


def _extend(
    coords: np.ndarray,
    labels: np.ndarray,
    levels: np.ndarray,
    region: tuple[int, int, np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Turn one prompt's point into a jittered box (six in ten), a box with that point, or two to three points."""
    mask = levels[region[0]] == region[1]
    kind = rng.random()
    if kind >= 0.75:
        _add_points(coords, labels, mask, rng)
        return
    if kind >= 0.6:
        coords[2], labels[2] = coords[0], labels[0]
    coords[:2] = _jittered_box(mask, rng)
    labels[:2] = TOP_LEFT, BOTTOM_RIGHT


def _jittered_box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The corners ``(2, 2)`` xy of the box around ``mask``, moved by up to about a tenth of its sides."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], np.float32)
    jitter = np.clip(rng.normal(0, 0.05 * (rng.random() < 0.8), (2, 2)), -0.12, 0.12)
    return np.clip(box + jitter * (box[1] - box[0]), 0, mask.shape[0])


def _add_points(coords: np.ndarray, labels: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    """Add one or two points inside (1) or outside (0) of ``mask``."""
    for slot in range(1, 2 + int(rng.integers(2))):
        wanted = rng.random() < 0.5
        for _ in range(20):
            y, x = rng.integers(mask.shape[0]), rng.integers(mask.shape[1])
            if mask[y, x] == wanted:
                coords[slot], labels[slot] = (x + 0.5, y + 0.5), int(wanted)
                break
