"""Build the hierarchical watershed of a photo, and measure its nodes and the pairs of nodes that touch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import higra
import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from weaksam.structures.boxes import nms


@dataclass(frozen=True)
class Nodes:
    """N regions of one tree over a working frame (h, w).

    ``pixels``: int64 ``(h * w,)``, the flat pixels in a depth-first order of the tree, of which every node is a slice;
    ``frame``: (h, w). ``spans``: int32 ``(N, 2, 2)``, first and last (exclusive) position of a region's one or two
    nodes; the second span of a single node is empty. ``boxes``: float32 ``(N, 4)`` half-open xyxy in working pixels;
    ``area``: int64 ``(N,)`` in working pixels; ``salience`` and ``stability``: float32 ``(N,)`` in [0, 1], see
    ``salient_nodes``.
    """

    pixels: Tensor
    frame: tuple[int, int]
    spans: Tensor
    boxes: Tensor
    area: Tensor
    salience: Tensor
    stability: Tensor


def region_masks(pixels: Tensor, spans: Tensor, tree: Tensor, frame: tuple[int, int]) -> Tensor:
    """Bool ``(N, h, w)`` of regions with ``spans (N, 2, 2)`` in the trees ``tree (N,)``.

    ``pixels``: int64 ``(T, h * w)``, each tree's pixels in depth-first order: a span is a slice of it.
    """
    masks = np.zeros((len(spans), frame[0] * frame[1]), dtype=bool)
    ordered = pixels.numpy()
    for mask, t, two in zip(masks, tree.tolist(), spans.tolist(), strict=True):
        for first, last in two:
            mask[ordered[t, first:last]] = True
    return torch.from_numpy(masks).reshape(len(spans), *frame)


def inside_spans(rank: Tensor, spans: Tensor) -> Tensor:
    """Bool ``(N, P)``: whether ``rank (N, P)`` lies in either of each region's ``spans (N, 2, 2)``."""
    first, last = spans[..., 0, None], spans[..., 1, None]  # (N, 2, 1)
    return ((rank[:, None] >= first) & (rank[:, None] < last)).any(1)


