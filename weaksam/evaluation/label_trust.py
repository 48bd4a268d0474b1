"""Estimate without true boxes how far pseudo labels can be trusted: each box, and the precision of all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam.evaluation.presence import tag_presence
from weaksam.evaluation.protocol import json_number, require_scores
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances

NUM_FOLDS = 5
NUM_DRAWS = 1000
"""Samples of the photos, with replacement, from which the interval is read."""
INTERVAL = (0.025, 0.975)
"""Quantiles of the interval: 95 %."""
STABLE_IOU = 0.5
"""IoU from which on a second detector confirms a box."""


@dataclass(frozen=True)
class BoxTrust:
    """What is known without a truth of one photo's N believed boxes; values in [0, 1], nan where nothing is known.

    tag_share ``(N,)``: share of detections of such a class and score that are there because of the tag, learnt from
    other photos. agreement ``(N,)``: mean over the second looks of the IoU with the nearest box of its class.
    """

    tag_share: Tensor
    agreement: Tensor

    @property
    def known(self) -> Tensor:
        """``(N,)`` the product of what is known of each box, by which boxes are ranked; nan where nothing is."""
        known = torch.stack([self.tag_share, self.agreement])
        product = known.nan_to_num(1.0).prod(dim=0)
        return torch.where(known.isnan().all(dim=0), torch.nan, product)

    @property
    def chance(self) -> Tensor:
        """``(N,)`` the predicted chance that the box is right: `known`; nan without a second look.

        For the tags say that an object of the class is there, and nothing of where it ends.
        """
        return torch.where(self.agreement.isnan(), torch.nan, self.known)


def fold_of(image_id: str, num_folds: int = NUM_FOLDS) -> int:
    """The fold in ``0 .. num_folds - 1`` of a photo, from its id alone."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:4], "big") % num_folds


def tag_shares(
    believed: Mapping[str, Instances],
    detections: Mapping[str, Instances],
    tags: Mapping[str, Iterable[int]],
    num_classes: int,
) -> dict[str, Tensor]:
    """`BoxTrust.tag_share` of the ``believed`` boxes by image id, from scored ``detections`` on the photos of ``tags``.

    The share of a box comes from `tag_presence` of the photos of the other folds (`fold_of`), so that no photo's tag
    speaks for its own boxes. nan for a class of which the tags of these photos tell nothing.
    """
    labels = {image_id: set(of_photo) for image_id, of_photo in tags.items()}
    shares: dict[str, Tensor] = {}
    for fold in range(NUM_FOLDS):
        others = {image_id: of_photo for image_id, of_photo in labels.items() if fold_of(image_id) != fold}
        presence = tag_presence(detections, others, num_classes)
        for image_id, boxes in believed.items():
            if fold_of(image_id) == fold:
                shares[image_id] = torch.full((len(boxes),), torch.nan)
                for label in set(boxes.labels.tolist()):
                    of_class = boxes.labels == label
                    if len(presence[label].scores):
                        of_scores = presence[label].of(require_scores(boxes)[of_class])
                        shares[image_id][of_class] = of_scores.float()
    return shares


def agreement(boxes: Instances, looks: Sequence[Instances]) -> Tensor:
    """`BoxTrust.agreement` ``(N,)`` of one photo's boxes: with the nearest box of their class in each of ``looks``.

    A look without a box of the class gives 0; no look gives nan.
    """
    if not looks:
        return torch.full((len(boxes),), torch.nan)
    return torch.stack([_nearest_iou(boxes, look) for look in looks]).mean(dim=0)


def _nearest_iou(boxes: Instances, look: Instances) -> Tensor:
    if len(look) == 0 or len(boxes) == 0:
        return torch.zeros(len(boxes))
    overlap = pairwise_iou(boxes.boxes, look.boxes) * (boxes.labels[:, None] == look.labels)
    return overlap.amax(dim=1)


def trust_of(
    believed: Mapping[str, Instances],
    shares: Mapping[str, Tensor],
    looks: Sequence[Mapping[str, Instances]],
) -> dict[str, BoxTrust]:
    """The `BoxTrust` of each photo's believed boxes from `tag_shares` and the second ``looks``, by image id."""
    nothing = Instances.empty()
    return {
        image_id: BoxTrust(
            shares.get(image_id, torch.full((len(boxes),), torch.nan)),
            agreement(boxes, [look.get(image_id, nothing) for look in looks]),
        )
        for image_id, boxes in believed.items()
    }


@dataclass(frozen=True)
class PredictedPrecision:
    """The precision of believed boxes that is predicted without a truth, with a 95 % interval; nan without a box.

    The interval is that of the choice of photos alone. ``stability``: share of the boxes that the second looks confirm
    by `STABLE_IOU`, nan without one. ``num_boxes`` have a chance; ``num_unknown`` have none.
    """

    precision: float
    low: float
    high: float
    stability: float
    num_boxes: int
    num_unknown: int

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null."""
        names = ("precision", "low", "high", "stability")
        values: dict[str, Any] = {name: json_number(getattr(self, name)) for name in names}
        return {**values, "num_boxes": self.num_boxes, "num_unknown": self.num_unknown}


def predicted_precision(trust: Mapping[str, BoxTrust], seed: int = 0) -> PredictedPrecision:
    """The mean chance of all boxes, and its interval from `NUM_DRAWS` samples of the photos with replacement."""
    chances = [of_photo.chance for of_photo in trust.values()]
    known = [of_photo[~of_photo.isnan()].double() for of_photo in chances]
    num_boxes = sum(map(len, known))
    agreed = torch.cat([torch.zeros(0), *(of_photo.agreement for of_photo in trust.values())])
    agreed = agreed[~agreed.isnan()]
    stability = float((agreed >= STABLE_IOU).double().mean()) if len(agreed) else math.nan
    unknown = sum(map(len, chances)) - num_boxes
    if num_boxes == 0:
        return PredictedPrecision(math.nan, math.nan, math.nan, stability, 0, unknown)
    sums = np.array([float(of_photo.sum()) for of_photo in known])
    counts = np.array([len(of_photo) for of_photo in known])
    draws = np.random.default_rng(seed).integers(0, len(known), (NUM_DRAWS, len(known)))
    drawn = counts[draws].sum(axis=1)
    means = sums[draws].sum(axis=1)[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(means, INTERVAL) if len(means) else (math.nan, math.nan)
    return PredictedPrecision(float(sums.sum() / num_boxes), float(low), float(high), stability, num_boxes, unknown)


def doubt(trust: BoxTrust, tags: Iterable[int], labels: Iterable[int]) -> float:
    """Doubt in [0, 1] about one photo's labels: that of its least trusted box; 1 where a tag has no box at all.

    ``labels``: those of the believed boxes. A box of which nothing is known counts 0.5; a photo without tags 0.
    """
    if set(tags) - set(labels):
        return 1.0
    chances = trust.known.nan_to_num(0.5)
    return float(1 - chances.min()) if len(chances) else 0.0
