"""Train a detector on given instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from typing_extensions import Self

from weaksam.config import Settings, UserError
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.augmentation import AugmentSettings
from weaksam.engine.detectors.batches import DetectorBatch, PhotoRegions, TrainingPhotos
from weaksam.engine.detectors.mixing import Mixing
from weaksam.engine.schedules import warmup_cosine, warmup_steps
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import load_trained
from weaksam.engine.weight_average import WeightAverage
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import DetectorSettings, target_of, training_losses
from weaksam.models.detectors.frozen_stages import frozen_map, losses_from_maps, num_frozen
from weaksam.models.detectors.negatives import NegativeSettings
from weaksam.models.detectors.photo_settings import PhotoSettings
from weaksam.models.photo_draws import draws_of_photos
from weaksam.models.roi.roi_drop import RoiDropSettings
from weaksam.store.store import stage_fingerprint
from weaksam.structures.dataset import Sample
from weaksam.structures.devices import moved_together, pinned
from weaksam.structures.instances import Instances

COMPLETE_LABELS = NegativeSettings(rule="all", confident=None)
"""What regions without a box teach where no object lacks its box: background."""


class TrainingSettings(PhotoSettings, AugmentSettings):
    """How a detector of any kind is trained and used."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"max_cache_gib", "init", "backbone"})  # their bytes count
    _as_before: ClassVar[Mapping[str, Any]] = {"negatives": COMPLETE_LABELS}
    when_detecting: ClassVar[frozenset[str]] = frozenset(
        {
            "min_score",
            "nms_iou",
            "max_boxes",
            "mask_threshold",
            "flip_test",
            "test_scales",
            "longest_test",
            "detect_train",
        }
    )
    """Fields that the trained weights do not depend on."""

    backbone: BackboneSettings | None = None
    """A network of the detector's own, with its weights and colours; None: the run's (docs/retrain.md)."""
    num_epochs: int = Field(12, ge=1)
    """Passes over the training photos."""
    num_steps: int | None = Field(None, ge=1)
    """Steps of the whole training, instead of ``num_epochs``."""
    batch_size: int = Field(4, ge=1)
    """Photos per step."""
    batches_sorted: int = Field(1, ge=1)
    """The photos of so many batches are sorted by the width of their views before they are divided, which leaves less
    padding to compute but changes which photos share a batch; 1: batches as drawn."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""
    lr: float = Field(4e-4, gt=0)
    """Peak learning rate of the pyramid and the heads, after a linear warm-up; it then falls as ``schedule`` says."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """How the learning rate falls: as half a cosine, or at the ``milestones``."""
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """Shares of the training at which ``steps`` multiplies the learning rate by ``gamma``."""
    gamma: float = Field(0.1, gt=0)
    """Factor of each of these falls."""
    backbone_lr_factor: float = Field(0.25, ge=0, le=1)
    """The backbone's learning rate as a share of ``lr``: its weights are already good."""
    weight_decay: float = Field(1e-3, ge=0)
    """Weight decay of all trained tensors."""
    warmup_steps: int = Field(50, ge=0)
    """Steps of linear warm-up."""
    clip_norm: float | None = Field(10.0, gt=0)
    """Gradients are cut to this norm; none: not cut."""
    photos_without_box: Literal["left_out", "background"] = "left_out"
    """Photos with a tag but no box: left out of the training, or taught as background; those without a tag are always
    background."""
    detect_train: bool = True
    """Detect on the training photos too."""
    init: Path | None = None
    """Weights to start from: a folder that a training sealed, a .safetensors file, or a published Faster or Mask R-CNN
    with ResNet-50 (.pth, .safetensors, .pkl); every tensor must fit."""
    new_classes: bool = False
    """Start the layers that tell the classes anew where ``init`` has another number of them."""
    weight_average: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the weights, such as 0.999; the average is what is kept in the end. None: no
    average."""
    max_cache_gib: float = Field(4.0, ge=0)
    """Memory for resized training photos; what does not fit is read again at each pass."""

    def with_complete_labels(self) -> Self:
        """The same settings where no object lacks its box: every region that meets no box is background."""
        if "negatives" not in type(self).model_fields:
            return self
        return self.model_copy(update={"negatives": COMPLETE_LABELS})


class MergedViews(Settings):
    """Which views of a photo are detected on and merged."""

    flip_test: bool = True
    """Detect on the mirrored photo as well and merge (boxes only)."""
    test_scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] = Field((1.0,), min_length=1)
    """Detect at each of these multiples of the size, 0.25 to 4, and merge; masks are those of the merged boxes at the
    first."""
    longest_test: int | None = Field(None, ge=64)
    """Pixels of a photo's longer side at most at every test scale, instead of ``long_side`` times the scale."""


