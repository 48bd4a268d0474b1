"""Read four maps of a photo, of stride 4, 8, 16 and 32, with a backbone of the project or a network of transformers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from weaksam.models.backbones.architectures import first_modules_of_stages
from weaksam.models.backbones.batch_norm import freeze_batch_norm
from weaksam.models.backbones.fast_convolutions import fuse_convolutions
from weaksam.models.backbones.features import FeatureExtractor, build_features
from weaksam.models.backbones.settings import BackboneSettings

_MAPS = {
    "mobilenet_v2": ("c2", "c3", "c4", "last"),
    "resnet50": ("c2", "c3", "mid", "last"),
    "vgg16": ("c2", "c3", "last"),
    "sam_nano": ("c2", "c3", "last"),
}
SWIN: dict[str, dict[str, Any]] = {
    "swin_tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "swin_small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "swin_base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
    "swin_large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12},
}
"""Sizes of the Swin Transformers of Mask2Former's published instance segmenters."""
_DROP_PATH = 0.3
_STAGES = ["stage1", "stage2", "stage3", "stage4"]


class BackboneMaps(nn.Module):
    """A backbone of the project; where its deepest map has stride 16, every other cell of it is the fourth."""

    def __init__(self, features: FeatureExtractor) -> None:
        super().__init__()
        self.body = features.body
        self.taps = list(features.taps.values())
        channels = list(features.channels.values())
        self.channels = [*channels, channels[-1]][:4]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps ``(B, channels[i], h, w)``, finest first, of normalised images ``(B, 3, H, W)``."""
        maps: dict[int, Tensor] = {}  # by number of the module
        for number, module in enumerate(self.body):
            images = module(images)
            maps[number] = images
        levels = [maps[number] for number in self.taps]
        return levels if len(levels) == 4 else [*levels, F.max_pool2d(levels[-1], 1, stride=2)]


class TransformersMaps(nn.Module):
    """A backbone of transformers: Swin, or ResNet with frozen batch-norm."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = freeze_batch_norm(network)
        self.channels: list[int] = list(network.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps ``(B, channels[i], h, w)``, finest first, of normalised images ``(B, 3, H, W)``."""
        return list(self.network(images).feature_maps)


def backbone_maps(settings: BackboneSettings, trainable_layers: int) -> BackboneMaps:
    """The backbone that ``settings`` name, with its weights; ``trainable_layers`` of its stages train, deepest first.

    Batch-norm stays frozen everywhere.
    """
    features = build_features(settings, dilate=False, maps=_MAPS[settings.name], frozen=False)
    stages = first_modules_of_stages(settings.name)
    num_frozen = len(stages) - min(trainable_layers, len(stages))
    first_trained = stages[num_frozen] if num_frozen < len(stages) else len(features.body)
    for module in features.body[:first_trained]:
        module.requires_grad_(False)
    return fuse_convolutions(BackboneMaps(features))


def swin_maps(body: str, trainable_layers: int) -> TransformersMaps:
    """A Swin Transformer with random weights; with ``trainable_layers`` 0 it stays frozen."""
    transformers = import_module("transformers")
    config = transformers.SwinConfig(**SWIN[body], drop_path_rate=_DROP_PATH, out_features=_STAGES)
    return TransformersMaps(transformers.SwinBackbone(config)).requires_grad_(trainable_layers > 0)
