"""A photo as a backbone's normalised input."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from weaksam.models.backbones.features import normalise

_SHORTEST_INPUT = 32


def input_photo(image: np.ndarray, long_side: int) -> Tensor:
    """Normalised float input ``(1, 3, h, w)`` of a photo, uint8 ``(H, W, 3)``, resized to ``long_side``.

    The longer side is ``long_side`` pixels; the shorter at least 32, so that a stride-16 map has two cells.
    """
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    size = [max(_SHORTEST_INPUT, round(height * factor)), max(_SHORTEST_INPUT, round(width * factor))]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return normalise(TF.resize(pixels, size, antialias=True))[None]
