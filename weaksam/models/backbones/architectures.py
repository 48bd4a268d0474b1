"""List where each network is cut into stages and named feature maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class FeatureMap(NamedTuple):
    """Where a feature map is read, and its shape."""

    module: int
    """Index of the module that gives it."""
    channels: int
    """Its depth."""
    stride: int
    """Input pixels per cell."""
    dilated_stride: int
    """The same in a network whose last stride is removed."""


@dataclass(frozen=True)
class BackboneArchitecture:
    """Where one network is cut; modules are counted in the flat list that ``module_chain`` makes of it."""

    maps: dict[str, FeatureMap]
    """By name, in the order of their modules."""
    classifier: str
    """Prefix of the classifier's keys, allowed in a file and not used."""
    stages: tuple[int, ...]
    """First module of each stage, stem first: ``trainable_layers`` counts these from the end."""


# 'mid' and 'last' are the maps that a weak detector pools from.
ARCHITECTURES: dict[str, BackboneArchitecture] = {
    "mobilenet_v2": BackboneArchitecture(
        maps={
            "c2": FeatureMap(3, 24, 4, 4),
            "c3": FeatureMap(6, 32, 8, 8),
            "c4": FeatureMap(13, 96, 16, 16),
            "mid": FeatureMap(14, 576, 16, 16),  # the expansion inside features[14], before its stride
            "last": FeatureMap(18, 320, 32, 16),
            "head": FeatureMap(19, 1280, 32, 16),
        },
        classifier="classifier.",
        stages=(0, 2, 4, 7, 11, 14),
    ),
    "resnet50": BackboneArchitecture(
        maps={
            "c2": FeatureMap(4, 256, 4, 4),
            "c3": FeatureMap(5, 512, 8, 8),
            "mid": FeatureMap(6, 1024, 16, 16),
            "last": FeatureMap(7, 2048, 32, 16),
        },
        classifier="fc.",
        stages=(0, 4, 5, 6, 7),
    ),
    "vgg16": BackboneArchitecture(
        maps={
            "c2": FeatureMap(15, 256, 4, 4),
            "c3": FeatureMap(22, 512, 8, 8),
            "mid": FeatureMap(22, 512, 8, 8),
            "last": FeatureMap(29, 512, 16, 16),
        },
        classifier="classifier.",
        stages=(0, 5, 10, 17, 24),
    ),
    "sam_nano": BackboneArchitecture(
        maps={
            "c2": FeatureMap(0, 32, 4, 4),
            "c3": FeatureMap(1, 64, 8, 8),
            "mid": FeatureMap(2, 192, 16, 16),
            "last": FeatureMap(6, 192, 16, 16),
        },
        classifier="neck",
        stages=(0, 1, 2, 3),
    ),
}


def first_modules_of_stages(name: str) -> tuple[int, ...]:
    """Index of the first module of each stage of a backbone's ``body``, stem first."""
    return ARCHITECTURES[name].stages
