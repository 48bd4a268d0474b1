"""Answer prompts with the regions of hierarchical watersheds and of merged superpixels, without SAM's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from weaksam.config import fingerprint_of
from weaksam.sam.prompts import BACKGROUND, FOREGROUND, Prompts
from weaksam.sam.protocol import NUM_MASKS, Embedding, ListedRegions, Masks
from weaksam.sam.region_tree.merging import MergedRegions, cut_superpixels, merged_regions
from weaksam.sam.region_tree.objectness import BUNDLED, bundled, spread_out
from weaksam.sam.region_tree.settings import RegionTreeSettings
from weaksam.sam.region_tree.watershed import (
    Nodes,
    best_distinct,
    build_tree,
    inside_spans,
    lab_from_rgb,
    region_masks,
    salient_nodes,
    touching_pairs,
    working_frame,
)
from weaksam.store.files import file_sha256
from weaksam.structures.boxes import pairwise_iou, scale

ALGORITHM = "watershed-by-volume/4"  # part of the fingerprint: raise it whenever an answer may change


@dataclass(frozen=True)
class RegionGroup:
    """N candidate regions of one photo from T trees over its working frame (h, w).

    ``pixels``: int64 ``(T, h * w)`` and ``spans``: int32 ``(N, 2, 2)``, see ``Nodes``; ``tree``: int64 ``(N,)``, whose
    pixels a span slices. ``boxes``: float32 ``(N, 4)`` in working pixels; ``area``: int64 ``(N,)`` in working pixels;
    ``scores`` and ``stability``: float32 ``(N,)`` in [0, 1].
    """

    pixels: Tensor
    tree: Tensor
    spans: Tensor
    boxes: Tensor
    area: Tensor
    scores: Tensor
    stability: Tensor

    @classmethod
    def of_nodes(cls, nodes: Nodes) -> RegionGroup:
        """Of one tree, scored by salience to the power 1/4, which spreads over [0, 1] and changes no order."""
        tree = torch.zeros(len(nodes.area), dtype=torch.int64)
        scores = nodes.salience**0.25
        return cls(nodes.pixels[None], tree, nodes.spans, nodes.boxes, nodes.area, scores, nodes.stability)

    @classmethod
    def of_merged(cls, merged: MergedRegions) -> RegionGroup:
        """Of the hierarchies over one cut into superpixels, scored by the bundled ranker."""
        spans = torch.zeros(len(merged.area), 2, 2, dtype=torch.int32)
        spans[:, 0] = torch.from_numpy(merged.spans)
        return cls(
            pixels=torch.from_numpy(merged.pixels).long(),
            tree=torch.from_numpy(merged.tree).long(),
            spans=spans,
            boxes=torch.from_numpy(merged.boxes).float(),
            area=torch.from_numpy(merged.area).long(),
            scores=bundled()(torch.from_numpy(merged.features).float()).sigmoid(),
            stability=torch.from_numpy(merged.stability).float(),
        )


@dataclass(frozen=True)
class RegionTree(Embedding):
    """The N candidate regions of one photo from T trees; the last one is the whole photo.

    ``pixels``: int64 ``(T, h * w)`` and ``spans``: int32 ``(N, 2, 2)``, see ``Nodes``; ``frame``: (h, w); ``tree``:
    int64 ``(N,)``, whose pixels a span slices. ``boxes``: float32 ``(N, 4)`` in photo pixels; ``area``: int64 ``(N,)``
    in working pixels; ``scores``, ``stability`` and ``fill`` (area / box area): ``(N,)`` in [0, 1]. ``nested``: bool
    ``(N,)``, the nodes of the first tree, of which any two are disjoint or one inside the other; ``listed``: bool
    ``(N,)``, what ``regions`` may list.
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
    listed: Tensor

    def masks(self, index: Tensor) -> Tensor:
        """Regions ``index (N,)`` as bool ``(N, h, w)`` in the working frame."""
        return region_masks(self.pixels, self.spans[index], self.tree[index], self.frame)


