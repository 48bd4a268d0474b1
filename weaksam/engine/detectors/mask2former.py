"""Train Mask2Former and detect with it, as the shared loop and stores want it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from weaksam.engine.context import RunContext
from weaksam.engine.detectors.batches import DetectorBatch
from weaksam.engine.detectors.initial_weights import (
    InitialWeights,
    folder_sha256,
    read_initial,
    require_resnet50,
    tell_notes,
    with_conventions,
)
from weaksam.engine.detectors.mask2former_settings import TrainableMask2FormerSettings
from weaksam.engine.detectors.photos import ResizedPhoto, load_scales
from weaksam.engine.detectors.result import DetectorResult, train_and_detect
from weaksam.engine.detectors.training import DetectorMethod, batch_on, lr_factor
from weaksam.engine.mixed_precision import autocast, forward_dtype
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.engine.training import Objective
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.first_weights import FirstWeights
from weaksam.models.detectors.mask2former.instances import segment_photo
from weaksam.models.detectors.mask2former.losses import mask2former_losses
from weaksam.models.detectors.mask2former.network import Mask2Former, build_mask2former
from weaksam.models.detectors.mask2former.published import (
    is_transformers_folder,
    published_files,
    read_published_file,
    read_published_folder,
)
from weaksam.models.detectors.mask2former.starting import check_sizes, load_mask2former_weights
from weaksam.models.detectors.mask2former.targets import mask_target, photo_objects
from weaksam.models.photo_draws import draws_of_photos
from weaksam.store.files import unchanged_files
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import batched_mask_nms


def mask2former_objective(
    model: Mask2Former, settings: TrainableMask2FormerSettings, device: torch.device
) -> Objective:
    """Mask2Former's losses of a `DetectorBatch`, and the optimizer of ``model`` on ``device``."""
    dtype = forward_dtype(settings.precision, device)
    dtype = torch.float32 if dtype == torch.float16 else dtype  # would want a scale of the losses
    least = settings.crop_size or 0 if settings.pad_views else 0

    def losses(batch: DetectorBatch) -> dict[str, Tensor]:
        images, targets = batch_on(batch, device)
        with autocast(dtype, device):
            predictions = model(images, (max(least, batch.canvas[0]), max(least, batch.canvas[1])))
        with draws_of_photos(batch.seeds):
            return mask2former_losses(predictions, photo_objects(targets, images), settings.losses)

    return Objective(
        losses,
        _optimizer(model, settings),
        lambda step, total: lr_factor(step, total, settings),
        clip_norm=settings.clip_norm,
    )


def _optimizer(model: Mask2Former, settings: TrainableMask2FormerSettings) -> torch.optim.Optimizer:
    """The chosen optimizer over what trains: backbone and rest, each with and without weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = name.startswith("backbone."), _decays(model, name)
            groups.setdefault(key, []).append(parameter)
    options = [
        {
            "params": parameters,
            "lr": settings.lr * (settings.backbone_lr_factor if in_backbone else 1.0),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(options, lr=settings.lr, momentum=0.9, fused=True)
    return torch.optim.AdamW(options, lr=settings.lr, fused=True)


def _decays(model: Mask2Former, name: str) -> bool:
    """Whether the parameter of this name has weight decay: not of norms, embeddings and Swin's biases of position."""
    owner = model.get_submodule(name.rpartition(".")[0])
    free = isinstance(owner, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding))
    return not free and "relative_position_bias_table" not in name


def detect_sample_masks(
    model: Mask2Former, sample: Sample, settings: TrainableMask2FormerSettings, device: torch.device
) -> Instances:
    """Detections with masks on a photo that is read from its file, see `segment_views`."""
    photos = load_scales(sample, settings.short_side, settings.long_side, settings.test_scales, settings.longest_test)
    return segment_views(model, photos, settings, device)


def segment_views(
    model: Mask2Former, photos: Sequence[ResizedPhoto], settings: TrainableMask2FormerSettings, device: torch.device
) -> Instances:
    """Detections with masks of one photo, given at one or more scales, in its original frame, best first.

    Those of all scales and, with ``flip_test``, of the mirror images are merged: of one class, a mask that overlaps a
    better one by an IoU of more than ``nms_iou`` is dropped, whichever view it is from, and the ``max_boxes`` best stay
    (ours). A single view is not suppressed, see `segment_photo`.
    """
    views = [
        segment_photo(model, photo.image.to(device), photo.size, settings, mirrored=mirrored)
        for photo in photos
        for mirrored in ((False, True) if settings.flip_test else (False,))
    ]
    merged = Instances.cat(views)
    if len(views) == 1:
        return merged
    assert merged.masks is not None and merged.scores is not None
    kept = batched_mask_nms(merged.masks, merged.scores, merged.labels, settings.nms_iou)
    return merged[kept[: settings.max_boxes]]


MASK2FORMER = DetectorMethod(mask2former_objective, mask_target, detect_sample_masks)
"""Mask2Former."""


def train_mask2former(
    context: RunContext,
    settings: TrainableMask2FormerSettings,
    instances: Mapping[str, Instances],
    inputs: Mapping[str, str],
    name: str,
) -> DetectorResult:
    """Train Mask2Former on ``instances`` with masks (by image id) and detect, see `train_and_detect`.

    Raises:
        UserError: no object at all, or weights to start from of another network, shape or number of classes.
    """
    context, model, init = first_network(context, settings, name)
    return train_and_detect(context, settings, model, instances, {**inputs, "init": init}, name, MASK2FORMER)


def first_network(
    context: RunContext, settings: TrainableMask2FormerSettings, name: str
) -> tuple[RunContext, Mask2Former, str]:
    """The context with the network's own backbone, the network to train, and the SHA-256 of its first weights, or none.

    Raises `UserError` as `train_mask2former` does.
    """
    initial = None if settings.init is None else _read_initial(settings.init, name)
    context = replace(context, backbone=_backbone(context, settings, initial, name))
    seed_everything(derive_seed(context.seed, name, "weights"))  # the first weights follow from the seed, too
    model = build_mask2former(context.backbone, settings, len(context.train.classes))
    if initial is None:
        return context, model, "none"
    classes, new_classes = context.train.classes, settings.new_classes
    notes = load_mask2former_weights(model, settings, _first(initial, name), classes, new_classes=new_classes)
    tell_notes(notes, context, name)
    return context, model, initial.sha256


def _read_initial(path: Path, name: str) -> InitialWeights:
    """The weights at ``path``: sealed by a training, a file, or a folder that transformers wrote."""
    if not is_transformers_folder(path):
        return read_initial(path, name, read_published_file)
    what = f"{name}.init ({path})"
    files = published_files(path, what)
    with unchanged_files(*files):
        sha256 = folder_sha256(files)
        detector = read_published_folder(path, what)
    return InitialWeights(path, sha256, detector.state, detector.conventions)


def _backbone(
    context: RunContext, settings: TrainableMask2FormerSettings, initial: InitialWeights | None, name: str
) -> BackboneSettings:
    """The network's own backbone, else the run's; with a published Mask2Former in its colours and without weights."""
    backbone = settings.backbone or context.backbone
    if initial is None or initial.conventions is None:
        return backbone
    check_sizes(settings, _first(initial, name))
    if settings.body == "backbone":
        require_resnet50(backbone, initial, name)
    return with_conventions(backbone, initial.conventions)


def _first(initial: InitialWeights, name: str) -> FirstWeights:
    """The weights and how to speak of them."""
    return FirstWeights(initial.state, f"{name}.init ({initial.path})", name, initial.classes)
