"""Make labels from weak ones, train the network on them, and draw and measure the maps of test photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam.config import UserError, fingerprint_of
from weaksam.engine.device import pick_device
from weaksam.engine.distributed import own_device, this_process
from weaksam.engine.log import RunLog
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.evaluation.map_files import MapReport, map_text
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.models.concealed.network import build_concealed_network
from weaksam.models.ranks import ranks
from weaksam.recipes.concealed.choosing import EpochChoice
from weaksam.recipes.concealed.fused_labels import boxes_of_run, kept_photos, make_fused_labels, maps_of, stored_map
from weaksam.recipes.concealed.photos import ConcealedPhotos, check_scribbles, images_of, load_concealed
from weaksam.recipes.concealed.predicting import MapPredictor
from weaksam.recipes.concealed.settings import ConcealedSettings
from weaksam.recipes.concealed.testing import AS_IS, label_figures, label_iou, measure_saved, save_maps
from weaksam.recipes.concealed.training import LABEL, ConcealedTraining, Target, train
from weaksam.sam.build import build_segmenter
from weaksam.sam.ensemble import Uncertainty, pixel_weights, uncertainty
from weaksam.store.files import write_json_atomic
from weaksam.store.store import Store
from weaksam.terminal import say

MODEL = "model.safetensors"
"""The trained network below OUT."""


@dataclass(frozen=True)
class TrainingTargets:
    """What trains: the photos that are kept, what each teaches, its fingerprint, and figures about the labels.

    ``labels``: the store of fused maps of all training photos; None where true masks train.
    """

    photos: ConcealedPhotos
    target: Target
    fingerprint: str
    figures: Mapping[str, Any]
    labels: Store | None = None


@dataclass(frozen=True)
class ConcealedResult:
    """What a run made: the figures of OUT/metrics.json, and what its report draws."""

    settings: ConcealedSettings
    figures: Mapping[str, Any]
    train: ConcealedPhotos
    targets: TrainingTargets
    test: ConcealedPhotos | None
    reports: Mapping[str, MapReport]

    def text(self) -> str:
        """The figures for the terminal; a sentence where nothing was measured."""
        if not self.reports:
            return "nothing was measured: set data.test.root, or data.test.images and data.test.truth"
        return map_text(self.reports[AS_IS])


def run(settings: ConcealedSettings) -> ConcealedResult:
    """Labels, training, test; returns what was made, whose figures lie in OUT/metrics.json.

    A second call with the same settings goes on where the first stopped. Several processes that were started together
    share the labels and train together; the first one tests. Raises `UserError` for data or settings that cannot be
    used.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    seed_everything(settings.seed)
    device = pick_device(own_device(settings.device, this_process()))
    data, log = settings.data, RunLog(settings.out / "log.jsonl")
    photos = load_concealed(data.train, "train")
    validation = None if data.validation is None else load_concealed(data.validation, "validation")
    test = None if data.test is None else load_concealed(data.test, "test")
    targets = training_targets(settings, photos, device)
    if ranks().size > len(targets.photos):
        raise UserError(
            f"wanted at most as many processes as photos that train, found {ranks().size} for {len(targets.photos)}: "
            "start fewer"
        )
    if ranks().first:
        counts = ", ".join(f"{name} {value}" for name, value in targets.figures.items() if isinstance(value, int))
        say(f"concealed: {len(photos)} training photos; labels: {counts or 'true masks'}")
    predictor, best = _trained(settings, targets, validation, device, log)
    figures: dict[str, Any] = {
        "labels": dict(targets.figures),
        "epoch": settings.training.num_epochs if best is None else best + 1,
        "chosen_on": "the last epoch" if best is None else "mean absolute error on the validation photos",
        "settings": settings.model_dump(mode="json"),
    }
    reports: dict[str, MapReport] = {}
    if ranks().first:
        predictor.save(settings.out / MODEL, {"epoch": figures["epoch"]})
        if test is not None:
            save_maps(settings.out, test, predictor)
            reports = measure_saved(settings.out, test)
        figures |= {name: report.as_dict() for name, report in reports.items()}
        write_json_atomic(settings.out / "metrics.json", figures)
    ranks().wait()
    return ConcealedResult(settings, figures, photos, targets, test, reports)


def training_targets(settings: ConcealedSettings, photos: ConcealedPhotos, device: torch.device) -> TrainingTargets:
    """Make the labels and choose the photos, or take the true masks."""
    labels = settings.labels
    if settings.targets == "true":
        if not photos.truth:
            raise UserError("wanted true masks to learn for targets=true, found none: set data.train.truth")
        return TrainingTargets(photos, lambda image_id: _true_target(photos, image_id), photos.truth_fingerprint, {})
    boxes = None
    if labels.prompt == "boxes":
        images = images_of(settings.data.train)
        assert images is not None, "the photos were loaded"
        boxes = boxes_of_run(settings.boxes_run, images)
    else:
        check_scribbles(photos, both=labels.prompt == "scribble")
    segmenter = build_segmenter(settings.segmenter, device)
    store = make_fused_labels(settings.out, photos, segmenter, labels, settings.seed, boxes)
    uncertain: dict[str, Uncertainty] = {}
    iou: dict[str, float | None] = {}
    for image_id, fused in maps_of(store, photos):  # of a large set not all at once
        iou[image_id] = label_iou(fused, photos.mask(image_id)) if photos.truth else None
        if fused.any():
            uncertain[image_id] = uncertainty(fused, labels.relative_to)
    if not uncertain:
        raise UserError(
            f"wanted a mask of the segmenter for some of the {len(photos)} training photos, found none: check the "
            "scribbles, or take another segmenter"
        )
    kept = kept_photos(uncertain, labels)
    trained = photos.only(kept)

    def target(image_id: str) -> tuple[Tensor, Tensor]:
        fused = stored_map(store, photos, image_id)
        return fused, pixel_weights(fused, labels.weights)

    fingerprint = fingerprint_of([store.fingerprint, list(kept), labels.weights])
    return TrainingTargets(trained, target, fingerprint, label_figures(iou, kept), store)


def _true_target(photos: ConcealedPhotos, image_id: str) -> tuple[Tensor, Tensor]:
    mask = photos.mask(image_id).float()
    return mask, torch.ones_like(mask)


def _trained(
    settings: ConcealedSettings,
    targets: TrainingTargets,
    validation: ConcealedPhotos | None,
    device: torch.device,
    log: RunLog,
) -> tuple[MapPredictor, int | None]:
    """The trained network, and the epoch (0-based) that was chosen, None for the last one."""
    seed_everything(derive_seed(settings.seed, LABEL))
    network = build_concealed_network(settings.backbone, settings.network).to(device)
    predictor = MapPredictor(network, settings.backbone, settings.training.side)
    inputs = [backbone_fingerprint(settings.backbone), targets.photos.fingerprint, targets.fingerprint]
    if validation is not None:
        inputs.append(fingerprint_of([validation.fingerprint, validation.truth_fingerprint]))
    training = ConcealedTraining(network, targets.photos, targets.target, settings)
    if validation is None:
        train(training, settings.out / "training", inputs, log)
        return predictor, None
    choice = EpochChoice(
        settings.out / "validation", predictor, validation, settings.training, fingerprint_of([settings, inputs])
    )
    train(training, settings.out / "training", inputs, log, choice.after_epoch)
    ranks().wait()  # until the first process has written the best weights
    return predictor, choice.take_best()