def working_frame(image: np.ndarray, long_side: int) -> np.ndarray:
    """``image`` shrunk so that its longer side is at most ``long_side``; both sides at least 2, uint8 ``(h, w, 3)``."""
    height, width = image.shape[:2]
    ratio = min(1.0, long_side / max(height, width))
    size = (max(2, round(width * ratio)), max(2, round(height * ratio)))
    if size == (width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def lab_from_rgb(image: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) float32 ``(h, w, 3)`` of an sRGB uint8 photo; L in [0, 100]."""
    levels = np.arange(256) / 255.0
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)
    to_xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear[image] @ (to_xyz / to_xyz.sum(1, keepdims=True)).T.astype(np.float32)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def build_tree(lab: np.ndarray, smoothing: float) -> tuple[higra.Tree, np.ndarray]:
    """Hierarchical watershed by volume of a Lab frame ``(h, w, 3)``: the tree and its altitudes ``(V,)``.

    Cousty and Najman, "Incremental algorithm for hierarchical minimum spanning forests and saliency of watershed
    cuts", ISMM 2011, on the 4-adjacency graph weighted by the Lab distance of the smoothed frame.
    """
    smooth = ndimage.gaussian_filter(lab, (smoothing, smoothing, 0))
    return higra.watershed_hierarchy_by_volume(pixel_graph(*smooth.shape[:2]), edge_weights(smooth))


@lru_cache(maxsize=16)
def pixel_graph(height: int, width: int) -> higra.UndirectedGraph:
    """The 4-adjacency graph of a frame, kept because building it takes longer than weighting it."""
    return higra.get_4_adjacency_graph((height, width))


def edge_weights(values: np.ndarray) -> np.ndarray:
    """Euclidean distance float64 ``(E,)`` of the ends of each edge of ``pixel_graph``, for a frame ``(h, w, C)``.

    The graph lists the edges pixel by pixel in row-major order, the one to the right before the one below; the same as
    ``higra.weight_graph(graph, values, higra.WeightFunction.L2)`` in a tenth of its time.
    """
    h, w = values.shape[:2]
    exact = values.astype(np.float64)
    squared = np.zeros((h, w, 2))
    for channel in range(values.shape[2]):
        squared[:, :-1, 0] += np.diff(exact[..., channel], axis=1) ** 2
        squared[:-1, :, 1] += np.diff(exact[..., channel], axis=0) ** 2
    exists = np.ones((h, w, 2), dtype=bool)
    exists[:, -1, 0] = exists[-1, :, 1] = False
    return np.sqrt(squared[exists])


def salient_nodes(
    tree: higra.Tree, altitudes: np.ndarray, frame: tuple[int, int], min_area: float, max_area: float
) -> Nodes:
    """The nodes of a frame's tree that cover between ``min_area`` and ``max_area`` of it, small to large.

    With a(n) the node's altitude and p its parent: ``stability`` = 1 - a(n) / a(p), how much of the parent's scale the
    region survives; ``salience`` = persistence x sqrt(fill) x sqrt(size) with persistence = (a(p) - a(n)) / a(root),
    fill = area / box area and size = area / frame area. A flat frame has no such node.
    """
    h, w = frame
    area = higra.attribute_area(tree)
    size = area / (h * w)
    lasting = altitudes[tree.parents()] > altitudes  # in a flat frame nothing is
    nodes = np.flatnonzero((size >= min_area) & (size <= max_area) & lasting)
    nodes = nodes[np.argsort(area[nodes], kind="stable")]
    boxes = node_boxes(tree, (h, w))[nodes]
    fill = area[nodes] / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    above = altitudes[tree.parents()[nodes]]
    persistence = (above - altitudes[nodes]) / altitudes[tree.root()]
    rank, first = depth_first(tree, area)
    pixels = np.empty(h * w, dtype=np.int64)
    pixels[rank] = np.arange(h * w)
    spans = np.zeros((len(nodes), 2, 2), dtype=np.int32)
    spans[:, 0] = np.stack([first[nodes], first[nodes] + area[nodes]], 1)
    return Nodes(
        pixels=torch.from_numpy(pixels),
        frame=(h, w),
        spans=torch.from_numpy(spans),
        boxes=torch.from_numpy(boxes).float(),
        area=torch.from_numpy(area[nodes].astype(np.int64)),
        salience=torch.from_numpy(persistence * np.sqrt(fill) * np.sqrt(size[nodes])).float(),
        stability=torch.from_numpy(1 - altitudes[nodes] / above).float(),
    )


def node_boxes(tree: higra.Tree, frame: tuple[int, int]) -> np.ndarray:
    """Half-open xyxy ``(V, 4)`` of every node, leaves being the pixels of ``frame`` in row-major order."""
    y, x = np.divmod(np.arange(frame[0] * frame[1]), frame[1])
    corners = np.stack([x, y, -1 - x, -1 - y], 1).astype(np.float32)
    return higra.accumulate_sequential(tree, corners, higra.Accumulators.min) * np.array([1, 1, -1, -1], np.float32)


def depth_first(tree: higra.Tree, area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each leaf ``(L,)``, first position of each node ``(V,)``: node n owns ``[first, first + area)``."""
    parents = tree.parents()
    order = np.argsort(parents, kind="stable")  # siblings side by side
    order = order[order != tree.root()]
    ahead = np.cumsum(area[order]) - area[order]
    new_parent = np.diff(parents[order], prepend=-1) != 0
    offset = np.zeros(len(parents))
    offset[order] = ahead - ahead[new_parent][np.cumsum(new_parent) - 1]
    first = higra.propagate_sequential_and_accumulate(tree, offset, higra.Accumulators.sum).astype(np.int32)
    return first[: tree.num_leaves()], first


def touching_pairs(nodes: Nodes, num_nodes: int, nms_iou: float, max_area: float) -> Nodes:
    """Unions of two disjoint touching nodes among the ``num_nodes`` most salient that differ (boxes below ``nms_iou``).

    An object of two colours is no node of the tree, but often such a pair (Arbelaez et al., "Multiscale combinatorial
    grouping", CVPR 2014). ``salience`` = the lesser of the two times sqrt(fill of the union), ``stability`` the lesser.
    """
    top = best_distinct(nodes.boxes, nodes.salience, nms_iou, num_nodes)
    i, j = touching(nodes.pixels, nodes.spans[top, 0], nodes.frame).triu(1).nonzero().T
    i, j = top[i], top[j]
    low = torch.minimum(nodes.boxes[i, :2], nodes.boxes[j, :2])
    high = torch.maximum(nodes.boxes[i, 2:], nodes.boxes[j, 2:])
    area = nodes.area[i] + nodes.area[j]
    fill = area / (high - low).prod(1)
    pairs = Nodes(
        pixels=nodes.pixels,
        frame=nodes.frame,
        spans=torch.stack([nodes.spans[i, 0], nodes.spans[j, 0]], 1),
        boxes=torch.cat([low, high], 1),
        area=area,
        salience=torch.minimum(nodes.salience[i], nodes.salience[j]) * fill.sqrt(),
        stability=torch.minimum(nodes.stability[i], nodes.stability[j]),
    )
    return _select(pairs, area <= max_area * len(nodes.pixels))


def touching(pixels: Tensor, spans: Tensor, frame: tuple[int, int]) -> Tensor:
    """Which of a tree's nodes are disjoint and have 4-neighbouring pixels: symmetric bool ``(N, N)``.

    ``pixels``: int64 ``(h * w,)`` in depth-first order; ``spans (N, 2)``, the slice of it that each node is. Pixels
    are told apart only by the smallest of the nodes they lie in, so that one pass over the frame serves all pairs.
    """
    num = len(spans)
    first, last = spans.unbind(1)
    inside = (first[:, None] >= first) & (last[:, None] <= last)  # (cell, node): the cell lies in the node
    smallest = np.full(len(pixels), num)  # where no node is
    for node in (first - last).argsort(stable=True).tolist():
        smallest[first[node] : last[node]] = node
    cell = np.empty(len(pixels), dtype=np.int64)
    cell[pixels.numpy()] = smallest
    cells = cell.reshape(frame)
    border = np.zeros((num + 1) ** 2, dtype=bool)
    border[cells[:, :-1] * (num + 1) + cells[:, 1:]] = True
    border[cells[:-1] * (num + 1) + cells[1:]] = True
    met = torch.from_numpy(border).reshape(num + 1, num + 1)[:num, :num]
    share = inside.T.float() @ (met | met.T).float() @ inside.float() > 0
    return share & ((first[:, None] >= last) | (first >= last[:, None]))


def best_distinct(boxes: Tensor, scores: Tensor, nms_iou: float, num: int) -> Tensor:
    """The first ``num`` indices, int64 ``(K,)``, that ``nms`` of ``boxes (N, 4)`` with ``scores (N,)`` would keep.

    It reads no more of the best boxes than it needs. K is less than ``num`` where fewer are kept, 0 of no box.
    """
    order = scores.argsort(descending=True, stable=True)
    num_candidates = 4 * num
    while True:
        best = order[:num_candidates]
        keep = best[nms(boxes[best], scores[best], nms_iou)[:num]]
        if len(keep) == num or num_candidates >= len(order):
            return keep
        num_candidates *= 2


def _select(nodes: Nodes, which: Tensor) -> Nodes:
    """The regions ``which`` (indices or bool), of the same tree."""
    names = ("spans", "boxes", "area", "salience", "stability")
    return Nodes(nodes.pixels, nodes.frame, *(getattr(nodes, name)[which] for name in names))
