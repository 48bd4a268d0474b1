"""Let a segmenter's masks vote on the assistant's classes: ensemble logits and a pseudo map (GoodSAM-style CTCF).

Cross-task complementary fusion is named, not specified, by GoodSAM (arXiv 2403.16370); rules and thresholds are ours
(docs/panorama.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings
from weaksam.structures.mask_runs import MaskRuns, by_column, class_votes, first_covering, from_columns

DOUBTFUL = 255
"""The class of a pixel that teaches nothing."""
_STEPS = 2**10
"""A vote's weight is rounded to so many steps, so that its sums are exact in any order and on any device."""


class FusionSettings(Settings):
    """When the masks of a segmenter overrule the assistant; all of it is ours."""

    whole_share: float = Field(
        0.7, gt=0, le=1, description="share of a mask's votes from which its class is given to all its pixels"
    )
    part_share: float = Field(
        0.4, gt=0, le=1, description="share from which it is given to the pixels that the assistant is unsure of"
    )
    unsure_below: float = Field(0.6, ge=0, le=1, description="the assistant is unsure of a pixel below this confidence")
    gamma: float = Field(2.0, ge=0, description="logit that a mask adds to its class, times its share of the votes")
    max_entropy: float = Field(
        0.5, ge=0, le=1, description="pixels whose entropy stays above this share of the largest teach nothing (255)"
    )


@dataclass(frozen=True)
class Fusion:
    """What masks make of an assistant's logits on a photo (H, W) with N masks.

    ``labels``: the pseudo map, int64 ``(H, W)``, `DOUBTFUL` where the entropy stays high. ``writer``: the mask that
    rewrites a pixel, int64 ``(H, W)``, -1 for none. ``classes`` and ``boost``: what each mask votes for, int64
    ``(N,)``, and what it adds to that class's logit, float32 ``(N,)``.
    """

    labels: Tensor
    writer: Tensor
    classes: Tensor
    boost: Tensor

    def ensemble(self, logits: Tensor) -> Tensor:
        """The ensemble logits ``(C, H, W)`` of the assistant's ``logits (C, H, W)``."""
        return boosted(logits, self.writer, self.classes, self.boost)


def fuse(logits: Tensor, runs: MaskRuns, settings: FusionSettings) -> Fusion:
    """Fuse the assistant's ``logits (C, H, W)`` with a segmenter's masks.

    Each mask counts the assistant's classes in it, weighted by 1 - entropy / log C; the top class is its own, with a
    share of the votes. From large to small, a mask of a large share rewrites all its pixels, one of a middling share
    those that the assistant is unsure of, another none: the result is that of the last mask to rewrite a pixel. There
    the mask's share times gamma is added to its class's logit; the pseudo map is the argmax of that sum. All masks are
    counted and painted at once. Without masks the pseudo map is the assistant's own, where it is sure.
    """
    certainty = pixel_certainty(logits)
    own, largest = certainty.classes, max(math.log(len(logits)), 1e-12)
    weights = ((1 - certainty.entropy / largest).clamp(0, 1) * _STEPS).round().int()
    votes = class_votes(runs, by_column(own), by_column(weights), len(logits))  # (N, C)
    classes, shares = winners(votes)
    writes = (shares >= settings.part_share).long() + (shares >= settings.whole_share)
    unsure = by_column(certainty.confidence < settings.unsure_below)
    writer = from_columns(first_covering(runs, runs.smallest_first, writes, unsure), runs.size)
    boost = (settings.gamma * shares).float()
    labels, entropy = _boosted(logits, certainty, writer, classes, boost)
    labels[entropy > settings.max_entropy * largest] = DOUBTFUL
    return Fusion(labels, writer, classes, boost)


@dataclass(frozen=True)
class PixelCertainty:
    """What logits ``(C, H, W)`` say of each pixel, ``(H, W)`` each: top class, its logit, the log of the sum over all.

    The classes are uint8 where that holds them: what is done with them later is bound by memory.
    ``entropy``: of the softmax, in nats. Of equal logits the first class counts.
    """

    classes: Tensor
    top: Tensor
    log_sum: Tensor
    entropy: Tensor

    @property
    def confidence(self) -> Tensor:
        """Probability of the top class."""
        return (self.top - self.log_sum).exp()


def pixel_certainty(logits: Tensor) -> PixelCertainty:
    """The certainty of ``logits (C, H, W)``, class by class: softmax over the first axis takes three times as long."""
    top = logits.amax(dim=0)
    small = torch.uint8 if len(logits) < 256 else torch.int64
    place = torch.ones_like(top, dtype=small)  # of the top class, counted from the last one
    total, spread = torch.zeros_like(top), torch.zeros_like(top)
    below, weight = torch.empty_like(top), torch.empty_like(top)  # filled again and again: new memory costs more
    is_top = torch.empty_like(top, dtype=torch.bool)
    for number, of_class in enumerate(logits):
        torch.sub(of_class, top, out=below)
        torch.maximum(place, torch.eq(below, 0, out=is_top).to(small) * (len(logits) - number), out=place)
        torch.exp(below, out=weight)
        total += weight
        spread.addcmul_(weight, below)
    log_total = total.log()
    return PixelCertainty(len(logits) - place, top, top + log_total, (log_total - spread / total).clamp(min=0))


def winners(votes: Tensor) -> tuple[Tensor, Tensor]:
    """Top class ``(N,)`` of ``votes (N, C)``, the first of equals, and its share, float64 ``(N,)``; 0 without votes."""
    if len(votes) == 0:
        return votes.new_zeros(0), votes.new_zeros(0).double()
    most, classes = votes.max(dim=1)
    return classes, most.double() / votes.sum(dim=1).clamp(min=1).double()


def boosted(logits: Tensor, writer: Tensor, classes: Tensor, boost: Tensor) -> Tensor:
    """``logits (C, H, W)`` with ``boost`` added to the class of each pixel's ``writer (H, W)``, see `Fusion`."""
    ensemble = logits.clone()
    rows, columns = (writer >= 0).nonzero(as_tuple=True)
    mask = writer[rows, columns]
    ensemble[classes[mask], rows, columns] += boost[mask].to(logits.dtype)
    return ensemble


def _boosted(
    logits: Tensor, certainty: PixelCertainty, writer: Tensor, classes: Tensor, boost: Tensor
) -> tuple[Tensor, Tensor]:
    """Argmax ``(H, W)`` and entropy ``(H, W)`` of the boosted logits, computed at rewritten pixels alone.

    With p the probability of the boosted class c and d its boost, Z = 1 + p (e^d - 1) normalises anew, and the entropy
    becomes log Z + (H - p (e^d - 1) log p - p e^d d) / Z.
    """
    labels, entropy = certainty.classes.long(), certainty.entropy.clone()
    rows, columns = (writer >= 0).nonzero(as_tuple=True)
    mask = writer[rows, columns]
    label, raised = classes[mask], boost[mask].to(logits.dtype)
    logit = logits[label, rows, columns]
    log_p = logit - certainty.log_sum[rows, columns]
    p, growth = log_p.exp(), raised.exp()
    total = 1 + p * (growth - 1)
    spread = entropy[rows, columns] - p * (growth - 1) * log_p - p * growth * raised
    entropy[rows, columns] = (total.log() + spread / total).clamp(min=0)
    before, highest = labels[rows, columns], certainty.top[rows, columns]
    wins = (logit + raised > highest) | ((logit + raised == highest) & (label < before))
    labels[rows, columns] = torch.where(wins, label, before)
    return labels, entropy
