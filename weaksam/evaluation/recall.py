"""Measure proposal recall: the share of true objects that a proposal covers, by IoU and number of proposals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.evaluation.matching import exact_boxes, ignored_truths
from weaksam.evaluation.protocol import Protocol, check_images, check_iou, check_labels, json_number
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances

Assignment = Literal["best-match", "one-to-one", "coco"]
"""Which proposal finds which object, see :func:`proposal_recall`."""

MATCHING = {
    "best-match": "best match (one proposal may find several objects)",
    "one-to-one": "one to one, the closest pair first",
    "coco": "one to one in the proposals' order, each takes the free object it overlaps most (COCO's rule)",
}
"""Each assignment in words."""

AR_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55, .., 0.95: the thresholds whose mean is COCO's average recall."""


@dataclass(frozen=True)
class RecallResult:
    """Share of true objects found among the first N proposals of each image, for several N.

    counts: the N; None stands for all proposals. ious: the thresholds. recall: ``(len(counts), len(ious))`` in [0, 1],
    nan where there is no truth. average_recall, best_overlap: per count, the mean recall over IoU 0.5:0.05:0.95 and the
    mean IoU that objects reach. num_proposals: per count, the mean number of proposals that images really have.
    num_bare: images without any proposal. per_class: the same for the objects of each class alone, where asked for.
    """

    counts: tuple[int | None, ...]
    ious: tuple[float, ...]
    recall: tuple[tuple[float, ...], ...]
    average_recall: tuple[float, ...]
    best_overlap: tuple[float, ...]
    num_proposals: tuple[float, ...]
    num_truths: int
    protocol: Protocol
    num_bare: int = 0
    per_class: tuple[RecallResult, ...] = ()

    def at(self, iou: float, count: int | None = None) -> float:
        """Recall in [0, 1] at one of the measured thresholds and counts; None means all proposals."""
        return self.recall[self.counts.index(count)][self.ious.index(iou)]

    def average_recall_at(self, count: int | None) -> float:
        """Average recall in [0, 1] at one of the measured counts; None means all proposals."""
        return self.average_recall[self.counts.index(count)]

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
        counted = {"num_truths": self.num_truths, "num_bare": self.num_bare}
        figures = {"rows": rows, **counted, "protocol": str(self.protocol)}
        return figures | ({"per_class": [result.as_dict() for result in self.per_class]} if self.per_class else {})

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
    num_classes: int | None = None,
) -> RecallResult:
    """Recall of class-free proposals over all true objects of the images in ``truths``, pooled.

    ``proposals``: xyxy boxes ``(P, 4)`` by image id, best first. An image without proposals stays in the denominator:
    its objects are missed. "best-match" lets one proposal find several objects, "one-to-one" spends it on one: the
    object and proposal that overlap most are paired first. "coco" pairs as COCO's evaluation does, whose AR it equals:
    at each IoU anew, the proposals in their order each take the free object they overlap most; ``best_overlap`` is then
    that of the best match. Difficult and crowd truths are left out, unless ``count_difficult`` takes the difficult ones
    in. With ``num_classes`` the result holds ``per_class`` as well: proposals have no class, so the pairs are the same.
    """
    check_images(proposals, truths, "proposals")
    _check_thresholds(counts, ious)
    if num_classes is not None:
        check_labels(truths, num_classes, "true objects")
    objects = [_counted(truth, count_difficult) for truth in truths.values()]
    boxes = [proposals.get(image_id, torch.zeros(0, 4)) for image_id in truths]
    pooled = _pooled_objects(objects, boxes, assignment, counts, np.array([*ious, *AR_IOUS]))
    num_boxes = np.array([[len(image_boxes[:count]) for count in counts] for image_boxes in boxes], dtype=np.float64)
    num_boxes = num_boxes.reshape(len(truths), len(counts))
    protocol = _protocol(assignment, count_difficult, len(truths))

    def result(selected: np.ndarray, per_class: tuple[RecallResult, ...] = ()) -> RecallResult:
        """The figures of the objects that are ``selected``, bool ``(T,)``."""
        recall = _mean(pooled.is_found[:, selected])  # (counts, I)
        return RecallResult(
            counts=tuple(counts),
            ious=tuple(float(iou) for iou in ious),
            recall=tuple(map(tuple, recall[:, : len(ious)].tolist())),
            average_recall=tuple(math.fsum(row) / len(AR_IOUS) for row in recall[:, len(ious) :].tolist()),
            best_overlap=tuple(_mean(pooled.overlap[:, selected]).tolist()),
            num_proposals=tuple((num_boxes.sum(axis=0) / max(len(truths), 1)).tolist()),
            num_truths=int(selected.sum()),
            protocol=protocol,
            num_bare=sum(len(image_boxes) == 0 for image_boxes in boxes),
            per_class=per_class,
        )

    per_class = tuple(result(pooled.labels == label) for label in range(num_classes or 0))
    return result(np.ones(len(pooled.labels), bool), per_class)


