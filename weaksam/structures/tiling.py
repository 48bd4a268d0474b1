"""Cut a photo into overlapping tiles, and join what was seen in each of them where they meet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from weaksam.structures.boxes import batched_nms, pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_counts


class Tile(NamedTuple):
    """A window of a photo in pixels, half-open."""

    left: int
    top: int
    right: int
    bottom: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Its pixels ``(h, w, 3)`` of a photo ``(H, W, 3)``: a view."""
        return image[self.top : self.bottom, self.left : self.right]


def tiles_of(size: tuple[int, int], side: int, overlap: float) -> list[Tile]:
    """Tiles of ``side`` pixels that cover a photo of ``size`` (H, W), row by row.

    Neighbours share at least ``overlap`` of their side, in [0, 1). A photo that is smaller than a tile along an axis
    is not cut along it.
    """
    rows, columns = (_spans(length, side, overlap) for length in size)
    return [Tile(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def _spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    """Begin and end of the tiles along an axis of ``length`` pixels, evenly spread."""
    if length <= side:
        return [(0, length)]
    step = max(1, math.floor(side * (1 - overlap)))
    num = math.ceil((length - side) / step) + 1
    starts = [round(index * (length - side) / (num - 1)) for index in range(num)]
    return [(start, start + side) for start in starts]


def in_photo(instances: Instances, tile: Tile, size: tuple[int, int]) -> Instances:
    """What was seen in ``tile``, in the frame of its photo of ``size`` (H, W)."""
    shift = instances.boxes.new_tensor([tile.left, tile.top, tile.left, tile.top])
    masks = instances.masks
    if masks is not None:
        masks = tuple(rle_in_photo(rle, tile, size) for rle in masks)
    return instances.replace(boxes=instances.boxes + shift, masks=masks)


def rle_in_photo(rle: Rle, tile: Tile, size: tuple[int, int]) -> Rle:
    """A mask of a tile as mask of its photo of ``size`` (H, W), run by run, without the photo's pixels."""
    mask = mask_from_rle(rle).numpy()
    height, width = size
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1]), np.int8)
    padded[1:-1] = mask
    change = np.diff(padded, axis=0).T  # (w, h + 1): 1 where a run of a column begins, -1 behind its end
    column, begin = np.nonzero(change == 1)
    _, end = np.nonzero(change == -1)
    first = (column + tile.left) * height + tile.top
    begin, end = first + begin, first + end
    if len(begin):  # a run to the end of a column goes on at the top of the next one
        apart = begin[1:] > end[:-1]
        begin, end = begin[np.append(True, apart)], end[np.append(apart, True)]
    edges = [0, *np.stack([begin, end], axis=1).reshape(-1).tolist()]
    rest = [height * width] if edges[-1] < height * width else []  # no empty run at the end
    return rle_from_counts(np.diff([*edges, *rest]).tolist(), size)


def joined_tiles(parts: Sequence[Instances], tiles: Sequence[Tile], same_iou: float, nms_iou: float) -> Instances:
    """The objects of a photo from what was seen in each of its tiles, both in the photo's frame, best first.

    Two detections of one class in overlapping tiles are the same object where they agree in what both tiles see: the
    parts of their boxes inside the tiles' intersection have an IoU of at least ``same_iou``. Each has at most one
    partner in another tile, the best first. One object gets the box around its detections, the union of their masks
    and the best score, so that what a seam cut in two is whole again. What overlaps a better object of its class by
    more than ``nms_iou`` is dropped then. No tile gives the empty value.
    """
    if not parts:
        return Instances.empty(scored=True)
    instances, roots = Instances.cat(parts), agreeing_groups(parts, tiles, same_iou)
    joined = joined_groups(instances, roots)
    assert joined.scores is not None
    return joined[batched_nms(joined.boxes, joined.scores, joined.labels, nms_iou)]


def agreeing_groups(parts: Sequence[Instances], tiles: Sequence[Tile], same_iou: float) -> list[int]:
    """For each row of all ``parts``, one after the other, the first row that is the same object, see `joined_tiles`."""
    starts = [0, *itertools.accumulate(map(len, parts))]
    root = list(range(starts[-1]))
    for (a, tile), (b, other) in itertools.combinations(enumerate(tiles), 2):
        shared = _intersection(tile, other)
        if shared is not None and len(parts[a]) and len(parts[b]):
            for row, partner in _partners(parts[a], parts[b], shared, same_iou):
                _unite(root, starts[a] + row, starts[b] + partner)
    return [_root(root, number) for number in range(len(root))]


def _intersection(tile: Tile, other: Tile) -> Tile | None:
    """The window that two tiles share; None where they share no pixel."""
    shared = Tile(
        max(tile.left, other.left),
        max(tile.top, other.top),
        min(tile.right, other.right),
        min(tile.bottom, other.bottom),
    )
    return shared if shared.left < shared.right and shared.top < shared.bottom else None


def _partners(seen: Instances, others: Instances, shared: Tile, same_iou: float) -> list[tuple[int, int]]:
    """Pairs of rows of two tiles' detections that agree inside their ``shared`` window, best scores first."""
    inside, inside_others = (_clipped(part.boxes, shared) for part in (seen, others))
    agreement = pairwise_iou(inside, inside_others).masked_fill(seen.labels[:, None] != others.labels, 0.0)
    pairs = []
    assert seen.scores is not None
    for row in seen.scores.argsort(descending=True, stable=True).tolist():
        best = int(agreement[row].argmax())
        if float(agreement[row, best]) >= same_iou:
            pairs.append((row, best))
            agreement[:, best] = 0.0
    return pairs


def _clipped(boxes: Tensor, window: Tile) -> Tensor:
    """Boxes ``(N, 4)`` cut to ``window``; those outside have no area."""
    low = boxes.new_tensor([window.left, window.top] * 2)
    high = boxes.new_tensor([window.right, window.bottom] * 2)
    return boxes.maximum(low).minimum(high)


def _root(root: list[int], number: int) -> int:
    while root[number] != number:
        number = root[number]
    return number


def _unite(root: list[int], number: int, other: int) -> None:
    """Put two detections into one group, called by its first member."""
    first, second = sorted((_root(root, number), _root(root, other)))
    root[second] = first


def joined_groups(instances: Instances, roots: Sequence[int]) -> Instances:
    """One object for each group, in the order of their first rows; ``roots`` (N,) are the groups of ``instances``.

    It has the box around its members, the union of their masks, the best of their scores and the first one's label.
    """
    groups: dict[int, list[int]] = {}
    for row, root in enumerate(roots):
        groups.setdefault(root, []).append(row)
    if len(groups) == len(instances):
        return instances
    members = [torch.tensor(rows) for rows in groups.values()]
    assert instances.scores is not None
    low = torch.stack([instances.boxes[rows, :2].amin(dim=0) for rows in members])
    high = torch.stack([instances.boxes[rows, 2:].amax(dim=0) for rows in members])
    scores = torch.stack([instances.scores[rows].max() for rows in members])
    labels = instances.labels[torch.stack([rows[0] for rows in members])]
    masks = None
    if instances.masks is not None:
        masks = tuple(_union([instances.masks[row] for row in rows]) for rows in groups.values())
    return Instances(torch.cat([low, high], dim=1), labels, scores, masks)


def _union(masks: list[Rle]) -> Rle:
    """The union of masks of one photo, made run by run."""
    if len(masks) == 1:
        return masks[0]
    merged = coco_mask.merge(masks)
    return {"size": list(merged["size"]), "counts": merged["counts"].decode()}
