"""Draft mode: the backbone stays frozen, its features are kept in memory, and only the head is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weaksam.data.dataset import Sample
from weaksam.engine.context import RunContext
from weaksam.engine.photo_features import PhotoFeatures, Projection
from weaksam.engine.training import warmup_cosine
from weaksam.models.wsod_head import HeadOutput, WsodHead
from weaksam.stages.wsod.detecting import detections_of
from weaksam.stages.wsod.lessons import Batch, Lesson
from weaksam.stages.wsod.losses import mean_losses, photo_losses
from weaksam.stages.wsod.seeding import unread_features
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.structures.instances import Instances


class DraftDetector:
    """The head on frozen features: photo in, class probabilities of its proposals out.

    ``photos``: features of the same backbone and size that another detector has read already.
    """

    def __init__(self, context: RunContext, settings: WsodSettings, photos: PhotoFeatures | None = None) -> None:
        self.context, self.settings = context, settings
        self.photos = photos or unread_features(context, settings)
        depth = sum(self.photos.network.channels.values())
        self.model = WsodHead(
            depth,
            min(settings.reduced, depth),
            len(context.train.classes),
            num_branches=settings.num_branches,
            roi_size=settings.roi_size,
            hidden=settings.hidden,
            dropout=settings.dropout,
            box_regression=settings.box_regression,
            background_column=settings.background_column,
        ).to(context.device)

    def begin(self) -> None:
        """Find the principal components of the training photos' features, before anything is learnt."""
        projection = self.photos.projection
        if projection is None:
            projection = self.photos.fit_projection(self.context.train, len(self.model.directions))
        self.model.directions.copy_(projection.weight)
        self.model.centre.copy_(projection.mean)

    def prepare(self, sample: Sample) -> None:
        """Compute a training photo's features."""
        self.photos.views(sample)

    def frozen_features(self) -> PhotoFeatures:
        """The photos' features, by which seeds are relocated."""
        return self.photos

    def trained(self) -> None:
        """Take the components that came with the trained weights."""
        self.photos.projection = Projection(self.model.directions.cpu(), self.model.centre.cpu())
        self.model.eval()

    def batches(self, lessons: Sequence[Lesson]) -> list[Batch]:
        """The batches of an epoch in random order, half of the photos mirrored."""
        size = self.settings.batch_size
        order = torch.randperm(len(lessons)).tolist()
        mirrored = (torch.rand(len(lessons)) < 0.5).tolist()
        chunks = [order[start : start + size] for start in range(0, len(lessons), size)]
        return [Batch(tuple(lessons[i] for i in chunk), tuple(mirrored[i] for i in chunk)) for chunk in chunks]

    def training(self) -> dict:
        """What `fit` is told besides the losses and the batches."""
        settings: WsodSettings = self.settings
        return {
            "optimizer": torch.optim.AdamW(self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay),
            "lr_factor": lambda step, total: warmup_cosine(step, total, min(settings.warmup_steps, total // 4)),
            "num_epochs": settings.num_epochs,
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Mean losses over the batch's photos that have a proposal; none if no photo has one."""
        shown = zip(batch.lessons, batch.mirrored, strict=True)
        return mean_losses(
            photo_losses(self.output(lesson.sample, lesson.boxes, mirrored), lesson, self.settings)
            for lesson, mirrored in shown
            if len(lesson.boxes)
        )

    def output(self, sample: Sample, boxes: Tensor, mirrored: bool) -> HeadOutput:
        """The head's answer for one view of a photo."""
        view = self.photos.views(sample)[int(mirrored)]
        cells = view.cells(boxes, sample.size[1], self.photos.stride)
        device = self.context.device
        return self.model(view.features.to(device), cells.to(device)).in_photo(mirrored).on(torch.device("cpu"))

    @torch.inference_mode()
    def detect(self, sample: Sample, boxes: Tensor) -> Instances:
        """Detections of one photo, averaged over it and its mirror image; none without proposals."""
        if len(boxes) == 0:
            return Instances.empty()
        outputs = [self.output(sample, boxes, mirrored) for mirrored in (False, True)]
        return detections_of(outputs, boxes, sample.size, self.settings)
