"""Say how a network wants its pixels: order, mean and deviation of the channels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from weaksam.config import Settings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, of 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of each, of 0..1."""

Channels = tuple[float, float, float]


def levels(channels: tuple[float, ...]) -> Channels:
    """Red, green and blue of 0..1 as levels of 0..255."""
    red, green, blue = (255 * value for value in channels)
    return red, green, blue


class ColourSettings(Settings):
    """Order, mean and deviation of the channels that a network sees; ``(level - mean) / deviation``, then the order."""

    order: Literal["rgb", "bgr"] = Field("rgb", description="order of the channels the network sees")
    mean: Channels = Field(levels(IMAGENET_MEAN), description="red, green, blue, 0..255, taken away")
    deviation: Channels = Field(levels(IMAGENET_STD), description="red, green, blue, 0..255, divided by")

    @field_validator("deviation")
    @classmethod
    def _above_zero(cls, value: Channels) -> Channels:
        if min(value) <= 0:
            raise ValueError("deviations must be above 0: use 1 to divide by nothing")
        return value


class ImageNetColours(ColourSettings):
    """Those of torchvision's weights: red first, ImageNet's mean and deviation."""

    kind: Literal["imagenet"] = "imagenet"


class CaffeColours(ColourSettings):
    """Those of Caffe's weights: blue first, levels of 0..255 less their mean."""

    kind: Literal["caffe"] = "caffe"
    order: Literal["rgb", "bgr"] = Field("bgr", description="order of the channels the network sees")
    mean: Channels = Field((122.77, 115.95, 102.98), description="red, green, blue, 0..255, taken away")
    deviation: Channels = Field((1.0, 1.0, 1.0), description="red, green, blue, 0..255, divided by")


class ColoursOfWeights(Settings):
    """Those that torchvision states for its weights, named so or in a file of that name; ImageNet's for any other."""

    kind: Literal["auto"] = "auto"


BackboneColours = ColoursOfWeights | ImageNetColours | CaffeColours
IMAGENET = ImageNetColours()
