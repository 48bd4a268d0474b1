"""A training-free promptable segmenter: the regions of one hierarchical watershed answer every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import higra
import numpy as np
import torch
from PIL import Image
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from weaksam.config import Settings, fingerprint_of
from weaksam.sam.protocol import NUM_MASKS, Embedding, Masks, Regions, check_prompts
from weaksam.structures.boxes import nms, pairwise_iou, scale

ALGORITHM = "watershed-by-volume/1"  # part of the fingerprint: raise it whenever an answer may change


class RegionTreeSettings(Settings):
    """How the tree is built and which of its nodes count as regions."""

    long_side: int = Field(
        default=256, ge=16, le=2048, description="longer side of the working frame, pixels; never enlarges"
    )
    smoothing: float = Field(
        default=1.0, ge=0, le=10, description="Gaussian sigma in working pixels before the Lab distance"
    )
    min_area: float = Field(default=0.002, gt=0, lt=1, description="smallest region, as a fraction of the photo")
    max_area: float = Field(default=0.97, gt=0, lt=1, description="largest region, as a fraction of the photo")
    nms_iou: float = Field(default=0.85, gt=0, le=1, description="suppression of the ranked regions, on their boxes")
    size_ratio: float = Field(default=1.5, gt=1, le=10, description="least area ratio between two masks of one prompt")


@dataclass(frozen=True)
class RegionTree(Embedding):
    """The N candidate regions of one photo, small to large, the whole photo last.

    ``rank``: int32 ``(h, w)``, each working pixel's place in a depth-first order of the tree; region n is the pixels
    with ``first[n] <= rank < last[n]``. ``boxes``: float32 ``(N, 4)`` in photo pixels. ``score`` and ``stability``:
    ``(N,)`` in [0, 1], see ``describe_nodes``. ``area``: ``(N,)`` in working pixels.
    """

    rank: Tensor
    first: Tensor
    last: Tensor
    boxes: Tensor
    score: Tensor
    stability: Tensor
    area: Tensor

    def masks(self, index: Tensor) -> Tensor:
        """Regions ``index (N,)`` as bool ``(N, h, w)`` in the working frame."""
        first, last = self.first[index, None, None], self.last[index, None, None]
        return (self.rank >= first) & (self.rank < last)


class RegionTreeSegmenter:
    """Segmenter over a hierarchical watershed by volume of the photo's Lab gradients; nothing is learned.

    Method: a 4-adjacency graph weighted by the Lab distance of the slightly smoothed photo; its watershed hierarchy
    by volume (Cousty and Najman, ISMM 2011; ``higra``). A point is answered by three nested nodes on its leaf-to-root
    path, a box by the node whose box fits it best, and grid prompting by enumerating the nodes (``proposals``).
    Runs on the CPU whatever the device.
    """

    name: ClassVar[str] = "tree"

    def __init__(self, settings: RegionTreeSettings | None = None) -> None:
        self.settings = settings or RegionTreeSettings()
        self.fingerprint = fingerprint_of({"algorithm": ALGORITHM, "settings": self.settings})

    def encode(self, image: np.ndarray) -> RegionTree:
        """Build the tree of one upright RGB photo, uint8 ``(H, W, 3)``; about 0.1 s."""
        frame = working_frame(image, self.settings.long_side)
        tree, altitudes = build_tree(frame, self.settings.smoothing)
        return describe_nodes(tree, altitudes, frame.shape[:2], image.shape[:2], self.settings)

    def predict(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> Masks:
        """Three regions per prompt, small to large, see ``Segmenter.predict``.

        ``iou`` of a point prompt is the region's ``score`` times the share of the prompt's points it gets right; of a
        box prompt it is the IoU of the region's box with the prompt (times that share where there are points too).
        A prompt that no region answers gets the whole photo, with ``iou`` 0 for points.
        """
        assert isinstance(embedding, RegionTree), "predict needs what this segmenter's encode returned"
        check_prompts(points, point_labels, boxes)
        merit = torch.ones(1, len(embedding.area))
        if boxes is not None:
            merit = pairwise_iou(boxes.float().cpu(), embedding.boxes)
        if points is not None:
            share = point_share(embedding, points, point_labels)
            merit = merit * share if boxes is not None else embedding.score * share
        index = pick_three(merit, embedding.area, self.settings.size_ratio)  # (P, 3)
        h, w = embedding.rank.shape
        masks = embedding.masks(index.reshape(-1)).reshape(len(index), NUM_MASKS, h, w)
        iou = merit.gather(1, index)
        return Masks(masks, iou, embedding.stability[index], embedding.boxes[index], embedding.size)

    def proposals(self, embedding: Embedding, num: int) -> Regions:
        """The best ``num`` regions of the photo by ``score``, near-duplicate boxes suppressed; none in a flat photo."""
        assert isinstance(embedding, RegionTree), "proposals needs what this segmenter's encode returned"
        index = torch.arange(len(embedding.area) - 1)  # all but the whole photo
        keep = nms(embedding.boxes[index], embedding.score[index], self.settings.nms_iou)[:num]
        score, stability = embedding.score[keep], embedding.stability[keep]
        return Regions(embedding.masks(keep), embedding.boxes[keep], score, stability, embedding.size)


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


def build_tree(frame: np.ndarray, smoothing: float) -> tuple[higra.Tree, np.ndarray]:
    """Hierarchical watershed by volume of an RGB frame ``(h, w, 3)``: the tree and its altitudes ``(V,)``."""
    lab = ndimage.gaussian_filter(lab_from_rgb(frame), (smoothing, smoothing, 0))
    graph = higra.get_4_adjacency_graph(lab.shape[:2])
    weights = higra.weight_graph(graph, lab, higra.WeightFunction.L2)
    return higra.watershed_hierarchy_by_volume(graph, weights)


def describe_nodes(
    tree: higra.Tree,
    altitudes: np.ndarray,
    frame: tuple[int, int],
    size: tuple[int, int],
    settings: RegionTreeSettings,
) -> RegionTree:
    """Keep the nodes of a sensible size and measure them.

    With a(n) the node's altitude and p its parent: ``stability`` = 1 - a(n) / a(p), how much of the parent's scale the
    region survives; ``score`` = (persistence x sqrt(fill) x sqrt(size)) ** (1/4) with persistence = (a(p) - a(n)) /
    a(root), fill = area / box area, size = area / photo area. The exponent spreads the scores and changes no order.
    The whole photo (the root) comes last with score 0: the answer when nothing else is.
    """
    h, w = frame
    parents, root = tree.parents(), tree.root()
    area = higra.attribute_area(tree)
    fraction = area / (h * w)
    nodes = np.flatnonzero((fraction >= settings.min_area) & (fraction <= settings.max_area))
    nodes = nodes[np.argsort(area[nodes], kind="stable")]
    boxes = node_boxes(tree, frame)
    fill = area[nodes] / np.prod(boxes[nodes, 2:] - boxes[nodes, :2], axis=1)
    above = altitudes[parents[nodes]]
    stability = 1 - altitudes[nodes] / above
    persistence = above * stability / altitudes[root]
    score = (persistence * np.sqrt(fill) * np.sqrt(fraction[nodes])) ** 0.25
    rank, first = depth_first(tree, area)
    nodes = np.append(nodes, root)
    return RegionTree(
        size=size,
        rank=torch.from_numpy(rank.reshape(h, w)),
        first=torch.from_numpy(first[nodes]),
        last=torch.from_numpy((first + area)[nodes].astype(np.int32)),
        boxes=scale(torch.from_numpy(boxes[nodes]).float(), size[1] / w, size[0] / h),
        score=torch.from_numpy(np.append(score, 0.0)).float(),
        stability=torch.from_numpy(np.append(stability, 1.0)).float(),
        area=torch.from_numpy(area[nodes].astype(np.int64)),
    )


def node_boxes(tree: higra.Tree, frame: tuple[int, int]) -> np.ndarray:
    """Half-open xyxy ``(V, 4)`` of every node, leaves being the pixels of ``frame`` in row-major order."""
    y, x = np.divmod(np.arange(frame[0] * frame[1], dtype=np.float64), frame[1])
    low = higra.accumulate_sequential(tree, np.stack([x, y], 1), higra.Accumulators.min)
    high = higra.accumulate_sequential(tree, np.stack([x + 1, y + 1], 1), higra.Accumulators.max)
    return np.concatenate([low, high], axis=1)


def depth_first(tree: higra.Tree, area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of every leaf ``(L,)`` and first place of every node ``(V,)``: node n owns ``[first, first + area)``."""
    parents, root = tree.parents(), tree.root()
    order = np.argsort(parents, kind="stable")  # siblings side by side
    order = order[order != root]
    ahead = np.cumsum(area[order]) - area[order]
    starts = np.flatnonzero(np.diff(parents[order], prepend=-1))
    group = np.cumsum(np.diff(parents[order], prepend=-1) != 0) - 1
    offset = np.zeros(len(parents))
    offset[order] = ahead - ahead[starts][group]
    first = higra.propagate_sequential_and_accumulate(tree, offset, higra.Accumulators.sum).astype(np.int32)
    return first[: tree.num_leaves()], first


