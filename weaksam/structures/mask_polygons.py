"""Turn masks into polygons along the edges of their pixels, exactly: with holes, with several parts, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from weaksam.structures.masks import Rle, box_from_rle, mask_from_rle

Ring = np.ndarray
"""Corners ``(K, 2)`` xy in pixels, float64, of a closed line; the last is joined with the first."""


@dataclass(frozen=True)
class MaskPart:
    """One connected part of a mask: the ``outline`` around it, and the outlines of its ``holes``, if any."""

    outline: Ring
    holes: tuple[Ring, ...] = ()


def mask_parts(rle: Rle) -> list[MaskPart]:
    """The parts of a mask, from the top down; pixels that touch at a corner alone are two parts. No pixel: no part.

    A pixel at column x and row y covers x to x + 1 and y to y + 1, as in COCO, so filling the outlines and emptying
    the holes gives the mask again, pixel by pixel.
    """
    x1, y1, x2, y2 = (int(value) for value in box_from_rle(rle).tolist())
    if x2 <= x1 or y2 <= y1:
        return []
    mask = mask_from_rle(rle)[y1:y2, x1:x2].numpy()
    rings = _rings(mask)
    numbers = ndimage.label(mask)[0]  # by edges, not by corners
    outlines: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for ring in rings:
        top = ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]]
        x, y = int(top[0]), int(top[1])
        placed = (ring + np.array([x1, y1])).astype(np.float64)
        if mask[y, x]:
            outlines[int(numbers[y, x])] = placed
        else:
            holes.setdefault(int(numbers[y - 1, x]), []).append(placed)
    return [MaskPart(outline, tuple(holes.get(number, ()))) for number, outline in sorted(outlines.items())]


def polygons_from_rle(rle: Rle) -> list[Ring]:
    """One polygon ``(K, 2)`` for each part of a mask, its holes cut out by a line there and back; see `mask_parts`.

    Filled by the even-odd rule (COCO's, PIL's and OpenCV's) their union is the mask.
    """
    return [_joined([part.outline, *part.holes]) for part in mask_parts(rle)]


def polygon_from_rle(rle: Rle) -> Ring | None:
    """A single polygon ``(K, 2)`` for a whole mask, parts and holes joined by lines there and back; None if empty.

    For formats that have one polygon for each object, such as YOLO's.
    """
    polygons = polygons_from_rle(rle)
    return _joined(polygons) if polygons else None


def crosses_itself(polygon: Sequence[Sequence[float]] | np.ndarray, filled_area: float) -> bool:
    """Whether a polygon ``(K, 2)`` crosses itself, so that what it covers depends on the rule of filling.

    Up to 64 corners each pair of sides is compared. Beyond, ``filled_area``, the pixels that the even-odd rule fills,
    is compared with the area within the line: where it crosses itself the two differ by more than its pixels' edges.
    Lines that lie on each other, as those that cut out holes, do not cross.
    """
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    ends = np.roll(points, -1, axis=0)
    if len(points) <= 64:
        return _sides_cross(points, ends)
    enclosed = abs(float(np.sum(points[:, 0] * ends[:, 1] - ends[:, 0] * points[:, 1]))) / 2
    perimeter = float(np.hypot(*(ends - points).T).sum())
    return abs(enclosed - filled_area) > max(2.0, 0.6 * perimeter)


def _sides_cross(starts: np.ndarray, ends: np.ndarray) -> bool:
    """Whether any two of the sides ``starts`` -> ``ends`` (K, 2) cross in the inside of both."""

    def side_of(points: np.ndarray) -> np.ndarray:
        """On which side of each line (rows) each point (columns) lies: -1, 0 on it, 1."""
        direction, offset = (ends - starts)[:, None], points[None] - starts[:, None]
        return np.sign(direction[..., 0] * offset[..., 1] - direction[..., 1] * offset[..., 0])

    apart = side_of(starts) * side_of(ends) < 0
    return bool((apart & apart.T).any())


def _joined(rings: Sequence[Ring]) -> Ring:
    """One closed line through all ``rings``: each is entered and left at the corner nearest to those joined before.

    The nearest ring comes first (Prim's tree), so that lines lie between neighbours and not across others.
    """
    links = _nearest_links(rings)
    joined_at: list[dict[int, list[Ring]]] = [{} for _ in rings]
    for number, parent, here, there in reversed(links):  # a ring comes after the one it hangs on
        walk = _walk(rings[number], joined_at[number], there)
        joined_at[parent].setdefault(here, []).append(walk)
    return _walk(rings[0], joined_at[0], 0)[:-1]


def _nearest_links(rings: Sequence[Ring]) -> list[tuple[int, int, int, int]]:
    """For each ring but the first: its number, that of a ring joined before it, and the corners that lie nearest."""
    corners = np.concatenate(rings)
    ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    first = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])])
    distance = np.full(len(corners), np.inf)  # of each corner to the nearest one that is joined, and which that is
    nearest = np.zeros(len(corners), dtype=np.int64)
    waiting = np.flatnonzero(ring_of != 0)
    links, newest = [], 0
    while len(waiting):
        gaps, there = cKDTree(rings[newest]).query(corners[waiting])
        closer = gaps < distance[waiting]
        distance[waiting[closer]], nearest[waiting[closer]] = gaps[closer], first[newest] + there[closer]
        corner = waiting[distance[waiting].argmin()]
        newest, parent = int(ring_of[corner]), int(ring_of[nearest[corner]])
        links.append((newest, parent, int(nearest[corner] - first[parent]), int(corner - first[newest])))
        waiting = waiting[ring_of[waiting] != newest]
    return links


def _walk(ring: Ring, joined: Mapping[int, Sequence[Ring]], start: int) -> Ring:
    """Round ``ring`` from the corner ``start`` back to it, with what is joined at each corner walked on the way."""
    pieces, begin = [], 0
    for corner in sorted(joined):
        pieces.append(ring[begin : corner + 1])
        for walk in joined[corner]:
            pieces += [walk, ring[corner : corner + 1]]
        begin = corner + 1
    whole = np.concatenate([*pieces, ring[begin:]])
    start += sum(len(walk) + 1 for corner, walks in joined.items() if corner < start for walk in walks)
    return np.concatenate([whole[start:], whole[: start + 1]])


# Outlines of a bool array


def _rings(mask: np.ndarray) -> list[np.ndarray]:
    """All closed lines between a bool array's true and false pixels, corners ``(K, 2)`` int xy, in order of their top.

    Along each row line and each column line corners come in pairs that a side joins; following sides in turn gives the
    lines. Where two pixels touch at a corner only, two corners lie there, so that the pixels stay apart.
    """
    corners, across, down = _corners(mask)
    following_across, following_down = across.tolist(), down.tolist()
    visited = [False] * len(corners)
    rings = []
    for start in range(len(corners)):
        if visited[start]:
            continue
        ring, corner = [], start
        while not visited[corner]:
            beside = following_across[corner]
            visited[corner] = visited[beside] = True
            ring += [corner, beside]
            corner = following_down[beside]
        rings.append(corners[ring])
    return rings


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners ``(K, 2)`` int xy, and of each the corner at the other end of its row side and of its column side."""
    framed = np.pad(mask, 1)
    top_left, top_right = framed[:-1, :-1], framed[:-1, 1:]
    bottom_left, bottom_right = framed[1:, :-1], framed[1:, 1:]
    falling = top_left & bottom_right & ~top_right & ~bottom_left  # the pixels touch in the direction of "\"
    rising = top_right & bottom_left & ~top_left & ~bottom_right
    plain = top_left ^ top_right ^ bottom_left ^ bottom_right
    y, x = (plain | falling | rising).nonzero()
    double, is_falling = (falling | rising)[y, x], falling[y, x]
    # Of two corners at one place the first ends the side to its left, the second begins the one to its right
    order = np.repeat(np.arange(len(x)), 1 + double)
    second = np.concatenate([[False], order[1:] == order[:-1]]) if len(order) else np.zeros(0, bool)
    corners = np.stack([x, y], axis=1)[order]
    across = _partners(np.arange(len(corners)))  # row by row, from the left
    # The pixel at the left of "\" is above: its corner ends the side from above
    below = np.where(is_falling[order], second, ~second) & double[order]
    down = _partners(np.lexsort((below, corners[:, 1], corners[:, 0])))
    return corners, across, down


def _partners(order: np.ndarray) -> np.ndarray:
    """Of each corner the other one of its pair, where pairs follow each other in ``order``."""
    partners = np.empty(len(order), dtype=np.int64)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners
