"""Compute Mask2Former's losses: match every layer's queries to the objects, compare masks at points.

Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation (CVPR 2022), section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.models.detectors.mask2former.points import (
    LossPoints,
    at_points,
    draw_loss_points,
    loss_points,
    num_uncertain,
)
from weaksam.models.detectors.mask2former.settings import MaskLossSettings
from weaksam.models.full_precision import full_precision
from weaksam.models.photo_draws import photo_generators, photo_rand
from weaksam.models.query.ignored import lies_in_ignored
from weaksam.models.query.matching import match_queries
from weaksam.models.ranks import ranks


@dataclass(frozen=True)
class QueryPredictions:
    """What every layer says of the Q queries of B photos; K classes and C channels.

    The logits of a query's mask are the products of its embedding with the ``features`` of every cell, plus its offset.
    """

    classes: Tensor
    """Logits ``(L, B, Q, K + 1)`` of the classes and, last, of no object; the deepest layer is last."""
    embeddings: Tensor
    """``(L, B, Q, C)``."""
    features: Tensor
    """``(B, C, h, w)``, a quarter of the padded frame."""
    frame: tuple[int, int]
    """``(H, W)`` of the padded frame, in pixels of the photos shown."""
    offsets: Tensor | None = None
    """``(L, B, Q)``; None: 0."""

    def masks(self, photo: int, layers: slice | int = slice(None)) -> Tensor:
        """Logits ``(L, Q, h, w)`` of a photo's masks in these ``layers``; ``(Q, h, w)`` in one."""
        features = full_precision(self.features[photo])
        logits = full_precision(self.embeddings[layers, photo]) @ features.flatten(1)
        return (logits + self.offsets_of(photo)[layers, :, None]).unflatten(-1, features.shape[1:])

    def offsets_of(self, photo: int) -> Tensor:
        """Float32 ``(L, Q)``."""
        if self.offsets is None:
            return torch.zeros(self.embeddings.shape[0], self.embeddings.shape[2], device=self.embeddings.device)
        return full_precision(self.offsets[:, photo])


@dataclass(frozen=True)
class PhotoObjects:
    """The N objects of one photo; N may be 0."""

    labels: Tensor
    """int64 ``(N,)``, 0-based."""
    masks: Tensor
    """Float ``(N, h, w)``, 0 or 1, of the photo as it is shown, without the padding."""
    size: tuple[int, int]
    """``(h, w)``."""
    ignored: Tensor | None = None
    """Float ``(h, w)``: 1 in the regions to ignore; None where there is none."""
    weights: Tensor | None = None
    """How far each mask counts in the losses of the masks, ``(N,)`` in (0, 1]; None: all fully."""

    def in_type(self, dtype: torch.dtype) -> PhotoObjects:
        """The same with masks in another float type."""
        return replace(
            self, masks=self.masks.to(dtype), ignored=None if self.ignored is None else self.ignored.to(dtype)
        )


def mask2former_losses(
    predictions: QueryPredictions, objects: Sequence[PhotoObjects], settings: MaskLossSettings
) -> dict[str, Tensor]:
    """Scalars ``loss_class``, ``loss_mask`` and ``loss_dice``, each weighted and summed over the layers.

    Points are drawn photo by photo (`draws_of_photos`). Deviations: all layers of a photo are matched at the same
    points, and points and queries in regions to ignore teach nothing (ours). Without any object masks have a loss of 0
    and every query is taught that there is none.
    """
    device, dtype = predictions.features.device, full_precision(predictions.features[:0]).dtype
    objects = [of_photo.in_type(dtype) for of_photo in objects]
    points = photo_rand((len(objects), settings.num_points, 2), device).to(dtype)
    generators = photo_generators(len(objects), device)
    query_of, in_ignored = match_photos(predictions, objects, points, settings)
    classes = class_loss(predictions.classes, objects, query_of, in_ignored, settings.no_object_weight)
    sums = [predictions.embeddings.sum() * 0, predictions.embeddings.sum() * 0]  # with a gradient where nothing follows
    for photo, of_photo in enumerate(objects):
        if len(of_photo.labels):
            drawn = draw_loss_points(query_of[photo].numel(), settings, device, generators[photo])
            drawn = LossPoints(*(drawn_points.to(dtype) for drawn_points in drawn))
            losses = mask_losses(predictions, photo, of_photo, query_of[photo], drawn, num_uncertain(settings))
            sums = [total + _weighted(loss, of_photo).sum() for total, loss in zip(sums, losses, strict=True)]
    num_objects = max(1, ranks().total(sum(len(of_photo.labels) for of_photo in objects)))
    return {
        "loss_class": settings.class_weight * classes,
        "loss_mask": settings.mask_weight * sums[0] / num_objects,
        "loss_dice": settings.dice_weight * sums[1] / num_objects,
    }


