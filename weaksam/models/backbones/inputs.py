"""Resize and normalise a photo as a backbone's input."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, of 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of each, of 0..1."""

_SHORTEST_INPUT = 32


def normalise(images: Tensor) -> Tensor:
    """Subtract the ImageNet mean and divide by its deviation: ``(..., 3, H, W)`` RGB, uint8 0..255 or float 0..1."""
    if images.dtype == torch.uint8:
        images = images.float() / 255.0
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    deviation = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (images - mean) / deviation


def input_photo(image: np.ndarray, long_side: int) -> Tensor:
    """Normalised float input ``(1, 3, h, w)`` of a photo, uint8 ``(H, W, 3)``, resized to ``long_side``.

    The longer side is ``long_side`` pixels; the shorter at least 32, so that a stride-16 map has two cells.
    """
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    size = [max(_SHORTEST_INPUT, round(height * factor)), max(_SHORTEST_INPUT, round(width * factor))]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return normalise(TF.resize(pixels, size, antialias=True))[None]
