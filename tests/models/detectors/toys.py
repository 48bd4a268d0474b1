"""Targets of photos whose boxes are incomplete, and regions."""

import torch
from torch import Tensor

from tests.helpers import instances
from weaksam.models.detectors.faster_rcnn import target_of

OBJECT = [0, 0, 10, 10]


def target(boxes, labels, tags, crowd=None, doubtful=(), of_class=()) -> dict[str, Tensor]:
    """The target of a photo of three classes; ``doubtful`` boxes have the labels ``of_class`` from 0."""
    known = torch.zeros(3, dtype=torch.bool)
    known[list(tags)] = True
    return target_of(instances(boxes, labels, crowd=crowd)) | {
        "tags": known,
        "doubtful_boxes": torch.tensor(doubtful, dtype=torch.float32).reshape(-1, 4),
        "doubtful_labels": torch.tensor(of_class, dtype=torch.int64),
    }


def regions(*boxes) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
