"""Train a detector for the first share of its training, and measure its foreground regions against the true boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from weaksam.engine.context import RunContext
from weaksam.engine.detectors.batches import PhotoRegions, TrainingPhotos
from weaksam.engine.detectors.mixing import Mixing
from weaksam.engine.detectors.training import (
    TORCHVISION,
    TrainableSettings,
    batch_on,
    train_detector,
    training_fingerprint,
)
from weaksam.engine.kept_memory import kept_memory
from weaksam.engine.log import RunLog
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training_job import TrainingJob
from weaksam.evaluation.roi_errors import ForegroundRegions, wrong_boxes
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.models.detectors.negatives import NegativeSettings
from weaksam.models.detectors.roi_heads import RoiLosses
from weaksam.models.roi.roi_drop import RoiDropSettings
from weaksam.store.progress import progress
from weaksam.store.store import store_folder
from weaksam.structures.instances import Instances


@dataclass(frozen=True)
class EarlyDetector:
    """A detector that has had the first ``share`` of its training, without RoI drop, and what it was trained on."""

    model: GeneralizedRCNN
    settings: TrainableSettings
    instances: Mapping[str, Instances]
    name: str
    share: float
    weights: Path


def train_early(
    context: RunContext,
    settings: TrainableSettings,
    model: GeneralizedRCNN,
    instances: Mapping[str, Instances],
    inputs: Mapping[str, str],
    name: str,
    share: float,
    regions: PhotoRegions | None = None,
    mixing: Mixing | None = None,
) -> EarlyDetector:
    """Train ``model`` as `train_and_detect` does with these arguments, but stop after ``share`` of the steps.

    The steps are those that the whole training ``name`` begins with, in its order and with its learning rates, but
    without RoI drop and teacher. The weights lie in ``context.out``, which should not be the folder of a run; nothing
    is logged. What was finished before is only read, and an interrupted training goes on. Raises `UserError` for no box
    at all.
    """
    plain = settings.model_copy(update={"roi_drop": RoiDropSettings()})
    own_inputs = {
        "train": context.train.fingerprint,
        "backbone": backbone_fingerprint(context.backbone),
        "seed": str(context.seed),
        "share": repr(share),
    }
    fingerprint = training_fingerprint(f"{name} early", plain, {**own_inputs, **inputs})
    folder = store_folder(context.out, name, "early", fingerprint)
    epochs, steps = settings.num_epochs, settings.num_steps
    job = TrainingJob(folder, fingerprint, name, context.seed, epochs, steps, context.train.classes, stop_share=share)
    with kept_memory():
        silent = replace(context, log=RunLog(None))
        train_detector(model, instances, plain, silent, job, TORCHVISION, regions, mixing)
    return EarlyDetector(model, plain, instances, name, share, folder / "weights.safetensors")


def foreground_regions(
    context: RunContext, early: EarlyDetector, truths: Mapping[str, Instances], num_passes: int = 1
) -> ForegroundRegions:
    """Losses of the foreground regions that a training step would sample now, on the photos that have a truth.

    The photos come in batches and views as in training, ``num_passes`` times; nothing is learnt. ``truths``: true
    objects by image id. No photo with a truth and a box gives F = 0.
    """
    settings, seed = early.settings, derive_seed(context.seed, early.name, "foreground regions")
    num_classes = len(context.train.classes)
    photos = _marked_photos(context, early, truths, num_classes)
    model = early.model.to(context.device).train()
    # What the background teaches says nothing of the foreground, and would want more than the boxes
    model.rpn.negatives = model.roi_heads.negatives = NegativeSettings()
    model.rpn.confident = None
    parts: list[tuple[dict[str, Tensor], Tensor]] = []
    seed_everything(seed)
    num_batches = num_passes * photos.num_batches(settings.batch_size)
    epochs = (photos.epoch(number, settings.batch_size, settings, seed) for number in range(num_passes))
    batches = (batch for epoch in epochs for batch in epoch)
    for batch in progress(batches, num_batches, f"{early.name}: foreground regions"):
        images, targets = batch_on(batch, context.device)
        wrong = [target["labels"] > num_classes for target in targets]
        for target, marked in zip(targets, wrong, strict=True):
            target["labels"] = torch.where(marked, target["labels"] - num_classes, target["labels"])
        parts.append(_of_batch(region_losses(model, images, targets), wrong))
    return _joined(parts, len(photos))


@torch.no_grad()
def region_losses(model: GeneralizedRCNN, images: list[Tensor], targets: list[dict[str, Tensor]]) -> RoiLosses:
    """Losses of the regions that ``model``, in training mode, samples on photos ``(3, h, w)`` with these targets."""
    batch, moved = model.transform(images, targets)
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features, moved)
    losses: RoiLosses = model.roi_heads.region_losses(features, proposals, batch.image_sizes, moved)
    return losses


def _marked_photos(
    context: RunContext, early: EarlyDetector, truths: Mapping[str, Instances], num_classes: int
) -> TrainingPhotos:
    """The training photos that have a truth; the label of a wrong box is raised by ``num_classes``.

    So the mark goes through every view with its box.
    """
    known = tuple(sample for sample in context.train if sample.image_id in truths)
    marked = {}
    for sample in known:
        boxes = early.instances.get(sample.image_id, Instances.empty())
        wrong = wrong_boxes(truths[sample.image_id], boxes)
        marked[sample.image_id] = boxes.replace(labels=boxes.labels + num_classes * wrong.long())
    settings = early.settings
    return TrainingPhotos(
        replace(context.train, samples=known),
        marked,
        settings.short_side,
        settings.long_side,
        early.name,
        settings.max_cache_gib,
        boxless_as_background=settings.photos_without_box == "background",
    )


def _of_batch(losses: RoiLosses, wrong: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Losses of a batch's foreground regions by term, and whether their boxes are ``wrong`` (of each photo's boxes)."""
    foreground = losses.labels > 0
    counts = [len(matches) for matches in losses.matches]
    of_photos = zip(wrong, losses.matches, foreground.split(counts), strict=True)
    of_regions = [marked[matches[chosen]] for marked, matches, chosen in of_photos]
    terms = {term: of_term[foreground].float().cpu() for term, of_term in losses.terms().items()}
    return terms, torch.cat(of_regions).cpu()


def _joined(parts: list[tuple[dict[str, Tensor], Tensor]], num_photos: int) -> ForegroundRegions:
    """The regions of all batches, in order."""
    terms = list(parts[0][0]) if parts else ["class", "box"]
    losses = {term: [of_batch[term].numpy() for of_batch, _ in parts] for term in terms}
    wrong = [of_batch.numpy() for _, of_batch in parts]
    batches = np.repeat(np.arange(len(parts)), [len(of_batch) for of_batch in wrong])
    return ForegroundRegions(
        {term: np.concatenate([np.zeros(0, np.float32), *of_term]) for term, of_term in losses.items()},
        np.concatenate([np.zeros(0, bool), *wrong]),
        batches,
        num_photos,
    )
