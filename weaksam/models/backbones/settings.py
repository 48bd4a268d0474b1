"""Define the settings of the backbone: which network reads the photos, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from weaksam.config import Settings
from weaksam.models.backbones.colours import BackboneColours, ColoursOfWeights


class BackboneSettings(Settings):
    """Which network reads the photos, and where its weights come from."""

    name: Literal["mobilenet_v2", "resnet50", "vgg16", "sam_nano"] = "mobilenet_v2"
    """A torchvision classification network, or the image encoder of sam_nano (offline demonstrations only)."""
    weights: str = "imagenet"
    """Path of a state dict (.safetensors, .pth, or detectron2's R-50.pkl), ``imagenet`` (torchvision's first download;
    sam_nano: the bundled weights, which have seen rendered scenes only), another of torchvision's names
    (``IMAGENET1K_V2``, and for vgg16 ``IMAGENET1K_FEATURES``, Caffe's) or ``none``."""
    colours: BackboneColours = Field(
        ColoursOfWeights(),
        discriminator="kind",
        description="how pixels become this network's numbers, in every stage: imagenet, caffe (blue first, 0..255) or "
        "auto, what torchvision states for its weights and ImageNet's for any other file",
    )
    stride_in: Literal["auto", "1x1", "3x3"] = "auto"
    """Which convolution of resnet50's blocks holds the stride: ``3x3`` as in torchvision, ``1x1`` as in Caffe's and
    detectron2's; auto: 1x1 for MSRA's weights in a .pkl file, else 3x3."""
    weights_sha256: str | None = None
    """SHA-256 of the file that ``weights`` names, of the bytes that the run began with; set by the pipeline."""
    adapted: Path | None = None
    """Weights that the clue stage trained on the tags of this very backbone; set by the pipeline."""
