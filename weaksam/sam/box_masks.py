"""Prompt the segmenter with boxes, choose one of the three masks of each, clean it and say how far to trust it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings
from weaksam.sam.batches import BatchLimit, in_batches
from weaksam.sam.prompts import FOREGROUND, PADDING, Prompts
from weaksam.sam.protocol import NUM_MASKS, Embedding, MaskPrompting, Masks, Segmenter
from weaksam.structures.boxes import area, pairwise_iou
from weaksam.structures.mask_cleaning import deepest_point, without_fragments, without_holes
from weaksam.structures.masks import Rle, box_from_rle, box_mask, rle_from_mask

_FULL_AT_ONCE = 8
_AS_BEFORE: dict[str, Any] = {"second_pass": False, "overlaps": "off", "min_fragment": 0.0, "max_hole": 0.0}
MaskChoice = Literal["predicted_iou", "stability", "box_agreement", "combined"]


class BoxMaskSettings(Settings):
    """How a frozen segmenter's answers to boxes become one mask per box."""

    _as_before: ClassVar[Mapping[str, Any]] = _AS_BEFORE

    mask_choice: MaskChoice = "predicted_iou"
    """Of the segmenter's three masks per box take the one it trusts most, the most stable one, the one whose own box
    agrees best with the prompt, or (``combined``) the one with the greatest product of predicted IoU and agreement."""
    second_pass: bool = False
    """Prompt once more with the box and the mask chosen at first: by its logits where the segmenter takes masks
    (segment_anything and transformers), else by a point deepest inside it (nano, tree)."""
    overlaps: Literal["off", "score", "smaller"] = "off"
    """Who gets a pixel that masks of several boxes claim: all of them, the mask of the best quality, or the smallest
    mask, so that what lies on another object is not swallowed."""
    min_fragment: float = Field(0.0, ge=0, lt=1)
    """Separate parts of a mask smaller than this share of its area are removed, but the largest; 0 keeps all."""
    max_hole: float = Field(0.0, ge=0, lt=1)
    """Holes smaller than this share of a mask's area are filled; 0 fills none."""

    def prompting_key(self) -> dict[str, Any]:
        """What decides the masks, for a fingerprint; settings that mean what was done before they existed are out."""
        values = {name: getattr(self, name) for name in BoxMaskSettings.model_fields}
        return {name: value for name, value in values.items() if name not in _AS_BEFORE or value != _AS_BEFORE[name]}


@dataclass(frozen=True)
class BoxMasks:
    """One mask per prompt box of a photo, P of them; P may be 0."""

    rles: list[Rle]
    predicted_iou: Tensor
    """``(P,)`` as the segmenter gave it, cut to [0, 1]; 0 where it found nothing and the mask is the box itself."""
    stability: Tensor
    """``(P,)`` in [0, 1]: area at a higher threshold of the logits over area at a lower one (SAM's stability score)."""
    box_agreement: Tensor
    """``(P,)`` in [0, 1]: IoU of the final mask's own box with the prompt box."""

    @property
    def quality(self) -> Tensor:
        """How far each mask is to be trusted, ``(P,)`` in [0, 1], see `mask_quality`."""
        return mask_quality(self.predicted_iou, self.box_agreement)


def mask_quality(predicted_iou: Tensor, box_agreement: Tensor) -> Tensor:
    """Quality ``(P,)`` in [0, 1] of masks: predicted IoU (cut to [0, 1]) times agreement with the box, ``(P,)`` (ours).

    Stability has no part in it: it ranked masks worse on real photos (docs/masks.md).
    """
    return predicted_iou.clamp(0, 1) * box_agreement.clamp(0, 1)


def box_prompts(boxes: Tensor, points: Sequence[Tensor], most: int) -> Prompts:
    """Prompts of ``boxes`` (P, 4), each with those of its own ``points`` (K_i, 2) xy that lie inside it.

    At most the first ``most`` of a box; both in photo pixels. Without any point inside a box: boxes alone.
    """
    inside = [points_inside(xy, box)[:most] for box, xy in zip(boxes, points, strict=True)]
    longest = max((len(xy) for xy in inside), default=0)
    if longest == 0:
        return Prompts(boxes=boxes)
    coords, labels = torch.zeros(len(boxes), longest, 2), torch.full((len(boxes), longest), PADDING)
    for row, xy in enumerate(inside):
        coords[row, : len(xy)], labels[row, : len(xy)] = xy, FOREGROUND
    return Prompts(coords, labels, boxes)


