"""Keep the detections that the retrain stage chooses from: the weak detector's, the network's and both merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import detection_store, row_instances
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.result import DetectorResult
from weaksam.stages.retrain.settings import AnyRetrainSettings
from weaksam.store.store import Store, store_folder
from weaksam.structures.box_fusion import weighted_boxes_fusion
from weaksam.structures.box_voting import voted_detections
from weaksam.structures.dataset import Dataset
from weaksam.structures.proposals import Proposals

CandidateName = Literal["weak", "retrained", "merged"]
Candidates = Mapping[CandidateName, Mapping[str, Store]]
"""Sealed detections by whose they are and by split, which are the splits that the network detected on."""


def candidate_detections(
    context: RunContext, settings: AnyRetrainSettings, weak: DetectorResult, network: DetectorResult, name: str
) -> Candidates:
    """The detections of both detectors and, by `weighted_boxes_fusion`, the two merged, on the network's splits.

    The merged ones lie in ``OUT/<name>/store/merged_<split>-*``, at most ``settings.max_boxes`` a photo. A split that
    the weak detector did not detect on is left out of all.
    """
    splits = [split for split in network.stores if split in weak.stores]
    merged = {
        split: _merged(context, settings, weak.stores[split], network.stores[split], split, name) for split in splits
    }
    return {
        "weak": {split: weak.stores[split] for split in splits},
        "retrained": {split: network.stores[split] for split in splits},
        "merged": merged,
    }


def voted(
    context: RunContext,
    settings: AnyRetrainSettings,
    stores: Mapping[str, Store],
    proposals: Mapping[str, Store],
    name: str,
) -> Mapping[str, Store]:
    """The detections of ``stores`` (by split) after `voted_detections` by the split's ``proposals``.

    They lie in ``OUT/<name>/store/voted_<split>-*``; ``stores`` themselves where ``settings.box_voting`` moves nothing.
    """
    if settings.box_voting.share == 0:
        return stores
    return {split: _voted(context, settings, store, proposals[split], split, name) for split, store in stores.items()}


def split_photos(context: RunContext, split: str) -> Dataset:
    """The photos of ``train`` or ``test``."""
    dataset = context.train if split == "train" else context.test
    assert dataset is not None, f"detections of {split} without its photos"
    return dataset


def _merged(
    context: RunContext, settings: AnyRetrainSettings, weak: Store, network: Store, split: str, name: str
) -> Store:
    """The store of both detectors' detections of a split, merged."""
    key = fingerprint_of(
        {
            "stage": f"{name} merged",
            "sources": [weak.fingerprint, network.fingerprint],
            "fusion_iou": settings.fusion_iou,
            "max_boxes": settings.max_boxes,
        }
    )
    folder = store_folder(context.out, name, f"merged_{split}", key)
    store = detection_store(folder, name, key, split_photos(context, split), masks=False)

    def row(image_id: str) -> dict[str, Any]:
        sources = [row_instances(source[image_id], source.folder) for source in (weak, network)]
        merged = weighted_boxes_fusion(sources, settings.fusion_iou)
        first = slice(settings.max_boxes)
        return {"boxes": merged.boxes[first], "labels": merged.labels[first], "scores": merged.scores[first]}

    return store.fill(row, f"{name}: merge {split}", cheap=True)


def _voted(
    context: RunContext, settings: AnyRetrainSettings, detections: Store, proposals: Store, split: str, name: str
) -> Store:
    """The store of a split's detections after the vote of its proposals."""
    sources = [detections.fingerprint, proposals.fingerprint]
    key = fingerprint_of({"stage": f"{name} voted", "sources": sources, "box_voting": settings.box_voting})
    folder = store_folder(context.out, name, f"voted_{split}", key)
    store = detection_store(folder, name, key, split_photos(context, split), masks=False)

    def row(image_id: str) -> dict[str, Any]:
        of_photo = proposals.read(image_id, "boxes", "scores")
        candidates = Proposals.of(of_photo["boxes"], of_photo["scores"])
        moved = voted_detections(
            row_instances(detections[image_id], detections.folder), candidates, settings.box_voting
        )
        return {"boxes": moved.boxes, "labels": moved.labels, "scores": moved.scores}

    return store.fill(row, f"{name}: box voting {split}", cheap=True)