class TrainableSettings(DetectorSettings, MergedViews, TrainingSettings):
    """A detector of torchvision, how it is trained and how it is used."""

    roi_drop: RoiDropSettings = RoiDropSettings()
    """Leaves regions with high losses out, which a wrong pseudo box often has."""
    negatives: NegativeSettings = NegativeSettings()
    """What regions without a box teach, where boxes are incomplete."""


@dataclass(frozen=True)
class EpochStart:
    """Where a training is before the batches of an epoch."""

    epoch: int
    """From 0."""
    num_epochs: int
    photos: TrainingPhotos
    job: TrainingJob
    device: torch.device


@dataclass(frozen=True)
class DetectorMethod:
    """What training and use of one kind of detector differ in; every function takes its model and settings."""

    objective: Callable[[Any, Any, torch.device], Objective]
    """``(model, settings, device)`` to the losses of a `DetectorBatch` and the optimizer."""
    target: Callable[[Instances, Tensor | None], dict[str, Tensor]] = target_of
    """Instances and masks ``(N, h, w)`` of a view to what the losses are told of it."""
    detect: Callable[[Any, Sample, Any, torch.device], Instances] | None = None
    """``(model, sample, settings, device)`` to a photo's detections with masks; None: as torchvision's detectors do."""
    weak_views: Callable[[Any], bool] = lambda settings: False
    """Whether a training with these settings wants the photos as they are beside their views."""
    before_epoch: Callable[[nn.Module, Any, EpochStart], None] | None = None
    """Called with the model and its settings before the batches of each epoch; it may change what boxes count."""


def train_detector(
    model: nn.Module,
    instances: Mapping[str, Instances],
    settings: TrainingSettings,
    context: RunContext,
    job: TrainingJob,
    method: DetectorMethod,
    regions: PhotoRegions | None = None,
    mixing: Mixing | None = None,
) -> None:
    """Train ``model`` in place on ``instances`` of the training photos; its weights end up sealed in ``job.folder``.

    ``method`` gives the losses, the optimizer and what they are told of the instances of a view; ``regions`` lie beside
    these, and photos are mixed by ``mixing``. Goes on where a killed run stopped. Raises:
        UserError: there is nothing to train on.
    """
    model.to(context.device)
    if load_trained(model, job):
        return
    label = job.label
    if not any(len(of_photo.without_crowd()) for of_photo in instances.values()):
        raise UserError(
            f"{label} wants at least one box to train on, found none on {len(context.train)} photos: see what the weak "
            "detector found (wsod), or choose another rule of pseudo_gt"
        )
    model.train()
    photos = TrainingPhotos(
        context.train,
        instances,
        settings.short_side,
        settings.long_side,
        label,
        settings.max_cache_gib,
        boxless_as_background=settings.photos_without_box == "background",
        target=method.target,
        frozen=frozen_stages(model, settings, context.device),
        regions=regions,
        mixing=mixing,
        weak_views=method.weak_views(settings),
        complete=context.complete,
    )
    _log_photos(context, label, photos, instances)
    objective, num_batches = (
        method.objective(model, settings, context.device),
        photos.num_batches(settings.batch_size),
    )
    num_epochs = job.total_epochs(num_batches)
    average = WeightAverage(objective.optimizer, settings.weight_average) if settings.weight_average else None

    def batches(epoch: int) -> Sequence[DetectorBatch]:
        if method.before_epoch is not None:
            method.before_epoch(model, settings, EpochStart(epoch, num_epochs, photos, job, context.device))
        return photos.epoch(epoch, settings.batch_size, settings, context.seed, settings.batches_sorted)

    fit(
        model,
        [objective],
        batches,
        job,
        num_steps_per_epoch=num_batches,
        on_epoch_end=lambda epoch: average.put_in() if average is not None and epoch + 1 == num_epochs else None,
    )