def _weighted(losses: Tensor, objects: PhotoObjects) -> Tensor:
    """``losses`` (N, L) times the weight of each object's mask."""
    return losses if objects.weights is None else losses * objects.weights[:, None]


def match_photos(
    predictions: QueryPredictions, objects: Sequence[PhotoObjects], points: Tensor, settings: MaskLossSettings
) -> tuple[list[Tensor], Tensor]:
    """The query ``(L, N)`` of every photo's objects in each layer, and which queries lie in ignored regions.

    ``points`` (B, P, 2) as shares of the padded frame. The second is bool ``(L, B, Q)``.
    """
    costs, in_ignored = [], []
    with torch.no_grad():
        for photo, of_photo in enumerate(objects):
            cost, inside = photo_costs(predictions, photo, of_photo, points[photo], settings)
            costs += list(cost)
            in_ignored.append(inside)
    matched = match_queries(costs)
    num_layers = len(predictions.classes)
    query_of = [torch.stack(matched[start : start + num_layers]) for start in range(0, len(matched), num_layers)]
    return query_of, torch.stack(in_ignored, dim=1)


def photo_costs(
    predictions: QueryPredictions, photo: int, objects: PhotoObjects, points: Tensor, settings: MaskLossSettings
) -> tuple[Tensor, Tensor]:
    """Costs ``(L, Q, N)`` of a photo's pairs, and whether a query's mask lies in ignored regions, bool ``(L, Q)``.

    Probability of the class, binary cross-entropy and dice loss at ``points`` (P, 2), weighted as the losses are.
    """
    classes = full_precision(predictions.classes[:, photo]).softmax(-1)[..., objects.labels]  # (L, Q, N)
    features = at_points(full_precision(predictions.features[photo, None]), points[None])[0]  # (C, P)
    logits = full_precision(predictions.embeddings[:, photo]) @ features  # (L, Q, P)
    # As interpolated maps of the offsets would be: less within half a cell of the border
    whole = at_points(features.new_ones(1, 1, *predictions.features.shape[2:]), points[None])[0]  # (1, P)
    logits = logits + predictions.offsets_of(photo)[..., None] * whole
    of_photo = _in_photo(points, objects, predictions.frame)
    masks = objects.masks.new_zeros(0, len(points))
    if len(objects.labels):
        masks = at_points(objects.masks[None], of_photo[None])[0]  # (N, P)
    counted = _counted(objects, of_photo[None])[0]  # (P,)
    masks = (masks * counted).T  # (P, N)
    entropy = (F.softplus(logits) @ counted)[..., None] - logits @ masks
    probability = logits.sigmoid()
    areas = (probability @ counted)[..., None] + masks.sum(0)
    dice = 1 - (2 * (probability @ masks) + 1) / (areas + 1)
    cost = settings.mask_weight * entropy / counted.sum().clamp(min=1) + settings.dice_weight * dice
    inside = lies_in_ignored(((logits > 0) & (counted == 0)).sum(-1), (logits > 0).sum(-1))
    return cost - settings.class_weight * classes, inside


