"""Read the segmentation of a COCO annotation or result, polygons or run lengths, as one compressed mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weaksam.config import UserError
from weaksam.data.json_entries import JsonEntry, is_number
from weaksam.data.photo_limits import MOST_PIXELS
from weaksam.data.sizes import size_problem
from weaksam.structures.masks import Rle, rle_from_counts, rle_from_polygons, run_lengths

Size = tuple[int, int]


def read_mask(entry: JsonEntry, size: Size | None) -> Rle | None:
    """The mask in ``segmentation`` of an entry on an image of ``size`` (H, W), None where it is not stated.

    No segmentation gives None, and so do polygons of fewer than three points. Raises `UserError` for what is neither
    polygons nor run lengths, for a mask of another size, and for polygons on an image without one.
    """
    segmentation = entry.get("segmentation")
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        return _from_run_lengths(entry, segmentation, size)
    polygons = _polygons(entry, segmentation)
    if not polygons:
        return None
    if size is None:
        raise entry.refusal("segmentation", "run lengths, since the file states no width and height of its image,")
    _refuse_far_points(entry, polygons, size)
    return rle_from_polygons(polygons, size)


# Polygons


def _polygons(entry: JsonEntry, segmentation: Any) -> list[list[float]]:
    """Flat polygons ``x, y, x, y, ...`` of at least three points, from any of the ways in which they are written."""
    polygons = []
    for ring in _rings(entry, segmentation):
        if len(ring) % 2 or not all(map(is_number, ring)):
            raise entry.refusal("segmentation", "polygons of finite numbers x, y, x, y, ...")
        if len(ring) < 6:
            entry.findings.guess("a polygon of fewer than three points was left out", entry.place)
        else:
            polygons.append(entry.numbers(ring))
    return polygons


def _rings(entry: JsonEntry, segmentation: Any) -> list[list[Any]]:
    """The polygons of a segmentation, each flat; lists with other brackets than COCO's are taken as they are meant."""
    depth = _depth(segmentation)
    if depth == 1:
        entry.findings.guess("a flat list of coordinates was taken as one polygon", entry.place)
        return [segmentation]
    if depth == 2 and len(segmentation) > 2 and all(len(point) == 2 for point in segmentation):
        entry.findings.guess("a list of points was taken as one polygon", entry.place)
        return [[value for point in segmentation for value in point]]
    if depth == 2:
        return segmentation
    if depth == 3 and all(len(point) == 2 for ring in segmentation for point in ring):
        entry.findings.guess("lists of points were taken as polygons", entry.place)
        return [[value for point in ring for value in point] for ring in segmentation]
    raise entry.refusal("segmentation", "polygons [[x, y, x, y, ...], ...] or run lengths")


def _depth(value: Any) -> int | None:
    """How many lists lie in each other, 1 to 3, down to the numbers; None where that differs or something else is."""
    if not isinstance(value, list):
        return None
    for depth in (1, 2, 3):
        nested = [isinstance(part, list) for part in value]
        if not any(nested):
            return depth
        if not all(nested):
            return None
        value = [part for inner in value for part in inner]
    return None


def _refuse_far_points(entry: JsonEntry, polygons: Sequence[Sequence[float]], size: Size) -> None:
    """`UserError` where a polygon goes further out of its image than the image is large: it belongs to another."""
    height, width = size
    points = np.concatenate([np.asarray(polygon).reshape(-1, 2) for polygon in polygons])
    side = np.array([width, height])
    if bool(((points < -side) | (points > 2 * side)).any()):
        raise entry.refusal("segmentation", f"polygons on its image of {width} x {height} pixels")


# Run lengths


def _from_run_lengths(entry: JsonEntry, stated: dict[str, Any], size: Size | None) -> Rle:
    """The mask of an object with ``size`` and ``counts``, a list of run lengths or COCO's text of them."""
    sides, counts = stated.get("size"), stated.get("counts")
    if not isinstance(sides, list) or len(sides) != 2 or not all(_is_count(side) and side > 0 for side in sides):
        raise entry.refusal("segmentation", "run lengths with a size of [height, width]")
    height, width = (int(side) for side in sides)
    if height * width > MOST_PIXELS:
        raise entry.refusal("segmentation", f"a mask of at most {MOST_PIXELS} pixels")
    problem = None if size is None else size_problem((height, width), size, "its mask")
    if problem is not None:
        raise UserError(
            f"wanted a mask of its image's size as 'segmentation' of {entry.place}, found that the image {problem}: "
            "draw it on the image as it is shown"
        )
    runs = run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(map(_is_count, runs)) or sum(runs) != height * width:
        raise entry.refusal("segmentation", f"run lengths that fill {height} x {width} pixels")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    return rle_from_counts([int(run) for run in runs], (height, width))


def _is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 0, 7.0 as well."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return (whole or (isinstance(value, float) and value.is_integer())) and 0 <= value <= MOST_PIXELS