def _log_photos(context: RunContext, label: str, photos: TrainingPhotos, instances: Mapping[str, Instances]) -> None:
    """Log how many photos are used, and the tagged classes that have no box on any of them."""
    tagged = {tag for sample in context.train for tag in sample.tags}
    boxed = {int(tag) for of_photo in instances.values() for tag in of_photo.without_crowd().labels.unique()}
    context.log.write(
        "training photos",
        stage=label,
        used=len(photos),
        tagged_without_box=photos.num_left_out,
        classes_without_box=[context.train.classes[tag] for tag in sorted(tagged - boxed)],
    )


def frozen_stages(
    model: nn.Module, settings: TrainingSettings, device: torch.device
) -> Callable[[Tensor], Tensor] | None:
    """What maps a view ``(3, h, w)`` to its frozen map on the CPU.

    None where views change, no stage is frozen or the detector is not torchvision's.
    """
    if settings.fixed_views is None or not isinstance(model, GeneralizedRCNN) or num_frozen(model) == 0:
        return None
    return lambda view: frozen_map(model, view.to(device)).cpu()


def detector_objective(model: GeneralizedRCNN, settings: TrainableSettings, device: torch.device) -> Objective:
    """Torchvision's losses of a `DetectorBatch`, and the optimizer of ``model`` on ``device``."""
    drop, heads = settings.roi_drop, model.roi_heads
    model.rpn.negatives = heads.negatives = settings.negatives
    if drop.gate != "off":
        heads.drop = drop

    def begin_step(step: int, total: int) -> None:
        heads.dropping = drop.active(step, total)
        model.rpn.confident = settings.negatives.confident_from(step, total)

    return Objective(
        lambda batch: _losses(model, batch, device),
        optimizer_of(model, settings),
        lambda step, total: lr_factor(step, total, settings),
        begin_step=begin_step,
        clip_norm=settings.clip_norm,
    )


TORCHVISION = DetectorMethod(detector_objective)
"""Faster and Mask R-CNN."""


def lr_factor(step: int, total: int, settings: TrainingSettings) -> float:
    """Factor of the learning rate in step ``step`` of ``total``."""
    if settings.schedule == "steps":
        return warmup_steps(step, total, settings.warmup_steps, settings.milestones, settings.gamma)
    return warmup_cosine(step, total, settings.warmup_steps)


def _losses(model: GeneralizedRCNN, batch: DetectorBatch, device: torch.device) -> dict[str, Tensor]:
    """Torchvision's named losses of a batch, computed on ``device``."""
    images, targets = batch_on(batch, device)
    with draws_of_photos(batch.seeds):
        if batch.sizes:
            return losses_from_maps(model, images, batch.sizes, targets, batch.canvas)
        return training_losses(model, images, targets, batch.canvas)


def batch_on(batch: DetectorBatch, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The photos and targets of a batch on ``device``, copied without waiting."""
    values = iter(moved_together([value for target in batch.targets for value in target.values()], device))
    targets = [{name: next(values) for name in target} for target in batch.targets]
    return [pinned(image, device).to(device, non_blocking=True) for image in batch.images], targets


def training_fingerprint(label: str, settings: TrainingSettings, inputs: Mapping[str, str]) -> str:
    """Fingerprint of the trained weights; settings that only matter when detecting do not change it."""
    training_settings = type(settings)(**settings.model_dump(exclude=settings.when_detecting))
    return stage_fingerprint(label, training_settings, inputs)


def optimizer_of(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The chosen optimizer over what trains; the backbone's own group has a lower learning rate."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    body = [parameter for name, parameter in trained.items() if name.startswith("backbone.body.")]
    rest = [parameter for name, parameter in trained.items() if not name.startswith("backbone.body.")]
    groups = [{"params": rest, "lr": settings.lr}]
    if body:
        groups.append({"params": body, "lr": settings.lr * settings.backbone_lr_factor})
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