def points_inside(points: Tensor, box: Tensor) -> Tensor:
    """Those of ``points (K, 2)`` xy that lie in the half-open ``box (4,)``."""
    return points[((points >= box[:2]) & (points < box[2:])).all(dim=1)]


def masks_of_boxes(
    segmenter: Segmenter,
    embedding: Embedding,
    prompts: Prompts,
    settings: BoxMaskSettings,
    limit: BatchLimit | None = None,
    free: Tensor | None = None,
) -> BoxMasks:
    """One mask per box of P ``prompts`` (with boxes, perhaps points beside them) on an encoded photo.

    Where all three masks of a box are empty, its mask is the box itself with a predicted IoU of 0. Boxes marked
    ``free`` (P,) bool neither give pixels to others nor take them, whatever ``settings.overlaps``. A mask of which the
    others leave nothing keeps its pixels with a predicted IoU of 0. ``limit`` bounds the prompts of a batch.
    """
    assert prompts.boxes is not None, "masks of boxes want boxes among the prompts"
    limit = BatchLimit(64) if limit is None else limit
    chosen = _chosen_masks(segmenter, embedding, prompts, settings, limit)
    if settings.second_pass and len(prompts):
        again = _chosen_masks(segmenter, embedding, _second_prompts(chosen, prompts), settings, limit)
        chosen = [second.or_earlier(first) for first, second in zip(chosen, again, strict=True)]
    boxes = prompts.boxes.float().cpu()
    return _drawn(chosen, boxes, embedding.size, settings, torch.zeros(len(boxes)).bool() if free is None else free)


def choose_masks(masks: Masks, boxes: Tensor, choice: MaskChoice) -> Tensor:
    """Which of the three masks ``(P,)`` int64 to take for each prompt box ``(P, 4)``; an empty mask comes last."""
    if choice == "stability":
        merit = masks.stability
    elif choice == "predicted_iou":
        merit = masks.iou
    else:
        merit = torch.stack(
            [pairwise_iou(masks.boxes[:, k], boxes.to(masks.boxes)).diagonal() for k in range(NUM_MASKS)], 1
        )
        merit = merit if choice == "box_agreement" else mask_quality(masks.iou, merit)
    return merit.masked_fill(_is_empty(masks), -1.0).argmax(dim=1)


@dataclass(frozen=True)
class _ChosenMask:
    """The mask ``k`` of prompt ``p`` in an answer, and what the segmenter says of it."""

    answer: Masks
    p: int
    k: int
    empty: bool

    def or_earlier(self, earlier: _ChosenMask) -> _ChosenMask:
        """This mask, or the ``earlier`` one where this is empty."""
        return earlier if self.empty else self

    @property
    def predicted_iou(self) -> float:
        """Cut to [0, 1]; 0 of an empty mask."""
        return 0.0 if self.empty else min(max(float(self.answer.iou[self.p, self.k]), 0.0), 1.0)

    @property
    def stability(self) -> float:
        return float(self.answer.stability[self.p, self.k])

    @property
    def box(self) -> Tensor:
        return self.answer.boxes[self.p, self.k].float().cpu()


def _chosen_masks(
    segmenter: Segmenter, embedding: Embedding, prompts: Prompts, settings: BoxMaskSettings, limit: BatchLimit
) -> list[_ChosenMask]:
    """The chosen mask of each prompt, in order."""
    chosen: list[_ChosenMask] = []
    for answer in in_batches(len(prompts), limit, lambda part: segmenter.predict(embedding, prompts[part])):
        start = len(chosen)
        assert prompts.boxes is not None
        k_index = choose_masks(answer, prompts.boxes[start : start + len(answer)], settings.mask_choice)
        empty = _is_empty(answer)[torch.arange(len(answer)), k_index.cpu()]
        chosen += [
            _ChosenMask(answer, p, k, is_empty)
            for p, (k, is_empty) in enumerate(zip(k_index.tolist(), empty.tolist(), strict=True))
        ]
    return chosen