class RegionTreeSegmenter:
    """Segmenter over hierarchical watersheds of the photo's Lab gradients.

    A point is answered by three nested nodes on its leaf-to-root path in the first tree, a box by the region that fits
    it best and fills its own box; ``regions`` lists what a grid of prompts would find. What there is to list depends
    on ``ranking``: by objectness, the watersheds are cut into superpixels, those merge in ten orders (colour, chroma,
    texture, nearness, border strength), and a small network says which regions are objects, after selective search
    (Uijlings et al., IJCV 2013) with a ranking learned from rendered scenes; by salience, each tree's nodes and
    touching pairs of its most salient ones, nothing being learned. The whole photo, the answer when nothing else is,
    scores 0. Runs on the CPU whatever the device.
    """

    name: ClassVar[str] = "tree"

    def __init__(self, settings: RegionTreeSettings | None = None) -> None:
        self.settings = settings or RegionTreeSettings()
        weights = file_sha256(BUNDLED) if self.settings.ranking == "objectness" else ""
        self.fingerprint = fingerprint_of({"algorithm": ALGORITHM, "settings": self.settings, "weights": weights})

    def encode(self, image: np.ndarray) -> RegionTree:
        """Find the regions of one upright RGB photo, uint8 ``(H, W, 3)``; about 0.15 s."""
        lab = lab_from_rgb(working_frame(image, self.settings.long_side))
        groups = self.salient_groups(lab) if self.settings.ranking == "salience" else self.merged_groups(lab)
        first = 1 if self.settings.ranking == "objectness" else 0
        return collect_regions(groups, lab.shape[:2], (image.shape[0], image.shape[1]), first_listed=first)

    def salient_groups(self, lab: np.ndarray) -> list[RegionGroup]:
        """Nodes and touching pairs of every tree of a Lab frame ``(h, w, 3)``, in turn."""
        settings, groups = self.settings, []
        for smoothing in settings.smoothings:
            nodes = salient_nodes(*build_tree(lab, smoothing), lab.shape[:2], settings.min_area, settings.max_area)
            pairs = touching_pairs(nodes, settings.num_paired, settings.nms_iou, settings.max_area)
            groups += [RegionGroup.of_nodes(nodes), RegionGroup.of_nodes(pairs)]
        return groups

    def merged_groups(self, lab: np.ndarray) -> list[RegionGroup]:
        """Nodes of the first tree of a Lab frame ``(h, w, 3)``, then the merged superpixels of every cut."""
        settings = self.settings
        trees = {sigma: build_tree(lab, sigma) for sigma in {settings.smoothings[0], *settings.superpixel_smoothings}}
        first = trees[settings.smoothings[0]]
        groups = [RegionGroup.of_nodes(salient_nodes(*first, lab.shape[:2], settings.min_area, settings.max_area))]
        for sigma in settings.superpixel_smoothings:
            cut = cut_superpixels(lab, *trees[sigma], settings.num_superpixels)
            groups.append(RegionGroup.of_merged(merged_regions(cut, settings.min_merged_area, settings.max_area)))
        return groups

    def predict(self, embedding: Embedding, prompts: Prompts, *, min_pred_iou: float | None = None) -> Masks:
        """Three regions per prompt, small to large, see ``Segmenter.predict``.

        ``iou`` of a point prompt is the region's score times the share of the prompt's points it gets right; of a box
        prompt it is the IoU of the region's box with the prompt times ``box_trust`` (times that share where there are
        points too). A prompt that no region answers gets the whole photo.
        """
        assert isinstance(embedding, RegionTree), "predict needs what this segmenter's encode returned"
        merit = torch.ones(())
        if prompts.boxes is not None:
            merit = pairwise_iou(prompts.boxes.float().cpu(), embedding.boxes) * self.box_trust(embedding)
        if prompts.points is not None and prompts.point_labels is not None:
            merit = merit * point_share(embedding, prompts.points.cpu(), prompts.point_labels.cpu())
        if prompts.boxes is None:
            merit = merit * embedding.scores * embedding.nested
        index = pick_three(merit, embedding.area, self.settings.size_ratio)  # (P, 3)
        masks = embedding.masks(index.reshape(-1)).reshape(len(index), NUM_MASKS, *embedding.frame)
        iou = merit.gather(1, index)
        return Masks(masks, iou, embedding.stability[index], embedding.boxes[index], embedding.size)

    def box_trust(self, embedding: RegionTree) -> Tensor:
        """``(N,)`` in (0, 1]: sqrt(fill), lest a thin rim stands for what it surrounds; objectness has a small say."""
        trust = embedding.fill.sqrt()
        return trust if self.settings.ranking == "salience" else trust * embedding.scores.clamp(min=0.01) ** 0.1

    def regions(self, embedding: Embedding, num: int) -> ListedRegions:
        """The best ``num`` regions of the photo by score, near-duplicate boxes suppressed; none in a flat photo.

        By objectness the scores are those of ``spread_out``.
        """
        assert isinstance(embedding, RegionTree), "regions needs what this segmenter's encode returned"
        index = embedding.listed.nonzero()[:, 0]
        boxes, scores = embedding.boxes[index], embedding.scores[index]
        if self.settings.ranking == "objectness":
            scores = spread_out(boxes, scores)
        kept = best_distinct(boxes, scores, self.settings.nms_iou, num)
        keep = index[kept]
        stability = embedding.stability[keep]
        return ListedRegions(embedding.masks(keep), embedding.boxes[keep], scores[kept], stability, embedding.size)


