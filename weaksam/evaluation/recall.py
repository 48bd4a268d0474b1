"""Proposal recall: how many true objects some proposal covers, by IoU and by the number of proposals looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.evaluation.matching import ignored_truths
from weaksam.evaluation.protocol import Protocol, check_images, check_iou, json_number
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances

Assignment = Literal["best-match", "one-to-one"]
AR_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55, .., 0.95: the thresholds whose mean is COCO's average recall."""


@dataclass(frozen=True)
class RecallResult:
    """Share of true objects found among the first N proposals of each image, for several N.

    counts: the N; None stands for all proposals. ious: the thresholds. recall: ``(len(counts), len(ious))`` in [0, 1],
    nan where there is no truth. average_recall, best_overlap: per count, the mean recall over IoU 0.5:0.05:0.95 and the
    mean IoU that objects reach. num_proposals: mean per image that was really looked at, per count.
    """

    counts: tuple[int | None, ...]
    ious: tuple[float, ...]
    recall: tuple[tuple[float, ...], ...]
    average_recall: tuple[float, ...]
    best_overlap: tuple[float, ...]
    num_proposals: tuple[float, ...]
    num_truths: int
    protocol: Protocol

    def at(self, iou: float, count: int | None = None) -> float:
        """Recall in [0, 1] at one of the measured thresholds and counts; None means all proposals."""
        return self.recall[self.counts.index(count)][self.ious.index(iou)]

    def as_dict(self) -> dict[str, Any]:
        """One row per count, as JSON can hold it, nan as null, with the protocol in words."""
        rows = [
            {
                "count": count,
                "num_proposals": self.num_proposals[row],
                "recall": {
                    f"{iou:g}": json_number(value) for iou, value in zip(self.ious, self.recall[row], strict=True)
                },
                "average_recall": json_number(self.average_recall[row]),
                "best_overlap": json_number(self.best_overlap[row]),
            }
            for row, count in enumerate(self.counts)
        ]
        return {"rows": rows, "num_truths": self.num_truths, "protocol": str(self.protocol)}

    def __str__(self) -> str:
        last = ", ".join(f"recall@{iou:g} {value:.3f}" for iou, value in zip(self.ious, self.recall[-1], strict=True))
        count = f"{self.num_proposals[-1]:.1f} proposals per image"
        return f"{last}, AR {self.average_recall[-1]:.3f} with {count} ({self.protocol})"


def proposal_recall(
    truths: Mapping[str, Instances],
    proposals: Mapping[str, Tensor],
    *,
    counts: Sequence[int | None] = (10, 30, 100, 300, 1000, None),
    ious: Sequence[float] = (0.5, 0.75, 0.9),
    assignment: Assignment = "best-match",
    count_difficult: bool = False,
) -> RecallResult:
    """Recall of class-free proposals over all true objects of the images in ``truths``, pooled.

    ``proposals``: xyxy boxes ``(P, 4)`` by image id, best first. An image without proposals stays in the denominator:
    its objects are missed. "best-match" lets one proposal find several objects, "one-to-one" spends it on one:
    the object and proposal that overlap most are paired first. Difficult and crowd truths are left out, unless
    ``count_difficult`` takes the difficult ones in.
    """
    check_images(proposals, truths, "proposals")
    for iou in ious:
        check_iou(iou)
    if any(count is not None and count < 1 for count in counts):
        raise UserError(
            f"proposal counts must be at least 1 (None for all), found {list(counts)}: give counts like 10,100"
        )
    reached: list[list[Tensor]] = [[] for _ in counts]  # per count, per image: IoU (T,) each object reaches
    used = [0] * len(counts)
    for image_id in truths:
        boxes = proposals.get(image_id, torch.zeros(0, 4)).double()
        overlap = pairwise_iou(_counted(truths[image_id], count_difficult).boxes.double(), boxes)  # (T, P)
        for row, count in enumerate(counts):
            first = overlap[:, :count]
            reached[row].append(_one_to_one(first) if assignment == "one-to-one" else _best(first))
            used[row] += first.shape[1]
    pooled = [torch.cat(parts) if parts else torch.zeros(0) for parts in reached]
    return RecallResult(
        counts=tuple(counts),
        ious=tuple(float(iou) for iou in ious),
        recall=tuple(tuple(_share(one, iou) for iou in ious) for one in pooled),
        average_recall=tuple(math.fsum(_share(one, iou) for iou in AR_IOUS) / len(AR_IOUS) for one in pooled),
        best_overlap=tuple(float(one.mean()) for one in pooled),
        num_proposals=tuple(count / max(len(truths), 1) for count in used),
        num_truths=len(pooled[0]) if pooled else 0,
        protocol=Protocol(
            metric="proposal recall",
            matching=assignment,
            difficult="crowd ignored, difficult counted" if count_difficult else "difficult and crowd truths ignored",
            average="over all objects, an image without proposals counted as missed",
            detections="the first N proposals of each image",
            num_images=len(truths),
        ),
    )


def _counted(truth: Instances, count_difficult: bool) -> Instances:
    without = truth.replace(difficult=None) if count_difficult else truth
    return truth[~ignored_truths(without)]


def _best(iou: Tensor) -> Tensor:
    """Highest IoU ``(T,)`` of each object over proposals ``(T, P)``; 0 without proposals."""
    return iou.max(dim=1).values if iou.shape[1] else iou.new_zeros(len(iou))


def _one_to_one(iou: Tensor) -> Tensor:
    """IoU ``(T,)`` of each object with the proposal it is given, the closest pair of ``(T, P)`` first; 0 for none."""
    reached = iou.new_zeros(len(iou))
    left = iou.clone()
    for _ in range(min(iou.shape)):
        truth, proposal = divmod(int(left.argmax()), left.shape[1])
        reached[truth] = iou[truth, proposal]
        left[truth, :] = -1
        left[:, proposal] = -1
    return reached


def _share(reached: Tensor, iou: float) -> float:
    """Share in [0, 1] of objects that reach ``iou``; nan without objects."""
    return float((reached >= iou).double().mean())
