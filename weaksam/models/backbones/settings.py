"""Name the network that reads the photos, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from weaksam.config import Settings


class BackboneSettings(Settings):
    """Which network reads the photos, and where its weights come from."""

    name: Literal["mobilenet_v2", "resnet50", "vgg16", "sam_nano"] = "mobilenet_v2"
    """A torchvision classification network, or the image encoder of sam_nano (offline demonstrations only)."""
    weights: str = "imagenet"
    """Path of a state dict (.safetensors or .pth), ``imagenet`` (torchvision's first download; sam_nano: the bundled
    weights, which have seen rendered scenes only), another of torchvision's names (``IMAGENET1K_V2``, and for vgg16
    ``IMAGENET1K_FEATURES``, Caffe's) or ``none``."""
    adapted: Path | None = None
    """Weights that the clue stage trained on the tags of this very backbone; set by the pipeline."""
