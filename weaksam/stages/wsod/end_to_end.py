"""Train the whole network, as OICR and MIST were published, and detect with it at several scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.sample_photos import read_photo
from weaksam.engine.context import RunContext
from weaksam.engine.mixed_precision import ScaledAdam, autocast, forward_dtype
from weaksam.engine.schedules import warmup_cosine, warmup_steps
from weaksam.engine.training import Objective
from weaksam.engine.training_job import TrainingJob
from weaksam.models.backbones.weights import input_colours
from weaksam.models.photo_draws import draws_of_photos
from weaksam.models.ranks import Ranks, ranks, ranks_are
from weaksam.models.wsod.head import HeadOutput
from weaksam.models.wsod.network import WsodNetwork, load_hidden_layers, pad_together, parameter_groups, wsod_trunk
from weaksam.stages.wsod.detections import detections_of
from weaksam.stages.wsod.end_to_end_batches import EndToEndBatch, PhotoView, ShownPhoto, end_to_end_batches, show
from weaksam.stages.wsod.example_cache import ExampleCache
from weaksam.stages.wsod.examples import TrainingExample
from weaksam.stages.wsod.losses import photo_losses
from weaksam.stages.wsod.photo_features import PhotoFeatures, unread_features
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.terminal import say

Losses = dict[str, Tensor]
_MIST_INIT, _OICR_INIT = 0.001, 0.01


class _Part(NamedTuple):
    """Photos that pass together: what is known and shown of each, its seed, their canvas, and 1 / photos in all.

    ``group``: the processes that compute this pass.
    """

    examples: list[TrainingExample]
    photos: list[ShownPhoto]
    seeds: tuple[int, ...]
    canvas: tuple[int, int]
    share: float
    group: Ranks


class EndToEndDetector:
    """The network that is trained along: photo in, class probabilities of its proposals out."""

    def __init__(self, context: RunContext, settings: WsodSettings) -> None:
        self.context, self.settings, training = context, settings, settings.end_to_end
        self.examples = ExampleCache(context.device, settings.max_table_gib)
        self.colours = input_colours(context.backbone)
        self.dtype = forward_dtype(training.precision, context.device)
        self.model = WsodNetwork(
            wsod_trunk(
                context.backbone,
                frozen_stages=training.frozen_stages,
                stride8=training.stride8,
                last_relu=training.last_relu,
            ),
            len(context.train.classes),
            roi_size=settings.roi_size,
            hidden=settings.hidden,
            dropout=settings.dropout,
            roi_pooling=training.roi_pooling,
            deterministic=training.deterministic,
            drop_rate=training.drop_rate if training.drop_block else None,
            num_branches=settings.num_branches,
            box_regression=settings.box_regression,
            background_column=settings.background_column,
            init_std=_MIST_INIT if settings.background_column else _OICR_INIT,
        ).to(context.device)
        self.own_layers = load_hidden_layers(self.model, context.backbone)

    def begin_training(self) -> None:
        """Say where the two hidden layers start from, which decides a lot."""
        start = "VGG-16's own fc6 and fc7" if self.own_layers else "random weights"
        say(f"wsod: the two hidden layers start from {start}", error=True)
        self.context.log.write("hidden layers", start=start)

    def prepare(self, sample: Sample) -> None:
        """Nothing is kept of a photo between steps."""

    def frozen_features(self) -> PhotoFeatures:
        """Features of the backbone before it is trained, by which seeds are relocated."""
        photos = unread_features(self.context, self.settings)
        photos.fit_projection(self.context.train, min(self.settings.reduced, sum(photos.network.channels.values())))
        return photos

    def begin_detecting(self) -> None:
        """Ready to detect."""
        self.examples.clear()
        self.model.eval()

    def batches(self, examples: Sequence[TrainingExample]) -> Sequence[EndToEndBatch]:
        """The batches of an epoch."""
        device = self.context.device
        return end_to_end_batches(examples, self.settings.batch_size, self.settings.end_to_end, self.colours, device)

    def training_job(self, folder: Path, fingerprint: str, name: str) -> TrainingJob:
        """The training of this detector as ``name``."""
        training = self.settings.end_to_end
        return TrainingJob(
            folder,
            fingerprint,
            name,
            self.context.seed,
            num_epochs=self.settings.num_epochs,
            num_steps=training.num_steps,
            log=self.context.log,
            save_every_seconds=60 * training.save_minutes,
            save_every_steps=training.save_steps,
        )

    def objectives(self) -> list[Objective]:
        """The detector's losses and, with Concrete DropBlock, those of its adversary."""
        settings, training = self.settings, self.settings.end_to_end
        self.optimizer = self._optimizer()

        def lr_factor(step: int, total: int) -> float:
            return self._lr_factor(step, total, training.gamma)

        main = Objective(self.losses, self.optimizer, lr_factor, clip_norm=settings.clip_norm)
        return [main] if self.model.drop_block is None else [main, self._adversary()]

    def losses(self, batch: EndToEndBatch) -> Iterator[Losses]:
        """Mean losses over the batch's photos that have a proposal, some photos at a time; nothing if none has one."""
        for part in self._parts(batch):
            with (
                draws_of_photos(part.seeds),
                ranks_are(part.group),
                autocast(self.dtype, self.context.device),
                self.model.all_but_drop_block_learn(),
            ):
                outputs = self.model(*self._inputs(part))
            yield self._scaled(self.optimizer, self._mean(part, outputs))

    def adversary_losses(self, batch: EndToEndBatch) -> Iterator[Losses]:
        """What Concrete DropBlock minimises: the negative sum of the detector's losses, of its own weights alone."""
        weight = self.settings.end_to_end.adversary_weight
        for part in self._parts(batch):
            images, boxes = self._inputs(part)
            with (
                draws_of_photos(part.seeds),
                ranks_are(part.group),
                autocast(self.dtype, self.context.device),
                self.model.only_drop_block_learns(),
            ):
                outputs = self.model.from_rois(self.model.pooled(images, boxes), boxes)
            total = torch.stack(list(self._mean(part, outputs).values())).sum()
            yield self._scaled(self.adversary, {"drop_block": -weight * total})

    @torch.inference_mode()
    def detect(self, sample: Sample, boxes: Tensor) -> Instances:
        """Detections from proposals ``boxes (N, 4)``, averaged over scales and mirrored views; none without any."""
        return self.detect_in(read_photo(sample), boxes) if len(boxes) else Instances.empty(scored=True)

    @torch.inference_mode()
    def detect_in(self, image: np.ndarray, boxes: Tensor) -> Instances:
        """`detect` on a decoded photo, uint8 RGB ``(H, W, 3)``."""
        if len(boxes) == 0:
            return Instances.empty(scored=True)
        training, size = self.settings.end_to_end, (image.shape[0], image.shape[1])
        flips = (False, True) if training.flip_test else (False,)
        views = [PhotoView(side, flip) for side in training.test_short_sides for flip in flips]
        shown = (show(image, view, training.most_long_side, self.colours) for view in views)
        outputs = [self._output(photo, boxes, size) for photo in shown]
        return detections_of(outputs, boxes, size, self.settings)

    def _output(self, photo: ShownPhoto, boxes: Tensor, size: tuple[int, int]) -> HeadOutput:
        device = self.context.device
        with autocast(self.dtype, device):
            images = pad_together([photo.pixels.to(device)])
            output = self.model(images, [photo.boxes(boxes, size).to(device)])[0]
        return output.in_photo(photo.view.mirrored).on(torch.device("cpu"))

    def _parts(self, batch: EndToEndBatch) -> Iterator[_Part]:
        """The photos that have a proposal, as many at a time as may pass together."""
        useful = batch.useful
        at_once = self.settings.end_to_end.photos_at_once or max(len(useful), 1)
        for numbers in (useful[start : start + at_once] for start in range(0, len(useful), at_once)):
            examples = [self.examples.on_device(batch.examples[number]) for number in numbers]
            photos, seeds = [batch.photos[number] for number in numbers], batch.seeds_of(numbers)
            group = Ranks() if batch.apart else ranks()
            yield _Part(examples, photos, seeds, batch.canvas, 1 / batch.num_useful, group)

    def _inputs(self, part: _Part) -> tuple[Tensor, list[Tensor]]:
        device = self.context.device
        images = pad_together([photo.pixels.to(device, non_blocking=True) for photo in part.photos], part.canvas)
        shown = zip(part.photos, part.examples, strict=True)
        return images, [photo.boxes(example.boxes, example.sample.size) for photo, example in shown]

    def _mean(self, part: _Part, outputs: Sequence[HeadOutput]) -> Losses:
        """The part's share of the batch's mean losses; box offsets are compared in the frame of the photo."""
        means: Losses = {}
        for example, photo, output in zip(part.examples, part.photos, outputs, strict=True):
            losses = photo_losses(output.in_photo(photo.view.mirrored), example, self.settings)
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + part.share * value
        return means

    def _scaled(self, optimizer: torch.optim.Optimizer, losses: Mapping[str, Tensor]) -> Losses:
        return optimizer.scaled(losses) if isinstance(optimizer, ScaledAdam) else dict(losses)

    def _lr_factor(self, step: int, total: int, gamma: float) -> float:
        training, warmup = self.settings.end_to_end, self.settings.warmup_steps
        if training.schedule == "cosine":
            return warmup_cosine(step, total, warmup)
        return warmup_steps(step, total, warmup, training.milestones, gamma, start_ratio=training.warmup_ratio)

    def _optimizer(self) -> torch.optim.Optimizer:
        settings, training = self.settings, self.settings.end_to_end
        groups = parameter_groups(
            self.model,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            bias_lr_factor=training.bias_lr_factor,
            bias_weight_decay=training.bias_weight_decay,
            branch_lr_factor=training.branch_lr_factor,
        )
        if training.optimizer == "sgd":
            if self.dtype == torch.float16:
                raise UserError(
                    "wanted a loss scale for float16, found wsod.end_to_end.optimizer=sgd, which has none: take adam "
                    "or adamw, or wsod.end_to_end.precision=float32"
                )
            return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
        half = self.dtype == torch.float16
        return ScaledAdam(groups, lr=settings.lr, decoupled=training.optimizer == "adamw", half=half)

    def _adversary(self) -> Objective:
        """Concrete DropBlock's own step, with Adam and a learning rate that rises where the detector's falls."""
        assert self.model.drop_block is not None
        training = self.settings.end_to_end
        self.adversary = ScaledAdam(
            self.model.drop_block.parameters(),
            lr=training.adversary_lr,
            weight_decay=self.settings.weight_decay,
            half=self.dtype == torch.float16,
        )
        return Objective(
            self.adversary_losses,
            self.adversary,
            lambda step, total: self._lr_factor(step, total, training.adversary_gamma),
        )
