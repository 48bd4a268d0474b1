"""Compute what the page says of a run beyond the figures of its stages, from what the stages made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weaksam.evaluation.detection_errors import ErrorCounts, count_errors
from weaksam.evaluation.label_trust import (
    BoxTrust,
    PredictedPrecision,
    doubt,
    predicted_precision,
    tag_shares,
    trust_of,
)
from weaksam.evaluation.precision_recall import PrecisionRecall, precision_recall
from weaksam.evaluation.protocol import json_number
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.evaluation.recall import AR_IOUS, RecallResult, proposal_recall
from weaksam.evaluation.source_recall import SourceRecall, recall_by_source
from weaksam.evaluation.tag_ap import tag_agreement
from weaksam.evaluation.tag_statistics import TagStatistics, tag_statistics
from weaksam.report.gallery import StageResults
from weaksam.structures.instances import Instances

RECALL_COUNTS = (1, 3, 10, 30, 100, 300, 1000, None)
"""Numbers of proposals of the recall curves."""
WEAK = "WSOD"
"""Title of the weak detector's detections."""


@dataclass(frozen=True)
class TagAgreement:
    """AP in [0, 1] of the tags by the detections ``title`` on the photos of a split; ``taught``: it trained on them."""

    title: str
    split: str
    value: float
    taught: bool


@dataclass(frozen=True)
class Insights:
    """What is known beyond the figures; empty or None where the stages or a truth are missing.

    errors, curves: title of detections -> on the test photos. trust, doubts: image id -> of the training photos.
    true_precision: of the believed boxes at IoU 0.5, None without a truth.
    """

    tags: Mapping[str, TagStatistics]
    sources: Sequence[SourceRecall]
    recall: RecallResult | None
    errors: Mapping[str, ErrorCounts]
    curves: Mapping[str, Sequence[PrecisionRecall]]
    agreement: Sequence[TagAgreement]
    trust: Mapping[str, BoxTrust]
    doubts: Mapping[str, float]
    predicted: PredictedPrecision | None
    true_precision: float | None

    def as_dict(self) -> dict[str, Any]:
        """Error kinds and label quality as ``metrics.json`` holds them."""
        predicted = None if self.predicted is None else self.predicted.as_dict()
        return {
            "errors": {title: counts.as_dict() for title, counts in self.errors.items()},
            "label_quality": {
                "predicted_precision": predicted,
                "true_precision": self.true_precision,
                "tag_agreement": [
                    {"detections": row.title, "split": row.split, "value": row.value, "taught": row.taught}
                    for row in self.agreement
                ],
            },
        }


def insights(results: StageResults) -> Insights:
    """All that ``results`` allow."""
    train, test = results.truths.get("train"), results.truths.get("test")
    num_classes = len(results.train.classes)
    of_test = {} if test is None else {title: test.only(of) for title, of in results.detections.items()}
    trust = label_trust(results)
    believed = _believed(results)
    quality = None
    if train is not None and results.pseudo_gt is not None:
        measured = pseudo_gt_quality(train.instances, train.only(believed), num_classes)
        quality = json_number(measured.total()[0])
    tags = {sample.image_id: sample.tags for sample in results.train}
    return Insights(
        tags=_tag_statistics(results),
        sources=_sources(results),
        recall=_recall(results),
        errors={title: count_errors(test.instances, of, num_classes) for title, of in of_test.items()} if test else {},
        curves={title: precision_recall(test.instances, of, num_classes) for title, of in of_test.items()}
        if test
        else {},
        agreement=_agreement(results, tags, num_classes),
        trust=trust,
        doubts={
            image_id: doubt(of, tags[image_id], believed[image_id].labels.tolist()) for image_id, of in trust.items()
        },
        predicted=predicted_precision(trust) if trust else None,
        true_precision=quality,
    )


def label_trust(results: StageResults) -> dict[str, BoxTrust]:
    """The `BoxTrust` of the believed boxes of every training photo; empty before pseudo ground truth.

    The second looks are the later detectors' detections on the training photos; pseudo masks are none, for they answer
    the very boxes.
    """
    if results.pseudo_gt is None:
        return {}
    believed = _believed(results)
    tags = {sample.image_id: sample.tags for sample in results.train}
    shares = {}
    if results.weak_train is not None:
        scored = {image_id: boxes for image_id, boxes in believed.items() if boxes.scores is not None}
        shares = tag_shares(scored, results.weak_train, tags, len(results.train.classes))
    return trust_of(believed, shares, list(results.train_detections.values()))


def _believed(results: StageResults) -> dict[str, Instances]:
    return {image_id: boxes.without_crowd() for image_id, boxes in (results.pseudo_gt or {}).items()}


def _tag_statistics(results: StageResults) -> dict[str, TagStatistics]:
    num_classes = len(results.train.classes)
    statistics = {"train": tag_statistics((sample.tags for sample in results.train), num_classes)}
    if results.held_out_tags:
        statistics["test"] = tag_statistics(results.held_out_tags.values(), num_classes)
    return {split: of_split for split, of_split in statistics.items() if any(of_split.photos)}


def _sources(results: StageResults) -> list[SourceRecall]:
    if results.proposals is None or results.sources is None:
        return []
    truth = results.truths.get("train")
    return recall_by_source(results.proposals, results.sources, None if truth is None else truth.instances)


def _recall(results: StageResults) -> RecallResult | None:
    truth = results.truths.get("train")
    if truth is None or results.proposals is None:
        return None
    return proposal_recall(truth.instances, truth.only(results.proposals), counts=RECALL_COUNTS, ious=AR_IOUS)


def _agreement(results: StageResults, tags: Mapping[str, Sequence[int]], num_classes: int) -> list[TagAgreement]:
    """Of the weak and the later detectors, on the photos whose tags they were taught and on held-out ones."""
    rows = []
    taught = {} if results.weak_train is None else {WEAK: results.weak_train}
    for title, detections in {**taught, **results.train_detections}.items():
        rows.append(TagAgreement(title, "train", tag_agreement(detections, tags, num_classes), True))
    if any(results.held_out_tags.values()):
        for title, detections in results.detections.items():
            value = tag_agreement(detections, results.held_out_tags, num_classes)
            rows.append(TagAgreement(title, "test", value, False))
    return [row for row in rows if math.isfinite(row.value)]
