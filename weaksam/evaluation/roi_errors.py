"""Relate the losses of a detector's foreground regions to whether the pseudo box behind each is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam.evaluation.protocol import json_number
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances

RIGHT_IOU = 0.5
"""A pseudo box is right from this IoU with a true box of its class on (WeakSAM, figure of the RoI drop)."""
NUM_BINS = 20
_SHOWN = 0.99
"""Raw losses are binned up to this quantile; the last bin holds all above as well."""


def wrong_boxes(truth: Instances, pseudo_gt: Instances, iou: float = RIGHT_IOU) -> Tensor:
    """Bool ``(N,)``: the pseudo boxes that overlap every true box of their class by less than ``iou``.

    Crowds are no true boxes, difficult objects are. Without a true box of the class a pseudo box is wrong.
    """
    objects = truth.without_crowd()
    if len(objects) == 0:
        return torch.ones(len(pseudo_gt), dtype=torch.bool)
    overlap = pairwise_iou(pseudo_gt.boxes, objects.boxes)  # (N, T)
    same = pseudo_gt.labels[:, None] == objects.labels
    return ~((overlap >= iou) & same).any(dim=1)


@dataclass(frozen=True)
class ForegroundRegions:
    """F sampled foreground regions, batch after batch of the training."""

    losses: Mapping[str, np.ndarray]
    """The loss ``(F,)`` of each term: ``class``, ``box`` and, of a detector with masks, ``mask``."""
    wrong: np.ndarray
    """Bool ``(F,)``: whether the pseudo box that a region is assigned to is wrong, see `wrong_boxes`."""
    batches: np.ndarray
    """The number of its batch ``(F,)``, ascending: RoI drop compares the regions of one."""
    num_photos: int = 0
    """Photos that were looked at."""

    def __len__(self) -> int:
        return len(self.wrong)

    @property
    def error_rate(self) -> float:
        """Share of the regions whose pseudo box is wrong; nan without any."""
        return float(self.wrong.mean()) if len(self) else math.nan

    def values(self, term: str, threshold: str) -> np.ndarray:
        """What RoI drop compares with a limit ``(F,)``: it drops what is above.

        ``threshold`` as in `RoiDropSettings`: the ``loss`` itself; ``normalised`` to 0 to 1 over its batch; or the
        share of its batch's regions that do not come before it by their loss, 1 for the highest (``share``: RoI drop
        with the limit s drops what is above 1 - s here, but for rounding).
        """
        losses = self.losses[term]
        if threshold == "loss":
            return losses
        values = np.zeros(len(losses))
        for batch in np.unique(self.batches):
            rows = np.flatnonzero(self.batches == batch)
            scale = _normalised if threshold == "normalised" else _rank_share
            values[rows] = scale(losses[rows])
        return values


def _normalised(losses: np.ndarray) -> np.ndarray:
    """Losses (n,) moved to 0 to 1, least to greatest; equal losses are all 0."""
    spread = np.ptp(losses)
    return (losses - losses.min()) / spread if spread > 0 else np.zeros(len(losses))


def _rank_share(losses: np.ndarray) -> np.ndarray:
    """Share of losses (n,) that do not come before each, highest first and equal ones in their order: 1 to 1/n."""
    rank = np.empty(len(losses))
    rank[np.argsort(-losses, kind="stable")] = np.arange(len(losses))
    return 1 - rank / max(len(losses), 1)


@dataclass(frozen=True)
class ErrorBins:
    """Regions in B equal bins of a value: ``edges`` (B + 1,), number and number of wrong ones ``(B,)`` in each."""

    edges: np.ndarray
    counts: np.ndarray
    wrong: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin ``(B,)``."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    @property
    def error_rate(self) -> np.ndarray:
        """Share of wrong regions in each bin ``(B,)``; nan in an empty one."""
        return np.divide(self.wrong, self.counts, out=np.full(len(self.counts), np.nan), where=self.counts > 0)

    def as_dict(self) -> dict[str, Any]:
        """The bins as JSON can hold them, nan as null."""
        rates = [json_number(rate) for rate in self.error_rate.tolist()]
        counts = {"counts": self.counts.tolist(), "wrong": self.wrong.tolist(), "error_rate": rates}
        return {"edges": [round(edge, 6) for edge in self.edges.tolist()], **counts}


def error_bins(values: np.ndarray, wrong: np.ndarray, top: float | None = None, num_bins: int = NUM_BINS) -> ErrorBins:
    """Count regions by ``values`` (F,), at least 0, in equal bins up to ``top``; None: their 99 % quantile.

    The last bin holds what is above as well. Without regions the bins are empty.
    """
    if top is None:
        top = float(np.quantile(values, _SHOWN)) if len(values) else 1.0
    edges = np.linspace(0, top or 1.0, num_bins + 1)
    rows = np.minimum(np.searchsorted(edges, values, side="right") - 1, num_bins - 1)
    counts, of_wrong = (np.bincount(chosen, minlength=num_bins) for chosen in (rows, rows[wrong]))
    return ErrorBins(edges, counts, of_wrong)


def separation(values: np.ndarray, wrong: np.ndarray) -> float:
    """Chance in [0, 1] that a wrong region has a higher value than a right one (area under the ROC curve).

    Ties count half; nan where all are right or all are wrong.
    """
    from scipy.stats import rankdata  # here, as it takes a second to import and detectors import this module

    num_wrong = int(wrong.sum())
    pairs = num_wrong * (len(wrong) - num_wrong)
    return float((rankdata(values)[wrong].sum() - num_wrong * (num_wrong + 1) / 2) / pairs) if pairs else math.nan


def dropped_by_epoch(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The share of foreground regions that left each term, epoch by epoch, from a training's ``history``.

    Empty for a training without RoI drop.
    """
    terms = [name for name in (history[0] if history else {}) if name.startswith("dropped_")]
    return {name.removeprefix("dropped_"): [epoch[name] for epoch in history] for name in terms}
