"""A training-free promptable segmenter: the regions of hierarchical watersheds answer every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings, fingerprint_of
from weaksam.sam.protocol import BACKGROUND, FOREGROUND, NUM_MASKS, Embedding, Masks, Regions, check_prompts
from weaksam.sam.watershed import (
    Nodes,
    best_distinct,
    inside_spans,
    lab_from_rgb,
    region_masks,
    salient_nodes,
    touching_pairs,
    working_frame,
)
from weaksam.structures.boxes import pairwise_iou, scale

ALGORITHM = "watershed-by-volume/3"  # part of the fingerprint: raise it whenever an answer may change


class RegionTreeSettings(Settings):
    """How the trees are built and which of their regions count."""

    long_side: int = Field(default=256, ge=16, le=2048, description="longer side of the working frame, pixels")
    smoothings: tuple[float, ...] = Field(
        default=(1.0, 0.5, 2.0),
        min_length=1,
        description="a tree for each Gaussian sigma in working pixels; the first answers point prompts",
    )
    num_paired: int = Field(
        default=40, ge=0, le=200, description="most salient nodes of each tree whose touching pairs are regions too"
    )
    min_area: float = Field(default=0.002, gt=0, lt=1, description="smallest region, as a fraction of the photo")
    max_area: float = Field(default=0.97, gt=0, lt=1, description="largest region, as a fraction of the photo")
    nms_iou: float = Field(default=0.85, gt=0, le=1, description="suppression of the ranked regions, on their boxes")
    size_ratio: float = Field(default=1.5, gt=1, le=10, description="least area ratio between two masks of one prompt")


@dataclass(frozen=True)
class RegionTree(Embedding):
    """The N candidate regions of one photo from T trees; the last one is the whole photo.

    ``pixels``: int64 ``(T, h * w)`` and ``spans``: int32 ``(N, 2, 2)``, see ``Nodes``; ``frame``: (h, w); ``tree``:
    int64 ``(N,)``, whose pixels a span slices. ``boxes``: float32 ``(N, 4)`` in photo pixels; ``area``: int64 ``(N,)``
    in working pixels; ``scores``, ``stability`` and ``fill`` (area / box area): ``(N,)`` in [0, 1]. ``nested``: bool
    ``(N,)``, the nodes of the first tree, of which any two are disjoint or one inside the other.
    """

    pixels: Tensor
    frame: tuple[int, int]
    tree: Tensor
    spans: Tensor
    boxes: Tensor
    area: Tensor
    scores: Tensor
    stability: Tensor
    fill: Tensor
    nested: Tensor

    def masks(self, index: Tensor) -> Tensor:
        """Regions ``index (N,)`` as bool ``(N, h, w)`` in the working frame."""
        return region_masks(self.pixels, self.spans[index], self.tree[index], self.frame)


class RegionTreeSegmenter:
    """Segmenter over hierarchical watersheds of the photo's Lab gradients; nothing is learned.

    One tree for each smoothing; their nodes of sensible size, and touching pairs of the most salient ones, are the
    regions. A point is answered by three nested nodes on its leaf-to-root path in the first tree, a box by the region
    that fits it best and fills its own box, and a grid by listing the regions (``proposals``). A region's score is its
    salience to the power 1/4, which spreads the scores over [0, 1] and changes no order; the whole photo, the answer
    when nothing else is, scores 0. Runs on the CPU whatever the device.
    """

    name: ClassVar[str] = "tree"

    def __init__(self, settings: RegionTreeSettings | None = None) -> None:
        self.settings = settings or RegionTreeSettings()
        self.fingerprint = fingerprint_of({"algorithm": ALGORITHM, "settings": self.settings})

    def encode(self, image: np.ndarray) -> RegionTree:
        """Build the trees of one upright RGB photo, uint8 ``(H, W, 3)``; about 0.1 s each."""
        settings = self.settings
        lab = lab_from_rgb(working_frame(image, settings.long_side))
        parts: list[Nodes] = []
        for smoothing in settings.smoothings:
            nodes = salient_nodes(lab, smoothing, settings.min_area, settings.max_area)
            parts += [nodes, touching_pairs(nodes, settings.num_paired, settings.nms_iou, settings.max_area)]
        return collect_regions(parts, (image.shape[0], image.shape[1]))

    def predict(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        min_pred_iou: float | None = None,
    ) -> Masks:
        """Three regions per prompt, small to large, see ``Segmenter.predict``.

        ``iou`` of a point prompt is the region's score times the share of the prompt's points it gets right; of a box
        prompt it is the IoU of the region's box with the prompt times sqrt(fill), lest a thin rim stands for what it
        surrounds (times that share where there are points too). A prompt that no region answers gets the whole photo.
        """
        assert isinstance(embedding, RegionTree), "predict needs what this segmenter's encode returned"
        check_prompts(points, point_labels, boxes)
        merit = torch.ones(())
        if boxes is not None:
            merit = pairwise_iou(boxes.float().cpu(), embedding.boxes) * embedding.fill.sqrt()
        if points is not None:
            merit = merit * point_share(embedding, points, point_labels)
        if boxes is None:
            merit = merit * embedding.scores * embedding.nested
        index = pick_three(merit, embedding.area, self.settings.size_ratio)  # (P, 3)
        masks = embedding.masks(index.reshape(-1)).reshape(len(index), NUM_MASKS, *embedding.frame)
        iou = merit.gather(1, index)
        return Masks(masks, iou, embedding.stability[index], embedding.boxes[index], embedding.size)

    def proposals(self, embedding: Embedding, num: int) -> Regions:
        """The best ``num`` regions of the photo by score, near-duplicate boxes suppressed; none in a flat photo."""
        assert isinstance(embedding, RegionTree), "proposals needs what this segmenter's encode returned"
        keep = best_distinct(embedding.boxes[:-1], embedding.scores[:-1], self.settings.nms_iou, num)
        scores, stability = embedding.scores[keep], embedding.stability[keep]
        return Regions(embedding.masks(keep), embedding.boxes[keep], scores, stability, embedding.size)


def collect_regions(parts: list[Nodes], size: tuple[int, int]) -> RegionTree:
    """All regions of one photo ``(H, W)`` from its trees' nodes and pairs, in turn, and the whole photo at the end."""
    h, w = parts[0].frame
    tree = torch.cat([torch.full((len(part.area),), i // 2) for i, part in enumerate(parts)])
    spans = torch.cat([part.spans for part in parts])
    boxes = scale(torch.cat([part.boxes for part in parts]), size[1] / w, size[0] / h)
    fill = [part.area / (part.boxes[:, 2:] - part.boxes[:, :2]).prod(1) for part in parts]
    nested = torch.arange(len(tree) + 1) < len(parts[0].area)
    nested[-1] = True
    whole = torch.tensor([[[0, h * w], [0, 0]]], dtype=torch.int32)
    return RegionTree(
        size=size,
        pixels=torch.stack([part.pixels for part in parts[::2]]),
        frame=(h, w),
        tree=torch.cat([tree, torch.zeros(1, dtype=torch.int64)]),
        spans=torch.cat([spans, whole]),
        boxes=torch.cat([boxes, torch.tensor([[0.0, 0.0, size[1], size[0]]])]),
        area=torch.cat([*(part.area for part in parts), torch.tensor([h * w])]),
        scores=torch.cat([*(part.salience**0.25 for part in parts), torch.zeros(1)]),
        stability=torch.cat([*(part.stability for part in parts), torch.ones(1)]),
        fill=torch.cat([*fill, torch.ones(1)]),
        nested=nested,
    )


def point_share(regions: RegionTree, points: Tensor, point_labels: Tensor | None) -> Tensor:
    """``(P, N)`` in [0, 1]: (foreground points inside - background points inside) / foreground points, at least 0."""
    h, w = regions.frame
    ranks = regions.pixels.argsort(dim=1)  # place of every pixel in its tree
    points = points.cpu()
    labels = torch.ones(points.shape[:2]) if point_labels is None else point_labels.cpu()
    x = (points[..., 0] * w / regions.size[1]).long().clamp(0, w - 1)
    y = (points[..., 1] * h / regions.size[0]).long().clamp(0, h - 1)
    inside = torch.zeros(len(points), len(regions.area))
    for k in range(points.shape[1]):
        at = ranks[:, y[:, k] * w + x[:, k]][regions.tree]  # (N, P)
        hit = inside_spans(at, regions.spans).T  # (P, N)
        sign = (labels[:, k] == FOREGROUND).float() - (labels[:, k] == BACKGROUND).float()
        inside += hit * sign[:, None]
    return (inside / (labels == FOREGROUND).sum(-1, keepdim=True).clamp(min=1)).clamp(min=0)


def pick_three(merit: Tensor, area: Tensor, size_ratio: float) -> Tensor:
    """Indices ``(P, 3)`` of the three best regions by ``merit (P, N)``, small to large, of clearly different size.

    Taken greedily: the best region, then the best of those whose area ``(N,)`` differs by at least ``size_ratio`` from
    every one taken. Where fewer than three have merit the best is repeated; where none has, the last region (the whole
    photo) is. Ties go to the later region.
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
