"""Measure an exported model against the network it was made of, on photos whose true boxes are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from weaksam.data.sample_photos import read_photo
from weaksam.evaluation.coco import coco_ap
from weaksam.evaluation.truth import Truth
from weaksam.prediction.checkpoint import Checkpoint
from weaksam.prediction.onnx_runner import Model
from weaksam.prediction.predictor import Predictor
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class ApChange:
    """COCO box AP of the network in torch, and of the export, on ``num_photos`` photos; both look at a photo once."""

    before: float
    after: float
    num_photos: int

    def __str__(self) -> str:
        change = self.after - self.before
        return (
            f"COCO box AP on {self.num_photos} photos: {self.before:.4f} in torch, {self.after:.4f} exported "
            f"({change:+.4f})"
        )


def seen_once(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without mirrored views and other scales, as its export is."""
    once = {"flip_test": False, "test_scales": (1.0,), "longest_test": None}
    header = checkpoint.header.model_copy(update={"detector": {**checkpoint.header.detector, **once}})
    return Checkpoint(header, checkpoint.settings.model_copy(update=once), checkpoint.state, checkpoint.path)


def ap_change(checkpoint: Checkpoint, folder: Path, photos: Dataset) -> ApChange:
    """The AP of ``checkpoint`` and of its ONNX export in ``folder`` on ``photos``, which have true objects.

    The export pads photos to its frame where the network itself pads them to 32 pixels, which shows at the borders.
    """
    truth = Truth.of(photos)
    assert truth is not None, "photos without true objects"
    predictor, model = Predictor(seen_once(checkpoint), device="cpu"), Model(folder)
    before: dict[str, Instances] = {}
    after: dict[str, Instances] = {}
    for image_id in truth.instances:
        image = read_photo(photos.by_id[image_id])
        before[image_id] = predictor.detect([image])[0].replace(masks=None)
        answers = model.detect(image)
        boxes, scores, labels = (torch.from_numpy(answers[name]) for name in ("boxes", "scores", "labels"))
        after[image_id] = Instances(boxes.float(), labels.long(), scores.float())
    aps = [coco_ap(truth.instances, detections, truth.num_classes).as_dict()["ap"] for detections in (before, after)]
    return ApChange(*(0.0 if ap is None else float(ap) for ap in aps), num_photos=len(before))
