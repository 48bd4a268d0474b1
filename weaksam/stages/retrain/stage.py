"""Retrain Faster R-CNN or DINO on pseudo ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn

from weaksam.config import UserError, fingerprint_of
from weaksam.data.detection_stores import instances_key
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.batches import PhotoRegions
from weaksam.engine.detectors.dino import DINO
from weaksam.engine.detectors.doubtful import doubtful_regions
from weaksam.engine.detectors.early import EarlyDetector, train_early
from weaksam.engine.detectors.given_proposals import SplitProposals
from weaksam.engine.detectors.initial_weights import detector_backbone, initial_weights, start_from
from weaksam.engine.detectors.mixing import Mixing
from weaksam.engine.detectors.result import DetectorResult, train_and_detect
from weaksam.engine.detectors.taught import TAUGHT
from weaksam.engine.seeds import derive_seed, seed_everything
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.sam.protocol import Segmenter
from weaksam.stages.retrain.frames import run_in_frame
from weaksam.stages.retrain.mixing import mixing_of
from weaksam.stages.retrain.settings import (
    AnyRetrainSettings,
    DinoRetrainSettings,
    RetrainSettings,
    network_settings,
)
from weaksam.stages.retrain.start import started
from weaksam.store.store import Store
from weaksam.structures.instances import Instances


def run(
    context: RunContext,
    settings: AnyRetrainSettings,
    pseudo_gt: Mapping[str, Instances],
    init_weights: Path | None = None,
    *,
    weak_detector: DetectorResult | None = None,
    proposals: Mapping[str, Store] | None = None,
    segmenter: Callable[[], Segmenter] | None = None,
    name: str = "retrain",
    files: str = "detections",
) -> DetectorResult:
    """Train on the boxes and labels of ``pseudo_gt`` (by image id) and detect on the test and training photos.

    With the true boxes as ``pseudo_gt`` and another ``name`` this measures the ceiling of the same detector. A photo
    with a tag but no box is left out of the training; one with neither is a negative. ``init_weights``, else
    ``settings.init``, starts from another detector of the same shape, or from a published one. ``negatives`` may read
    the ``weak_detector``'s detections on the training photos, and ``start`` its weights; ``proposals``, by split, serve
    ``given_proposals`` and ``copy_paste``, which may want the ``segmenter`` instead, built when it is asked for.
    `ChoiceSettings` have no part in it; with another ``engine`` that frame trains as `run_in_frame` says. Writes
    ``OUT/<name>/<files>_test.json`` and ``<files>_train.json``.

    Raises:
        UserError: no box at all, weights of another detector, shape or number of classes, or no weak detector,
            proposals or segmenter where the settings want them.
    """
    settings = network_settings(settings)
    if settings.engine != "weaksam":
        return run_in_frame(context, settings, pseudo_gt, name, files)
    ready = _prepared(context, settings, pseudo_gt, init_weights, weak_detector, proposals, segmenter, name)
    return train_and_detect(
        ready.context,
        settings,
        ready.model,
        pseudo_gt,
        ready.inputs,
        name,
        DINO if isinstance(settings, DinoRetrainSettings) else TAUGHT,
        ready.regions,
        files,
        _given_proposals(settings, proposals, name),
        ready.mixing,
    )


def run_early(
    context: RunContext,
    settings: RetrainSettings,
    pseudo_gt: Mapping[str, Instances],
    share: float,
    *,
    weak_detector: DetectorResult | None = None,
    proposals: Mapping[str, Store] | None = None,
    segmenter: Callable[[], Segmenter] | None = None,
    name: str = "retrain",
) -> EarlyDetector:
    """The detector of `run` after the first ``share`` of its training; detects and logs nothing.

    It is trained without RoI drop and teacher. Its weights lie in ``context.out``, see `train_early`. Raises
    `UserError` as `run` does.
    """
    settings = cast(RetrainSettings, network_settings(settings))
    ready = _prepared(context, settings, pseudo_gt, None, weak_detector, proposals, segmenter, name)
    return train_early(
        ready.context, settings, ready.model, pseudo_gt, ready.inputs, name, share, ready.regions, ready.mixing
    )


@dataclass(frozen=True)
class _Prepared:
    """What a training starts with."""

    context: RunContext
    """With the detector's own backbone."""
    model: nn.Module
    """With its first weights."""
    inputs: dict[str, str]
    """Fingerprints by name of what decides these, and of what the training depends on besides."""
    regions: PhotoRegions
    """What it reads of the photos beside the boxes."""
    mixing: Mixing | None
    """What the photos are mixed by."""


def _prepared(
    context: RunContext,
    settings: AnyRetrainSettings,
    pseudo_gt: Mapping[str, Instances],
    init_weights: Path | None,
    weak_detector: DetectorResult | None,
    proposals: Mapping[str, Store] | None,
    segmenter: Callable[[], Segmenter] | None,
    name: str,
) -> _Prepared:
    """What `run` and `run_early` train; raises `UserError` as they do."""
    initial = initial_weights(settings, init_weights, name)
    context = started(context, settings.start, settings.backbone, weak_detector, name)
    context = replace(context, backbone=detector_backbone(context, settings, initial, name))
    # Every random number below, the heads' first weights included, follows from the seed
    seed_everything(derive_seed(context.seed, name, "weights"))
    model = _untrained(context.backbone, settings, len(context.train.classes))
    regions, of_regions = doubtful_regions(context, settings.negatives, pseudo_gt, weak_detector, name)
    inputs = {
        "pseudo_gt": fingerprint_of(instances_key(pseudo_gt)),
        "init": start_from(model, initial, context, name, settings.new_classes),
    }
    of_train = None if proposals is None else proposals.get("train")
    mixing, of_mixing = mixing_of(context, settings, pseudo_gt, of_train, segmenter, name)
    return _Prepared(context, model, inputs | of_regions | of_mixing, regions, mixing)


def _given_proposals(
    settings: AnyRetrainSettings, proposals: Mapping[str, Store] | None, name: str
) -> dict[str, SplitProposals]:
    """The proposals that the box head takes beside its own, by split; nothing where the settings want none."""
    if isinstance(settings, DinoRetrainSettings) or settings.given_proposals == 0:
        return {}
    if proposals is None:
        raise UserError(
            f"{name}.given_proposals={settings.given_proposals} wants the run's proposals, found none: take "
            f"{name}.given_proposals=0"
        )
    return {split: SplitProposals.best(store, settings.given_proposals) for split, store in proposals.items()}


def _untrained(backbone: BackboneSettings, settings: AnyRetrainSettings, num_classes: int) -> nn.Module:
    """The detector that ``settings`` are for."""
    if isinstance(settings, DinoRetrainSettings):
        return build_dino(backbone, settings, num_classes)
    return build_faster_rcnn(backbone, settings, num_classes)
