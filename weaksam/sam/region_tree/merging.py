"""Merge the superpixels of a photo in several orders, and measure the nodes of these trees for ranking."""

from __future__ import annotations

from dataclasses import dataclass

import higra
import numpy as np
from scipy import ndimage

from weaksam.sam.region_tree.watershed import depth_first

CRITERIA: dict[str, tuple[tuple[float, float, float], float, float]] = {
    "color": ((1, 1, 1), 0, 0),
    "chroma": ((0.3, 2, 2), 0, 0),
    "chroma_near": ((0.3, 2, 2), 0, 60),
    "near": ((1, 1, 1), 0, 60),
    "nearest": ((1, 1, 1), 0, 150),
    "light_near": ((1.5, 0.5, 0.5), 0, 60),
    "busy": ((1, 1, 1), 4, 0),
    "busy_near": ((1, 1, 1), 4, 60),
    "texture": ((0.3, 0.3, 0.3), 8, 60),
}
"""Ward's criterion in several spaces: weights of L, a and b, of the texture, of the position (in longer sides)."""

ORDERS = ("gradient", *CRITERIA)
"""All orders of merging: by the mean gradient across a border, or by ``CRITERIA``."""

FEATURES = (
    "size",
    "fill",
    "aspect",
    "rim",
    "smoothness",
    "step_out",
    "step_in",
    "contrast",
    "variety",
    "persistence",
    "birth",
    "across",
    "agreement",
    *ORDERS,
)
"""What is measured of a region, relative to its photo: a dim one measures like a bright one; see ``describe``."""


@dataclass(frozen=True)
class Superpixels:
    """S superpixels of a frame (h, w) and the E borders between two of them.

    ``labels``: int64 ``(h, w)`` in [0, S); ``graph``: S vertices and E edges; ``ends``: ``(E, 2)``. ``length`` and
    ``step``: ``(E,)``, pixel sides of each border and the sum of the Lab distances across them. ``area``: ``(S,)``
    pixels; ``boxes``: ``(S, 4)`` half-open xyxy; ``color``: ``(S, 3)`` mean Lab; ``square``: ``(S,)`` mean squared
    length of Lab; ``texture``: ``(S, 2)``; ``center``: ``(S, 2)`` mean xy; ``rim``: ``(S,)`` sides on the frame's edge.
    """

    labels: np.ndarray
    graph: higra.UndirectedGraph
    ends: np.ndarray
    length: np.ndarray
    step: np.ndarray
    area: np.ndarray
    boxes: np.ndarray
    color: np.ndarray
    square: np.ndarray
    texture: np.ndarray
    center: np.ndarray
    rim: np.ndarray


@dataclass(frozen=True)
class MergedRegions:
    """N different regions of T hierarchies over one frame.

    ``pixels``: int64 ``(T, h * w)``, each hierarchy's depth-first order of the flat pixels; ``tree``: ``(N,)``, whose
    slice ``spans (N, 2)`` is; ``boxes``: ``(N, 4)`` half-open xyxy in working pixels; ``area``: ``(N,)`` pixels;
    ``features``: ``(N, F)``, see ``FEATURES``; ``stability``: ``(N,)`` in [0, 1], the share of the merges that were
    left when the region came up through which it lasts.
    """

    pixels: np.ndarray
    tree: np.ndarray
    spans: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    features: np.ndarray
    stability: np.ndarray


def cut_superpixels(lab: np.ndarray, tree: higra.Tree, altitudes: np.ndarray, num: int) -> Superpixels:
    """Cut the hierarchical watershed of a Lab frame ``(h, w, 3)`` into about ``num`` superpixels; a flat one is one."""
    h, w = lab.shape[:2]
    cut = np.asarray(higra.labelisation_horizontal_cut_from_num_regions(tree, altitudes, num)).reshape(-1)
    labels = (np.cumsum(np.bincount(cut) > 0) - 1)[cut]
    num = int(labels.max()) + 1
    grid = labels.reshape(h, w)
    area = np.bincount(labels, minlength=num).astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = [np.bincount(labels, values[..., c].ravel(), num) for c in range(values.shape[-1])]
        return np.stack(sums, 1) / area[:, None]

    ends, length, step = borders(grid, lab, num)
    graph = higra.UndirectedGraph(num)
    graph.add_edges(ends[:, 0], ends[:, 1])
    sides = (grid[0], grid[-1], grid[:, 0], grid[:, -1])
    return Superpixels(
        labels=grid,
        graph=graph,
        ends=ends,
        length=length,
        step=step,
        area=area,
        boxes=label_boxes(grid, num),
        color=mean(lab),
        square=mean((lab * lab).sum(-1, keepdims=True))[:, 0],
        texture=mean(texture(lab[..., 0])),
        center=mean(np.stack(np.divmod(np.arange(h * w), w)[::-1], 1).reshape(h, w, 2)),
        rim=np.sum([np.bincount(side, minlength=num) for side in sides], axis=0).astype(np.float64),
    )


