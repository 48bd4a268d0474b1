"""Train DINO by the loop of every detector."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.engine.detectors.batches import DetectorBatch
from weaksam.engine.detectors.training import DetectorMethod, MergedViews, TrainingSettings, lr_factor, optimizer_of
from weaksam.engine.mixed_precision import autocast, forward_dtype
from weaksam.engine.training import Objective
from weaksam.models.detectors.dino.detector import Dino
from weaksam.models.detectors.dino.settings import DinoDetectorSettings
from weaksam.models.detectors.faster_rcnn import training_losses
from weaksam.models.detectors.negatives import NegativeSettings
from weaksam.models.photo_draws import draws_of_photos
from weaksam.models.query.query_drop import QueryDropSettings
from weaksam.structures.devices import pinned


class TrainableDinoSettings(DinoDetectorSettings, MergedViews, TrainingSettings):
    """DINO, how it is trained and how it is used; the published schedules stand in ``configs/``."""

    _not_fingerprinted: ClassVar[frozenset[str]] = TrainingSettings._not_fingerprinted

    num_epochs: int = Field(36, ge=1)
    """Passes over the training photos; matching takes longer to learn than anchors."""
    batch_size: int = Field(2, ge=1)
    """Photos per step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate of all but the backbone."""
    backbone_lr_factor: float = Field(0.1, ge=0, le=1)
    """The backbone's learning rate as a share of ``lr``."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of all trained tensors."""
    clip_norm: float | None = Field(0.1, gt=0)
    """Gradients are cut to this norm; none: not cut."""
    query_drop: QueryDropSettings = QueryDropSettings()
    """Leaves matched queries with high losses out, which a wrong pseudo box often has."""
    negatives: NegativeSettings = NegativeSettings()
    """What queries without a box teach, where boxes are incomplete; ``anchors`` has no part in it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the forward pass of the training computes in; losses, boxes and deformable attention are float32."""


def dino_objective(model: Dino, settings: TrainableDinoSettings, device: torch.device) -> Objective:
    """DINO's losses of a `DetectorBatch`, and the optimizer of ``model`` on ``device``."""
    dtype = forward_dtype(settings.precision, device)

    def losses(batch: DetectorBatch) -> dict[str, Tensor]:
        photos = [pinned(image, device).to(device, non_blocking=True) for image in batch.images]
        with autocast(dtype, device), draws_of_photos(batch.seeds):  # targets are read on the CPU
            named: dict[str, Tensor] = training_losses(model, photos, batch.targets, batch.canvas)
        return named

    drop = settings.query_drop
    model.negatives = settings.negatives
    if drop.gate != "off":
        model.drop = drop

    def begin_step(step: int, total: int) -> None:
        model.dropping = drop.active(step, total)
        model.confident = settings.negatives.confident_from(step, total)

    return Objective(
        losses,
        optimizer_of(model, settings),
        lambda step, total: lr_factor(step, total, settings),
        begin_step=begin_step,
        clip_norm=settings.clip_norm,
    )


DINO = DetectorMethod(dino_objective)
"""Trained on boxes alone; detects as every detector of boxes does."""
