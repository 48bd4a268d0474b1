"""The same configuration on one and on two ranks is the same training, for every detector, to the last digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.helpers import CPU, NANO_BACKBONE, draw_squares
from tests.ranks import Trained, assert_same_training, on_ranks, trained
from weaksam.engine.detectors.batches import DetectorBatch, TrainingPhotos
from weaksam.engine.detectors.copy_paste import CutOuts
from weaksam.engine.detectors.dino import dino_objective
from weaksam.engine.detectors.mask2former import mask2former_objective
from weaksam.engine.detectors.mixing import Mixing, MixingSettings
from weaksam.engine.detectors.taught import TaughtSettings, taught_objective
from weaksam.engine.detectors.training import detector_objective, frozen_stages
from weaksam.engine.weight_average import WeightAverage
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, target_of
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask2former.targets import mask_target
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.models.ranks import ranks
from weaksam.stages.retrain import DinoRetrainSettings, RetrainSettings
from weaksam.stages.wsis import Mask2FormerWsisSettings, WsisSettings
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_mask, rle_from_mask

# Three upright and three wide photos, the last without a box: of a batch of four 1 + 2 photos go to the two ranks, of
# a batch of two 1 + 1, and then one photo that the second rank computes too, for nothing
SIZE: dict[str, Any] = {"short_side": 64, "long_side": 96, "clip_norm": 0.5}
REGIONS = {"fpn_channels": 16, "representation": 32, "rpn_pre_nms": 60, "rpn_post_nms": 40, "roi_batch": 16}
DROP = {"threshold": "share", "class_limit": 0.4, "box_limit": 0.4, "start_step": 1}
QUERIES = {"embed_dims": 32, "num_heads": 4, "ffn_dims": 32, "norm_groups": 8, "num_queries": 15, "num_denoising": 10}
NEGATIVES = {"rule": "tags", "confident": 0.5, "start_share": 0.0}
KEPT_MAPS = {**REGIONS, "batch_size": 2, "fixed_views": 1, "trainable_layers": 3, "negatives": NEGATIVES}


class Case(NamedTuple):
    """A detector with its settings."""

    kind: type
    build: Callable[..., Any]
    objective: Callable[..., Any]
    settings: dict[str, Any]
    target: Callable[..., Any] = target_of
    exact: bool = True
    """In float64."""


CASES = {
    "faster_rcnn": Case(
        RetrainSettings,
        build_faster_rcnn,
        detector_objective,
        {**REGIONS, "batch_size": 4, "roi_drop": {"gate": "independent", **DROP}, "weight_average": 0.9},
    ),
    "kept_maps": Case(
        RetrainSettings,
        build_faster_rcnn,
        detector_objective,
        {
            **REGIONS,
            "batch_size": 2,
            "fixed_views": 1,
            "trainable_layers": 3,
            "negatives": {"rule": "tags", "confident": 0.5},
        },
    ),
    "mixed": Case(
        RetrainSettings,
        build_faster_rcnn,
        detector_objective,
        {**REGIONS, "batch_size": 4, "copy_paste": {"probability": 1}, "mosaic": {"probability": 0.5}},
    ),
    "taught": Case(
        RetrainSettings,
        build_faster_rcnn,
        taught_objective,
        {**REGIONS, "batch_size": 4, "teacher": {"weight": 0.5, "min_score": 0.3, "start_share": 0}},
    ),
    "mask_rcnn": Case(
        WsisSettings,
        build_mask_rcnn,
        detector_objective,
        {**REGIONS, "batch_size": 4, "roi_drop": {"gate": "independent", **DROP, "threshold": "normalised"}},
    ),
    "dino": Case(
        DinoRetrainSettings,
        build_dino,
        dino_objective,
        {**QUERIES, "encoder_layers": 1, "decoder_layers": 2, "batch_size": 2, "query_drop": {"gate": "class", **DROP}},
    ),
    "mask2former": Case(
        Mask2FormerWsisSettings,
        build_mask2former,
        mask2former_objective,
        {"channels": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 5, "batch_size": 4},
        mask_target,
    ),
    "sgd": Case(
        RetrainSettings,
        build_faster_rcnn,
        detector_objective,
        {**REGIONS, "batch_size": 4, "optimizer": "sgd", "lr": 0.02, "warmup_steps": 0},
        exact=False,
    ),
}


def with_masks(sample: Sample) -> Instances:
    """Its true boxes, each with itself as mask; those of one photo have weights."""
    truth = sample.truth or Instances.empty()
    masks = tuple(rle_from_mask(box_mask(box, sample.size)) for box in truth.boxes)
    weights = torch.full((len(truth),), 0.5) if sample.image_id == "2.png" else None
    return truth.replace(masks=masks, mask_weights=weights)


def in_float64(batch: DetectorBatch) -> DetectorBatch:
    """The batch with photos and boxes in float64."""
    targets = [
        {name: value.double() if value.is_floating_point() else value for name, value in target.items()}
        for target in batch.targets
    ]
    return replace(batch, images=[image.double() for image in batch.images], targets=targets)


def train_case(case: Case, squares: Dataset, out: Path) -> Trained:
    """One epoch of the case."""
    torch.manual_seed(0)
    settings = case.kind(**SIZE, **case.settings)
    model = case.build(NANO_BACKBONE, settings, 2).train()
    frozen = frozen_stages(model, settings, CPU)
    truth = {sample.image_id: sample.truth or Instances.empty() for sample in squares}
    if "masks" in case.kind.__doc__ or case.kind in (WsisSettings, Mask2FormerWsisSettings):
        truth = {sample.image_id: with_masks(sample) for sample in squares}
    mixing = None
    if isinstance(settings, MixingSettings) and settings.mosaic.probability:
        mixing = Mixing(settings, CutOuts("", {sample.image_id: with_masks(sample) for sample in squares}))
    taught = isinstance(settings, TaughtSettings) and settings.teacher.weight > 0
    options: dict[str, Any] = {"target": case.target, "frozen": frozen, "mixing": mixing, "weak_views": taught}
    photos = TrainingPhotos(squares, truth, 64, 96, "", boxless_as_background=True, **options)
    batches = list(photos.epoch(0, settings.batch_size, settings, seed=0))
    if case.exact:
        model.double()
        batches = [in_float64(batch) for batch in batches]
    if frozen is not None:
        assert all(batch.sizes for batch in batches)
    objective = case.objective(model, settings, CPU)
    if settings.weight_average:
        WeightAverage(objective.optimizer, settings.weight_average)
    result = trained(out, model, [objective], lambda epoch: batches, len(batches))
    if settings.weight_average:
        averages = [state["average"] for state in objective.optimizer.state.values() if "average" in state]
        result.weights["average"] = torch.cat([average.flatten() for average in averages]).numpy()
    return result


def train_all(squares: Dataset, out: Path) -> dict[str, Trained]:
    """Every case, on as many ranks as there are."""
    return {name: train_case(case, squares, out / f"{name} {ranks().size}") for name, case in CASES.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Trained]]:
    """Of one process, then of the two ranks."""
    out = tmp_path_factory.mktemp("ranks")
    squares = draw_squares(out)
    return [*on_ranks(1, out, train_all, squares, out), *on_ranks(2, out, train_all, squares, out)]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_as_one_process_does(name: str, results: list[dict[str, Trained]]) -> None:
    alone, first, second = (of_rank[name] for of_rank in results)
    assert_same_training(alone, first, 1e-8 if CASES[name].exact else 1e-5)
    assert all(np.array_equal(value, second.weights[key]) for key, value in first.weights.items())
    assert name != "taught" or first.losses["teacher_boxes"] > 0
    if "roi_drop" in CASES[name].settings or "query_drop" in CASES[name].settings:
        assert first.losses["dropped_class"] > 0
