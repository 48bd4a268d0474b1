"""In bfloat16 the losses and boxes of every detector are float32 and finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import CPU
from tests.training_steps import DINO, MASK2FORMER, NANO, REGIONS, SIZE, STEPS, Bench
from weaksam.engine.detectors.detecting import detect_sample
from weaksam.engine.detectors.mask2former import detect_sample_masks
from weaksam.engine.mixed_precision import autocast
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.stages.retrain.settings import DinoRetrainSettings, RetrainSettings
from weaksam.stages.wsis.settings import Mask2FormerWsisSettings, WsisSettings

WITH_PRECISION = ("WeakTr", "end to end", "DINO", "Mask2Former", "sam_nano")
"""Trainings that have a setting for it; the autocast of the others is the test's own."""
VIEWS = {**SIZE, "min_score": 0.0, "max_boxes": 5}
DETECTORS = {
    "Faster R-CNN": (RetrainSettings(**VIEWS, **REGIONS), build_faster_rcnn, detect_sample),
    "DINO": (DinoRetrainSettings(**VIEWS, **DINO), build_dino, detect_sample),
    "Mask R-CNN": (WsisSettings(**VIEWS, **REGIONS), build_mask_rcnn, detect_sample),
    "Mask2Former": (Mask2FormerWsisSettings(**VIEWS, **MASK2FORMER), build_mask2former, detect_sample_masks),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def types_within(model: nn.Module) -> set[torch.dtype]:
    """The types that the linear layers and convolutions of ``model`` give, filled as it computes."""
    types: set[torch.dtype] = set()
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda _, __, given: types.add(given.dtype))
    return types


@pytest.mark.parametrize(
    "name",
    [  # the frozen detector has float32 and kept float16 alone
        pytest.param(name, marks=() if name in ("Faster R-CNN", "DINO") else pytest.mark.slow)
        for name in STEPS
        if name != "frozen"
    ],
)
def test_losses_in_bfloat16_are_float32_and_finite(name: str, bench: Bench) -> None:
    torch.manual_seed(0)
    step = STEPS[name](bench, CPU, "bfloat16")
    step.model.train()
    types = types_within(step.model)
    losses: dict[str, Tensor] = {}
    for objective in step.objectives:
        if objective.begin_step is not None:
            objective.begin_step(0, 10)
        with autocast(torch.float32 if name in WITH_PRECISION else torch.bfloat16, CPU):
            given = objective.losses(step.batch)
        for part in [given] if isinstance(given, dict) else given:
            losses |= part
    assert torch.bfloat16 in types  # the network did compute in it
    assert len(losses) > 0
    for key, value in losses.items():
        assert value.dtype == torch.float32 and value.isfinite(), key
    sum(value for value in losses.values() if value.requires_grad).backward()
    gradients = [parameter.grad for parameter in step.model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", DETECTORS)
def test_detections_in_bfloat16_are_float32_and_finite(name: str, bench: Bench, tmp_path: Path) -> None:
    settings, build, detect = DETECTORS[name]
    torch.manual_seed(0)
    model = build(NANO, settings, 2).eval()
    types = types_within(model)
    with torch.inference_mode(), autocast(torch.bfloat16, CPU):
        detections = detect(model, bench.squares.samples[1], settings, CPU)
    assert torch.bfloat16 in types and len(detections) > 0
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32
    assert detections.boxes.isfinite().all() and detections.scores.isfinite().all()
    assert ((detections.boxes[:, 2:] - detections.boxes[:, :2]) >= 0).all()