def collect_regions(
    groups: list[RegionGroup], frame: tuple[int, int], size: tuple[int, int], *, first_listed: int
) -> RegionTree:
    """All regions of one photo ``(H, W)`` with the working frame (h, w) in turn, and the whole photo at the end.

    The regions of the first group are the nested ones; those from group ``first_listed`` on may be listed.
    """
    h, w = frame
    group_of = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group.area) for group in groups]))
    num_trees = torch.tensor([len(group.pixels) for group in groups])
    first_tree = num_trees.cumsum(0) - num_trees
    tree = torch.cat([group.tree for group in groups]) + first_tree[group_of]
    boxes = torch.cat([group.boxes for group in groups])
    area = torch.cat([group.area for group in groups])
    # The whole photo comes last
    whole_span = torch.tensor([[[0, h * w], [0, 0]]], dtype=torch.int32)
    whole_box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
    zero, full, true = torch.zeros(1), torch.ones(1), torch.tensor([True])
    return RegionTree(
        size=size,
        pixels=torch.cat([group.pixels for group in groups]),
        frame=(h, w),
        tree=torch.cat([tree, torch.zeros(1, dtype=torch.int64)]),
        spans=torch.cat([*(group.spans for group in groups), whole_span]),
        boxes=torch.cat([scale(boxes, size[1] / w, size[0] / h), whole_box]),
        area=torch.cat([area, torch.tensor([h * w])]),
        scores=torch.cat([*(group.scores for group in groups), zero]),
        stability=torch.cat([*(group.stability for group in groups), full]),
        fill=torch.cat([area / (boxes[:, 2:] - boxes[:, :2]).prod(1), full]),
        nested=torch.cat([group_of == 0, true]),
        listed=torch.cat([group_of >= first_listed, ~true]),
    )


def point_share(regions: RegionTree, points: Tensor, labels: Tensor) -> Tensor:
    """``(P, N)`` in [0, 1]: (foreground points inside - background points inside) / foreground points, at least 0.

    ``points (P, K, 2)`` xy in photo pixels with ``labels (P, K)``, see ``Prompts``.
    """
    h, w = regions.frame
    positions = torch.arange(h * w).expand_as(regions.pixels)
    ranks = torch.empty_like(regions.pixels).scatter_(1, regions.pixels, positions)  # of every pixel in its tree
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
