"""Keep a photo of extreme proportions at least one pixel wide in the input of a segmenter."""

from __future__ import annotations

import numpy as np
from PIL import Image


def widened(image: np.ndarray, side: int) -> np.ndarray:
    """A photo, uint8 ``(H, W, 3)``, that still has a pixel of width when its longer side becomes ``side`` pixels.

    A photo that would keep none (3000 x 1 in SAM's 1024) comes back as ``side`` x 1 pixels; any other is unchanged.
    """
    height, width = image.shape[:2]
    longer, shorter = max(height, width), min(height, width)
    if shorter * (side / longer) + 0.5 >= 1:  # as SAM rounds
        return image
    size = (side, 1) if width > height else (1, side)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))