def point_share(tree: RegionTree, points: Tensor, point_labels: Tensor | None) -> Tensor:
    """``(P, N)`` in [0, 1]: (foreground points inside - background points inside) / foreground points, at least 0."""
    h, w = tree.rank.shape
    labels = torch.ones(points.shape[:2]) if point_labels is None else point_labels.cpu()
    x = (points[..., 0].cpu() * w / tree.size[1]).long().clamp(0, w - 1)
    y = (points[..., 1].cpu() * h / tree.size[0]).long().clamp(0, h - 1)
    at = tree.rank[y, x][:, None, :]  # (P, 1, K)
    inside = (at >= tree.first[:, None]) & (at < tree.last[:, None])  # (P, N, K)
    right = (inside & (labels == 1)[:, None]).sum(-1).float()
    wrong = (inside & (labels == 0)[:, None]).sum(-1)
    return ((right - wrong) / (labels == 1).sum(-1, keepdim=True).clamp(min=1)).clamp(min=0)


def pick_three(merit: Tensor, area: Tensor, size_ratio: float) -> Tensor:
    """Indices ``(P, 3)`` of the three best regions by ``merit (P, N)``, small to large, of clearly different size.

    Taken greedily: the best region, then the best of those whose area ``(N,)`` differs by at least ``size_ratio`` from
    every one taken. Where fewer than three have merit the best is repeated; where none has, the last region (the whole
    photo) is. Ties go to the larger region.
    """
    left = merit.double() + 1e-9 * torch.arange(1, len(area) + 1) * (merit > 0)
    left[:, -1] = left[:, -1].clamp(min=1e-12)
    best = left.argmax(1)
    picks = [best]
    for _ in range(NUM_MASKS - 1):
        ratio = area[None].float() / area[picks[-1], None]
        left = left.masked_fill((ratio < size_ratio) & (ratio > 1 / size_ratio), 0)
        picks.append(torch.where(left.amax(1) > 1e-12, left.argmax(1), best))
    index = torch.stack(picks, 1)
    return index.gather(1, area[index].argsort(dim=1, stable=True))