def _protocol(assignment: Assignment, count_difficult: bool, num_images: int) -> Protocol:
    return Protocol(
        metric="proposal recall",
        matching=MATCHING[assignment],
        difficult="crowd ignored, difficult counted" if count_difficult else "difficult and crowd truths ignored",
        average="over all objects, an image without proposals counted as missed",
        detections="the first N proposals of each image",
        num_images=num_images,
    )


def _check_thresholds(counts: Sequence[int | None], ious: Sequence[float]) -> None:
    for iou in ious:
        check_iou(iou)
    if any(count is not None and count < 1 for count in counts):
        raise UserError(
            f"proposal counts must be at least 1 (None for all), found {list(counts)}: give counts like 10,100"
        )


def _counted(truth: Instances, count_difficult: bool) -> Instances:
    """The objects of an image that are to be found."""
    without = truth.replace(difficult=None) if count_difficult else truth
    return truth[~ignored_truths(without)]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the second axis; nan where it has no entry."""
    if values.shape[1] == 0:
        return np.full(np.delete(values.shape, 1), np.nan)
    return values.mean(axis=1, dtype=np.float64)


class _PooledObjects(NamedTuple):
    """The T counted objects of all images, with ``labels (T,)``.

    is_found: bool ``(counts, T, I)``, at each count and IoU. overlap: ``(counts, T)``, the IoU that an object reaches.
    """

    is_found: np.ndarray
    overlap: np.ndarray
    labels: np.ndarray


def _pooled_objects(
    objects: Sequence[Instances],
    boxes: Sequence[Tensor],
    assignment: Assignment,
    counts: Sequence[int | None],
    ious: np.ndarray,
) -> _PooledObjects:
    """Assign proposals to the objects of each image, both in the same order, and pool the objects of all images."""
    is_found, overlap = [np.zeros((len(counts), 0, len(ious)), bool)], [np.zeros((len(counts), 0))]
    for image_objects, image_boxes in zip(objects, boxes, strict=True):
        iou = pairwise_iou(exact_boxes(image_objects.boxes), exact_boxes(image_boxes)).numpy()  # (T, P)
        found_at, reached = _ASSIGN[assignment](iou, counts, ious)
        is_found.append(found_at)
        overlap.append(reached)
    labels = [np.zeros(0, np.int64), *(image_objects.labels.numpy() for image_objects in objects)]
    return _PooledObjects(np.concatenate(is_found, axis=1), np.concatenate(overlap, axis=1), np.concatenate(labels))


Counts = Sequence[int | None]
Assigned = tuple[np.ndarray, np.ndarray]
"""Bool ``(counts, T, I)``: whether the object is found at this IoU; and ``(counts, T)``: the IoU it reaches."""


def _by_best_match(overlap: np.ndarray, counts: Counts, ious: np.ndarray) -> Assigned:
    """Each object with the proposal that overlaps it most."""
    reached = np.stack([overlap[:, :count].max(axis=1, initial=0) for count in counts])
    return reached[:, :, None] >= ious, reached


def _by_closest_pair(overlap: np.ndarray, counts: Counts, ious: np.ndarray) -> Assigned:
    """Object and proposal of ``(T, P)`` that overlap most are paired and leave, until one side is used up."""
    reached = np.zeros((len(counts), len(overlap)))
    for row, count in enumerate(counts):
        left = overlap[:, :count].copy()
        for _ in range(min(left.shape)):
            truth, proposal = divmod(int(left.argmax()), left.shape[1])
            reached[row, truth] = overlap[truth, proposal]
            left[truth, :] = -1
            left[:, proposal] = -1
    return reached[:, :, None] >= ious, reached


def _in_order(overlap: np.ndarray, counts: Counts, ious: np.ndarray) -> Assigned:
    """COCO's rule; the first N of a list are paired alike whatever follows, so one pass serves every count."""
    never = overlap.shape[1]
    rank_of = np.full((len(overlap), len(ious)), never)  # the rank of the proposal that takes the object, (T, I)
    column = np.arange(len(ious))
    for rank in np.flatnonzero(overlap.max(axis=0, initial=0) >= ious.min()):
        iou = overlap[:, rank, None]
        free = np.where((rank_of == never) & (iou >= ious), iou, -1.0)
        taken = len(free) - 1 - free[::-1].argmax(axis=0)  # of equals COCO takes the last
        hit = free[taken, column] >= 0
        rank_of[taken[hit], column[hit]] = rank
    limits = np.array([never if count is None else min(count, never) for count in counts])
    return rank_of < limits[:, None, None], _by_best_match(overlap, counts, ious)[1]


_ASSIGN: dict[str, Callable[[np.ndarray, Counts, np.ndarray], Assigned]] = {
    "best-match": _by_best_match,
    "one-to-one": _by_closest_pair,
    "coco": _in_order,
}
