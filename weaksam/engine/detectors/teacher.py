"""Let a moving average of a detector teach it what its pseudo boxes miss."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from weaksam.config import Settings
from weaksam.engine.detectors.batches import DetectorBatch, WeakView
from weaksam.engine.weight_average import WeightAverage
from weaksam.models.detectors.faster_rcnn import detect
from weaksam.structures.boxes import pairwise_ioa, pairwise_iou

_SAME_IOU = 0.5
"""IoU with a pseudo box of its class from which on a teacher's box is on that object."""
_INSIDE = 0.85
"""Share of one of the two in the other from which on it is, too: WeakSAM's tau_o."""


class TeacherSettings(Settings):
    """How an average of the detector's weights adds boxes to the pseudo boxes that the detector learns from.

    Sources: Unbiased Teacher (Liu et al., ICLR 2021), Soft Teacher (Xu et al., ICCV 2021), with tags SoS-WSOD (Sui et
    al., CVPR 2022): a box counts if its class is a tag and its score is high. Ours: a share that grows from the first
    step on instead of a copy after burn-in, and parts and wholes of pseudo boxes are left out.
    """

    weight: float = Field(0.0, ge=0, le=10)
    """How far the classes of the teacher's boxes count beside pseudo boxes, which count by 1; 0: no teacher. Published:
    4 (Unbiased Teacher), 2 (SoS-WSOD); 1 is advised for small sets."""
    box_weight: float = Field(0.0, ge=0, le=10)
    """How far their extent counts; 0, as published: not at all."""
    min_score: float = Field(0.7, ge=0, le=1)
    """Least score of the teacher's boxes."""
    start_share: float = Field(0.3, ge=0, le=1)
    """Share of the training after which the teacher adds boxes; before it the pseudo boxes stand alone (burn-in)."""
    decay: float = Field(0.999, gt=0, lt=1)
    """Decay of the average that is the teacher; after step n it keeps at most (1 + n) / (10 + n) of itself."""


class Teacher:
    """A copy of ``model`` with the average of its weights, which lies in the state of ``optimizer``.

    What saves and resumes the optimizer does so with the teacher. Weights that do not train are those of ``model``.
    """

    def __init__(self, model: GeneralizedRCNN, optimizer: Optimizer, settings: TeacherSettings) -> None:
        self.model, self.settings = model, settings
        self.average = WeightAverage(optimizer, settings.decay, "teacher")
        self.network: GeneralizedRCNN | None = None

    def boxes(self, view: WeakView, device: torch.device) -> dict[str, Tensor]:
        """The teacher's boxes ``boxes`` (N, 4) on the frame of ``view``, and their ``labels`` (N,) from 1, on the CPU.

        Scores are at least ``min_score`` and classes are tags. N may be 0; without a tag nothing is computed.
        """
        if not bool(view.tags.any()):
            return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        network = self._network()
        dtype = next(network.parameters()).dtype
        image = view.image.to(device).to(dtype) / 255
        (raw,) = detect(network, [image], masks=False)
        boxes, labels = raw["boxes"].float().cpu().clone(), raw["labels"].cpu().clone()
        kept = view.tags[labels - 1]  # scores are those that the network keeps
        return {"boxes": boxes[kept], "labels": labels[kept]}

    @torch.no_grad()
    def _network(self) -> GeneralizedRCNN:
        """The copy with today's average."""
        if self.network is None:
            self.network = copy.deepcopy(self.model).eval().requires_grad_(False)
            self.network.roi_heads.score_thresh = self.settings.min_score
        trained = self.model.named_parameters()
        for (_, of_model), of_copy in zip(trained, self.network.parameters(), strict=True):
            of_copy.copy_(self.average.of(of_model))
        return self.network

    def taught(self, batch: DetectorBatch, device: torch.device) -> tuple[DetectorBatch, int]:
        """``batch`` with the teacher's boxes among the targets, see `joined`, and how many there are."""
        targets, num = [], 0
        for target, view in zip(batch.targets, batch.weak_views, strict=True):
            new = self.boxes(view, device)
            in_view = {"boxes": view.to_view(new["boxes"]), "labels": new["labels"]}
            with_teacher = joined(target, in_view, self.settings)
            num += len(with_teacher["labels"]) - len(target["labels"])
            targets.append(with_teacher)
        return replace(batch, targets=targets), num


def joined(target: Mapping[str, Tensor], new: Mapping[str, Tensor], settings: TeacherSettings) -> dict[str, Tensor]:
    """A photo's ``target`` with those of the ``new`` boxes (N, 4), of labels (N,) from 1, that show other objects.

    A new box is left out where it is under a pixel wide or high in the view, and where it overlaps a box of its class
    by an IoU of 0.5, or one of the two lies in the other by 85 %. ``class_weights`` and ``box_weights`` are the
    target's, else 1, and the settings' for new boxes.
    """
    boxes, labels = target["boxes"], target["labels"]
    seen = (new["boxes"][:, 2:] - new["boxes"][:, :2] >= 1).all(dim=1)
    same_class = new["labels"][:, None] == labels
    exact, others = new["boxes"].to(boxes), boxes
    met = (
        (pairwise_iou(exact, others) >= _SAME_IOU)
        | (pairwise_ioa(exact, others) >= _INSIDE)
        | (pairwise_ioa(others, exact).T >= _INSIDE)
    )
    kept = seen & ~(met & same_class).any(dim=1)
    added = int(kept.sum())
    result = dict(target) | {
        "boxes": torch.cat([boxes, exact[kept]]),
        "labels": torch.cat([labels, new["labels"][kept]]),
    }
    for name, weight in (("class_weights", settings.weight), ("box_weights", settings.box_weight)):
        known = target.get(name, torch.ones(len(labels), dtype=boxes.dtype))
        result[name] = torch.cat([known, known.new_full((added,), weight)])
    return result
