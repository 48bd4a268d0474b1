"""Train and apply a detection head on frozen features, which are computed once and kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weaksam.engine.context import RunContext
from weaksam.engine.schedules import warmup_cosine
from weaksam.engine.training import Objective
from weaksam.engine.training_job import TrainingJob
from weaksam.models.photo_draws import draws_of_photos
from weaksam.models.ranks import ranks
from weaksam.models.wsod.extent import CellMap
from weaksam.models.wsod.head import HeadOutput, WsodHead
from weaksam.stages.wsod.detections import class_scores_of, detections_of
from weaksam.stages.wsod.example_cache import ExampleCache
from weaksam.stages.wsod.examples import ExampleBatch, TrainingExample, best_proposals, photo_seeds
from weaksam.stages.wsod.extent import Extent, SeenPhoto, extent_inputs, extent_key, learnt_extent
from weaksam.stages.wsod.guard import GuardSignals, JudgedPhoto, stored_signals
from weaksam.stages.wsod.losses import mean_losses, photo_losses
from weaksam.stages.wsod.photo_features import PhotoFeatures, Projection, View, unread_features
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.store.store import Store, store_folder
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances


class FrozenDetector:
    """The head on frozen features: photo in, class probabilities of its proposals out.

    ``photos``: features of the same backbone and size that another detector has read already. ``extent``: moves the
    detections, if it is set.
    """

    extent: Extent | None = None

    def __init__(self, context: RunContext, settings: WsodSettings, photos: PhotoFeatures | None = None) -> None:
        self.context, self.settings = context, settings
        self.photos = photos or unread_features(context, settings)
        self.examples = ExampleCache(torch.device("cpu"), settings.max_table_gib)
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

    def begin_training(self) -> None:
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

    def begin_detecting(self) -> None:
        """Take the components that came with the trained weights."""
        self.examples.clear()
        self.photos.projection = Projection(self.model.directions.cpu(), self.model.centre.cpu())
        self.model.eval()

    def batches(self, examples: Sequence[TrainingExample]) -> list[ExampleBatch]:
        """The batches of an epoch in random order, half of the photos mirrored."""
        size = self.settings.batch_size
        order = torch.randperm(len(examples)).tolist()
        mirrored = (torch.rand(len(examples)) < 0.5).tolist()
        seeds = photo_seeds(examples)
        batches = []
        for chunk in (order[start : start + size] for start in range(0, len(examples), size)):
            useful = [i for i in chunk if len(examples[i].boxes)]
            own, counts = ranks().share(useful)
            columns = (tuple(values[i] for i in own) for values in (examples, mirrored, seeds))
            ids = tuple(examples[i].sample.image_id for i in chunk)
            batches.append(ExampleBatch(*columns, len(useful), ids, counts))
        return batches

    def training_job(self, folder: Path, fingerprint: str, name: str) -> TrainingJob:
        """The training of this detector as ``name``."""
        num_epochs = self.settings.num_epochs
        return TrainingJob(folder, fingerprint, name, self.context.seed, num_epochs=num_epochs, log=self.context.log)

    def objectives(self) -> list[Objective]:
        """The losses and their optimizer."""
        settings: WsodSettings = self.settings
        # Fused AdamW is seven times as fast. It pairs weights and gradients as they lie in memory: right for a head of
        # matrices, silently wrong for convolutions whose weights are channels last and whose gradients are not.
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )

        def lr_factor(step: int, total: int) -> float:
            return warmup_cosine(step, total, min(settings.warmup_steps, total // 4))

        return [Objective(self.losses, optimizer, lr_factor, clip_norm=settings.clip_norm)]

    def losses(self, batch: ExampleBatch) -> dict[str, Tensor]:
        """Mean losses over the batch's photos that have a proposal; none if no photo has one."""
        useful = [(batch.examples[number], batch.mirrored[number]) for number in batch.useful]
        with draws_of_photos(batch.seeds_of(batch.useful)):
            outputs = self.outputs([(example.sample, example.boxes, mirrored) for example, mirrored in useful])
        losses = (
            photo_losses(output, self.examples.on_device(example), self.settings)
            for output, (example, _) in zip(outputs, useful, strict=True)
        )
        return mean_losses(losses, batch.num_useful)

    def outputs(self, shown: Sequence[tuple[Sample, Tensor, bool]]) -> list[HeadOutput]:
        """The head's answer for each photo's proposals, mirrored or not, in one pass."""
        if not shown:
            return []
        size = self.settings.roi_size
        rois = [self.photos.pooled(sample, boxes, size)[int(mirrored)] for sample, boxes, mirrored in shown]
        return self._answers(rois, [mirrored for _, _, mirrored in shown])

    def _answers(self, rois: Sequence[Tensor], mirrored: Sequence[bool]) -> list[HeadOutput]:
        """The head's answer for each view's features ``(N, F)``, box offsets in the frame of the photo."""
        outputs = self.model(torch.cat(list(rois)).to(self.context.device), [len(of_view) for of_view in rois])
        return [
            output.in_photo(is_mirrored).on(torch.device("cpu"))
            for output, is_mirrored in zip(outputs, mirrored, strict=True)
        ]

    @torch.inference_mode()
    def detect(self, sample: Sample, boxes: Tensor) -> Instances:
        """Detections from proposals ``boxes (N, 4)``, averaged over photo and mirror image; none without proposals."""
        if len(boxes) == 0:
            return Instances.empty(scored=True)
        rois = self.photos.pooled(sample, boxes, self.settings.roi_size)
        return self._detect(rois, boxes, lambda: self.cell_map(sample), sample.size, sample.image_id)

    @torch.inference_mode()
    def detect_in(self, image: np.ndarray, boxes: Tensor) -> Instances:
        """`detect` on a decoded photo, uint8 RGB ``(H, W, 3)``, that is none of the training photos."""
        if len(boxes) == 0:
            return Instances.empty(scored=True)
        size, views = (image.shape[0], image.shape[1]), self.photos.views_of(image)
        rois = self.photos.pool(views, boxes, size[1], self.settings.roi_size)
        return self._detect(rois, boxes, lambda: self._cell_map(views[0], size), size, None)

    def _detect(
        self,
        rois: Tensor,
        boxes: Tensor,
        cell_map: Callable[[], CellMap],
        size: tuple[int, int],
        image_id: str | None,
    ) -> Instances:
        """Detections from features ``(2, N, F)`` of proposals in a photo of ``size`` (H, W) and its mirror image."""
        outputs = self._answers(list(rois), (False, True))
        detections = detections_of(outputs, boxes, size, self.settings)
        if self.extent is None:
            return detections
        return self.extent.moved(detections, image_id, cell_map(), boxes, class_scores_of(outputs))

    @torch.inference_mode()
    def class_scores(self, sample: Sample, boxes: Tensor) -> Tensor:
        """Class probabilities ``(N, C)`` of proposals (N, 4), N at least 1, averaged over photo and mirror image."""
        return class_scores_of(self.outputs([(sample, boxes, False), (sample, boxes, True)]))

    def learn_extent(self, proposals: Store, weights_key: str, name: str) -> None:
        """Let detections move by what the best boxes of the training photos' tags teach, see `learnt_extent`.

        ``proposals``: the training photos'; ``weights_key``: fingerprint of the trained weights.
        """
        inputs = extent_inputs(weights_key, proposals)
        depth, seen = len(self.model.directions), self._best_boxes(proposals)
        self.extent = learnt_extent(self.context, self.settings.extent, depth, seen, inputs, name)

    def _best_boxes(self, proposals: Store) -> Iterator[SeenPhoto]:
        """Map and best boxes of each training photo."""
        for sample in self.context.train:
            boxes = best_proposals(proposals[sample.image_id], self.settings.num_proposals)
            if len(boxes) == 0:
                yield None, {}
                continue
            scores = self.class_scores(sample, boxes)
            yield self.cell_map(sample), {label: boxes[scores[:, label].argmax()] for label in sample.tags}

    @torch.inference_mode()
    def judge_classes(self, proposals: Store, weights_key: str, name: str) -> GuardSignals:
        """What the surroundings say of best boxes and largest proposals; after `learn_extent`, with its arguments."""
        extent = self.extent
        assert extent is not None, "the regressions are learnt before"
        settings, inputs = self.settings.extent, extent_inputs(weights_key, proposals)
        folder = store_folder(self.context.out, name, "extent", extent_key(settings, inputs, name))
        return stored_signals(self.context, lambda: self._judged(proposals, extent), settings.ring, folder, name)

    def _judged(self, proposals: Store, extent: Extent) -> Iterator[JudgedPhoto]:
        """The training photos that have a tag and a proposal."""
        for sample in self.context.train:
            boxes = best_proposals(proposals[sample.image_id], self.settings.num_proposals)
            if len(boxes) and sample.tags:
                scores = self.class_scores(sample, boxes)
                best = {label: int(scores[:, label].argmax()) for label in sample.tags}
                weights = extent.regressions.of_folds[extent.folds[sample.image_id]]
                yield JudgedPhoto(self.cell_map(sample), boxes, best, weights)

    def cell_map(self, sample: Sample) -> CellMap:
        """The photo's frozen map, not mirrored."""
        return self._cell_map(self.photos.views(sample)[0], sample.size)

    def _cell_map(self, view: View, size: tuple[int, int]) -> CellMap:
        """The map of a view of a photo of ``size`` (H, W)."""
        stride = self.photos.stride
        return CellMap(view.features, (view.scale[0] / stride, view.scale[1] / stride), size)
