"""Fuse a segmenter's masks over augmented views of a photo, and say where and how far the result is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from weaksam.sam.batches import BatchLimit, encode_all, in_batches
from weaksam.sam.box_masks import BoxMasks, BoxMaskSettings, masks_of_boxes
from weaksam.sam.flipped_views import FlippedView
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Embedding, Segmenter
from weaksam.structures.boxes import area, pairwise_iou
from weaksam.structures.mask_cleaning import without_fragments, without_holes
from weaksam.structures.masks import box_from_rle, mask_from_rle, rle_from_mask

NUM_VIEWS = 12
"""Views of a photo, as published."""
HIGH_ENTROPY = 0.9
"""Bits above which a pixel is uncertain: a share of views between 0.316 and 0.684."""
HARD_BAND = (0.3, 0.7)
"""Shares of views between which hard weights ignore a pixel, as the released code has it."""
MAX_ABSOLUTE, MAX_RELATIVE = 0.1, 0.5
"""Below these uncertainties a photo is kept (published)."""
POOL_SIZE = 3
"""Labels of a photo that a pool holds (WS-SAM's follow-up)."""
_EPS = 1e-10
RelativeTo = Literal["foreground", "photo"]
PixelWeights = Literal["off", "soft", "hard"]


def entropy(fused: Tensor) -> Tensor:
    """Binary entropy in bits, in [0, 1], of a fused map of any shape in [0, 1]: 0 where all views agree."""
    inverse = 1 - fused
    bits = -(fused * torch.log2(fused + _EPS) + inverse * torch.log2(inverse + _EPS))
    return bits.clamp(0, 1)


def pixel_weights(fused: Tensor, kind: PixelWeights) -> Tensor:
    """How far each pixel of a fused map is believed, in [0, 1], of its shape.

    ``soft``: 1 - entropy (WS-SAM, NeurIPS 2023). ``hard``: 0 where the share of views is between 0.3 and 0.7, else 1,
    as its released code does. ``off``: 1.
    """
    if kind == "off":
        return torch.ones_like(fused)
    if kind == "soft":
        return 1 - entropy(fused)
    return ((fused <= HARD_BAND[0]) | (fused >= HARD_BAND[1])).to(fused.dtype)


class Uncertainty(NamedTuple):
    """How uncertain a fused map is: share of uncertain pixels, and uncertain ones over certain ones (may be inf)."""

    absolute: float
    relative: float

    def kept(self, max_absolute: float = MAX_ABSOLUTE, max_relative: float = MAX_RELATIVE) -> bool:
        """Whether the photo serves as a label: both uncertainties are below their limits."""
        return self.absolute < max_absolute and self.relative < max_relative


def uncertainty(fused: Tensor, relative_to: RelativeTo = "foreground") -> Uncertainty:
    """Uncertainty of a fused map ``(H, W)``: pixels of more than 0.9 bits over all pixels, and over certain ones.

    Certain pixels are those of the ``foreground`` (a share of views above a half; WS-SAM) or of the whole ``photo`` (as
    its follow-up's code counts, with which the second limit follows from the first). Without a certain pixel the
    relative uncertainty is infinite, so that a map without any foreground is not kept.
    """
    high = entropy(fused) > HIGH_ENTROPY
    certain = ~high & (fused > 0.5) if relative_to == "foreground" else ~high
    num_high, num_certain = int(high.sum()), int(certain.sum())
    relative = num_high / num_certain if num_certain else float("inf")
    return Uncertainty(num_high / max(1, fused.numel()), relative)


class PooledLabel(NamedTuple):
    """A fused map ``(H, W)`` in a pool, and how uncertain it is; ``drift``: mean entropy of its change from before."""

    fused: Tensor
    certainty: Uncertainty
    drift: float


class LabelPool:
    """The best labels of one photo among several fused maps (after WS-SAM's follow-up, SEE).

    The first ``size`` maps enter. A later one replaces the first of them against which at least two of three numbers
    are lower: absolute uncertainty, relative uncertainty, and the mean entropy of the difference to the map before.
    """

    def __init__(self, size: int = POOL_SIZE, relative_to: RelativeTo = "foreground") -> None:
        self.size, self.relative_to = size, relative_to
        self.labels: list[PooledLabel] = []
        self._before: Tensor | None = None

    def add(self, fused: Tensor) -> bool:
        """Offer a map ``(H, W)``; whether it entered."""
        drift = 1.0 if self._before is None else float(entropy((fused - self._before).abs()).mean())
        self._before = fused
        label = PooledLabel(fused, uncertainty(fused, self.relative_to), drift)
        if len(self.labels) < self.size:
            self.labels.append(label)
            return True
        for place, held in enumerate(self.labels):
            pairs = zip((*label.certainty, label.drift), (*held.certainty, held.drift), strict=True)
            if sum(new < old for new, old in pairs) >= 2:
                self.labels[place] = label
                return True
        return False

    def fused(self) -> Tensor:
        """The mean ``(H, W)`` of the maps in the pool, which holds at least one."""
        return torch.stack([label.fused for label in self.labels]).mean(dim=0)


Answer = Callable[[Embedding, FlippedView], Tensor]
"""Masks bool ``(P, h, w)`` of a view that was encoded."""


def fused_maps(
    segmenter: Segmenter, image: np.ndarray, views: Sequence[FlippedView], answer: Answer, limit: BatchLimit
) -> Tensor:
    """Share of ``views``, at least one, in which each pixel is inside: float32 ``(P, H, W)`` in [0, 1].

    ``answer`` gives the masks of a view, which come back through the view's inverse before they are averaged (the
    follow-up's code only resizes them, and so averages masks that lie elsewhere). ``limit`` bounds the views encoded
    together.
    """
    size = (image.shape[0], image.shape[1])
    total: Tensor | None = None
    embeddings = encode_all(segmenter, (view.image(image) for view in views), limit)
    for view, embedding in zip(views, embeddings, strict=True):
        masks = view.original_maps(answer(embedding, view), size).to(torch.float32)
        total = masks if total is None else total + masks
    assert total is not None, "an ensemble wants at least one view"
    return total / len(views)


def viewed(prompts: Prompts, view: FlippedView, size: tuple[int, int]) -> Prompts:
    """``prompts`` on a photo of ``size`` (H, W) as they lie in its view; masks among them are left out."""
    points = None if prompts.points is None else view.points(prompts.points, size)
    boxes = None if prompts.boxes is None else view.boxes(prompts.boxes, size)
    return Prompts(points, prompts.point_labels, boxes)


def masks_of_points(
    segmenter: Segmenter, embedding: Embedding, prompts: Prompts, limit: BatchLimit | None = None
) -> Tensor:
    """For each of P ``prompts`` the mask that the segmenter trusts most of its three: bool ``(P, H, W)`` on the CPU.

    Empty masks come last; one that is empty stays so. P = 0 gives ``(0, H, W)``.
    """
    masks = [torch.zeros(0, *embedding.size, dtype=torch.bool)]
    limit = BatchLimit(64) if limit is None else limit
    for reply in in_batches(len(prompts), limit, lambda part: segmenter.predict(embedding, prompts[part])):
        empty = area(reply.boxes.reshape(-1, 4)).reshape(reply.iou.shape) <= 0
        best = reply.iou.masked_fill(empty, -1.0).argmax(dim=1)
        masks.append(reply.full(torch.arange(len(reply)), best.cpu()).cpu())
    return torch.cat(masks)


def fused_points(
    segmenter: Segmenter, image: np.ndarray, prompts: Prompts, views: Sequence[FlippedView], limit: BatchLimit
) -> Tensor:
    """`fused_maps` of P ``prompts`` of points, boxes or both on the photo ``image``, each answered by its best mask."""
    size = (image.shape[0], image.shape[1])
    return fused_maps(
        segmenter,
        image,
        views,
        lambda embedding, view: masks_of_points(segmenter, embedding, viewed(prompts, view, size)),
        limit,
    )


def fused_boxes(
    segmenter: Segmenter,
    image: np.ndarray,
    prompts: Prompts,
    settings: BoxMaskSettings,
    views: Sequence[FlippedView],
    limit: BatchLimit,
    free: Tensor | None = None,
) -> BoxMasks:
    """One mask per box of P ``prompts``, fused over ``views`` of the photo ``image``: the pixels of more than half.

    Each view is answered as `masks_of_boxes` does by ``settings``, whose rules of cleaning hold for the fused mask
    again. ``predicted_iou`` is the mean over the views; ``stability`` is the mean of 1 - entropy over the pixels that
    any view has. Where no pixel has more than half, the mask is that of all pixels with the greatest share, with a
    predicted IoU of 0. P = 0 gives none.
    """
    assert prompts.boxes is not None, "masks of boxes want boxes among the prompts"
    size, boxes = (image.shape[0], image.shape[1]), prompts.boxes.float().cpu()
    trust: list[Tensor] = []

    def answer(embedding: Embedding, view: FlippedView) -> Tensor:
        masks = masks_of_boxes(segmenter, embedding, viewed(prompts, view, size), settings, free=free)
        trust.append(masks.predicted_iou)
        return torch.stack([torch.zeros(embedding.size).bool(), *(mask_from_rle(rle) for rle in masks.rles)])[1:]

    fused = fused_maps(segmenter, image, views, answer, limit)
    predicted, stability, rles = torch.stack(trust).mean(dim=0), torch.zeros(len(boxes)), []
    for row, shares in enumerate(fused):
        inside = shares > 0.5
        predicted[row] *= float(inside.any())
        mask = inside if inside.any() else shares == shares.max()
        rles.append(rle_from_mask(without_holes(without_fragments(mask, settings.min_fragment), settings.max_hole)))
        stability[row] = (1 - entropy(shares))[shares > 0].mean()
    own = torch.stack([box_from_rle(rle) for rle in rles]) if rles else torch.zeros(0, 4)
    return BoxMasks(rles, predicted, stability.nan_to_num(0.0), pairwise_iou(own, boxes).diagonal())
