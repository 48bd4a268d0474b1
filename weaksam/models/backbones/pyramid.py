"""Put a feature pyramid on a backbone for torchvision's detectors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from weaksam.config import UserError
from weaksam.models.backbones.architectures import ARCHITECTURES, first_modules_of_stages
from weaksam.models.backbones.batch_norm import fold_batch_norm
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.settings import BackboneSettings

_FPN_MAPS = {
    "mobilenet_v2": ("c2", "c3", "c4", "last"),
    "resnet50": ("c2", "c3", "mid", "last"),
    "vgg16": ("c2", "c3", "last"),
    "sam_nano": ("c2", "c3", "last"),
}
"""Maps of a full pyramid, finest first; a short one leaves out the first."""

Pyramid = Literal["short", "full"]


def pyramid_maps(name: str, pyramid: Pyramid) -> tuple[str, ...]:
    """Names of a backbone's maps that a pyramid is made of, finest first: strides 4 (full), 8, 16 and 32 as it has."""
    return _FPN_MAPS[name][0 if pyramid == "full" else 1 :]


def pyramid_strides(name: str, pyramid: Pyramid = "short") -> tuple[int, ...]:
    """Input pixels per cell of every level of a backbone's pyramid, the pooled one last."""
    strides = tuple(ARCHITECTURES[name].maps[feature_map].stride for feature_map in pyramid_maps(name, pyramid))
    return (*strides, 2 * strides[-1])


def fpn_backbone(
    settings: BackboneSettings, *, out_channels: int, trainable_layers: int, pyramid: Pyramid = "short"
) -> BackboneWithFPN:
    """A feature pyramid for torchvision's detectors: levels of stride 8, 16, 32 (vgg16: 8, 16) and a pooled one.

    A ``full`` pyramid has a level of stride 4 as well. ``trainable_layers`` counts stages from the deepest one (0 =
    only the pyramid trains); the frozen stages have their batch-norm folded into the convolutions, the others keep it
    frozen.
    """
    features = build_features(settings, dilate=False, maps=pyramid_maps(settings.name, pyramid), frozen=False)
    for module in features.body[: first_trained_module(settings.name, trainable_layers, len(features.body))]:
        fold_batch_norm(module).requires_grad_(False)
    return BackboneWithFPN(
        nn.Sequential(*features.body),
        return_layers={str(index): str(level) for level, index in enumerate(features.taps.values())},
        in_channels_list=[features.channels[name] for name in features.taps],
        out_channels=out_channels,
        extra_blocks=LastLevelMaxPool(),
    ).to(memory_format=torch.channels_last)


def first_trained_module(name: str, trainable_layers: int, num_modules: int) -> int:
    """Index of the first of a backbone's ``num_modules`` modules that trains, where its last stages do.

    Raises:
        UserError: it has fewer than ``trainable_layers`` stages.
    """
    stages = first_modules_of_stages(name)
    if not 0 <= trainable_layers <= len(stages):
        raise UserError(
            f"trainable_layers counts the stages of {name} that train, 0 to {len(stages)}, "
            f"but it is {trainable_layers}: choose one in that range."
        )
    return stages[len(stages) - trainable_layers] if trainable_layers else num_modules
