"""Build DINO on a backbone of the project."""

from __future__ import annotations

import torch

from weaksam.models.backbones.fast_convolutions import fuse_convolutions
from weaksam.models.backbones.features import FeatureExtractor, build_features
from weaksam.models.backbones.pyramid import Pyramid, first_trained_module, pyramid_maps
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import input_colours
from weaksam.models.detectors.dino.detector import Dino
from weaksam.models.detectors.dino.settings import DinoDetectorSettings
from weaksam.models.detectors.faster_rcnn import PhotoTransform

_LEVELS_FROM_STRIDE_4 = 5
"""With as many levels or more the pyramid begins at stride 4, else at 8."""


def build_dino(backbone: BackboneSettings, settings: DinoDetectorSettings, num_classes: int) -> Dino:
    """DINO with pretrained weights in its backbone and a random transformer, drawn from torch's current seed.

    ``num_classes`` does not count the background. Batch-norm stays frozen; photos are padded to the largest of their
    batch. Raises:
        UserError: more trainable stages than the backbone has.
    """
    features = _backbone(backbone, settings)
    transform = PhotoTransform(settings.short_side, settings.long_side, input_colours(backbone))
    transform.size_divisible = 1
    model = Dino(features, settings, num_classes, transform, settings.min_score, settings.max_boxes)
    fuse_convolutions(model)
    return model.to(memory_format=torch.channels_last)


def _backbone(backbone: BackboneSettings, settings: DinoDetectorSettings) -> FeatureExtractor:
    """The maps that the pyramid is made of, with the stages frozen that do not train."""
    pyramid: Pyramid = "full" if settings.num_levels >= _LEVELS_FROM_STRIDE_4 else "short"
    features = build_features(backbone, dilate=False, maps=pyramid_maps(backbone.name, pyramid), frozen=False)
    first = first_trained_module(backbone.name, settings.trainable_layers, len(features.body))
    for module in features.body[:first]:
        module.requires_grad_(False)
    return features
