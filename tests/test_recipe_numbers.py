"""The published recipes of Faster and Mask R-CNN hold the published numbers, which are written out here.

Sources: the released code of WeakSAM (its VOC 2007, VOC 2012 and COCO 2014 configurations of Faster R-CNN with
ResNet-50 and a feature pyramid, and of Mask R-CNN), and detectron2's defaults for what those leave out.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.helpers import ROOT
from weaksam.config import load_settings
from weaksam.engine.detectors.augmentation import view_size
from weaksam.engine.detectors.photos import fit_size
from weaksam.engine.detectors.training import TrainableSettings, lr_factor
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.retrain import RetrainSettings


class Recipe(NamedTuple):
    """What a recipe fixes; sides in pixels."""

    lr: float
    num_steps: int
    falls: tuple[int, int]
    warmup: int
    sides: tuple[int, ...]
    longest: int
    test_sides: tuple[int, ...]
    longest_test: int


EVERY_32 = tuple(range(480, 1217, 32))
FASTER_RCNN = {
    "voc07": Recipe(0.02, 9_000, (6_000, 8_000), 30, EVERY_32, 2000, (480, 576, 688, 864, 1000, 1800), 2000),
    "voc12": Recipe(0.015, 16_000, (10_000, 14_000), 60, EVERY_32, 2000, (480, 576, 688, 864, 1000, 1200), 2000),
    "coco14": Recipe(0.02, 85_000, (55_000, 75_000), 1_000, (640, 672, 704, 736, 768, 800), 1333, EVERY_32, 2000),
}
MASK_RCNN = {
    "voc07": Recipe(0.02, 9_000, (6_000, 8_000), 100, (640, 672, 704, 736, 768, 800), 1333, (800,), 1333),
    "voc12": Recipe(0.02, 9_000, (6_000, 8_000), 100, (640, 672, 704, 736, 768, 800), 1333, (800,), 1333),
    "coco14": Recipe(0.02, 90_000, (60_000, 80_000), 1_000, (640, 672, 704, 736, 768, 800), 1333, (800,), 1333),
}
ROI_DROP = {
    "voc07": ("joint", 2_000, 4.0, 4.0),
    "voc12": ("off", None, 4.0, 4.0),
    "coco14": ("joint", 10_000, 5.0, 4.0),
}
"""Gate, first step, and the limits of the class and the box term."""
NAMES = [*(f"{data}_{method}" for data in FASTER_RCNN for method in ("mist", "oicr")), "voc12_full", "coco14_full"]


def recipe_of(name: str) -> RunSettings:
    return load_settings(RunSettings, ROOT / "configs" / f"{name}.yaml")


def view_sides(settings: TrainableSettings, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes of the views of a photo of ``size`` (h, w) at every scale of the training."""
    resized = fit_size(size, settings.short_side, settings.long_side)
    views = [settings.model_copy(update={"scales": (scale,)}) for scale in settings.scales]
    return [view_size(resized, view, torch.Generator()) for view in views]


def check(settings: TrainableSettings, recipe: Recipe) -> None:
    assert (settings.lr, settings.num_steps, settings.warmup_steps) == (recipe.lr, recipe.num_steps, recipe.warmup)
    factors = [lr_factor(step, recipe.num_steps, settings) for fall in recipe.falls for step in (fall - 1, fall)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01])
    assert lr_factor(recipe.warmup - 1, recipe.num_steps, settings) < 1
    assert lr_factor(recipe.warmup, recipe.num_steps, settings) == 1
    assert (settings.optimizer, settings.batch_size, settings.weight_decay, settings.clip_norm) == (
        "sgd",
        16,
        1e-4,
        None,
    )
    assert (settings.backbone_lr_factor, settings.colour_jitter, settings.flip) == (1, 0, True)
    square, wide = view_sides(settings, (300, 300)), view_sides(settings, (100, 400))
    assert [min(size) for size in square] == list(recipe.sides)
    assert [max(size) for size in wide] == [min(4 * side, recipe.longest) for side in recipe.sides]
    shorts = [fit_size((300, 300), round(settings.short_side * scale), 10_000)[0] for scale in settings.test_scales]
    assert (shorts, settings.longest_test) == (list(recipe.test_sides), recipe.longest_test)


@pytest.mark.parametrize("name", NAMES)
def test_faster_rcnn(name: str) -> None:
    settings, data = recipe_of(name).retrain, name.partition("_")[0]
    check(settings, FASTER_RCNN[data])
    drop = settings.roi_drop
    assert (drop.gate, drop.start_step, drop.class_limit, drop.box_limit) == ROI_DROP[data]
    assert (drop.threshold, drop.mask_limit, drop.drop_background, settings.flip_test) == ("loss", None, False, True)


@pytest.mark.parametrize("name", NAMES)
def test_mask_rcnn(name: str) -> None:
    settings, data = recipe_of(name).wsis, name.partition("_")[0]
    check(settings, MASK_RCNN[data])
    assert (settings.mask_channels, settings.mask_layers, settings.max_boxes) == (256, 4, 100)
    assert settings.roi_drop.gate == "off" and not settings.init_from_retrain


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", ["retrain", "wsis"])
def test_the_network_is_detectron2s(name: str, stage: str) -> None:
    settings: TrainableSettings = getattr(recipe_of(name), stage)
    assert settings.backbone is not None
    assert (settings.backbone.name, Path(settings.backbone.weights).name) == ("resnet50", "R-50.pkl")
    assert (settings.backbone.colours.kind, settings.backbone.stride_in) == ("auto", "auto")  # the file says them
    assert (settings.pyramid, settings.fpn_channels, settings.representation) == ("full", 256, 1024)
    assert (settings.rpn_pre_nms, settings.rpn_post_nms, settings.rpn_batch, settings.roi_batch) == (
        2000,
        1000,
        256,
        512,
    )
    assert settings.trainable_layers == 3 and settings.max_boxes == 100


def test_stem_and_first_stage_are_frozen_and_anchors_reach_512_pixels() -> None:
    settings = recipe_of("voc07_mist").retrain
    small: RetrainSettings = settings.model_copy(update={"fpn_channels": 8, "representation": 8})
    assert settings.backbone is not None
    model = build_faster_rcnn(settings.backbone.model_copy(update={"weights": "none"}), small, 20)
    body = model.backbone.body
    assert [any(p.requires_grad for p in body[str(index)].parameters()) for index in (0, 4, 5, 6, 7)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    heights = [(level[:, 3] - level[:, 1]).tolist()[1] for level in model.rpn.anchor_generator.cell_anchors]
    assert heights == [32, 64, 128, 256, 512]
