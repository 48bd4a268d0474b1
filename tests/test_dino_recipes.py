"""The recipes with DINO hold the published numbers, written out here, and share the stages before with MIST's."""

import pytest

from tests.helpers import ROOT
from weaksam.config import fingerprint_of, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.retrain import DinoRetrainSettings


def recipe(name: str) -> RunSettings:
    return load_settings(RunSettings, ROOT / "configs" / f"{name}.yaml")


# Learning rate, weight decay, passes (VOC 2007: 14 epochs of three), epochs, those after which the rate falls, scales
PUBLISHED = {
    "voc07": (9e-5, 1e-4, 42, 14, (8, 10, 12), (0.6, 1)),
    "voc12": (8e-5, 3e-4, 12, 12, (8, 10), (0.6, 1)),
    "coco14": (1e-4, 1e-4, 12, 12, (8, 11), (1, 1)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_the_recipe(name):
    settings = recipe(f"{name}_dino").retrain
    assert isinstance(settings, DinoRetrainSettings)
    lr, weight_decay, num_epochs, epochs, falls, scales = PUBLISHED[name]
    assert (settings.lr, settings.weight_decay, settings.num_epochs) == (lr, weight_decay, num_epochs)
    assert settings.milestones == pytest.approx([epoch / epochs for epoch in falls], abs=1e-8)
    assert (settings.schedule, settings.gamma, settings.warmup_steps, settings.num_steps) == ("steps", 0.1, 0, None)
    assert (settings.smallest_scale, settings.largest_scale, settings.scales) == (*scales, ())
    assert (settings.short_side, settings.long_side, settings.colour_jitter, settings.flip) == (800, 1333, 0, True)
    assert (settings.optimizer, settings.backbone_lr_factor, settings.clip_norm) == ("adamw", 0.1, 0.1)
    assert settings.batch_size == 16
    # The network: R50, four scales, 900 queries and 100 for denoising, six and six layers, noise 0.5 and 1
    assert settings.backbone is not None
    assert (settings.backbone.name, settings.backbone.weights, settings.trainable_layers) == ("resnet50", "imagenet", 3)
    assert (settings.num_levels, settings.num_points, settings.num_heads) == (4, 4, 8)
    assert (settings.embed_dims, settings.ffn_dims) == (256, 2048)
    assert (settings.encoder_layers, settings.decoder_layers) == (6, 6)
    assert (settings.num_queries, settings.num_denoising) == (900, 100)
    assert (settings.label_noise, settings.box_noise) == (0.5, 1)
    assert settings.query_drop.gate == "off"
    # At test: five scales, each mirrored, suppressed at 0.6, 300 detections
    assert [round(800 * scale) for scale in settings.test_scales] == [488, 576, 688, 864, 1200]
    assert (settings.flip_test, settings.nms_iou, settings.max_boxes) == (True, 0.6, 300)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_stages_before_are_those_of_the_recipe_with_faster_rcnn(name):
    ours, mist = recipe(f"{name}_dino"), recipe(f"{name}_mist")
    for section in ("data", "seed", "backbone", "segmenter", "clues", "proposals", "wsod", "pseudo_gt"):
        sections = [getattr(settings, section) for settings in (ours, mist)]
        assert fingerprint_of(sections[0]) == fingerprint_of(sections[1]), section
