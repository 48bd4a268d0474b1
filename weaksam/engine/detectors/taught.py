"""Train Faster R-CNN on pseudo boxes beside a teacher, or on those that their losses speak for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from typing_extensions import Self

from weaksam.engine.detectors.batches import DetectorBatch
from weaksam.engine.detectors.loss_split import LossSplitSettings, split_before_epoch
from weaksam.engine.detectors.teacher import Teacher, TeacherSettings
from weaksam.engine.detectors.training import DetectorMethod, TrainableSettings, detector_objective
from weaksam.engine.training import Objective


class TaughtSettings(TrainableSettings):
    """Faster R-CNN that learns from pseudo boxes and, if asked for, from a teacher."""

    _as_before: ClassVar[Mapping[str, Any]] = {"teacher": TeacherSettings(), "split": LossSplitSettings()}

    teacher: TeacherSettings = TeacherSettings()
    """Adds boxes that the pseudo boxes lack; off by default."""
    split: LossSplitSettings = LossSplitSettings()
    """Lets pseudo boxes of high losses count less; off by default."""

    @model_validator(mode="after")
    def _split_off_boxes_have_a_teacher(self) -> Self:
        """Raise ``ValueError`` where boxes are left to a teacher that there is not."""
        if self.split.teacher_share > 0 and self.teacher.weight == 0:
            raise ValueError(
                f"split.teacher_share={self.split.teacher_share:g} leaves boxes to the teacher, found "
                "teacher.weight=0: set teacher.weight=1, or take split.teacher_share=0"
            )
        return self


def taught_objective(model: GeneralizedRCNN, settings: TaughtSettings, device: torch.device) -> Objective:
    """The losses of `detector_objective`, with the teacher's boxes from ``start_share`` of the training on.

    ``teacher_boxes`` is a figure: how many there are a photo.
    """
    objective = detector_objective(model, settings, device)
    if settings.teacher.weight == 0:
        return objective
    teacher = Teacher(model, objective.optimizer, settings.teacher)
    active = False

    def begin_step(step: int, total: int) -> None:
        nonlocal active
        active = step >= round(settings.teacher.start_share * total)
        if objective.begin_step is not None:
            objective.begin_step(step, total)

    def losses(batch: DetectorBatch) -> dict[str, Tensor]:
        num = 0
        if active:
            batch, num = teacher.taught(batch, device)
        named = objective.losses(batch)
        assert isinstance(named, dict), "a detector gives its losses at once"
        figure = torch.tensor(num / len(batch.image_ids), device=device)
        return named | {"teacher_boxes": figure}

    return replace(objective, losses=losses, begin_step=begin_step)


TAUGHT = DetectorMethod(
    taught_objective,
    weak_views=lambda settings: settings.teacher.weight > 0,
    before_epoch=lambda model, settings, start: split_before_epoch(model, settings.split, start),
)
"""Faster R-CNN on pseudo boxes, as `TORCHVISION` where the settings ask for nothing more."""