def _second_prompts(chosen: Sequence[_ChosenMask], prompts: Prompts) -> Prompts:
    """``prompts`` with the mask ``chosen`` for each among them: as logits, or as a point deepest inside it."""
    if all(isinstance(mask.answer, MaskPrompting) for mask in chosen):
        return replace(prompts, mask_logits=torch.cat([_logits(mask) for mask in chosen]))
    assert prompts.boxes is not None
    size, points = chosen[0].answer.size, []
    for box, full in zip(prompts.boxes, _full_masks(chosen), strict=True):
        inside = deepest_point(full & box_mask(box, size))
        points.append(torch.zeros(0, 2) if inside is None else inside[None])
    return box_prompts(prompts.boxes, points, most=1)


def _logits(mask: _ChosenMask) -> Tensor:
    assert isinstance(mask.answer, MaskPrompting)
    return mask.answer.as_prompts(torch.tensor([mask.p]), torch.tensor([mask.k]))


def _full_masks(chosen: Sequence[_ChosenMask]) -> Iterator[Tensor]:
    """The masks at the photo's size, bool ``(H, W)`` on the CPU, in order; a few are in memory at a time."""
    start = 0
    while start < len(chosen):
        answer = chosen[start].answer
        stop = start + 1
        while stop < min(len(chosen), start + _FULL_AT_ONCE) and chosen[stop].answer is answer:
            stop += 1
        part = chosen[start:stop]
        p_index, k_index = torch.tensor([mask.p for mask in part]), torch.tensor([mask.k for mask in part])
        yield from answer.full(p_index, k_index).cpu()
        start = stop


def _drawn(
    chosen: Sequence[_ChosenMask], boxes: Tensor, size: tuple[int, int], settings: BoxMaskSettings, free: Tensor
) -> BoxMasks:
    """The chosen masks cleaned, without overlaps as the settings say, and measured."""
    num = len(boxes)
    rles: list[Rle] = [{}] * num
    predicted = torch.tensor([mask.predicted_iou for mask in chosen]).reshape(num)
    stability = torch.tensor([0.0 if mask.empty else mask.stability for mask in chosen]).reshape(num)
    order = _order(chosen, boxes, settings).tolist()
    taken = torch.zeros(size, dtype=torch.bool)
    for row, full in zip(order, _full_masks([chosen[row] for row in order]), strict=True):
        mask = full if full.any() else box_mask(boxes[row], size)
        mask = without_holes(without_fragments(mask, settings.min_fragment), settings.max_hole)
        if settings.overlaps != "off" and not free[row]:
            left = without_fragments(mask & ~taken, settings.min_fragment)
            taken |= mask
            mask = left if left.any() else mask
            predicted[row] *= float(left.any())
        rles[row] = rle_from_mask(mask)
    own = torch.stack([box_from_rle(rle) for rle in rles]) if rles else torch.zeros(0, 4)
    return BoxMasks(rles, predicted, stability, pairwise_iou(own, boxes).diagonal())


def _order(chosen: Sequence[_ChosenMask], boxes: Tensor, settings: BoxMaskSettings) -> Tensor:
    """Rows ``(P,)`` in the order in which masks take pixels: as they are, by quality, or the smallest first."""
    if settings.overlaps == "off" or not chosen:
        return torch.arange(len(chosen))
    own = torch.stack([mask.box for mask in chosen])
    if settings.overlaps == "smaller":
        areas = torch.tensor([int(mask.answer.masks[mask.p, mask.k].sum()) for mask in chosen])
        return areas.argsort(stable=True)
    predicted = torch.tensor([mask.predicted_iou for mask in chosen])
    return mask_quality(predicted, pairwise_iou(own, boxes).diagonal()).argsort(descending=True, stable=True)


def _is_empty(masks: Masks) -> Tensor:
    """Whether each mask ``(P, 3)`` covers nothing."""
    return (area(masks.boxes.reshape(-1, 4)) <= 0).reshape(masks.boxes.shape[:2])
