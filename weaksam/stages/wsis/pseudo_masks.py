"""Turn pseudo boxes into pseudo masks with the segmenter, and keep them in a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import instances_key
from weaksam.data.sample_photos import read_photo
from weaksam.engine.context import RunContext
from weaksam.sam.box_masks import masks_of_boxes
from weaksam.sam.protocol import Segmenter
from weaksam.stages.wsis.settings import PseudoMaskSettings
from weaksam.store.store import Store, store_folder
from weaksam.structures.instances import Instances

_COLUMNS = {"boxes": "boxes", "labels": "ints", "scores": "floats", "predicted_iou": "floats", "rles": "rles"}


def make_pseudo_masks(
    context: RunContext,
    settings: PseudoMaskSettings,
    segmenter: Segmenter,
    pseudo_gt: Mapping[str, Instances],
    name: str,
) -> Store:
    """The sealed store of one mask per pseudo box of every training photo (an empty row where there is none).

    Columns: boxes, labels and scores (1 where ``pseudo_gt`` has none) of ``pseudo_gt``, the mask as RLE, and the
    ``predicted_iou`` that the segmenter gave it; instances that carry masks keep them, with 1 as predicted IoU. Where
    some of ``pseudo_gt`` are to be ignored, ``crowd`` says which.
    """
    ignores = any(boxes.crowd is not None and bool(boxes.crowd.any()) for boxes in pseudo_gt.values())
    fingerprint = fingerprint_of(
        {
            "stage": f"{name} pseudo masks",
            "mask_choice": settings.mask_choice,
            "segmenter": segmenter.fingerprint,
            "train": context.train.fingerprint,
            "pseudo_gt": instances_key(pseudo_gt),
        }
        | ({"columns": "crowd"} if ignores else {})
    )
    folder = store_folder(context.out, name, "pseudo_masks", fingerprint)
    image_ids = context.train.image_ids
    columns = _COLUMNS | ({"crowd": "ints"} if ignores else {})
    store = Store(folder, stage=name, fingerprint=fingerprint, image_ids=image_ids, columns=columns)

    def row(image_id: str) -> dict[str, Any]:
        instances = pseudo_gt.get(image_id, Instances.empty())
        rles, predicted_iou = list(instances.masks or ()), torch.ones(len(instances))
        if len(instances) and instances.masks is None:
            image = read_photo(context.train.by_id[image_id])
            rles, predicted_iou = masks_of_boxes(segmenter, image, instances.boxes, settings.mask_choice)
        marks = torch.zeros(len(instances), dtype=torch.bool) if instances.crowd is None else instances.crowd
        return ({"crowd": marks.long()} if ignores else {}) | {
            "boxes": instances.boxes,
            "labels": instances.labels,
            "scores": instances.scores if instances.scores is not None else torch.ones(len(instances)),
            "predicted_iou": predicted_iou,
            "rles": rles,
        }

    return store.fill(row, f"{name}: pseudo masks")
