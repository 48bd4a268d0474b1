"""The recipes with Mask2Former hold the published numbers, written out here; the stages before are MIST's."""

import pytest

from tests.helpers import ROOT
from weaksam.config import fingerprint_of, load_settings
from weaksam.engine.detectors.training import lr_factor
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.wsis import Mask2FormerWsisSettings

# Steps, and those after which the rate falls to a tenth
PUBLISHED = {"voc12": (33_069, 29_395, 31_844), "coco14": (368_750, 327_778, 355_092)}


def recipe(name: str) -> RunSettings:
    return load_settings(RunSettings, ROOT / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_the_recipe(name):
    settings = recipe(f"{name}_mask2former").wsis
    assert isinstance(settings, Mask2FormerWsisSettings)
    num_steps, *falls = PUBLISHED[name]
    assert settings.num_steps == num_steps
    factors = [lr_factor(step, num_steps, settings) for fall in falls for step in (fall - 1, fall)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01])
    assert lr_factor(0, num_steps, settings) == 1
    # AdamW 1e-4, decay 0.05, backbone a tenth, gradient of the whole network cut to 0.01, mixed precision
    assert (settings.optimizer, settings.lr, settings.weight_decay) == ("adamw", 1e-4, 0.05)
    assert (settings.backbone_lr_factor, settings.clip_norm, settings.precision) == (0.1, 0.01, "auto")
    # Large-scale jittering
    assert (settings.smallest_scale, settings.largest_scale, settings.scales) == (0.1, 2, ())
    assert (settings.short_side, settings.long_side, settings.crop_size, settings.pad_views) == (1024, 1024, 1024, True)
    assert (settings.flip, settings.colour_jitter, settings.batch_size) == (True, 0, 16)
    # The network
    assert settings.backbone == BackboneSettings(name="resnet50") and settings.body == "backbone"
    assert (settings.channels, settings.num_queries, settings.num_heads) == (256, 100, 8)
    assert (settings.encoder_layers, settings.decoder_layers) == (6, 9)
    assert (settings.encoder_width, settings.decoder_width, settings.trainable_layers) == (1024, 2048, 6)
    # The losses
    losses = settings.losses
    assert (losses.class_weight, losses.mask_weight, losses.dice_weight, losses.no_object_weight) == (2, 5, 5, 0.1)
    assert (losses.num_points, losses.oversampling, losses.uncertain_share) == (12_544, 3, 0.75)
    assert (settings.max_boxes, settings.mask_threshold, settings.init) == (100, 0.5, None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_stages_before_are_those_of_the_recipe_with_mask_rcnn(name):
    ours, mist = recipe(f"{name}_mask2former"), recipe(f"{name}_mist")
    for section in ("data", "seed", "backbone", "segmenter", "clues", "proposals", "wsod", "pseudo_gt", "retrain"):
        sections = [getattr(settings, section) for settings in (ours, mist)]
        assert fingerprint_of(sections[0]) == fingerprint_of(sections[1]), section
