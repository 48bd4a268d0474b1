"""Losses of DINO: matching and encoder queries, denoising queries, and which of them are left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

from weaksam.models.detectors.dino.denoising import Denoising
from weaksam.models.detectors.dino.network import DinoOutputs
from weaksam.models.full_precision import full_precision
from weaksam.models.query.box_numbers import UNMATCHED, matched_boxes
from weaksam.models.query.box_terms import (
    CLASS_WEIGHT,
    GIOU_WEIGHT,
    L1_WEIGHT,
    focal_losses,
    generalised_iou,
    matching_costs,
)
from weaksam.models.query.ignored import lies_in_ignored
from weaksam.models.query.query_drop import QueryDropSettings, dropped_queries
from weaksam.models.query.query_negatives import QueryNegatives
from weaksam.models.query.targets import QueryTargets
from weaksam.models.ranks import ranks


@dataclass(frozen=True)
class QueryLosses:
    """Weighted losses of every query of M layers before any reduction, ``(M, B, N)``; 0 for boxes of unmatched ones."""

    classification: Tensor
    l1: Tensor
    giou: Tensor
    matched: Tensor
    """Bool: queries that have a true box."""

    def dropped(self, drop: QueryDropSettings) -> dict[str, Tensor]:
        """Which queries leave the terms ``class`` and ``box`` by query drop, bool ``(M, B, N)``, layer by layer."""
        terms = zip(self.classification, self.l1 + self.giou, self.matched, strict=True)
        layers = [
            dropped_queries({"class": of_class.flatten(), "box": of_box.flatten()}, matched.flatten(), drop)
            for of_class, of_box, matched in terms
        ]
        return {term: torch.stack([rows[term] for rows in layers]).view_as(self.matched) for term in ("class", "box")}

    def without(self, dropped: dict[str, Tensor]) -> QueryLosses:
        """The same with the losses of ``dropped`` queries at 0; they count in the divisors all the same."""
        return QueryLosses(
            self.classification.masked_fill(dropped["class"], 0.0),
            self.l1.masked_fill(dropped["box"], 0.0),
            self.giou.masked_fill(dropped["box"], 0.0),
            self.matched,
        )

    def reduced(self) -> Tensor:
        """Losses ``(M, 3)`` for classes, L1 and GIoU: each layer's sum by its matched queries, at least 1.

        The queries matched in the whole batch, where several processes compute it.
        """
        divisor = ranks().sum(self.matched.sum(dim=(1, 2))).clamp(min=1)
        sums = [term.sum(dim=(1, 2)) for term in (self.classification, self.l1, self.giou)]
        return torch.stack(sums, dim=1) / divisor[:, None]


def dino_losses(
    outputs: DinoOutputs,
    targets: QueryTargets,
    denoising: Denoising | None,
    drop: QueryDropSettings | None = None,
    dropping: bool = False,
    negatives: QueryNegatives | None = None,
) -> dict[str, Tensor]:
    """Named losses, scalars: of the last layer, of all layers before it, of the encoder and of denoising.

    With ``drop`` there are figures as well: the shares of matched queries that left the class and the box term, which
    are 0 before it is ``dropping``. Batches without a box have losses of background alone; ``negatives`` say of which
    classes background queries teach nothing.
    """
    num = outputs.num_denoising
    logits = torch.cat([outputs.logits[:, :, num:], outputs.encoder_logits[None]])
    boxes = torch.cat([outputs.boxes[:, :, num:], outputs.encoder_boxes[None]])
    queries = matching_losses(logits, boxes, targets, negatives)
    figures: dict[str, Tensor] = {}
    if drop is not None:
        dropped = queries.dropped(drop)
        if not dropping:
            dropped = {term: torch.zeros_like(rows) for term, rows in dropped.items()}
        divisor = ranks().sum(queries.matched.sum()).clamp(min=1)
        figures = {f"dropped_{term}": (rows & queries.matched).sum() / divisor for term, rows in dropped.items()}
        queries = queries.without(dropped)
    by_layer = queries.reduced()  # (layers + 1, 3)
    last = dict(zip(("loss_class", "loss_l1", "loss_giou"), by_layer[-2], strict=True))
    losses = last | {"loss_auxiliary": by_layer[:-2].sum(), "loss_encoder": by_layer[-1].sum()}
    if denoising is not None and num:
        losses["loss_denoising"] = denoising_losses(outputs, targets, denoising, negatives).reduced().sum()
    return losses | figures


def matching_losses(
    logits: Tensor, boxes: Tensor, targets: QueryTargets, negatives: QueryNegatives | None = None
) -> QueryLosses:
    """Losses of ``logits`` (M, B, N, C) and ``boxes`` (M, B, N, 4), each of M layers matched on its own."""
    with torch.no_grad():
        costs = matching_costs(logits, boxes, targets.labels, targets.boxes)
    return _losses(logits, boxes, matched_boxes(costs, targets.counts), targets, negatives)


def denoising_losses(
    outputs: DinoOutputs, targets: QueryTargets, denoising: Denoising, negatives: QueryNegatives | None = None
) -> QueryLosses:
    """Losses of the denoising queries of every layer, whose true boxes are known."""
    num = outputs.num_denoising
    numbers = denoising.matched.expand(len(outputs.logits), -1, -1)
    return _losses(outputs.logits[:, :, :num], outputs.boxes[:, :, :num], numbers, targets, negatives)


def _losses(
    logits: Tensor, boxes: Tensor, numbers: Tensor, targets: QueryTargets, negatives: QueryNegatives | None
) -> QueryLosses:
    """Losses where query ``(m, b, n)`` has the true box of that photo named by ``numbers`` (M, B, N)."""
    matched = numbers != UNMATCHED
    if targets.boxes.shape[1] == 0:
        nothing = full_precision(boxes).sum(-1) * 0
        return QueryLosses(_classification(logits, boxes, numbers, targets, negatives), nothing, nothing, matched)
    index = numbers.clamp(min=0)
    labels = targets.labels.expand(len(numbers), -1, -1).gather(2, index).masked_fill(~matched, UNMATCHED)
    wanted = targets.boxes.expand(len(numbers), -1, -1, -1).gather(2, index[..., None].expand(-1, -1, -1, 4))
    distance, overlap = (full_precision(boxes) - wanted).abs().sum(-1), generalised_iou(full_precision(boxes), wanted)
    return QueryLosses(
        _classification(logits, boxes, labels, targets, negatives),
        (L1_WEIGHT * distance).masked_fill(~matched, 0.0),
        (GIOU_WEIGHT * (1 - overlap)).masked_fill(~matched, 0.0),
        matched,
    )


def _classification(
    logits: Tensor, boxes: Tensor, labels: Tensor, targets: QueryTargets, negatives: QueryNegatives | None
) -> Tensor:
    """Focal losses ``(M, B, N)`` for ``labels`` (M, B, N); background queries in a region to ignore have none.

    Or, with ``negatives``, those of the classes that are certainly not there.
    """
    if negatives is not None:
        unknown = negatives.unknown(logits.detach(), boxes.detach().float())
        return CLASS_WEIGHT * focal_losses(logits, labels, unknown)
    losses = CLASS_WEIGHT * focal_losses(logits, labels)
    if targets.ignored.shape[1] == 0:
        return losses
    inside = _lie_in_ignored(boxes.detach().float(), targets.ignored)
    return losses.masked_fill(inside & (labels == UNMATCHED), 0.0)


def _lie_in_ignored(boxes: Tensor, regions: Tensor) -> Tensor:
    """Bool ``(M, B, N)``: which of ``boxes`` (M, B, N, 4) lie mostly in one of ``regions`` (B, I, 4) xyxy."""
    corners = box_convert(boxes, "cxcywh", "xyxy")[..., None, :]
    near = torch.maximum(corners[..., :2], regions[:, None, :, :2])
    far = torch.minimum(corners[..., 2:], regions[:, None, :, 2:])
    shared = (far - near).clamp(min=0).prod(-1)  # (M, B, N, I)
    return lies_in_ignored(shared.amax(-1), boxes[..., 2:].prod(-1))