def class_loss(
    classes: Tensor,
    objects: Sequence[PhotoObjects],
    query_of: Sequence[Tensor],
    in_ignored: Tensor,
    no_object_weight: float,
) -> Tensor:
    """Cross-entropy of ``classes`` (L, B, Q, K + 1), a weighted mean over photos and queries, summed over the layers.

    ``query_of`` (L, N) of every photo, `NO_QUERY` where an object has none. Queries ``in_ignored`` (L, B, Q) without an
    object have no weight.
    """
    layers, batch, num_queries, num_columns = classes.shape
    none = num_columns - 1
    wanted = torch.full((layers, batch, num_queries + 1), none, device=classes.device)  # the last query is a dump
    for photo, (of_photo, queries) in enumerate(zip(objects, query_of, strict=True)):
        rows = torch.where(queries < 0, num_queries, queries)
        wanted[:, photo].scatter_(1, rows, of_photo.labels.expand(layers, -1))
    wanted = wanted[:, :, :num_queries]
    logits = full_precision(classes).flatten(0, 2)
    weights = torch.where(wanted == none, no_object_weight * (~in_ignored).to(logits), 1.0)
    losses = F.cross_entropy(logits, wanted.flatten(), reduction="none").view(wanted.shape)
    divisors = ranks().sum(weights.sum((1, 2)))  # (L,) of the whole batch, where several processes compute it
    totals = (losses * weights).sum((1, 2)) / divisors.clamp(min=torch.finfo(torch.float32).tiny)
    return totals.sum()


def mask_losses(
    predictions: QueryPredictions,
    photo: int,
    objects: PhotoObjects,
    query_of: Tensor,
    drawn: LossPoints,
    uncertain: int,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice loss ``(N, L)`` of a photo's objects, at points where the masks are uncertain.

    ``query_of`` (L, N); an object without a query has losses of 0. ``drawn`` holds points for the L pairs of the first
    object, then of the second, and so on; ``uncertain`` of a pair's candidates are kept.
    """
    layers, num_objects = query_of.shape
    rows = query_of.clamp(min=0)[..., None].expand(-1, -1, predictions.embeddings.shape[-1])
    embeddings = predictions.embeddings[:, photo].gather(1, rows).transpose(0, 1).flatten(0, 1)  # (N * L, C)
    features = full_precision(predictions.features[photo])
    offsets = predictions.offsets_of(photo).gather(1, rows[..., 0]).T.flatten()[:, None]  # (N * L, 1)
    maps = full_precision(embeddings) @ features.flatten(1) + offsets
    maps = maps.unflatten(1, (1, *features.shape[1:]))  # (N * L, 1, h, w)
    points = loss_points(maps.detach(), drawn, uncertain)  # (N * L, P, 2)
    of_photo = _in_photo(points, objects, predictions.frame).view(num_objects, -1, 2)  # (N, L * P, 2)
    masks = at_points(objects.masks[:, None], of_photo)[:, 0].view(num_objects, layers, -1)
    counted = _counted(objects, of_photo).view(masks.shape)
    logits = at_points(maps, points).view(masks.shape)
    has_query = (query_of >= 0).T
    return tuple(loss * has_query for loss in point_losses(logits, masks, counted))  # type: ignore[return-value]


def point_losses(logits: Tensor, masks: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean binary cross-entropy and dice loss ``(...)`` over the points ``(..., P)`` that are ``counted`` (1, else 0).

    ``masks`` are in [0, 1]. Where no point is counted both are 0.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    mean = (entropy * counted).sum(-1) / counted.sum(-1).clamp(min=1)
    probability, masks = logits.sigmoid() * counted, masks * counted
    dice = 1 - (2 * (probability * masks).sum(-1) + 1) / (probability.sum(-1) + masks.sum(-1) + 1)
    return mean, dice


def _in_photo(points: Tensor, objects: PhotoObjects, frame: tuple[int, int]) -> Tensor:
    """``points`` (..., 2), shares of the padded ``frame``, as shares of the photo in its upper left corner."""
    height, width = objects.size
    x, y = points.unbind(-1)
    return torch.stack([x * (frame[1] / width), y * (frame[0] / height)], dim=-1)


def _counted(objects: PhotoObjects, points: Tensor) -> Tensor:
    """1 or 0 ``(N, P)``: whether each of ``points`` (N, P, 2), shares of the photo, lies outside ignored regions."""
    if objects.ignored is None:
        return torch.ones_like(points[..., 0])
    flat = points.reshape(1, -1, 2)
    inside = at_points(objects.ignored[None, None], flat) >= 0.5
    return (~inside).to(points).view(points.shape[:2])