def borders(grid: np.ndarray, lab: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Touching labels of ``grid (h, w)``: pairs ``(E, 2)``, pixel sides between and summed Lab distance ``(E,)``."""
    pairs, steps = [], []
    for axis in (0, 1):
        before, after = (grid[:-1], grid[1:]) if axis == 0 else (grid[:, :-1], grid[:, 1:])
        differ = before != after
        pairs.append(np.sort(np.stack([before[differ], after[differ]], 1), axis=1))
        steps.append(np.linalg.norm(np.diff(lab, axis=axis)[differ], axis=-1))
    low, high = np.concatenate(pairs).T
    keys, which = np.unique(low * num + high, return_inverse=True)
    length = np.bincount(which, minlength=len(keys)).astype(np.float64)
    return np.stack(np.divmod(keys, num), 1), length, np.bincount(which, np.concatenate(steps), len(keys))


def label_boxes(grid: np.ndarray, num: int) -> np.ndarray:
    """Half-open xyxy float64 ``(S, 4)`` of the labels 0 to ``num`` - 1 of ``grid (h, w)``, each of which occurs."""
    windows = ndimage.find_objects(grid + 1, max_label=num)
    return np.array([(x.start, y.start, x.stop, y.stop) for y, x in windows], dtype=np.float64)


def texture(lightness: np.ndarray) -> np.ndarray:
    """How busy a lightness frame is, ``(h, w, 2)``: its gradient, and its deviation from its surroundings."""
    gradient = np.zeros_like(lightness)
    gradient[:-1] += np.abs(np.diff(lightness, axis=0))
    gradient[:, :-1] += np.abs(np.diff(lightness, axis=1))
    deviation = np.abs(lightness - ndimage.gaussian_filter(lightness, 3))
    return np.stack([gradient, ndimage.gaussian_filter(deviation, 2)], -1)


def merge(superpixels: Superpixels, order: str) -> higra.Tree:
    """The binary tree in which the superpixels merge, the cheapest pair first, by one of ``ORDERS``."""
    if order == "gradient":
        return higra.binary_partition_tree_average_linkage(
            superpixels.graph, superpixels.step / superpixels.length, superpixels.length
        )[0]
    color, busy, near = CRITERIA[order]
    side = max(superpixels.labels.shape)
    space = [superpixels.color * np.array(color), superpixels.texture * busy, superpixels.center * (near / side)]
    return higra.binary_partition_tree_ward_linkage(superpixels.graph, np.concatenate(space, 1), superpixels.area)[0]


@dataclass(frozen=True)
class NodeSums:
    """The V nodes of one tree over superpixels, summed up.

    ``area``, ``rim``: ``(V,)``; ``boxes``: ``(V, 4)``; ``color``: ``(V, 3)`` mean; ``variance``: ``(V,)`` of the Lab
    values. ``outline``, ``step_out``: ``(V,)``, pixel sides and mean Lab distance along the node's border, without the
    frame's edge; ``ring``: ``(V, 3)``, mean colour of the superpixels across it; ``step_in``: ``(V,)``, the mean
    distance across the borders of superpixels inside it, 0 where there is none.
    """

    area: np.ndarray
    rim: np.ndarray
    boxes: np.ndarray
    color: np.ndarray
    variance: np.ndarray
    outline: np.ndarray
    step_out: np.ndarray
    ring: np.ndarray
    step_in: np.ndarray


def node_sums(superpixels: Superpixels, tree: higra.Tree) -> NodeSums:
    """Measure every node; along its outline lies what its superpixels have, less what lies between two of them."""
    num = len(superpixels.area)
    first, second = superpixels.ends.T
    # Length, step and the colour across each border, as its first and as its second end has them
    of_first = np.column_stack(
        [superpixels.length, superpixels.step, superpixels.length[:, None] * superpixels.color[second]]
    )
    of_second = np.column_stack(
        [superpixels.length, superpixels.step, superpixels.length[:, None] * superpixels.color[first]]
    )
    around = np.stack(
        [np.bincount(first, a, num) + np.bincount(second, b, num) for a, b in zip(of_first.T, of_second.T, strict=True)]
    )
    area = superpixels.area[:, None]
    own = np.column_stack(
        [area, superpixels.rim, superpixels.square * superpixels.area, superpixels.color * area, around.T]
    )
    total = higra.accumulate_sequential(tree, own, higra.Accumulators.sum)
    joint = tree.lowest_common_ancestor(first, second)
    between = np.stack([np.bincount(joint, both, tree.num_vertices()) for both in (of_first + of_second).T], 1)
    between = higra.accumulate_and_add_sequential(tree, between, between[:num], higra.Accumulators.sum)
    corners = np.column_stack([superpixels.boxes[:, :2], -superpixels.boxes[:, 2:]])
    along = total[:, 6:] - between
    color = total[:, 3:6] / total[:, :1]
    return NodeSums(
        area=total[:, 0],
        rim=total[:, 1],
        boxes=higra.accumulate_sequential(tree, corners, higra.Accumulators.min) * np.array([1, 1, -1, -1]),
        color=color,
        variance=np.maximum(total[:, 2] / total[:, 0] - (color**2).sum(1), 0),
        outline=along[:, 0],
        step_out=along[:, 1] / np.maximum(along[:, 0], 1),
        ring=along[:, 2:] / np.maximum(along[:, :1], 1),
        step_in=between[:, 1] / np.maximum(between[:, 0], 1),
    )


def describe(superpixels: Superpixels, tree: higra.Tree, sums: NodeSums) -> tuple[np.ndarray, np.ndarray]:
    """The first twelve ``FEATURES (V, 12)`` of every node, and its stability ``(V,)``.

    Logs of: area by the frame's, area by the box's, the box's longer by its shorter side; the part of the box's
    outline on the frame's edge; logs of: the box's outline by the region's, the mean step along the outline and at
    borders inside by the mean of all borders; colour distance of the ring to the inside and deviation inside, by the
    deviation of the photo; logs of: regions left at the birth by those left at the end, those left at the birth; sides
    of the frame that the box spans.
    """
    num = tree.num_vertices()
    wide, high = sums.boxes[:, 2] - sums.boxes[:, 0], sums.boxes[:, 3] - sums.boxes[:, 1]
    around = 2 * (wide + high)
    usual_step = superpixels.step.sum() / max(superpixels.length.sum(), 1) + 1e-6
    variance = sums.variance[-1] + 1e-6
    # Regions left when a node came up
    birth = np.minimum(num - np.arange(num), len(superpixels.area)).astype(np.float64)
    lasted = birth[tree.parents()] / birth
    features = [
        np.log(sums.area / superpixels.labels.size),
        np.log(sums.area / (wide * high)),
        np.abs(np.log(wide / high)),
        sums.rim / around,
        np.log(around / (sums.outline + sums.rim)),
        np.log(sums.step_out / usual_step + 0.1),
        np.log(sums.step_in / usual_step + 0.1),
        np.linalg.norm(sums.ring - sums.color, axis=1) / np.sqrt(variance),
        np.sqrt(sums.variance / variance),
        -np.log(lasted),
        np.log(birth),
        (wide >= superpixels.labels.shape[1] - 1).astype(float) + (high >= superpixels.labels.shape[0] - 1),
    ]
    return np.stack(features, 1), 1 - lasted


def merged_regions(superpixels: Superpixels, min_area: float, max_area: float) -> MergedRegions:
    """The nodes of all ``ORDERS`` that cover between ``min_area`` and ``max_area`` of the frame, each region once.

    Nodes of the same box and area count as the same region; ``agreement`` is the log of how many orders have it, and
    it keeps the other features of the first. Fewer than two superpixels have no regions.
    """
    if len(superpixels.area) < 2:
        return no_regions(superpixels.labels.size)
    by_order = [_regions_of_order(superpixels, number, min_area, max_area) for number in range(len(ORDERS))]

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(regions, name) for regions in by_order])

    keep, agreement = first_of_each(np.column_stack([column("boxes"), column("area")]))
    features = column("features")[keep]
    features[:, FEATURES.index("agreement")] = np.log(agreement)
    return MergedRegions(
        pixels=column("pixels"),
        tree=column("tree")[keep],
        spans=column("spans")[keep],
        boxes=column("boxes")[keep],
        area=column("area")[keep],
        features=features,
        stability=column("stability")[keep],
    )


def _regions_of_order(superpixels: Superpixels, number: int, min_area: float, max_area: float) -> MergedRegions:
    """The regions of the one tree that merges by order ``number`` of ``ORDERS``.

    Single superpixels are regions of the first order only; ``agreement`` is 0 still.
    """
    tree = merge(superpixels, ORDERS[number])
    sums = node_sums(superpixels, tree)
    features, stability = describe(superpixels, tree, sums)
    size = sums.area / superpixels.labels.size
    fits = (size >= min_area) & (size <= max_area)
    fits[: len(superpixels.area)] &= number == 0
    nodes = np.flatnonzero(fits)
    position, first = depth_first(tree, sums.area)
    rank = position.argsort().argsort().astype(np.uint16)
    order = np.zeros((len(nodes), len(ORDERS)))
    order[:, number] = 1
    return MergedRegions(
        pixels=np.argsort(rank[superpixels.labels.reshape(-1)], kind="stable")[None],
        tree=np.full(len(nodes), number),
        spans=np.stack([first, first + sums.area], 1)[nodes],
        boxes=sums.boxes[nodes],
        area=sums.area[nodes],
        features=np.column_stack([features[nodes], np.zeros(len(nodes)), order]),
        stability=stability[nodes],
    )


def no_regions(frame_area: int) -> MergedRegions:
    """The regions of a flat frame of ``frame_area`` pixels: none."""
    none = np.zeros(0)
    return MergedRegions(
        np.zeros((0, frame_area)), none, np.zeros((0, 2)), np.zeros((0, 4)), none, np.zeros((0, len(FEATURES))), none
    )


def first_of_each(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each different row of whole numbers ``(N, C)`` first occurs, ascending, and how often it does, ``(M,)``."""
    which = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T.astype(np.int64):
        _, which = np.unique(which * (column.max(initial=0) + 1) + column, return_inverse=True)
    _, first, count = np.unique(which, return_index=True, return_counts=True)
    order = first.argsort()
    return first[order], count[order]
